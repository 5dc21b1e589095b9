//! Limits the rows that refused calls add. WordPress refuses a few dozen calls a second per
//! processor core, which limits the growth of its table; the sidecar refuses a thousand times as
//! many, and an attacker could fill the site's disk.

use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;

use super::tally::Tally;

/// The lower half of the word is the count; the upper half is the second that it belongs to.
const COUNT: u64 = u32::MAX as u64;

/// A limited number per second of the clock.
#[derive(Debug)]
pub struct Refusals {
    most: u64,
    counted: AtomicU64,
    skipped: Tally,
}

impl Refusals {
    /// Allows `most` rows a second.
    pub fn new(most: usize) -> Self {
        Refusals { most: (most as u64).min(COUNT), counted: AtomicU64::new(0), skipped: Tally::default() }
    }

    /// Takes a row of `second` (Unix time). `false`: the limit is reached, which is counted and
    /// logged.
    pub fn take(&self, second: u64) -> bool {
        if self.most == 0 {
            // No rows are wanted, so there is nothing to log.
            return false;
        }
        let taken = self.counted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |counted| {
            // Another thread may have read its clock a moment later and got here first.
            let is_counted = [second, second + 1].contains(&(counted >> 32));
            if is_counted { (counted & COUNT < self.most).then_some(counted + 1) } else { Some((second << 32) | 1) }
        });
        if taken.is_err() {
            self.say(self.skipped.add(1));
        }
        taken.is_ok()
    }

    /// Rows beyond the limit.
    pub fn skipped(&self) -> u64 {
        self.skipped.total()
    }

    /// Logs what has not been logged yet.
    pub fn end(&self) {
        self.say(self.skipped.rest());
    }

    fn say(&self, rows: Option<u64>) {
        if let Some(rows) = rows {
            warn!(rows, a_second = self.most, "analytics rows of refused calls skipped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_each_second() {
        let refusals = Refusals::new(3);
        let taken = |second| (0..10).filter(|_| refusals.take(second)).count();
        assert_eq!([1_795_379_799, 1_795_379_799, 1_795_379_800].map(taken), [3, 0, 3]);
        assert_eq!(taken(1_795_379_799), 0, "a thread that comes late counts to the next");
        assert_eq!([1_795_379_700, 0].map(taken), [3, 3], "a clock that was set");
        assert_eq!(refusals.skipped(), 48);
        let none = Refusals::new(0);
        assert!(!none.take(7));
        assert_eq!(none.skipped(), 0);
    }

    #[test]
    fn from_many_threads() {
        let refusals = Refusals::new(1_000);
        let taken = || (0..1_000).filter(|_| refusals.take(7)).count();
        let all: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(taken)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(all, 1_000);
    }
}
