//! Remembers in which rows the declared meta values of users are.
//!
//! InnoDB finds a user's meta by its user only: to find two values, it reads all rows of the user,
//! of which WordPress alone makes 15. A row that is remembered is read by its id instead, at each
//! refresh, and must still have its user and its key. If it does not, all rows are read.
//!
//! A user who lacks a declared key is not remembered, since a row with that key may be added at any
//! time. For other users, an added row changes nothing: of several rows with one key the first
//! counts (`get_metadata_raw()` in wp-includes/meta.php), and ids grow. So one change remains
//! unnoticed, for at most [`REMEMBERED_FOR`]: that a user gets a second row with a key and the
//! lower id, since another row was renamed in place, or was added with an id of its own. Neither
//! WordPress nor the plugin does that.

use std::hash::RandomState;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

/// How many users are remembered, of all sites together; some 9 MB with two values each.
const MOST_USERS: usize = 65_536;

/// How long a user is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(3_600);

/// With more declared keys, joining all values takes the server no longer.
const MOST_KEYS: usize = 8;

/// The rows of one site's declarations, among those of all sites.
pub struct MetaRows {
    all: Arc<All>,
    /// Distinguishes sites, which declare different keys: a user has roles on each.
    site: u64,
    keys: usize,
    is_given_up: AtomicBool,
}

struct All {
    users: Mutex<Users>,
    sites: AtomicU64,
}

type Users = LruCache<(u64, u64), Remembered, RandomState>;

struct Remembered {
    rows: Box<[u64]>,
    since: Instant,
}

impl MetaRows {
    /// None yet, for `keys` declared keys.
    pub fn new(keys: usize) -> Self {
        let users = Mutex::new(LruCache::unbounded_with_hasher(RandomState::new()));
        MetaRows::of_site(Arc::new(All { users, sites: AtomicU64::new(0) }), keys)
    }

    /// None yet, for `keys` declared keys of another site, which shares the room.
    pub fn of_another_site(&self, keys: usize) -> Self {
        MetaRows::of_site(Arc::clone(&self.all), keys)
    }

    fn of_site(all: Arc<All>, keys: usize) -> Self {
        let site = all.sites.fetch_add(1, Ordering::Relaxed);
        MetaRows { all, site, keys, is_given_up: AtomicBool::new(false) }
    }

    /// The rows of `users`, if those of each are remembered.
    pub fn of(&self, users: impl Iterator<Item = Option<NonZeroU64>>) -> Option<Vec<u64>> {
        self.of_at(users, Instant::now())
    }

    fn of_at(&self, users: impl Iterator<Item = Option<NonZeroU64>>, now: Instant) -> Option<Vec<u64>> {
        if !self.is_used() {
            return None;
        }
        let mut remembered = self.users();
        let mut rows = Vec::new();
        for user in users {
            let found = remembered.get(&(self.site, user?.get()))?;
            if now.saturating_duration_since(found.since) >= REMEMBERED_FOR {
                return None;
            }
            rows.extend_from_slice(&found.rows);
        }
        Some(rows)
    }

    /// All values of the user `user_id` were read; `rows` contain those of the declared keys.
    pub fn remember(&self, user_id: u64, rows: Box<[u64]>) {
        self.remember_at(user_id, rows, Instant::now());
    }

    fn remember_at(&self, user_id: u64, rows: Box<[u64]>, since: Instant) {
        if !self.is_used() {
            return;
        }
        let mut users = self.users();
        users.put((self.site, user_id), Remembered { rows, since });
        if users.len() > MOST_USERS {
            users.pop_lru();
        }
    }

    /// The values of the user `user_id` are no longer in those rows.
    pub fn forget(&self, user_id: u64) {
        self.users().pop(&(self.site, user_id));
    }

    /// Remembers none any more.
    pub fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }

    fn is_used(&self) -> bool {
        (1..=MOST_KEYS).contains(&self.keys) && !self.is_given_up.load(Ordering::Relaxed)
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        // Each change is complete.
        self.all.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows: &MetaRows, users: &[u64], now: Instant) -> Option<Vec<u64>> {
        rows.of_at(users.iter().map(|user| NonZeroU64::new(*user)), now)
    }

    #[test]
    fn all_users_of_a_group_must_be_remembered() {
        let (rows, now) = (MetaRows::new(2), Instant::now());
        rows.remember(7, Box::new([70, 71]));
        rows.remember(8, Box::new([80, 85]));
        assert_eq!(of(&rows, &[8, 7, 8], now), Some(vec![80, 85, 70, 71, 80, 85]));
        assert_eq!(of(&rows, &[7, 9], now), None);
        // The user of a row may be unknown.
        assert_eq!(of(&rows, &[7, 0], now), None);
        rows.forget(7);
        assert_eq!((of(&rows, &[7], now), of(&rows, &[8], now)), (None, Some(vec![80, 85])));
        rows.give_up();
        rows.remember(9, Box::new([90, 91]));
        assert_eq!((of(&rows, &[8], now), of(&rows, &[9], now)), (None, None));
    }

    #[test]
    fn sites_share_the_room_and_nothing_else() {
        let (first, now) = (MetaRows::new(1), Instant::now());
        let second = first.of_another_site(1);
        first.remember(7, Box::new([70]));
        assert_eq!(of(&second, &[7], now), None);
        second.remember(7, Box::new([71]));
        assert_eq!((of(&first, &[7], now), of(&second, &[7], now)), (Some(vec![70]), Some(vec![71])));
        for user in 0..MOST_USERS as u64 {
            second.remember(1_000 + user, Box::new([user]));
        }
        assert_eq!((of(&first, &[7], now), second.users().len()), (None, MOST_USERS));
    }

    #[test]
    fn a_user_is_forgotten_after_a_while() {
        let (rows, now) = (MetaRows::new(1), Instant::now());
        rows.remember_at(7, Box::new([70]), now);
        assert!(of(&rows, &[7], now + REMEMBERED_FOR - Duration::from_secs(1)).is_some());
        assert!(of(&rows, &[7], now + REMEMBERED_FOR).is_none());
        // Use does not extend it, reading all values does.
        rows.remember_at(7, Box::new([70]), now + REMEMBERED_FOR);
        assert!(of(&rows, &[7], now + REMEMBERED_FOR).is_some());
    }

    #[test]
    fn without_keys_or_with_very_many_nothing_is_remembered() {
        for keys in [0, MOST_KEYS + 1] {
            let rows = MetaRows::new(keys);
            rows.remember(7, vec![1; keys].into());
            assert_eq!(of(&rows, &[7], Instant::now()), None);
        }
    }
}
