//! One worker's connections to the upstream: last used first, given back when the body of the answer ends.
//!
//! hyper-util's client is not used: its pool is shared by all threads behind a lock, boxes what it carries, and does
//! not say how long a connection idled. Here each worker has its own, and nothing crosses threads.

use std::cell::RefCell;
use std::error::Error as _;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::debug;

use super::dial::Dialer;
use crate::alarm::Alarm;
use crate::body::{BodyError, RequestBody};
use crate::config;
use crate::error::ExchangeError;
use crate::metrics::{Event, Level, Open, Shard};

/// A request with side effects never goes out on a connection that idled longer: the upstream may be closing it at
/// this moment, and such a request cannot be sent twice.
const UNSAFE_METHOD_IDLE: Duration = Duration::from_secs(1);

/// WordPress and its plugins may send many `Set-Cookie` and `Link` lines; hyper's own limit of 100 would make a 502 of them.
const MAX_ANSWER_FIELDS: usize = 1000;

/// The longest head of an answer, and the most of a body that is read at once: hyper's own 400 KB for each of hundreds of
/// downloads is memory for nothing.
const ANSWER_BUFFER: usize = 128 * 1024;

/// The upstream as one worker sees it.
pub struct Upstream {
    config: config::Upstream,
    dialer: Dialer,
    metrics: Arc<Shard>,
    authority: HeaderValue,
    client: http1::Builder,
    idle: RefCell<Vec<Idle>>,
    /// This worker's share of `[upstream] max_connections`. Whoever uses a connection holds one; idle ones make room.
    slots: Option<Arc<Semaphore>>,
}

struct Idle {
    link: Link,
    since: Instant,
}

impl Upstream {
    /// Connects when first asked. Must be called inside the worker's runtime, where it also starts the task that closes
    /// connections that idled too long (they each hold a worker process of an Apache prefork). `workers` share the limit.
    pub fn new(config: config::Upstream, dialer: Dialer, workers: usize, metrics: Arc<Shard>) -> Rc<Self> {
        let authority =
            HeaderValue::from_str(&config.url.authority()).unwrap_or_else(|_| HeaderValue::from_static("localhost"));
        let mut client = http1::Builder::new();
        client
            .preserve_header_case(true)
            // For the fields that we add.
            .title_case_headers(true)
            .max_buf_size(ANSWER_BUFFER)
            .max_headers(MAX_ANSWER_FIELDS);
        let slots = (config.max_connections > 0).then(|| {
            let share = config.max_connections.div_ceil(workers.max(1)).min(Semaphore::MAX_PERMITS);
            Arc::new(Semaphore::new(share))
        });
        let idle = RefCell::new(Vec::new());
        let upstream = Rc::new(Upstream { config, dialer, metrics, authority, client, idle, slots });
        spawn_local(close_idle(Rc::downgrade(&upstream)));
        upstream
    }

    /// `host:port`, for requests that name no host.
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// Sends `request` of `client` and waits for the head of the answer. The lease is the connection that its body comes by.
    ///
    /// A request without a body and side effects is sent once more, on a fresh connection, when a reused one died before
    /// an answer: the upstream had closed it while it was idle (RFC 9112, 9.3.1).
    ///
    /// # Errors
    /// No connection, no answer, no answer in time, or a request body that broke off.
    pub async fn send(
        self: &Rc<Self>,
        request: Request<RequestBody>,
        client: IpAddr,
    ) -> Result<(Response<Incoming>, Lease), ExchangeError> {
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let slot = self.slot().await?;
        let Some(link) = self.reuse(is_safe) else {
            let lease = self.lease(self.connect(client).await?, slot);
            return self.exchange(lease, request).await.map_err(|(error, _)| error);
        };
        self.metrics.add(Event::UpstreamReused);
        let lease = self.lease(link, slot);
        if !(is_safe && request.body().is_end_stream()) {
            return self.exchange(lease, request).await.map_err(|(error, _)| error);
        }
        let (head, body) = request.into_parts();
        let again = head.clone();
        match self.exchange(lease, Request::from_parts(head, body)).await {
            Err((ExchangeError::UpstreamResponse(error), lease)) if !error.is_parse() => {
                self.metrics.add(Event::UpstreamRetried);
                debug!(%error, "a reused upstream connection died, trying a fresh one");
                let lease = self.lease(self.connect(client).await?, lease.into_slot());
                let request = Request::from_parts(again, RequestBody::Empty);
                self.exchange(lease, request).await.map_err(|(error, _)| error)
            }
            outcome => outcome.map_err(|(error, _)| error),
        }
    }

