//! Caches tokens that are in no row.

use std::collections::HashSet;
use std::mem;
use std::time::{Duration, Instant};

use super::Key;

/// How many unknown tokens are remembered: one look-up of a guessed or deleted token need not be
/// repeated at once.
const UNKNOWN: usize = 100_000;

/// The same for one of many sites.
// SECURITY: clients choose on how many sites they guess.
const UNKNOWN_OF_MANY: usize = 2_000;

/// The minimum time that an entry lives while there is room; the maximum is twice as long.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// Tokens in no row, in two generations: when the younger is full or old enough, it becomes the
/// older, which is dropped. A flood of guessed tokens fills the cache with tokens that are not
/// asked for again, so the cost of an entry matters, not which one is asked for most.
pub struct NegativeCache {
    young: HashSet<Key>,
    old: HashSet<Key>,
    /// When the young generation began.
    since: Instant,
    /// When the old generation expires.
    old_until: Instant,
    most: usize,
}

impl NegativeCache {
    /// An empty cache, as of `since`.
    pub fn since(since: Instant) -> Self {
        NegativeCache { young: HashSet::new(), old: HashSet::new(), since, old_until: since, most: UNKNOWN }
    }

    /// The same with the room of one of many sites.
    pub fn small(since: Instant) -> Self {
        NegativeCache { most: UNKNOWN_OF_MANY, ..NegativeCache::since(since) }
    }

    /// Forgets everything. Returns the entries, since there may be many to drop.
    pub fn empty(&mut self, now: Instant) -> Self {
        let most = self.most;
        mem::replace(self, NegativeCache { most, ..NegativeCache::since(now) })
    }

    /// Whether it contains `token`.
    pub fn contains(&self, token: &Key, now: Instant) -> bool {
        (now < self.since + 2 * UNKNOWN_FOR && self.young.contains(token))
            || (now < self.old_until && self.old.contains(token))
    }

    /// Adds a token. Returns the forgotten entries.
    pub fn insert(&mut self, token: Key, now: Instant) -> [HashSet<Key>; 2] {
        let mut forgotten = [HashSet::new(), HashSet::new()];
        let age = now.saturating_duration_since(self.since);
        if age >= UNKNOWN_FOR || self.young.len() >= self.most / 2 {
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

    pub fn len(&self, now: Instant) -> usize {
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
    fn the_unknown_are_forgotten_in_time() {
        let began = Instant::now();
        let mut unknown = NegativeCache::since(began);
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
    fn the_unknown_take_no_more_than_their_room() {
        let now = Instant::now();
        let mut unknown = NegativeCache::since(now);
        for token in 0..3 * UNKNOWN {
            unknown.insert(key(&token.to_string()), now);
            assert!(unknown.len(now) <= UNKNOWN);
        }
        assert!(unknown.contains(&key(&(3 * UNKNOWN - 1).to_string()), now));
        assert!(!unknown.contains(&key("0"), now));
        let mut few = NegativeCache::small(now);
        for token in 0..3 * UNKNOWN_OF_MANY {
            few.insert(key(&token.to_string()), now);
            assert!(few.len(now) <= UNKNOWN_OF_MANY);
        }
        drop(few.empty(now));
        assert_eq!((few.len(now), few.most), (0, UNKNOWN_OF_MANY));
    }
}
