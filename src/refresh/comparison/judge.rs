//! Judges WordPress's response by its head and body. Pure.
//!
//! | response | token live | token not live |
//! |---|---|---|
//! | 429, 5xx but 500, longer than 64 KiB, compressed, not JSON | void | void |
//! | 500 | a suspicion if the token is revoked now, else void | void |
//! | a refusal | a difference if the token is revoked now, else a suspicion | the plugin's own code: must equal it exactly; another: a suspicion |
//! | 200 | compared | a difference, if the token was looked up just now |
//!
//! SECURITY: a suspicion counts only when other clients cause it, too. Everything that one client
//! can cause by an odd request is a suspicion: a firewall's refusal, a cookie in response to a
//! cookie.

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value};

use super::headers::{self, Change};
use super::{claims, cors, words};
use crate::declared::Values;
use crate::verify::difference::{Difference, Kind};
use crate::wordpress::access_token::Signer;

/// The plugin's code for a token that is not live, whatever the reason.
const NOT_LIVE: &str = "jwt_auth_invalid_refresh_token";

/// Seconds by which `expires_in` may be off.
const EXPIRES_IN_SLACK: u64 = 2;

/// The response that the sidecar would have sent.
pub struct Expected {
    pub status: StatusCode,
    pub head: HeaderMap,
    /// Its members; those of a success only show their types.
    pub body: Map<String, Value>,
    pub token: Expectation,
    /// `[refresh] verify_ignore_headers`.
    pub ignored: Arc<[String]>,
    /// Whether the request has cookies, to which the site's code may respond with fields.
    pub has_cookies: bool,
    /// Whether the request's origin is an app's: the response's fields for it are kept, and
    /// compared with those of the next response.
    pub is_of_app: bool,
}

/// What should happen to the token.
pub enum Expectation {
    Exchanged {
        issuer: String,
        signer: Arc<Signer>,
        user_id: u64,
        /// Seconds.
        lifetime: u64,
        /// The values declared for the user.
        values: Values,
    },
    Refused {
        /// Whether it was looked up just now. Otherwise it may be live by PHP's clock, or have been
        /// made meanwhile.
        is_certain: bool,
    },
}

/// The pair in WordPress's response. Has no `Debug`: everything in it is secret.
pub struct Received {
    pub access_token: String,
    pub refresh_token: String,
    pub times: claims::Times,
}

/// What is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    Differs(Difference),
    Suspicious(Difference),
    Void,
}

/// The result.
pub enum Judged {
    /// As expected, except for fields that the web server may have added.
    Agrees(Option<Received>, Vec<Change>),
    Found(Finding),
    /// Depends on whether the token is revoked now.
    Session {
        ended: Finding,
        kept: Finding,
    },
}

/// Judges the response to a call that was sent and answered within `during` (Unix seconds).
/// `further` returns the members that the sidecar would add to the plugin's, once the tokens are
/// known.
pub fn judge(
    head: &Parts,
    body: Option<&Bytes>,
    expected: &Expected,
    during: RangeInclusive<u64>,
    further: impl FnOnce(&str, &str) -> Map<String, Value>,
) -> Judged {
    let void = Judged::Found(Finding::Void);
    // An upstream that compresses without being asked.
    let is_coded = head.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity");
    let Some(body) = body.filter(|_| !is_coded) else { return void };
    let status = head.status;
    let read: Option<Value> = serde_json::from_slice(body).ok();
    match &expected.token {
        Expectation::Refused { is_certain } => Judged::refusal(head, read, expected, *is_certain),
        Expectation::Exchanged { .. } if status == StatusCode::INTERNAL_SERVER_ERROR => Judged::Session {
            ended: Finding::Suspicious(Difference::new(Kind::Session, "status 500, and the token is revoked")),
            kept: Finding::Void,
        },
        Expectation::Exchanged { .. } if status == StatusCode::OK => {
            Judged::success(head, read, expected, during, further)
        }
        Expectation::Exchanged { .. } => Judged::no_success(status, read.as_ref()),
    }
}

impl Judged {
    fn differs(kind: Kind, what: impl Into<String>) -> Self {
        Judged::Found(Finding::Differs(Difference::new(kind, what)))
    }

    /// A live token was not exchanged.
    fn no_success(status: StatusCode, read: Option<&Value>) -> Self {
        let number = status.as_u16();
        if status == StatusCode::PARTIAL_CONTENT {
            return Judged::Found(Finding::Void);
        }
        if status.is_success() && read.is_some() {
            return Judged::differs(Kind::Body, format!("status {number}, the plugin answers 200"));
        }
        let (true, Some(code)) = (is_refusal(status), read.and_then(code)) else { return Judged::Found(Finding::Void) };
        let shown = words::shown(code);
        let refusal = |what: String| Difference::new(Kind::Refusal, what);
        Judged::Session {
            // Another call has used the token meanwhile, or logged out.
            ended: match code == NOT_LIVE {
                true => Finding::Void,
                false => Finding::Differs(refusal(format!("status {number}, code {shown}, and the token is revoked"))),
            },
            kept: Finding::Suspicious(refusal(format!("status {number}, code {shown}, the plugin answers 200"))),
        }
    }

