//! The parts of the native refresh, and the log line of a call.

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

/// How often to check whether the map of tokens is needed and filled.
const LOOK: Duration = Duration::from_secs(1);

/// The parts of the native refresh, shared by all workers.
pub struct Refresher {
    /// `[refresh] response_fields`.
    pub fields: ResponseFields,
    /// What is known of the site.
    pub sites: Arc<Sites>,
    /// Whether native refreshes do what WordPress would do.
    pub verification: Arc<Verification>,
    /// Running comparisons.
    pub comparisons: Comparisons,
    /// The site's tables.
    pub store: Arc<Store>,
    /// Finds the rows of tokens.
    pub look_ups: Arc<LookUps>,
    /// Watches the rows that WordPress writes.
    pub row_watch: RowWatch,
    /// Rotations wait here for their transaction.
    pub groups: Groups,
    /// What the database refuses every time.
    pub standing: Arc<Standing>,
    /// How used tokens are handled.
    pub reuse: Reuse,
    /// For replays if access tokens cannot be made again; `None` if nothing is replayed.
    pub recent: Option<Arc<Recent>>,
    /// The counters of native refreshes.
    pub counters: Arc<Counters>,
    /// The plugin's rate limit.
    pub rate_limiter: RateLimiter,
    /// Accepts events; `None` if `[refresh] analytics` is off.
    pub analytics: Option<Analytics>,
    /// The database side's runtime.
    pub tasks: Handle,
    /// Limits the reads for calls on hosts that only the client has named.
    pub elsewhere: Arc<Semaphore>,
    /// Rotations in flight; a drain waits for them.
    pub rotations: TaskTracker,
    /// Counts the calls for this site.
    pub tally: Arc<Tally>,
    /// The further sites of the network, if this is its first one.
    pub blogs: Option<Arc<Blogs>>,
}

impl Refresher {
    /// Records how a call ended, if analytics are on.
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
                // A replica that lags behind shows gaps that do not exist, and lacks existing rows.
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

/// The log line of a call.
// SECURITY: no token, no hash of one, no key.
#[derive(Debug)]
pub struct RefreshLog {
    /// One word.
    pub outcome: &'static str,
    /// The token's user, if known.
    pub user: Option<u64>,
    /// The token's family, if known.
    pub family: Option<String>,
    /// Why it was left to WordPress.
    pub reason: Option<String>,
}

impl RefreshLog {
    /// A line with an outcome only.
    pub fn of(outcome: &'static str) -> Self {
        RefreshLog { outcome, user: None, family: None, reason: None }
    }

    /// Left to WordPress for this reason.
    pub(in crate::refresh) fn left(reason: String) -> Self {
        RefreshLog { reason: Some(reason), ..RefreshLog::of("left_to_wordpress") }
    }
}
