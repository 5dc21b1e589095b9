//! Limits the exchanges in flight, per client address and in all. Each holds a permit of both from
//! before its upload is read until its response was sent or its tunnel has ended. An HTTP/1
//! response counts as sent once its last bytes are in its connection's buffer, see
//! [`crate::connection::http1`].
//!
//! SECURITY: an exchange holds memory and a connection to the upstream for as long as its client
//! chooses to read slowly.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// What a limit on exchanges in flight applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `[server] max_exchanges_per_connection`.
    Connection,
    /// `[server] max_exchanges_per_address`.
    Address,
    /// `[server] max_exchanges`.
    All,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Connection => "on the client's connection (server.max_exchanges_per_connection)",
            Scope::Address => "for the client's address (server.max_exchanges_per_address)",
            Scope::All => "in all (server.max_exchanges)",
        })
    }
}

/// For so long, as many exchanges as allowed were in flight.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("as many requests as may be were in flight {scope} for {waited:?}")]
pub struct NoPlace {
    pub scope: Scope,
    pub waited: Duration,
}

/// The permits of one exchange, released on drop.
#[derive(Default)]
pub struct Places {
    _of_address: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// Waits at most `limit` for a permit of the client's address and for one of all. `None` is
    /// unlimited.
    ///
    /// # Errors
    /// There was none in time.
    pub async fn take(
        address: Option<&Arc<Semaphore>>,
        all: Option<&Arc<Semaphore>>,
        limit: Duration,
    ) -> Result<Places, NoPlace> {
        Ok(Places {
            // First, so that requests waiting for others of their own address hold no permit that
            // others need.
            _of_address: one(address, limit).await.map_err(|waited| NoPlace { scope: Scope::Address, waited })?,
            _of_all: one(all, limit).await.map_err(|waited| NoPlace { scope: Scope::All, waited })?,
        })
    }
}

/// Waits at most `limit` for one of `places`. A free one is taken without a timer, which is the
/// case for nearly every request.
///
/// # Errors
/// The limit: there was none in time.
pub async fn one(places: Option<&Arc<Semaphore>>, limit: Duration) -> Result<Option<OwnedSemaphorePermit>, Duration> {
    let Some(places) = places else { return Ok(None) };
    if let Ok(place) = Arc::clone(places).try_acquire_owned() {
        return Ok(Some(place));
    }
    match timeout(limit, Arc::clone(places).acquire_owned()).await {
        Ok(place) => Ok(place.ok()),
        Err(_) => Err(limit),
    }
}

/// So many permits; `None`, for unlimited, if the number is zero.
pub fn limited(places: usize) -> Option<Arc<Semaphore>> {
    (places > 0).then(|| Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))))
}
