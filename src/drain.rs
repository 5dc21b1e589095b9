//! Ends the program in order: stop accepting, have connections end after the exchanges in flight,
//! wait for the tracked work up to the deadline, then leave.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Shared by everything that must end.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Cancelled when draining begins.
    pub begun: CancellationToken,
    /// Counts the workers with connections and tunnels from before the drain.
    pub earlier: TaskTracker,
    limit: Arc<Mutex<Duration>>,
    deadline: Arc<OnceLock<Instant>>,
}

impl Drain {
    /// `limit` is `[shutdown] drain_timeout`.
    pub fn new(limit: Duration) -> Self {
        let (begun, earlier) = (CancellationToken::new(), TaskTracker::new());
        Drain { begun, earlier, limit: Arc::new(Mutex::new(limit)), deadline: Arc::default() }
    }

    /// Sets another limit after a reload, unless the drain has begun.
    pub fn change_limit(&self, limit: Duration) {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = limit;
    }

    /// The deadline: set by the first call.
    pub fn end(&self) -> Instant {
        let limit = *self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        *self.deadline.get_or_init(|| Instant::now() + limit)
    }

    /// Begins the drain, once.
    pub fn begin(&self) {
        self.end();
        self.begun.cancel();
    }

    /// Waits until the drain begins and returns its deadline.
    pub async fn deadline(&self) -> Instant {
        self.begun.cancelled().await;
        self.end()
    }
}
