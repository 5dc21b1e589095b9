//! One worker's connections to the upstream: last used first, given back when the body of the answer ends.
//!
//! Each worker has its own, nothing crosses threads, and an exchange on one is driven by the task that waits for it.
//! Nobody looks after an idle connection but the one who takes it again and a slow tick.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, request};
use hyper::body::{Body as _, Frame};
use rustls::pki_types::ServerName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::debug;

use super::error::{CutError, ForwardError};
use super::relay;
use super::request::Added;
use crate::admission::places;
use crate::body::{BodyError, RequestBody};
use crate::config;
use crate::http1::client::{Connection, Sending};
use crate::http1::error::AnswerError;
use crate::http1::fields;
use crate::http1::rewound::Rewound;
use crate::metrics::{Event, Level, Open, Shard};
use crate::net::dial::Dialer;
use crate::net::stream::UpstreamStream;
use crate::share::Share;
use crate::time::alarm::Alarm;

/// A request with side effects never goes out on a connection that idled longer: the upstream may be closing it at
/// this moment, and such a request cannot be sent twice.
const UNSAFE_METHOD_IDLE: Duration = Duration::from_secs(1);

/// The upstream as one worker sees it.
pub struct Upstream {
    config: config::Upstream,
    dialer: Dialer,
    metrics: Arc<Shard>,
    authority: HeaderValue,
    idle: RefCell<Vec<Idle>>,
    /// How many of those the metrics know of.
    told_idle: Cell<usize>,
    /// This worker's share of `[upstream] max_connections`. Whoever uses a connection holds one; idle ones make room.
    slots: RefCell<Option<Arc<Semaphore>>>,
    /// How many those are; zero is any number.
    most: Cell<usize>,
}

struct Idle {
    link: Box<Link>,
    since: Instant,
}

impl Upstream {
    /// Connects when first asked. Must be called inside the worker's runtime, where it also starts the task that closes
    /// connections that idled too long (they each hold a worker process of an Apache prefork). `share` is this worker's of the limit.
    pub fn new(config: config::Upstream, dialer: Dialer, share: Share, metrics: Arc<Shard>) -> Rc<Self> {
        let authority =
            HeaderValue::from_str(&config.url.authority()).unwrap_or_else(|_| HeaderValue::from_static("localhost"));
        let most = share.of_any(config.max_connections);
        let (slots, most) = (RefCell::new(places::limited(most)), Cell::new(most));
        let (idle, told_idle) = (RefCell::new(Vec::new()), Cell::new(0));
        let upstream = Rc::new(Upstream { config, dialer, metrics, authority, idle, told_idle, slots, most });
        spawn_local(close_idle(Rc::downgrade(&upstream)));
        upstream
    }

    /// Whether a new one would be the same, but for [how many](Self::limit) connections it may have.
    pub fn is_to(&self, config: &config::Upstream, dialer: &Dialer) -> bool {
        let like = config::Upstream { max_connections: self.config.max_connections, ..config.clone() };
        self.config == like && self.dialer == *dialer
    }

    /// From now on `share` of `max_connections` may be in use. What is in use keeps the slot that it has. By default the
    /// number follows from that of listeners and workers: a change of those must not close what idles.
    pub fn limit(&self, max_connections: usize, share: Share) {
        let most = share.of_any(max_connections);
        if self.most.replace(most) != most {
            *self.slots.borrow_mut() = places::limited(most);
        }
    }

