//! One worker's connections to the upstream: last used first, given back when the body of the answer ends.
//!
//! Each worker has its own, nothing crosses threads, and an exchange on one is driven by the task that waits for it.
//! Idle connections are checked when they are reused, and every 500 ms.

mod link;

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response};
use hyper::body::Body as _;
use rustls::pki_types::ServerName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::debug;

use super::Hop;
use super::early::Begin;
use super::error::ForwardError;
use super::relay;
use super::request::Added;
use crate::admission::places;
use crate::body::RequestBody;
use crate::config;
use crate::http1::error::AnswerError;
use crate::http1::fields;
use crate::http1::rewound::Rewound;
use crate::metrics::{Event, Level, Shard};
use crate::net::dial::Dialer;
use crate::net::stream::UpstreamStream;
use crate::share::Share;
use link::Link;

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

    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// `host:port`, for requests that name no host.
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// Sends the request of `hop`, with what is `added` to its fields, and waits for the head of the answer. Its body flows as
    /// `begin` says. The lease is the connection that the answer's body comes by. `name` is what the dialer has for it.
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
        hop: &Hop<'_>,
        begin: Begin,
        name: Option<ServerName<'static>>,
    ) -> Result<(Response<()>, Lease), ForwardError> {
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let slot = self.slot().await?;
        let client = hop.client.address;
        let (waits, early) = begin.into_parts();
        let (head, body) = request.into_parts();
        let can_repeat = is_safe && body.is_end_stream();
        let (link, is_reused) = match self.reuse(is_safe, name.as_ref()) {
            Some(link) => (link, true),
            None => (self.connect(client, name).await?, false),
        };
        let mut lease = Lease { link, upstream: Rc::downgrade(self), slot, _early: early };
        lease.link.carry(body, waits);
        let limit = self.config.response_header_timeout;
        let outcome = match relay::head(&mut lease, &head, added, limit, hop.announced).await {
            Err(ForwardError::Response(AnswerError::Closed(error))) if is_reused && can_repeat => {
                self.metrics.add(Event::UpstreamRetried);
                let error = error.map(tracing::field::display);
                debug!(error, "a reused upstream connection died, trying a fresh one");
                // It has no body.
                let name = lease.link.name.take();
                lease.link = self.connect(client, name).await?;
                relay::head(&mut lease, &head, added, limit, hop.announced).await
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
            if last.link.is_good() {
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
        Ok(Box::new(Link::new(stream, name, open)))
    }

    /// Closes the oldest idle connections so that one more stays within `max_connections`.
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

/// A connection in use. Dropped, it is closed.
pub struct Lease {
    pub link: Box<Link>,
    upstream: Weak<Upstream>,
    slot: Option<OwnedSemaphorePermit>,
    /// The place of a body that began to flow at once.
    _early: Option<OwnedSemaphorePermit>,
}

impl Lease {
    /// Counts a failure of what went by it, where the worker has not ended.
    pub fn count(&self, event: Event) {
        if let Some(upstream) = self.upstream.upgrade() {
            upstream.metrics.add(event);
        }
    }

    /// `[upstream] response_body_idle`; `None` where the worker has ended.
    pub fn silence(&self) -> Option<Duration> {
        self.upstream.upgrade().map(|upstream| upstream.config.response_body_idle)
    }

    /// Back into the pool: the response was read to its end.
    pub fn give_back(self) {
        let Some(upstream) = self.upstream.upgrade() else { return };
        // SECURITY: a connection that was introduced as one client's must not carry another's requests.
        if upstream.dialer.introduces() || !self.link.can_be_reused() {
            return;
        }
        let mut link = self.link;
        link.forget_upload();
        let mut idle = upstream.idle.borrow_mut();
        if idle.len() < upstream.config.keepalive_max_idle {
            idle.push(Idle { link, since: Instant::now() });
            upstream.tell_idle(idle.len());
        }
    }

    /// The stream behind a switch of protocols, and the slot that it goes on to hold.
    pub fn into_stream(self) -> (Rewound<UpstreamStream>, Option<OwnedSemaphorePermit>) {
        (self.link.into_stream(), self.slot)
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
        idle.retain_mut(|idle| idle.since.elapsed() < limit && idle.link.is_good());
        upstream.tell_idle(idle.len());
    }
}
