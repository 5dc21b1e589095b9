//! Counts events that are not logged one by one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::refresh::counters::Counter;

/// The shortest time between two log lines.
const EVERY: Duration = Duration::from_secs(60);

/// Rows that were not written, and how many of them have not been logged.
#[derive(Debug, Default)]
pub struct Tally {
    total: Counter,
    unsaid: AtomicU64,
    /// Unix seconds of the last log line.
    said: AtomicU64,
}

impl Tally {
    /// Counts more rows. Returns how many to log, if it is time.
    pub fn add(&self, rows: usize) -> Option<u64> {
        self.total.add_many(rows);
        self.unsaid.fetch_add(rows as u64, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let said = self.said.load(Ordering::Relaxed);
        let is_due = now.abs_diff(said) >= EVERY.as_secs();
        let is_ours = is_due && self.said.compare_exchange(said, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_ours { self.rest() } else { None }
    }

    /// How many have not been logged, if any.
    pub fn rest(&self) -> Option<u64> {
        Some(self.unsaid.swap(0, Ordering::Relaxed)).filter(|rows| *rows > 0)
    }

    /// All since the start.
    pub fn total(&self) -> u64 {
        self.total.value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_and_the_others_add_up() {
        let tally = Tally::default();
        assert_eq!(tally.rest(), None);
        assert_eq!([tally.add(2), tally.add(3), tally.add(4)], [Some(2), None, None]);
        assert_eq!((tally.rest(), tally.rest(), tally.total()), (Some(7), None, 9));
    }
}
