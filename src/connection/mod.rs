//! One client connection, from accept to close: TLS or not, HTTP/1.1 or HTTP/2, under its timers and limits, ended
//! gracefully when draining.

pub mod http1;
pub mod http2;
pub mod watch;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::either::Either;
use tracing::{debug, info, warn};

use crate::admission::per_address::Place;
use crate::admission::places::{NoPlace, Places};
use crate::client_addr::{self, Peer, Scheme};
use crate::forward::request;
use crate::metrics::{Event, Level, Open};
use crate::net::proxy_protocol;
use crate::net::stream::{ClientStream, Stream, Unregistered};
use crate::tls;
use crate::tls::Acceptor;
use crate::worker::{Current, Worker};
use http1::ConnectionError;
use watch::{LAST_REQUEST, Wait};

/// A connection on its way to a worker. The permit counts it until it is closed.
pub struct Accepted {
    /// The connection.
    pub stream: Unregistered,
    /// Where it comes from; for a unix socket the loopback address with port 0.
    pub peer: SocketAddr,
    /// Whether the client speaks TLS.
    pub tls: bool,
    /// Its share of `[server] max_connections`.
    pub permit: OwnedSemaphorePermit,
}

/// A client connection as its exchanges see it. It lives as long as the connection does, as a tunnel too.
pub struct Downstream {
    /// Where it is served.
    pub worker: Rc<Worker>,
    /// Where it comes from.
    pub peer: Peer,
    /// The peer's address, for `X-Forwarded-For`.
    pub peer_field: HeaderValue,
    /// Whether the peer [is believed](Peer::is_trusted).
    pub peer_is_trusted: bool,
    /// Free places for exchanges from its address; `None` where they are not limited.
    address_exchanges: Option<Arc<Semaphore>>,
    current: Rc<Current>,
    admission: Rc<Admission>,
}

/// What a connection takes from others.
struct Admission {
    /// It is counted among the open ones.
    _open: Open,
    /// Its share of `[server] max_connections`.
    _permit: OwnedSemaphorePermit,
    /// Its place among the connections of its address; `None` for a trusted proxy.
    place: Option<Place>,
}

impl Downstream {
    /// The same connection by the settings that are in effect, if those are others.
    pub fn changed(&self) -> Option<Rc<Downstream>> {
        if self.current.is(&self.worker) {
            return None;
        }
        let worker = self.current.worker();
        Some(Rc::new(Downstream {
            address_exchanges: self.admission.exchanges(&worker, self.peer),
            peer_is_trusted: self.peer.is_trusted(&worker.config.forwarded.trusted_proxies),
            worker,
            peer: self.peer,
            peer_field: self.peer_field.clone(),
            current: Rc::clone(&self.current),
            admission: Rc::clone(&self.admission),
        }))
    }

    /// Waits for the places that an exchange takes.
    ///
    /// # Errors
    /// There were none in time.
    pub async fn places(&self) -> Result<Places, NoPlace> {
        let worker = &self.worker;
        // As long as for a connection to the upstream.
        let wait = worker.config.upstream.connect_timeout;
        Places::take(self.address_exchanges.as_ref(), worker.exchanges.as_ref(), wait).await
    }
}

impl Admission {
    /// A proxy in front brings the exchanges of many clients, also of those that it does not name.
    fn exchanges(&self, worker: &Worker, peer: Peer) -> Option<Arc<Semaphore>> {
        let is_proxy = client_addr::is_trusted(peer.address.ip(), &worker.config.forwarded.trusted_proxies);
        let place = self.place.as_ref().filter(|_| !is_proxy)?;
        place.exchanges(&worker.per_address, worker.share)
    }
}

