//! How many requests of one HTTP/2 connection are in flight at once. The others wait in their order, before they take a
//! connection to the upstream and before their upload is read, as requests that are pipelined in HTTP/1.1 do.
//!
//! SECURITY: a client that reads nothing holds, by one connection, a connection to the upstream and a send buffer for each
//! request in flight.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::RECEIVE_WINDOW;
use crate::error::{ExchangeError, Scope};

/// How much of uploads that wait may lie in the connection's window. What is in flight needs the rest of it: with all of it
/// taken by those that wait, no upload would move, and each would wait for the others.
const WAITING_UPLOADS: u64 = (RECEIVE_WINDOW / 2) as u64;

/// The places of one connection.
pub struct Queue {
    /// `None`: as many as there are streams.
    places: Option<Arc<Semaphore>>,
    /// What clients may have sent of uploads that wait.
    uploads: Cell<u64>,
}

impl Queue {
    /// Zero is any number.
    pub fn new(places: usize) -> Self {
        let places = (places > 0).then(|| Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))));
        Queue { places, uploads: Cell::new(0) }
    }

    /// Waits for a place: for as long as it takes, since it is the client's own requests that are waited for, and those have
    /// limits of their own. An upload that waits beyond [`WAITING_UPLOADS`] does so for `limit`.
    ///
    /// # Errors
    /// That limit has passed.
    pub async fn place<B: Body>(
        &self,
        request: &Request<B>,
        limit: Duration,
    ) -> Result<Option<OwnedSemaphorePermit>, ExchangeError> {
        let Some(places) = &self.places else { return Ok(None) };
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return Ok(Some(place));
        }
        let length = request.body().size_hint().exact().unwrap_or(u64::MAX).min(u64::from(RECEIVE_WINDOW));
        let waiting = Waiting::new(&self.uploads, length);
        let place = Arc::clone(places).acquire_owned();
        if waiting.uploads.get() <= WAITING_UPLOADS {
            return Ok(place.await.ok());
        }
        match timeout(limit, place).await {
            Ok(place) => Ok(place.ok()),
            Err(_) => Err(ExchangeError::TooManyInFlight(Scope::Connection, limit)),
        }
    }
}

/// An upload that waits. Dropped, also because its client has given it up, it does not any more.
struct Waiting<'a> {
    uploads: &'a Cell<u64>,
    length: u64,
}

impl<'a> Waiting<'a> {
    fn new(uploads: &'a Cell<u64>, length: u64) -> Self {
        uploads.set(uploads.get() + length);
        Waiting { uploads, length }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.uploads.set(self.uploads.get() - self.length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::Full;
    use tokio::time::Instant;

    const LIMIT: Duration = Duration::from_secs(3);

    fn upload(length: usize) -> Request<Full<Bytes>> {
        Request::new(Full::new(Bytes::from(vec![b'x'; length])))
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_little_to_send_waits_for_as_long_as_it_takes() {
        let queue = Queue::new(2);
        let _first = queue.place(&upload(0), LIMIT).await.unwrap();
        let second = queue.place(&upload(10 << 20), LIMIT).await.unwrap();
        let (begun, small) = (Instant::now(), upload(1_000));
        let (third, ()) = tokio::join!(queue.place(&small, LIMIT), async {
            tokio::time::sleep(100 * LIMIT).await;
            drop(second);
        });
        assert!(third.unwrap().is_some());
        assert_eq!(begun.elapsed(), 100 * LIMIT);
        assert_eq!(queue.uploads.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn uploads_that_would_take_the_window_from_others_do_not() {
        let queue = Queue::new(1);
        let _first = queue.place(&upload(0), LIMIT).await.unwrap();
        let error = queue.place(&upload(10 << 20), LIMIT).await.map(drop).unwrap_err();
        assert!(matches!(error, ExchangeError::TooManyInFlight(Scope::Connection, LIMIT)));
        assert_eq!(queue.uploads.get(), 0);
    }

    #[tokio::test]
    async fn without_a_limit_nothing_waits() {
        let queue = Queue::new(0);
        for _ in 0..1_000 {
            assert!(queue.place(&upload(0), LIMIT).await.unwrap().is_none());
        }
    }
}
