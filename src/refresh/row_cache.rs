//! Caches which token is in which row, and which tokens are in none.
//!
//! Both only save look-ups; the row itself is always checked under its lock. An entry cannot become
//! wrong (a row keeps its token), and may only be a few seconds out of date (an unknown token that
//! WordPress has just made has not reached its client yet).

mod budget;
mod negative_cache;
mod table;

use std::collections::VecDeque;
use std::mem;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

pub use budget::Budget;
use negative_cache::NegativeCache;
use table::Table;

/// How long a used token is distinguished from an unknown one if only the log needs it.
const USED_FOR: Duration = Duration::from_secs(600);

/// The longest token that the column holds; a longer one is in no row.
const COLUMN_LENGTH: usize = 255;

/// A token as the column compares it. Tokens of clients are ASCII letters and digits by now; those
/// of rows are whatever was written there. Trailing spaces do not count in a column (PAD SPACE).
// SECURITY: no Debug. It is the token.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<str>);

impl Key {
    /// The key of `token`. `folds_case`: the column compares without regard to case.
    pub fn of(token: &str, folds_case: bool) -> Self {
        let token = token.trim_end_matches(' ');
        Key(if folds_case { token.to_ascii_lowercase().into() } else { token.into() })
    }

    /// As used in look-ups.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is empty or too long for the column.
    fn fits_no_row(&self) -> bool {
        self.0.is_empty() || self.0.len() > COLUMN_LENGTH
    }
}

/// Where a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowRef {
    /// The row's `id`.
    pub id: u64,
    /// The row's `user_id`, if it is a number. Only a hint: the row is checked under its lock.
    pub user_id: Option<NonZeroU64>,
    /// Whether this process has written the row, or has made its access token again: see
    /// [`super::row_proof`].
    pub is_proved: bool,
}

impl RowRef {
    /// A row that was found; its writer is unknown.
    pub fn found(id: u64, user_id: Option<u64>) -> Self {
        RowRef { id, user_id: user_id.and_then(NonZeroU64::new), is_proved: false }
    }

    /// A row whose access token is the one that this process would make.
    pub fn proved(id: u64, user_id: u64) -> Self {
        RowRef { is_proved: true, ..RowRef::found(id, Some(user_id)) }
    }
}

/// The caches.
pub struct RowCache {
    rows: RwLock<Rows>,
    /// Whether more rows were remembered than fit.
    overflowed: AtomicBool,
    /// When each was used.
    used: Mutex<VecDeque<(Instant, Key)>>,
    /// See [`RowCache::new`].
    used_for: Option<Duration>,
    /// How many used tokens to keep when nothing depends on telling them from unknown ones.
    spare: usize,
    unknown: Mutex<NegativeCache>,
}

/// Entries that are no longer known. There may be a million, which take time to drop.
pub type Forgotten = Table;

/// Which token is in which row.
struct Rows {
    /// Those of the last complete or current reading of all rows, and those that have come since.
    current: Table,
    /// Those known before the current reading. Entries that the reading does not find have expired
    /// or were revoked, and are dropped.
    before: Option<Table>,
}

impl RowCache {
    /// An empty cache with room for `capacity` rows. A used token must be distinguished from an
    /// unknown one for `used_for` seconds, or (`None`) until it expires.
    pub fn new(capacity: usize, used_for: Option<u64>) -> Self {
        Self::with(Table::alone(capacity), capacity, used_for, NegativeCache::since(Instant::now()))
    }

    /// Like [`RowCache::new`], for one of many sites that share `budget`.
    pub fn sharing(budget: &Arc<Budget>, used_for: Option<u64>) -> Self {
        Self::with(Table::sharing(budget), budget.capacity(), used_for, NegativeCache::small(Instant::now()))
    }

