//! When a dependency of the sidecar was last seen working, and what its last failure was.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The state of one dependency. Updated every few seconds by its checks.
#[derive(Debug, Default)]
pub struct LastSeen(Mutex<Sight>);

/// The state at one moment.
#[derive(Debug, Clone, Default)]
pub struct Sight {
    /// When it last worked.
    pub seen: Option<Instant>,
    /// The last failure, even if it has ended.
    pub trouble: Option<Trouble>,
    is_in_trouble: bool,
}

/// A failure, from the first check that found it to the last.
#[derive(Debug, Clone)]
pub struct Trouble {
    pub since: Instant,
    pub last: Instant,
    /// The last check's error; no secrets.
    pub error: String,
}

impl LastSeen {
    /// It works. Returns whether it did not before.
    pub fn seen(&self) -> bool {
        let mut sight = self.locked();
        sight.seen = Some(Instant::now());
        std::mem::take(&mut sight.is_in_trouble)
    }

    /// It does not work. Returns whether it did before, or was never checked.
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
    /// The failure, if the last check found one.
    pub fn current_trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref().filter(|_| self.is_in_trouble)
    }

    /// Whether it worked within `limit` before `now`, and has not failed since.
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