    async fn exchange(
        &self,
        mut lease: Lease,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), (ExchangeError, Lease)> {
        let limit = self.config.response_header_timeout;
        let progress = request.body().progress();
        let begun = Instant::now();
        lease.sent = begun;
        let mut answer = pin!(lease.link.sender.send_request(request));
        let alarm = &mut lease.link.alarm;
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            // The wait counts from the last sign of life of the request's body.
            let since = progress.as_ref().map_or(begun, |progress| progress.get());
            alarm.poll_at(cx, since + limit).map(|()| None)
        });
        match outcome.await {
            Some(Ok(answer)) => Ok((answer, lease)),
            Some(Err(error)) => Err((of_request_or_answer(error), lease)),
            None => Err((ExchangeError::UpstreamTimeout(limit), lease)),
        }
    }

    /// Waits for a share of `[upstream] max_connections`.
    async fn slot(&self) -> Result<Option<OwnedSemaphorePermit>, ExchangeError> {
        let Some(slots) = &self.slots else { return Ok(None) };
        let limit = self.config.connect_timeout;
        match timeout(limit, Arc::clone(slots).acquire_owned()).await {
            Ok(slot) => Ok(slot.ok()),
            Err(_) => Err(ExchangeError::UpstreamBusy(limit)),
        }
    }

    fn lease(self: &Rc<Self>, link: Link, slot: Option<OwnedSemaphorePermit>) -> Lease {
        Lease { sent: link.made, link, upstream: Rc::downgrade(self), slot }
    }

    /// The connection that idled least, if it may still be used.
    fn reuse(&self, is_safe: bool) -> Option<Link> {
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
            if candidate.link.sender.is_closed() {
                idle.remove(at);
            } else if candidate.link.sender.is_ready() {
                let link = idle.remove(at).link;
                self.metrics.set(Level::UpstreamIdle, idle.len());
                return Some(link);
            }
            // Else it is still busy with the end of its last exchange.
        }
        None
    }

    async fn connect(&self, client: IpAddr) -> Result<Link, ExchangeError> {
        self.make_room();
        let stream = self.dialer.dial(Some(client)).await?;
        let (sender, connection) =
            self.client.handshake(TokioIo::new(stream)).await.map_err(ExchangeError::UpstreamResponse)?;
        let task = spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(%error, "upstream connection ended");
            }
        });
        self.metrics.add(Event::UpstreamOpened);
        let open = self.metrics.open(Level::Upstream);
        Ok(Link { sender, task: task.abort_handle(), alarm: Alarm::default(), made: Instant::now(), _open: open })
    }

    /// Closes idle connections that a new one would be too many with.
    fn make_room(&self) {
        let Some(slots) = &self.slots else { return };
        let free = slots.available_permits();
        let mut idle = self.idle.borrow_mut();
        let too_many = idle.len().saturating_sub(free);
        idle.drain(..too_many);
        self.metrics.set(Level::UpstreamIdle, idle.len());
    }
}

/// hyper's word for "the body that you gave me failed": the client's request broke off, was not valid or stood still.
fn of_request_or_answer(error: hyper::Error) -> ExchangeError {
    if !error.is_user() {
        return ExchangeError::UpstreamResponse(error);
    }
    match error.source().and_then(|source| source.downcast_ref()) {
        Some(BodyError::Silent(limit)) => ExchangeError::RequestBodyTimeout(*limit),
        Some(BodyError::BrokeOff(_)) | None => ExchangeError::RequestBody(error),
    }
}

/// A connection. Dropped, it is closed at once, whatever its task waits for: an upstream that answered in full and
/// stopped reading would hold it for ever (hyper#4176).
struct Link {
    sender: SendRequest<RequestBody>,
    task: AbortHandle,
    alarm: Alarm,
    made: Instant,
    _open: Open,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection in use. Dropped, it is closed.
pub struct Lease {
    link: Link,
    sent: Instant,
    upstream: Weak<Upstream>,
    slot: Option<OwnedSemaphorePermit>,
}

impl Lease {
    /// When the request went out by it.
    pub fn sent(&self) -> std::time::Instant {
        self.sent.into_std()
    }

    /// Back into the pool: the answer was read to its end.
    pub fn give_back(self) {
        let Some(upstream) = self.upstream.upgrade() else { return };
        // SECURITY: a connection that was introduced as one client's must not carry another's requests.
        if upstream.dialer.introduces() {
            return;
        }
        let mut idle = upstream.idle.borrow_mut();
        if !self.link.sender.is_closed() && idle.len() < upstream.config.keepalive_max_idle {
            idle.push(Idle { link: self.link, since: Instant::now() });
            upstream.metrics.set(Level::UpstreamIdle, idle.len());
        }
    }

    /// The answer that came by it ended early.
    pub fn cut(&self, error: &BodyError) {
        let Some(upstream) = self.upstream.upgrade() else { return };
        upstream.metrics.add(match error {
            BodyError::BrokeOff(_) => Event::AnswerBrokeOff,
            BodyError::Silent(_) => Event::AnswerSilent,
        });
    }

    /// Ready with `[upstream] response_body_idle` when that has passed since `since`.
    pub fn poll_silent(&mut self, cx: &mut Context<'_>, since: Instant) -> Poll<Duration> {
        let Some(upstream) = self.upstream.upgrade() else { return Poll::Pending };
        let limit = upstream.config.response_body_idle;
        ready!(self.link.alarm.poll_at(cx, since + limit));
        Poll::Ready(limit)
    }

    fn into_slot(self) -> Option<OwnedSemaphorePermit> {
        self.slot
    }
}

async fn close_idle(upstream: Weak<Upstream>) {
    let mut tick = interval(Duration::from_millis(500));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(upstream) = upstream.upgrade() else { return };
        let limit = upstream.config.keepalive_idle;
        let mut idle = upstream.idle.borrow_mut();
        idle.retain(|idle| !idle.link.sender.is_closed() && idle.since.elapsed() < limit);
        upstream.metrics.set(Level::UpstreamIdle, idle.len());
    }
}
