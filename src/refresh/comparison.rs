//! One call that WordPress answers and whose response is compared with the one that the sidecar
//! would have sent.
//!
//! In this order: the state of the token ([`token`]), WordPress's response ([`judge`]), the fields
//! that the client gets in addition ([`addition`]), and after the response the rows ([`conclude`]).

mod addition;
mod claims;
mod conclude;
mod cors;
mod deviation;
mod facts;
pub(super) mod gate;
mod headers;
mod judge;
mod rows;
mod surroundings;
mod token;
mod under_way;
mod words;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Map, Value};
use tokio::time::sleep;
use tracing::debug;

use super::Call;
use super::rate_limit::{Window, unix_now};
use super::refresher::Refresher;
use super::response::{self, Cors, Pair, Reply, ReplyContext};
use super::row_cache::Key;
use crate::client_addr::Client;
use crate::config::ResponseFields;
use crate::declared::{User, Values};
use crate::net::dial::Dialer;
use crate::verify::Ticket;
use crate::verify::difference::Kind;
use crate::verify::explain::Deviation;
use crate::verify::origins::Seen;
use crate::verify::verdict::{Class, Observation};
use crate::wordpress::clock;
use crate::wordpress::home::Home;
use crate::wordpress::site::Site;
use crate::wordpress::text;
pub use addition::Addition;
use conclude::Concluding;
use judge::{Expectation, Expected, Finding, Judged};
use surroundings::Surroundings;
use token::{Live, Standing};
use under_way::{Entered, UnderWay};

/// Longer responses are not compared, in bytes. WordPress's own has a few hundred.
pub const ANSWER_LIMIT: usize = 64 << 10;

/// Seconds by which PHP's clock may differ: native refreshes tolerate as much, and a token issued
/// that much earlier or later is as good.
const CLOCK_SLACK: u64 = clock::TOO_FAR.as_secs();

/// A native rotation takes some milliseconds, less than this; a refresh by WordPress takes longer.
const SETTLED: Duration = Duration::from_millis(20);

/// Characters that the plugin's text columns hold.
const TEXT_COLUMN: usize = 255;

/// What all comparisons share.
pub struct Comparisons {
    surroundings: Surroundings,
    under_way: Arc<UnderWay>,
    /// `[refresh] verify_ignore_headers`.
    ignored: Arc<[String]>,
}

impl Comparisons {
    /// `upstream` reaches the web server.
    pub fn new(upstream: Dialer, ignored: &[String]) -> Self {
        let surroundings = Surroundings::new(upstream);
        Comparisons { surroundings, under_way: Arc::default(), ignored: ignored.into() }
    }

    /// Waits for a comparison with this token, if one is running: then a second refresh that gets
    /// the same pair may be native. Returns whether WordPress's response was the one that the
    /// sidecar would have sent.
    async fn is_replay(&self, token: &str, folds_case: bool) -> bool {
        match self.under_way.find(|| Key::of(token, folds_case)) {
            Some(before) => {
                debug!("a refresh waits for WordPress's answer to another with the same token");
                before.was_plain().await
            }
            None => false,
        }
    }
}

/// Why a call is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// WordPress answers it in any case.
    Left,
    /// A sample of the calls that would be native.
    Sample,
    /// Like [`Cause::Sample`], but only if it is a refusal.
    Refusal,
}

/// How the beginning of a comparison went.
enum Begun {
    Compares(Box<Comparison>),
    /// The expected response is unknown, or the call need not be compared.
    Not,
    /// Another call has just got WordPress's pair: this one gets the same natively.
    Replay,
}

/// A running comparison. Dropped, it has no result.
pub struct Comparison {
    refresher: Arc<Refresher>,
    site: Arc<Site>,
    home: Arc<Home>,
    client: Client,
    ticket: Ticket,
    entered: Entered,
    class: Class,
    expected: Expected,
    /// `None` if a refusal is expected.
    live: Option<Live>,
    user_agent: String,
    /// The request's origin if it is an app's, and whether the request had a bearer token.
    app: Option<(String, bool)>,
    /// Unix seconds.
    began: u64,
}

