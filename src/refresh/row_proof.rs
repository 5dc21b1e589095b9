//! Proves that a row's access token is what the plugin alone would have made: its claims follow
//! from the row and the site, and the row's `hash` is that of the token.
//!
//! If it is not, the site's own code affects it (filters of claims, issuer, algorithm, key or
//! salt), and a native rotation would leave that out. The proof takes place under the row's lock,
//! before anything is written, and once per row: rows that this process has written are proved.

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use super::plan::Plan;
use super::store::LockedRow;
use crate::declared::Values;
use crate::verify::difference::{Difference, Kind};
use crate::wordpress::access_token::{ClaimsInput, Proof};
use crate::wordpress::home::Home;

/// How far PHP's clock and this machine's may differ unnoticed, plus how long a PHP process keeps
/// the settings that it began with: a row may seem younger than a change of the site by so much.
const BLUR: Duration = Duration::from_secs(5);

/// Whether the locked `row` may be exchanged according to `plan`. `values` are those declared for
/// its user.
///
/// # Errors
/// Why the call is left to WordPress. If the reason concerns the whole site, the verification has
/// been informed.
pub fn prove(plan: &Plan, row: &LockedRow, values: &Values) -> Result<(), String> {
    // A slow signature is not made for each rotation: the row watch proves such rows.
    if !plan.verification.is_on() || !plan.site.signer.is_quick() {
        return Ok(());
    }
    match proof(plan, row, values) {
        Proof::Ours | Proof::Plain | Proof::Unknown => Ok(()),
        // The user's role or name may have been different when it was written.
        Proof::Foreign if plan.site.declared.claims_vary() => Ok(()),
        Proof::Foreign if is_of_another_epoch(plan, row) => Ok(()),
        Proof::Foreign if plan.sites.home_may_depend_on_host(&plan.site) => {
            Err("the token may have been issued on a host that WordPress was not asked about".to_owned())
        }
        // The verdict has just changed, perhaps because the site has: then the row says nothing
        // about the current site.
        Proof::Foreign if plan.verification.agrees_since().is_none() => Err(plan.verification.why()),
        Proof::Foreign => {
            plan.verification.differs(other_claims(row.id));
            Err(plan.verification.why())
        }
    }
}

const OTHER_CLAIMS: &str = "WordPress signs other claims than the sidecar";

/// The difference of a row whose hash is that of another token.
pub fn other_claims(row: u64) -> Difference {
    Difference::new(Kind::Claim, format!("{OTHER_CLAIMS} (row {row})"))
}

/// Whether nothing else is known of the difference.
pub fn is_other_claims(difference: &Difference) -> bool {
    difference.kind == Kind::Claim && difference.what.starts_with(OTHER_CLAIMS)
}

/// The home URLs of `homes`, each with both schemes: the web server decides which one PHP sees.
pub fn issuers(homes: impl IntoIterator<Item = Arc<Home>>) -> impl Iterator<Item = String> {
    homes.into_iter().flat_map(|home| {
        let other = by_other_scheme(&home.url);
        iter::once(home.url.clone()).chain(other)
    })
}

/// The issue time from which rows count as of the epoch that began at `epoch_since`, with clocks
/// that differ by `apart`. Pure.
pub fn counts_from(epoch_since: u64, apart: Duration) -> u64 {
    epoch_since.saturating_add((BLUR + apart).as_secs())
}

fn proof(plan: &Plan, row: &LockedRow, values: &Values) -> Proof {
    let (Some(issued_at), Some(expires_at), Ok(hash)) = (row.issued_at, row.expires_at, str::from_utf8(&row.hash))
    else {
        return Proof::Foreign;
    };
    // As in the row: the column may compare without regard to case.
    let stored = row.token.as_deref().and_then(|token| str::from_utf8(token).ok());
    let refresh_token = stored.unwrap_or(&plan.token);
    let declared = &values.claims;
    let claims = ClaimsInput { iss: "", issued_at, expires_at, user_id: row.user_id, refresh_token, declared };
    // Nearly always it is the first. The others are looked up only if it is not.
    let others = iter::once_with(|| plan.issuers()).flatten().skip(1);
    let issuers = issuers(iter::once(Arc::clone(&plan.home)).chain(others));
    plan.site.signer.prove(&claims, issuers, hash, &plan.site.auth_salt)
}

/// A row that was written before the site changed, which has agreed since. It is rotated by the
/// current settings.
fn is_of_another_epoch(plan: &Plan, row: &LockedRow) -> bool {
    let apart = plan.sites.clocks_apart().map_or(Duration::ZERO, |apart| apart.by);
    let since = plan.verification.agrees_since();
    since.zip(row.issued_at).is_some_and(|(since, issued_at)| issued_at < counts_from(since, apart))
}

fn by_other_scheme(url: &str) -> Option<String> {
    match url.strip_prefix("http://") {
        Some(rest) => Some(format!("https://{rest}")),
        None => url.strip_prefix("https://").map(|rest| format!("http://{rest}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Permalinks;

    #[test]
    fn each_home_is_an_issuer_by_both_schemes() {
        let home = |url: &str| Arc::new(Home::new(url.to_owned(), true, Permalinks::Pretty));
        let all: Vec<String> = issuers([home("http://shop.example/a"), home("https://b.example"), home("b")]).collect();
        assert_eq!(
            all,
            ["http://shop.example/a", "https://shop.example/a", "https://b.example", "http://b.example", "b"]
        );
    }

    #[test]
    fn what_is_issued_about_when_the_site_changed_does_not_count() {
        assert_eq!(counts_from(1_000, Duration::ZERO), 1_005);
        assert_eq!(counts_from(1_000, Duration::from_secs(30)), 1_035);
        assert_eq!(counts_from(u64::MAX, BLUR), u64::MAX);
    }
}
