//! One request and its response: vet, decide, forward or refresh, respond. This is the only file
//! that knows both paths.

pub mod context;
pub mod downstream;
pub mod error;
pub mod record;
pub mod respond;

use std::net::IpAddr;
use std::rc::Rc;

use http::{HeaderValue, Request, Response, header};
use hyper::body::Body as _;
use tracing::{info, warn};

use crate::admission::places::Places;
use crate::body::{BodyError, RequestBody};
use crate::client_addr::{self, Peer};
use crate::exchange::downstream::Downstream;
use crate::exchange::respond::ErrorContext;
use crate::forward::response_body::ResponseBody;
use crate::forward::{Forwarded, Hop};
use crate::http1::inbound::SharedInbound;
use crate::metrics::{Event, Shard};
use crate::refresh::blogs::NotOurs;
use crate::refresh::comparison::{self, Addition, Comparison};
use crate::refresh::elsewhere::Left;
use crate::refresh::{self, Answer, RefreshLog};
use crate::vet::Refusal;
use crate::{route, vet};
use error::{Description, ExchangeError, Fault};
use record::Record;

/// Answers one request, always with a response. Interim responses of the site (1xx) go to
/// `announced`. If the client disconnects, this future is dropped, and the request to the upstream
/// ends with it.
pub async fn answer(
    downstream: &Rc<Downstream>,
    request: Request<RequestBody>,
    announced: Option<&SharedInbound>,
) -> Response<ResponseBody> {
    let mut record = Record::begin(downstream, &request);
    match exchange(downstream, request, announced, &mut record).await {
        Ok((Answered::Forwarded(forwarded), places)) => record.forwarded(forwarded).map(|body| body.holding(places)),
        Ok((Answered::Natively(answer), places)) => record.refreshed(answer).map(|body| body.holding(places)),
        Err(error) => record.failed(&error),
    }
}

/// The response to a request that was not begun because of `error`.
pub fn refuse<B>(downstream: &Downstream, request: &Request<B>, error: &ExchangeError) -> Response<ResponseBody> {
    Record::begin(downstream, request).failed(error)
}

/// Where the response came from.
enum Answered {
    Natively(Response<ResponseBody>),
    Forwarded(Forwarded),
}

async fn exchange(
    downstream: &Rc<Downstream>,
    mut request: Request<RequestBody>,
    announced: Option<&SharedInbound>,
    record: &mut Record<'_>,
) -> Result<(Answered, Places), ExchangeError> {
    let context = &downstream.context;
    vet::vet(&request)?;
    // HTTP/1 fields were counted by the parser. Cookies count as the one line that they have been
    // joined to.
    if request.headers().len() > context.head_limits.fields {
        return Err(Refusal::TooManyFields.into());
    }
    // The announced length; a body without one is counted as it arrives.
    if request.body().size_hint().lower() > context.max_request_body {
        return Err(BodyError::TooLarge(context.max_request_body).into());
    }
    request.body_mut().limit(context.config.server.request_pace(), context.max_request_body);
    let client = client_addr::client(downstream.peer, request.headers(), &context.config.forwarded.trusted_proxies);
    record.client = client.address;
    // Before the upload is read, and before a connection to the upstream or the database is taken.
    let places = downstream.places().await?;
    let could_be_refresh = route::could_be_refresh(request.method(), request.uri());
    let (mut left, mut compared) = (None, None);
    // The native runtime is not shut down while this call holds it.
    let native = could_be_refresh.then(|| context.refresher()).flatten();
    let whose = match &native {
        Some(native) => match native.at(&request).await {
            Ok(whose) => Some(whose),
            Err(NotOurs { log, site }) => {
                (record.refresh, record.site) = (Some(log), site);
                None
            }
        },
        None => None,
    };
    let request = match whose {
        Some(whose) => {
            record.refresh = Some(RefreshLog::of("failed"));
            record.site = context.config.log.refreshes.then(|| whose.refresher.sites.place()).flatten();
            match refresh::answer(&whose, request, &client, &record.asked.id).await? {
                Answer::Native(answer, log) => {
                    record.refresh = Some(log);
                    return Ok((Answered::Natively(respond::native(answer, &record.asked.id)), places));
                }
                // WordPress's response shows nothing about this site.
                Answer::ForwardElsewhere(request, log) => {
                    (record.refresh, record.site) = (Some(log), None);
                    *request
                }
                Answer::Forward(request, log, comparison) => {
                    compared = comparison;
                    left = log.is_some().then(|| Left::new(whose.refresher, &request, client.scheme));
                    record.refresh = log;
                    *request
                }
            }
        }
        None => request,
    };
    drop(native);
    let mut forwarded = {
        let Downstream { peer, peer_field, early_bodies, .. } = &**downstream;
        let early_bodies = early_bodies.as_ref();
        let hop = Hop { client: &client, peer: *peer, peer_field, id: &record.asked.id, announced, early_bodies };
        let home = || context.refresher().and_then(|refresher| refresher.sites.home_host());
        context.forwarder.forward(request, &hop, home).await?
    };
    if let Some(left) = left {
        left.answered(&forwarded.answer);
    }
    if let Some(comparison) = compared {
        forwarded.answer = show(*comparison, forwarded.answer).await;
    }
    Ok((Answered::Forwarded(forwarded), places))
}

/// Shows WordPress's response to a comparison. The client gets that response, with the fields that
/// the comparison adds.
async fn show(comparison: Comparison, answer: Response<ResponseBody>) -> Response<ResponseBody> {
    let (mut head, mut body) = answer.into_parts();
    let whole = body.peek(comparison::ANSWER_LIMIT).await;
    let Addition { body: added, no_store } = comparison.answered(&head, whole.as_ref());
    if no_store {
        head.headers.append(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if let Some(added) = added {
        if head.headers.contains_key(header::CONTENT_LENGTH) {
            head.headers.insert(header::CONTENT_LENGTH, added.len().into());
        }
        body = ResponseBody::whole(added);
    }
    Response::from_parts(head, body)
}

/// Counts a request that was not served, and logs the reason under the id that the client was
/// given.
pub fn tell(error: &ExchangeError, asked: &ErrorContext, client: IpAddr, peer: Peer, metrics: &Shard) {
    let Description { status, fault, event, .. } = error.describe();
    let (request_id, status) = (&asked.id, status.as_u16());
    metrics.add(Event::failed(status));
    metrics.add(event);
    let source = std::error::Error::source(error).map(chain);
    match fault {
        Fault::Client => info!(%client, %peer, %request_id, status, source, "{error}"),
        Fault::Upstream | Fault::Database => warn!(%client, %peer, %request_id, status, source, "{error}"),
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
