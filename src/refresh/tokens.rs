//! Which token is in which row, and which tokens are in none.
//!
//! Both only spare look-ups; the row itself is always asked under its lock. What stands here cannot turn wrong (a row
//! keeps its token) or may be a few seconds old (an unknown token that WordPress has only just made is not with any client yet).

use std::collections::{HashSet, VecDeque};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

/// Unknown tokens remembered: what one look-up said of a token that is guessed or was deleted is not asked again at once.
const UNKNOWN: usize = 100_000;

/// How long, at least, while there is room; twice as long at most.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// How long a used token is told from an unknown one for no other reason than the log.
const USED_FOR: Duration = Duration::from_secs(600);

/// The longest token that the column holds; a longer one is in no row.
const COLUMN_LENGTH: usize = 255;

/// A token as the column compares it. Those of clients are ASCII letters and digits when they come this far, those of rows
/// whatever somebody wrote there; trailing spaces do not count in a column (PAD SPACE).
// SECURITY: no Debug. It is the token.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<str>);

impl Key {
    /// Of `token`. `folds_case`: the column compares without regard to case.
    pub fn of(token: &str, folds_case: bool) -> Self {
        let token = token.trim_end_matches(' ');
        Key(if folds_case { token.to_ascii_lowercase().into() } else { token.into() })
    }

    /// As it is looked for.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Too long for the column, or nothing at all.
    fn fits_no_row(&self) -> bool {
        self.0.is_empty() || self.0.len() > COLUMN_LENGTH
    }
}

/// The caches.
pub struct Tokens {
    rows: Cache<Key, Remembered>,
    /// When each was used.
    used: Mutex<VecDeque<(Instant, Key)>>,
    /// See [`Tokens::new`].
    used_for: Option<Duration>,
    /// As many used ones may stay where nothing hangs on their being told from unknown ones.
    spare: usize,
    unknown: Mutex<Unknown>,
    /// The number of times that all rows were read, or begun to be.
    reading: Arc<AtomicU64>,
    overflowed: Arc<AtomicBool>,
}

/// Where a token is.
#[derive(Clone, Copy)]
struct Remembered {
    row: u64,
    /// As of which [reading](Tokens::begin_reading).
    reading: u64,
}

impl Tokens {
    /// Empty; room for `capacity` rows. A used token must be told from an unknown one for `used_for` seconds, or (`None`) as long
    /// as it has not expired.
    pub fn new(capacity: usize, used_for: Option<u64>) -> Self {
        let overflowed = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&overflowed);
        let reading = Arc::new(AtomicU64::new(0));
        let current = Arc::clone(&reading);
        Tokens {
            rows: Cache::builder()
                .max_capacity(capacity as u64)
                // The newest row is the one whose token comes back.
                .eviction_policy(EvictionPolicy::lru())
                .eviction_listener(move |_, remembered: Remembered, cause| {
                    // Of an earlier reading: the token has expired or was revoked, or this reading has yet to come to its row.
                    if cause == RemovalCause::Size && remembered.reading == current.load(Ordering::Relaxed) {
                        flag.store(true, Ordering::Relaxed);
                    }
                })
                .build(),
            used: Mutex::default(),
            used_for: used_for.map(Duration::from_secs),
            spare: capacity / 8,
            unknown: Mutex::new(Unknown::since(Instant::now())),
            reading,
            overflowed,
        }
    }

    /// The row that held the token when it was last seen.
    pub fn row(&self, token: &Key) -> Option<u64> {
        self.rows.get(token).map(|remembered| remembered.row)
    }

    /// Whether the token is in no row, as far as a look-up of the last seconds or the column's length tells.
    pub fn is_unknown(&self, token: &Key) -> bool {
        token.fits_no_row() || self.unknown().contains(token, Instant::now())
    }

    /// The token is in row `id`.
    pub fn remember(&self, token: Key, id: u64) {
        self.rows.insert(token, Remembered { row: id, reading: self.reading.load(Ordering::Relaxed) });
    }

    /// The token is not in the row it was remembered with.
    pub fn forget(&self, token: &Key) {
        self.rows.invalidate(token);
    }

    /// The token was exchanged. Its row is forgotten when nothing hangs on it any more: else the rows of live tokens would have
    /// to make room for those of used ones.
    pub fn used(&self, token: Key) {
        let Some(used_for) = self.used_for else { return };
        let now = Instant::now();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.push_back((now, token));
        // Two, so that it ever gets shorter again.
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
            self.rows.invalidate(&due);
        }
    }

    /// The token is in no row.
    pub fn remember_unknown(&self, token: Key) {
        let forgotten = self.unknown().insert(token, Instant::now());
        // Not under the lock: there may be many.
        drop(forgotten);
    }

    /// How many tokens are remembered with their rows, a moment ago, and how many as unknown.
    pub fn sizes(&self) -> (u64, u64) {
        (self.rows.entry_count(), self.unknown().len(Instant::now()) as u64)
    }

    /// No token is known to be in no row any more.
    pub fn forget_unknown(&self) {
        let all = mem::replace(&mut *self.unknown(), Unknown::since(Instant::now()));
        drop(all);
    }

    /// Does now what the cache does with delay, so that [`Tokens::has_overflowed`] knows of everything.
    pub fn settle(&self) {
        self.rows.run_pending_tasks();
    }

    /// All rows are about to be read anew. Those that are then not among them make room for the others.
    pub fn begin_reading(&self) {
        self.reading.fetch_add(1, Ordering::Relaxed);
        self.rows.run_pending_tasks();
        self.overflowed.store(false, Ordering::Relaxed);
    }

    /// Whether a row that was read or remembered since had to make room for another.
    pub fn has_overflowed(&self) -> bool {
        self.overflowed.load(Ordering::Relaxed)
    }

    fn unknown(&self) -> MutexGuard<'_, Unknown> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens in no row, in two generations: when the younger one is full or old enough, it becomes the older, and what was that is
