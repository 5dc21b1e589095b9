//! The verdicts of sites that are no longer in use: whether their refreshes equal WordPress's.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::refresh::shared_verdict::SharedVerdict;
use crate::verify::verdict::{State, Verdict};

/// Some hundred bytes each.
const MOST: NonZeroUsize = NonZeroUsize::new(10_000).expect("10,000 is not zero");

/// Verdicts by site id. They outlast reloads.
pub struct Verdicts {
    kept: Mutex<LruCache<u64, Verdict>>,
    /// What is known of each site in the shared store, the first site included.
    shared: Mutex<LruCache<u64, Arc<SharedVerdict>>>,
    reloads: AtomicU64,
}

impl Default for Verdicts {
    fn default() -> Self {
        Verdicts { kept: Mutex::new(filling()), shared: Mutex::new(filling()), reloads: AtomicU64::new(0) }
    }
}

/// Allocates memory as it fills, not at once.
fn filling<T>() -> LruCache<u64, T> {
    let mut kept = LruCache::unbounded();
    kept.resize(MOST);
    kept
}

impl Verdicts {
    /// What is known of the site in the shared store.
    pub fn shared(&self, blog_id: u64) -> Arc<SharedVerdict> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(shared.get_or_insert(blog_id, Arc::default))
    }

    /// How often the configuration was reloaded.
    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Acquire)
    }

    /// Notes a reload, and forgets the verdicts that differed: they are verified again.
    pub fn reloaded(&self) {
        self.reloads.fetch_add(1, Ordering::AcqRel);
        let mut kept = self.kept();
        let differ: Vec<u64> =
            kept.iter().filter(|(_, verdict)| matches!(verdict.state, State::Differs(_))).map(|(id, _)| *id).collect();
        for id in differ {
            kept.pop(&id);
        }
    }

    pub(super) fn has(&self, blog_id: u64) -> bool {
        self.kept().contains(&blog_id)
    }

    pub(super) fn take(&self, blog_id: u64) -> Option<Verdict> {
        self.kept().pop(&blog_id)
    }

    pub(super) fn put(&self, blog_id: u64, verdict: Verdict) {
        self.kept().put(blog_id, verdict);
    }

    fn kept(&self) -> MutexGuard<'_, LruCache<u64, Verdict>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::difference::{Difference, Kind};

    #[test]
    fn a_reload_forgets_what_differed_and_nothing_else() {
        let verdicts = Verdicts::default();
        verdicts.put(2, Verdict::new(5, 1_000));
        let mut differs = Verdict::new(5, 1_000);
        differs.differ(Difference::new(Kind::Body, "body +roles (array of string)"), 1_001);
        verdicts.put(3, differs);
        assert!(verdicts.take(2).is_some_and(|verdict| verdict.needed == 5));
        verdicts.put(2, Verdict::new(5, 1_000));
        verdicts.reloaded();
        assert_eq!((verdicts.take(2).is_some(), verdicts.take(3).is_some(), verdicts.reloads()), (true, false, 1));
        for id in 0..2 * MOST.get() as u64 {
            verdicts.put(id, Verdict::new(5, 1_000));
        }
        assert_eq!(verdicts.kept().len(), MOST.get());
    }
}
