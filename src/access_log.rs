//! The line of the log about one forwarded request, written when its response has ended.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Request, Version, header};
use tracing::info;

use crate::request_id::RequestId;

/// The target of the one line per forwarded request.
pub const ACCESS: &str = "wp_jwt_sidecar::access";

/// The target of the one line per refresh: a module of its own in `log.level`, which no limit on repeats applies to.
pub const REFRESHES: &str = "wp_jwt_sidecar::refreshes";

/// A request that has been answered and whose response is on its way. Dropped, it writes its line.
#[derive(Debug)]
pub struct Access {
    /// What the line says of the request's head.
    pub head: Box<Head>,
    pub client: IpAddr,
    pub id: RequestId,
    pub status: u16,
    /// When the head of the request had arrived.
    pub begun: Instant,
    /// How long the upstream took to its response's head.
    pub upstream: Option<Duration>,
    /// Bytes of the response's body that were given to the client's connection, without framing.
    pub sent: u64,
    pub is_complete: bool,
}

/// The part of a request's head that the line names.
#[derive(Debug)]
pub struct Head {
    method: Method,
    path: String,
    user_agent: Option<HeaderValue>,
    version: Version,
}

impl Head {
    /// Of `request`, whose target has this `path`.
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
    // SECURITY: without the query, where WordPress and its plugins put nonces, keys and tokens; and without `Referer`, which
    // holds the query of the page before.
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

/// To the microsecond.
pub fn milliseconds(duration: Duration) -> f64 {
    u32::try_from(duration.as_micros()).map_or(f64::INFINITY, |micros| f64::from(micros) / 1000.0)
}
