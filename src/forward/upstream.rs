//! One worker's connections to the upstream: the last used is reused first, and a connection
//! returns when the response's body ends.
//!
//! Each worker has its own pool, nothing crosses threads, and the task that waits for an exchange
//! also drives it. Idle connections are checked when they are reused, and every 500 ms.

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

/// A request with side effects is never sent on a connection that has been idle for longer: the
/// upstream may be closing it at this moment, and such a request cannot be sent twice.
const UNSAFE_METHOD_IDLE: Duration = Duration::from_secs(1);

/// The pool of one worker.
pub struct Upstream {
    config: config::Upstream,
    dialer: Dialer,
    metrics: Arc<Shard>,
    authority: HeaderValue,
    idle: RefCell<Vec<Idle>>,
    /// The number of idle connections last reported to the metrics.
    told_idle: Cell<usize>,
    /// This worker's share of `[upstream] max_connections`. A connection in use holds a permit;
    /// idle ones are closed to make room.
    slots: RefCell<Option<Arc<Semaphore>>>,
    /// The size of that share; zero means unlimited.
    most: Cell<usize>,
}

struct Idle {
    link: Box<Link>,
    since: Instant,
}

impl Upstream {
    /// Connects on the first request. Must be called inside the worker's runtime, where it starts
    /// the task that closes connections that have been idle too long (each holds a worker process
    /// of an Apache prefork). `share` is this worker's part of the limit.
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

    /// Whether a new pool would be the same, apart from its [limit](Self::limit).
    pub fn is_to(&self, config: &config::Upstream, dialer: &Dialer) -> bool {
        let like = config::Upstream { max_connections: self.config.max_connections, ..config.clone() };
        self.config == like && self.dialer == *dialer
    }

    /// Sets this worker's `share` of `max_connections`. Connections in use keep their permits. By
    /// default the number depends on those of listeners and workers, whose change must not close
    /// idle connections.
    pub fn limit(&self, max_connections: usize, share: Share) {
        let most = share.of_any(max_connections);
        if self.most.replace(most) != most {
            *self.slots.borrow_mut() = places::limited(most);
        }
    }

    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// `host:port`, for requests without a host.
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// Sends the request of `hop`, with the `added` fields, and waits for the head of the response.
    /// The request's body flows as `begin` says. The response's body comes on the returned lease.
    /// `name` is the dialer's name for the host.
    ///
    /// A request without a body and side effects is sent once more, on a new connection, if a
    /// reused one died before the response: the upstream had closed it while it was idle (RFC 9112,
    /// 9.3.1).
    ///
    /// # Errors
    /// No connection, no response, none in time, or a request body that failed.
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
                // Such a request has no body.
                let name = lease.link.name.take();
                lease.link = self.connect(client, name).await?;
                relay::head(&mut lease, &head, added, limit, hop.announced).await
            }
            outcome => outcome,
        };
        fields::recycle(head.headers, head.extensions);
        Ok((outcome?, lease))
    }

    /// Waits for a permit of `[upstream] max_connections`.
    async fn slot(&self) -> Result<Option<OwnedSemaphorePermit>, ForwardError> {
        let slots = self.slots.borrow().clone();
        places::one(slots.as_ref(), self.config.connect_timeout).await.map_err(ForwardError::Busy)
    }

    /// The connection with this name that was used last, if it may still be used.
    // SECURITY: only one with this name. The upstream chose the virtual host, and with it the
    // certificate, by the name in the handshake; Apache answers 421 to requests for other hosts
    // (RFC 9110, 15.5.20).
    fn reuse(&self, is_safe: bool, name: Option<&ServerName<'static>>) -> Option<Box<Link>> {
        let limit =
            if is_safe { self.config.keepalive_idle } else { self.config.keepalive_idle.min(UNSAFE_METHOD_IDLE) };
        let mut idle = self.idle.borrow_mut();
        // Sorted by last use: all connections below one that has been idle too long have been idle
        // longer.
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

    /// Reports a difference: after a reload, two pools may exist side by side, and each counts its
    /// own.
    fn tell_idle(&self, idle: usize) {
        self.metrics.replace(Level::UpstreamIdle, self.told_idle.replace(idle), idle);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.tell_idle(0);
    }
}

/// A connection in use, closed on drop.
pub struct Lease {
    pub link: Box<Link>,
    upstream: Weak<Upstream>,
    slot: Option<OwnedSemaphorePermit>,
    /// The permit of a body that was sent at once.
    _early: Option<OwnedSemaphorePermit>,
}

impl Lease {
    /// Counts a failure on this connection, unless the worker has ended.
    pub fn count(&self, event: Event) {
        if let Some(upstream) = self.upstream.upgrade() {
            upstream.metrics.add(event);
        }
    }

    /// `[upstream] response_body_idle`; `None` if the worker has ended.
    pub fn silence(&self) -> Option<Duration> {
        self.upstream.upgrade().map(|upstream| upstream.config.response_body_idle)
    }

    /// Returns the connection to the pool after the response was read to its end.
    pub fn give_back(self) {
        let Some(upstream) = self.upstream.upgrade() else { return };
        // SECURITY: a connection that was introduced as one client's must not carry requests of
        // another.
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

    /// The stream after a switch of protocols, and the permit that it continues to hold.
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
