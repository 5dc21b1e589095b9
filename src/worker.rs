//! A worker: one thread, one runtime, its own connections to the upstream. What happens to a connection between
//! accept and close happens on one of these, so nothing on the way is shared, locked or sent across threads.

use std::cell::Cell;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http2;
use ipnet::IpNet;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_local;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::config::{Config, ForwardedMode, ProxyProtocol, RequestIdMode};
use crate::connection;
use crate::connection::watch::Limits;
use crate::drain::Drain;
use crate::forward::dial::Dialer;
use crate::forward::upstream::Upstream;
use crate::http1::head::HeadLimits;
use crate::http2::Streams;
use crate::listen::Accepted;
use crate::metrics::Shard;
use crate::pace::Pace;
use crate::per_address::PerAddress;
use crate::refresh::Refresher;
use crate::request_id::RequestIds;

/// What an exchange on this worker needs.
pub struct Worker {
    /// How large the head of a request may be.
    pub head_limits: HeadLimits,
    /// Makes a server of a connection that speaks HTTP/2.
    pub http2: http2::Builder<Streams>,
    /// This worker's connections to the upstream.
    pub upstream: Rc<Upstream>,
    /// The native refresh, shared by all workers; `None` where `[refresh] mode` is `forward`.
    pub refresher: Option<Arc<Refresher>>,
    /// `[forwarded] trusted_proxies`.
    pub trusted_proxies: Vec<IpNet>,
    /// `[server] proxy_protocol`.
    pub proxy_protocol: ProxyProtocol,
    /// Whether the log was told of a connection with a bad PROXY header; the next ones are for those who look closer.
    pub has_warned_of_header: Cell<bool>,
    /// `[forwarded] mode`.
    pub forwarded: ForwardedMode,
    /// `[forwarded] request_id`: whether the upstream is told what a request is called.
    pub sets_request_id: bool,
    /// `[log] refreshes`.
    pub logs_refreshes: bool,
    /// `[log] access`.
    pub logs_access: bool,
    /// How long client connections may be silent.
    pub limits: Limits,
    /// `[server] request_body_idle` and `min_rate`.
    pub request_pace: Pace,
    /// `[server] max_request_body`, in bytes; what no body reaches where the upstream decides.
    pub max_request_body: u64,
    /// `[server] max_requests_per_connection`; zero is any number.
    pub max_requests_per_connection: usize,
    /// `[server] tunnel_idle`.
    pub tunnel_idle: Duration,
    /// Connections for each client address; `None` where they are not limited.
    pub per_address: Option<Arc<PerAddress>>,
    /// What happens here is counted.
    pub metrics: Arc<Shard>,
    /// Names for requests.
    pub request_ids: RequestIds,
    /// Connections that switched protocols.
    pub tunnels: TaskTracker,
    /// Set when connections are to end after what is in flight.
    pub draining: CancellationToken,
    /// The same for those who look often.
    pub ending: Ending,
}

/// Whether connections are to end. Looking costs nothing, where the token takes locks.
#[derive(Default)]
pub struct Ending {
    has_begun: Cell<bool>,
    told: Notify,
}

impl Ending {
    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.has_begun.get()
    }

    /// Wakes whoever has polled this when it begins.
    pub fn told(&self) -> Notified<'_> {
        self.told.notified()
    }

    async fn follow(worker: Weak<Worker>, draining: CancellationToken) {
        draining.cancelled().await;
        if let Some(worker) = worker.upgrade() {
            worker.ending.has_begun.set(true);
            worker.ending.told.notify_waiters();
        }
    }
}

/// Starts a worker's thread. It ends when the sender is dropped and its connections are closed, or at the drain's deadline.
///
/// # Errors
/// When the system gives no thread or no runtime.
pub fn start(
    number: usize,
    config: &Config,
    dialer: Dialer,
    refresher: Option<Arc<Refresher>>,
    per_address: Option<Arc<PerAddress>>,
    metrics: Arc<Shard>,
    drain: Drain,
) -> io::Result<(UnboundedSender<Accepted>, JoinHandle<()>)> {
    let (sender, accepted) = unbounded_channel();
    let config = config.clone();
    let runtime_builder = move || Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let thread =
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || match runtime_builder() {
            Ok(runtime) => runtime.block_on(work(config, dialer, refresher, per_address, metrics, accepted, drain)),
            Err(error) => warn!(number, %error, "a worker could not start"),
        })?;
    Ok((sender, thread))
}

async fn work(
    config: Config,
    dialer: Dialer,
    refresher: Option<Arc<Refresher>>,
    per_address: Option<Arc<PerAddress>>,
    metrics: Arc<Shard>,
    mut accepted: UnboundedReceiver<Accepted>,
    drain: Drain,
) {
    let worker = Rc::new(Worker {
        head_limits: HeadLimits { bytes: config.server.max_header_bytes, fields: config.server.max_header_fields },
        http2: crate::http2::server(&config),
        upstream: Upstream::new(config.upstream, dialer, config.server.workers, Arc::clone(&metrics)),
        refresher,
        trusted_proxies: config.forwarded.trusted_proxies,
        proxy_protocol: config.server.proxy_protocol,
        has_warned_of_header: Cell::new(false),
        forwarded: config.forwarded.mode,
        // Whoever wants the head as it came wants nothing added to it.
        sets_request_id: config.forwarded.request_id == RequestIdMode::Auto
            && config.forwarded.mode == ForwardedMode::Auto,
        logs_refreshes: config.log.refreshes,
        logs_access: config.log.access,
        limits: Limits {
            first_byte: config.server.first_byte_timeout,
            request_header: config.server.request_header_timeout,
            keepalive_idle: config.server.keepalive_idle,
            response: config.server.response_pace(),
        },
        request_pace: config.server.request_pace(),
        max_request_body: match config.server.max_request_body {
            0 => u64::MAX,
            limit => limit as u64,
        },
        max_requests_per_connection: config.server.max_requests_per_connection,
        tunnel_idle: config.server.tunnel_idle,
        per_address,
        metrics,
        request_ids: RequestIds::new(),
        tunnels: TaskTracker::new(),
        // A token of its own: every connection registers with it, and workers must not contend for that.
        draining: drain.begun.child_token(),
        ending: Ending::default(),
    });
    spawn_local(Ending::follow(Rc::downgrade(&worker), worker.draining.clone()));
    let connections = TaskTracker::new();
    while let Some(accepted) = accepted.recv().await {
        connections.spawn_local(connection::serve(accepted, Rc::clone(&worker)));
    }
    connections.close();
    let deadline = drain.deadline().await;
    let mut all_ended = timeout_at(deadline, connections.wait()).await.is_ok();
    // No connection can become a tunnel any more.
    worker.tunnels.close();
    all_ended &= timeout_at(deadline, worker.tunnels.wait()).await.is_ok();
    if !all_ended {
        let (connections, tunnels) = (connections.len(), worker.tunnels.len());
        warn!(connections, tunnels, "closing connections that did not end within drain_timeout");
    }
}
