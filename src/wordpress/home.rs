//! The home URL as WordPress itself computes it.
//!
//! The plugin refuses a token whose `iss` is not exactly WordPress's home URL, and a site's own code can filter that. So
//! WordPress is asked: `GET {home}/wp-json/?_fields=home,namespaces`, sent to the upstream as a client's request would
//! arrive there. Until it has answered, refreshes are forwarded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use moka::sync::Cache;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tracing::debug;

use crate::client_addr::{Scheme, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};
use crate::forward::dial::{DialError, Dialer};
use crate::route::{Permalinks, RouteForms};

/// An answer older than this is asked for again, in the background.
const FRESH: Duration = Duration::from_secs(60);

/// After no answer, the next question waits this long: a site in trouble is not to be asked with every refresh.
const RETRY: Duration = Duration::from_secs(1);

/// WordPress has this long to answer; it is never waited for by a client.
const LIMIT: Duration = Duration::from_secs(10);

/// The answer is a few hundred bytes; a page of HTML in its place is no answer.
const MAX_ANSWER: usize = 256 * 1024;

/// What is asked: changes when the site does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// The home URL as far as options and constants tell, without a trailing slash.
    pub stored_home: String,
    /// How the client reached the site.
    pub scheme: Scheme,
    /// Which spellings of the REST root exist.
    pub forms: RouteForms,
    /// The active plugin's file: switching it changes the answer's namespaces.
    pub plugin: String,
}

/// What WordPress says.
#[derive(Debug, PartialEq, Eq)]
pub struct Home {
    /// The home URL, exactly as it is compared with `iss`.
    pub url: String,
    /// Whether the plugin's routes are registered.
    pub route_registered: bool,
    /// The value of the `Link` field, which names the REST root. `None` would take a control character in the URL, which no
    /// client could reach.
    pub api_link: Option<HeaderValue>,
}

impl Home {
    /// At `url`, of a site with such permalinks.
    pub fn new(url: String, route_registered: bool, permalinks: Permalinks) -> Self {
        let path = match permalinks {
            Permalinks::Pretty => "/wp-json/",
            Permalinks::PathInfo => "/index.php/wp-json/",
            Permalinks::Plain => "/index.php?rest_route=/",
        };
        let api_link = HeaderValue::try_from(format!("<{url}{path}>; rel=\"https://api.w.org/\"")).ok();
        Home { url, route_registered, api_link }
    }
}

/// Asks, and remembers.
pub struct Homes {
    upstream: Dialer,
    tasks: Handle,
    answers: Cache<Question, Arc<Answer>>,
}

struct Answer {
    home: Option<Arc<Home>>,
    at: Option<Instant>,
    being_renewed: AtomicBool,
}

