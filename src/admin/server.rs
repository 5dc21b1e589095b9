//! HTTP/1.1 for a handful of operators and scrapers: one request a connection, few connections, short times.
//!
//! It stands beside the site's front door on a thread of its own, so that neither keeps the other waiting.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, channel, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::answer::Answers;
use crate::listen::{self, Accepted, Listener, Loop};
use crate::worker::Work;

/// Connections at once: a few scrapers and a few open pages, each with a connection per request. Further ones wait.
const MAX_CONNECTIONS: usize = 16;

/// For a whole connection, from accept to the last byte of the answer. Everything here is made from memory in
/// milliseconds, and whoever takes longer must not keep a place.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

/// Browsers send some 2 KiB; hyper's least.
const MAX_HEAD: usize = 16 * 1024;

/// Answers on `listener` until `stop`, then closes it and what is open.
pub async fn serve(listener: Listener, answers: Arc<Answers>, stop: CancellationToken) {
    let by_unix_socket = matches!(listener.address, crate::config::ListenAddress::Unix(_));
    let (sender, accepted) = unbounded_channel();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // These are no clients of the site, so they count in a shard of their own, which nobody reads.
    let (_nobody_asks, orders) = channel(1);
    let (tls, metrics) = (Arc::default(), Arc::default());
    let around = Loop { tls, permits, workers: vec![sender], metrics, orders, stop: stop.clone() };
    let accepting = listen::accept(listener, around);
    tokio::select! {
        ended = accepting => if let Err(error) = ended {
            warn!(%error, "the admin listener cannot be used");
        },
        () = answer(accepted, answers, by_unix_socket) => {}
    }
}

async fn answer(mut accepted: UnboundedReceiver<Work>, answers: Arc<Answers>, by_unix_socket: bool) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            next = accepted.recv() => match next {
                Some(Work::Change(_) | Work::Answer(_)) => {}
                Some(Work::Serve(next)) => { connections.spawn(connection(next, Arc::clone(&answers), by_unix_socket)); }
                None => return,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(accepted: Accepted, answers: Arc<Answers>, by_unix_socket: bool) {
    let Accepted { stream, permit, .. } = accepted;
    let stream = match stream.register() {
        Ok(stream) => stream,
        Err(error) => return debug!(%error, "a connection to the admin listener could not be taken"),
    };
    let service = service_fn(|request: Request<Incoming>| {
        let answers = Arc::clone(&answers);
        async move {
            let (head, _) = request.into_parts();
            Ok::<Response<Full<Bytes>>, Infallible>(answers.answer(&head, by_unix_socket).await)
        }
    });
    let mut http = http1::Builder::new();
    // A body is never read, so that nothing that follows on the connection could be taken for a request.
    http.keep_alive(false).header_read_timeout(None).max_buf_size(MAX_HEAD);
    let served = timeout(CONNECTION_LIMIT, http.serve_connection(TokioIo::new(stream), service)).await;
    if let Ok(Err(error)) = served {
        debug!(%error, "a connection to the admin listener broke off");
    }
    drop(permit);
}
