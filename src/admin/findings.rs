//! What an operator should check, as far as the running program can see it, each finding with its
//! fix.

use std::time::Duration;

use super::InForce;
use super::page::units::{count, span};
use super::status::{Certificate, Dependency, Refused, Status, Store};
use crate::doctor::running::{self, CERTIFICATE_ENDED};
use crate::doctor::store::{AWAY as STORE_AWAY, FIX as STORE_FIX};
use crate::finding::{Area, Finding};
use crate::refresh::standing::Obstacle;
use crate::verify::view::ORIGIN_CHANGED;
use crate::verify::{View, ViewState};
use crate::wordpress::database::NodeView;

/// A certificate that expires sooner should have been renewed: Let's Encrypt's clients do that 30
/// days before the end.
const CERTIFICATE_LEFT: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The doctor reports it too, without the reason.
const DATABASE_AWAY: &str = "database.reachable";

/// A site with refreshes is verified within minutes.
const UNVERIFIED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The percentage of allowed open files above which there is little room for a burst.
const MANY_FILES_PERCENT: u64 = 80;

/// All findings, the worst first.
pub fn of(in_force: &InForce, status: &Status) -> Vec<Finding> {
    let sites = in_force.refresher.as_ref().map(|refresher| &*refresher.sites);
    let known = running::findings(&in_force.config, sites).into_iter();
    let pairs = in_force.tls.iter().flat_map(|tls| running::certificates(tls));
    // An expired certificate is already reported.
    let pairs = pairs.filter(|finding| finding.id != CERTIFICATE_ENDED);
    let pairs = pairs.map(|finding| Finding { area: Area::Tls, ..finding });
    let refused = in_force.refresher.as_ref().and_then(|refresher| refresher.standing.obstacle());
    let mut findings: Vec<Finding> = dependencies(status)
        .chain(refused.as_ref().map(refused_rotations))
        .chain(
            in_force.refresher.as_ref().and_then(|refresher| refresher.store.database.node_view()).and_then(unsynced),
        )
        .chain(status.verification.as_ref().and_then(|view| unproven(view, status)))
        .chain(status.certificates.iter().filter_map(certificate))
        .chain(pairs)
        .chain(errors(&status.refusals))
        .chain(open_files(status))
        .chain(lost_analytics(status))
        .chain(status.store.as_ref().and_then(store))
        // The database's failure is already reported, with the reason.
        .chain(known.filter(|finding| finding.id != DATABASE_AWAY))
        .collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    findings
}

fn dependencies(status: &Status) -> impl Iterator<Item = Finding> {
    let database = status.database.as_ref().and_then(current_trouble).map(|error| {
        let fix = "Refreshes are left to WordPress meanwhile. Is the server up, and are address, user and password correct? \
                    `wp-jwt-sidecar doctor` tries them.";
        Finding::problem(Area::Database, DATABASE_AWAY, format!("The database cannot be read: {error}"), fix)
    });
    let upstream = current_trouble(&status.upstream).map(|error| {
        let fix = "Clients get a 502 until it can. Is it up, and does it listen where upstream.url says?";
        let what = format!("The site's web server cannot be reached: {error}");
        Finding::problem(Area::Upstream, "upstream.reachable", what, fix)
    });
    database.into_iter().chain(upstream)
}

fn refused_rotations(obstacle: &Obstacle) -> Finding {
    Finding::problem(Area::Database, "database.refuses", obstacle.to_string(), obstacle.refused.fix())
}

fn unsynced(node: NodeView) -> Option<Finding> {
    let what = format!("The node of the cluster that is used is not in step: {node}.");
    let fix = "What does its error log say, and is a backup or a transfer to a node that joins under way? Further hosts in \
               wordpress.database_hosts are used before it.";
    (!node.is_synced).then(|| Finding::warning(Area::Database, "database.node", what, fix))
}

/// A site or an app's origin that differs; or a site that gets refreshes and has not been verified
/// for a day.
fn unproven(view: &View, status: &Status) -> Option<Finding> {
    let fix = view.fix.clone().unwrap_or_default();
    let difference = view.difference.as_deref().unwrap_or_default();
    match view.state {
        ViewState::Differs => {
            let what =
                format!("WordPress refreshes differently than the sidecar would, and gets all refreshes: {difference}");
            Some(Finding::warning(Area::Parity, "verify.differs", what, fix))
        }
        ViewState::Unverified => {
            let since = Duration::from_secs(status.program.now_unix_seconds.saturating_sub(view.since_unix_seconds));
            let left = status.site.as_ref().is_some_and(|site| site.left_unverified > 0);
            (left && since >= UNVERIFIED_FOR).then(|| {
                let what = format!(
                    "WordPress has the refreshes for {}, since {} of the {} that are needed of its answers were what the sidecar \
                     would have given.",
                    span(since),
                    view.agreed,
                    view.needed
                );
                let fix = "Do refreshes come in, and of three users? refreshes_left_total and verify_total in /metrics tell; \
                           refresh.verify_first may be lower.";
                Finding::warning(Area::Parity, "verify.unverified", what, fix)
            })
        }
        ViewState::Agrees => {
            let what = view.changed_origins()?;
            Some(Finding::warning(Area::Parity, "verify.origin", what, ORIGIN_CHANGED))
        }
        ViewState::Closed | ViewState::Trusted => None,
    }
}

