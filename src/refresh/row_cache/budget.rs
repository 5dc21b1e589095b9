//! The room that many sites share for their tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::RowCache;

/// `refresh.known_tokens` for a whole network. Its first site is treated like a single site, and
/// may use all of it; the others share the rest.
pub struct Budget {
    capacity: usize,
    /// The first site's.
    first: Arc<RowCache>,
    /// The number of tokens of the others.
    taken: AtomicUsize,
}

impl Budget {
    /// A budget of `capacity` tokens, including those of `first`.
    pub fn new(capacity: usize, first: Arc<RowCache>) -> Arc<Self> {
        Arc::new(Budget { capacity, first, taken: AtomicUsize::new(0) })
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The number of tokens of the others.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether there are more tokens than fit. The first site's may have grown since the others
    /// took theirs.
    pub fn is_exceeded(&self) -> bool {
        self.taken() > self.left()
    }

    /// Takes room for one token, if there is any.
    pub(super) fn take(&self) -> bool {
        let left = self.left();
        let took = |taken: usize| (taken < left).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, took).is_ok()
    }

    pub(super) fn give_back(&self, count: usize) {
        self.taken.fetch_sub(count, Ordering::Relaxed);
    }

    fn left(&self) -> usize {
        self.capacity.saturating_sub(usize::try_from(self.first.sizes().0).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Key, RowRef};
    use super::*;

    fn put(cache: &RowCache, from: u64, to: u64) {
        for id in from..to {
            cache.remember(Key::of(&format!("token{id}"), false), RowRef::found(id, None));
        }
    }

    fn known(cache: &RowCache, ids: u64) -> Vec<u64> {
        (0..ids).filter(|id| cache.row_of(&Key::of(&format!("token{id}"), false)).is_some()).collect()
    }

    #[test]
    fn all_sites_together_have_one_room() {
        let first = Arc::new(RowCache::new(10, Some(0)));
        let budget = Budget::new(10, Arc::clone(&first));
        let (second, third) = (RowCache::sharing(&budget, Some(0)), RowCache::sharing(&budget, Some(0)));
        put(&second, 0, 6);
        put(&third, 0, 4);
        assert_eq!((budget.taken(), second.has_overflowed(), third.has_overflowed()), (10, false, false));
        // Its own oldest makes room, and that is noticed; the other site loses nothing.
        put(&third, 4, 6);
        assert_eq!((budget.taken(), second.has_overflowed(), third.has_overflowed()), (10, false, true));
        assert_eq!((known(&second, 6).len(), known(&third, 6)), (6, vec![2, 3, 4, 5]));
        assert!(!budget.is_exceeded());
        put(&first, 0, 4);
        first.settle();
        assert!(budget.is_exceeded());
        drop(second);
        assert_eq!(budget.taken(), 4);
        assert!(!budget.is_exceeded());
        // Another row of the same token takes no more room, and forgetting releases it.
        put(&third, 5, 6);
        third.forget(&Key::of("token5", false));
        assert_eq!(budget.taken(), 3);
    }

    #[test]
    fn a_site_without_any_room_knows_nothing_and_says_so() {
        let first = Arc::new(RowCache::new(1, Some(0)));
        let budget = Budget::new(1, Arc::clone(&first));
        put(&first, 0, 1);
        first.settle();
        let second = RowCache::sharing(&budget, Some(0));
        put(&second, 0, 3);
        assert_eq!((known(&second, 3).len(), second.has_overflowed(), budget.taken()), (0, true, 0));
    }

    #[test]
    fn what_is_read_again_keeps_its_room() {
        let budget = Budget::new(10, Arc::new(RowCache::new(10, Some(0))));
        let second = RowCache::sharing(&budget, Some(0));
        put(&second, 0, 5);
        assert!(second.begin_reading().is_none());
        put(&second, 0, 4);
        assert_eq!(budget.taken(), 5);
        drop(second.end_reading());
        assert_eq!((budget.taken(), known(&second, 5)), (4, vec![0, 1, 2, 3]));
    }
}
