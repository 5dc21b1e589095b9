//! HTTP/2 with clients, only over TLS. A client's requests are converted to what HTTP/1.1 would
//! have carried, and are then handled like all others.
//!
//! hyper itself refuses malformed fields (`Connection` and the like, upper case) and extended
//! CONNECT. HTTP/2 without TLS (h2c) and server push are not supported: no browser has either.

mod gathered;
mod queue;
mod stream;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::Downstream;
use crate::body::RequestBody;
use crate::config::Config;
use crate::exchange::context::Limits;
use crate::{exchange, vet};
use gathered::Gathered;
use queue::{Queue, upload_limit};
use stream::Answer;
pub use stream::Streams;

/// Streams per connection; RFC 9113, 6.5.2, recommends at least 100, and nginx has 128. `[server]
/// max_exchanges_per_connection` limits how many of their requests are in flight at once.
const MAX_CONCURRENT_STREAMS: u32 = 128;

/// How many bytes of its uploads a client may send before they are read, per stream and in all (RFC
/// 9113, 6.9.2). hyper's own value.
const RECEIVE_WINDOW: u32 = 1024 * 1024;

/// How many bytes of a response are kept per stream for a client that does not read. hyper's own
/// 400 KiB add up to 50 MiB per connection that reads nothing; bytes in transit are in the socket.
/// It slows a single stream of 300 MB a second by a tenth.
const MAX_SEND_BUFFER: usize = 64 * 1024;

/// A client whose network has failed sends nothing, not even a close. Browsers answer a ping at
/// once.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// After GOAWAY a client may still send what it has begun (RFC 9113, 6.8): a second is several
/// round trips.
const GOODBYE: Duration = Duration::from_secs(1);

/// Configures the server of a connection. The limits against floods are hyper's and h2's own: of
/// resets by either side, of CONTINUATION and of small DATA frames; PING and SETTINGS are answered
/// one at a time, before more is read.
pub fn server(config: &Config) -> http2::Builder<Streams> {
    // hyper's own 16 KiB would answer a few large cookies with 431 (hyper#3686).
    let max_header_list_size = u32::try_from(config.server.max_header_bytes).unwrap_or(u32::MAX);
    let mut http = http2::Builder::new(Streams { pace: config.server.response_pace() });
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_header_list_size(max_header_list_size)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .initial_stream_window_size(RECEIVE_WINDOW)
        .initial_connection_window_size(RECEIVE_WINDOW)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        // The upstream's responses are passed on unchanged; respond.rs adds the date to the
        // sidecar's own.
        .auto_date_header(false);
    http
}

/// Serves one connection to its end.
///
/// # Errors
/// hyper's. It affects this connection only.
pub async fn serve<I>(io: I, downstream: Rc<Downstream>) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let context = &downstream.context;
    let activity = Rc::new(Activity::new(context.config.server.max_requests_per_connection));
    let latest = RefCell::new(Rc::clone(&downstream));
    // The connection of a proxy in front carries the requests of many clients.
    let queue = Rc::new(Queue::new(if downstream.peer_is_proxy {
        0
    } else {
        context.config.server.max_exchanges_per_connection
    }));
    let service = service_fn(|mut request| {
        let (downstream, in_flight) = (latest_of(&latest), InFlight::new(&activity));
        let queue = Rc::clone(&queue);
        async move {
            as_http1(&mut request);
            let (peer, request) = (downstream.peer, request.map(RequestBody::http2));
            let limit = upload_limit(downstream.context.config.server.request_pace().silence);
            let (answer, place) = match queue.place(&request, limit).await {
                Ok(place) => (exchange::answer(&downstream, request, None).await, place),
                Err(error) => (exchange::refuse(&downstream, &request, &error.into()), None),
            };
            Ok::<_, Infallible>(answer.map(|body| Answer::new(body, in_flight, place, peer)))
        }
    });
    let io = Gathered::new(io);
    let mut connection = pin!(server(&context.config).serve_connection(TokioIo::new(io.clone()), service));
    tokio::select! {
        ended = turns(connection.as_mut(), &io) => return ended,
        () = context.draining.cancelled() => {}
        () = activity.idle(&context.limits) => debug!(peer = %downstream.peer, "closing an idle HTTP/2 connection"),
        () = activity.enough.notified() => debug!(peer = %downstream.peer, "closing an HTTP/2 connection that served max_requests_per_connection"),
    }
    connection.as_mut().graceful_shutdown();
    activity.touch();
    tokio::select! {
        ended = turns(connection.as_mut(), &io) => ended,
        // A client that does not respond to GOAWAY, or has not even begun to send.
        () = activity.quiet_for(GOODBYE) => Ok(()),
    }
}

/// Runs `connection`, and after each turn writes its output for the client.
async fn turns<C, I>(mut connection: Pin<&mut C>, io: &Gathered<I>) -> C::Output
where
    C: Future,
    I: AsyncWrite + Unpin,
{
    poll_fn(|cx| {
        let ended = connection.as_mut().poll(cx);
        io.write_out(cx);
        ended
    })
    .await
}

/// The connection under the settings in effect.
fn latest_of(latest: &RefCell<Rc<Downstream>>) -> Rc<Downstream> {
    let mut latest = latest.borrow_mut();
    if let Some(changed) = latest.changed() {
        *latest = changed;
    }
    Rc::clone(&latest)
}

