//! Tokens with their rows, the most recently used ones: of a site with a room of its own, or of one of many.

use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::{Budget, Key, RowRef};

/// What a cache holds beyond its room before it lets go of anything. Its count is late, by 1,920 entries at most (moka 0.12: five
/// rounds of 384), so that it is seen to have outgrown its room before the first token is lost.
pub(super) const BEYOND: usize = 8192;

pub enum Table {
    /// For all threads at once. An empty one takes hundreds of kilobytes.
    Alone { cache: Cache<Key, RowRef>, capacity: usize },
    /// An empty one takes next to nothing.
    Sharing(Few),
}

impl Table {
    pub(super) fn alone(capacity: usize) -> Self {
        // No listener tells what makes room for others: with one, moka (0.12) makes a lock for each token that comes or goes, and puts
        // it into a map. That took 3 us of the processor for a rotation.
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

    /// An empty one of the same kind.
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

    /// How many there were a moment ago.
    pub(super) fn entry_count(&self) -> u64 {
        match self {
            Table::Alone { cache, .. } => cache.entry_count(),
            Table::Sharing(few) => few.rows().len() as u64,
        }
    }

    /// Does now what is done with delay.
    pub(super) fn run_pending_tasks(&self) {
        if let Table::Alone { cache, .. } = self {
            cache.run_pending_tasks();
        }
    }

    /// Whether there are more than there is room for, or some have made room.
    pub(super) fn has_overflowed(&self) -> bool {
        match self {
            Table::Alone { cache, capacity } => cache.entry_count() > *capacity as u64,
            Table::Sharing(few) => few.overflowed.load(Ordering::Relaxed),
        }
    }
}

/// Those of one of many sites.
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
            // The oldest one's room, if there is one.
            if rows.pop_lru().is_none() {
                return;
            }
        }
        rows.put(token, row);
    }

    fn rows(&self) -> MutexGuard<'_, LruCache<Key, RowRef, RandomState>> {
        // Each change is whole.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Few {
    fn drop(&mut self) {
        let count = self.rows().len();
        self.budget.give_back(count);
    }
}
