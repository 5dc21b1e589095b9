//! The forwarding path, top to bottom: make the request fit for the next hop, send it by a connection of the pool,
//! make the answer fit for the client.

pub mod error;
pub mod relay;
pub mod request;
pub mod response;
pub mod response_body;
pub mod tunnel;
pub mod upgrade;
pub mod upload;
pub mod upstream;

use std::rc::Rc;
use std::time::Instant;

use http::{HeaderValue, Request, Response, StatusCode, header};

use crate::body::RequestBody;
use crate::client_addr::Client;
use crate::connection::Downstream;
use crate::request_id::RequestId;
use error::ForwardError;
use request::Hop;
use response_body::ResponseBody;
use upgrade::Upgrade;

/// An answer of the upstream.
pub struct Forwarded {
    /// What the client gets.
    pub answer: Response<ResponseBody>,
    /// When the request went out, by a connection that was there.
    pub sent: Instant,
}

/// Sends `request` to the upstream and returns its answer as soon as its head is there; the body follows as it arrives.
///
/// # Errors
/// When there is no answer to pass on: the client's or the upstream's fault, see [`ForwardError`].
pub async fn forward(
    downstream: &Rc<Downstream>,
    mut request: Request<RequestBody>,
    client: &Client,
    id: &RequestId,
) -> Result<Forwarded, ForwardError> {
    let worker = &downstream.worker;
    let upgrade = Upgrade::asked_for(&request);
    let authority = worker.upstream.authority();
    let told = worker.sets_request_id.then_some(id);
    let hop = Hop { client, peer: &downstream.peer_field, authority, mode: worker.config.forwarded.mode, id: told };
    let mut added = request::prepare(&mut request, &hop, upgrade.as_ref());
    upload::read_start(&mut request).await?;
    added.body_was_read(&request);
    let dialer = worker.upstream.dialer();
    // Most go by one name, and each look into the fields costs.
    let host = dialer.goes_by_hosts().then(|| request.headers().get(header::HOST)).flatten();
    let home = || worker.refresher().and_then(|refresher| refresher.sites.home_host());
    let name = dialer.name_for(host.map(HeaderValue::as_bytes), home);
    let (answer, lease) = worker.upstream.send(request, &added, client.address, name).await?;
    let sent = lease.sent_at().into_std();
    let answer = match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => tunnel::open(answer, lease, upgrade, downstream, id),
        _ => response::prepare(answer, lease, client.address, id),
    }?;
    Ok(Forwarded { answer, sent })
}
