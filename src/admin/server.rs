//! An HTTP/1.1 server for a few operators and scrapers: one request per connection, few
//! connections, short times.
//!
//! It runs on its own thread beside the site's listeners, so that neither delays the other.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::answer::Answers;
use crate::config::ListenAddress;
use crate::listen::Listener;
use crate::net::stream::Unregistered;

/// The most connections at once: a few scrapers and a few open pages, with a connection per
/// request. Beyond that a new one replaces another, see [`Places::make_room`].
const MAX_CONNECTIONS: usize = 16;

/// The time for a request's head. Scrapers and browsers send it at once.
const HEAD_LIMIT: Duration = Duration::from_secs(2);

/// The time for a whole connection, from accept to the last byte of the response. Responses are
/// made from memory in milliseconds, and a slow client must not keep a place.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

/// Browsers send about 2 KiB; hyper requires at least this.
const MAX_HEAD: usize = 16 * 1024;

/// Answers on `listener`.
pub async fn serve(listener: Listener, answers: Arc<Answers>) {
    let by_unix_socket = matches!(listener.address, ListenAddress::Unix(_));
    let socket = match listener.register() {
        Ok(socket) => socket,
        Err(error) => return warn!(%error, "the admin listener cannot be used"),
    };
    let mut connections = JoinSet::new();
    let mut places = Places::default();
    loop {
        tokio::select! {
            // Failures are not counted: the counters are about the site's clients.
            (stream, _) = socket.next(|| {}) => {
                places.make_room();
                let has_asked = Arc::<AtomicBool>::default();
                let serving = connection(stream, Arc::clone(&answers), by_unix_socket, Arc::clone(&has_asked));
                places.0.push_back(Place { has_asked, task: connections.spawn(serving) });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The open connections, the oldest first.
#[derive(Default)]
struct Places(VecDeque<Place>);

struct Place {
    /// Whether the head of its request was read.
    has_asked: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Places {
    // SECURITY: connections that send nothing, or half a head, must not keep out a load balancer
    // that asks for `/healthz`.
    /// If all places are taken, closes a connection: the oldest without a request, otherwise the
    /// oldest.
    fn make_room(&mut self) {
        self.0.retain(|place| !place.task.is_finished());
        if self.0.len() < MAX_CONNECTIONS {
            return;
        }
        let silent = self.0.iter().position(|place| !place.has_asked.load(Ordering::Relaxed));
        if let Some(place) = self.0.remove(silent.unwrap_or(0)) {
            place.task.abort();
            debug!("closed a connection to the admin listener: others wait for its place");
        }
    }
}

async fn connection(stream: Unregistered, answers: Arc<Answers>, by_unix_socket: bool, has_asked: Arc<AtomicBool>) {
    let stream = match stream.register() {
        Ok(stream) => stream,
        Err(error) => return debug!(%error, "a connection to the admin listener could not be taken"),
    };
    let service = service_fn(|request: Request<Incoming>| {
        has_asked.store(true, Ordering::Relaxed);
        let answers = Arc::clone(&answers);
        async move {
            let (head, _) = request.into_parts();
            Ok::<Response<Full<Bytes>>, Infallible>(answers.answer(&head, by_unix_socket).await)
        }
    });
    let mut http = http1::Builder::new();
    // A body is never read, so the bytes after it must not be taken as a request.
    http.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(MAX_HEAD);
    let served = timeout(CONNECTION_LIMIT, http.serve_connection(TokioIo::new(stream), service)).await;
    if let Ok(Err(error)) = served {
        debug!(%error, "a connection to the admin listener broke off");
    }
}
