//! Everything known of one site: the verdict, untrusted code, and notes that decide nothing; and
//! the log lines about them.

use std::sync::Arc;

use tracing::{info, warn};

use super::difference::{Difference, Kind};
use super::explain::Explaining;
use super::kept::Kept;
use super::origins::{News, Seen};
use super::verdict::{Observation, State, Verdict};
use super::view::ORIGIN_CHANGED;

/// The number of consecutive comparisons without a result after which it is logged.
const MANY_VOIDS: u32 = 20;

/// The state of a verification.
pub(super) struct Known {
    pub verdict: Verdict,
    /// Code on a hook that refuses or acts, and that the operator has not trusted.
    pub hook: Option<Difference>,
    /// Unix seconds at which it was found, or was gone.
    pub hook_since: u64,
    /// Whether the files of this epoch have been scanned.
    pub is_scanned: bool,
    /// How WordPress refuses its REST API, and since when in Unix seconds.
    pub closed: Option<(String, u64)>,
    /// Consecutive comparisons without a result.
    pub voids: u32,
    /// Differences that decide nothing: as text, each once.
    pub notes: Vec<String>,
    /// The search for an explanation of the difference. SECURITY: it contains values of users,
    /// which must not outlive it.
    pub explaining: Explaining,
    /// Where the verdict is kept across restarts.
    pub kept: Option<Arc<Kept>>,
    /// The site of a network for log lines; `None` for the first, and on a single site.
    pub site: Option<Arc<str>>,
}

impl Known {
    /// Whether the files were scanned, without untrusted code that may refuse or act.
    pub fn is_clear(&self) -> bool {
        self.is_scanned && self.hook.is_none()
    }

    pub fn new(verdict: Verdict) -> Self {
        Known {
            verdict,
            hook: None,
            hook_since: 0,
            is_scanned: false,
            closed: None,
            voids: 0,
            notes: Vec::new(),
            explaining: Explaining::default(),
            kept: None,
            site: None,
        }
    }

    /// Logs once that comparisons never have a result.
    pub fn count_voids(&mut self, observed: &Observation) {
        self.voids = if *observed == Observation::Void { self.voids.saturating_add(1) } else { 0 };
        if self.voids == MANY_VOIDS && self.verdict.state != State::Agrees {
            warn!(
                site = self.site.as_deref(),
                comparisons = self.voids,
                "WordPress's answers to refreshes cannot be compared, so that it keeps them: errors, pages, or answers that \
                 are compressed or too long"
            );
        }
    }

    /// Whether refreshes are native now.
    pub fn is_native(&self) -> bool {
        self.is_clear() && self.verdict.state == State::Agrees
    }

    pub fn difference(&self) -> Option<&Difference> {
        match (&self.hook, &self.verdict.state) {
            (Some(hook), _) => Some(hook),
            (None, State::Differs(difference)) => Some(difference),
            _ => None,
        }
    }

    pub fn why(&self) -> String {
        match self.difference() {
            Some(Difference { kind: Kind::Hook, what }) => format!("code of the site's own may refuse or act: {what}"),
            Some(difference) => format!("WordPress's work differs: {difference}"),
            None if self.is_native() => {
                "too few responses of WordPress to requests of this kind agree so far".to_owned()
            }
            None if self.verdict.state == State::Agrees => "the site's files are still to be read".to_owned(),
            None => {
                let Verdict { agreed, needed, .. } = &self.verdict;
                format!("it is not verified yet: {agreed} of {needed} responses of WordPress agree")
            }
        }
    }

    pub fn tell(&self) {
        let site = self.site.as_deref();
        match (self.difference(), &self.verdict.state) {
            (Some(difference), _) => warn!(
                site,
                kind = difference.kind.name(),
                fix = difference.kind.fix(),
                "WordPress refreshes differently than the sidecar would, and gets all refreshes: {difference}"
            ),
            (None, State::Agrees) if !self.is_scanned => {
                info!(site, "WordPress's refreshes agree with the sidecar's; the site's files are still to be read");
            }
            (None, State::Agrees) => {
                info!(
                    site,
                    compared = self.verdict.compared,
                    "WordPress's refreshes agree with the sidecar's: refreshing natively"
                );
            }
            (None, _) => info!(site, "verifying: WordPress gets the refreshes, and its answers are compared"),
        }
    }
}

/// Logs the news about an app's origin.
pub(super) fn tell_of_origin(seen: &Seen, news: &News) {
    let Seen { origin, has_bearer: bearer, .. } = seen;
    match news {
        News::Agrees => info!(
            origin,
            bearer, "WordPress's answers to an app's origin agree: its refreshes are native with the site's"
        ),
        News::Differs(what) => warn!(
            origin,
            bearer,
            fix = ORIGIN_CHANGED,
            "WordPress answers an app's origin differently than before, and gets its refreshes: {what}"
        ),
    }
}
