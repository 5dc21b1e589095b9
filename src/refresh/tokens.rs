//! Which token is in which row, and which tokens are in none.
//!
//! Both only spare look-ups; the row itself is always asked under its lock. What stands here cannot turn wrong (a row
//! keeps its token) or may be a few seconds old (an unknown token that WordPress has only just made is not with any client yet).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

/// Unknown tokens remembered: what one look-up said of a token that is guessed or was deleted is not asked again at once.
const UNKNOWN: u64 = 100_000;
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// The longest token that the column holds; a longer one is in no row.
const COLUMN_LENGTH: usize = 255;

/// The caches.
pub struct Tokens {
    rows: Cache<Box<str>, u64>,
    unknown: Cache<Box<str>, ()>,
    overflowed: Arc<AtomicBool>,
}

impl Tokens {
    /// Empty; room for `capacity` rows.
    pub fn new(capacity: usize) -> Self {
        let overflowed = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&overflowed);
        Tokens {
            rows: Cache::builder()
                .max_capacity(capacity as u64)
                // The newest row is the one whose token comes back.
                .eviction_policy(EvictionPolicy::lru())
                .eviction_listener(move |_, _, cause| {
                    if cause == RemovalCause::Size {
                        flag.store(true, Ordering::Relaxed);
                    }
                })
                .build(),
            unknown: Cache::builder().max_capacity(UNKNOWN).time_to_live(UNKNOWN_FOR).build(),
            overflowed,
        }
    }

    /// The row that held `token` when it was last seen. `folds_case`: the column compares without regard to case.
    pub fn row(&self, token: &str, folds_case: bool) -> Option<u64> {
        self.rows.get(&*key(token, folds_case))
    }

    /// Whether `token` is in no row, as far as a look-up of the last seconds or the column's length tells.
    pub fn is_unknown(&self, token: &str, folds_case: bool) -> bool {
        token.is_empty() || token.len() > COLUMN_LENGTH || self.unknown.contains_key(&*key(token, folds_case))
    }

    /// `token` is in row `id`.
    pub fn remember(&self, token: &str, folds_case: bool, id: u64) {
        self.rows.insert(key(token, folds_case), id);
    }

    /// `token` is not in the row it was remembered with.
    pub fn forget(&self, token: &str, folds_case: bool) {
        self.rows.invalidate(&*key(token, folds_case));
    }

    /// `token` is in no row.
    pub fn remember_unknown(&self, token: &str, folds_case: bool) {
        self.unknown.insert(key(token, folds_case), ());
    }

    /// How many tokens are remembered with their rows, and how many as unknown; both a moment old.
    pub fn sizes(&self) -> (u64, u64) {
        (self.rows.entry_count(), self.unknown.entry_count())
    }

    /// No token is known to be in no row any more.
    pub fn forget_unknown(&self) {
        self.unknown.invalidate_all();
    }

    /// Does now what the cache does with delay, so that [`Tokens::has_overflowed`] knows of everything.
    pub fn settle(&self) {
        self.rows.run_pending_tasks();
    }

    /// Whether a row ever had to make room for another.
    pub fn has_overflowed(&self) -> bool {
        self.overflowed.load(Ordering::Relaxed)
    }
}

/// A token as the column compares it. Those of clients are ASCII letters and digits when they come this far, those of rows
/// whatever somebody wrote there; trailing spaces do not count in a column (PAD SPACE).
pub fn key(token: &str, folds_case: bool) -> Box<str> {
    let token = token.trim_end_matches(' ');
    if folds_case { token.to_ascii_lowercase().into() } else { token.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_is_folded_as_the_column_does() {
        let tokens = Tokens::new(10);
        tokens.remember("abc", true, 7);
        assert_eq!(tokens.row("ABC", true), Some(7));
        assert_eq!(tokens.row("ABC", false), None);
        tokens.remember_unknown("Xyz", false);
        assert!(tokens.is_unknown("Xyz", false));
        assert!(!tokens.is_unknown("xyz", false));
        tokens.forget_unknown();
        assert!(!tokens.is_unknown("Xyz", false));
        assert_eq!(tokens.row("abc", true), Some(7), "which row a token is in is kept");
    }

    #[test]
    fn what_fits_no_row_is_unknown() {
        let tokens = Tokens::new(10);
        assert!(tokens.is_unknown("", true));
        assert!(tokens.is_unknown(&"a".repeat(256), true));
        assert!(!tokens.is_unknown(&"a".repeat(255), true));
    }

    #[test]
    fn too_many_rows_are_noticed() {
        let tokens = Tokens::new(10);
        for id in 0..10 {
            tokens.remember(&id.to_string(), true, id);
        }
        tokens.settle();
        assert!(!tokens.has_overflowed());
        tokens.remember("one more", true, 10);
        tokens.settle();
        assert!(tokens.has_overflowed());
        assert_eq!(tokens.row("one more", true), Some(10));
    }
}
