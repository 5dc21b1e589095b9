//! Decides which requests the sidecar may answer itself.
//!
//! This is the only place that knows the refresh route. WordPress accepts many spellings of it, and
//! web servers disagree about the odd ones, so this file lists the few whose meaning is the same
//! everywhere and leaves all others to WordPress: forwarding a request needlessly costs 25 ms,
//! answering one wrongly costs a session.
//!
//! Nothing is interpreted here: no decoding, folding or repairing. Only the request's head is
//! examined; the body is left to [`crate::refresh::request`].

pub mod origin;

use std::fmt;

use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, ORIGIN, TRANSFER_ENCODING, USER_AGENT,
};
use http::{HeaderMap, HeaderName, Method, Uri};

/// The route within the REST API, as the plugin registers it.
const REFRESH_ROUTE: &str = "/jwt-auth/v1/token/refresh";

const METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");
const NONCE: HeaderName = HeaderName::from_static("x-wp-nonce");

/// The forms of the REST API's address under the site's `permalink_structure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permalinks {
    /// Empty structure: only `?rest_route=`.
    Plain,
    /// Any other: `/wp-json/`, `/index.php/wp-json/` and `?rest_route=`.
    Pretty,
    /// Begins with `/index.php/`, for sites whose web server rewrites nothing:
    /// `/index.php/wp-json/` and `?rest_route=`. Whether `/wp-json/` reaches WordPress depends on
    /// that server, so it is forwarded.
    PathInfo,
}

/// Where this site has the route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteForms {
    /// The path of the home URL without a trailing slash: `""` or `"/blog"`.
    pub home_path: String,
    pub permalinks: Permalinks,
}

/// Where a request goes, as far as its head shows.
#[derive(Clone, PartialEq, Eq)]
pub enum Route {
    Forward(ForwardReason),
    /// A refresh that the sidecar may answer, if its body allows that too.
    Refresh {
        /// The value of a lone `refresh_token` in the query: digits and letters only, possibly
        /// empty.
        query_token: Option<String>,
    },
}

// SECURITY: `Debug` must not carry a token of the query into a log.
impl fmt::Debug for Route {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward(reason) => formatter.debug_tuple("Forward").field(reason).finish(),
            Self::Refresh { query_token } => {
                formatter.debug_struct("Refresh").field("query_token", &query_token.as_ref().map(|_| "…")).finish()
            }
        }
    }
}

/// Why a request is left to WordPress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardReason {
    /// Nearly every request: another path or another method.
    #[error("not the refresh route")]
    NotRefresh,
    /// The site's home path is percent-encoded, not ASCII or has unusual segments.
    #[error("the site's home path is not plain")]
    HomePath,
    /// A query other than a lone `refresh_token` or `rest_route`.
    #[error("an unusual query")]
    Query,
    /// `X-HTTP-Method-Override`: WordPress would handle the request as another method.
    #[error("a method override")]
    MethodOverride,
    /// `X-WP-Nonce`: WordPress would check the cookies.
    #[error("a nonce")]
    Nonce,
    /// An `Authorization` that is not a single `Bearer`: WordPress (application passwords) or a
    /// plugin may log the client in.
    #[error("an Authorization other than Bearer")]
    Authorization,
    /// An encoded body.
    #[error("an encoded body")]
    ContentEncoding,
    /// Several `Content-Type` lines, or one that PHP and WordPress might read differently.
    #[error("an unusual content type")]
    ContentType,
    /// A multipart body, which only PHP parses.
    #[error("a multipart body")]
    Multipart,
    /// An `Origin` that WordPress would rewrite. An app's origin may be native: WordPress's
    /// response to it can be observed.
    #[error("an unusual origin")]
    Origin,
    /// An expectation other than `100-continue`.
    #[error("an unusual expectation")]
    Expect,
    /// A header name that PHP reads as another's (`X_WP_Nonce`).
    #[error("a header name with an underscore")]
    HeaderName,
    /// A JSON text that PHP may read differently.
    #[error("unusual JSON")]
    Json,
    /// A JSON body or form with a name that WordPress gives a meaning to, or might.
    #[error("an unusual body parameter")]
    BodyParameter,
    /// `refresh_token` in more than one place.
    #[error("more than one refresh token")]
    SeveralTokens,
    /// A token with characters other than digits and letters.
    #[error("an unusual refresh token")]
    Token,
    /// A body larger than that of any refresh.
    #[error("a large body")]
    BodyTooLarge,
}

/// Whether a request could be a refresh on some site. Cheap and without a site's settings: `false`
/// for nearly every request, and never for one that [`decide`] routes to [`Route::Refresh`].
pub fn could_be_refresh(method: &Method, target: &Uri) -> bool {
    if *method != Method::POST {
        return false;
    }
    let path = target.path();
    ends_with_route(path) || target.query().and_then(|query| query.strip_prefix("rest_route=")).is_some_and(is_route)
}

/// Whether the sidecar may answer this request. A pure function of the head and the site's forms.
pub fn decide(method: &Method, target: &Uri, headers: &HeaderMap, forms: &RouteForms) -> Route {
    match refresh_query(method, target, forms).and_then(|query_token| headers_are_plain(headers).map(|()| query_token))
    {
        Ok(query_token) => Route::Refresh { query_token },
        Err(reason) => Route::Forward(reason),
    }
}

