//! The end of the program in order: stop accepting, tell connections to end after what is in flight, wait up to the
//! deadline for what is tracked, then leave.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Shared by everything that has to end.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Cancelled when draining begins.
    pub begun: CancellationToken,
    /// Counts the workers with connections and tunnels from before it began.
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

    /// A reload may give another limit, as long as it has not begun.
    pub fn change_limit(&self, limit: Duration) {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = limit;
    }

    /// When it must be over: set once, by the first who asks.
    pub fn end(&self) -> Instant {
        let limit = *self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        *self.deadline.get_or_init(|| Instant::now() + limit)
    }

    /// Begins, once.
    pub fn begin(&self) {
        self.end();
        self.begun.cancel();
    }

    /// Waits until draining begins and returns the moment at which it must be over.
    pub async fn deadline(&self) -> Instant {
        self.begun.cancelled().await;
        self.end()
    }
}
