//! Deletes old rows of a network's further sites: of each site while it has calls, at most once an
//! hour.
//!
//! Sites without calls are left alone: a network may have thousands, and the server would open all
//! their tables.

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use tokio::time::sleep;

use super::Blogs;
use crate::refresh::cleanup::{Cleanup, EVERY, clean_once};
use crate::refresh::refresher::Refresher;

/// How often to look for sites that have calls. Shorter than the time for which a site stays awake
/// after a call.
const LOOK: Duration = Duration::from_secs(5);

/// How many sites' last cleanups are remembered.
const MOST: NonZeroUsize = NonZeroUsize::new(10_000).expect("10,000 is not zero");

/// When each site was last cleaned up.
pub struct Cleaned(LruCache<u64, Instant>);

impl Default for Cleaned {
    fn default() -> Self {
        // Allocates memory as it fills, not at once.
        let mut cleaned = LruCache::unbounded();
        cleaned.resize(MOST);
        Cleaned(cleaned)
    }
}

impl Cleaned {
    fn is_due(&mut self, blog_id: u64, now: Instant) -> bool {
        self.0.get(&blog_id).is_none_or(|at| now.saturating_duration_since(*at) >= EVERY)
    }
}

impl Blogs {
    /// Cleans up one site after the other. `cleanup` returns what to delete of a site, and `None`
    /// while that is unknown. Never returns.
    pub async fn keep_clean<F: Future<Output = Option<Cleanup>> + Send>(
        &self,
        cleanup: impl Fn(Arc<Refresher>) -> F + Send + Sync,
    ) {
        let mut cleaned = Cleaned::default();
        loop {
            self.clean_those_due(&mut cleaned, Instant::now(), &cleanup).await;
            sleep(LOOK).await;
        }
    }

    /// One round, as of `now`.
    pub async fn clean_those_due<F: Future<Output = Option<Cleanup>> + Send>(
        &self,
        cleaned: &mut Cleaned,
        now: Instant,
        cleanup: &(impl Fn(Arc<Refresher>) -> F + Send + Sync),
    ) {
        // A round takes minutes, in which sites may be removed: their memory is returned once
        // nothing holds them.
        let ids: Vec<u64> = self.locked().iter().map(|(id, _)| *id).collect();
        for id in ids {
            let Some(refresher) = self.awake(id).filter(|_| cleaned.is_due(id, now)) else { continue };
            // If unknown, the next look tries again.
            let Some(cleanup) = cleanup(Arc::clone(&refresher)).await else { continue };
            cleaned.0.put(id, now);
            clean_once(&refresher, &refresher.sites.installation().table_prefix, cleanup).await;
        }
    }

    /// The refresher of a site whose background work is running. This is no call for the site.
    fn awake(&self, id: u64) -> Option<Arc<Refresher>> {
        let all = self.locked();
        all.peek(&id).filter(|in_use| in_use.is_awake()).map(|in_use| Arc::clone(&in_use.refresher))
    }
}
