//! Keeps the counts of the last hour in memory, read every few seconds, so that the page can show
//! current rates.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::{Distribution, Event, Metrics, Timing};
use crate::refresh::counters::Counters;

/// The time between two readings.
pub const STEP: Duration = Duration::from_secs(15);

/// How many steps are kept: an hour. A reading takes about 1 KiB.
pub const STEPS: usize = 240;

/// A rate over a shorter time is random.
const SHORTEST: Duration = Duration::from_secs(5);

/// The counts at one moment.
#[derive(Debug, Clone)]
pub struct Reading {
    at: Instant,
    events: [u64; Event::ALL.len()],
    refusals: [u64; Refusal::ALL.len()],
    timings: [Distribution; Timing::ALL.len()],
    transactions: Distribution,
}

/// Why a refresh was refused, in the order of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The token is in no row.
    Unknown,
    /// The token is used or revoked, and was not replayed.
    Used,
    Expired,
    UserGone,
    /// There is no token, or an invalid one.
    Invalid,
    /// The plugin's rate limit.
    RateLimited,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Refusal; 6] =
        [Refusal::Unknown, Refusal::Used, Refusal::Expired, Refusal::UserGone, Refusal::Invalid, Refusal::RateLimited];

    pub fn name(self) -> &'static str {
        match self {
            Refusal::Unknown => "unknown_token",
            Refusal::Used => "used_token",
            Refusal::Expired => "expired_token",
            Refusal::UserGone => "user_not_found",
            Refusal::Invalid => "invalid_request",
            Refusal::RateLimited => "rate_limit",
        }
    }

    pub fn status(self) -> &'static str {
        match self {
            Refusal::Unknown | Refusal::Used | Refusal::Expired | Refusal::UserGone => "403",
            Refusal::Invalid => "400",
            Refusal::RateLimited => "429",
        }
    }
}

impl Reading {
    pub fn take(metrics: &Metrics, refresh: &Counters, at: Instant) -> Self {
        Reading {
            at,
            events: std::array::from_fn(|place| Event::ALL.get(place).map_or(0, |event| metrics.count(*event))),
            transactions: refresh.transactions.read(),
            refusals: Refusal::ALL.map(|refusal| match refusal {
                Refusal::Unknown => refresh.unknown.value(),
                Refusal::Used => refresh.used.value(),
                Refusal::Expired => refresh.expired.value(),
                Refusal::UserGone => refresh.user_not_found.value(),
                Refusal::Invalid => refresh.invalid.value(),
                Refusal::RateLimited => refresh.rate_limited.value(),
            }),
            timings: std::array::from_fn(|place| {
                Timing::ALL.get(place).map_or_else(Distribution::default, |timing| metrics.timing(*timing))
            }),
        }
    }

    /// The sum of these counts.
    pub fn count(&self, events: &[Event]) -> u64 {
        events.iter().filter_map(|event| self.events.get(*event as usize)).sum()
    }

    /// How many refreshes were refused for this reason.
    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.refusals.get(refusal as usize).copied().unwrap_or_default()
    }

    /// The durations since `earlier`.
    pub fn timing_since(&self, earlier: &Reading, timing: Timing) -> Distribution {
        match (self.timings.get(timing as usize), earlier.timings.get(timing as usize)) {
            (Some(now), Some(then)) => now.since(then),
            _ => Distribution::default(),
        }
    }

    /// The durations of groups' transactions in the database since `earlier`.
    pub fn transactions_since(&self, earlier: &Reading) -> Distribution {
        self.transactions.since(&earlier.transactions)
    }

    /// The time between the two.
    pub fn after(&self, earlier: &Reading) -> Duration {
        self.at.saturating_duration_since(earlier.at)
    }

    /// The rate per second of these events since `earlier`.
    pub fn rate_since(&self, earlier: &Reading, events: &[Event]) -> Option<f64> {
        let seconds = self.after(earlier).as_secs_f64();
        let happened = self.count(events).saturating_sub(earlier.count(events));
        (seconds > 0.0).then(|| happened as f64 / seconds)
    }
}

/// The readings of the last hour, the oldest first.
#[derive(Debug, Default)]
pub struct History(Mutex<VecDeque<Reading>>);

impl History {
    /// Adds a reading, and drops the oldest.
    pub fn push(&self, reading: Reading) {
        let mut readings = self.locked();
        while readings.len() > STEPS {
            readings.pop_front();
        }
        readings.push_back(reading);
    }

    pub fn hour(&self) -> Hour {
        Hour(self.locked().iter().cloned().collect())
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<Reading>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The readings of the last hour at one moment.
pub struct Hour(Vec<Reading>);

impl Hour {
    /// The newest reading that is old enough for a rate; `None` in the first seconds.
    pub fn lately(&self, now: &Reading) -> Option<&Reading> {
        self.since(now, SHORTEST)
    }

    /// The newest reading that is at least `window` old, otherwise the oldest.
    pub fn since(&self, now: &Reading, window: Duration) -> Option<&Reading> {
        let old_enough = self.0.iter().rev().find(|reading| now.after(reading) >= window);
        old_enough.or(self.0.first()).filter(|reading| now.after(reading) >= SHORTEST)
    }

    /// One value per step, the oldest first, `None` if unknown; always [`STEPS`] values.
    pub fn steps(&self, value: impl Fn(&Reading, &Reading) -> Option<f64>) -> Vec<Option<f64>> {
        let missing = (STEPS + 1).saturating_sub(self.0.len().max(1));
        let known = self.0.windows(2).map(|pair| match pair {
            [earlier, later] => value(earlier, later),
            _ => None,
        });
        std::iter::repeat_n(None, missing).chain(known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(metrics: &Metrics, begun: Instant, seconds: u64) -> Reading {
        Reading::take(metrics, &Counters::default(), begun + Duration::from_secs(seconds))
    }

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let (metrics, history, begun) = (Metrics::new(), History::default(), Instant::now());
        let shard = metrics.shard();
        let rate = |earlier: &Reading, later: &Reading| later.rate_since(earlier, &[Event::Forward2xx]);
        assert_eq!(history.hour().steps(rate), vec![None; STEPS]);
        for step in 0..=(STEPS as u64 + 10) {
            history.push(after(&metrics, begun, step * STEP.as_secs()));
            if step == 1 {
                let steps = history.hour().steps(rate);
                assert_eq!((steps.len(), steps.last()), (STEPS, Some(&Some(1.0))));
                assert_eq!(steps.iter().flatten().count(), 1);
            }
            for _ in 0..STEP.as_secs() {
                shard.add(Event::Forward2xx);
            }
        }
        assert_eq!(history.hour().steps(rate), vec![Some(1.0); STEPS]);
        assert_eq!(history.locked().len(), STEPS + 1);
    }

    #[test]
    fn a_rate_needs_some_time() {
        let (metrics, history, begun) = (Metrics::new(), History::default(), Instant::now());
        history.push(after(&metrics, begun, 0));
        assert!(history.hour().lately(&after(&metrics, begun, 4)).is_none());
        let shard = metrics.shard();
        (0..20).for_each(|_| shard.add(Event::Refresh2xx));
        let now = after(&metrics, begun, 10);
        let hour = history.hour();
        let earlier = hour.since(&now, Duration::from_secs(300)).unwrap();
        assert_eq!(now.rate_since(earlier, &[Event::Refresh2xx, Event::Refresh4xx]), Some(2.0));
    }
}