    /// The way there.
    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// `host:port`, for requests that name no host.
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// Sends `request` of `client`, with what is `added` to its fields, and waits for the head of the answer. The lease is
    /// the connection that its body comes by. `name` is what the dialer has for it.
    ///
    /// A request without a body and side effects is sent once more, on a fresh connection, when a reused one died before
    /// an answer: the upstream had closed it while it was idle (RFC 9112, 9.3.1).
    ///
    /// # Errors
    /// No connection, no answer, no answer in time, or a request body that broke off.
    pub async fn send(
        self: &Rc<Self>,
        request: Request<RequestBody>,
        added: &Added<'_>,
        client: IpAddr,
        name: Option<ServerName<'static>>,
    ) -> Result<(Response<()>, Lease), ForwardError> {
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let slot = self.slot().await?;
        let (head, body) = request.into_parts();
        let can_repeat = is_safe && body.is_end_stream();
        let (link, is_reused) = match self.reuse(is_safe, name.as_ref()) {
            Some(link) => (link, true),
            None => (self.connect(client, name).await?, false),
        };
        let mut lease = Lease { link, sent: Instant::now(), upstream: Rc::downgrade(self), slot };
        lease.link.upload = body;
        let limit = self.config.response_header_timeout;
        let outcome = match relay::head(&mut lease, &head, added, limit).await {
            Err(ForwardError::Response(AnswerError::Closed(error))) if is_reused && can_repeat => {
                self.metrics.add(Event::UpstreamRetried);
                let error = error.map(tracing::field::display);
                debug!(error, "a reused upstream connection died, trying a fresh one");
                let name = lease.link.name.take();
                lease.link = self.connect(client, name).await?;
                relay::head(&mut lease, &head, added, limit).await
            }
            outcome => outcome,
        };
        fields::recycle(head.headers, head.extensions);
        Ok((outcome?, lease))
    }

    /// Waits for a share of `[upstream] max_connections`.
    async fn slot(&self) -> Result<Option<OwnedSemaphorePermit>, ForwardError> {
        let slots = self.slots.borrow().clone();
        places::one(slots.as_ref(), self.config.connect_timeout).await.map_err(ForwardError::Busy)
    }

    /// The connection by this name that idled least, if it may still be used.
    // SECURITY: by this name only. The upstream chose the virtual host, and with it the certificate, by the name of the
    // handshake; Apache answers 421 to requests for others (RFC 9110, 15.5.20).
    fn reuse(&self, is_safe: bool, name: Option<&ServerName<'static>>) -> Option<Box<Link>> {
        let limit =
            if is_safe { self.config.keepalive_idle } else { self.config.keepalive_idle.min(UNSAFE_METHOD_IDLE) };
        let mut idle = self.idle.borrow_mut();
        // The last came last: those below one that idled too long did so for longer still.
        let find = |idle: &[Idle]| {
            let fresh = idle.iter().rev().take_while(|idle| idle.since.elapsed() < limit);
            fresh.zip(1..).find(|(idle, _)| idle.link.name.as_ref() == name).map(|(_, nth)| idle.len() - nth)
        };
        while let Some(at) = find(&idle) {
            let mut last = idle.remove(at);
            if last.link.connection.is_good() {
                self.metrics.add(Event::UpstreamReused);
                self.tell_idle(idle.len());
                return Some(last.link);
            }
        }
        self.tell_idle(idle.len());
        None
    }

    async fn connect(&self, client: IpAddr, name: Option<ServerName<'static>>) -> Result<Box<Link>, ForwardError> {
        self.make_room();
        let stream = self.dialer.dial_as(Some(client), name.as_ref()).await?;
        let open = self.metrics.open(Level::Upstream);
        self.metrics.add(Event::UpstreamOpened);
        let connection = Connection::new(stream);
        let (upload, alarm) = (RequestBody::Empty, Alarm::default());
        Ok(Box::new(Link { connection, name, upload, alarm, _open: open }))
    }

    /// Closes idle connections that a new one would be too many with.
    fn make_room(&self) {
        let Some(free) = self.slots.borrow().as_ref().map(|slots| slots.available_permits()) else { return };
        let mut idle = self.idle.borrow_mut();
        let too_many = idle.len().saturating_sub(free);
        idle.drain(..too_many);
        self.tell_idle(idle.len());
    }

    /// After a reload there may be another of these beside this one: each counts its own.
    fn tell_idle(&self, idle: usize) {
        self.metrics.replace(Level::UpstreamIdle, self.told_idle.replace(idle), idle);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.tell_idle(0);
    }
}

/// A connection and what an exchange on it needs. Dropped, it is closed.
struct Link {
    connection: Connection,
    /// The name that its handshake was made by; `None` is the usual one.
    name: Option<ServerName<'static>>,
    /// What is left to be sent of the request.
    upload: RequestBody,
    alarm: Alarm,
    _open: Open,
}

