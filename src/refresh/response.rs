//! The responses of the refresh route, as WordPress sends them.
//!
//! Status, header values, their order and the JSON members are those of recorded exchanges. The
//! differences are deliberate: `Cache-Control: no-store` on success (RFC 6749, section 5.1),
//! `Retry-After` only with a 429, and unescaped `/` and non-ASCII characters in JSON. Nothing is
//! decided here: the outcome is the [`Reply`].

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::Value;

use super::rate_limit::Window;
use super::request::BadRequest;
use crate::config::ResponseFields;
use crate::declared::{self, User};

/// What a refresh is answered with.
pub enum Reply {
    /// The token was exchanged for a new pair.
    Pair(Pair),
    /// 403: unknown, used, revoked or expired.
    InvalidToken,
    /// 403: the token's user is gone.
    UserNotFound,
    /// 429: the context's window contains the time to wait.
    RateLimited,
    /// 400: refused by WordPress before the plugin sees it.
    BadRequest(BadRequest),
}

/// The new pair and its user. Has no `Debug`: everything in it is secret.
pub struct Pair {
    pub access_token: String,
    pub refresh_token: String,
    /// The access token's lifetime in seconds.
    pub expires_in: u64,
    pub user: User,
    /// The members that the site's own code adds, each with its path.
    pub fields: Vec<(Vec<String>, Value)>,
}

/// The fields that depend on the request's `Origin`.
#[derive(Clone, Copy)]
pub enum Cors<'a> {
    /// WordPress's own: for a web page's origin unchanged, or for a request without an origin.
    Own(Option<&'a HeaderValue>),
    /// Those observed in WordPress's responses to an app.
    Seen(&'a [(HeaderName, HeaderValue)]),
}

/// What a response depends on besides the reply.
pub struct ReplyContext<'a> {
    /// The value of `Link`.
    pub api_link: Option<&'a HeaderValue>,
    /// The fields that depend on the request's `Origin`.
    pub cors: Cors<'a>,
    /// Whether the plugin's CORS support is on and the request has a bearer token.
    pub expose_rate_limit: bool,
    /// The client's rate limit window; `None` if the limit is off.
    pub window: Option<Window>,
    /// The members of a success.
    pub fields: ResponseFields,
    /// Members that the site's own code removes.
    pub omit: &'a [String],
}

