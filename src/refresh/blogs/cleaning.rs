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
const MOST: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

impl Blogs {
    /// Cleans up one site after the other. `cleanup` returns what to delete of a site, and `None`
    /// while that is unknown. Never returns.
    pub async fn keep_clean<F: Future<Output = Option<Cleanup>> + Send>(
        &self,
        cleanup: impl Fn(Arc<Refresher>) -> F + Send + Sync,
    ) {
        // Allocates memory as it fills, not at once.
        let mut cleaned: LruCache<u64, Instant> = LruCache::unbounded();
        cleaned.resize(MOST);
        loop {
            for in_use in self.in_use() {
                let refresher = &in_use.refresher;
                let Some(blog) = refresher.sites.blog() else { continue };
                let is_due = cleaned.get(&blog.id).is_none_or(|at| at.elapsed() >= EVERY);
                if !is_due || !in_use.is_awake() {
                    continue;
                }
                // If unknown, the next look tries again.
                let Some(cleanup) = cleanup(Arc::clone(refresher)).await else { continue };
                cleaned.put(blog.id, Instant::now());
                clean_once(refresher, &refresher.sites.installation().table_prefix, cleanup).await;
            }
            sleep(LOOK).await;
        }
    }
}