    fn with(table: Table, capacity: usize, used_for: Option<u64>, unknown: NegativeCache) -> Self {
        RowCache {
            rows: RwLock::new(Rows { current: table, before: None }),
            overflowed: AtomicBool::new(false),
            used: Mutex::default(),
            used_for: used_for.map(Duration::from_secs),
            spare: capacity / 8,
            unknown: Mutex::new(unknown),
        }
    }

    /// The row that contained the token when it was last seen, and its user.
    pub fn row_of(&self, token: &Key) -> Option<RowRef> {
        let rows = self.rows();
        // In this order: the entry may be moving from one to the other.
        let before = rows.before.as_ref().and_then(|before| before.get(token));
        rows.current.get(token).or(before)
    }

    /// Whether the token is in no row, by a look-up of the last seconds or by the column's length.
    pub fn is_unknown(&self, token: &Key) -> bool {
        token.fits_no_row() || self.unknown().contains(token, Instant::now())
    }

    /// The token is in `row`.
    pub fn remember(&self, token: Key, row: RowRef) {
        let rows = self.rows();
        match &rows.before {
            // So that it does not take up room twice.
            Some(before) => {
                rows.current.insert(token.clone(), row);
                before.invalidate(&token);
            }
            None => rows.current.insert(token, row),
        }
        self.look_for_overflow(&rows);
    }

    /// The token is not in its remembered row.
    pub fn forget(&self, token: &Key) {
        let rows = self.rows();
        for rows in [Some(&rows.current), rows.before.as_ref()].into_iter().flatten() {
            rows.invalidate(token);
        }
        self.look_for_overflow(&rows);
    }

    /// The token was exchanged. Its row is forgotten when nothing depends on it any more: otherwise
    /// used tokens would displace live ones.
    pub fn used(&self, token: Key) {
        let Some(used_for) = self.used_for else { return };
        let now = Instant::now();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.push_back((now, token));
        // Two per call, so that the list can shrink again.
        for _ in 0..2 {
            let is_many = used.len() > self.spare;
            let is_due = |(since, _): &(Instant, Key)| {
                let age = now.saturating_duration_since(*since);
                age > used_for && (age > USED_FOR || is_many)
            };
            if !used.front().is_some_and(is_due) {
                break;
            }
            let Some((_, due)) = used.pop_front() else { break };
            self.forget(&due);
        }
    }

    /// The token is in no row.
    pub fn remember_unknown(&self, token: Key) {
        let forgotten = self.unknown().insert(token, Instant::now());
        // Dropped after the lock is released: there may be many.
        drop(forgotten);
    }

    /// How many tokens are remembered with their rows, and how many as unknown; may be slightly out
    /// of date.
    pub fn sizes(&self) -> (u64, u64) {
        let rows = self.rows();
        let before = rows.before.as_ref().map_or(0, Table::entry_count);
        (rows.current.entry_count() + before, self.unknown().len(Instant::now()) as u64)
    }

    /// No token is known to be missing any more.
    pub fn forget_unknown(&self) {
        let forgotten = self.unknown().empty(Instant::now());
        drop(forgotten);
    }

    /// A reading of all rows begins: entries that it does not find are forgotten at its end, and
    /// have their own room until then. If the previous reading was not completed, its entries are
    /// kept if there was room for them. Returns the forgotten entries.
    #[must_use]
    pub fn begin_reading(&self) -> Option<Forgotten> {
        let mut rows = self.rows_to_change();
        let goes_on = rows.before.is_some();
        if goes_on && !self.has_overflowed() {
            return None;
        }
        let empty = rows.current.another();
        let current = mem::replace(&mut rows.current, empty);
        self.overflowed.store(false, Ordering::Relaxed);
        match goes_on {
            true => Some(current),
            false => {
                rows.before = Some(current);
                None
            }
        }
    }

    /// The reading is complete, or no other will follow. Returns the forgotten entries.
    #[must_use]
    pub fn end_reading(&self) -> Option<Forgotten> {
        let before = self.rows_to_change().before.take();
        self.settle();
        before
    }

