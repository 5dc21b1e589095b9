//! The sidecar's own responses outside the refresh route: a closed catalogue, and the one place
//! where errors become responses.
//!
//! A page shows the reason and the request's id, nothing else; the details are in the log under
//! that id.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::error::{Description, ExchangeError};
use crate::forward::response_body::ResponseBody;
use crate::request_id::{RequestId, X_REQUEST_ID};

/// After how many seconds a client may retry when the database or a busy upstream failed (RFC 9110,
/// 10.2.3).
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// What an error response needs of the request.
#[derive(Debug, Clone)]
pub struct ErrorContext {
    pub id: RequestId,
    /// Whether the client wants a page for people rather than JSON.
    pub accepts_html: bool,
}

impl ErrorContext {
    /// Browsers name `text/html` in `Accept`; apps, the other callers here, do not.
    pub fn new(id: RequestId, headers: &HeaderMap) -> Self {
        let names_html = |value: &HeaderValue| value.as_bytes().windows(9).any(|part| part == b"text/html");
        ErrorContext { id, accepts_html: headers.get(header::ACCEPT).is_some_and(names_html) }
    }

    /// Like [`ErrorContext::new`], from the part of an invalid head that was read.
    pub fn of_head(id: RequestId, head: &[u8]) -> Self {
        ErrorContext { id, accepts_html: head.windows(9).any(|part| part == b"text/html") }
    }
}

/// The response to a request that could not be served.
pub fn failure(error: &ExchangeError, asked: &ErrorContext) -> Response<ResponseBody> {
    page(error, asked).map(ResponseBody::whole)
}

fn page(error: &ExchangeError, asked: &ErrorContext) -> Response<Bytes> {
    let Description { status, reason, message, .. } = error.describe();
    let (body, content_type) = match asked.accepts_html {
        true => (html(status, message, &asked.id), "text/html; charset=UTF-8"),
        false => (json(status, reason, message, &asked.id), "application/json; charset=UTF-8"),
    };
    let mut answer = Response::new(Bytes::from(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_REQUEST_ID, asked.id.field());
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    // SECURITY: after an invalid request, the bytes that follow on the connection cannot be trusted
    // to be a request.
    if status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    dated(answer)
}

/// Has the shape of WordPress's own errors.
fn json(status: StatusCode, reason: &str, message: &str, id: &RequestId) -> String {
    let status = status.as_u16();
    format!(
        r#"{{"code":"wp_jwt_sidecar_{reason}","message":"{message}","data":{{"status":{status},"request_id":"{id}"}}}}"#
    )
}

fn html(status: StatusCode, message: &str, id: &RequestId) -> String {
    let title = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or("Error"));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <h1>{title}</h1>\n<p>{message}</p>\n<p>Request <code>{id}</code></p>\n</html>\n"
    )
}

/// Completes a native response with what a web server adds. If a proxy gave the request an id, the
/// response carries it; otherwise the response has none, like WordPress's own.
pub fn native(mut answer: Response<Bytes>, id: &RequestId) -> Response<ResponseBody> {
    if let RequestId::Given(name) = id {
        answer.headers_mut().insert(X_REQUEST_ID, name.clone());
    }
    dated(answer).map(ResponseBody::whole)
}

/// Adds the date. Upstream responses are passed on with theirs or without, but an origin server
/// with a clock must send one (RFC 9110, 6.6.1).
fn dated(mut answer: Response<Bytes>) -> Response<Bytes> {
    if let Some(date) = date(SystemTime::now()) {
        answer.headers_mut().insert(header::DATE, date);
    }
    answer
}

/// Formats the date; the result is reused within the same second.
fn date(now: SystemTime) -> Option<HeaderValue> {
    thread_local! {
        static LAST: RefCell<(u64, Option<HeaderValue>)> = const { RefCell::new((0, None)) };
    }
    let second = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
    LAST.with_borrow_mut(|(last, date)| {
        if *last != second || date.is_none() {
            (*last, *date) = (second, HeaderValue::from_str(&httpdate::fmt_http_date(now)).ok());
        }
        date.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::error::ForwardError;
    use crate::request_id::RequestIds;
    use std::time::Duration;

    fn asked(accept: &str) -> ErrorContext {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        ErrorContext::new(RequestIds::new().next(), &headers)
    }

    #[test]
    fn people_get_a_page_and_programs_json() {
        let error = ExchangeError::from(ForwardError::Timeout(Duration::from_secs(1)));
        let browser = asked("text/html,application/xhtml+xml,*/*;q=0.8");
        let text = String::from_utf8(page(&error, &browser).into_body().to_vec()).unwrap();
        assert!(text.contains("504 Gateway Timeout") && text.contains(&browser.id.to_string()), "{text}");
        for accept in ["*/*", "application/json", ""] {
            let app = asked(accept);
            let body: serde_json::Value = serde_json::from_slice(page(&error, &app).body()).unwrap();
            assert_eq!(body["code"], "wp_jwt_sidecar_upstream_timeout");
            assert_eq!(body["data"]["status"], 504);
            assert_eq!(body["data"]["request_id"], app.id.to_string());
        }
    }
}
