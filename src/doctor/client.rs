//! Requests of the doctor's own, each on a connection of its own and within a time limit.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::client_addr::{Scheme, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};
use crate::net::dial::{DialError, Dialer};
use crate::net::stream::UpstreamStream;
use crate::route::{Permalinks, RouteForms};
use crate::wordpress::site::Site;

/// WordPress has this long for an answer.
pub const LIMIT: Duration = Duration::from_secs(8);

/// The answers that are asked for are a few kilobytes; of a page in their place no more is read.
const MAX_ANSWER: usize = 1024 * 1024;

/// By which WordPress's own records show who that was.
pub const USER_AGENT: &str = concat!("wp-jwt-sidecar/", env!("CARGO_PKG_VERSION"), " doctor");

/// An answer, and when it came.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// By this machine's clock, before the request was sent.
    pub sent: SystemTime,
    /// After the answer's head was there.
    pub received: SystemTime,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing came.
    #[error("there was no answer within {0:?}")]
    TimedOut(Duration),
    /// No connection.
    #[error("{}{}", .0, source(.0))]
    Dial(#[from] DialError),
    /// The other side broke off, or does not speak HTTP.
    #[error("the answer is none of HTTP, or broke off: {0}")]
    Http(#[from] hyper::Error),
    /// A request that cannot be one: the home URL's host is not valid.
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    /// The sidecar itself could not answer.
    #[error("the sidecar could not answer: {0}")]
    Native(String),
    /// It broke off or is far too large.
    #[error("the body of the answer broke off or is too large")]
    Body,
}

fn source(error: &DialError) -> String {
    std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default()
}

/// Where the site is, as a client sees it.
pub struct SiteAddress {
    /// Its scheme.
    pub scheme: Scheme,
    /// Its host, with its port if that is not the scheme's own.
    pub host: String,
    /// The home path, and which spellings of the REST root exist.
    pub forms: RouteForms,
}

impl SiteAddress {
    /// Of `site`; `None` where its home URL is none.
    pub fn of(site: &Site) -> Option<Self> {
        let url = url::Url::parse(site.stored_home()).ok()?;
        let scheme = if url.scheme() == "https" { Scheme::Https } else { Scheme::Http };
        let host = match (url.host_str()?, url.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        Some(SiteAddress { scheme, host, forms: site.forms.clone() })
    }

    /// The target of `route`, which begins with a slash, within the REST API.
    pub fn rest(&self, route: &str) -> String {
        let path = &self.forms.home_path;
        match self.forms.permalinks {
            Permalinks::Pretty => format!("{path}/wp-json{route}"),
            Permalinks::PathInfo => format!("{path}/index.php/wp-json{route}"),
            Permalinks::Plain => format!("{path}/?rest_route={route}"),
        }
    }

    /// A request to `target` with the fields that the sidecar would send for a client whose `X-Forwarded-For` is `client`.
    ///
    /// # Errors
    /// Where the host is none that can stand in a field.
    pub fn request(&self, target: &str, client: &str) -> Result<http::request::Builder, http::Error> {
        let host = HeaderValue::from_str(&self.host)?;
        let proto = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        Ok(Request::builder()
            .uri(target)
            .header(header::HOST, host.clone())
            .header(X_FORWARDED_FOR, client)
            .header(X_FORWARDED_PROTO, proto)
            .header(X_FORWARDED_HOST, host))
    }
}

/// Sends `request` to the upstream, for `client` where the upstream is told of clients when a connection begins.
///
/// # Errors
/// See [`ClientError`].
pub async fn ask(
    dialer: &Dialer,
    client: Option<IpAddr>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, ClientError> {
    let exchange = async {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let stream = dialer.dial_home(client, host).await?;
        exchange(stream, request).await
    };
    timeout(LIMIT, exchange).await.unwrap_or(Err(ClientError::TimedOut(LIMIT)))
}

async fn exchange(stream: UpstreamStream, request: Request<Full<Bytes>>) -> Result<Answer, ClientError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let talk = async {
        let sent = SystemTime::now();
        let answer = sender.send_request(request).await?;
        let received = SystemTime::now();
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|_| ClientError::Body)?.to_bytes();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, sent, received })
    };
    let mut talk = std::pin::pin!(talk);
    tokio::select! {
        answer = &mut talk => answer,
        // The other side may close as soon as it has answered.
        _ = connection => talk.await,
    }
}
