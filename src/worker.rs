//! A worker: one thread, one runtime, its own connections to the upstream. What happens to a connection between
//! accept and close happens on one of these, so nothing on the way is shared, locked or sent across threads.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use hyper::server::conn::http2;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::futures::Notified;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::warn;

use crate::admission::per_address::PerAddress;
use crate::admission::places;
use crate::config::{Config, ForwardedMode, RequestIdMode};
use crate::connection::http2::Streams;
use crate::connection::watch::Limits;
use crate::connection::{self, Accepted};
use crate::drain::Drain;
use crate::forward::upstream::Upstream;
use crate::http1::head::HeadLimits;
use crate::metrics::Shard;
use crate::net::dial::Dialer;
use crate::refresh::Refresher;
use crate::request_id::RequestIds;
use crate::share::Share;
use crate::tls::Acceptor;

/// What a worker is told to do.
pub enum Work {
    /// To serve a connection.
    Serve(Accepted),
    /// To do so by other settings from now on.
    Change(Box<Settings>),
    /// To say that it is there.
    Answer(oneshot::Sender<()>),
}

/// What all workers go by. A reload makes new ones.
#[derive(Clone)]
pub struct Settings {
    /// The configuration.
    pub config: Arc<Config>,
    /// The way to the upstream.
    pub dialer: Dialer,
    /// Makes TLS of a connection; `None` where nothing listens with TLS.
    pub acceptor: Option<Acceptor>,
    /// The native refresh, shared by all workers; `None` where `[refresh] mode` is `forward`.
    pub refresher: Option<Arc<Refresher>>,
    /// Connections and exchanges for each client address.
    pub per_address: Arc<PerAddress>,
}

/// What an exchange on this worker needs, as the settings of one moment have it.
pub struct Worker {
    /// The configuration.
    pub config: Arc<Config>,
    /// Its part of what all workers share.
    pub share: Share,
    /// How large the head of a request may be.
    pub head_limits: HeadLimits,
    /// Makes a server of a connection that speaks HTTP/2.
    pub http2: http2::Builder<Streams>,
    /// Makes TLS of a connection.
    pub acceptor: Option<Acceptor>,
    /// This worker's connections to the upstream.
    pub upstream: Rc<Upstream>,
    refresher: RefCell<Option<Arc<Refresher>>>,
    /// Whether the log was told of a connection with a bad PROXY header; the next ones are for those who look closer.
    pub has_warned_of_header: Cell<bool>,
    /// `[forwarded] request_id`: whether the upstream is told what a request is called.
    pub sets_request_id: bool,
    /// How long client connections may be silent.
    pub limits: Limits,
    /// `[server] max_request_body`, in bytes; what no body reaches where the upstream decides.
    pub max_request_body: u64,
    /// Connections and exchanges for each client address.
    pub per_address: Arc<PerAddress>,
    /// Free places of this worker's share of `[server] max_exchanges`; `None` where they are not limited.
    pub exchanges: Option<Arc<Semaphore>>,
    max_exchanges: usize,
    /// What happens here is counted.
    pub metrics: Arc<Shard>,
    /// Names for requests.
    pub request_ids: RequestIds,
    /// Connections that switched protocols.
    pub tunnels: TaskTracker,
    /// Set when connections are to end after what is in flight.
    pub draining: CancellationToken,
    /// The same for those who look often.
    pub ending: Rc<Ending>,
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

    async fn follow(self: Rc<Self>, draining: CancellationToken) {
        draining.cancelled().await;
        self.begun.set(Some(Instant::now()));
        self.told.notify_waiters();
    }
}

/// What a change of the settings leaves as it is.
struct Lasting {
    share: Share,
    metrics: Arc<Shard>,
    tunnels: TaskTracker,
    draining: CancellationToken,
    ending: Rc<Ending>,
}

/// The worker as it is now. Connections outlive a reload, and look here at each request.
pub struct Current(RefCell<Rc<Worker>>);

impl Current {
    /// The worker by the settings that are in effect.
    pub fn worker(&self) -> Rc<Worker> {
        Rc::clone(&self.0.borrow())
    }

    /// Whether those are the settings that `worker` goes by.
    pub fn is(&self, worker: &Rc<Worker>) -> bool {
        Rc::ptr_eq(&self.0.borrow(), worker)
    }

