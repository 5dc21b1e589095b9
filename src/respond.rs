//! Every answer that the sidecar makes itself outside the refresh route: a closed catalogue, and the one place where
//! errors become answers.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::body::ResponseBody;
use crate::error::ExchangeError;
use crate::vet::Refusal;

/// Seconds after which a client may come again when the database failed it (RFC 9110, 10.2.3).
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// The answer to a request that could not be served. Details go to the log, not to the client.
pub fn failure(error: &ExchangeError) -> Response<ResponseBody> {
    match error {
        ExchangeError::Refused(Refusal::Connect) => closing(page(StatusCode::METHOD_NOT_ALLOWED, "connect_refused")),
        ExchangeError::Refused(Refusal::TransferEncoding) => {
            closing(page(StatusCode::NOT_IMPLEMENTED, "unsupported_transfer_encoding"))
        }
        ExchangeError::Refused(
            Refusal::MissingHost | Refusal::SeveralHosts | Refusal::InvalidHost | Refusal::TargetHostMismatch,
        ) => closing(page(StatusCode::BAD_REQUEST, "invalid_host")),
        ExchangeError::RequestBody(_) => closing(page(StatusCode::BAD_REQUEST, "invalid_request_body")),
        ExchangeError::RequestBodyTimeout(_) => closing(page(StatusCode::REQUEST_TIMEOUT, "request_body_timeout")),
        ExchangeError::UpstreamConnect(_) | ExchangeError::UpstreamConnectTimeout(_) => {
            page(StatusCode::BAD_GATEWAY, "upstream_unreachable")
        }
        ExchangeError::UpstreamResponse(_) => page(StatusCode::BAD_GATEWAY, "upstream_broke_off"),
        ExchangeError::UpstreamUnaskedUpgrade => page(StatusCode::BAD_GATEWAY, "upstream_unasked_upgrade"),
        ExchangeError::UpstreamTimeout(_) => page(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout"),
        ExchangeError::Rotation(_) | ExchangeError::RotationTask(_) => {
            let mut answer = page(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable");
            answer.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
            answer
        }
    }
}

/// JSON in the shape of WordPress's own errors: the callers that meet these are apps as often as people.
fn page(status: StatusCode, reason: &'static str) -> Response<ResponseBody> {
    let message = status.canonical_reason().unwrap_or("Error");
    let body = format!(
        r#"{{"code":"wp_jwt_sidecar_{reason}","message":"{message}","data":{{"status":{}}}}}"#,
        status.as_u16()
    );
    let mut answer = Response::new(Bytes::from(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    native(answer)
}

/// SECURITY: after a request that was not understood, what follows on the connection cannot be trusted to be a request.
fn closing(mut answer: Response<ResponseBody>) -> Response<ResponseBody> {
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// An answer that is complete but for what the web server adds: hyper adds no `Date` (it must not to the upstream's
/// answers), and an origin server with a clock must (RFC 9110, 6.6.1).
pub fn native(mut answer: Response<Bytes>) -> Response<ResponseBody> {
    let date = httpdate::fmt_http_date(SystemTime::now());
    if let Ok(date) = HeaderValue::from_str(&date) {
        answer.headers_mut().insert(header::DATE, date);
    }
    answer.map(|body| ResponseBody::Whole(Some(body)))
}
