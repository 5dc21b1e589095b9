//! What is kept of one exchange until it has ended: for the metrics, and for the lines of the log that are about it.
//!
//! The clock is read when the head of the request is there and when that of the answer is, and nothing is put together that
//! no line asks for.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use tracing::{debug, info};

use super::tell;
use crate::body::ResponseBody;
use crate::connection::Downstream;
use crate::error::ExchangeError;
use crate::forward::Forwarded;
use crate::metrics::{Event, Timing};
use crate::refresh::Told;
use crate::request_id::RequestId;
use crate::respond::{self, Asked};
use crate::telemetry::{ACCESS, REFRESHES};

/// The status that nginx gave to a client that left before its answer.
const CLIENT_CLOSED: u16 = 499;

/// One exchange. Dropped before it was answered, it is one whose client left.
pub struct Record<'a> {
    /// The request's name, and what its client takes.
    pub asked: Asked,
    /// The client, once it is known; until then the peer.
    pub client: IpAddr,
    /// What becomes of it where it is a refresh.
    pub refresh: Option<Told>,
    downstream: &'a Downstream,
    begun: Instant,
    head: Option<Box<Head>>,
    is_answered: bool,
}

/// What the line of a forwarded request says of its head.
#[derive(Debug)]
struct Head {
    method: Method,
    target: Option<PathAndQuery>,
    user_agent: Option<HeaderValue>,
    version: Version,
}

impl<'a> Record<'a> {
    /// A request has arrived.
    pub fn begin<B>(downstream: &'a Downstream, request: &Request<B>) -> Self {
        let worker = &downstream.worker;
        worker.metrics.add(Event::Begun);
        let id = worker.request_ids.of(request.headers(), downstream.peer_is_trusted);
        Record {
            asked: Asked::new(id, request.headers()),
            client: downstream.peer.address.ip(),
            refresh: None,
            downstream,
            begun: Instant::now(),
            head: worker.config.log.access.then(|| Box::new(Head::of(request))),
            is_answered: false,
        }
    }

    /// The upstream has answered.
    pub fn forwarded(mut self, forwarded: Forwarded) -> Response<ResponseBody> {
        let Forwarded { mut answer, sent } = forwarded;
        let (now, metrics) = (Instant::now(), &self.downstream.worker.metrics);
        metrics.add(Event::forwarded(answer.status()));
        metrics.observe(Timing::Forward, now - self.begun);
        metrics.observe(Timing::Upstream, now - sent);
        self.is_answered = true;
        self.tell_refresh(answer.status().as_u16());
        self.accompany(&mut answer, Some(now - sent));
        answer
    }

    /// The sidecar has answered a refresh.
    pub fn refreshed(mut self, answer: Response<ResponseBody>) -> Response<ResponseBody> {
        let metrics = &self.downstream.worker.metrics;
        metrics.add(Event::refreshed(answer.status()));
        metrics.observe(Timing::Refresh, self.begun.elapsed());
        self.is_answered = true;
        self.tell_refresh(answer.status().as_u16());
        answer
    }

    /// There is no answer but an error of ours.
    pub fn failed(mut self, error: &ExchangeError) -> Response<ResponseBody> {
        tell(error, &self.asked, self.client, self.downstream.peer, &self.downstream.worker.metrics);
        self.is_answered = true;
        let mut answer = respond::failure(error, &self.asked);
        self.tell_refresh(answer.status().as_u16());
        self.accompany(&mut answer, None);
        answer
    }

    /// The line of a refresh.
    // SECURITY: never a token, nor a hash of one. The beginning of the family tells it from others and serves no other purpose.
    fn tell_refresh(&self, status: u16) {
        let Some(Told { outcome, user, family, reason }) = &self.refresh else { return };
        if !self.downstream.worker.config.log.refreshes {
            return;
        }
        let family = family.as_deref().map(|family| family.chars().take(8).collect::<String>());
        info!(
            target: REFRESHES,
            outcome,
            status,
            duration_ms = milliseconds(self.begun.elapsed()),
            user,
            family,
            reason,
            client = %self.client,
            request_id = %self.asked.id,
            "refresh"
        );
    }

    /// The line of a forwarded request is written when its answer has ended.
    fn accompany(&mut self, answer: &mut Response<ResponseBody>, upstream: Option<Duration>) {
        let Some(head) = self.head.take() else { return };
        let (client, id, status) = (self.client, self.asked.id.clone(), answer.status());
        let sent = Sent { bytes: 0, is_complete: false };
        answer.body_mut().accompany(Access { head, client, id, status, begun: self.begun, upstream, sent });
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let metrics = &self.downstream.worker.metrics;
        metrics.add(Event::failed(CLIENT_CLOSED));
        metrics.add(Event::ClientClosed);
        let (client, peer, request_id) = (self.client, self.downstream.peer, &self.asked.id);
        debug!(%client, %peer, %request_id, status = CLIENT_CLOSED, "the client closed the connection before its answer");
        if let Some(told) = &mut self.refresh {
            // The rotation goes on without it.
            told.outcome = "client_closed";
        }
        self.tell_refresh(CLIENT_CLOSED);
        if let Some(head) = self.head.take() {
            let line = Line { client: self.client, id: request_id, begun: self.begun, upstream: None };
            head.tell(CLIENT_CLOSED, &Sent { bytes: 0, is_complete: false }, &line);
        }
    }
}

/// An exchange that has been answered and whose answer is on its way. Dropped, it is a line of the log.
#[derive(Debug)]
pub struct Access {
    head: Box<Head>,
    client: IpAddr,
    id: RequestId,
    status: StatusCode,
    begun: Instant,
    upstream: Option<Duration>,
    /// What has been sent of the answer.
    pub sent: Sent,
}

/// How much of an answer's body was given to the client's connection.
#[derive(Debug)]
pub struct Sent {
    /// Bytes, without framing.
    pub bytes: u64,
    /// Whether that is all.
    pub is_complete: bool,
}

impl Drop for Access {
    fn drop(&mut self) {
        let line = Line { client: self.client, id: &self.id, begun: self.begun, upstream: self.upstream };
        self.head.tell(self.status.as_u16(), &self.sent, &line);
    }
}

/// What a line says besides the request and the answer.
struct Line<'a> {
    client: IpAddr,
    id: &'a RequestId,
    begun: Instant,
    upstream: Option<Duration>,
}

impl Head {
    fn of<B>(request: &Request<B>) -> Self {
        Head {
            method: request.method().clone(),
            target: request.uri().path_and_query().cloned(),
            user_agent: request.headers().get(header::USER_AGENT).cloned(),
            version: request.version(),
        }
    }

    // SECURITY: without the query, where WordPress and its plugins put nonces, keys and tokens; and without `Referer`, which
    // holds the query of the page before.
    fn tell(&self, status: u16, sent: &Sent, line: &Line<'_>) {
        let user_agent = self.user_agent.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()));
        info!(
            target: ACCESS,
            method = %self.method,
            path = self.target.as_ref().map_or("", PathAndQuery::path),
            status,
            bytes = sent.bytes,
            complete = sent.is_complete,
            duration_ms = milliseconds(line.begun.elapsed()),
            upstream_ms = line.upstream.map(milliseconds),
            client = %line.client,
            request_id = %line.id,
            protocol = ?self.version,
            user_agent = user_agent.as_deref(),
            "request"
        );
    }
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    u32::try_from(duration.as_micros()).map_or(f64::INFINITY, |micros| f64::from(micros) / 1000.0)
}