/// Serves one connection to its end. All errors end here: they are of this connection only.
pub async fn serve(accepted: Accepted, current: Rc<Current>) {
    let Accepted { stream, peer, tls, permit } = accepted;
    let worker = current.worker();
    let mut stream = match stream.register() {
        Ok(stream) => stream,
        Err(error) => return debug!(%error, %peer, "a connection was gone before it was served"),
    };
    let (version, proxies) = (worker.config.server.proxy_protocol, &worker.config.forwarded.trusted_proxies);
    let introduced = tokio::select! {
        biased;
        introduced = proxy_protocol::client_of(&mut stream, peer, version, proxies) => introduced,
        () = worker.last_request() => return,
    };
    let introduced = match introduced {
        Ok(introduced) => introduced,
        Err(reason) => {
            worker.metrics.add(Event::RefusedProxyHeader);
            // A wrong configuration on either side shows in the first connection; strangers must not fill the log.
            return match worker.has_warned_of_header.replace(true) {
                false => warn!(%reason, %peer, "closed a connection; further ones are logged at the level debug"),
                true => debug!(%reason, %peer, "closed a connection"),
            };
        }
    };
    let scheme =
        if tls || introduced.is_some_and(|introduced| introduced.by_tls) { Scheme::Https } else { Scheme::Http };
    let peer = match introduced.map(|introduced| introduced.address) {
        None => Peer::new(peer, scheme),
        Some(Some(client)) => Peer::new(client, scheme),
        Some(None) => Peer::unnamed(peer, scheme),
    };
    let place = match worker.place(peer) {
        Ok(place) => place,
        Err(TooMany) => {
            worker.metrics.add(Event::RefusedPerAddress);
            return debug!(%peer, "closed a connection: its address has max_connections_per_address open");
        }
    };
    let peer_field = request::address(peer.address.ip());
    let open = worker.metrics.open(Level::Connections);
    let admission = Rc::new(Admission { _open: open, _permit: permit, place });
    let acceptor = worker.acceptor.clone().filter(|_| tls);
    let peer_is_trusted = peer.is_trusted(&worker.config.forwarded.trusted_proxies);
    let address_exchanges = admission.exchanges(&worker, peer);
    let downstream =
        Rc::new(Downstream { worker, peer, peer_field, peer_is_trusted, address_exchanges, current, admission });
    match (tls, acceptor) {
        // Boxed, so that a plain connection does not carry the space that a handshake and HTTP/2 need.
        (true, Some(acceptor)) => Box::pin(serve_tls(stream, &acceptor, downstream)).await,
        (true, None) => debug!(%peer, "closed a connection: a reload has just ended TLS"),
        (false, _) => serve_http1(Either::Left(stream), downstream).await,
    }
}

/// ALPN decides between the two versions; hyper-util's sniffing has no time limit (hyper#3756).
async fn serve_tls(stream: Stream, acceptor: &Acceptor, downstream: Rc<Downstream>) {
    let (peer, metrics) = (downstream.peer, Arc::clone(&downstream.worker.metrics));
    let handshake = tokio::select! {
        handshake = acceptor.accept(stream) => handshake,
        () = downstream.worker.last_request() => return,
    };
    match handshake {
        Ok(stream) if tls::chose_http2(&stream) => {
            metrics.add(Event::HandshakeHttp2);
            if let Err(error) = http2::serve(stream, downstream).await {
                debug!(%error, %peer, "connection ended");
            }
        }
        Ok(stream) => {
            metrics.add(Event::HandshakeHttp1);
            serve_http1(Either::Right(Box::new(stream)), downstream).await;
        }
        Err(error) => {
            metrics.add(error.event());
            let source = std::error::Error::source(&error).map(ToString::to_string);
            debug!(%peer, source, "{error}");
        }
    }
}

/// One address has too many connections open.
pub struct TooMany;

impl Worker {
    /// Waits until draining has begun and the last requests have come.
    async fn last_request(&self) {
        self.draining.cancelled().await;
        sleep(LAST_REQUEST).await;
    }

    fn place(&self, peer: Peer) -> Result<Option<Place>, TooMany> {
        // A proxy in front brings the connections of many clients, also of those that it does not name.
        let peer = peer.address.ip();
        if client_addr::is_trusted(peer, &self.config.forwarded.trusted_proxies) {
            return Ok(None);
        }
        self.per_address.admit(peer).map(Some).ok_or(TooMany)
    }
}

async fn serve_http1(stream: ClientStream, downstream: Rc<Downstream>) {
    let (metrics, peer) = (Arc::clone(&downstream.worker.metrics), downstream.peer);
    let connection = http1::Connection::new(stream, downstream);
    match connection.serve().await {
        Ok(()) => {}
        Err(ConnectionError::TooLong(Wait::FirstByte)) => {
            metrics.add(Event::SilentFirstByte);
            debug!(%peer, "closed a connection: nothing came within first_byte_timeout");
        }
        Err(ConnectionError::TooLong(Wait::Head | Wait::NextRequest)) => {
            debug!(%peer, "closed a connection: it idled for keepalive_idle");
        }
        Err(ConnectionError::TooLong(Wait::Reader(why))) => {
            metrics.add(Event::SilentReader);
            info!(%peer, reason = %why, "closed a connection: the client does not read its answer");
        }
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            debug!(%error, source, %peer, "connection ended");
        }
    }
}
