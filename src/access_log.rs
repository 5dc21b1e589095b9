//! The access log: one line per forwarded request, written when its response has ended.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Request, Version, header};
use tracing::info;

use crate::request_id::RequestId;

/// The log target of these lines.
pub const ACCESS: &str = "wp_jwt_sidecar::access";

/// The log target of the line per refresh. It is a module of its own in `log.level`, and the limit
/// on repeats does not apply to it.
pub const REFRESHES: &str = "wp_jwt_sidecar::refreshes";

/// A request whose response is being sent. It writes its line when dropped.
#[derive(Debug)]
pub struct Access {
    /// What the line contains of the request's head.
    pub head: Box<Head>,
    pub client: IpAddr,
    pub id: RequestId,
    pub status: u16,
    /// When the head of the request had arrived.
    pub begun: Instant,
    /// How long the upstream took until its response's head.
    pub upstream: Option<Duration>,
    /// Bytes of the response's body that were passed to the client's connection, without framing.
    pub sent: u64,
    pub is_complete: bool,
}

/// The part of a request's head that the line contains.
#[derive(Debug)]
pub struct Head {
    method: Method,
    path: String,
    user_agent: Option<HeaderValue>,
    version: Version,
}

impl Head {
    /// The head of `request`, whose target has this `path`.
    pub fn of<B>(request: &Request<B>, path: String) -> Self {
        Head {
            method: request.method().clone(),
            path,
            user_agent: request.headers().get(header::USER_AGENT).cloned(),
            version: request.version(),
        }
    }
}

impl Drop for Access {
    // SECURITY: without the query, where WordPress and its plugins put nonces, keys and tokens, and
    // without `Referer`, which contains the previous page's query.
    fn drop(&mut self) {
        let Head { method, path, user_agent, version } = &*self.head;
        let user_agent = user_agent.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()));
        info!(
            target: ACCESS,
            %method,
            path,
            status = self.status,
            bytes = self.sent,
            complete = self.is_complete,
            duration_ms = milliseconds(self.begun.elapsed()),
            upstream_ms = self.upstream.map(milliseconds),
            client = %self.client,
            request_id = %self.id,
            protocol = ?version,
            user_agent = user_agent.as_deref(),
            "request"
        );
    }
}

/// In milliseconds, rounded to the microsecond.
pub fn milliseconds(duration: Duration) -> f64 {
    u32::try_from(duration.as_micros()).map_or(f64::INFINITY, |micros| f64::from(micros) / 1000.0)
}
