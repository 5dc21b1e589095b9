//! The most recently used tokens with their rows: of a site with its own room, or of one of many.

use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::{Budget, Key, RowRef};

/// How many entries a cache holds beyond its capacity before it evicts any. Its count lags behind
/// by at most 1,920 entries (moka 0.12: five rounds of 384), so an overflow is noticed before the
/// first token is lost.
pub(super) const BEYOND: usize = 8192;

pub enum Table {
    /// Concurrent. Even empty it takes hundreds of kilobytes.
    Alone { cache: Cache<Key, RowRef>, capacity: usize },
    /// Takes almost no memory while empty.
    Sharing(Few),
}

impl Table {
    pub(super) fn alone(capacity: usize) -> Self {
        // There is no eviction listener: with one, moka (0.12) makes a lock for each token that
        // comes or goes, and stores it in a map. That took 3 us of processor time per rotation.
        let cache = Cache::builder()
            .max_capacity(capacity.saturating_add(BEYOND) as u64)
            // The newest row is the one whose token comes back.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Table::Alone { cache, capacity }
    }

    pub(super) fn sharing(budget: &Arc<Budget>) -> Self {
        let rows = Mutex::new(LruCache::unbounded_with_hasher(RandomState::new()));
        Table::Sharing(Few { rows, budget: Arc::clone(budget), overflowed: AtomicBool::new(false) })
    }

    /// An empty table of the same kind.
    pub(super) fn another(&self) -> Self {
        match self {
            Table::Alone { capacity, .. } => Table::alone(*capacity),
            Table::Sharing(few) => Table::sharing(&few.budget),
        }
    }

    pub(super) fn get(&self, token: &Key) -> Option<RowRef> {
        match self {
            Table::Alone { cache, .. } => cache.get(token),
            Table::Sharing(few) => few.rows().get(token).copied(),
        }
    }

    pub(super) fn insert(&self, token: Key, row: RowRef) {
        match self {
            Table::Alone { cache, .. } => cache.insert(token, row),
            Table::Sharing(few) => few.insert(token, row),
        }
    }

    pub(super) fn invalidate(&self, token: &Key) {
        match self {
            Table::Alone { cache, .. } => cache.invalidate(token),
            Table::Sharing(few) => {
                if few.rows().pop(token).is_some() {
                    few.budget.give_back(1);
                }
            }
        }
    }

    /// The number of entries; may be slightly out of date.
    pub(super) fn entry_count(&self) -> u64 {
        match self {
            Table::Alone { cache, .. } => cache.entry_count(),
            Table::Sharing(few) => few.rows().len() as u64,
        }
    }

    /// Performs pending work now.
    pub(super) fn run_pending_tasks(&self) {
        if let Table::Alone { cache, .. } = self {
            cache.run_pending_tasks();
        }
    }

    /// Whether there are more entries than fit, or some were evicted.
    pub(super) fn has_overflowed(&self) -> bool {
        match self {
            Table::Alone { cache, capacity } => cache.entry_count() > *capacity as u64,
            Table::Sharing(few) => few.overflowed.load(Ordering::Relaxed),
        }
    }
}

/// The entries of one of many sites.
pub struct Few {
    rows: Mutex<LruCache<Key, RowRef, RandomState>>,
    budget: Arc<Budget>,
    overflowed: AtomicBool,
}

impl Few {
    fn insert(&self, token: Key, row: RowRef) {
        let mut rows = self.rows();
        if let Some(known) = rows.get_mut(&token) {
            *known = row;
            return;
        }
        if !self.budget.take() {
            self.overflowed.store(true, Ordering::Relaxed);
            // It takes the place of the oldest entry, if there is one.
            if rows.pop_lru().is_none() {
                return;
            }
        }
        rows.put(token, row);
    }

    fn rows(&self) -> MutexGuard<'_, LruCache<Key, RowRef, RandomState>> {
        // Each change is complete.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Few {
    fn drop(&mut self) {
        let count = self.rows().len();
        self.budget.give_back(count);
    }
}
