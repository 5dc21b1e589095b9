//! One client connection from accept to close: TLS or not, HTTP/1.1 or HTTP/2, with its timers and
//! limits, ended gracefully in a drain.

pub mod http1;
pub mod http2;
pub mod watch;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tokio_util::either::Either;
use tracing::{debug, info, warn};

use crate::client_addr::{Peer, Scheme};
use crate::exchange::context::{Context, LatestContext};
use crate::exchange::downstream::{Downstream, TooMany};
use crate::metrics::Event;
use crate::net::proxy_protocol;
use crate::net::stream::{ClientStream, Stream, Unregistered};
use crate::tls::{self, Acceptor};
use http1::ConnectionError;
use watch::{LAST_REQUEST, Wait};

/// A connection on its way to a worker. The permit is held until it closes.
pub struct Accepted {
    pub stream: Unregistered,
    /// The client's address; for a unix socket the loopback address with port 0.
    pub peer: SocketAddr,
    pub tls: bool,
    /// Its share of `[server] max_connections`.
    pub permit: OwnedSemaphorePermit,
}

/// Serves one connection to its end. Its errors end here and affect no other connection.
pub async fn serve(accepted: Accepted, latest: Rc<LatestContext>) {
    let Accepted { stream, peer, tls, permit } = accepted;
    let context = latest.context();
    let mut stream = match stream.register() {
        Ok(stream) => stream,
        Err(error) => return debug!(%error, %peer, "a connection was gone before it was served"),
    };
    let (version, proxies) = (context.config.server.proxy_protocol, &context.config.forwarded.trusted_proxies);
    let introduced = tokio::select! {
        biased;
        introduced = proxy_protocol::client_of(&mut stream, peer, version, proxies) => introduced,
        () = last_request(&context) => return,
    };
    let introduced = match introduced {
        Ok(introduced) => introduced,
        Err(reason) => {
            context.metrics.add(Event::RefusedProxyHeader);
            // A PROXY protocol setting that is wrong on one side already shows in the first
            // connection; further ones must not fill the log.
            return match context.has_warned_of_header.replace(true) {
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
    let acceptor = context.acceptor.clone().filter(|_| tls);
    let downstream = match Downstream::admit(latest, peer, permit) {
        Ok(downstream) => downstream,
        Err(TooMany) => {
            context.metrics.add(Event::RefusedPerAddress);
            return debug!(%peer, "closed a connection: its address has max_connections_per_address open");
        }
    };
    // The context is of the settings at accept; a reload must be able to free it.
    drop(context);
    match (tls, acceptor) {
        // Boxed, so that a plain connection does not reserve the memory that a handshake and HTTP/2
        // need.
        (true, Some(acceptor)) => Box::pin(serve_tls(stream, &acceptor, downstream)).await,
        (true, None) => debug!(%peer, "closed a connection: a reload has just ended TLS"),
        (false, _) => serve_http1(Either::Left(stream), downstream).await,
    }
}

/// ALPN selects the version; hyper-util's detection has no time limit (hyper#3756).
async fn serve_tls(stream: Stream, acceptor: &Acceptor, downstream: Rc<Downstream>) {
    let (peer, metrics) = (downstream.peer, Arc::clone(&downstream.context.metrics));
    let handshake = tokio::select! {
        handshake = acceptor.accept(stream) => handshake,
        () = last_request(&downstream.context) => return,
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

/// Waits until the drain has begun and the last requests have arrived.
async fn last_request(context: &Context) {
    context.draining.cancelled().await;
    sleep(LAST_REQUEST).await;
}

async fn serve_http1(stream: ClientStream, downstream: Rc<Downstream>) {
    let (metrics, peer) = (Arc::clone(&downstream.context.metrics), downstream.peer);
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
