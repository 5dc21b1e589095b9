//! The end of the program in order: stop accepting, tell connections to end after what is in flight, wait up to the
//! deadline for what is tracked, then leave.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Shared by everything that has to end.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Cancelled when draining begins.
    pub begun: CancellationToken,
    limit: Duration,
    deadline: Arc<OnceLock<Instant>>,
}

impl Drain {
    /// `limit` is `[shutdown] drain_timeout`.
    pub fn new(limit: Duration) -> Self {
        Drain { begun: CancellationToken::new(), limit, deadline: Arc::default() }
    }

    /// Begins, once.
    pub fn begin(&self) {
        self.deadline.get_or_init(|| Instant::now() + self.limit);
        self.begun.cancel();
    }

    /// Waits until draining begins and returns the moment at which it must be over.
    pub async fn deadline(&self) -> Instant {
        self.begun.cancelled().await;
        *self.deadline.get_or_init(|| Instant::now() + self.limit)
    }
}