fn certificate(certificate: &Certificate) -> Option<Finding> {
    let left = Duration::from_secs(certificate.left_seconds);
    let name = &certificate.name;
    let fix = "Renew it; new files take effect within seconds, without a restart.";
    match left {
        Duration::ZERO => {
            let what = format!("The certificate of {name} is no longer valid: browsers refuse it.");
            Some(Finding::problem(Area::Tls, CERTIFICATE_ENDED, what, fix))
        }
        left if left < CERTIFICATE_LEFT => {
            let what = format!("The certificate of {name} ends in {}.", span(left));
            Some(Finding::warning(Area::Tls, "certificates.ends", what, fix))
        }
        _ => None,
    }
}

fn errors(refusals: &[Refused]) -> Option<Finding> {
    let failed = refusals
        .iter()
        .filter(|refused| refused.last_hour > 0 && refused.status.is_some_and(|status| status.starts_with('5')));
    let each: Vec<String> =
        failed.map(|refused| format!("{} × {}", refused.last_hour, refused.reason.replace('_', " "))).collect();
    let what = format!("In the last hour the sidecar itself answered with errors: {}.", each.join(", "));
    (!each.is_empty()).then(|| {
        Finding::warning(
            Area::Requests,
            "requests.errors",
            what,
            "The log says why, with the id that the error page shows.",
        )
    })
}

fn open_files(status: &Status) -> Option<Finding> {
    let (open, limit) = status.process.open_files.zip(status.process.max_open_files)?;
    (open * 100 > limit * MANY_FILES_PERCENT).then(|| {
        let fix = "Raise the limit (LimitNOFILE in the unit), or lower server.max_connections.";
        Finding::warning(
            Area::Process,
            "process.open_files",
            format!("{open} of {limit} files and sockets are open."),
            fix,
        )
    })
}

fn lost_analytics(status: &Status) -> Option<Finding> {
    let lost = status.site.as_ref().map(|site| site.lost_analytics).filter(|lost| *lost > 0)?;
    let fix = "Refreshes are not touched by that. The log says why; `refresh.analytics = false` writes none.";
    let what = format!("{} rows of the plugin's analytics could not be written since the start.", count(lost));
    Some(Finding::warning(Area::Analytics, "analytics.lost", what, fix))
}

fn store(store: &Store) -> Option<Finding> {
    let trouble = store.trouble.as_ref()?;
    let what = format!(
        "{} cannot be used: {trouble}. Each sidecar counts refreshes on its own until it returns.",
        store.address
    );
    Some(Finding::warning(Area::Store, STORE_AWAY, what, STORE_FIX))
}

fn current_trouble(dependency: &Dependency) -> Option<&str> {
    dependency.trouble.as_ref().filter(|trouble| trouble.current).map(|trouble| trouble.error.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    fn of_days(days: u64) -> Option<(Level, String)> {
        let left_seconds = days * 86_400;
        let one = Certificate {
            name: "shop.example".into(),
            kind: "ECDSA P-256".into(),
            begins_unix_seconds: 0,
            ends_unix_seconds: left_seconds,
            left_seconds,
        };
        certificate(&one).map(|finding| (finding.level, finding.what))
    }

    #[test]
    fn certificates_that_end_soon_are_told() {
        assert_eq!(of_days(14), None);
        assert_eq!(of_days(13), Some((Level::Warning, "The certificate of shop.example ends in 13 d 0 h.".into())));
        assert_eq!(of_days(0).map(|(level, _)| level), Some(Level::Problem));
    }

    #[test]
    fn errors_of_the_last_hour_are_told_and_no_others() {
        let refused = |reason, status, last_hour| Refused { what: "request", reason, status, last_hour, total: 9 };
        let quiet = [refused("client_closed", Some("499"), 5), refused("upstream_timeout", Some("504"), 0)];
        assert_eq!(errors(&quiet), None);
        let finding = errors(&[refused("upstream_timeout", Some("504"), 2), refused("not_tls", None, 3)]).unwrap();
        assert!(finding.what.ends_with("with errors: 2 × upstream timeout."), "{}", finding.what);
    }
}