/// forgotten. A flood of guessed tokens fills it with what nobody asks for again, so that what an entry costs counts, and which of
/// them is asked for most does not.
struct Unknown {
    young: HashSet<Key>,
    old: HashSet<Key>,
    /// When the young generation began.
    since: Instant,
    /// When the old one is too old.
    old_until: Instant,
}

impl Unknown {
    fn since(since: Instant) -> Self {
        Unknown { young: HashSet::new(), old: HashSet::new(), since, old_until: since }
    }

    fn contains(&self, token: &Key, now: Instant) -> bool {
        (now < self.since + 2 * UNKNOWN_FOR && self.young.contains(token))
            || (now < self.old_until && self.old.contains(token))
    }

    /// Returns what is forgotten.
    fn insert(&mut self, token: Key, now: Instant) -> [HashSet<Key>; 2] {
        let mut forgotten = [HashSet::new(), HashSet::new()];
        let age = now.saturating_duration_since(self.since);
        if age >= UNKNOWN_FOR || self.young.len() >= UNKNOWN / 2 {
            let (old, young) = (mem::take(&mut self.old), mem::take(&mut self.young));
            if age >= 2 * UNKNOWN_FOR {
                forgotten = [old, young];
            } else {
                forgotten = [old, HashSet::new()];
                self.old = young;
                self.old_until = self.since + 2 * UNKNOWN_FOR;
            }
            self.since = now;
        }
        self.young.insert(token);
        forgotten
    }

    fn len(&self, now: Instant) -> usize {
        let young = if now < self.since + 2 * UNKNOWN_FOR { self.young.len() } else { 0 };
        let old = if now < self.old_until { self.old.len() } else { 0 };
        young + old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(token: &str) -> Key {
        Key::of(token, false)
    }

    #[test]
    fn case_is_folded_as_the_column_does() {
        let tokens = Tokens::new(10, Some(0));
        tokens.remember(Key::of("abc", true), 7);
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
        let tokens = Tokens::new(10, Some(0));
        assert!(tokens.is_unknown(&key("")));
        assert!(tokens.is_unknown(&key(&"a".repeat(256))));
        assert!(!tokens.is_unknown(&key(&"a".repeat(255))));
    }

    #[test]
    fn too_many_rows_are_noticed() {
        let tokens = Tokens::new(10, Some(0));
        for id in 0..10 {
            tokens.remember(key(&id.to_string()), id);
        }
        tokens.settle();
        assert!(!tokens.has_overflowed());
        tokens.remember(key("one more"), 10);
        tokens.settle();
        assert!(tokens.has_overflowed());
        assert_eq!(tokens.row(&key("one more")), Some(10));
    }

    #[test]
    fn the_unknown_are_forgotten_in_time() {
        let began = Instant::now();
        let mut unknown = Unknown::since(began);
        let at = |seconds| began + Duration::from_secs(seconds);
        unknown.insert(key("first"), at(0));
        unknown.insert(key("second"), at(9));
        for (seconds, known) in [(9, true), (18, true), (20, false)] {
            assert_eq!(unknown.contains(&key("second"), at(seconds)), known, "nothing else came: {seconds}");
        }
        unknown.insert(key("third"), at(19));
        for (token, seconds, known) in [
            ("first", 19, true),
            ("first", 20, false),
            ("second", 19, true),
            ("second", 20, false),
            ("third", 38, true),
        ] {
            assert_eq!(unknown.contains(&key(token), at(seconds)), known, "{token} after {seconds}");
        }
        assert_eq!((unknown.len(at(19)), unknown.len(at(20)), unknown.len(at(39))), (3, 1, 0));
        let [_, young] = unknown.insert(key("fourth"), at(40));
        assert!(young.contains(&key("third")));
        assert!(!unknown.contains(&key("third"), at(40)) && unknown.contains(&key("fourth"), at(40)));
        assert_eq!(unknown.len(at(40)), 1);
    }

    #[test]
    fn used_tokens_make_room_unless_something_hangs_on_them() {
        let rotate = |used_for| {
            let tokens = Tokens::new(80, used_for);
            tokens.remember(key("idle"), 1);
            tokens.remember(key("0"), 2);
            for count in 1..1000 {
                tokens.remember(key(&count.to_string()), count + 2);
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
            tokens.begin_reading();
            assert!(!tokens.has_overflowed());
        }
    }

    #[test]
    fn what_a_new_reading_does_not_find_makes_room() {
        let tokens = Tokens::new(10, None);
        let all = |of: &str| (0..10).for_each(|id| tokens.remember(key(&format!("{of}{id}")), id));
        all("dead");
        tokens.remember(key("one more"), 10);
        tokens.settle();
        assert!(tokens.has_overflowed());
        tokens.begin_reading();
        all("live");
        tokens.settle();
        assert!(!tokens.has_overflowed(), "{:?}", tokens.sizes());
        assert!((0..10).all(|id| tokens.row(&key(&format!("live{id}"))) == Some(id)));
        tokens.remember(key("one more"), 10);
        tokens.settle();
        assert!(tokens.has_overflowed());
    }

    #[test]
    fn the_unknown_take_no_more_than_their_room() {
        let now = Instant::now();
        let mut unknown = Unknown::since(now);
        for token in 0..3 * UNKNOWN {
            unknown.insert(key(&token.to_string()), now);
            assert!(unknown.len(now) <= UNKNOWN);
        }
        assert!(unknown.contains(&key(&(3 * UNKNOWN - 1).to_string()), now));
        assert!(!unknown.contains(&key("0"), now));
    }
}