/// The response to a refresh, complete except for its framing.
pub fn response(reply: &Reply, context: &ReplyContext<'_>) -> Response<Bytes> {
    let (status, body) = status_and_body(reply, context);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.reserve(FIELDS);
    let mut fixed = |name, value| headers.append(name, HeaderValue::from_static(value));

    fixed(header::CONTENT_TYPE, "application/json; charset=UTF-8");
    fixed(X_ROBOTS_TAG, "noindex");
    if let Some(link) = context.api_link {
        headers.append(header::LINK, link.clone());
    }
    let mut fixed = |name, value| headers.append(name, HeaderValue::from_static(value));
    fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    if let Cors::Own(_) = context.cors {
        fixed(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            if context.expose_rate_limit {
                "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After"
            } else {
                "X-WP-Total, X-WP-TotalPages, Link"
            },
        );
        fixed(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "Authorization, X-WP-Nonce, Content-Disposition, Content-MD5, Content-Type",
        );
    }
    // A request that WordPress itself refuses does not reach the plugin's limit.
    if let (Some(window), false) = (context.window, matches!(reply, Reply::BadRequest(_))) {
        headers.append(X_RATELIMIT_LIMIT, window.limit.into());
        headers.append(X_RATELIMIT_REMAINING, window.remaining.into());
        headers.append(X_RATELIMIT_RESET, window.reset.into());
    }
    if matches!(reply, Reply::RateLimited) {
        headers.append(header::RETRY_AFTER, retry_after(context).into());
    }
    headers.append(header::ALLOW, HeaderValue::from_static("POST"));
    match context.cors {
        Cors::Own(None) => {}
        Cors::Own(Some(origin)) => {
            headers.append(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            let mut fixed = |name, value| headers.append(name, HeaderValue::from_static(value));
            fixed(header::ACCESS_CONTROL_ALLOW_METHODS, "OPTIONS, GET, POST, PUT, PATCH, DELETE");
            fixed(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
            fixed(header::VARY, "Origin");
        }
        Cors::Seen(fields) => fields.iter().for_each(|(name, value)| {
            headers.append(name, value.clone());
        }),
    }
    if matches!(reply, Reply::Pair(_)) {
        headers.append(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

fn retry_after(context: &ReplyContext<'_>) -> u64 {
    // The window of a refused client contains the time to wait; the shortest possible is 1.
    context.window.and_then(|window| window.retry_after).unwrap_or(1)
}

fn status_and_body(reply: &Reply, context: &ReplyContext<'_>) -> (StatusCode, Bytes) {
    match reply {
        Reply::Pair(pair) => (StatusCode::OK, success_body(pair, context)),
        Reply::InvalidToken => (StatusCode::FORBIDDEN, Bytes::from_static(INVALID_TOKEN)),
        Reply::UserNotFound => (StatusCode::FORBIDDEN, Bytes::from_static(USER_NOT_FOUND)),
        Reply::RateLimited => (
            StatusCode::TOO_MANY_REQUESTS,
            json(&Error {
                code: "jwt_auth_rate_limited",
                message: "Rate limit exceeded",
                data: RateLimitData { status: 429, retry_after: retry_after(context) },
            }),
        ),
        Reply::BadRequest(bad) => (
            StatusCode::BAD_REQUEST,
            match bad {
                BadRequest::MissingToken => Bytes::from_static(MISSING_TOKEN),
                BadRequest::NotAString => Bytes::from_static(NOT_A_STRING),
                BadRequest::InvalidJson(error) => json(&Error {
                    code: "rest_invalid_json",
                    message: "Invalid JSON body passed.",
                    data: JsonErrorData {
                        status: 400,
                        json_error_code: error.code(),
                        json_error_message: error.message(),
                    },
                }),
            },
        ),
    }
}

fn success_body(pair: &Pair, context: &ReplyContext<'_>) -> Bytes {
    let documented = Documented {
        token: &pair.access_token,
        user_id: pair.user.id,
        user_email: &pair.user.email,
        user_nicename: &pair.user.nicename,
        user_display_name: &pair.user.display_name,
    };
    let has = |name: &str| !context.omit.iter().any(|omitted| omitted == name);
    let oauth2 = OAuth2 {
        access_token: &pair.access_token,
        expires_in: has(EXPIRES_IN).then_some(pair.expires_in),
        token_type: has(TOKEN_TYPE).then_some("Bearer"),
    };
    let (documented, oauth2) = match context.fields {
        ResponseFields::All => (Some(documented), Some(oauth2)),
        ResponseFields::Documented => (Some(documented), None),
        ResponseFields::OAuth2 => (None, Some(oauth2)),
    };
    let body = written(&Success { documented, oauth2, refresh_token: &pair.refresh_token });
    #[expect(clippy::expect_used, reason = "no input makes it fail")]
    let body = declared::with_members(body, &[&SUCCESS], &pair.fields).expect("an object of JSON, and values of JSON");
    body.into()
}

fn json(body: &impl Serialize) -> Bytes {
    written(body).into()
}

fn written(body: &impl Serialize) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "no input makes it fail")]
    serde_json::to_vec(body).expect("strings and integers can be written as JSON")
}

#[derive(Serialize)]
struct Success<'a> {
    #[serde(flatten)]
    documented: Option<Documented<'a>>,
    #[serde(flatten)]
    oauth2: Option<OAuth2<'a>>,
    refresh_token: &'a str,
}

/// All names that a [`Success`] may have.
const SUCCESS: [&str; 9] = [
    "token",
    "user_id",
    "user_email",
    "user_nicename",
    "user_display_name",
    "access_token",
    EXPIRES_IN,
    TOKEN_TYPE,
    "refresh_token",
];
const EXPIRES_IN: &str = "expires_in";
const TOKEN_TYPE: &str = "token_type";

/// The body as in the plugin's API document.
#[derive(Serialize)]
struct Documented<'a> {
    token: &'a str,
    user_id: u64,
    user_email: &'a str,
    user_nicename: &'a str,
    user_display_name: &'a str,
}

/// The body as the plugin sends it (RFC 6749, section 5.1).
#[derive(Serialize)]
struct OAuth2<'a> {
    access_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'a str>,
}

#[derive(Serialize)]
struct Error<'a, Data> {
    code: &'a str,
    message: &'a str,
    data: Data,
}

#[derive(Serialize)]
struct RateLimitData {
    status: u16,
    retry_after: u64,
}

#[derive(Serialize)]
struct JsonErrorData<'a> {
    status: u16,
    json_error_code: u8,
    json_error_message: &'a str,
}

/// The number of fields of most responses, with Date and the request's id, to allocate once.
const FIELDS: usize = 14;

const X_ROBOTS_TAG: HeaderName = HeaderName::from_static("x-robots-tag");
const X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

const INVALID_TOKEN: &[u8] =
    br#"{"code":"jwt_auth_invalid_refresh_token","message":"Invalid refresh token.","data":{"status":403}}"#;
const USER_NOT_FOUND: &[u8] =
    br#"{"code":"jwt_auth_user_not_found","message":"User not found.","data":{"status":403}}"#;
const MISSING_TOKEN: &[u8] = br#"{"code":"rest_missing_callback_param","message":"Missing parameter(s): refresh_token","data":{"status":400,"params":["refresh_token"]}}"#;
const NOT_A_STRING: &[u8] = br#"{"code":"rest_invalid_param","message":"Invalid parameter(s): refresh_token","data":{"status":400,"params":{"refresh_token":"refresh_token is not of type string."},"details":{"refresh_token":{"code":"rest_invalid_type","message":"refresh_token is not of type string.","data":{"param":"refresh_token"}}}}}"#;

#[cfg(test)]
mod tests;
