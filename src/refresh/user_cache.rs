//! Remembers of each user what the next refresh probably needs again: the rows of declared meta
//! values, and the claims of the last token. Both only save work, since what is remembered is compared
//! with what the database contains under the token's lock.
//!
//! **Rows.** InnoDB finds a user's meta by its user only: to find two values, it reads all rows of
//! the user, of which WordPress alone makes 15. A row that is remembered is read by its id instead,
//! at each refresh, and must still have its user and its key. If it does not, all rows are read. The
//! rows of a user who lacks a declared key are not remembered, since a row with that key may be added
//! at any time. For other users, an added row changes nothing: of several rows with one key the first
//! counts (`get_metadata_raw()` in wp-includes/meta.php), and ids grow. So one change remains
//! unnoticed, for at most [`REMEMBERED_FOR`]: that a user gets a second row with a key and a lower
//! id. SQL can bring that about (a row that is renamed or given to another user in place, or comes
//! from a dump), and so can two connections that add the same key at the same moment, if the one with
//! the lower id commits last. WordPress and the plugin update the row that exists.
//!
//! **Claims.** By those of the last token, the next is signed before its row is locked: all rotations
//! that wait for the same turn would wait for the signature.

use std::hash::RandomState;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use serde_json::Value;

/// How many users are remembered, of all sites together; some 18 MB with two values and a claim
/// each.
const MOST_USERS: usize = 65_536;

/// How long the rows of a user are remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(3_600);

/// The longest claims that are remembered, in bytes of JSON.
const LONGEST_CLAIMS: usize = 128;

/// The users of one site, among those of all sites.
// SECURITY: no Debug. It contains data of users.
pub struct UserCache {
    all: Arc<All>,
    /// Distinguishes sites, which declare different keys: a user has roles on each.
    site: u64,
}

struct All {
    users: Mutex<Users>,
    sites: AtomicU64,
}

type Users = LruCache<(u64, u64), Remembered, RandomState>;

#[derive(Default)]
struct Remembered {
    meta_rows: Option<(Box<[u64]>, Instant)>,
    /// JSON, which takes less memory than values.
    claims: Option<Box<str>>,
}

impl UserCache {
    /// An empty cache.
    pub fn new() -> Self {
        let users = Mutex::new(LruCache::unbounded_with_hasher(RandomState::new()));
        UserCache { all: Arc::new(All { users, sites: AtomicU64::new(1) }), site: 0 }
    }

    /// An empty cache for another site, which shares the room.
    pub fn of_another_site(&self) -> Self {
        let site = self.all.sites.fetch_add(1, Ordering::Relaxed);
        UserCache { all: Arc::clone(&self.all), site }
    }

    /// The rows with the declared meta values of `users`, if those of each are remembered.
    pub fn meta_rows(&self, users: impl Iterator<Item = Option<NonZeroU64>>) -> Option<Vec<u64>> {
        self.meta_rows_at(users, Instant::now())
    }

    fn meta_rows_at(&self, users: impl Iterator<Item = Option<NonZeroU64>>, now: Instant) -> Option<Vec<u64>> {
        let mut remembered = self.users();
        let mut rows = Vec::new();
        for user in users {
            let (of_user, since) = remembered.get(&(self.site, user?.get()))?.meta_rows.as_ref()?;
            if now.saturating_duration_since(*since) >= REMEMBERED_FOR {
                return None;
            }
            rows.extend_from_slice(of_user);
        }
        Some(rows)
    }

    /// All meta values of the user `user_id` were read; `rows` contain those of the declared keys,
    /// or some are missing (`None`).
    pub fn note_meta_rows(&self, user_id: u64, rows: Option<Box<[u64]>>) {
        self.note_meta_rows_at(user_id, rows, Instant::now());
    }

    fn note_meta_rows_at(&self, user_id: u64, rows: Option<Box<[u64]>>, now: Instant) {
        self.note(user_id, rows.map(|rows| (rows, now)), |user| &mut user.meta_rows);
    }

    /// The declared claims of the user's last token, in their order.
    pub fn claims(&self, user_id: u64) -> Option<Vec<Value>> {
        let json = self.users().get(&(self.site, user_id))?.claims.clone()?;
        serde_json::from_str(&json).ok()
    }

