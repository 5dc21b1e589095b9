//! The parts of the native refresh, and what the log says of a call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::analytics::{Analytics, Event, EventResult};
use super::blogs::{Blogs, Tally};
use super::comparison::Comparisons;
use super::counters::Counters;
use super::group::Groups;
use super::lookup::LookUps;
use super::rate_limit::RateLimiter;
use super::recent::Recent;
use super::replay::Reuse;
use super::row_watch::RowWatch;
use super::standing::Standing;
use super::store::Store;
use crate::config::ResponseFields;
use crate::verify::Verification;
use crate::wordpress::site::Sites;

/// How often it is looked whether the map of tokens is needed and filled.
const LOOK: Duration = Duration::from_secs(1);

/// What the native refresh is made of, shared by all workers.
pub struct Refresher {
    /// `[refresh] response_fields`.
    pub fields: ResponseFields,
    /// What is known of the site.
    pub sites: Arc<Sites>,
    /// Whether native refreshes are what WordPress would have done.
    pub verification: Arc<Verification>,
    /// Comparisons under way.
    pub comparisons: Comparisons,
    /// The site's tables.
    pub store: Arc<Store>,
    /// Finds the rows of tokens.
    pub look_ups: Arc<LookUps>,
    /// Looks at the rows that WordPress writes.
    pub row_watch: RowWatch,
    /// Rotations wait here for their transaction.
    pub groups: Groups,
    /// What the database refuses each time.
    pub standing: Arc<Standing>,
    /// What is done about used tokens.
    pub reuse: Reuse,
    /// What it needs where access tokens cannot be made again; `None` where nothing is given twice.
    pub recent: Option<Arc<Recent>>,
    /// What happened.
    pub counters: Arc<Counters>,
    /// The plugin's limit.
    pub rate_limiter: RateLimiter,
    /// Where events go; `None` when `[refresh] analytics` is off.
    pub analytics: Option<Analytics>,
    /// The database side's runtime.
    pub tasks: Handle,
    /// Reads for calls on hosts that only the client has named, of which there are few at once.
    pub elsewhere: Arc<Semaphore>,
    /// Rotations in flight; a drain waits for them.
    pub rotations: TaskTracker,
    /// The calls for this site.
    pub tally: Arc<Tally>,
    /// The further sites of the network that this is the first one of.
    pub blogs: Option<Arc<Blogs>>,
}

impl Refresher {
    /// Puts down how a call ended, where that is asked for.
    pub(super) fn record(&self, event: Option<Event>, result: EventResult) {
        if let Some((analytics, event)) = self.analytics.as_ref().zip(event) {
            analytics.record(event, result);
        }
    }

    /// Keeps the map of tokens filled while the table has no index on them. Never returns.
    pub async fn keep_live_tokens_filled(&self) {
        loop {
            if let Ok(site) = self.sites.current().await {
                let live_tokens = &self.look_ups.live_tokens;
                // A replica that lags behind has gaps where there are none, and lacks rows that are there.
                if site.columns.indexed || self.store.database.splits_reads() {
                    live_tokens.give_up();
                } else {
                    let read = if live_tokens.needs_filling() {
                        live_tokens.fill(site.columns).await
                    } else if live_tokens.has_fallen_behind() {
                        live_tokens.extend(site.columns, Instant::now(), false).await
                    } else {
                        Ok(())
                    };
                    if let Err(error) = read {
                        debug!(%error, "the tokens of the table could not be read; once more in a moment");
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// What the log says of a call.
// SECURITY: no token, no hash of one, no key.
#[derive(Debug)]
pub struct RefreshLog {
    /// One word.
    pub outcome: &'static str,
    /// The token's user, where it is known.
    pub user: Option<u64>,
    /// The token's family, where it is known.
    pub family: Option<String>,
    /// Why it was left to WordPress.
    pub reason: Option<String>,
}

impl RefreshLog {
    /// Nothing but an outcome.
    pub fn of(outcome: &'static str) -> Self {
        RefreshLog { outcome, user: None, family: None, reason: None }
    }

    /// Left to WordPress for this reason.
    pub(super) fn left(reason: String) -> Self {
        RefreshLog { reason: Some(reason), ..RefreshLog::of("left_to_wordpress") }
    }
}