/// Why there is no answer yet.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nothing came.
    #[error("no answer within {LIMIT:?}")]
    TimedOut,
    /// The upstream cannot be reached.
    #[error(transparent)]
    Connect(#[from] DialError),
    /// The upstream broke off, or does not speak HTTP.
    #[error("the connection failed")]
    Http(#[from] hyper::Error),
    /// The home URL names a host that cannot be one.
    #[error("the request cannot be built")]
    Request(#[from] http::Error),
    /// Something else than an answer of the REST API.
    #[error("status {0}")]
    Status(u16),
    /// It broke off or is far too large.
    #[error("the body cannot be read")]
    Body,
    /// A page, or another JSON.
    #[error("the body is not the expected JSON")]
    Json(#[from] serde_json::Error),
    /// The option `home` is not understood.
    #[error("{0} is no URL")]
    Url(String),
}

impl Homes {
    /// Asks nobody yet. Questions are asked in the runtime of `tasks`.
    pub fn new(upstream: Dialer, tasks: Handle) -> Arc<Self> {
        // Two schemes of one site; a few more while the site is being changed.
        Arc::new(Homes { upstream, tasks, answers: Cache::new(16) })
    }

    /// The last answer to `question`; `None` until there is one. Asks (again) in the background when it is time.
    pub fn known(self: &Arc<Self>, question: &Question) -> Option<Arc<Home>> {
        let answer = self.answers.get_with_by_ref(question, || Arc::new(Answer::unknown()));
        if answer.is_due() && !answer.being_renewed.swap(true, Ordering::AcqRel) {
            let (homes, question, last) = (Arc::clone(self), question.clone(), answer.home.clone());
            self.tasks.spawn(async move { homes.renew(&question, last).await });
        }
        answer.home.clone()
    }

    /// As [`Homes::known`], but where there is no answer yet, asks and waits for it.
    pub async fn ask(self: &Arc<Self>, question: &Question) -> Option<Arc<Home>> {
        if self.answers.get(question).is_some_and(|answer| answer.home.is_some()) {
            return self.known(question);
        }
        self.renew(question, None).await
    }

    /// The last answer to `question`, if there is one. Asks nobody.
    pub fn last(&self, question: &Question) -> Option<Arc<Home>> {
        self.answers.get(question).and_then(|answer| answer.home.clone())
    }

    async fn renew(&self, question: &Question, last: Option<Arc<Home>>) -> Option<Arc<Home>> {
        let home = match ask(&self.upstream, question).await {
            Ok(home) => Some(Arc::new(home)),
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                debug!(%error, source, home = question.stored_home, "WordPress did not say its home URL");
                // An upstream that is away for a while does not change the home URL.
                last
            }
        };
        let answer = Answer { home: home.clone(), at: Some(Instant::now()), being_renewed: AtomicBool::new(false) };
        self.answers.insert(question.clone(), Arc::new(answer));
        home
    }
}

impl Answer {
    fn unknown() -> Self {
        Answer { home: None, at: None, being_renewed: AtomicBool::new(false) }
    }

    fn is_due(&self) -> bool {
        let wait = if self.home.is_some() { FRESH } else { RETRY };
        self.at.is_none_or(|at| at.elapsed() > wait)
    }
}

/// Asks WordPress, on a connection of its own.
///
/// # Errors
/// See [`AskError`].
pub async fn ask(upstream: &Dialer, question: &Question) -> Result<Home, AskError> {
    timeout(LIMIT, ask_patiently(upstream, question)).await.unwrap_or(Err(AskError::TimedOut))
}

async fn ask_patiently(upstream: &Dialer, question: &Question) -> Result<Home, AskError> {
    let home = url::Url::parse(&question.stored_home).map_err(|_| AskError::Url(question.stored_home.clone()))?;
    let stream = upstream.dial_home(None, home.host_str()).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let answer = sender.send_request(request(&home, question)?).await?;
    if !answer.status().is_success() {
        return Err(AskError::Status(answer.status().as_u16()));
    }
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|_| AskError::Body)?;
    let root: RestRoot = serde_json::from_slice(&body.to_bytes())?;
    let route_registered = root.namespaces.iter().any(|namespace| namespace == "jwt-auth/v1");
    Ok(Home::new(root.home, route_registered, question.forms.permalinks))
}

fn request(home: &url::Url, question: &Question) -> Result<Request<Empty<Bytes>>, http::Error> {
    let path = &question.forms.home_path;
    let target = match question.forms.permalinks {
        Permalinks::Pretty => format!("{path}/wp-json/?_fields=home,namespaces"),
        Permalinks::PathInfo => format!("{path}/index.php/wp-json/?_fields=home,namespaces"),
        Permalinks::Plain => format!("{path}/?rest_route=/&_fields=home,namespaces"),
    };
    let host = match (home.host_str(), home.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    };
    let host = HeaderValue::from_str(&host)?;
    let scheme = match question.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    Request::get(target)
        .header(header::HOST, host.clone())
        .header(X_FORWARDED_FOR, "127.0.0.1")
        .header(X_FORWARDED_PROTO, scheme)
        .header(X_FORWARDED_HOST, host)
        .header(header::USER_AGENT, concat!("wp-jwt-sidecar/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::new())
}

#[derive(Deserialize)]
struct RestRoot {
    home: String,
    namespaces: Vec<String>,
}