/// Converts a request to the form of HTTP/1.1: a `Host`, one `Cookie` line, a target without scheme
/// and authority.
///
/// If `Host` and `:authority` differ, the target stays unchanged, so that `vet` refuses it.
fn as_http1<B>(request: &mut Request<B>) {
    join_cookies(request.headers_mut());
    if request.method() == Method::CONNECT {
        return;
    }
    let Some(authority) = request.uri().authority() else { return };
    let authority = HeaderValue::from_str(authority.as_str());
    let agrees = match (&authority, request.headers().get(header::HOST)) {
        (Ok(authority), Some(host)) => authority
            .to_str()
            .is_ok_and(|authority| vet::is_same_host(request.uri().scheme(), authority, host.as_bytes())),
        (_, None) => true,
        (Err(_), Some(_)) => false,
    };
    if !agrees {
        return;
    }
    if let (Ok(authority), false) = (authority, request.headers().contains_key(header::HOST)) {
        request.headers_mut().insert(header::HOST, authority);
    }
    let target = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(target);
}

/// HTTP/2 clients send each cookie as a field of its own, for better compression; in HTTP/1.1 there
/// must be one line (RFC 9113, 8.2.3). PHP would see only one of them, and users would be logged
/// out.
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for line in std::iter::once(second).chain(lines) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(line.as_bytes());
    }
    // Bytes of valid fields are valid in a field.
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Tracks whether a connection is in use.
struct Activity {
    begun: Cell<usize>,
    in_flight: Cell<usize>,
    last: Cell<Instant>,
    most: usize,
    /// Notified when `most` requests have begun.
    enough: Notify,
}

impl Activity {
    /// Zero is unlimited.
    fn new(most: usize) -> Self {
        let (begun, in_flight, last) = (Cell::new(0), Cell::new(0), Cell::new(Instant::now()));
        Activity { begun, in_flight, last, most, enough: Notify::new() }
    }

    fn touch(&self) {
        self.last.set(Instant::now());
    }

    /// Waits until the connection has been idle for too long. Pings do not count as activity.
    async fn idle(&self, limits: &Limits) {
        self.quiet_for(limits.request_header).await;
        if self.begun.get() > 0 {
            self.quiet_for(limits.keepalive_idle).await;
        }
    }

    /// Waits until nothing has been in flight for `limit`.
    async fn quiet_for(&self, limit: Duration) {
        loop {
            let now = Instant::now();
            let quiet_since = if self.in_flight.get() == 0 { self.last.get() } else { now };
            if quiet_since + limit <= now {
                return;
            }
            sleep_until(quiet_since + limit).await;
        }
    }
}

/// An exchange, until its response was sent completely.
struct InFlight(Rc<Activity>);

impl InFlight {
    fn new(activity: &Rc<Activity>) -> Self {
        activity.begun.set(activity.begun.get() + 1);
        if activity.begun.get() == activity.most {
            activity.enough.notify_one();
        }
        activity.in_flight.set(activity.in_flight.get() + 1);
        InFlight(Rc::clone(activity))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get().saturating_sub(1));
        self.0.touch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vet::{Refusal, vet};

    fn adapted(uri: &str, fields: &[(&str, &[u8])]) -> Request<()> {
        let mut request = Request::builder().version(http::Version::HTTP_2).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        as_http1(&mut request);
        request
    }

    #[test]
    fn the_authority_becomes_the_host() {
        let request = adapted("https://Shop.example:8443/a?b", &[]);
        assert_eq!(request.headers().get("host").unwrap(), "Shop.example:8443");
        assert_eq!(request.uri().to_string(), "/a?b");
        assert_eq!(vet(&request), Ok(()));
        let request = adapted("https://shop.example/", &[("host", b"SHOP.example")]);
        assert_eq!((request.uri().to_string().as_str(), vet(&request)), ("/", Ok(())));
        let request = adapted("https://shop.example/", &[("host", b"shop.example:443")]);
        assert_eq!((request.uri().to_string().as_str(), vet(&request)), ("/", Ok(())));
    }

    #[test]
    fn what_has_no_one_host_is_refused() {
        let other = adapted("https://shop.example/", &[("host", b"other.example")]);
        assert_eq!(vet(&other), Err(Refusal::TargetHostMismatch));
        let twice = adapted("https://shop.example/", &[("host", b"shop.example"), ("host", b"shop.example")]);
        assert_eq!(vet(&twice), Err(Refusal::SeveralHosts));
        assert_eq!(vet(&adapted("https://u@shop.example/", &[])), Err(Refusal::InvalidHost));
        assert_eq!(vet(&adapted("/", &[])), Err(Refusal::MissingHost));
    }

    #[test]
    fn cookies_are_joined_in_their_place() {
        let request =
            adapted("/", &[("a", b"1"), ("cookie", b"a=1"), ("b", b"2"), ("cookie", b"\xe9=2; c"), ("cookie", b"d")]);
        let fields: Vec<(&str, &[u8])> =
            request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("a", &b"1"[..]), ("cookie", b"a=1; \xe9=2; c; d"), ("b", b"2")]);
    }
}
