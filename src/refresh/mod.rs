//! The native refresh from top to bottom: is it the route, is the response certain, the rate limit,
//! the row, the rotation, the response.
//!
//! In any doubt the request is left to WordPress unchanged. The rotation runs on the database side:
//! a client that disconnects ends the wait, never the rotation.
//!
//! The terms of this directory:
//!
//! - A **refresh** is one call of the route; a **rotation** exchanges its token for a new pair: one
//!   row is revoked, one is added.
//! - A **replay** gives the pair of the last rotation once more, to a client that presents its used
//!   token again soon.
//! - A **token family** is all tokens that come from one login. Normally one of them is live.
//! - A token is **live** until it is exchanged; **used** once its row is revoked, by a rotation, a
//!   logout or the plugin; **unknown** if it is in no row, and **known-unknown** if a look-up found
//!   that within the last seconds.
//! - A **look-up** finds the row of a token. A **row ref** is its result: the row's id, and the
//!   user's as a hint. The **live tokens** are a map of the whole table, for one without an index
//!   on its tokens.
//! - A **group** is the rotations of one transaction. The worker whose **turn** it is forms the
//!   next group; the turn passes on as soon as the group has written, before its commit.
//! - A rotation that a group could not finish continues by its own **retries**.
//! - A **blog** is a further site of a network (multisite), as WordPress's code calls it. It has
//!   its own parts of the native refresh.
//! - A refresh is **left** to WordPress if its response is uncertain and nothing has begun.

pub mod analytics;
pub mod blogs;
mod call;
pub mod cleanup;
pub mod comparison;
pub mod counters;
pub mod country;
pub mod decision;
pub mod elsewhere;
pub mod epochs;
pub mod error;
pub mod group;
pub mod json;
pub mod live_tokens;
pub mod lookup;
pub mod plan;
pub mod rate_limit;
pub mod recent;
pub mod refresher;
pub mod replay;
pub mod request;
pub mod response;
pub mod retry;
pub mod rotation;
pub mod row_cache;
pub mod row_proof;
pub mod row_watch;
pub mod seen_ids;
pub mod shared;
pub mod shared_verdict;
pub mod standing;
pub mod store;
pub mod supervise;
pub mod transaction;
pub mod trial;
pub mod user_cache;
pub mod waiting;

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Body as _;
use tokio::time::timeout;
use tracing::debug;

use crate::body::{BodyError, RequestBody};
use crate::client_addr::Client;
use crate::request_id::RequestId;
use crate::route::{self, ForwardReason, Route, origin};
use crate::time::pace::TooSlow;
use crate::verify::origins::App;
use crate::wordpress::site::{Called, NotNative, Site};
use blogs::Whose;
use call::{Call, Decided};
use comparison::Comparison;
use counters::Counter;
use error::RefreshError;
pub use refresher::{RefreshLog, Refresher};

/// A refresh's body is a few dozen bytes; one that takes longer than this will not arrive.
const BODY_TIME: Duration = Duration::from_secs(30);

const LARGE_BODY: &str = "a large body";

/// The result for a request that could be a refresh.
pub enum Answer {
    Native(Response<Bytes>, RefreshLog),
    /// Left to WordPress, with everything that was read of the body. Without a log it is not a call
    /// of the route. With a comparison, WordPress's response must be shown to that.
    Forward(Box<Request<RequestBody>>, Option<RefreshLog>, Option<Box<Comparison>>),
    /// Left to WordPress since it is for another site of the network, or for none of its sites.
    ForwardElsewhere(Box<Request<RequestBody>>, RefreshLog),
}

/// Answers a request that could be a refresh, or leaves it to WordPress.
///
/// # Errors
/// The body failed, or a rotation began and could not be completed.
pub async fn answer(
    whose: &Whose,
    request: Request<RequestBody>,
    client: &Client,
    id: &RequestId,
) -> Result<Answer, RefreshError> {
    let arrived = Instant::now();
    let refresher = &whose.refresher;
    let Eligible { site, called, query_token, issued_at } = match eligible(whose, &request, client).await {
        Ok(eligible) => eligible,
        Err(leave) => {
            if matches!(leave, Leave::Because(_)) {
                refresher.tally.left.add();
            }
            return Ok(leave.forward(request, id));
        }
    };
    let (head, mut body) = request.into_parts();
    let whole = timeout(BODY_TIME, body.peek(request::BODY_LIMIT + 1)).await;
    let decided = match whole.unwrap_or(Err(BodyError::TooSlow(TooSlow::Unfinished(BODY_TIME))))? {
        None => Decided::Left(Leave::counted(&refresher.counters.left_for_request, LARGE_BODY)),
        Some(bytes) => {
            let parsed = request::parse(&head.headers, query_token.as_deref(), &bytes);
            let home = match called {
                Called::Here(home) => Ok((home, true)),
                Called::Elsewhere(question) => {
                    refresher.home_elsewhere(&site, &question, &parsed, client).await.map(|home| (home, false))
                }
            };
            match home {
                Ok((home, refuses)) => {
                    let (site, home, head) = (&site, &home, &head);
                    let app = app(head);
                    let agreed = app.and_then(|app| refresher.verification.cors(app));
                    let call =
                        Call { refresher, site, home, client, head, arrived, id, issued_at, refuses, app, agreed };
                    call.decide(parsed).await?
                }
                Err(why) => Decided::Left(Leave::counted(&refresher.counters.left_for_host, why)),
            }
        }
    };
    let tally = &refresher.tally;
    if matches!(decided, Decided::Answered(..)) { &tally.native } else { &tally.left }.add();
    Ok(match decided {
        Decided::Answered(response, log) => Answer::Native(response, log),
        Decided::Left(leave) => leave.forward(Request::from_parts(head, body), id),
        Decided::Compared(leave, comparison) => leave.compare(Request::from_parts(head, body), id, comparison),
    })
}

