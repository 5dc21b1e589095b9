//! Moves one exchange between the client and the upstream: the request's body up, the response
//! down, both at once, under one clock.
//!
//! | state | request's body | response | the exchange ends when |
//! |---|---|---|---|
//! | waiting for the head | moves | – | `response_header_timeout` has passed since the request went out and its body moved |
//! | relaying | moves | frames pass | the response ends, or `response_body_idle` has passed since either moved |
//! | upload broken | given up | frames pass | the response ends, or it is silent for [`WITHOUT_UPLOAD`] |
//! | ended | – | whole | the connection is back in the pool |
//! | cut | – | an error | the connection is closed |
//!
//! The first is [`head`], the others are [`Relay`]. The request's body also moves while the client
//! takes nothing of the response ([`Relay::poll_upload`]): a client may send everything before it
//! reads.

use std::future::poll_fn;
use std::net::IpAddr;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Response, StatusCode, request};
use tokio::time::Instant;
use tracing::{info, warn};

use super::error::{CutError, ForwardError};
use super::request::Added;
use super::response;
use super::upstream::Lease;
use crate::http1::frame::Frame;
use crate::http1::head::is_interim;
use crate::http1::inbound::SharedInbound;
use crate::metrics::Event;
use crate::request_id::RequestId;
use crate::time::pace::TooSlow;

/// How long a response may be silent after its request's body failed. The upstream may be waiting
/// for a rest that will never come; what it had already sent arrives within this time.
const WITHOUT_UPLOAD: Duration = Duration::from_secs(5);

/// Sends a request with its body on `lease` and waits for the head of the response. `limit` counts
/// from the last progress of the request's body, so that a long upload is not mistaken for a silent
/// upstream. Interim responses (1xx) go to `announced`.
///
/// # Errors
/// No response, none in time, or a request body that broke off.
pub async fn head(
    lease: &mut Lease,
    head: &request::Parts,
    added: &Added<'_>,
    limit: Duration,
    announced: Option<&SharedInbound>,
) -> Result<Response<()>, ForwardError> {
    lease.link.begin(head, added);
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(Err(error)) = lease.link.poll_upload(cx) {
                return Poll::Ready(Err(error.into()));
            }
            let Poll::Ready(answer) = lease.link.poll_head(cx) else { break };
            let answer = answer?;
            match (answer.status(), announced) {
                (StatusCode::CONTINUE, _) => lease.link.go_on(),
                (status, announced) if is_interim(status) => {
                    let is_passed = announced.is_some_and(|announced| {
                        let head = response::announcement(answer);
                        announced.with(|inbound| inbound.announce(&head))
                    });
                    lease.count(if is_passed { Event::InterimPassed } else { Event::InterimDropped });
                }
                _ => {
                    lease.link.was_answered();
                    return Poll::Ready(Ok(answer));
                }
            }
        }
        if let Some(announced) = announced {
            // If the connection has failed, writing the response reports that.
            let _ = announced.with(|inbound| inbound.poll_interim(cx));
        }
        let since = lease.link.sent;
        lease.link.poll_quiet(cx, since, limit).map(|()| Err(ForwardError::Timeout(limit)))
    })
    .await
}

/// The rest of an exchange after the response's head. At the end of the response the connection
/// returns to the pool. Dropped earlier, the connection is closed, since unread bytes could not be
/// distinguished from the next response.
pub struct Relay {
    /// `None` once the response has ended.
    lease: Option<Lease>,
    silent_since: Option<Instant>,
    /// Whether the rest of the request's body will never come.
    is_upload_broken: bool,
    client: IpAddr,
    id: RequestId,
}

impl Relay {
    /// The relay of the response on `lease` to the request `id` of `client`.
    pub fn new(lease: Lease, client: IpAddr, id: RequestId) -> Self {
        let mut relay = Relay { lease: Some(lease), silent_since: None, is_upload_broken: false, client, id };
        relay.give_back_at_end();
        relay
    }

    /// Whether the whole response was read.
    pub fn is_end(&self) -> bool {
        self.lease.is_none()
    }

    /// How many bytes of the response are left, if known.
    pub fn left(&self) -> Option<u64> {
        self.lease.as_ref().map_or(Some(0), |lease| lease.link.left())
    }

    /// The client reads no more for now.
    pub fn detach(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.link.detach();
        }
    }

    /// Moves the request's body. Ready when it was sent, failed, or is not wanted.
    ///
    /// An upload that fails after the response has begun does not cut the response: it may be
    /// complete without, as a 413 is.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(lease) = &mut self.lease else { return Poll::Ready(()) };
        if let Err(error) = ready!(lease.link.poll_upload(cx)) {
            lease.link.give_up_upload();
            lease.count(error.event());
            self.is_upload_broken = true;
            self.silent_since = None;
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let (client, request_id) = (self.client, &self.id);
            info!(%client, %request_id, source, "{error}, and its answer had begun");
        }
        Poll::Ready(())
    }

    /// The next part of the response.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, CutError>>> {
        let _ = self.poll_upload(cx);
        let Some(lease) = &mut self.lease else { return Poll::Ready(None) };
        let frame = match lease.link.poll_frame(cx) {
            Poll::Ready(Some(frame)) => frame,
            Poll::Ready(None) => {
                self.give_back_at_end();
                return Poll::Ready(None);
            }
            Poll::Pending => {
                let since = *self.silent_since.get_or_insert_with(Instant::now);
                // An upstream that responds early may still read the request before it continues.
                let limit = if self.is_upload_broken { Some(WITHOUT_UPLOAD) } else { lease.silence() };
                let Some(limit) = limit else { return Poll::Pending };
                ready!(lease.link.poll_quiet(cx, since, limit));
                Err(CutError::Silent(TooSlow::Silent(limit)))
            }
        };
        self.silent_since = None;
        match &frame {
            Ok(_) => self.give_back_at_end(),
            // The error is passed on: a cut response must be recognisable (the client's connection
            // is aborted).
            Err(error) => {
                let lease = self.lease.take();
                // Otherwise the client's failure was already logged.
                if !self.is_upload_broken {
                    let source = std::error::Error::source(error).map(ToString::to_string);
                    let (client, request_id) = (self.client, &self.id);
                    warn!(%client, %request_id, source, "the upstream's response ended early: {error}");
                    if let Some(lease) = lease {
                        lease.count(error.event());
                    }
                }
            }
        }
        Poll::Ready(Some(frame))
    }

    fn give_back_at_end(&mut self) {
        if let Some(lease) = self.lease.take_if(|lease| lease.link.is_answered()) {
            lease.give_back();
        }
    }
}
