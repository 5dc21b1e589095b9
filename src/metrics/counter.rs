//! A number that many threads count up.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn add_many(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Counts down; for a level rather than a count.
    pub fn subtract(&self, count: usize) {
        self.0.fetch_sub(count as u64, Ordering::Relaxed);
    }

    /// Replaces one owner's part of the number. For levels that only one thread writes.
    pub fn replace(&self, before: usize, now: usize) {
        let rest = self.value().wrapping_sub(before as u64);
        self.0.store(rest.wrapping_add(now as u64), Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
