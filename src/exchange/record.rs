//! What is kept of an exchange until it has ended, for the metrics and the log.
//!
//! The clock is read twice, when the request's head and when the response's head has arrived. Log
//! fields are collected only if a line will use them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::{Request, Response};
use tracing::{debug, info};

use super::tell;
use crate::access_log::{Access, Head, REFRESHES, milliseconds};
use crate::exchange::downstream::Downstream;
use crate::exchange::error::ExchangeError;
use crate::exchange::respond::{self, ErrorContext};
use crate::forward::Forwarded;
use crate::forward::response_body::ResponseBody;
use crate::http1::target;
use crate::metrics::{Event, Timing};
use crate::refresh::RefreshLog;

/// nginx's status for a client that left before its response.
const CLIENT_CLOSED: u16 = 499;

/// One exchange. If it is dropped unanswered, its client has left.
pub struct Record<'a> {
    /// The request's id, and the media types that its client accepts.
    pub asked: ErrorContext,
    /// The client, once it is known; until then the peer.
    pub client: IpAddr,
    /// How a refresh ended, for its log line.
    pub refresh: Option<RefreshLog>,
    /// The site of a network that it is for: its domain and path.
    pub site: Option<String>,
    downstream: &'a Downstream,
    begun: Instant,
    head: Option<Box<Head>>,
    is_answered: bool,
}

impl<'a> Record<'a> {
    pub fn begin<B>(downstream: &'a Downstream, request: &Request<B>) -> Self {
        let context = &downstream.context;
        context.metrics.add(Event::Begun);
        let id = context.request_ids.of(request.headers(), downstream.peer_is_trusted);
        Record {
            asked: ErrorContext::new(id, request.headers()),
            client: downstream.peer.address.ip(),
            refresh: None,
            site: None,
            downstream,
            begun: Instant::now(),
            head: context.config.log.access.then(|| Box::new(Head::of(request, target::path(request)))),
            is_answered: false,
        }
    }

    pub fn forwarded(mut self, forwarded: Forwarded) -> Response<ResponseBody> {
        let Forwarded { mut answer, sent } = forwarded;
        let (now, metrics) = (Instant::now(), &self.downstream.context.metrics);
        metrics.add(Event::forwarded(answer.status()));
        metrics.observe(Timing::Forward, now - self.begun);
        metrics.observe(Timing::Upstream, now - sent);
        self.is_answered = true;
        self.tell_refresh(answer.status().as_u16());
        self.accompany(&mut answer, Some(now - sent));
        answer
    }

    /// The native refresh has answered.
    pub fn refreshed(mut self, answer: Response<ResponseBody>) -> Response<ResponseBody> {
        let metrics = &self.downstream.context.metrics;
        metrics.add(Event::refreshed(answer.status()));
        metrics.observe(Timing::Refresh, self.begun.elapsed());
        self.is_answered = true;
        self.tell_refresh(answer.status().as_u16());
        answer
    }

    /// The sidecar answers with an error of its own.
    pub fn failed(mut self, error: &ExchangeError) -> Response<ResponseBody> {
        tell(error, &self.asked, self.client, self.downstream.peer, &self.downstream.context.metrics);
        self.is_answered = true;
        let mut answer = respond::failure(error, &self.asked);
        self.tell_refresh(answer.status().as_u16());
        self.accompany(&mut answer, None);
        answer
    }

    /// The line of a refresh.
    // SECURITY: never a token, nor a hash of one. The beginning of the family id distinguishes
    // families in the log and serves no other purpose.
    fn tell_refresh(&self, status: u16) {
        let Some(RefreshLog { outcome, user, family, reason }) = &self.refresh else { return };
        if !self.downstream.context.config.log.refreshes {
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
            site = self.site,
            client = %self.client,
            request_id = %self.asked.id,
            "refresh"
        );
    }

    fn access(&self, head: Box<Head>, status: u16, upstream: Option<Duration>) -> Access {
        let (client, id, begun) = (self.client, self.asked.id.clone(), self.begun);
        Access { head, client, id, status, begun, upstream, sent: 0, is_complete: false }
    }

    /// Has the line of a forwarded request written when its response has ended.
    fn accompany(&mut self, answer: &mut Response<ResponseBody>, upstream: Option<Duration>) {
        if let Some(head) = self.head.take() {
            let access = self.access(head, answer.status().as_u16(), upstream);
            answer.body_mut().log_at_end(access);
        }
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let metrics = &self.downstream.context.metrics;
        metrics.add(Event::failed(CLIENT_CLOSED));
        metrics.add(Event::ClientClosed);
        let (client, peer, request_id) = (self.client, self.downstream.peer, &self.asked.id);
        debug!(%client, %peer, %request_id, status = CLIENT_CLOSED, "the client closed the connection before its answer");
        if let Some(log) = &mut self.refresh {
            // The rotation continues without its client.
            log.outcome = "client_closed";
        }
        self.tell_refresh(CLIENT_CLOSED);
        if let Some(head) = self.head.take() {
            drop(self.access(head, CLIENT_CLOSED, None));
        }
    }
}