impl Link {
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if let Sending::Refused = ready!(self.connection.poll_send(cx, &mut self.upload))? {
            self.upload = RequestBody::Empty;
        }
        Poll::Ready(Ok(()))
    }
}

/// A connection in use. Dropped, it is closed.
pub struct Lease {
    link: Box<Link>,
    sent: Instant,
    upstream: Weak<Upstream>,
    slot: Option<OwnedSemaphorePermit>,
}

impl Lease {
    /// When the request went out by it.
    pub fn sent_at(&self) -> Instant {
        self.sent
    }

    /// Writes the head of a request, which is sent with what is to follow of its body.
    pub fn begin(&mut self, head: &request::Parts, added: &Added<'_>) {
        self.sent = Instant::now();
        self.link.connection.begin(head, added.length, |out| added.write(out));
    }

    /// The head of the response.
    ///
    /// # Errors
    /// There is none, or it is invalid.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, AnswerError>> {
        self.link.connection.poll_answer(cx)
    }

    /// Sends what is left of the request's body. Ready when it was sent, or the upstream takes no more.
    ///
    /// # Errors
    /// The body's: the client's fault.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        self.link.poll_upload(cx)
    }

    /// The rest of the request's body will never come.
    pub fn give_up_upload(&mut self, error: &BodyError) {
        self.link.connection.give_up_sending();
        self.link.upload = RequestBody::Empty;
        if let Some(upstream) = self.upstream.upgrade() {
            upstream.metrics.add(error.event());
        }
    }

    /// The next part of the answer's body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutError>>> {
        let frame = ready!(self.link.connection.poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(|error| CutError::BrokeOff(error.into()))))
    }

    /// What was read of the answer cannot be taken yet: its reader is slow.
    pub fn settle(&mut self) {
        self.link.connection.detach();
    }

    /// Whether the answer's body was read to its end.
    pub fn is_answered(&self) -> bool {
        self.link.connection.is_answered()
    }

    /// How much of the answer's body is left, where that is known.
    pub fn left(&self) -> Option<u64> {
        self.link.connection.left()
    }

    /// Back into the pool: the answer was read to its end.
    pub fn give_back(self) {
        let Some(upstream) = self.upstream.upgrade() else { return };
        // SECURITY: a connection that was introduced as one client's must not carry another's requests.
        if upstream.dialer.introduces() || !self.link.connection.can_be_reused() {
            return;
        }
        let mut link = self.link;
        // It holds the client's connection.
        link.upload = RequestBody::Empty;
        let mut idle = upstream.idle.borrow_mut();
        if idle.len() < upstream.config.keepalive_max_idle {
            idle.push(Idle { link, since: Instant::now() });
            upstream.tell_idle(idle.len());
        }
    }

    /// The answer that came by it ended early.
    pub fn cut(&self, error: &CutError) {
        if let Some(upstream) = self.upstream.upgrade() {
            upstream.metrics.add(error.event());
        }
    }

    /// `[upstream] response_body_idle`; `None` where the worker has ended.
    pub fn silence(&self) -> Option<Duration> {
        self.upstream.upgrade().map(|upstream| upstream.config.response_body_idle)
    }

    /// Ready when `limit` has passed since `since`, and since the request's body last moved.
    pub fn poll_quiet(&mut self, cx: &mut Context<'_>, since: Instant, limit: Duration) -> Poll<()> {
        let Link { upload, alarm, .. } = &mut *self.link;
        let since = upload.progress().map_or(since, |progress| progress.max(since));
        alarm.poll_at(cx, since + limit)
    }

    /// The stream behind a switch of protocols, and the slot that it goes on to hold.
    pub fn into_stream(self) -> (Rewound<UpstreamStream>, Option<OwnedSemaphorePermit>) {
        let (stream, read) = self.link.connection.into_stream();
        (Rewound::new(stream, read), self.slot)
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
        idle.retain_mut(|idle| idle.since.elapsed() < limit && idle.link.connection.is_good());
        upstream.tell_idle(idle.len());
    }
}
