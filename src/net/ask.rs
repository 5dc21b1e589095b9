//! What the sidecar itself asks of the site: one request on a connection of its own.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::dial::DialError;
use super::stream::UpstreamStream;
use crate::client_addr::{Scheme, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};

/// A response, and when it came.
pub struct Asked {
    pub response: Response<Bytes>,
    /// Before the request was sent.
    pub sent: Instant,
    /// After the head of the response was read.
    pub received: Instant,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The other side broke off, or does not speak HTTP.
    #[error("the response was not valid HTTP, or the connection closed early")]
    Http(#[from] hyper::Error),
    /// It broke off or is far too large.
    #[error("the body of the response broke off or is too large")]
    Body,
}

/// Sends `request` on the connection that `dial` makes. A body of the response that is longer than `max_body` is an
/// error. Callers limit the time.
///
/// # Errors
/// See [`AskError`].
pub async fn ask(
    dial: impl Future<Output = Result<UpstreamStream, DialError>>,
    request: Request<Bytes>,
    max_body: usize,
) -> Result<Asked, AskError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(dial.await?)).await?;
    let exchange = async {
        let sent = Instant::now();
        let response = sender.send_request(request.map(Full::new)).await?;
        let received = Instant::now();
        let (head, body) = response.into_parts();
        let body = Limited::new(body, max_body).collect().await.map_err(|_| AskError::Body)?.to_bytes();
        Ok(Asked { response: Response::from_parts(head, body), sent, received })
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        asked = &mut exchange => asked,
        // The other side may close as soon as it has answered.
        _ = connection => exchange.await,
    }
}

/// A request to `target` with the fields that the sidecar would send for a client that reaches `host` by `scheme`, and
/// whose `X-Forwarded-For` is `client`.
///
/// # Errors
/// Where the host is not valid in a field.
pub fn request(scheme: Scheme, host: &str, target: &str, client: &str) -> Result<http::request::Builder, http::Error> {
    let host = HeaderValue::from_str(host)?;
    Ok(Request::builder()
        .uri(target)
        .header(header::HOST, host.clone())
        .header(X_FORWARDED_FOR, client)
        .header(X_FORWARDED_PROTO, scheme.name())
        .header(X_FORWARDED_HOST, host))
}
