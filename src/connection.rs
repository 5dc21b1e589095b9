//! One client connection, from accept to close: TLS or not, HTTP/1.1 or HTTP/2, under its timers and limits, ended
//! gracefully when draining.

pub mod watch;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::alarm::Alarm;
use crate::client_addr::{self, Peer, Scheme};
use crate::error::ExchangeError;
use crate::forward::request;
use crate::listen::Accepted;
use crate::metrics::{Event, Level, Open};
use crate::per_address::Place;
use crate::respond::{self, Asked};
use crate::stream::Stream;
use crate::tls::Acceptor;
use crate::worker::Worker;
use crate::{exchange, http2, proxy_protocol, tls};
use watch::{Wait, Watch, Watched};

/// How long the last words to a client that was too slow may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A client connection as its exchanges see it. It lives as long as the connection does, as a tunnel too.
pub struct Downstream {
    /// Where it is served.
    pub worker: Rc<Worker>,
    /// Where it comes from.
    pub peer: Peer,
    /// The peer's address, for `X-Forwarded-For`.
    pub peer_field: HeaderValue,
    /// It is counted among the open ones.
    _open: Open,
    /// Its share of `[server] max_connections`.
    _permit: OwnedSemaphorePermit,
    /// Its share of `[server] max_connections_per_address`, if that is limited.
    _place: Option<Place>,
}

/// Serves one connection to its end. All errors end here: they are of this connection only.
pub async fn serve(accepted: Accepted, worker: Rc<Worker>) {
    let Accepted { stream, peer, tls, permit } = accepted;
    let mut stream = match stream.register() {
        Ok(stream) => stream,
        Err(error) => return debug!(%error, %peer, "a connection was gone before it was served"),
    };
    let client = tokio::select! {
        client = proxy_protocol::client_of(&mut stream, peer, worker.proxy_protocol, &worker.trusted_proxies) => client,
        () = worker.draining.cancelled() => return,
    };
    let peer = match client {
        Ok(client) => client,
        Err(reason) => {
            worker.metrics.add(Event::RefusedProxyHeader);
            // A wrong configuration on either side shows in the first connection; strangers must not fill the log.
            return match worker.has_warned_of_header.replace(true) {
                false => warn!(%reason, %peer, "closed a connection; further ones are logged at the level debug"),
                true => debug!(%reason, %peer, "closed a connection"),
            };
        }
    };
    let peer = Peer::new(peer, if tls.is_some() { Scheme::Https } else { Scheme::Http });
    let place = match worker.place(peer) {
        Ok(place) => place,
        Err(TooMany) => {
            worker.metrics.add(Event::RefusedPerAddress);
            return debug!(%peer, "closed a connection: its address has max_connections_per_address open");
        }
    };
    let peer_field = request::address(peer.address.ip());
    let open = worker.metrics.open(Level::Connections);
    let downstream = Rc::new(Downstream { worker, peer, peer_field, _open: open, _permit: permit, _place: place });
    match tls {
        // Boxed, so that a plain connection does not carry the space that a handshake and HTTP/2 need.
        Some(acceptor) => Box::pin(serve_tls(stream, &acceptor, downstream)).await,
        None => serve_http1(stream, downstream).await,
    }
}

