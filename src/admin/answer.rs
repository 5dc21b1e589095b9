//! Routes a request by its head to a response, and adds the fields that every response has.

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request};
use http_body_util::Full;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::guard;
use super::status::Status;
use super::{Subject, health, page};

/// The response for other paths.
const ROUTES: &str = "There is: / (status page), /status.json, /metrics, /healthz, /readyz\n";

/// The page contains its own style and script, allowed by their hashes; loading, framing, sending
/// or submitting anything else is forbidden.
static CONTENT_SECURITY_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |text: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)));
    let policy = format!(
        "default-src 'none'; style-src {}; script-src {}; img-src data:; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(page::STYLE),
        hash(page::SCRIPT)
    );
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// Answers requests about one sidecar.
pub struct Answers {
    subject: Arc<Subject>,
}

impl Answers {
    pub fn new(subject: Arc<Subject>) -> Self {
        Answers { subject }
    }

    /// The response to the request with this head.
    pub async fn answer(&self, head: &request::Parts, by_unix_socket: bool) -> Response<Full<Bytes>> {
        let in_force = self.subject.in_force();
        let hosts = &in_force.config.admin.hosts;
        let answer = match guard::admit(&head.method, &head.headers, hosts, by_unix_socket) {
            Ok(()) => self.of_path(head.uri.path()).await,
            Err(denial) => {
                let mut answer = text(denial.status(), denial.explanation().to_owned());
                if denial == guard::Denial::Method {
                    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
                }
                answer
            }
        };
        finished(answer, &head.method)
    }

    async fn of_path(&self, path: &str) -> Response<Bytes> {
        match path {
            "/" => html(page::page(&Status::gather(&self.subject)).into_string()),
            "/status.json" => json(StatusCode::OK, &Status::gather(&self.subject)),
            "/metrics" => self.metrics(),
            "/healthz" => self.health().await,
            "/readyz" => {
                let readiness = super::gather::readiness(&self.subject);
                let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                json(status, &readiness)
            }
            _ => text(StatusCode::NOT_FOUND, ROUTES.to_owned()),
        }
    }

    /// A sidecar that is ending no longer accepts connections, but is alive.
    async fn health(&self) -> Response<Bytes> {
        match self.subject.drain.begun.is_cancelled() || health::turns(&self.subject.accepting).await {
            true => text(StatusCode::OK, "alive\n".to_owned()),
            false => text(StatusCode::SERVICE_UNAVAILABLE, "the accept loop does not answer\n".to_owned()),
        }
    }

    fn metrics(&self) -> Response<Bytes> {
        match self.subject.exposed().encode(super::gather::flags(&self.subject)) {
            Ok(written) => typed(StatusCode::OK, super::exposition::CONTENT_TYPE, written),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics cannot be written: {error}\n")),
        }
    }
}

fn text(status: StatusCode, text: String) -> Response<Bytes> {
    typed(status, "text/plain; charset=UTF-8", text)
}

fn html(text: String) -> Response<Bytes> {
    let mut answer = typed(StatusCode::OK, "text/html; charset=UTF-8", text);
    answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY.clone());
    answer
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Bytes> {
    match serde_json::to_string(value) {
        Ok(written) => typed(status, "application/json; charset=UTF-8", written + "\n"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot be written as JSON: {error}\n")),
    }
}

fn typed(status: StatusCode, content_type: &'static str, body: String) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

fn finished(mut answer: Response<Bytes>, method: &Method) -> Response<Full<Bytes>> {
    protect(answer.headers_mut());
    if method == Method::HEAD {
        let length = HeaderValue::from(answer.body().len());
        answer.headers_mut().insert(header::CONTENT_LENGTH, length);
        *answer.body_mut() = Bytes::new();
    }
    answer.map(Full::new)
}

/// SECURITY: pages of other origins must not read, frame or keep the responses.
fn protect(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
