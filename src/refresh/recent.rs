//! Keeps the access tokens of the last rotations whose signatures cannot be made again (ES256 and
//! ES384), for replays by this process.
//!
//! The rows decide about a replay as for other algorithms: an access token is returned only if its
//! hash is that of the family's only live row. It is put here before its row is committed, since
//! another call may find the old row used as soon as the server has the commit, before its result
//! arrives here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::sleep;

use crate::config::Secret;

/// How many token families are kept. With an access token of half a kilobyte this is 20 MiB at
/// most, and fills within 10 s at 3,000 rotations a second; then the least recently used is
/// dropped, and its replay is refused as by another process.
const FAMILIES: u64 = 32_768;

/// Access tokens per family. There are several only while it is unknown whether the last rotation
/// was stored.
const OF_ONE_FAMILY: usize = 4;

/// How often expired entries are freed.
const SWEEP: Duration = Duration::from_secs(1);

/// The access tokens, by `token_family`.
// SECURITY: no Debug. A family is not secret (the log shows part of it); its access token is.
pub struct Recent {
    families: Cache<String, Arc<[Kept]>>,
    interval: Duration,
}

#[derive(Clone)]
struct Kept {
    access_token: Arc<Secret>,
    until: Instant,
}

impl Recent {
    /// An empty table, whose entries expire after `interval`.
    pub fn new(interval: Duration) -> Self {
        let families = Cache::builder()
            .max_capacity(FAMILIES)
            .time_to_live(interval)
            // Replays are of the newest entries.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Recent { families, interval }
    }

    /// How long entries are kept.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// A rotation is about to be stored.
    pub fn put(&self, family: &str, access_token: &str) {
        self.put_at(family, access_token, Instant::now());
    }

    fn put_at(&self, family: &str, access_token: &str, now: Instant) {
        let access_token = Arc::new(Secret::new(access_token));
        self.families.entry_by_ref(family).and_upsert_with(|known| {
            let mut kept: Vec<Kept> = known.map(|known| known.into_value().to_vec()).unwrap_or_default();
            // A rotation that is retried does not sign a second time.
            kept.retain(|other| other.until > now && other.access_token != access_token);
            kept.push(Kept { access_token: Arc::clone(&access_token), until: now + self.interval });
            let surplus = kept.len().saturating_sub(OF_ONE_FAMILY);
            kept.drain(..surplus).for_each(drop);
            kept.into()
        });
    }

    /// The rotation is stored: the family's earlier access tokens are revoked.
    pub fn stored(&self, family: &str, access_token: &str) {
        let Some(kept) = self.families.get(family) else { return };
        if kept.len() > 1 {
            // Later entries may belong to the next rotation, which is about to be stored.
            self.families.entry_by_ref(family).and_upsert_with(|known| {
                let mut known = known.map(|known| known.into_value().to_vec()).unwrap_or_default();
                let earlier = known.iter().position(|one| one.access_token.expose() == access_token).unwrap_or(0);
                known.drain(..earlier).for_each(drop);
                known.into()
            });
        }
    }

    /// The family's access token for which `is_it` holds.
    pub fn find(&self, family: &str, is_it: impl Fn(&str) -> bool) -> Option<Arc<Secret>> {
        self.find_at(family, is_it, Instant::now())
    }

    fn find_at(&self, family: &str, is_it: impl Fn(&str) -> bool, now: Instant) -> Option<Arc<Secret>> {
        let kept = self.families.get(family)?;
        let found = kept.iter().find(|one| one.until > now && is_it(one.access_token.expose()));
        found.map(|one| Arc::clone(&one.access_token))
    }

    /// The family has no live token any more.
    pub fn forget(&self, family: &str) {
        self.families.invalidate(family);
    }

    /// Frees expired entries every second. Never returns.
    pub async fn keep_swept(&self) {
        loop {
            sleep(SWEEP).await;
            self.sweep();
        }
    }

    /// Frees expired entries: moka does so only during other calls.
    fn sweep(&self) {
        self.families.run_pending_tasks();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(400);

    fn found(recent: &Recent, token: &str, now: Instant) -> bool {
        recent.find_at("family", |kept| kept == token, now).is_some_and(|found| found.expose() == token)
    }

    #[test]
    fn an_access_token_is_kept_for_the_interval_and_no_longer() {
        let (recent, begun) = (Recent::new(INTERVAL), Instant::now());
        recent.put_at("family", "first", begun);
        assert!(found(&recent, "first", begun + INTERVAL / 2));
        assert!(!found(&recent, "first", begun + INTERVAL), "its time is over");
        assert!(!found(&recent, "another", begun));
        assert!(recent.find("other family", |_| true).is_none());
        // Another rotation of the family does not extend its life.
        recent.put_at("family", "second", begun + INTERVAL / 2);
        assert!(found(&recent, "first", begun + INTERVAL / 2) && found(&recent, "second", begun + INTERVAL / 2));
        assert!(!found(&recent, "first", begun + INTERVAL));
        assert!(found(&recent, "second", begun + INTERVAL));
        // Its memory is freed after that time even if no call looks for it.
        std::thread::sleep(INTERVAL + Duration::from_millis(50));
        recent.sweep();
        assert_eq!(recent.families.entry_count(), 0);
    }

    #[test]
    fn what_is_stored_takes_the_place_of_what_was_before() {
        let (recent, now) = (Recent::new(INTERVAL), Instant::now());
        recent.put_at("family", "first", now);
        recent.put_at("family", "failed", now);
        recent.put_at("family", "second", now);
        assert!(found(&recent, "first", now), "it lives while the next is not stored");
        recent.stored("family", "second");
        assert!(found(&recent, "second", now));
        assert!(!found(&recent, "first", now) && !found(&recent, "failed", now));
        recent.put_at("family", "third", now);
        recent.stored("family", "second");
        assert!(found(&recent, "second", now) && found(&recent, "third", now), "the next is about to be stored");
        recent.stored("family", "gone");
        assert!(found(&recent, "third", now));
        recent.forget("family");
        assert!(!found(&recent, "second", now));
    }

    #[test]
    fn what_a_family_takes_is_bounded() {
        let (recent, now) = (Recent::new(INTERVAL), Instant::now());
        for number in 0..100 {
            recent.put_at("family", &format!("token {number}"), now);
            recent.put_at("family", &format!("token {number}"), now);
        }
        assert_eq!(recent.families.get("family").unwrap().len(), OF_ONE_FAMILY);
        assert!(found(&recent, "token 99", now) && found(&recent, "token 96", now) && !found(&recent, "token 95", now));
    }
}
