//! The doctor's own requests, each on a new connection and with a time limit.

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use tokio::time::timeout;

use crate::client_addr::Scheme;
use crate::finding::in_full;
use crate::net::ask::{self, AskError, Asked};
use crate::net::dial::Dialer;
use crate::route::{Permalinks, RouteForms};
use crate::wordpress::home;
use crate::wordpress::site::Site;

/// How long WordPress may take to answer.
pub const LIMIT: Duration = Duration::from_secs(8);

/// The most bytes of a response that are read. The expected ones are a few kilobytes; a page in
/// their place may be larger.
const MAX_ANSWER: usize = 1024 * 1024;

/// Identifies these requests in WordPress's own records.
pub const USER_AGENT: &str = concat!("wp-jwt-sidecar/", env!("CARGO_PKG_VERSION"), " doctor");

/// A response, and its times.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// By this machine's clock, before the request was sent.
    pub sent: SystemTime,
    /// After the response's head was received.
    pub received: SystemTime,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("there was no answer within {0:?}")]
    TimedOut(Duration),
    /// There is no valid response.
    #[error("{}", in_full(.0))]
    Ask(#[from] AskError),
    /// The request cannot be made: the home URL's host is invalid.
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    /// The sidecar itself could not answer.
    #[error("the sidecar could not answer: {0}")]
    Native(String),
}

/// The site's address, as a client sees it.
pub struct SiteAddress {
    pub scheme: Scheme,
    /// The host, with the port unless it is the scheme's default.
    pub host: String,
    /// The home path and the forms of the REST root.
    pub forms: RouteForms,
}

impl SiteAddress {
    /// The address of `site`; `None` if its home URL is invalid.
    pub fn of(site: &Site) -> Option<Self> {
        let url = url::Url::parse(site.stored_home()).ok()?;
        let scheme = if url.scheme() == "https" { Scheme::Https } else { Scheme::Http };
        Some(SiteAddress { scheme, host: home::host_of(&url)?, forms: site.forms.clone() })
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

    /// See [`ask::request`].
    ///
    /// # Errors
    /// Where the host is not valid in a field.
    pub fn request(&self, target: &str, client: &str) -> Result<http::request::Builder, http::Error> {
        ask::request(self.scheme, &self.host, target, client)
    }
}

/// Sends `request` to the upstream. `client` is introduced to it if connections begin with a PROXY
/// header.
///
/// # Errors
/// See [`ClientError`].
pub async fn ask(dialer: &Dialer, client: Option<IpAddr>, request: Request<Bytes>) -> Result<Answer, ClientError> {
    let host = request.headers().get(header::HOST).cloned();
    let dial = dialer.dial_home(client, host.as_ref().and_then(|host| host.to_str().ok()));
    let asked = timeout(LIMIT, ask::ask(dial, request, MAX_ANSWER)).await;
    let Asked { response, sent, received } = asked.map_err(|_| ClientError::TimedOut(LIMIT))??;
    let (head, body) = response.into_parts();
    let by_the_clock = |moment: Instant| SystemTime::now() - moment.elapsed();
    let (sent, received) = (by_the_clock(sent), by_the_clock(received));
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, sent, received })
}
