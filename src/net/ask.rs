//! Requests of the sidecar's own to the site, each on a new connection.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::dial::DialError;
use super::stream::UpstreamStream;
use crate::client_addr::{Scheme, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};

/// A response, and its times.
pub struct Asked {
    pub response: Response<Bytes>,
    /// When the request was sent; read before sending.
    pub sent: Instant,
    /// When the response's head was read; read afterwards.
    pub received: Instant,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Connecting failed.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The other side closed the connection early, or does not speak HTTP.
    #[error("the response was not valid HTTP, or the connection closed early")]
    Http(#[from] hyper::Error),
    /// The body ended early or is far too large.
    #[error("the body of the response broke off or is too large")]
    Body,
}

/// Sends `request` on the connection that `dial` makes. A response body longer than `max_body` is
/// an error. Callers limit the time.
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
        // The other side may close as soon as it has responded.
        _ = connection => exchange.await,
    }
}

/// A request to `target` with the fields that the sidecar would send for a client that reaches
/// `host` by `scheme`, and whose `X-Forwarded-For` is `client`.
///
/// # Errors
/// The host is not valid in a field.
pub fn request(scheme: Scheme, host: &str, target: &str, client: &str) -> Result<http::request::Builder, http::Error> {
    let host = HeaderValue::from_str(host)?;
    Ok(Request::builder()
        .uri(target)
        .header(header::HOST, host.clone())
        .header(X_FORWARDED_FOR, client)
        .header(X_FORWARDED_PROTO, scheme.name())
        .header(X_FORWARDED_HOST, host))
}
