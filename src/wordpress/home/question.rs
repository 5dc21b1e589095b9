//! One question to WordPress, and the certain part of its response.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use tokio::time::timeout;
use url::Url;

use super::{Home, HomeError, LIMIT, Question, Word};
use crate::net::ask::{self as asking, Asked};
use crate::net::dial::Dialer;
use crate::route::Permalinks;
use crate::wordpress::clock::Reading;

/// The largest response that is read, in bytes: a few hundred are usual; an HTML page means
/// nothing.
const MAX_ANSWER: usize = 256 * 1024;

/// Error codes are words such as `rest_not_logged_in`. Longer ones are cut.
const MAX_CODE: usize = 64;

/// The requested fields of WordPress's REST API.
const FIELDS: &str = "_fields=home,namespaces";

/// WordPress's answer.
#[derive(Debug)]
pub struct Answered {
    pub word: Word,
    /// WordPress's clock, if the response shows it.
    pub clock: Option<Reading>,
}

/// Asks WordPress, on a new connection each time.
///
/// # Errors
/// See [`HomeError`].
pub async fn ask(upstream: &Dialer, question: &Question) -> Result<Answered, HomeError> {
    timeout(LIMIT, ask_patiently(upstream, question)).await.unwrap_or(Err(HomeError::TimedOut))
}

async fn ask_patiently(upstream: &Dialer, question: &Question) -> Result<Answered, HomeError> {
    let path = &question.forms.home_path;
    let by_query = format!("{path}/?rest_route=/&{FIELDS}");
    let target = match question.forms.permalinks {
        Permalinks::Pretty => format!("{path}/wp-json/?{FIELDS}"),
        Permalinks::PathInfo => format!("{path}/index.php/wp-json/?{FIELDS}"),
        Permalinks::Plain => by_query.clone(),
    };
    let (response, clock) = exchange(upstream, question, &target).await?;
    let read = read(&response, question.forms.permalinks);
    // An ordinary page. The filter `rest_url_prefix` may have moved the REST API: its other
    // address, which no filter moves (`rest_api_loaded()`), distinguishes that from a web server, a
    // cache or another program in between.
    let may_have_moved = target != by_query
        && match &read {
            Err(HomeError::Json(_)) => true,
            Err(HomeError::Status(status)) => *status == StatusCode::NOT_FOUND.as_u16(),
            _ => false,
        };
    if may_have_moved
        && let Ok((other, clock)) = exchange(upstream, question, &by_query).await
        && let Ok(Word::Home(_)) = self::read(&other, question.forms.permalinks)
    {
        return Ok(Answered { word: Word::Moved, clock });
    }
    read.map(|word| Answered { word, clock })
}

async fn exchange(
    upstream: &Dialer,
    question: &Question,
    target: &str,
) -> Result<(Response<Bytes>, Option<Reading>), HomeError> {
    let own = Url::parse(&question.stored_home).ok().and_then(|home| host_of(&home));
    let host = match (&question.host, &own) {
        (Some(host), _) => host,
        (None, Some(own)) => own,
        (None, None) => return Err(HomeError::Url(question.stored_home.clone())),
    };
    let request = asking::request(question.scheme, host, target, "127.0.0.1")?
        .header(header::USER_AGENT, concat!("wp-jwt-sidecar/", env!("CARGO_PKG_VERSION")))
        // A request that ends in wp_die(), as on an archived site (`ms_site_check()`), gets JSON
        // with a code only with this field (`wp_is_json_request()`).
        .header(header::ACCEPT, "application/json")
        // A cached response shows nothing about the present.
        .header(header::CACHE_CONTROL, "no-cache")
        .header(header::CONNECTION, "close")
        .body(Bytes::new())?;
    // SECURITY: only the site's own hosts get their own server name.
    let name = upstream.name_for(Some(host.as_bytes()), || own.clone());
    let dial = upstream.dial_as(None, name.as_ref());
    let Asked { response, sent, received } = asking::ask(dial, request, MAX_ANSWER).await?;
    let clock = clock_of(response.headers(), sent, received);
    Ok((response, clock))
}

/// A cached response has the `Date` at which it was made; it then also has an `Age` (RFC 9111,
/// section 5.1).
fn clock_of(headers: &HeaderMap, sent: Instant, received: Instant) -> Option<Reading> {
    if headers.contains_key(header::AGE) {
        return None;
    }
    let date = headers.get(header::DATE)?.to_str().ok()?;
    Reading::of_date(httpdate::parse_http_date(date).ok()?, sent, received)
}