/// What is known of a refresh before its body is read.
struct Eligible {
    site: Arc<Site>,
    called: Called,
    query_token: Option<String>,
    /// Unix seconds, by the slowest of three clocks.
    issued_at: u64,
}

async fn eligible(whose: &Whose, request: &Request<RequestBody>, client: &Client) -> Result<Eligible, Leave> {
    let Whose { refresher, only_main } = whose;
    let (sites, counters) = (&refresher.sites, &refresher.counters);
    let for_settings = |why: &dyn Display| Leave::counted(&counters.left_for_settings, why);
    let site = sites.current().await.map_err(|why| {
        let left = for_settings(&why);
        if only_main.is_some() { left.elsewhere() } else { left }
    })?;
    let query_token = match route::decide(request.method(), request.uri(), request.headers(), &site.forms) {
        Route::Refresh { query_token } => query_token,
        Route::Forward(ForwardReason::NotRefresh) => {
            return Err(only_main.as_ref().map_or(Leave::NotRefresh, |why| for_settings(why).elsewhere()));
        }
        Route::Forward(why) => return Err(Leave::counted(&counters.left_for_request, why)),
    };
    if origin::of_app(request.headers()).is_some() && !refresher.verification.is_on() {
        return Err(Leave::counted(&counters.left_for_request, ForwardReason::Origin));
    }
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    sites.wait_for_home(&site, host, client.scheme).await;
    let called = sites.called(&site, host, client.scheme).map_err(|why| match (why, only_main) {
        (NotNative::OtherHost, Some(why)) => for_settings(why).elsewhere(),
        (why @ NotNative::OtherHost, None) => Leave::counted(&counters.left_for_host, why),
        (why, _) => for_settings(&why),
    })?;
    let issued_at = sites.issuing_time(&site).map_err(|why| for_settings(&why))?;
    if request.body().size_hint().lower() > request::BODY_LIMIT as u64 {
        return Err(Leave::counted(&counters.left_for_request, LARGE_BODY));
    }
    Ok(Eligible { site, called, query_token, issued_at })
}

/// Leaves the call to WordPress, which may do better. Nothing has been changed yet.
enum Leave {
    /// It is not a call of the route.
    NotRefresh,
    Because(String),
    /// It is a call for another site of the network than this one.
    Elsewhere(String),
}

impl Leave {
    fn because(why: impl Display) -> Self {
        Leave::Because(why.to_string())
    }

    fn counted(counter: &Counter, why: impl Display) -> Self {
        counter.add();
        Leave::because(why)
    }

    fn elsewhere(self) -> Self {
        match self {
            Leave::Because(why) => Leave::Elsewhere(why),
            leave => leave,
        }
    }

    fn forward(self, request: Request<RequestBody>, id: &RequestId) -> Answer {
        if let Leave::Because(reason) | Leave::Elsewhere(reason) = &self {
            debug!(reason, request_id = %id, "the call goes to WordPress");
        }
        let request = Box::new(request);
        match self {
            Leave::NotRefresh => Answer::Forward(request, None, None),
            Leave::Because(reason) => Answer::Forward(request, Some(RefreshLog::left(reason)), None),
            Leave::Elsewhere(reason) => Answer::ForwardElsewhere(request, RefreshLog::left(reason)),
        }
    }

    fn compare(self, mut request: Request<RequestBody>, id: &RequestId, comparison: Box<Comparison>) -> Answer {
        // A compressed response could not be read.
        request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        // SECURITY: a web server may apply these, and a part of a response would look like a
        // different one.
        for name in [header::RANGE, header::IF_RANGE] {
            request.headers_mut().remove(name);
        }
        match self.forward(request, id) {
            Answer::Forward(request, log, _) => Answer::Forward(request, log, Some(comparison)),
            other => other,
        }
    }
}

fn app(head: &http::request::Parts) -> Option<App<'_>> {
    origin::of_app(&head.headers).map(|origin| App { origin, has_bearer: has_bearer(head) })
}

fn has_bearer(head: &http::request::Parts) -> bool {
    let authorization = head.headers.get(header::AUTHORIZATION);
    authorization.is_some_and(|value| value.as_bytes().windows(7).any(|part| part == b"Bearer "))
}
