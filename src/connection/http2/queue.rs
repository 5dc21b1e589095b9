//! Limits how many requests of one HTTP/2 connection are in flight at once. The others wait in
//! order, before they take a connection to the upstream and before their upload is read, like
//! pipelined requests of HTTP/1.1.
//!
//! SECURITY: with one connection, a client that reads nothing holds a connection to the upstream
//! and a send buffer for each request in flight.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::RECEIVE_WINDOW;
use crate::admission::places::{self, NoPlace, Scope};

/// How many bytes of waiting uploads may fill the connection's window. Requests in flight need the
/// rest: if waiting uploads filled the window, no upload would move, and each would wait for the
/// others.
const WAITING_UPLOADS: u64 = (RECEIVE_WINDOW / 2) as u64;

/// How long a web server waits for the body of a stalled request: Apache's mod_reqtimeout for 20 s.
const PATIENCE_OF_UPSTREAMS: Duration = Duration::from_secs(20);

/// How long a waiting upload may keep the window from those in flight: half of the time that those
/// may stall, so that they continue after it is refused. `idle` is `[server] request_body_idle`.
pub fn upload_limit(idle: Duration) -> Duration {
    idle.min(PATIENCE_OF_UPSTREAMS) / 2
}

/// The permits of one connection.
pub struct Queue {
    /// `None`: as many as there are streams.
    places: Option<Arc<Semaphore>>,
    /// Bytes that the client may have sent of waiting uploads.
    uploads: Cell<u64>,
}

impl Queue {
    /// Zero is unlimited.
    pub fn new(places: usize) -> Self {
        Queue { places: places::limited(places), uploads: Cell::new(0) }
    }

    /// Waits for a permit without a time limit: other requests of the same client hold them, and
    /// those have limits of their own. An upload beyond [`WAITING_UPLOADS`] waits for at most
    /// [`upload_limit`].
    ///
    /// # Errors
    /// That limit has passed.
    pub async fn place<B: Body>(
        &self,
        request: &Request<B>,
        limit: Duration,
    ) -> Result<Option<OwnedSemaphorePermit>, NoPlace> {
        let Some(places) = &self.places else { return Ok(None) };
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return Ok(Some(place));
        }
        let length = request.body().size_hint().exact().unwrap_or(u64::MAX).min(u64::from(RECEIVE_WINDOW));
        let waiting = Waiting::new(&self.uploads, length);
        if waiting.uploads.get() <= WAITING_UPLOADS {
            return Ok(Arc::clone(places).acquire_owned().await.ok());
        }
        let place = places::one(Some(places), limit).await;
        place.map_err(|waited| NoPlace { scope: Scope::Connection, waited })
    }
}

/// A waiting upload. Dropped, for instance because the client has cancelled it, it no longer
/// counts.
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
        assert!(matches!(error, NoPlace { scope: Scope::Connection, waited: LIMIT }));
        assert_eq!(queue.uploads.get(), 0);
    }

    #[test]
    fn uploads_in_flight_outlast_those_that_wait() {
        let limit = |idle| upload_limit(Duration::from_secs(idle)).as_secs();
        assert_eq!((limit(60), limit(8)), (10, 4));
    }

    #[tokio::test]
    async fn without_a_limit_nothing_waits() {
        let queue = Queue::new(0);
        for _ in 0..1_000 {
            assert!(queue.place(&upload(0), LIMIT).await.unwrap().is_none());
        }
    }
}
