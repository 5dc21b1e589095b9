//! Deletes the old rows of further sites: of each while it has calls, and once an hour at most.
//!
//! Sites that nobody uses are left as they are: a network may have thousands, whose tables would be opened for nothing.

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use tokio::time::sleep;

use super::Blogs;
use crate::refresh::cleanup::{Cleanup, EVERY, clean_once};
use crate::refresh::refresher::Refresher;

/// How often it is looked for sites that have calls: more often than the shortest time for which one is looked after.
const LOOK: Duration = Duration::from_secs(5);

/// Sites whose last cleanup is remembered.
const MOST: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

impl Blogs {
    /// Cleans up one site after the other. `cleanup` says what is to be deleted of one, and `None` where that is not known. Never
    /// returns.
    pub async fn keep_clean<F: Future<Output = Option<Cleanup>> + Send>(
        &self,
        cleanup: impl Fn(Arc<Refresher>) -> F + Send + Sync,
    ) {
        // It takes memory as it fills, not at once.
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
                // Once more soon.
                let Some(cleanup) = cleanup(Arc::clone(refresher)).await else { continue };
                cleaned.put(blog.id, Instant::now());
                clean_once(refresher, &refresher.sites.installation().table_prefix, cleanup).await;
            }
            sleep(LOOK).await;
        }
    }
}