/// The query's token, if the method and target are one of the site's plain forms of the route.
fn refresh_query(method: &Method, target: &Uri, forms: &RouteForms) -> Result<Option<String>, ForwardReason> {
    if !could_be_refresh(method, target) {
        return Err(ForwardReason::NotRefresh);
    }
    if !is_plain_home(&forms.home_path) {
        return Err(ForwardReason::HomePath);
    }
    let below_home = target.path().strip_prefix(forms.home_path.as_str()).ok_or(ForwardReason::NotRefresh)?;
    match target.query() {
        None if is_pretty_route(below_home, forms.permalinks) => Ok(None),
        None => Err(ForwardReason::NotRefresh),
        Some(query) => {
            let (name, value) = query.split_once('=').ok_or(ForwardReason::Query)?;
            match name {
                "refresh_token" if is_pretty_route(below_home, forms.permalinks) => {
                    if value.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                        Ok(Some(value.to_owned()))
                    } else {
                        Err(ForwardReason::Query)
                    }
                }
                "rest_route" if matches!(below_home, "/" | "/index.php") => {
                    if is_route(value) {
                        Ok(None)
                    } else {
                        Err(ForwardReason::Query)
                    }
                }
                _ => Err(ForwardReason::Query),
            }
        }
    }
}

/// Whether the path below the home path is the route in a form without a query.
fn is_pretty_route(below_home: &str, permalinks: Permalinks) -> bool {
    // WordPress's rewrite rules (`rest_api_register_rewrites`) match `wp-json` and `index.php`
    // case-sensitively; `WP_REST_Server` matches the route behind them without regard to case.
    let route = match permalinks {
        Permalinks::Plain => None,
        Permalinks::Pretty => {
            below_home.strip_prefix("/index.php/wp-json").or_else(|| below_home.strip_prefix("/wp-json"))
        }
        Permalinks::PathInfo => below_home.strip_prefix("/index.php/wp-json"),
    };
    route.is_some_and(is_route)
}

fn is_route(text: &str) -> bool {
    text.strip_suffix('/').unwrap_or(text).eq_ignore_ascii_case(REFRESH_ROUTE)
}

fn ends_with_route(path: &str) -> bool {
    let path = path.as_bytes();
    let path = path.strip_suffix(b"/").unwrap_or(path);
    path.len()
        .checked_sub(REFRESH_ROUTE.len())
        .and_then(|start| path.get(start..))
        .is_some_and(|end| end.eq_ignore_ascii_case(REFRESH_ROUTE.as_bytes()))
}

/// Whether a home path has one spelling only: no escapes, no dot segments, no empty segments.
fn is_plain_home(home_path: &str) -> bool {
    if home_path.is_empty() {
        return true;
    }
    let Some(segments) = home_path.strip_prefix('/') else {
        return false;
    };
    segments.split('/').all(|segment| {
        !matches!(segment, "" | "." | "..")
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
    })
}

/// Checks that no header changes the request's meaning for WordPress.
fn headers_are_plain(headers: &HeaderMap) -> Result<(), ForwardReason> {
    if headers.contains_key(METHOD_OVERRIDE) {
        return Err(ForwardReason::MethodOverride);
    }
    if headers.contains_key(NONCE) {
        return Err(ForwardReason::Nonce);
    }
    if !is_bearer_or_none(headers) {
        return Err(ForwardReason::Authorization);
    }
    let is = |value: &http::HeaderValue, word: &[u8]| value.as_bytes().eq_ignore_ascii_case(word);
    if !headers.get_all(CONTENT_ENCODING).iter().all(|value| is(value, b"identity")) {
        return Err(ForwardReason::ContentEncoding);
    }
    if !headers.get_all(EXPECT).iter().all(|value| is(value, b"100-continue")) {
        return Err(ForwardReason::Expect);
    }
    if headers.get_all(CONTENT_TYPE).iter().count() > 1 {
        return Err(ForwardReason::ContentType);
    }
    if !origin::is_usual(headers) {
        return Err(ForwardReason::Origin);
    }
    if headers.keys().any(becomes_another_header) {
        return Err(ForwardReason::HeaderName);
    }
    Ok(())
}

/// Whether the request has no `Authorization`, or a single one that only the plugin reads, which
/// ignores it on its own routes. The plugin matches `Bearer ` case-sensitively; `bearer` may be
/// another plugin's. `Basic` in any case is WordPress's (`wp_validate_application_password`) and
/// adds fields to the response. Of several lines, web servers pass on the first, the last or all
/// joined.
fn is_bearer_or_none(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    values.next().is_none_or(|value| value.as_bytes().starts_with(b"Bearer ")) && values.next().is_none()
}

/// Whether PHP would read the header as another one that matters here.
///
/// SECURITY: CGI turns both `X-WP-Nonce` and `X_WP_Nonce` into `HTTP_X_WP_NONCE` (RFC 3875, section
/// 4.1.18). Most web servers drop the latter, not all.
fn becomes_another_header(name: &HeaderName) -> bool {
    const WATCHED: [HeaderName; 11] = [
        METHOD_OVERRIDE,
        NONCE,
        AUTHORIZATION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_TYPE,
        EXPECT,
        HOST,
        ORIGIN,
        TRANSFER_ENCODING,
        USER_AGENT,
    ];
    let name = name.as_str();
    name.contains('_') && {
        let folded = name.replace('_', "-");
        WATCHED.iter().any(|watched| watched.as_str() == folded)
    }
}

#[cfg(test)]
mod tests;
