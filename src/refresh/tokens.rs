//! Which token is in which row, and which tokens are in none.
//!
//! Both only spare look-ups; the row itself is always asked under its lock. What stands here cannot turn wrong (a row
//! keeps its token) or may be a few seconds old (an unknown token that WordPress has only just made is not with any client yet).

use std::time::Duration;

use moka::sync::Cache;

/// Rows remembered. Each costs about 150 bytes; a site with more sessions than this finds the others by a look-up.
const ROWS: u64 = 200_000;

/// Unknown tokens remembered: what one look-up said of a token that is guessed or was deleted is not asked again at once.
const UNKNOWN: u64 = 100_000;
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// The longest token that the column holds; a longer one is in no row.
const COLUMN_LENGTH: usize = 255;

/// The caches.
pub struct Tokens {
    rows: Cache<Box<str>, u64>,
    unknown: Cache<Box<str>, ()>,
}

impl Default for Tokens {
    fn default() -> Self {
        Tokens::new()
    }
}

impl Tokens {
    /// Empty.
    pub fn new() -> Self {
        Tokens {
            rows: Cache::new(ROWS),
            unknown: Cache::builder().max_capacity(UNKNOWN).time_to_live(UNKNOWN_FOR).build(),
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
}

/// Tokens that reach this point are ASCII letters and digits only.
fn key(token: &str, folds_case: bool) -> Box<str> {
    if folds_case { token.to_ascii_lowercase().into() } else { token.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_is_folded_as_the_column_does() {
        let tokens = Tokens::new();
        tokens.remember("abc", true, 7);
        assert_eq!(tokens.row("ABC", true), Some(7));
        assert_eq!(tokens.row("ABC", false), None);
        tokens.remember_unknown("Xyz", false);
        assert!(tokens.is_unknown("Xyz", false));
        assert!(!tokens.is_unknown("xyz", false));
    }

    #[test]
    fn what_fits_no_row_is_unknown() {
        let tokens = Tokens::new();
        assert!(tokens.is_unknown("", true));
        assert!(tokens.is_unknown(&"a".repeat(256), true));
        assert!(!tokens.is_unknown(&"a".repeat(255), true));
    }
}