/// ALPN decides between the two versions; hyper-util's sniffing has no time limit (hyper#3756).
async fn serve_tls(stream: Stream, acceptor: &Acceptor, downstream: Rc<Downstream>) {
    let (peer, metrics) = (downstream.peer, Arc::clone(&downstream.worker.metrics));
    let handshake = tokio::select! {
        handshake = acceptor.accept(stream) => handshake,
        () = downstream.worker.draining.cancelled() => return,
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
            serve_http1(stream, downstream).await;
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
    fn place(&self, peer: Peer) -> Result<Option<Place>, TooMany> {
        // A proxy in front brings the connections of many clients.
        let peer = peer.address.ip();
        match &self.per_address {
            Some(per_address) if !client_addr::is_trusted(peer, &self.trusted_proxies) => {
                per_address.admit(peer).map(Some).ok_or(TooMany)
            }
            _ => Ok(None),
        }
    }
}

async fn serve_http1<I>(stream: I, downstream: Rc<Downstream>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (worker, peer) = (Rc::clone(&downstream.worker), downstream.peer);
    let watch = Watch::new();
    let service = service_fn(|request| {
        let (downstream, exchange) = (Rc::clone(&downstream), watch.exchange());
        // Boxed, so that an idle connection does not carry the space of an exchange, which is 4 KB.
        Box::pin(async move {
            let mut answer = exchange::answer(&downstream, request).await;
            answer.body_mut().ends(exchange);
            Ok::<_, Infallible>(answer)
        })
    });
    let stream = TokioIo::new(Watched::new(stream, Arc::clone(&watch)));
    let mut connection = worker.http.serve_connection(stream, service).with_upgrades();
    let mut draining = pin!(worker.draining.cancelled());
    let mut is_draining = false;
    let mut alarm = Alarm::default();
    let ended = poll_fn(|cx| {
        if !is_draining && draining.as_mut().poll(cx).is_ready() {
            is_draining = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(Ok(ended));
        }
        match watch.waits_for(&worker.limits) {
            Some((wait, deadline)) => alarm.poll_at(cx, deadline).map(|()| Err(wait)),
            None => Poll::Pending,
        }
    });
    match ended.await {
        Ok(Ok(())) => {}
        // hyper has answered 400, 414 or 431 by itself.
        Ok(Err(error)) if error.is_parse() => refused_by_hyper(&error, &worker, peer),
        Ok(Err(error)) => debug!(%error, %peer, "connection ended"),
        Err(Wait::FirstByte) => {
            worker.metrics.add(Event::SilentFirstByte);
            debug!(%peer, "closed a connection: nothing came within first_byte_timeout");
        }
        Err(Wait::NextRequest) => debug!(%peer, "closed a connection: it idled for keepalive_idle"),
        Err(Wait::Reader) => {
            worker.metrics.add(Event::SilentReader);
            info!(%peer, "closed a connection: the client read nothing for response_write_idle");
        }
        Err(Wait::Head) => {
            if let Some(parts) = connection.into_parts() {
                Box::pin(say_too_late(parts.io.into_inner(), &worker, peer)).await;
            }
        }
    }
}

/// A request that hyper could not read and has answered with a bare 400, 414 or 431. Its type keeps the last two together
/// (`is_parse_too_large`), so they are told apart by its words; should those change, both are a head too large.
fn refused_by_hyper(error: &hyper::Error, worker: &Worker, peer: Peer) {
    let (event, status) = match error.is_parse_too_large() {
        true if error.to_string().contains("URI") => (Event::UriTooLong, 414),
        true => (Event::HeadTooLarge, 431),
        false => (Event::Malformed, 400),
    };
    // It never became a request that had begun.
    worker.metrics.add(Event::Begun);
    worker.metrics.add(Event::Error4xx);
    worker.metrics.add(event);
    let request_id = worker.request_ids.next();
    info!(%peer, %request_id, status, reason = %error, "refused a request that is not valid HTTP");
}

/// hyper closes without a word when a head takes too long (and so would we, were the answer not 408 everywhere else).
async fn say_too_late(mut stream: impl AsyncWrite + Unpin, worker: &Worker, peer: Peer) {
    let error = ExchangeError::RequestHeadTimeout(worker.limits.request_header);
    let asked = Asked::new(worker.request_ids.next(), &HeaderMap::new());
    worker.metrics.add(Event::Begun);
    exchange::tell(&error, &asked, peer, &worker.metrics);
    let answer = respond::written_failure(&error, &asked);
    let said = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await
    };
    let _ = timeout(LAST_WORDS, said).await;
}