/// The certain part of a response. Pure.
fn read(response: &Response<Bytes>, permalinks: Permalinks) -> Result<Word, HomeError> {
    let status = response.status();
    if status.is_success() {
        let root: RestRoot = serde_json::from_slice(response.body())?;
        let route_registered = root.namespaces.iter().any(|namespace| namespace == "jwt-auth/v1");
        return Ok(Word::Home(Arc::new(Home::new(root.home, route_registered, permalinks))));
    }
    if super::is_definite(status)
        // In the form of WordPress's errors: `rest_convert_error_to_response()`,
        // `_json_wp_die_handler()`.
        && let Ok(body) = serde_json::from_slice::<Value>(response.body())
        && let Some(code) = body.get("code").and_then(shown)
    {
        return Ok(Word::Refused { status: status.as_u16(), code });
    }
    Err(HomeError::Status(status.as_u16()))
}

/// SECURITY: the result is written to the log and to the status page.
fn shown(code: &Value) -> Option<String> {
    let code = match code {
        Value::String(code) => code.clone(),
        Value::Number(code) => code.to_string(),
        _ => return None,
    };
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || "_-.:".contains(letter) { letter } else { '?' };
    Some(code.chars().take(MAX_CODE).map(plain).collect())
}

/// Host and port of a home URL.
pub fn host_of(home: &Url) -> Option<String> {
    let host = home.host_str()?;
    Some(home.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

#[derive(Deserialize)]
struct RestRoot {
    home: String,
    namespaces: Vec<String>,
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn said(status: u16, body: &str) -> Result<Word, String> {
        let response = Response::builder().status(status).body(Bytes::from(body.to_owned())).unwrap();
        read(&response, Permalinks::Pretty).map_err(|error| error.to_string())
    }

    #[test]
    fn only_json_with_a_code_is_definite() {
        let error = r#"{"code":"rest_not_logged_in","message":"No.","data":{"status":401}}"#;
        for status in [401, 403, 404, 410] {
            assert_eq!(said(status, error), Ok(Word::Refused { status, code: "rest_not_logged_in".to_owned() }));
        }
        for (status, body) in [
            (401, "<html>"),
            (403, "{}"),
            (403, r#"{"code":null}"#),
            (404, r#"["code"]"#),
            (400, error),
            (429, error),
            (500, error),
            (503, error),
            (301, ""),
            (200, error),
            (200, "<html>"),
            (200, r#"{"home":"http://a"}"#),
        ] {
            assert!(said(status, body).is_err(), "{status} {body}");
        }
        let Ok(Word::Home(home)) = said(200, r#"{"home":"http://a","namespaces":["wp/v2","jwt-auth/v1"]}"#) else {
            panic!("not an answer");
        };
        assert_eq!((home.url.as_str(), home.route_registered), ("http://a", true));
    }

    #[test]
    fn a_code_is_shown_without_what_could_harm_a_log() {
        for (code, expected) in [
            (r#""rest_forbidden""#, Some("rest_forbidden")),
            ("403", Some("403")),
            (r#""a\nb <c>\u001b""#, Some("a?b??c??")),
            (r#""""#, Some("")),
            ("null", None),
            ("[1]", None),
        ] {
            assert_eq!(shown(&serde_json::from_str(code).unwrap()).as_deref(), expected, "{code}");
        }
        assert_eq!(shown(&Value::from("x".repeat(1_000))).unwrap().len(), MAX_CODE);
    }

    #[test]
    fn a_stored_response_tells_no_time() {
        let mut headers = HeaderMap::new();
        let now = Instant::now();
        assert_eq!(clock_of(&headers, now, now), None);
        headers.insert(header::DATE, HeaderValue::from_static("Sat, 28 Nov 2026 17:30:00 GMT"));
        assert!(clock_of(&headers, now, now).is_some());
        headers.insert(header::AGE, HeaderValue::from_static("0"));
        assert_eq!(clock_of(&headers, now, now), None);
        headers.remove(header::AGE);
        headers.insert(header::DATE, HeaderValue::from_static("yesterday"));
        assert_eq!(clock_of(&headers, now, now), None);
    }
}
