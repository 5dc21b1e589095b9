//! The forwarding path from top to bottom: make the request fit for the next hop, send it on a
//! pooled connection, make the response fit for the client.

pub mod early;
pub mod error;
pub mod peeked;
pub mod relay;
pub mod request;
pub mod response;
pub mod response_body;
pub mod tunnel;
pub mod upgrade;
pub mod upstream;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Response, StatusCode, header};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::body::RequestBody;
use crate::client_addr::{Client, Peer};
use crate::config::{Config, EarlyBodies, ForwardedMode, RequestIdMode};
use crate::http1::inbound::SharedInbound;
use crate::metrics::Shard;
use crate::request_id::RequestId;
use error::ForwardError;
use request::Own;
use response_body::ResponseBody;
use upgrade::Upgrade;
use upstream::Upstream;

/// How much of a request's body is read before a connection to the upstream is taken: a slow
/// client, by nature or by intent, must not hold one of the upstream's workers meanwhile (Apache's
/// prefork has 150). Logins, comments and API calls fit, so an invalid one is answered before the
/// upstream has seen anything, whether or not its length is announced. Of a larger upload it is
/// what a few reads bring.
const UPLOAD_START: usize = 64 << 10;

/// A response of the upstream.
pub struct Forwarded {
    pub answer: Response<ResponseBody>,
    /// When the request was sent, on an established connection.
    pub sent: Instant,
}

/// How one worker forwards, under one version of the settings.
pub struct Forwarder {
    pub upstream: Rc<Upstream>,
    pub tunnels: TaskTracker,
    /// `[forwarded] mode`.
    mode: ForwardedMode,
    /// Whether the upstream gets the request's id.
    sets_request_id: bool,
    /// `[server] tunnel_idle`.
    tunnel_idle: Duration,
    /// `[upstream] early_bodies`.
    early_bodies: EarlyBodies,
    metrics: Arc<Shard>,
}

/// Between which parties a request passes, and under which id.
pub struct Hop<'a> {
    pub client: &'a Client,
    /// The peer: the client, or the proxy in front.
    pub peer: Peer,
    /// The peer's address as a value, made once for each connection.
    pub peer_field: &'a HeaderValue,
    pub id: &'a RequestId,
    /// Where interim responses (1xx) go; `None` if the client gets none.
    pub announced: Option<&'a SharedInbound>,
    /// Free permits for bodies that are sent at once; `None` if unlimited.
    pub early_bodies: Option<&'a Arc<Semaphore>>,
}

impl Forwarder {
    pub fn new(config: &Config, upstream: Rc<Upstream>, tunnels: TaskTracker, metrics: Arc<Shard>) -> Self {
        let mode = config.forwarded.mode;
        // `mode = "preserve"` keeps the head as it came: nothing is added.
        let sets_request_id = config.forwarded.request_id == RequestIdMode::Auto && mode == ForwardedMode::Auto;
        let tunnel_idle = config.server.tunnel_idle;
        let early_bodies = config.upstream.early_bodies;
        Forwarder { upstream, tunnels, mode, sets_request_id, tunnel_idle, early_bodies, metrics }
    }

    /// Sends `request` to the upstream and returns its response as soon as the head has arrived;
    /// the body follows. `home` is the host of the site's home URL, if known.
    ///
    /// # Errors
    /// When there is no response to pass on: the client's or the upstream's fault, see
    /// [`ForwardError`].
    pub async fn forward(
        &self,
        mut request: Request<RequestBody>,
        hop: &Hop<'_>,
        home: impl FnOnce() -> Option<String>,
    ) -> Result<Forwarded, ForwardError> {
        let begin = early::begin(&request, self.early_bodies, hop.early_bodies);
        let upgrade = Upgrade::asked_for(&request);
        let own = Own { authority: self.upstream.authority(), mode: self.mode, sets_request_id: self.sets_request_id };
        let mut added = request::prepare(&mut request, hop, &own, upgrade.as_ref());
        if let Some(event) = begin.event() {
            self.metrics.add(event);
        }
        if begin.reads_start() && matches!(request.body(), RequestBody::Streamed(_)) {
            request.body_mut().peek(UPLOAD_START).await?;
        }
        added.body_was_read(&request);
        let dialer = self.upstream.dialer();
        // Most upstreams have one name, and each lookup in the fields costs time.
        let host = dialer.goes_by_hosts().then(|| request.headers().get(header::HOST)).flatten();
        let name = dialer.name_for(host.map(HeaderValue::as_bytes), home);
        let (answer, lease) = self.upstream.send(request, &added, hop, begin, name).await?;
        let sent = lease.link.sent.into_std();
        let answer = match answer.status() {
            StatusCode::SWITCHING_PROTOCOLS => tunnel::open(answer, lease, upgrade, self, hop),
            _ => response::prepare(answer, lease, hop.client.address, hop.id),
        }?;
        Ok(Forwarded { answer, sent })
    }
}
