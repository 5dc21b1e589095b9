//! A running comparison and its result.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tracing::info;

use super::explain::{self, Explanation, Sample};
use super::known;
use super::origins::{News, Seen};
use super::verdict::Observation;
use super::{Verification, unix_now};

/// A permit for one comparison. Dropped, it has no result.
pub struct Ticket {
    verification: Arc<Verification>,
    epoch: String,
    _place: OwnedSemaphorePermit,
}

impl Verification {
    pub(super) fn ticket(self: &Arc<Self>) -> Option<Ticket> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let epoch = self.known().verdict.epoch.clone();
        Some(Ticket { verification: Arc::clone(self), epoch, _place: place })
    }
}

impl Ticket {
    /// Takes the result. It counts only if the site is still the one that was compared.
    pub fn observed(self, observed: Observation) {
        let Verification { counts, next, .. } = &*self.verification;
        if let (Observation::Differs(difference), Some(next)) = (&observed, next.get()) {
            next.change(|known| known.verdict.differ(difference.clone(), unix_now()));
        }
        self.verification.change(|known| {
            if known.verdict.epoch != self.epoch {
                counts.void();
                return false;
            }
            counts.observed(&observed);
            known.count_voids(&observed);
            known.verdict.observe(observed, unix_now())
        });
    }

    /// The fields of an otherwise expected response to an app, before the comparison's result is
    /// [known](Ticket::observed).
    pub fn seen(&self, seen: &Seen) {
        let Verification { origins, counts, next, .. } = &*self.verification;
        // Locked, so that nothing forgotten meanwhile comes back.
        let known = self.verification.known();
        if known.verdict.epoch != self.epoch {
            return;
        }
        let (enough, now) = (known.verdict.further(), unix_now());
        if let Some(next) = next.get() {
            next.origins.observe(seen, enough, now);
        }
        let news = origins.observe(seen, enough, now);
        drop(known);
        if matches!(news, Some(News::Differs(_))) {
            counts.origin_differs();
        }
        if let Some(news) = news {
            known::tell_of_origin(seen, &news);
        }
    }

    /// The deviations of the response, before the comparison's result is [known](Ticket::observed).
    /// An explanation is logged once.
    pub fn sampled(&self, sample: Sample) {
        let now = unix_now();
        let mut known = self.verification.known();
        let is_ours = known.verdict.epoch == self.epoch;
        let Some(samples) = is_ours.then(|| known.explaining.add(sample, now)).flatten() else { return };
        // Each call takes the lock.
        drop(known);
        let found = explain::search(&samples, now);
        if let Some(explanation) = self.verification.known().explaining.found(&samples, found) {
            tell(explanation);
        }
    }

    pub fn verification(&self) -> &Arc<Verification> {
        &self.verification
    }
}

fn tell(explanation: &Explanation) {
    let users = explanation.users;
    match &explanation.toml {
        Some(_) if explanation.is_complete => info!(
            users,
            "the differences in WordPress's responses can be declared: `wp-jwt-sidecar verify` prints what to put into the configuration"
        ),
        _ => info!(
            users,
            "no configuration is known that would explain all differences in WordPress's responses: `wp-jwt-sidecar verify` says what"
        ),
    }
}
