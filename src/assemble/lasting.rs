//! What survives a reload: counters, rate limits, the verification.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::{self, Verify};
use crate::metrics::Metrics;
use crate::refresh::blogs::{Tallies, Verdicts};
use crate::refresh::counters::Counters;
use crate::refresh::rate_limit::RateLimiter;
use crate::refresh::recent::Recent;
use crate::shared_store;
use crate::verify::kept::Kept;
use crate::verify::{Rules, Verification};

/// What a reload keeps.
#[derive(Clone)]
pub struct Lasting {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) refreshes: Arc<Counters>,
    pub(super) rate_limiter: RateLimiter,
    /// What is counted of the store that sidecars share.
    pub(super) store: Arc<shared_store::Counts>,
    /// For the network's further sites.
    pub(super) verdicts: Arc<Verdicts>,
    pub(super) tallies: Arc<Tallies>,
    recent: Arc<Mutex<Option<Arc<Recent>>>>,
    verification: Arc<Mutex<Option<Verified>>>,
}

/// The verification, its rules, and the file that keeps it.
struct Verified {
    rules: Rules,
    verification: Arc<Verification>,
    kept: Option<Arc<Kept>>,
}

impl Lasting {
    pub(super) fn new() -> Self {
        Lasting {
            metrics: Metrics::new(),
            refreshes: Arc::default(),
            rate_limiter: RateLimiter::new(),
            store: Arc::default(),
            verdicts: Arc::default(),
            tallies: Arc::default(),
            recent: Arc::default(),
            verification: Arc::default(),
        }
    }

    /// The verification so far, by `rules` from now on. The first one continues from what `file`
    /// holds.
    pub(super) fn verification(
        &self,
        rules: Rules,
        file: Option<(PathBuf, String)>,
    ) -> (Arc<Verification>, Option<Arc<Kept>>) {
        let mut all = self.verification.lock().unwrap_or_else(PoisonError::into_inner);
        let is_on = rules.verify != Verify::Off;
        let known = all.as_ref().and_then(|before| before.kept.clone());
        let kept = file.filter(|_| is_on).map(|(directory, name)| match known {
            Some(known) if known.file() == directory.join(&name) => known,
            _ => Kept::new(&directory, &name),
        });
        let read = || kept.as_ref().and_then(|kept| kept.read());
        let verification = match &*all {
            Some(before) if before.rules == rules => Arc::clone(&before.verification),
            Some(before) if before.verification.is_on() => Verification::following(&before.verification, rules),
            // Nothing has observed the site in the meantime.
            Some(before) => Verification::new(rules, read().or_else(|| Some(before.verification.verdict()))),
            None => Verification::new(rules, read()),
        };
        verification.keep_in(kept.clone());
        *all = Some(Verified { rules, verification: Arc::clone(&verification), kept: kept.clone() });
        (verification, kept)
    }

    /// Called when a reload has succeeded.
    pub(crate) fn reloaded(&self) {
        self.verdicts.reloaded();
        if let Some(verified) = &*self.verification.lock().unwrap_or_else(PoisonError::into_inner) {
            verified.verification.reloaded();
        }
    }

    /// The access tokens of the last rotations: those of before the reload, unless the interval has
    /// changed. `None` if it is zero.
    pub(super) fn recent(&self, interval: Duration) -> Option<Arc<Recent>> {
        // The table is replaced as a whole.
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.as_ref().is_none_or(|recent| recent.interval() != interval) {
            *recent = (!interval.is_zero()).then(|| Arc::new(Recent::new(interval)));
        }
        recent.clone()
    }
}

/// The configured rules of the verification.
pub(super) fn rules(refresh: &config::Refresh) -> Rules {
    let counted = |number| u32::try_from(number).unwrap_or(u32::MAX);
    Rules { verify: refresh.verify, first: counted(refresh.verify_first), every: counted(refresh.verify_every) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::difference::{Difference, Kind};
    use crate::verify::verdict::{Class, Observation};
    use crate::verify::{Gate, ViewState};

    const RULES: Rules = Rules { verify: Verify::Auto, first: 1, every: 1_000 };

    fn difference() -> Difference {
        Difference::new(Kind::Body, "body +roles (array of string)")
    }

    #[test]
    fn a_reload_verifies_again_what_differed_and_no_other() {
        let lasting = Lasting::new();
        let (verification, kept) = lasting.verification(RULES, None);
        assert!(kept.is_none());
        verification.scanned(None);
        verification.differs(difference());
        let (same, _) = lasting.verification(RULES, None);
        assert!(Arc::ptr_eq(&verification, &same));
        assert_eq!(same.view().state, ViewState::Differs);
        lasting.reloaded();
        assert_eq!(same.view().state, ViewState::Unverified);

        let Gate::Left(_, Some(ticket)) = same.gate(Class::Plain, 0) else { panic!("no place") };
        ticket.observed(Observation::Agrees { class: Class::Plain, user: Some(1) });
        assert_eq!(same.view().state, ViewState::Agrees);
        lasting.reloaded();
        assert_eq!(same.view().state, ViewState::Agrees);
        // Under other rules it keeps the verdict and the counts.
        let (other, _) = lasting.verification(Rules { every: 10, ..RULES }, None);
        assert_eq!((other.view().state, other.view().compared), (ViewState::Agrees, 1));
        assert!(verification.is_replaced() && !other.is_replaced());
        assert_eq!(other.counts().table().map(|(.., value)| value).sum::<u64>(), 2);
        let (more, _) = lasting.verification(Rules { first: 5, ..RULES }, None);
        assert_eq!(more.view().state, ViewState::Agrees);
    }

    #[test]
    fn what_was_not_verified_meanwhile_is_verified_again() {
        let (lasting, off) = (Lasting::new(), Rules { verify: Verify::Off, ..RULES });
        let directory = tempfile::tempdir().unwrap();
        let file = || Some((directory.path().to_owned(), "verification-1.json".to_owned()));
        let (verification, kept) = lasting.verification(RULES, file());
        assert_eq!(kept.unwrap().file(), directory.path().join("verification-1.json"));
        let Gate::Left(_, Some(ticket)) = verification.gate(Class::Plain, 0) else { panic!("no place") };
        ticket.observed(Observation::Agrees { class: Class::Plain, user: Some(1) });
        let (trusted, kept) = lasting.verification(off, file());
        assert_eq!((trusted.view().state, kept.is_some()), (ViewState::Trusted, false));
        let (again, _) = lasting.verification(RULES, file());
        assert_eq!((again.view().state, again.view().agreed), (ViewState::Unverified, 0));
    }

    #[test]
    fn a_reload_forgets_no_access_token_of_the_interval() {
        let lasting = Lasting::new();
        let interval = Duration::from_secs(10);
        let kept = lasting.recent(interval).unwrap();
        kept.put("family", "token");
        assert!(Arc::ptr_eq(&kept, &lasting.clone().recent(interval).unwrap()));
        let other = lasting.recent(interval * 2).unwrap();
        assert!(other.find("family", |_| true).is_none());
        assert!(lasting.recent(Duration::ZERO).is_none() && lasting.recent(Duration::ZERO).is_none());
    }
}
