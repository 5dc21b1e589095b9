//! One request and its answer: vet, decide, forward or refresh, respond. The only file that knows both paths.

use std::net::IpAddr;

use http::{Request, Response};
use hyper::body::Incoming;
use tracing::{debug, warn};

use crate::body::{RequestBody, ResponseBody};
use crate::client_addr;
use crate::error::{ExchangeError, Fault};
use crate::refresh::{self, Answer};
use crate::worker::Worker;
use crate::{forward, respond, route, vet};

/// Answers one request. There is always an answer: an error would close the connection without a word (hyper#3659).
pub async fn answer(worker: &Worker, peer: IpAddr, request: Request<Incoming>) -> Response<ResponseBody> {
    match exchange(worker, peer, request).await {
        Ok(answer) => answer,
        Err(error) => {
            log(&error, peer);
            respond::failure(&error)
        }
    }
}

async fn exchange(
    worker: &Worker,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, ExchangeError> {
    vet::vet(&request)?;
    let client = client_addr::client(peer, request.headers(), &worker.trusted_proxies);
    let request = match &worker.refresher {
        Some(refresher) if route::could_be_refresh(request.method(), request.uri()) => {
            match refresh::answer(refresher, request, &client).await? {
                Answer::Native(answer) => return Ok(respond::native(answer)),
                Answer::Forward(request) => request,
            }
        }
        _ => request.map(RequestBody::streamed),
    };
    forward::forward(&worker.upstream, request, &client).await
}

fn log(error: &ExchangeError, peer: IpAddr) {
    let source = std::error::Error::source(error).map(ToString::to_string);
    match error.fault() {
        Fault::Client => debug!(%peer, source, "{error}"),
        Fault::Upstream | Fault::Database => warn!(%peer, source, "{error}"),
    }
}
