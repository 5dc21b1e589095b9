//! A worker: one thread, one runtime, its own connections to the upstream. What happens to a connection between
//! accept and close happens on one of these, so nothing on the way is shared, locked or sent across threads.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use ipnet::IpNet;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::config::Config;
use crate::connection;
use crate::drain::Drain;
use crate::forward::upstream::Upstream;
use crate::listen::Accepted;
use crate::refresh::Refresher;

/// More fields than nginx (1,000) or Apache (100) would take serve nobody; fewer than these would refuse what they take.
const MAX_REQUEST_FIELDS: usize = 256;

/// What an exchange on this worker needs.
pub struct Worker {
    /// Makes a server of a connection.
    pub http: http1::Builder,
    /// This worker's connections to the upstream.
    pub upstream: Rc<Upstream>,
    /// The native refresh, shared by all workers; `None` where `[refresh] mode` is `forward`.
    pub refresher: Option<Arc<Refresher>>,
    /// `[forwarded] trusted_proxies`.
    pub trusted_proxies: Vec<IpNet>,
    /// Set when connections are to end after what is in flight.
    pub draining: CancellationToken,
}

/// Starts a worker's thread. It ends when the sender is dropped and its connections are closed, or at the drain's deadline.
///
/// # Errors
/// When the system gives no thread or no runtime.
pub fn start(
    number: usize,
    config: &Config,
    refresher: Option<Arc<Refresher>>,
    drain: Drain,
) -> io::Result<(UnboundedSender<Accepted>, JoinHandle<()>)> {
    let (sender, accepted) = unbounded_channel();
    let config = config.clone();
    let runtime_builder = move || Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let thread =
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || match runtime_builder() {
            Ok(runtime) => runtime.block_on(work(config, refresher, accepted, drain)),
            Err(error) => warn!(number, %error, "a worker could not start"),
        })?;
    Ok((sender, thread))
}

async fn work(
    config: Config,
    refresher: Option<Arc<Refresher>>,
    mut accepted: UnboundedReceiver<Accepted>,
    drain: Drain,
) {
    let worker = Rc::new(Worker {
        http: server(&config),
        upstream: Upstream::new(config.upstream),
        refresher,
        trusted_proxies: config.forwarded.trusted_proxies,
        // A token of its own: every connection registers with it, and workers must not contend for that.
        draining: drain.begun.child_token(),
    });
    let connections = TaskTracker::new();
    while let Some(accepted) = accepted.recv().await {
        connections.spawn_local(connection::serve(accepted, Rc::clone(&worker)));
    }
    connections.close();
    if timeout_at(drain.deadline().await, connections.wait()).await.is_err() {
        warn!(connections = connections.len(), "closing connections that did not end within drain_timeout");
    }
}

fn server(config: &Config) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(config.server.request_header_timeout)
        .max_headers(MAX_REQUEST_FIELDS)
        .preserve_header_case(true)
        // For the fields of answers that are our own.
        .title_case_headers(true)
        // The upstream's answers pass unchanged; respond.rs dates ours.
        .auto_date_header(false);
    http
}
