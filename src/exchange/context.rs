//! What exchanges need besides the request, under the settings in effect when they began; and how a
//! reload replaces it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::per_address::PerAddress;
use crate::admission::places;
use crate::config::Config;
use crate::forward::Forwarder;
use crate::forward::upstream::Upstream;
use crate::http1::head::HeadLimits;
use crate::metrics::Shard;
use crate::net::dial::Dialer;
use crate::refresh::Refresher;
use crate::request_id::RequestIds;
use crate::share::Share;
use crate::time::pace::Pace;
use crate::tls::Acceptor;

/// The settings of all workers. A reload makes new ones.
#[derive(Clone)]
pub struct Settings {
    pub config: Arc<Config>,
    pub dialer: Dialer,
    /// Makes TLS connections; `None` if nothing listens with TLS.
    pub acceptor: Option<Acceptor>,
    /// The native refresh, shared by all workers; `None` if `[refresh] mode` is `forward`.
    pub refresher: Option<Arc<Refresher>>,
    /// Counts connections and exchanges per client address.
    pub per_address: Arc<PerAddress>,
}

/// What the exchanges of one worker need, under one version of the settings.
pub struct Context {
    pub config: Arc<Config>,
    /// This worker's share of what all workers divide.
    pub share: Share,
    pub head_limits: HeadLimits,
    /// Makes TLS connections.
    pub acceptor: Option<Acceptor>,
    pub forwarder: Forwarder,
    refresher: RefCell<Option<Arc<Refresher>>>,
    /// Whether a connection with an invalid PROXY header was logged as a warning; further ones are
    /// logged at the level debug.
    pub has_warned_of_header: Cell<bool>,
    /// How long client connections may be silent.
    pub limits: Limits,
    /// `[server] max_request_body`, in bytes; `u64::MAX` if the upstream decides.
    pub max_request_body: u64,
    /// Counts connections and exchanges per client address.
    pub per_address: Arc<PerAddress>,
    /// Free permits of this worker's share of `[server] max_exchanges`; `None` if unlimited.
    pub exchanges: Option<Arc<Semaphore>>,
    max_exchanges: usize,
    pub metrics: Arc<Shard>,
    pub request_ids: RequestIds,
    /// Cancelled when connections are to end after the exchanges in flight.
    pub draining: CancellationToken,
    /// The same, for code that checks it often.
    pub ending: Rc<Ending>,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `[server] first_byte_timeout`.
    pub first_byte: Duration,
    /// `[server] request_header_timeout`.
    pub request_header: Duration,
    /// `[server] keepalive_idle`.
    pub keepalive_idle: Duration,
    /// `[server] response_write_idle` and `min_rate`.
    pub response: Pace,
}

/// Whether connections are to end. Checking it is cheap; checking a token takes locks.
#[derive(Default)]
pub struct Ending {
    begun: Cell<Option<Instant>>,
    notify: Notify,
}

impl Ending {
    /// When the end began, if it has.
    pub fn begun(&self) -> Option<Instant> {
        self.begun.get()
    }

    /// Wakes the task that has polled this when the end begins.
    pub fn notified(&self) -> Notified<'_> {
        self.notify.notified()
    }

    /// Begins the end when `draining` is cancelled.
    pub async fn follow(self: Rc<Self>, draining: CancellationToken) {
        draining.cancelled().await;
        self.begun.set(Some(Instant::now()));
        self.notify.notify_waiters();
    }
}

/// What a change of the settings does not replace.
pub struct AcrossReloads {
    /// This worker's share of what all workers divide.
    pub share: Share,
    pub metrics: Arc<Shard>,
    pub tunnels: TaskTracker,
    /// Cancelled when connections are to end after the exchanges in flight.
    pub draining: CancellationToken,
    /// The same, for code that checks it often.
    pub ending: Rc<Ending>,
}

/// The context of the settings in effect. Connections outlive a reload, and ask for it at each
/// request.
pub struct LatestContext(RefCell<Rc<Context>>);

impl LatestContext {
    /// The first context of a worker.
    pub fn new(settings: Settings, across: AcrossReloads) -> Self {
        LatestContext(RefCell::new(Rc::new(Context::new(settings, across, None))))
    }

    pub fn context(&self) -> Rc<Context> {
        Rc::clone(&self.0.borrow())
    }

    /// Whether `context` is the one in effect.
    pub fn is(&self, context: &Rc<Context>) -> bool {
        Rc::ptr_eq(&self.0.borrow(), context)
    }

    /// Takes new settings. Exchanges in flight keep those that they began with.
    pub fn change(&self, settings: Settings) {
        let before = self.context();
        let across = AcrossReloads {
            share: before.share,
            metrics: Arc::clone(&before.metrics),
            tunnels: before.forwarder.tunnels.clone(),
            draining: before.draining.clone(),
            ending: Rc::clone(&before.ending),
        };
        let context = Context::new(settings, across, Some(&before));
        *self.0.borrow_mut() = Rc::new(context);
        // Tunnels and slow downloads keep their context for hours; it must not keep the tokens of a
        // whole site in memory.
        before.refresher.take();
    }
}

impl Context {
    fn new(settings: Settings, across: AcrossReloads, before: Option<&Context>) -> Self {
        let AcrossReloads { share, metrics, tunnels, draining, ending } = across;
        let Settings { config, dialer, acceptor, refresher, per_address } = settings;
        let same_upstream = before
            .map(|before| &before.forwarder.upstream)
            .filter(|upstream| upstream.is_to(&config.upstream, &dialer));
        let upstream = match same_upstream {
            Some(upstream) => {
                upstream.limit(config.upstream.max_connections, share);
                Rc::clone(upstream)
            }
            None => Upstream::new(config.upstream.clone(), dialer, share, Arc::clone(&metrics)),
        };
        let max_exchanges = config.server.exchanges_at(share);
        let exchanges = match before.filter(|before| before.max_exchanges == max_exchanges) {
            Some(before) => before.exchanges.clone(),
            // Exchanges in flight keep their permits.
            None => places::limited(max_exchanges),
        };
        Context {
            share,
            head_limits: HeadLimits { bytes: config.server.max_header_bytes, fields: config.server.max_header_fields },
            acceptor,
            forwarder: Forwarder::new(&config, upstream, tunnels, Arc::clone(&metrics)),
            refresher: RefCell::new(refresher),
            has_warned_of_header: Cell::new(false),
            limits: Limits {
                first_byte: config.server.first_byte_timeout,
                request_header: config.server.request_header_timeout,
                keepalive_idle: config.server.keepalive_idle,
                response: config.server.response_pace(),
            },
            max_request_body: match config.server.max_request_body {
                0 => u64::MAX,
                limit => limit as u64,
            },
            per_address,
            exchanges,
            max_exchanges,
            metrics,
            request_ids: RequestIds::new(),
            draining,
            ending,
            config,
        }
    }

    /// The native refresh; `None` if `[refresh] mode` is `forward`. The caller's `Arc` keeps it
    /// alive until the call is answered.
    pub fn refresher(&self) -> Option<Arc<Refresher>> {
        self.refresher.borrow().clone()
    }
}
