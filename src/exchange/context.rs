//! What exchanges need besides the request, by the settings of one moment; and how a reload changes it.

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

/// What all workers go by. A reload makes new ones.
#[derive(Clone)]
pub struct Settings {
    pub config: Arc<Config>,
    pub dialer: Dialer,
    /// Makes TLS of a connection; `None` where nothing listens with TLS.
    pub acceptor: Option<Acceptor>,
    /// The native refresh, shared by all workers; `None` where `[refresh] mode` is `forward`.
    pub refresher: Option<Arc<Refresher>>,
    /// Connections and exchanges for each client address.
    pub per_address: Arc<PerAddress>,
}

/// What the exchanges of one worker need, by the settings of one moment.
pub struct Context {
    pub config: Arc<Config>,
    /// Its part of what all workers share.
    pub share: Share,
    /// How large the head of a request may be.
    pub head_limits: HeadLimits,
    /// Makes TLS of a connection.
    pub acceptor: Option<Acceptor>,
    pub forwarder: Forwarder,
    refresher: RefCell<Option<Arc<Refresher>>>,
    /// Whether the log was told of a connection with a bad PROXY header; the next ones are for those who look closer.
    pub has_warned_of_header: Cell<bool>,
    /// How long client connections may be silent.
    pub limits: Limits,
    /// `[server] max_request_body`, in bytes; what no body reaches where the upstream decides.
    pub max_request_body: u64,
    /// Connections and exchanges for each client address.
    pub per_address: Arc<PerAddress>,
    /// Free places of this worker's share of `[server] max_exchanges`; `None` where they are not limited.
    pub exchanges: Option<Arc<Semaphore>>,
    max_exchanges: usize,
    pub metrics: Arc<Shard>,
    pub request_ids: RequestIds,
    /// Set when connections are to end after what is in flight.
    pub draining: CancellationToken,
    /// The same for those who look often.
    pub ending: Rc<Ending>,
}

/// How long a client's connection may be silent.
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

/// Whether connections are to end. Looking costs nothing, where the token takes locks.
#[derive(Default)]
pub struct Ending {
    begun: Cell<Option<Instant>>,
    told: Notify,
}

impl Ending {
    /// Since when they are.
    pub fn begun(&self) -> Option<Instant> {
        self.begun.get()
    }

    /// Wakes whoever has polled this when it begins.
    pub fn told(&self) -> Notified<'_> {
        self.told.notified()
    }

    /// Begins when `draining` does.
    pub async fn follow(self: Rc<Self>, draining: CancellationToken) {
        draining.cancelled().await;
        self.begun.set(Some(Instant::now()));
        self.told.notify_waiters();
    }
}

/// What a change of the settings leaves as it is.
pub struct AcrossReloads {
    /// The worker's part of what all workers share.
    pub share: Share,
    pub metrics: Arc<Shard>,
    pub tunnels: TaskTracker,
    /// Set when connections are to end after what is in flight.
    pub draining: CancellationToken,
    /// The same for those who look often.
    pub ending: Rc<Ending>,
}

/// The context by the settings in effect. Connections outlive a reload, and look here at each request.
pub struct LatestContext(RefCell<Rc<Context>>);

impl LatestContext {
    /// Of a worker that starts.
    pub fn new(settings: Settings, across: AcrossReloads) -> Self {
        LatestContext(RefCell::new(Rc::new(Context::new(settings, across, None))))
    }

    /// The context by the settings in effect.
    pub fn context(&self) -> Rc<Context> {
        Rc::clone(&self.0.borrow())
    }

    /// Whether this is it.
    pub fn is(&self, context: &Rc<Context>) -> bool {
        Rc::ptr_eq(&self.0.borrow(), context)
    }

    /// Takes new settings. What is in flight goes on by those that it began with.
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
        // Tunnels and slow downloads keep what they began with for hours; the tokens of a whole site are not part of that.
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
            // What is in flight keeps the places that it has.
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

    /// The native refresh; `None` where `[refresh] mode` is `forward`. Whoever answers a call keeps it alive until then.
    pub fn refresher(&self) -> Option<Arc<Refresher>> {
        self.refresher.borrow().clone()
    }
}
