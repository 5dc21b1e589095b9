//! One client connection, from accept to close: HTTP/1.1 under its timers and limits, ended gracefully when draining.

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tracing::debug;

use crate::exchange;
use crate::listen::Accepted;
use crate::worker::Worker;

/// Serves one connection to its end. All errors end here: they are of this connection only.
pub async fn serve(accepted: Accepted, worker: Rc<Worker>) {
    let Accepted { stream, peer, permit: _permit } = accepted;
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => return debug!(%error, %peer, "a connection was gone before it was served"),
    };
    let service = service_fn(|request| {
        let worker = Rc::clone(&worker);
        async move { Ok::<_, Infallible>(exchange::answer(&worker, peer.ip(), request).await) }
    });
    let mut connection = pin!(worker.http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = worker.draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, %peer, "connection ended");
    }
}
