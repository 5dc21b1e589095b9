//! One further site of a network that is in use.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Verdicts;
use crate::refresh::epochs::Epochs;
use crate::refresh::refresher::Refresher;
use crate::verify::kept::{self, Kept};
use crate::wordpress::database::until_stopped;

/// How long a call waits for its site's first check.
const PATIENCE: Duration = Duration::from_millis(500);

/// A site with its background work.
pub struct InUse {
    pub refresher: Arc<Refresher>,
    epochs: Arc<Epochs>,
    kept: Option<Arc<Kept>>,
    state: Mutex<State>,
    /// Whether the first check since the site woke up is done.
    looked_at: Arc<watch::Sender<bool>>,
}

struct State {
    /// When it had its last call.
    used: Instant,
    /// Ends the background work; `None` while none runs.
    awake: Option<CancellationToken>,
    /// The number of reloads that it has taken into account.
    reloads: u64,
    is_gone: bool,
}

impl InUse {
    pub(super) fn new(refresher: Refresher, epochs: Epochs, kept: Option<Arc<Kept>>, reloads: u64) -> Self {
        let state = State { used: Instant::now(), awake: None, reloads, is_gone: false };
        InUse {
            refresher: Arc::new(refresher),
            epochs: Arc::new(epochs),
            kept,
            state: Mutex::new(state),
            looked_at: Arc::new(watch::Sender::new(false)),
        }
    }

    /// The time since the last call.
    pub fn idled(&self) -> Duration {
        self.idled_at(Instant::now())
    }

    /// The same, as of `now`.
    pub(super) fn idled_at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.state().used)
    }

    /// Notes a call, and starts the background work if it is not running.
    pub fn used(&self, verdicts: &Verdicts) {
        let mut state = self.state();
        state.used = Instant::now();
        let reloads = verdicts.reloads();
        if std::mem::replace(&mut state.reloads, reloads) < reloads {
            self.refresher.verification.reloaded();
        }
        if state.awake.is_none() && !state.is_gone {
            let stop = CancellationToken::new();
            self.look_after(&stop);
            state.awake = Some(stop);
        }
    }

    /// Whether the background work is running.
    pub fn is_awake(&self) -> bool {
        self.state().awake.is_some()
    }

    /// Whether the first check since the site woke up is done.
    pub(super) fn is_known(&self) -> bool {
        self.is_awake() && (!self.refresher.verification.is_on() || *self.looked_at.borrow())
    }

    /// The same, after waiting for it for at most [`PATIENCE`].
    pub async fn is_looked_at(&self) -> bool {
        if self.is_known() {
            return true;
        }
        let mut looked_at = self.looked_at.subscribe();
        timeout(PATIENCE, looked_at.wait_for(|is| *is)).await.is_ok_and(|waited| waited.is_ok())
    }

    /// Ends the background work until the next call.
    pub(super) fn fall_asleep(&self) {
        let mut state = self.state();
        self.stop(&mut state);
    }

    /// Ends the background work for good and keeps the verdict. Calls in progress finish.
    pub(super) fn let_go(&self, verdicts: &Verdicts) {
        let mut state = self.state();
        state.is_gone = true;
        self.stop(&mut state);
        let verification = &self.refresher.verification;
        if let Some(blog) = self.refresher.sites.blog()
            && verification.is_on()
        {
            verdicts.put(blog.id, verification.verdict());
        }
    }

    fn stop(&self, state: &mut State) {
        if let Some(awake) = state.awake.take() {
            awake.cancel();
            self.looked_at.send_replace(false);
        }
    }

    fn look_after(&self, stop: &CancellationToken) {
        let tasks = &self.refresher.tasks;
        let refresher = || Arc::clone(&self.refresher);
        let filled = refresher();
        tasks.spawn(until_stopped(stop.clone(), async move { filled.keep_live_tokens_filled().await }));
        let trying = refresher();
        tasks.spawn(until_stopped(stop.clone(), async move { trying.standing.keep_trying().await }));
        if !self.refresher.verification.is_on() {
            return;
        }
        let (looking, epochs, looked_at) = (refresher(), Arc::clone(&self.epochs), Arc::clone(&self.looked_at));
        let is_awake = stop.clone();
        let looking = async move {
            let looked = || {
                if !is_awake.is_cancelled() {
                    looked_at.send_replace(true);
                }
            };
            epochs.keep_looking(&looking, looked).await;
        };
        tasks.spawn(until_stopped(stop.clone(), looking));
        let watching = refresher();
        tasks.spawn(until_stopped(stop.clone(), async move { watching.row_watch.keep_watching(&watching).await }));
        if let Some(kept) = self.kept.clone() {
            tasks.spawn(kept::keep(Arc::clone(&self.refresher.verification), kept, stop.clone()));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(awake) = state.awake.take() {
            awake.cancel();
        }
    }
}
