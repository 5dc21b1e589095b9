//! One worker's connections to the upstream: last used first, given back when the body of the answer ends.
//!
//! hyper-util's client is not used: its pool is shared by all threads behind a lock, boxes what it carries, and does
//! not say how long a connection idled. Here each worker has its own, and nothing crosses threads.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tracing::debug;

use crate::body::{Progress, RequestBody};
use crate::config;
use crate::error::ExchangeError;

/// A request with side effects never goes out on a connection that idled longer: the upstream may be closing it at
/// this moment, and such a request cannot be sent twice.
const UNSAFE_METHOD_IDLE: Duration = Duration::from_secs(1);

/// WordPress and its plugins may send many `Set-Cookie` and `Link` lines; hyper's own limit of 100 would make a 502 of them.
const MAX_ANSWER_FIELDS: usize = 1000;

/// The upstream as one worker sees it.
pub struct Upstream {
    config: config::Upstream,
    authority: HeaderValue,
    client: http1::Builder,
    idle: RefCell<Vec<Idle>>,
}

struct Idle {
    sender: SendRequest<RequestBody>,
    since: Instant,
}

impl Upstream {
    /// Connects when first asked. Must be called inside the worker's runtime, where it also starts the task that closes
    /// connections that idled too long (they each hold a worker process of an Apache prefork).
    pub fn new(config: config::Upstream) -> Rc<Self> {
        let authority = HeaderValue::from_str(config.url.to_string().trim_start_matches("http://"))
            .unwrap_or_else(|_| HeaderValue::from_static("localhost"));
        let mut client = http1::Builder::new();
        client
            .preserve_header_case(true)
            // For the fields that we add.
            .title_case_headers(true)
            .max_headers(MAX_ANSWER_FIELDS);
        let upstream = Rc::new(Upstream { config, authority, client, idle: RefCell::new(Vec::new()) });
        spawn_local(close_idle(Rc::downgrade(&upstream)));
        upstream
    }

    /// `host:port`, for requests that name no host.
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// Sends `request` and waits for the head of the answer. The lease is the connection that its body comes by.
    ///
    /// A request without a body and side effects is sent once more, on a fresh connection, when a reused one died before
    /// an answer: the upstream had closed it while it was idle (RFC 9112, 9.3.1).
    ///
    /// # Errors
    /// No connection, no answer, no answer in time, or a request body that broke off.
    pub async fn send(
        self: &Rc<Self>,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), ExchangeError> {
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let Some(lease) = self.reuse(is_safe) else {
            let lease = self.connect().await?;
            return self.exchange(lease, request).await;
        };
        if !(is_safe && request.body().is_end_stream()) {
            return self.exchange(lease, request).await;
        }
        let (head, body) = request.into_parts();
        let again = head.clone();
        match self.exchange(lease, Request::from_parts(head, body)).await {
            Err(ExchangeError::UpstreamResponse(error)) if !error.is_parse() => {
                debug!(%error, "a reused upstream connection died, trying a fresh one");
                let lease = self.connect().await?;
                self.exchange(lease, Request::from_parts(again, RequestBody::Empty)).await
            }
            outcome => outcome,
        }
    }

    async fn exchange(
        &self,
        mut lease: Lease,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), ExchangeError> {
        let progress = request.body().progress();
        let answer = lease.sender.send_request(request);
        match within(self.config.response_header_timeout, progress, answer).await {
            Some(Ok(answer)) => Ok((answer, lease)),
            // hyper's word for "the body that you gave me failed": the client's request broke off or was not valid.
            Some(Err(error)) if error.is_user() => Err(ExchangeError::RequestBody(error)),
            Some(Err(error)) => Err(ExchangeError::UpstreamResponse(error)),
            None => Err(ExchangeError::UpstreamTimeout(self.config.response_header_timeout)),
        }
    }

    /// The connection that idled least, if it may still be used.
    fn reuse(self: &Rc<Self>, is_safe: bool) -> Option<Lease> {
        let limit =
            if is_safe { self.config.keepalive_idle } else { self.config.keepalive_idle.min(UNSAFE_METHOD_IDLE) };
        let mut idle = self.idle.borrow_mut();
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            let candidate = idle.get(at)?;
            if candidate.since.elapsed() >= limit {
                // Those below idled longer still.
                return None;
            }
            if candidate.sender.is_closed() {
                idle.remove(at);
            } else if candidate.sender.is_ready() {
                let sender = idle.remove(at).sender;
                return Some(Lease { sender, upstream: Rc::downgrade(self) });
            }
            // Else it is still busy with the end of its last exchange.
        }
        None
    }

    async fn connect(self: &Rc<Self>) -> Result<Lease, ExchangeError> {
        let limit = self.config.connect_timeout;
        let stream = timeout(limit, TcpStream::connect((self.config.url.host.as_str(), self.config.url.port)))
            .await
            .map_err(|_| ExchangeError::UpstreamConnectTimeout(limit))?
            .map_err(ExchangeError::UpstreamConnect)?;
        stream.set_nodelay(true).map_err(ExchangeError::UpstreamConnect)?;
        let (sender, connection) =
            self.client.handshake(TokioIo::new(stream)).await.map_err(ExchangeError::UpstreamResponse)?;
        spawn_local(async move {
            if let Err(error) = connection.await {
                debug!(%error, "upstream connection ended");
            }
        });
        Ok(Lease { sender, upstream: Rc::downgrade(self) })
    }
}

/// A connection in use. Dropped, it is closed.
pub struct Lease {
    sender: SendRequest<RequestBody>,
    upstream: Weak<Upstream>,
}

impl Lease {
    /// Back into the pool: the answer was read to its end.
    pub fn give_back(self) {
        let Some(upstream) = self.upstream.upgrade() else { return };
        let mut idle = upstream.idle.borrow_mut();
        if !self.sender.is_closed() && idle.len() < upstream.config.keepalive_max_idle {
            idle.push(Idle { sender: self.sender, since: Instant::now() });
        }
    }
}

/// Waits for `answer`, at most `limit` after the last sign of life of the request's body.
async fn within<F: Future>(limit: Duration, progress: Option<Progress>, answer: F) -> Option<F::Output> {
    let Some(progress) = progress else { return timeout(limit, answer).await.ok() };
    let mut answer = pin!(answer);
    loop {
        let deadline = progress.get() + limit;
        tokio::select! {
            answer = &mut answer => return Some(answer),
            () = sleep_until(deadline.into()) => {
                if progress.get() + limit <= deadline {
                    return None;
                }
            }
        }
    }
}

async fn close_idle(upstream: Weak<Upstream>) {
    let mut tick = interval(Duration::from_millis(500));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(upstream) = upstream.upgrade() else { return };
        let limit = upstream.config.keepalive_idle;
        upstream.idle.borrow_mut().retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < limit);
    }
}