    /// What is in flight goes on by the settings that it began with.
    fn change(&self, settings: Settings) {
        let before = self.worker();
        let lasting = Lasting {
            share: before.share,
            metrics: Arc::clone(&before.metrics),
            tunnels: before.tunnels.clone(),
            draining: before.draining.clone(),
            ending: Rc::clone(&before.ending),
        };
        let worker = Worker::new(settings, lasting, Some(&before));
        *self.0.borrow_mut() = Rc::new(worker);
        // Tunnels and slow downloads keep what they began with for hours; the tokens of a whole site are not part of that.
        before.refresher.take();
    }
}

impl Worker {
    fn new(settings: Settings, lasting: Lasting, before: Option<&Worker>) -> Self {
        let Lasting { share, metrics, tunnels, draining, ending } = lasting;
        let Settings { config, dialer, acceptor, refresher, per_address } = settings;
        let same_upstream =
            before.map(|before| &before.upstream).filter(|upstream| upstream.is_to(&config.upstream, &dialer));
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
        Worker {
            share,
            head_limits: HeadLimits { bytes: config.server.max_header_bytes, fields: config.server.max_header_fields },
            http2: connection::http2::server(&config),
            acceptor,
            upstream,
            refresher: RefCell::new(refresher),
            has_warned_of_header: Cell::new(false),
            // Whoever wants the head as it came wants nothing added to it.
            sets_request_id: config.forwarded.request_id == RequestIdMode::Auto
                && config.forwarded.mode == ForwardedMode::Auto,
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
            tunnels,
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

/// Starts a worker's thread. It ends when all senders are dropped and its connections are closed, or at the drain's
/// deadline.
///
/// # Errors
/// When the system gives no thread or no runtime.
pub fn start(
    number: usize,
    settings: Settings,
    metrics: Arc<Shard>,
    drain: Drain,
) -> io::Result<(UnboundedSender<Work>, JoinHandle<()>)> {
    let (sender, work) = unbounded_channel();
    // Taken here, so that whoever waits for it does not come before this thread.
    let waiting = drain.earlier.token();
    let runtime_builder = move || Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let thread =
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || match runtime_builder() {
            Ok(runtime) => runtime.block_on(do_work(number, settings, metrics, work, drain, waiting)),
            Err(error) => warn!(number, %error, "a worker could not start"),
        })?;
    Ok((sender, thread))
}

async fn do_work(
    number: usize,
    settings: Settings,
    metrics: Arc<Shard>,
    mut work: UnboundedReceiver<Work>,
    drain: Drain,
    waiting: TaskTrackerToken,
) {
    let tunnels = TaskTracker::new();
    // A token of its own: every connection registers with it, and workers must not contend for that.
    let (draining, ending) = (drain.begun.child_token(), Rc::<Ending>::default());
    spawn_local(Rc::clone(&ending).follow(draining.clone()));
    let share = Share { worker: number, workers: settings.config.server.workers };
    let lasting = Lasting { share, metrics, tunnels: tunnels.clone(), draining, ending };
    let worker = Worker::new(settings, lasting, None);
    let current = Rc::new(Current(RefCell::new(Rc::new(worker))));
    let mut connections = TaskTracker::new();
    let (mut waiting, mut earlier) = (Some(waiting), None);
    loop {
        let next = tokio::select! {
            next = work.recv() => next,
            () = drain.begun.cancelled(), if earlier.is_none() => {
                let before = std::mem::take(&mut connections);
                before.close();
                spawn_local(all_end(before.clone(), tunnels.clone(), waiting.take()));
                earlier = Some(before);
                continue;
            }
        };
        match next {
            Some(Work::Serve(accepted)) => {
                connections.spawn_local(connection::serve(accepted, Rc::clone(&current)));
            }
            Some(Work::Change(settings)) => current.change(*settings),
            // Who asked may be gone by now.
            Some(Work::Answer(answer)) => drop(answer.send(())),
            None => break,
        }
    }
    connections.close();
    let deadline = drain.deadline().await;
    let ended = async {
        connections.wait().await;
        if let Some(earlier) = &earlier {
            earlier.wait().await;
        }
    };
    let mut all_ended = timeout_at(deadline, ended).await.is_ok();
    // No connection can become a tunnel any more.
    tunnels.close();
    all_ended &= timeout_at(deadline, tunnels.wait()).await.is_ok();
    if !all_ended {
        let connections = connections.len() + earlier.map_or(0, |earlier| earlier.len());
        let tunnels = tunnels.len();
        warn!(connections, tunnels, "closing connections that did not end within drain_timeout");
    }
}

/// Keeps `waiting` until connections and tunnels from before the drain have ended.
async fn all_end(connections: TaskTracker, tunnels: TaskTracker, waiting: Option<TaskTrackerToken>) {
    connections.wait().await;
    tunnels.close();
    tunnels.wait().await;
    drop(waiting);
}
