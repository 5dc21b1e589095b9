//! When something that the sidecar depends on was last seen well, and what was wrong with it last.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is known of one such thing. Written every few seconds, read by who wants to know.
#[derive(Debug, Default)]
pub struct LastSeen(Mutex<Sight>);

/// The same, as it is now.
#[derive(Debug, Clone, Default)]
pub struct Sight {
    /// When it was last seen well.
    pub seen: Option<Instant>,
    /// The last time that it was not, even if it is well again.
    pub trouble: Option<Trouble>,
    is_in_trouble: bool,
}

/// What was wrong, from the first look that found it to the last.
#[derive(Debug, Clone)]
pub struct Trouble {
    pub since: Instant,
    pub last: Instant,
    /// What the last look found; no secrets.
    pub error: String,
}

impl LastSeen {
    /// It is well. Returns whether it was not before.
    pub fn seen(&self) -> bool {
        let mut sight = self.locked();
        sight.seen = Some(Instant::now());
        std::mem::take(&mut sight.is_in_trouble)
    }

    /// It is not well. Returns whether it was before, or was never looked at.
    pub fn failed(&self, error: String) -> bool {
        let mut sight = self.locked();
        let now = Instant::now();
        let since = sight.current_trouble().map(|trouble| trouble.since);
        sight.trouble = Some(Trouble { since: since.unwrap_or(now), last: now, error });
        sight.is_in_trouble = true;
        since.is_none()
    }

    pub fn look(&self) -> Sight {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, Sight> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sight {
    /// What is wrong, if the last look found something.
    pub fn current_trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref().filter(|_| self.is_in_trouble)
    }

    /// Whether it was seen well within `limit` of `now`, and nothing wrong since.
    pub fn is_well(&self, now: Instant, limit: Duration) -> bool {
        self.current_trouble().is_none() && self.seen.is_some_and(|seen| now.saturating_duration_since(seen) <= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn trouble_begins_once_and_ends() {
        let last_seen = LastSeen::default();
        assert!(!last_seen.look().is_well(Instant::now(), LONG), "never looked at");
        assert!(!last_seen.seen());
        assert!(last_seen.look().is_well(Instant::now(), LONG));
        assert!(last_seen.failed("one".into()));
        assert!(!last_seen.failed("two".into()));
        let sight = last_seen.look();
        let trouble = sight.current_trouble().unwrap();
        assert!(trouble.since <= trouble.last && trouble.error == "two");
        assert!(!sight.is_well(Instant::now(), LONG));
        assert!(last_seen.seen());
        let sight = last_seen.look();
        assert!(sight.current_trouble().is_none() && sight.trouble.is_some());
        assert!(sight.is_well(Instant::now(), LONG));
        assert!(!sight.is_well(Instant::now() + 2 * LONG, LONG), "too long ago");
    }
}
