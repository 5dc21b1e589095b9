//! All that is listened on, and how a reload changes it: what stays the same stays open, what is new is opened before
//! anything else changes, and what is no longer wanted is closed last.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::{Sender, UnboundedSender, channel};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::inherited::Inherited;
use super::{Listener, Loop, Order, accept, bind, bind_beside, unix_socket};
use crate::config::{Config, Fault, Faults, ListenAddress, UnixSockets};
use crate::metrics::Shard;
use crate::worker::Work;

/// Orders come from a reload and a self-check now and then.
const ORDERS: usize = 4;

/// A socket that is listened on and not served yet.
pub struct Bound {
    wanted: Wanted,
    listener: Listener,
}

impl Bound {
    /// As it is in effect: with the port that the system chose.
    pub fn address(&self) -> &ListenAddress {
        &self.listener.address
    }
}

/// What the configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    address: ListenAddress,
    /// Counts entries of one address: port 0 may be there several times.
    nth: usize,
    tls: bool,
}

impl Wanted {
    fn key(&self) -> &'static str {
        if self.tls { "tls.listen" } else { "server.listen" }
    }

    fn is_at(&self, other: &Wanted) -> bool {
        (&self.address, self.nth) == (&other.address, other.nth)
    }

    fn fault(&self, error: &dyn std::fmt::Display) -> Fault {
        let problem = format!("cannot listen on {}: {error}", self.address);
        Fault { key: self.key().into(), problem, ..Fault::default() }
    }
}

fn wanted(config: &Config) -> Vec<Wanted> {
    let plain = config.server.listen.iter().map(|address| (address, false));
    let tls = config.tls.listen.iter().map(|address| (address, true));
    let mut all: Vec<Wanted> = Vec::new();
    for (address, tls) in plain.chain(tls) {
        let nth = all.iter().filter(|earlier| earlier.address == *address).count();
        all.push(Wanted { address: address.clone(), nth, tls });
    }
    all
}

