//! The further sites of a network. Each has a refresher with its own tables, settings and
//! verification. They share connections to the database, memory for tokens, counters and the queue
//! of analytics rows.
//!
//! A site is set up at its first call, and removed after [`IDLE`] without one. Its background work
//! (settings, verification, live tokens) runs only while calls come ([`AWAKE`]), so the cost of a
//! network depends on its refreshes.

mod cleaning;
mod in_use;
mod tally;
mod verdicts;
mod whose;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tracing::debug;

use super::analytics::Table;
use super::comparison::Comparisons;
use super::epochs::Epochs;
use super::group::Groups;
use super::live_tokens::LiveTokens;
use super::lookup::LookUps;
use super::refresher::Refresher;
use super::row_cache::{Budget, RowCache};
use super::row_watch::RowWatch;
use super::standing::Standing;
use super::store::Store;
use crate::config;
use crate::net::dial::Dialer;
use crate::verify::kept::{self, Kept};
use crate::verify::verdict::Verdict;
use crate::verify::{Rules, Verification};
use crate::wordpress::hook_scan::Scanner;
use crate::wordpress::network::Network;
use crate::wordpress::network::blog::Blog;
#[cfg(test)]
pub use cleaning::Cleaned;
pub use in_use::InUse;
pub use tally::{Tallies, Tally};
pub use verdicts::Verdicts;
pub use whose::{NotOurs, Whose};

/// How long a site's background work continues after a call.
const AWAKE: Duration = Duration::from_secs(15);

/// After this time without a call, only the verdict of a site is kept.
const IDLE: Duration = Duration::from_secs(600);

/// The most sites in use; beyond it, the one that has had no call for the longest time is removed.
// SECURITY: a call without a token sets one up, at some 200 KiB.
const MOST: usize = 1024;

/// How many sites may be set up or woken at once; calls for others go to WordPress. Each reads its
/// settings and files.
const AT_ONCE: usize = 16;

/// How often idle sites are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// What sites are set up with.
pub struct Parts {
    pub rules: Rules,
    pub configuration: Arc<(config::Jwt, config::Refresh)>,
    /// Where the first site's verdict is kept: the directory, and the file's name.
    pub kept: Option<(PathBuf, String)>,
    pub verdicts: Arc<Verdicts>,
    pub tallies: Arc<Tallies>,
    pub scanner: Arc<Scanner>,
    pub dialer: Dialer,
}

/// The further sites of one network.
pub struct Blogs {
    network: Arc<Network>,
    budget: Arc<Budget>,
    parts: Parts,
    /// By id, in the order of their last calls.
    in_use: Mutex<LruCache<u64, Arc<InUse>>>,
    at_once: Semaphore,
}

impl Blogs {
    /// Starts with no site in use. The tokens of all share the memory of `budget`.
    pub fn new(network: Arc<Network>, budget: Arc<Budget>, parts: Parts) -> Arc<Self> {
        Arc::new(Blogs {
            network,
            budget,
            parts,
            in_use: Mutex::new(LruCache::unbounded()),
            at_once: Semaphore::new(AT_ONCE),
        })
    }

    /// The network and its sites.
    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// How many calls each site has had.
    pub fn tallies(&self) -> &Arc<Tallies> {
        &self.parts.tallies
    }

    /// Tokens of all sites but the first.
    pub fn tokens(&self) -> usize {
        self.budget.taken()
    }

    /// The sites in use, the one with the last call first.
    pub fn in_use(&self) -> Vec<Arc<InUse>> {
        self.locked().iter().map(|(_, in_use)| Arc::clone(in_use)).collect()
    }

    /// The refresher for a site that is in use and whose first check since it woke up is done.
    fn looked_at(&self, blog: &Arc<Blog>) -> Option<Arc<Refresher>> {
        let in_use = known(&mut self.locked(), blog)?;
        in_use.is_known().then(|| {
            in_use.used(&self.parts.verdicts);
            Arc::clone(&in_use.refresher)
        })
    }

    /// The site in use; sets it up if it is not.
    pub async fn used(&self, main: &Refresher, blog: &Arc<Blog>) -> Arc<InUse> {
        let in_use = known(&mut self.locked(), blog);
        let in_use = match in_use {
            Some(in_use) => in_use,
            None => {
                let kept = self.parts.kept(blog.id);
                // Read from a file, without blocking this thread or calls for other sites.
                let read = self.parts.read(main, blog.id, kept.clone()).await;
                self.put(main, blog, kept, read)
            }
        };
        in_use.used(&self.parts.verdicts);
        in_use
    }

    /// Sets a site up, unless another call has done so in the meantime.
    fn put(&self, main: &Refresher, blog: &Arc<Blog>, kept: Option<Arc<Kept>>, read: Option<Verdict>) -> Arc<InUse> {
        let mut all = self.locked();
        if let Some(in_use) = known(&mut all, blog) {
            return in_use;
        }
        let in_use = Arc::new(self.set_up(main, blog, kept, read));
        let before = all.put(blog.id, Arc::clone(&in_use));
        let too_many = if all.len() > MOST { all.pop_lru().map(|(_, in_use)| in_use) } else { None };
        drop(all);
        for gone in before.into_iter().chain(too_many) {
            gone.let_go(&self.parts.verdicts);
        }
        in_use
    }

