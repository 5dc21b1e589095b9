//! Whether the refreshes of the running sidecar are proven to match WordPress's, according to that
//! sidecar.

use std::time::Duration;

use serde::Deserialize;

use crate::config::{Config, Verify};
use crate::finding::{Area, Finding};
use crate::net::own_status::ask_status;
use crate::verify::view::ORIGIN_CHANGED;
use crate::verify::{View, ViewState};
use crate::wordpress::installation::Installation;

const ID: &str = "verify.state";

/// The time limit for the response of a sidecar on this machine.
pub const LIMIT: Duration = Duration::from_secs(8);

/// The relevant part of `/status.json`.
#[derive(Deserialize)]
struct Status {
    verification: Option<View>,
    site: Option<Site>,
    database: Option<Database>,
}

#[derive(Deserialize)]
struct Site {
    table_prefix: String,
}

#[derive(Deserialize)]
struct Database {
    address: String,
}

/// The findings of the sidecar at `admin.listen`; none if there is no sidecar, or one of another
/// site.
pub async fn look(config: &Config, installation: &Installation) -> Vec<Finding> {
    let mut findings: Vec<Finding> = mode(config.refresh.verify).into_iter().collect();
    if let Some(listen) = &config.admin.listen
        && let Ok(answer) = ask_status(listen).await
        && let Ok(status) = serde_json::from_slice::<Status>(&answer)
        && status.database.is_some_and(|database| database.address == installation.database_label)
        && status.site.is_some_and(|site| site.table_prefix == installation.table_prefix)
    {
        findings.extend(status.verification.as_ref().map(judge));
    }
    findings
}

/// A note if nothing is verified.
fn mode(verify: Verify) -> Option<Finding> {
    (verify == Verify::Off).then(|| {
        let what = "refresh.verify is \"off\": what the site's own code does at a refresh is neither compared nor looked for";
        let hint = "Remove it, or set \"auto\": refreshes are then native once they are proven, and WordPress's as soon as they differ.";
        Finding::ok(Area::Parity, "verify.mode", what).with_hint(hint)
    })
}

/// Pure.
fn judge(view: &View) -> Finding {
    let View { state, difference, fix, compared, .. } = view;
    let difference = difference.as_deref().unwrap_or_default();
    let fix = fix.clone().unwrap_or_default();
    let progress = view.progress().unwrap_or_default();
    match state {
        ViewState::Agrees if view.changed_origins().is_some() => {
            let what = view.changed_origins().unwrap_or_default();
            Finding::warning(Area::Parity, "verify.origin", what, ORIGIN_CHANGED)
        }
        ViewState::Agrees => {
            let what =
                format!("the running sidecar refreshes natively: {compared} responses of WordPress were compared");
            Finding::ok(Area::Parity, ID, what)
        }
        ViewState::Trusted => {
            Finding::ok(Area::Parity, ID, "the running sidecar refreshes natively, and verifies nothing")
        }
        ViewState::Unverified => {
            let what = format!("the running sidecar leaves refreshes to WordPress until they are proven: {progress}");
            Finding::ok(Area::Parity, ID, what).with_hint(fix)
        }
        ViewState::Differs => {
            let what = format!(
                "WordPress refreshes differently than the running sidecar would, and gets all refreshes: {difference}"
            );
            Finding::warning(Area::Parity, ID, what, fix)
        }
        ViewState::Closed => {
            let what =
                format!("the running sidecar leaves refreshes to WordPress, which closes its REST API: {difference}");
            Finding::warning(Area::Parity, ID, what, fix)
        }
    }
    .with_lines(lines(view))
}

fn lines(view: &View) -> impl Iterator<Item = String> {
    let origins = view.origin_lines().map(|origin| format!("origin {origin}"));
    explained(view).into_iter().chain(origins).chain(view.notes.iter().map(|note| format!("note: {note}")))
}

/// Explanations of a difference: lines to copy, and comments of the configuration.
fn explained(view: &View) -> Vec<String> {
    let Some(explanation) = &view.explanation else { return Vec::new() };
    let toml = explanation.toml.iter().flat_map(|toml| toml.lines()).filter(|line| !line.is_empty());
    let remarks = explanation.remarks().map(|remark| format!("# {remark}"));
    std::iter::once(format!("# {}", explanation.heading())).chain(toml.map(str::to_owned)).chain(remarks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;
    use crate::verify::difference::{Difference, Kind};
    use crate::verify::origins::{OriginState, OriginView};
    use crate::verify::verdict::{State, Verdict};

    fn origin() -> OriginView {
        OriginView {
            origin: "app://a".to_owned(),
            bearer: false,
            state: OriginState::Agrees,
            since_unix_seconds: 0,
            agreed: 3,
            needed: 3,
            difference: None,
        }
    }

    #[test]
    fn each_state_is_said_with_its_fix() {
        let mut verdict = Verdict::new(20, 0);
        let unverified = judge(&View::of(&verdict, None, true));
        assert_eq!(unverified.level, Level::Ok);
        assert!(unverified.what.contains("0 of 20") && unverified.fix.is_some(), "{unverified:?}");
        let trusted = judge(&View::of(&verdict, None, false));
        assert!(trusted.what.contains("verifies nothing"), "{trusted:?}");
        let closed = judge(&View::of(&verdict, None, true).closed("401 rest_forbidden".into(), 0));
        assert!(closed.level == Level::Warning && closed.what.contains("401 rest_forbidden"), "{closed:?}");
        verdict.differ(Difference::new(Kind::Claim, "claim +data.user.role (string)"), 0);
        let differs = judge(&View { notes: vec!["ip".into()], ..View::of(&verdict, None, true) });
        assert_eq!((differs.level, differs.fix.as_deref()), (Level::Warning, Some(Kind::Claim.fix())));
        assert!(differs.what.ends_with("claim +data.user.role (string)"), "{differs:?}");
        assert_eq!(differs.lines, ["note: ip"]);
        let mut verdict = Verdict::new(20, 0);
        verdict.state = State::Agrees;
        let agrees = View { origins: vec![origin()], ..View::of(&verdict, None, true) };
        let found = judge(&agrees);
        assert_eq!((found.level, found.lines), (Level::Ok, vec!["origin app://a: native".to_owned()]));
        let difference = Some("header +access-control-max-age".to_owned());
        let changed = OriginView { state: OriginState::Differs, bearer: true, difference, ..origin() };
        let found = judge(&View { origins: vec![origin(), changed], ..agrees });
        let what = "WordPress answers origins of apps differently than before, and gets their refreshes: app://a with Bearer (header \
                    +access-control-max-age)";
        assert_eq!((found.level, &*found.what, found.fix.as_deref()), (Level::Warning, what, Some(ORIGIN_CHANGED)));
        assert_eq!((mode(Verify::Auto), mode(Verify::Off).map(|note| note.level)), (None, Some(Level::Ok)));
    }
}
