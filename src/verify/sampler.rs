//! Chooses which native calls are compared: a few, at random, and never many in a second.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// With `verify = "always"`, one call in this many is compared.
pub const ALWAYS: u32 = 20;

/// At most one in this time: a refresh by WordPress costs as much as hundreds of native ones.
const LEAST: Duration = Duration::from_secs(1);

/// At least one in this time, if there are calls.
const MOST: Duration = Duration::from_secs(600);

/// Picks calls.
pub struct Sampler {
    every: u32,
    began: Instant,
    /// Milliseconds after `began` at which the last one was picked.
    last: AtomicU64,
    asked: AtomicU64,
    /// Whether to pick the next call.
    hurries: AtomicBool,
    // SECURITY: a client must not be able to tell which calls are compared.
    chance: RandomState,
}

impl Sampler {
    /// Picks one in `every`.
    pub fn new(every: u32) -> Self {
        Sampler {
            every: every.max(1),
            began: Instant::now(),
            last: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            hurries: AtomicBool::new(false),
            chance: RandomState::new(),
        }
    }

    /// Whether this call is picked.
    pub fn picks(&self) -> bool {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let is_drawn = self.chance.hash_one(number).is_multiple_of(u64::from(self.every));
        let hurries = self.hurries.load(Ordering::Relaxed);
        // The clock is only read for calls that are drawn, and occasionally for others.
        if !is_drawn && !hurries && !number.is_multiple_of(64) {
            return false;
        }
        self.picks_at(is_drawn || hurries, Instant::now())
    }

    fn picks_at(&self, is_drawn: bool, now: Instant) -> bool {
        let now = u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX);
        let last = self.last.load(Ordering::Relaxed);
        let passed = Duration::from_millis(now.saturating_sub(last));
        let is_due = passed >= MOST || (is_drawn && passed >= LEAST);
        is_due && self.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Sets whether calls are picked as soon as the rate allows.
    pub fn hurry(&self, hurries: bool) {
        self.hurries.store(hurries, Ordering::Relaxed);
    }

    pub fn is_in_hurry(&self) -> bool {
        self.hurries.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_in_a_second_and_one_in_ten_minutes() {
        let sampler = Sampler::new(1);
        let at = |milliseconds| sampler.began + Duration::from_millis(milliseconds);
        assert!(!sampler.picks_at(true, at(999)));
        assert!(sampler.picks_at(true, at(1_000)));
        assert!(!sampler.picks_at(true, at(1_999)));
        assert!(sampler.picks_at(true, at(2_000)));
        assert!(!sampler.picks_at(false, at(601_999)));
        assert!(sampler.picks_at(false, at(602_000)));
    }

    #[test]
    fn one_of_so_many_is_drawn() {
        let sampler = Sampler::new(20);
        let drawn = (0..20_000_u64).filter(|number| sampler.chance.hash_one(number) % 20 == 0).count();
        assert!((700..1_300).contains(&drawn), "{drawn}");
    }
}