impl Comparison {
    /// Determines the expected response to a call with `token`.
    async fn begin(call: &Call<'_>, token: &str, ticket: Ticket, cause: Cause) -> Begun {
        if !is_storable(call) || (cause != Cause::Left && is_over_limit(call)) {
            return Begun::Not;
        }
        let Call { refresher, site, .. } = call;
        let comparisons = &refresher.comparisons;
        let entered = match comparisons.under_way.enter(Key::of(token, site.columns.folds_case)) {
            Ok(entered) => entered,
            Err(before) => {
                drop(ticket);
                return if before.was_plain().await { Begun::Replay } else { Begun::Not };
            }
        };
        if cause == Cause::Sample {
            // A native rotation of this token that is running ends before WordPress is asked, which
            // would refuse the token.
            sleep(SETTLED).await;
        }
        let Some(standing) = token::find(refresher, site, token).await else { return Begun::Not };
        let (reply, class, live, expectation) = match standing {
            Standing::Live(_) if cause == Cause::Refusal => return Begun::Not,
            // It may be another site's token.
            _ if !call.refuses && !matches!(standing, Standing::Live(_)) => return Begun::Not,
            Standing::Live(live) => {
                let values = match site.values(&live.user) {
                    Ok(values) => values,
                    // WordPress always answers such a call.
                    Err(uncertain) => {
                        refresher.verification.uncertain(&uncertain);
                        return Begun::Not;
                    }
                };
                let reply = pair(&live.user, &values, "", "");
                let expectation = Expectation::Exchanged {
                    issuer: call.home.url.clone(),
                    signer: Arc::clone(&site.signer),
                    user_id: live.user.id,
                    lifetime: site.settings.jwt_expiration,
                    values,
                };
                (reply, call.class(), Some(live), expectation)
            }
            // A replay may answer a used token here, while WordPress refuses it.
            Standing::NotLive { is_in_row: true, .. } | Standing::Orphan if cause != Cause::Left => return Begun::Not,
            // One refusal is enough, and one per app origin.
            _ if !ticket.verification().wants_refusal() && !call.wants_refusal_of_origin() => return Begun::Not,
            Standing::Orphan => (Reply::UserNotFound, Class::Refusal, None, Expectation::Refused { is_certain: true }),
            Standing::NotLive { is_certain, .. } => {
                (Reply::InvalidToken, Class::Refusal, None, Expectation::Refused { is_certain })
            }
        };
        let expected = expected(call, &reply, expectation);
        Begun::Compares(Box::new(Comparison {
            refresher: Arc::clone(refresher),
            site: Arc::clone(site),
            home: Arc::clone(call.home),
            client: *call.client,
            ticket,
            entered,
            class,
            expected,
            live,
            user_agent: call.user_agent(),
            app: call.app.map(|app| (app.origin.to_owned(), app.has_bearer)),
            began: unix_now(),
        }))
    }

    /// WordPress has responded; `body` is complete, or `None` if it is too long or ended early. The
    /// rest of the comparison runs after the response.
    pub fn answered(self, head: &Parts, body: Option<&Bytes>) -> Addition {
        let during = during(self.began, unix_now(), date(&head.headers));
        let further = |access_token: &str, refresh_token: &str| match &self.live {
            Some(live) => promised(live, &self.site, access_token, refresh_token, self.refresher.fields),
            None => Map::new(),
        };
        let judged = judge::judge(head, body, &self.expected, during.clone(), further);
        if matches!(judged, Judged::Found(Finding::Void)) {
            debug!(status = head.status.as_u16(), "WordPress's answer does not show what the sidecar would do");
        }
        let addition = match (&judged, body) {
            (Judged::Agrees(Some(received), _), Some(body)) => {
                Addition::of(&head.headers, body, &further(&received.access_token, &received.refresh_token))
            }
            _ => Addition::default(),
        };
        let deviation = self.deviation(head, body, &judged, (*during.start(), *during.end()), &further);
        let Comparison { refresher, site, home, client, ticket, entered, class, expected, live, app, .. } = self;
        entered.answered(matches!(judged, Judged::Agrees(Some(_), _)));
        let user_agent = self.user_agent;
        let tasks = refresher.tasks.clone();
        let has_cookies = expected.has_cookies;
        let seen = app.zip(cors::of(&head.headers)).map(|((origin, has_bearer), fields)| {
            let user = live.as_ref().map(|live| live.user.id);
            Seen { origin, has_bearer, fields, user, has_cookies }
        });
        let concluding = Concluding { refresher, site, home, client, class, live, user_agent, has_cookies };
        tasks.spawn(async move {
            let (observed, sample) = concluding.conclude(judged, deviation).await;
            if let Some(sample) = sample {
                ticket.sampled(sample);
            }
            if let (Observation::Agrees { .. }, Some(seen)) = (&observed, &seen) {
                ticket.seen(seen);
            }
            ticket.observed(observed);
        });
        addition
    }