    /// The user's token was signed with these `claims`.
    pub fn note_claims(&self, user_id: u64, claims: &[&Value]) {
        let json = serde_json::to_string(claims).ok().filter(|json| json.len() <= LONGEST_CLAIMS);
        self.note(user_id, json.map(Into::into), |user| &mut user.claims);
    }

    fn note<T>(&self, user_id: u64, noted: Option<T>, field: impl Fn(&mut Remembered) -> &mut Option<T>) {
        let key = (self.site, user_id);
        let mut users = self.users();
        if let Some(user) = users.get_mut(&key) {
            *field(user) = noted;
        } else if noted.is_some() {
            let mut user = Remembered::default();
            *field(&mut user) = noted;
            users.put(key, user);
            if users.len() > MOST_USERS {
                users.pop_lru();
            }
        }
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        // Each change is complete.
        self.all.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows_of(cache: &UserCache, users: &[u64], now: Instant) -> Option<Vec<u64>> {
        cache.meta_rows_at(users.iter().map(|user| NonZeroU64::new(*user)), now)
    }

    fn note(cache: &UserCache, user: u64, rows: &[u64]) {
        cache.note_meta_rows(user, Some(rows.into()));
    }

    #[test]
    fn all_users_of_a_group_must_be_remembered() {
        let (cache, now) = (UserCache::new(), Instant::now());
        note(&cache, 7, &[70, 71]);
        note(&cache, 8, &[80, 85]);
        assert_eq!(rows_of(&cache, &[8, 7, 8], now), Some(vec![80, 85, 70, 71, 80, 85]));
        assert_eq!(rows_of(&cache, &[7, 9], now), None);
        // The user of a row may be unknown.
        assert_eq!(rows_of(&cache, &[7, 0], now), None);
        cache.note_meta_rows(7, None);
        assert_eq!((rows_of(&cache, &[7], now), rows_of(&cache, &[8], now)), (None, Some(vec![80, 85])));
        // A user of whom nothing is known takes no room.
        cache.note_meta_rows(9, None);
        assert_eq!(cache.users().len(), 2);
    }

    #[test]
    fn sites_share_the_room_and_nothing_else() {
        let (first, now) = (UserCache::new(), Instant::now());
        let second = first.of_another_site();
        note(&first, 7, &[70]);
        first.note_claims(7, &[&json!("editor")]);
        assert_eq!((rows_of(&second, &[7], now), second.claims(7)), (None, None));
        note(&second, 7, &[71]);
        assert_eq!((rows_of(&first, &[7], now), rows_of(&second, &[7], now)), (Some(vec![70]), Some(vec![71])));
        for user in 0..MOST_USERS as u64 {
            note(&second, 1_000 + user, &[user]);
        }
        assert_eq!((rows_of(&first, &[7], now), first.claims(7)), (None, None));
        assert_eq!(second.users().len(), MOST_USERS);
    }

    #[test]
    fn the_rows_of_a_user_are_forgotten_after_a_while() {
        let (cache, now) = (UserCache::new(), Instant::now());
        cache.note_meta_rows_at(7, Some(Box::new([70])), now);
        assert!(rows_of(&cache, &[7], now + REMEMBERED_FOR - Duration::from_secs(1)).is_some());
        assert!(rows_of(&cache, &[7], now + REMEMBERED_FOR).is_none());
        // Use does not extend it, reading all values does.
        cache.note_meta_rows_at(7, Some(Box::new([70])), now + REMEMBERED_FOR);
        assert!(rows_of(&cache, &[7], now + REMEMBERED_FOR).is_some());
    }

    #[test]
    fn short_claims_are_remembered_beside_rows() {
        let cache = UserCache::new();
        let claims = [json!(["editor", "Łódź\""]), json!(7), json!(null), json!({"a": false})];
        cache.note_claims(7, &claims.each_ref());
        note(&cache, 7, &[70]);
        assert_eq!(cache.claims(7).as_deref(), Some(&claims[..]));
        assert!(rows_of(&cache, &[7], Instant::now()).is_some());
        cache.note_claims(7, &[&json!("x".repeat(LONGEST_CLAIMS))]);
        assert_eq!(cache.claims(7), None);
    }
}
