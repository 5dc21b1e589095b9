//! All listeners, and how a reload changes them: unchanged ones stay open, new ones are opened
//! before anything else changes, and removed ones are closed last.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::{Sender, channel};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::inherited::Inherited;
use super::{Listener, Loop, Order, accept, bind, bind_beside, unix_socket};
use crate::config::{Config, Fault, Faults, ListenAddress, UnixSockets};
use crate::connection::Accepted;
use crate::metrics::Shard;
use crate::tls::Tls;

/// Orders come only from reloads and self-checks.
const ORDERS: usize = 4;

/// Why a socket cannot become one for TLS.
const NO_CERTIFICATE: &str = "no pair of tls.certificates can be read, so TLS cannot be served there";

/// A listening socket that is not served yet.
pub struct Bound {
    wanted: Wanted,
    listener: Listener,
}

impl Bound {
    /// The address in effect, with the port that the system chose.
    pub fn address(&self) -> &ListenAddress {
        &self.listener.address
    }
}

/// A listener as the configuration asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    address: ListenAddress,
    /// Numbers the entries of one address: port 0 may be named several times.
    nth: usize,
    tls: bool,
    /// Whether it is `[::]` and the configuration also names an IPv4 address of this port. It
    /// cannot be changed on an open socket.
    ipv6_only: bool,
}

impl Wanted {
    fn key(&self) -> &'static str {
        if self.tls { "tls.listen" } else { "server.listen" }
    }

    fn is_at(&self, other: &Wanted) -> bool {
        (&self.address, self.nth, self.ipv6_only) == (&other.address, other.nth, other.ipv6_only)
    }

    /// Whether the two differ at most in the address families that they accept.
    fn is_twin_of(&self, other: &Wanted) -> bool {
        (&self.address, self.nth) == (&other.address, other.nth) && self.ipv6_only != other.ipv6_only
    }

    fn fault(&self, error: &dyn std::fmt::Display) -> Fault {
        let problem = format!("cannot listen on {}: {error}", self.address);
        Fault { key: self.key().into(), problem, ..Fault::default() }
    }
}

fn wanted(config: &Config) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = Vec::new();
    // One of the two addresses of a port may be for TLS and the other not.
    let named = [&config.server.listen[..], &config.tls.listen[..]].concat();
    for (addresses, tls) in [(&config.server.listen, false), (&config.tls.listen, true)] {
        for address in addresses {
            let nth = all.iter().filter(|earlier| earlier.address == *address).count();
            all.push(Wanted { address: address.clone(), nth, tls, ipv6_only: address.is_ipv6_only(&named) });
        }
    }
    all
}

/// Whether it can be served now: without a certificate no handshake succeeds, and a client whose
/// connection is refused can go elsewhere.
fn can_be_served(wanted: &Wanted, tls: Option<&Tls>) -> bool {
    !wanted.tls || tls.is_some_and(Tls::is_usable)
}

/// Opens all listeners at the start, except those that have to wait for a certificate. Sockets that
/// systemd passed are taken in any case: their clients can wait.
///
/// # Errors
/// Every address that cannot be opened.
pub fn open(config: &Config, tls: Option<&Tls>, mut inherited: Inherited) -> Result<Vec<Bound>, Faults> {
    let (mut bound, mut faults) = (Vec::new(), Vec::new());
    let is_passed = |wanted: &Wanted| matches!(wanted.address, ListenAddress::Systemd(_));
    for wanted in wanted(config).into_iter().filter(|wanted| is_passed(wanted) || can_be_served(wanted, tls)) {
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
        address => Ok(vec![bind(address, &unix, wanted.ipv6_only).map_err(|error| wanted.fault(&error))?]),
    }
}

/// Hands a connection to a worker; fails when all workers have ended.
pub type HandOver = Arc<dyn Fn(Accepted) -> io::Result<()> + Send + Sync>;