    fn refusal(head: &Parts, read: Option<Value>, expected: &Expected, is_certain: bool) -> Self {
        let (number, usual) = (head.status.as_u16(), expected.status.as_u16());
        if head.status == StatusCode::OK && matches!(read, Some(Value::Object(_))) {
            let what = format!("status {number}, the plugin answers {usual}");
            return if is_certain { Judged::differs(Kind::Refusal, what) } else { Judged::Found(Finding::Void) };
        }
        let void = Judged::Found(Finding::Void);
        let (true, Some(Value::Object(found))) = (is_refusal(head.status), read) else { return void };
        let Some(code) = found.get("code").and_then(Value::as_str) else { return void };
        if found.get("code") != expected.body.get("code") {
            let what = format!("status {number}, code {}, the plugin answers {usual}", words::shown(code));
            return Judged::Found(Finding::Suspicious(Difference::new(Kind::Refusal, what)));
        }
        if head.status != expected.status {
            return Judged::differs(Kind::Refusal, format!("status {number}, the plugin answers {usual}"));
        }
        let changes = words::members(&found, &expected.body);
        if !changes.is_empty() {
            return Judged::differs(Kind::Refusal, words::listed("body of a refusal", &changes));
        }
        if found != expected.body {
            return Judged::differs(Kind::Refusal, format!("the text of {}", words::shown(code)));
        }
        Judged::by_head(head, expected, None)
    }

    fn success(
        head: &Parts,
        read: Option<Value>,
        expected: &Expected,
        during: RangeInclusive<u64>,
        further: impl FnOnce(&str, &str) -> Map<String, Value>,
    ) -> Self {
        let found = match read {
            Some(Value::Object(found)) => found,
            Some(other) => return Judged::differs(Kind::Body, format!("body ({})", words::kind(&other))),
            // A page that asks the client to wait or to prove that it is human; or PHP's warnings
            // before the JSON.
            None if says_json(head) => {
                let difference = Difference::new(Kind::Body, "body that is not JSON");
                return Judged::Found(Finding::Suspicious(difference));
            }
            None => return Judged::Found(Finding::Void),
        };
        let text = |name: &str| found.get(name).and_then(Value::as_str).unwrap_or_default();
        let (access_token, refresh_token) = (text("access_token"), text("refresh_token"));
        let mut compared = found.clone();
        // A newer plugin may itself send the members that the sidecar adds.
        for (name, value) in further(access_token, refresh_token) {
            if !expected.body.contains_key(&name) && compared.get(&name) == Some(&value) {
                compared.shift_remove(&name);
            }
        }
        let mut changes = words::members(&compared, &expected.body);
        if changes.is_empty() && found.get("token_type") != expected.body.get("token_type") {
            changes.push("token_type (not Bearer)".to_owned());
        }
        if changes.is_empty() && !is_refresh_token(refresh_token) {
            changes.push("refresh_token (not 32 hex digits)".to_owned());
        }
        if !changes.is_empty() {
            let difference = Difference::new(Kind::Body, words::listed("body", &changes));
            // A firewall in front of WordPress may respond with JSON of its own to clients that it
            // refuses.
            let has_no_tokens = !found.contains_key("access_token") && !found.contains_key("refresh_token");
            return match has_no_tokens {
                true => Judged::Session {
                    ended: Finding::Differs(difference.clone()),
                    kept: Finding::Suspicious(difference),
                },
                false => Judged::Found(Finding::Differs(difference)),
            };
        }
        let Expectation::Exchanged { issuer, signer, user_id, lifetime, values } = &expected.token else {
            return Judged::Found(Finding::Void);
        };
        let others = words::other_values(&found, &values.fields);
        if !others.is_empty() {
            // SECURITY: users may change their own names between the sidecar's read and WordPress's
            // response.
            return Judged::Found(Finding::Suspicious(Difference::new(Kind::Body, words::listed("body", &others))));
        }
        let wanted = claims::Wanted {
            signer,
            issuer,
            user_id: *user_id,
            lifetime: *lifetime,
            declared: &values.claims,
            issued: (*during.start(), *during.end()),
        };
        let times = match claims::check(access_token, &wanted) {
            Ok(times) => times,
            Err(finding) => return Judged::Found(finding),
        };
        let expires_in = found.get("expires_in").and_then(Value::as_u64).unwrap_or_default();
        if expected.body.contains_key("expires_in") && expires_in.abs_diff(*lifetime) > EXPIRES_IN_SLACK {
            let difference = claims::lifetimes("expires_in", expires_in, *lifetime);
            return Judged::Found(Finding::Differs(difference));
        }
        let (access_token, refresh_token) = (access_token.to_owned(), refresh_token.to_owned());
        Judged::by_head(head, expected, Some(Received { access_token, refresh_token, times }))
    }

    fn by_head(head: &Parts, expected: &Expected, received: Option<Received>) -> Self {
        let mut changes = headers::compare(&head.headers, &expected.head, &expected.ignored);
        changes.retain(|change| !(expected.is_of_app && cors::is_of_origin(&change.name)));
        let (unsure, certain): (Vec<_>, Vec<_>) = changes.into_iter().partition(Change::is_unsure);
        if certain.is_empty() {
            return Judged::Agrees(received, unsure);
        }
        Judged::Found(of_fields(&certain, expected.has_cookies))
    }
}

/// A difference of the fields.
pub fn of_fields(changes: &[Change], has_cookies: bool) -> Finding {
    let difference = Difference::new(Kind::Header, headers::listed(changes));
    if has_cookies { Finding::Suspicious(difference) } else { Finding::Differs(difference) }
}

fn code(read: &Value) -> Option<&str> {
    read.as_object()?.get("code")?.as_str()
}

/// Whether a site refuses with this status; others are about the transport or temporary.
fn is_refusal(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status.as_u16(), 408 | 411 | 413 | 414 | 417 | 421 | 425 | 426 | 429 | 431)
}

fn says_json(head: &Parts) -> bool {
    let content_type = head.headers.get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().windows(4).any(|part| part == b"json"))
}

pub fn is_refresh_token(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests;
