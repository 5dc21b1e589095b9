//! How many exchanges are in flight at once: for one client address, and in all. Each has a place in both from before its
//! upload is read until its answer was sent, or its tunnel has ended; to HTTP/1 an answer counts as sent once its last bytes
//! are in the buffer of its connection, see [`crate::connection::http1`].
//!
//! SECURITY: an exchange holds a connection to the upstream and memory for as long as its client likes to read slowly.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Where exchanges in flight are counted.
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

/// As many exchanges as allowed were in flight for so long.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("as many requests as may be were in flight {scope} for {waited:?}")]
pub struct NoPlace {
    pub scope: Scope,
    pub waited: Duration,
}

/// The places of one exchange. Dropped, they are free.
#[derive(Default)]
pub struct Places {
    _of_address: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// Waits for a place for the client's address and for one in all, at most for `limit`. `None` is not limited.
    ///
    /// # Errors
    /// There was none in time.
    pub async fn take(
        address: Option<&Arc<Semaphore>>,
        all: Option<&Arc<Semaphore>>,
        limit: Duration,
    ) -> Result<Places, NoPlace> {
        Ok(Places {
            // First: those who wait for others of their address must not keep places from the rest.
            _of_address: one(address, limit).await.map_err(|waited| NoPlace { scope: Scope::Address, waited })?,
            _of_all: one(all, limit).await.map_err(|waited| NoPlace { scope: Scope::All, waited })?,
        })
    }
}

/// Waits for one of `places`, at most for `limit`. A free one is taken without a timer: it is there for nearly every request.
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

/// So many places; `None` where the number is zero, which is any number.
pub fn limited(places: usize) -> Option<Arc<Semaphore>> {
    (places > 0).then(|| Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))))
}
