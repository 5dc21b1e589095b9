//! One request and its answer: vet, decide, forward or refresh, respond. The only file that knows both paths.

use std::rc::Rc;
use std::time::Instant;

use http::{Request, Response};
use tracing::{debug, info, warn};

use crate::body::{RequestBody, ResponseBody};
use crate::client_addr::{self, Peer};
use crate::connection::Downstream;
use crate::error::{ExchangeError, Fault};
use crate::forward::Forwarded;
use crate::metrics::{Event, Shard, Timing};
use crate::refresh::{self, Answer};
use crate::request_id::RequestId;
use crate::respond::Asked;
use crate::{forward, respond, route, vet};

/// Answers one request. There is always an answer.
/// Dropped before its end when the client closes the connection: the upstream's request ends with it.
pub async fn answer(downstream: &Rc<Downstream>, request: Request<RequestBody>) -> Response<ResponseBody> {
    let metrics = &downstream.worker.metrics;
    metrics.add(Event::Begun);
    let begun = Instant::now();
    let id = downstream.worker.request_ids.of(request.headers(), downstream.peer_is_trusted);
    let asked = Asked::new(id, request.headers());
    let mut unanswered = Unanswered { asked, downstream, is_answered: false };
    let outcome = exchange(downstream, request, &unanswered.asked.id).await;
    unanswered.is_answered = true;
    match outcome {
        Ok(Answered::Forwarded(Forwarded { answer, sent })) => {
            let now = Instant::now();
            metrics.add(Event::forwarded(answer.status()));
            metrics.observe(Timing::Forward, now - begun);
            metrics.observe(Timing::Upstream, now - sent);
            answer
        }
        Ok(Answered::Natively(answer)) => {
            metrics.add(Event::refreshed(answer.status()));
            metrics.observe(Timing::Refresh, begun.elapsed());
            answer
        }
        Err(error) => {
            tell(&error, &unanswered.asked, downstream.peer, metrics);
            respond::failure(&error, &unanswered.asked)
        }
    }
}

/// Who answered.
enum Answered {
    Natively(Response<ResponseBody>),
    Forwarded(Forwarded),
}

async fn exchange(
    downstream: &Rc<Downstream>,
    request: Request<RequestBody>,
    id: &RequestId,
) -> Result<Answered, ExchangeError> {
    let worker = &downstream.worker;
    vet::vet(&request)?;
    let client = client_addr::client(downstream.peer, request.headers(), &worker.trusted_proxies);
    let request = match &worker.refresher {
        Some(refresher) if route::could_be_refresh(request.method(), request.uri()) => {
            match refresh::answer(refresher, request, &client).await? {
                Answer::Native(answer) => return Ok(Answered::Natively(respond::native(answer, id))),
                Answer::Forward(request) => *request,
            }
        }
        _ => request,
    };
    forward::forward(downstream, request, &client, id).await.map(Answered::Forwarded)
}

/// Counts a request that was not served, and tells the log why, under the name that the client was told.
pub fn tell(error: &ExchangeError, asked: &Asked, peer: Peer, metrics: &Shard) {
    let (request_id, status) = (&asked.id, respond::status(error));
    metrics.add(Event::failed(status));
    metrics.add(Event::reason(error));
    let source = std::error::Error::source(error).map(chain);
    match error.fault() {
        Fault::Client => info!(%peer, %request_id, status, source, "{error}"),
        Fault::Upstream | Fault::Database => warn!(%peer, %request_id, status, source, "{error}"),
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// The status that nginx gave to a client that left before its answer.
const CLIENT_CLOSED: u16 = 499;

/// Counts a client that left before its answer, and tells the log.
struct Unanswered<'a> {
    asked: Asked,
    downstream: &'a Downstream,
    is_answered: bool,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            let (peer, request_id) = (self.downstream.peer, &self.asked.id);
            let metrics = &self.downstream.worker.metrics;
            metrics.add(Event::failed(CLIENT_CLOSED));
            metrics.add(Event::ClientClosed);
            debug!(%peer, %request_id, status = CLIENT_CLOSED, "the client closed the connection before its answer");
        }
    }
}
