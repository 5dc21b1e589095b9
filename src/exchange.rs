//! One request and its answer: vet, decide, forward or refresh, respond. The only file that knows both paths.

use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;
use tracing::{debug, info, warn};

use crate::body::{RequestBody, ResponseBody};
use crate::client_addr::{self, Peer};
use crate::connection::Downstream;
use crate::error::{ExchangeError, Fault};
use crate::refresh::{self, Answer};
use crate::respond::Asked;
use crate::{forward, respond, route, vet};

/// Answers one request. There is always an answer: an error would close the connection without a word (hyper#3659).
/// Dropped before its end when the client closes the connection: the upstream's request ends with it.
pub async fn answer(downstream: &Rc<Downstream>, request: Request<Incoming>) -> Response<ResponseBody> {
    let asked = Asked::new(downstream.worker.request_ids.next(), request.headers());
    let mut unanswered = Unanswered { asked, peer: downstream.peer, is_answered: false };
    let outcome = exchange(downstream, request).await;
    unanswered.is_answered = true;
    outcome.unwrap_or_else(|error| {
        log(&error, &asked, downstream.peer);
        respond::failure(&error, &asked)
    })
}

async fn exchange(
    downstream: &Rc<Downstream>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, ExchangeError> {
    let worker = &downstream.worker;
    vet::vet(&request)?;
    let client = client_addr::client(downstream.peer, request.headers(), &worker.trusted_proxies);
    let request = match &worker.refresher {
        Some(refresher) if route::could_be_refresh(request.method(), request.uri()) => {
            match refresh::answer(refresher, request, &client).await? {
                Answer::Native(answer) => return Ok(respond::native(answer)),
                Answer::Forward(request) => request,
            }
        }
        _ => request.map(RequestBody::streamed),
    };
    forward::forward(downstream, request, &client).await
}

/// Tells the log why a request was not served, under the name that the client was told.
pub fn log(error: &ExchangeError, asked: &Asked, peer: Peer) {
    let (request_id, status) = (asked.id, respond::status(error));
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

/// Tells the log of a client that left before its answer, with the status that nginx gave to that.
struct Unanswered {
    asked: Asked,
    peer: Peer,
    is_answered: bool,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if !self.is_answered {
            let (peer, request_id) = (self.peer, self.asked.id);
            debug!(%peer, %request_id, status = 499, "the client closed the connection before its answer");
        }
    }
}