/// Opens everything at the start.
///
/// # Errors
/// All that cannot be opened.
pub fn open(config: &Config, mut inherited: Inherited) -> Result<Vec<Bound>, Faults> {
    let (mut bound, mut faults) = (Vec::new(), Vec::new());
    for wanted in wanted(config) {
        match listeners(&wanted, config.server.unix, &mut inherited) {
            Ok(listeners) => {
                bound.extend(listeners.into_iter().map(|listener| Bound { wanted: wanted.clone(), listener }));
            }
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(bound) } else { Err(Faults(faults)) }
}

fn listeners(wanted: &Wanted, unix: UnixSockets, inherited: &mut Inherited) -> Result<Vec<Listener>, Fault> {
    match &wanted.address {
        ListenAddress::Systemd(name) => {
            let sockets = inherited.take(name).into_iter();
            sockets.map(|socket| Listener::inherited(socket).map_err(|error| wanted.fault(&error))).collect()
        }
        address => Ok(vec![bind(address, &unix).map_err(|error| wanted.fault(&error))?]),
    }
}

/// The accept loops. They run on the runtime of who calls these functions.
pub struct Listeners {
    open: Vec<Open>,
    unix: UnixSockets,
    loops: JoinSet<io::Result<()>>,
    permits: Arc<Semaphore>,
    workers: Vec<UnboundedSender<Work>>,
    metrics: Arc<Shard>,
}

struct Open {
    wanted: Wanted,
    address: ListenAddress,
    kept_open: bool,
    tls: Arc<AtomicBool>,
    orders: Sender<Order>,
    stop: CancellationToken,
}

impl Listeners {
    /// Begins to accept.
    pub fn start(
        bound: Vec<Bound>,
        config: &Config,
        permits: Arc<Semaphore>,
        workers: Vec<UnboundedSender<Work>>,
        metrics: Arc<Shard>,
    ) -> Self {
        let (open, loops) = (Vec::new(), JoinSet::new());
        let mut listeners = Listeners { open, unix: config.server.unix, loops, permits, workers, metrics };
        for bound in bound {
            listeners.begin(bound, config);
        }
        listeners
    }

    /// Waits until an accept loop ends that was not told to.
    pub async fn failed(&mut self) -> io::Error {
        loop {
            match self.loops.join_next().await {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return error,
                Some(Err(error)) => return io::Error::other(error),
                None => std::future::pending().await,
            }
        }
    }

    /// Whom to ask whether the accept loops run.
    pub fn orders(&self) -> Vec<Sender<Order>> {
        self.open.iter().map(|open| open.orders.clone()).collect()
    }

    /// The addresses, for people.
    pub fn describe(&self) -> String {
        self.open.iter().map(|open| open.address.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Opens what `config` names and is not open yet. Nothing is accepted on it, and nothing else changes.
    ///
    /// # Errors
    /// All that cannot be opened.
    pub async fn prepare(&self, config: &Config) -> Result<Vec<Bound>, Faults> {
        let all = wanted(config);
        let (mut bound, mut faults) = (Vec::new(), Vec::new());
        for wanted in all.iter().filter(|wanted| !self.open.iter().any(|open| open.wanted.is_at(wanted))) {
            match self.bind(wanted, &all, config.server.unix).await {
                Ok(listener) => bound.push(Bound { wanted: wanted.clone(), listener }),
                Err(error) => faults.push(wanted.fault(&error)),
            }
        }
        for open in self.open.iter().filter(|open| !all.iter().any(|wanted| wanted.is_at(&open.wanted))) {
            if open.kept_open {
                let problem =
                    "systemd holds this socket open, and nobody would serve it; stop its socket unit and restart";
                faults.push(Fault { problem: problem.into(), ..open.wanted.fault(&"") });
            }
        }
        if faults.is_empty() { Ok(bound) } else { Err(Faults(faults)) }
    }

    /// Serves what was prepared for `config`, and closes what it does not name.
    pub fn change(&mut self, bound: Vec<Bound>, config: &Config) {
        let all = wanted(config);
        for open in &mut self.open {
            let Some(wanted) = all.iter().find(|wanted| wanted.is_at(&open.wanted)) else { continue };
            if wanted.tls != open.wanted.tls {
                open.tls.store(wanted.tls, Ordering::Relaxed);
                open.wanted = wanted.clone();
                info!(address = %open.address, tls = wanted.tls, "listening, as before but for TLS");
            }
            if let (ListenAddress::Unix(path), false, true) =
                (&open.address, open.kept_open, config.server.unix != self.unix)
                && let Err(error) = unix_socket::make_like(path, &config.server.unix)
            {
                warn!(%error, path = %path.display(), "cannot change mode, owner and group of a unix socket");
            }
        }
        self.unix = config.server.unix;
        for bound in bound {
            self.begin(bound, config);
        }
        self.open.retain(|open| {
            let stays = all.iter().any(|wanted| wanted.is_at(&open.wanted));
            if !stays {
                open.stop.cancel();
                info!(address = %open.address, "no longer listening");
            }
            stays
        });
    }

    /// Stops accepting on sockets of our own, so that who connects now is refused and goes elsewhere. On those that the
    /// service manager keeps open clients would wait until its next start, so they are served while anything else is.
    pub fn close_own(&mut self) {
        self.open.retain(|open| {
            if !open.kept_open {
                open.stop.cancel();
            }
            open.kept_open
        });
    }

    /// Whether anything is accepted still.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Stops accepting, and waits until the sockets are closed.
    pub async fn close(mut self) {
        for open in &self.open {
            open.stop.cancel();
        }
        while self.loops.join_next().await.is_some() {}
    }

    fn begin(&mut self, bound: Bound, config: &Config) {
        let Bound { wanted, listener } = bound;
        let (address, kept_open) = (listener.address.clone(), listener.kept_open);
        let socket = kept_open.then(|| wanted.address.to_string());
        info!(%address, tls = wanted.tls, socket, upstream = %config.upstream.url, "listening");
        let (orders, asked) = channel(ORDERS);
        let (tls, stop) = (Arc::new(AtomicBool::new(wanted.tls)), CancellationToken::new());
        let around = Loop {
            tls: Arc::clone(&tls),
            permits: Arc::clone(&self.permits),
            workers: self.workers.clone(),
            metrics: Arc::clone(&self.metrics),
            orders: asked,
            stop: stop.clone(),
        };
        self.loops.spawn(accept(listener, around));
        self.open.push(Open { wanted, address, kept_open, tls, orders, stop });
    }

    /// Opens one more socket, also where one that is about to be closed has the same port.
    async fn bind(&self, wanted: &Wanted, all: &[Wanted], unix: UnixSockets) -> io::Result<Listener> {
        let error = match bind(&wanted.address, &unix) {
            Ok(listener) => return Ok(listener),
            Err(error) => error,
        };
        let ListenAddress::Tcp(address) = wanted.address else { return Err(error) };
        let in_the_way = self.open.iter().filter(|open| {
            let stays = all.iter().any(|wanted| wanted.is_at(&open.wanted));
            !stays && !open.kept_open && has_port(&open.address, address)
        });
        let mut anybody = false;
        for open in in_the_way {
            anybody = true;
            let (answer, answered) = oneshot::channel();
            let asked = open.orders.send(Order::Share(answer)).await;
            if asked.is_ok()
                && let Ok(agreed) = answered.await
            {
                agreed?;
            }
        }
        if anybody { bind_beside(address) } else { Err(error) }
    }
}

fn has_port(open: &ListenAddress, wanted: SocketAddr) -> bool {
    matches!(open, ListenAddress::Tcp(open) if open.port() == wanted.port())
}