    fn set_up(&self, main: &Refresher, blog: &Arc<Blog>, kept: Option<Arc<Kept>>, read: Option<Verdict>) -> InUse {
        debug!(site = blog.place(), "a site of the network is set up");
        let sites = main.sites.of_blog(Arc::clone(blog));
        let installation = sites.installation();
        let declared = main.sites.declared();
        let store = Store::declaring(
            Arc::clone(&main.store.database),
            &installation.table_prefix,
            &installation.users_table,
            declared.reads(),
            installation.usermeta_table.as_deref(),
        );
        let store = Arc::new(store.sharing(&main.store));
        let verification = self.parts.verification(blog, read);
        verification.name(blog.place().into());
        verification.keep_in(kept.clone());
        let row_cache = Arc::new(RowCache::sharing(&self.budget, main.reuse.used_for()));
        let live_tokens =
            Arc::new(LiveTokens::new(Arc::clone(&store), Arc::clone(&row_cache), main.reuse.used_for()).of_many());
        let within = main.tasks.enter();
        let counters = || Arc::clone(&main.counters);
        let look_ups = LookUps::start(Arc::clone(&store), row_cache, live_tokens, counters());
        let standing = Arc::new(Standing::new(Arc::clone(&store)));
        let groups = Groups::start(Arc::clone(&store), Arc::clone(&standing), counters());
        drop(within);
        let table = Table { prefix: installation.table_prefix.clone(), blog_id: blog.id };
        let refresher = Refresher {
            fields: main.fields,
            verification,
            comparisons: Comparisons::new(self.parts.dialer.clone(), &self.parts.configuration.1.verify_ignore_headers),
            row_watch: RowWatch::new(&store.tokens),
            sites,
            store,
            look_ups,
            groups,
            standing,
            reuse: main.reuse,
            recent: main.recent.clone(),
            counters: counters(),
            rate_limiter: main.rate_limiter.of_blog(blog.id),
            analytics: main.analytics.as_ref().map(|analytics| analytics.of_table(table)),
            tasks: main.tasks.clone(),
            elsewhere: Arc::clone(&main.elsewhere),
            rotations: main.rotations.clone(),
            tally: self.parts.tallies.of(blog),
            blogs: None,
        };
        let shared = self.parts.verdicts.shared(blog.id);
        let epochs = Epochs::new(Arc::clone(&self.parts.configuration), Arc::clone(&self.parts.scanner), shared);
        InUse::new(refresher, epochs, kept, self.parts.verdicts.reloads())
    }

    /// Puts idle sites to sleep and removes them. Never returns.
    pub async fn keep_swept(&self) {
        loop {
            sleep(SWEEP).await;
            self.sweep(Instant::now());
        }
    }

    /// The same once, as of `now`.
    pub fn sweep(&self, now: Instant) {
        for gone in self.idle(now) {
            gone.let_go(&self.parts.verdicts);
        }
    }

    /// Removes idle sites from the list and returns them. Puts others to sleep that have had no
    /// call for a while.
    fn idle(&self, now: Instant) -> Vec<Arc<InUse>> {
        let mut all = self.locked();
        let mut gone = Vec::new();
        while let Some((_, oldest)) = all.peek_lru()
            && (oldest.idled_at(now) > IDLE || self.budget.is_exceeded())
        {
            gone.extend(all.pop_lru().map(|(_, in_use)| in_use));
            // Its tokens' memory is returned when it is dropped.
            if self.budget.is_exceeded() {
                break;
            }
        }
        for (_, in_use) in all.iter() {
            if in_use.idled_at(now) > AWAKE {
                in_use.fall_asleep();
            }
        }
        gone
    }

    /// Removes all sites.
    pub fn stop(&self) {
        let all: Vec<Arc<InUse>> = {
            let mut all = self.locked();
            std::iter::from_fn(|| all.pop_lru().map(|(_, in_use)| in_use)).collect()
        };
        for in_use in all {
            in_use.let_go(&self.parts.verdicts);
        }
    }

    fn locked(&self) -> MutexGuard<'_, LruCache<u64, Arc<InUse>>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The site in use for `blog`, which becomes the most recently used one.
fn known(all: &mut LruCache<u64, Arc<InUse>>, blog: &Arc<Blog>) -> Option<Arc<InUse>> {
    all.get(&blog.id).filter(|in_use| in_use.refresher.sites.blog() == Some(blog)).cloned()
}

impl Parts {
    fn kept(&self, blog_id: u64) -> Option<Arc<Kept>> {
        let (directory, name) = self.kept.as_ref()?;
        Some(Kept::new(directory, &kept::name_of_blog(name, blog_id)))
    }

    /// The verdict in a site's file, unless this process has a newer one. A marker there overrides
    /// both.
    async fn read(&self, main: &Refresher, blog_id: u64, kept: Option<Arc<Kept>>) -> Option<Verdict> {
        let (kept, verdicts) = (kept?, Arc::clone(&self.verdicts));
        let read = move || {
            if kept.is_marked() {
                verdicts.take(blog_id);
            }
            if verdicts.has(blog_id) { None } else { kept.read() }
        };
        // The panic hook has logged a panic.
        main.tasks.spawn_blocking(read).await.ok()?
    }

    fn verification(&self, blog: &Blog, read: Option<Verdict>) -> Arc<Verification> {
        match self.verdicts.take(blog.id) {
            Some(verdict) => Verification::continuing(self.rules, verdict),
            None => Verification::new(self.rules, read),
        }
    }
}