    /// Performs the cache's pending work, so that [`RowCache::has_overflowed`] is exact.
    pub fn settle(&self) {
        let rows = self.rows();
        rows.current.run_pending_tasks();
        self.look_for_overflow(&rows);
    }

    /// Whether, at any time since the last reading began, there were more rows than fit.
    pub fn has_overflowed(&self) -> bool {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Called after each change, to notice an overflow before the cache evicts entries and before
    /// the number falls again.
    fn look_for_overflow(&self, rows: &Rows) {
        if rows.current.has_overflowed() {
            self.overflowed.store(true, Ordering::Relaxed);
        }
    }

    fn rows(&self) -> RwLockReadGuard<'_, Rows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn rows_to_change(&self) -> RwLockWriteGuard<'_, Rows> {
        self.rows.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn unknown(&self) -> MutexGuard<'_, NegativeCache> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::table::BEYOND;
    use super::*;

    fn key(token: &str) -> Key {
        Key::of(token, false)
    }

    impl RowCache {
        fn row(&self, token: &Key) -> Option<u64> {
            self.row_of(token).map(|row| row.id)
        }

        fn put(&self, token: Key, id: u64) {
            self.remember(token, RowRef::found(id, None));
        }
    }

    /// There may be a million.
    #[test]
    fn a_row_ref_is_small() {
        assert_eq!(size_of::<RowRef>(), 24);
    }

    #[test]
    fn case_is_folded_as_the_column_does() {
        let tokens = RowCache::new(10, Some(0));
        tokens.put(Key::of("abc", true), 7);
        assert_eq!(tokens.row(&Key::of("ABC ", true)), Some(7));
        assert_eq!(tokens.row(&key("ABC")), None);
        tokens.remember_unknown(key("Xyz"));
        assert!(tokens.is_unknown(&key("Xyz")));
        assert!(!tokens.is_unknown(&key("xyz")));
        tokens.forget_unknown();
        assert!(!tokens.is_unknown(&key("Xyz")));
        assert_eq!(tokens.row(&key("abc")), Some(7), "which row a token is in is kept");
    }

    #[test]
    fn what_fits_no_row_is_unknown() {
        let tokens = RowCache::new(10, Some(0));
        assert!(tokens.is_unknown(&key("")));
        assert!(tokens.is_unknown(&key(&"a".repeat(256))));
        assert!(!tokens.is_unknown(&key(&"a".repeat(255))));
    }

    #[test]
    fn too_many_rows_are_noticed() {
        let tokens = RowCache::new(10, Some(0));
        for id in 0..10 {
            tokens.put(key(&id.to_string()), id);
        }
        tokens.settle();
        assert!(!tokens.has_overflowed());
        tokens.put(key("one more"), 10);
        tokens.settle();
        assert!(tokens.has_overflowed());
        assert_eq!(tokens.row(&key("one more")), Some(10));
    }

    #[test]
    fn used_tokens_make_room_unless_something_hangs_on_them() {
        let rotate = |used_for| {
            let tokens = RowCache::new(80, used_for);
            tokens.put(key("idle"), 1);
            tokens.put(key("0"), 2);
            for count in 1..1000 {
                tokens.put(key(&count.to_string()), count + 2);
                tokens.used(key(&(count - 1).to_string()));
            }
            tokens.settle();
            tokens
        };
        let tokens = rotate(Some(0));
        assert_eq!((tokens.row(&key("idle")), tokens.row(&key("999"))), (Some(1), Some(1001)));
        assert_eq!((tokens.row(&key("0")), tokens.row(&key("998"))), (None, Some(1000)));
        assert!(!tokens.has_overflowed() && tokens.sizes().0 <= 13);
        for used_for in [Some(60), None] {
            let tokens = rotate(used_for);
            assert!(tokens.has_overflowed());
            assert!(tokens.begin_reading().is_none() && !tokens.has_overflowed());
        }
    }

    #[test]
    fn no_token_is_lost_before_that_is_noticed() {
        let tokens = RowCache::new(1_000, None);
        let mut count = 0;
        while !tokens.has_overflowed() && count < 3 * BEYOND as u64 {
            tokens.put(key(&count.to_string()), count);
            count += 1;
        }
        assert!(tokens.has_overflowed());
        tokens.settle();
        assert!(count > 1_000 && (0..count).all(|id| tokens.row(&key(&id.to_string())) == Some(id)), "{count}");
        for id in 0..3 * BEYOND as u64 {
            tokens.put(key(&format!("more{id}")), id);
        }
        tokens.settle();
        assert!(tokens.sizes().0 <= (1_000 + BEYOND) as u64);
        // Fewer again, but some were lost.
        for id in 0..3 * BEYOND as u64 {
            tokens.forget(&key(&format!("more{id}")));
        }
        tokens.settle();
        assert!(tokens.has_overflowed());
    }

    #[test]
    fn what_a_new_reading_does_not_find_makes_room() {
        let tokens = RowCache::new(10, None);
        let all = |of: &str| (0..10).for_each(|id| tokens.put(key(&format!("{of}{id}")), id));
        let rows = |of: &str| (0..10).filter_map(|id| tokens.row(&key(&format!("{of}{id}")))).collect::<Vec<_>>();
        let every: Vec<u64> = (0..10).collect();
        all("dead");
        tokens.put(key("one more"), 10);
        tokens.settle();
        assert!(tokens.has_overflowed());
        assert!(tokens.begin_reading().is_none());
        assert_eq!(rows("dead"), every, "what was known is of use until the end");
        all("live");
        // The reading failed and begins once more.
        assert!(tokens.begin_reading().is_none());
        assert_eq!((rows("dead"), rows("live")), (every.clone(), every.clone()));
        // Again, but there was no room any more.
        all("others");
        tokens.settle();
        assert!(tokens.has_overflowed());
        assert!(tokens.begin_reading().is_some_and(|forgotten| forgotten.get(&key("live0")).is_some()));
        assert_eq!((rows("dead"), rows("live"), tokens.has_overflowed()), (every.clone(), vec![], false));
        all("live");
        drop(tokens.end_reading());
        assert!(!tokens.has_overflowed(), "{:?}", tokens.sizes());
        assert_eq!((rows("dead"), rows("live"), tokens.sizes().0), (vec![], every, 10));
        tokens.put(key("one more"), 10);
        tokens.settle();
        assert!(tokens.has_overflowed());
    }

    /// A concurrent caller must not take it for unknown.
    #[test]
    fn what_is_read_again_is_known_all_the_time() {
        let tokens = RowCache::new(1_000, None);
        let keys: Vec<Key> = (0..1_000).map(|id| key(&id.to_string())).collect();
        keys.iter().for_each(|key| tokens.put(key.clone(), 1));
        std::thread::scope(|scope| {
            let readings = scope.spawn(|| {
                for _ in 0..30 {
                    drop(tokens.begin_reading());
                    keys.iter().for_each(|key| tokens.put(key.clone(), 1));
                    drop(tokens.end_reading());
                }
            });
            while !readings.is_finished() {
                for key in &keys {
                    assert_eq!(tokens.row(key), Some(1), "{}", key.as_str());
                }
            }
        });
    }

    #[test]
    fn what_is_forgotten_while_rows_are_read_is_in_neither_part() {
        let tokens = RowCache::new(10, None);
        for id in 0..3 {
            tokens.put(key(&id.to_string()), id);
        }
        assert!(tokens.begin_reading().is_none());
        tokens.put(key("1"), 7);
        assert_eq!(tokens.row(&key("1")), Some(7));
        for id in 0..2 {
            tokens.forget(&key(&id.to_string()));
        }
        assert_eq!([0, 1, 2].map(|id| tokens.row(&key(&id.to_string()))), [None, None, Some(2)]);
    }
}