    /// How WordPress's response deviates from the plugin's own; `None` once no further explanation
    /// is searched for.
    fn deviation(
        &self,
        head: &Parts,
        body: Option<&Bytes>,
        judged: &Judged,
        issued: (u64, u64),
        further: &dyn Fn(&str, &str) -> Map<String, Value>,
    ) -> Option<Deviation> {
        let live = self.live.as_ref()?;
        let may_differ = match judged {
            Judged::Found(Finding::Differs(_)) | Judged::Agrees(Some(_), _) => true,
            Judged::Found(Finding::Suspicious(difference)) => matches!(difference.kind, Kind::Body | Kind::Claim),
            _ => false,
        };
        if !may_differ || !self.ticket.verification().wants_sample(live.user.id) {
            return None;
        }
        deviation::of(head, body?, &self.expected, issued, further)
    }
}

/// Whether the plugin's tables can store what the request contains. If they cannot, WordPress ends
/// the session.
// SECURITY: a client could otherwise cause a difference.
fn is_storable(call: &Call<'_>) -> bool {
    let target = call.head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let agent = call.head.headers.get(header::USER_AGENT).map_or(Ok(""), HeaderValue::to_str);
    let longest = call.site.columns.user_agent_length.min(TEXT_COLUMN);
    target <= TEXT_COLUMN && agent.is_ok_and(|agent| text::wp_slash(agent).len() <= longest)
}

fn is_over_limit(call: &Call<'_>) -> bool {
    let limit = call.site.settings.rate_limit;
    limit.is_some_and(|limit| call.refresher.rate_limiter.is_over(call.client.address, limit, unix_now()))
}

/// The response that the sidecar would send, as far as WordPress's can equal it.
fn expected(call: &Call<'_>, reply: &Reply, token: Expectation) -> Expected {
    // Only its presence counts.
    let window = Window { limit: 1, remaining: 1, reset: 1, retry_after: None };
    let context = ReplyContext {
        window: call.site.settings.rate_limit.map(|_| window),
        // The plugin's own members.
        fields: ResponseFields::OAuth2,
        ..call.reply_context(None)
    };
    let (mut head, body) = response::response(reply, &context).into_parts();
    // Only the sidecar sends it.
    head.headers.remove(header::CACHE_CONTROL);
    Expected {
        status: head.status,
        head: head.headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
        token,
        ignored: Arc::clone(&call.refresher.comparisons.ignored),
        has_cookies: call.head.headers.contains_key(header::COOKIE),
        is_of_app: call.app.is_some(),
    }
}

fn pair(user: &User, values: &Values, access_token: &str, refresh_token: &str) -> Reply {
    let (access_token, refresh_token) = (access_token.to_owned(), refresh_token.to_owned());
    let (user, fields) = (user.clone(), values.fields.clone());
    Reply::Pair(Pair { access_token, refresh_token, expires_in: 0, user, fields })
}

/// The members of the sidecar's own response with these tokens, in order.
fn promised(
    live: &Live,
    site: &Site,
    access_token: &str,
    refresh_token: &str,
    fields: ResponseFields,
) -> Map<String, Value> {
    // WordPress's response already has the declared members.
    let reply = pair(&live.user, &Values::default(), access_token, refresh_token);
    let omit = &site.declared.omit;
    let context =
        ReplyContext { api_link: None, cors: Cors::Own(None), expose_rate_limit: false, window: None, fields, omit };
    serde_json::from_slice(response::response(&reply, &context).body()).unwrap_or_default()
}

/// The Unix seconds by PHP's clock in which the response may have been made, for a request sent at
/// `began` and answered at `ended`. The response's own `date` may be by another machine's clock,
/// whose difference is known to be small (otherwise nothing is native).
fn during(began: u64, ended: u64, date: Option<u64>) -> RangeInclusive<u64> {
    let date = date.filter(|date| date.abs_diff(ended) <= clock::TOO_FAR.as_secs() + CLOCK_SLACK);
    let took = ended.saturating_sub(began);
    let earliest = date.map_or(began, |date| began.min(date.saturating_sub(took)));
    let latest = date.map_or(ended, |date| ended.max(date));
    earliest.saturating_sub(CLOCK_SLACK)..=latest.saturating_add(CLOCK_SLACK)
}

fn date(headers: &HeaderMap) -> Option<u64> {
    // A cached response has the time at which it was made.
    let date = headers.get(header::DATE).filter(|_| !headers.contains_key(header::AGE))?;
    let date = httpdate::parse_http_date(date.to_str().ok()?).ok()?;
    date.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_issued_between_the_request_and_its_answer() {
        assert_eq!(during(100, 101, None), 40..=161);
        assert_eq!(during(100, 101, Some(101)), 40..=161);
        // A clock half a minute behind, and one ahead.
        assert_eq!(during(100, 101, Some(71)), 10..=161);
        assert_eq!(during(100, 101, Some(131)), 40..=191);
        // No site that refreshes natively has such a clock.
        assert_eq!(during(100, 101, Some(401)), 40..=161);
    }
}
