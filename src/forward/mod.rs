//! The forwarding path, top to bottom: make the request fit for the next hop, send it by a connection of the pool,
//! make the answer fit for the client.

pub mod hop_by_hop;
pub mod request;
pub mod response;
pub mod upstream;

use std::rc::Rc;

use http::{Request, Response};

use crate::body::{RequestBody, ResponseBody};
use crate::client_addr::Client;
use crate::error::ExchangeError;
use upstream::Upstream;

/// Sends `request` to the upstream and returns its answer as soon as its head is there; the body follows as it arrives.
///
/// # Errors
/// When there is no answer to pass on: the client's or the upstream's fault, see [`ExchangeError`].
pub async fn forward(
    upstream: &Rc<Upstream>,
    mut request: Request<RequestBody>,
    client: &Client,
) -> Result<Response<ResponseBody>, ExchangeError> {
    request::prepare(&mut request, client, upstream.authority());
    let (answer, lease) = upstream.send(request).await?;
    response::prepare(answer, lease)
}