/// The accept loops. They run on the runtime of the caller.
pub struct Listeners {
    open: Vec<Open>,
    /// Sockets for TLS that the service manager passed, while there is no certificate.
    waiting: Vec<Bound>,
    unix: UnixSockets,
    loops: JoinSet<io::Result<()>>,
    permits: Arc<Semaphore>,
    metrics: Arc<Shard>,
    hand_over: HandOver,
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
        tls: Option<&Tls>,
        permits: Arc<Semaphore>,
        metrics: Arc<Shard>,
        hand_over: HandOver,
    ) -> Self {
        let (open, loops) = (Vec::new(), JoinSet::new());
        let (now, waiting): (Vec<_>, Vec<_>) = bound.into_iter().partition(|bound| can_be_served(&bound.wanted, tls));
        let mut listeners = Listeners { open, waiting, unix: config.server.unix, loops, permits, metrics, hand_over };
        for bound in now {
            listeners.begin(bound, config);
        }
        listeners
    }

    /// Waits until an accept loop ends by itself, which is an error.
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

    /// How to reach each accept loop.
    pub fn orders(&self) -> Vec<Sender<Order>> {
        self.open.iter().map(|open| open.orders.clone()).collect()
    }

    /// The addresses, for logs.
    pub fn describe(&self) -> String {
        self.open.iter().map(|open| open.address.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Whether a listener of `config` is missing because there is no certificate.
    pub fn are_incomplete(&self, config: &Config) -> bool {
        wanted(config).iter().any(|wanted| !self.is_open(wanted))
    }

    fn is_open(&self, wanted: &Wanted) -> bool {
        self.open.iter().any(|open| open.wanted.is_at(wanted))
    }

    /// Opens the listeners of `config` that are not open yet and can be served with `tls`. They do
    /// not accept yet, and no other listener changes.
    ///
    /// # Errors
    /// Every address that cannot be opened.
    pub async fn prepare(&self, config: &Config, tls: Option<&Tls>) -> Result<Vec<Bound>, Faults> {
        let all = wanted(config);
        let (mut bound, mut faults) = (Vec::new(), Vec::new());
        let is_there =
            |wanted: &Wanted| self.is_open(wanted) || self.waiting.iter().any(|waiting| waiting.wanted.is_at(wanted));
        let (can_be_served, must_wait): (Vec<_>, Vec<_>) = all.iter().partition(|wanted| can_be_served(wanted, tls));
        // SECURITY: a listener for TLS must not serve without TLS while the certificate is missing.
        let would_be_lost = must_wait.into_iter().filter(|wanted| self.is_open(wanted));
        faults.extend(would_be_lost.map(|wanted| wanted.fault(&NO_CERTIFICATE)));
        if can_be_served.is_empty() {
            let problem = "nothing would be listened on: no pair of tls.certificates can be read";
            faults.push(Fault { key: "tls.certificates".into(), problem: problem.into(), ..Fault::default() });
        }
        for wanted in can_be_served.into_iter().filter(|wanted| !is_there(wanted)) {
            match self.bind(wanted, &all, config.server.unix).await {
                Ok(listener) => bound.push(Bound { wanted: wanted.clone(), listener }),
                Err(error) => faults.push(wanted.fault(&error)),
            }
        }
        let open = self.open.iter().filter(|open| open.kept_open).map(|open| &open.wanted);
        let kept_open = open.chain(self.waiting.iter().map(|waiting| &waiting.wanted));
        for kept_open in kept_open.filter(|kept_open| !all.iter().any(|wanted| wanted.is_at(kept_open))) {
            let problem =
                "systemd holds this socket open, and its clients would wait forever; stop its socket unit and restart";
            faults.push(Fault { problem: problem.into(), ..kept_open.fault(&"") });
        }
        if faults.is_empty() { Ok(bound) } else { Err(Faults(faults)) }
    }

    /// Serves the prepared listeners of `config` and `tls`, and closes those that `config` does not
    /// name.
    pub fn change(&mut self, bound: Vec<Bound>, config: &Config, tls: Option<&Tls>) {
        let all = wanted(config);
        let waiting = std::mem::take(&mut self.waiting).into_iter().map(|mut bound| {
            // The configuration may have moved it to clients without TLS.
            if let Some(wanted) = all.iter().find(|wanted| wanted.is_at(&bound.wanted)) {
                bound.wanted = wanted.clone();
            }
            bound
        });
        let (now, waiting): (Vec<_>, Vec<_>) = waiting.partition(|bound| can_be_served(&bound.wanted, tls));
        self.waiting = waiting;
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
        for bound in now.into_iter().chain(bound) {
            self.begin(bound, config);
        }
        self.open.retain(|open| {
            let stays = all.iter().any(|wanted| wanted.is_at(&open.wanted));
            let twin = all.iter().find(|wanted| wanted.is_twin_of(&open.wanted) && !stays);
            match twin.map(|twin| twin.ipv6_only) {
                Some(true) => info!(address = %open.address, "opened again for IPv6 only; IPv4 has its own listener"),
                Some(false) => {
                    info!(address = %open.address, "opened again for IPv4 as well, which lost its own listener")
                }
                None if stays => {}
                None => info!(address = %open.address, "no longer listening"),
            }
            if !stays {
                open.stop.cancel();
            }
            stays
        });
    }

    /// Stops accepting on this program's own sockets, so that new connections are refused and
    /// clients go elsewhere. On sockets that the service manager keeps open, clients would wait
    /// until its next start, so they are served until the drain ends.
    pub fn close_own(&mut self) {
        self.waiting.clear();
        self.open.retain(|open| {
            if !open.kept_open {
                open.stop.cancel();
            }
            open.kept_open
        });
    }

    /// Whether no listener accepts any more.
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
        let ipv6_only = wanted.ipv6_only.then_some(true);
        info!(%address, tls = wanted.tls, ipv6_only, socket, upstream = %config.upstream.url, "listening");
        let (orders, asked) = channel(ORDERS);
        let (tls, stop) = (Arc::new(AtomicBool::new(wanted.tls)), CancellationToken::new());
        let around = Loop {
            tls: Arc::clone(&tls),
            permits: Arc::clone(&self.permits),
            metrics: Arc::clone(&self.metrics),
            orders: asked,
            stop: stop.clone(),
        };
        let hand_over = Arc::clone(&self.hand_over);
        self.loops.spawn(accept(listener, around, move |accepted| hand_over(accepted)));
        self.open.push(Open { wanted, address, kept_open, tls, orders, stop });
    }

    /// Opens one more socket, even if one of the same port is about to be closed.
    async fn bind(&self, wanted: &Wanted, all: &[Wanted], unix: UnixSockets) -> io::Result<Listener> {
        let error = match bind(&wanted.address, &unix, wanted.ipv6_only) {
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
        if anybody { bind_beside(address, wanted.ipv6_only) } else { Err(error) }
    }
}

fn has_port(open: &ListenAddress, wanted: SocketAddr) -> bool {
    matches!(open, ListenAddress::Tcp(open) if open.port() == wanted.port())
}
