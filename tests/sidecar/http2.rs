//! HTTP/2 with clients: the upstream gets what HTTP/1.1 would have carried, and the client gets the
//! upstream's response; floods, silence and a drain end in order.

mod budget;
mod limits;
mod raw;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::support::mariadb::Database;
use crate::support::raw::Upstream;
use crate::support::rig::{HOME, ROUTE, Rig, eventually};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::tls::{Authority, tls_address};
use raw::{ENHANCE_YOUR_CALM, RawHttp2};

/// A sidecar with TLS, and its surroundings.
struct Front {
    sidecar: Sidecar,
    address: SocketAddr,
    authority: Authority,
}

impl Front {
    fn of(upstream: &Upstream, more: &[&str]) -> Front {
        let authority = Authority::new();
        let pair = authority.issue("shop", &["shop.example"]).argument();
        let mut arguments = vec!["--tls-listen", "127.0.0.1:0", "--tls-certificates", &pair];
        arguments.extend_from_slice(more);
        let sidecar = Sidecar::forwarding_with(upstream.address(), &arguments);
        let address = tls_address(&sidecar);
        Front { sidecar, address, authority }
    }

    async fn client<B>(&self) -> Client<B>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        client(self.address, &self.authority).await
    }

    fn raw(&self) -> RawHttp2 {
        RawHttp2::to(self.address, &self.authority)
    }
}

pub struct Client<B> {
    sender: SendRequest<B>,
    ended: tokio::task::JoinHandle<hyper::Result<()>>,
}

pub async fn client<B>(address: SocketAddr, authority: &Authority) -> Client<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connector = TlsConnector::from(Arc::new(authority.client(&["h2", "http/1.1"])));
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = connector.connect(ServerName::try_from("shop.example").unwrap(), stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    Client { sender, ended: tokio::spawn(connection) }
}

impl<B> Client<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub async fn send(&mut self, request: Request<B>) -> Response<Incoming> {
        timeout(PATIENCE, self.sender.send_request(request)).await.expect("in time").expect("an answer")
    }
}

fn get(target: &str) -> http::request::Builder {
    Request::get(format!("https://shop.example{target}"))
}

fn empty(request: http::request::Builder) -> Request<Empty<Bytes>> {
    request.body(Empty::new()).unwrap()
}

#[tokio::test]
async fn a_request_arrives_as_http_1_1_would_have_brought_it() {
    let upstream = Upstream::ok();
    let front = Front::of(&upstream, &[]);
    let mut client = front.client().await;
    let request = get("//a/%2f?x=%zz&&")
        .header("user-agent", "test")
        .header("cookie", "a=1")
        .header("x-last", "\u{e9}")
        .header("cookie", "b=2; c=3")
        .header("te", "trailers");
    assert_eq!(client.send(empty(request)).await.status(), StatusCode::OK);
    let request = upstream.request();
    assert_eq!(request.start_line(), "GET //a/%2f?x=%zz&& HTTP/1.1");
    let id = request.value("x-request-id").unwrap();
    let mut fields = request.fields();
    fields.sort();
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        fields,
        [
            ("Cookie", "a=1; b=2; c=3"),
            ("Host", "shop.example"),
            ("Te", "trailers"),
            ("User-Agent", "test"),
            ("X-Forwarded-For", "127.0.0.1"),
            ("X-Forwarded-Host", "shop.example"),
            ("X-Forwarded-Proto", "https"),
            ("X-Last", "\u{c3}\u{a9}"),
            ("X-Request-Id", id.as_str()),
        ]
    );
}

#[tokio::test]
async fn an_answer_passes_with_nothing_added() {
    let upstream = Upstream::answering(|request| match request.start_line().split(' ').nth(1) {
        Some("/head") => "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n".to_owned(),
        Some("/head-chunked") => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        Some("/none") => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        Some("/same") => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 7\r\n\r\n".to_owned(),
        Some("/chunked") => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
        _ => "HTTP/1.1 299 Fine\r\nSet-Cookie: a=1\r\nX-Odd: \u{e9}\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
              Keep-Alive: timeout=5\r\nUpgrade: h2,h2c\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok"
            .to_owned(),
    });
    let front = Front::of(&upstream, &[]);
    let mut client = front.client().await;
    for (method, target, status, fields, body) in [
        ("GET", "/", 299, &["set-cookie: a=1", "set-cookie: b=2", "x-odd", "content-length: 2"][..], "ok"),
        ("HEAD", "/head", 200, &["content-length: 12345"], ""),
        ("HEAD", "/head-chunked", 200, &[], ""),
        ("GET", "/none", 204, &[], ""),
        ("GET", "/same", 304, &["etag: \"x\"", "content-length: 7"], ""),
        ("GET", "/chunked", 200, &[], "ok"),
    ] {
        let answer = client.send(empty(get(target).method(method))).await;
        assert_eq!((answer.status().as_u16(), answer.version()), (status, Version::HTTP_2), "{target}");
        let mut seen: Vec<String> = answer
            .headers()
            .iter()
            .map(|(name, value)| value.to_str().map_or(name.to_string(), |value| format!("{name}: {value}")))
            .collect();
        seen.sort();
        let mut expected = fields.to_vec();
        expected.sort_unstable();
        assert_eq!(seen, expected, "{method} {target}");
        let collected = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(collected, body.as_bytes(), "{target}");
    }
}

#[tokio::test]
async fn a_host_other_than_the_authority_is_refused() {
    let upstream = Upstream::ok();
    let front = Front::of(&upstream, &[]);
    let mut client = front.client().await;
    let answer = client.send(empty(get("/").header("host", "other.example"))).await;
    assert_eq!(answer.status(), 400);
    assert!(upstream.requests().is_empty());
    // One bad request does not harm the others on the connection.
    assert_eq!(client.send(empty(get("/").header("host", "shop.example"))).await.status(), 200);
    assert_eq!(upstream.request().values("host"), ["shop.example"]);
}

#[tokio::test]
async fn large_cookies_pass_and_larger_ones_are_431() {
    let upstream = Upstream::ok();
    let front = Front::of(&upstream, &[]);
    let mut client = front.client().await;
    let mut request = get("/");
    for i in 0..10 {
        request = request.header("cookie", format!("c{i}={}", "x".repeat(4096)));
    }
    assert_eq!(client.send(empty(request)).await.status(), 200);
    assert!(upstream.request().value("cookie").unwrap().len() > 40_960);
    let mut request = get("/");
    for i in 0..20 {
        request = request.header("cookie", format!("c{i}={}", "x".repeat(4096)));
    }
    assert_eq!(client.send(empty(request)).await.status(), 431);
    assert_eq!(upstream.requests().len(), 1);
}

/// A body that a test supplies frame by frame, without a known length.
struct Fed(tokio::sync::mpsc::UnboundedReceiver<Frame<Bytes>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

#[tokio::test]
async fn a_body_without_a_length_arrives_whole_whatever_the_method() {
    let upstream = Upstream::ok();
    let front = Front::of(&upstream, &[]);
    let mut client = front.client().await;
    for method in ["POST", "GET"] {
        let (feed, body) = tokio::sync::mpsc::unbounded_channel();
        let request = get("/").method(method).body(Fed(body)).unwrap();
        let answer = tokio::spawn(client.sender.send_request(request));
        for piece in ["one", "two", "three"] {
            feed.send(Frame::data(Bytes::from(piece))).unwrap();
        }
        drop(feed);
        assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().unwrap().status(), 200);
    }
    for request in upstream.requests() {
        assert_eq!((request.body.as_slice(), request.complete), (&b"onetwothree"[..], true));
        assert_eq!(request.values("transfer-encoding"), ["chunked"]);
    }
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (head, seen) = mpsc::channel();
    let upstream = Upstream::of_connections(move |mut connection| {
        while let Some(request) = connection.head() {
            head.send(String::from_utf8(request).unwrap()).unwrap();
            let expected = b"5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n";
            assert_eq!(connection.take(expected.len()), expected);
            connection.send("HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTrailer: grpc-status\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nConnection: x-hop\r\nX-Hop: 1\r\ngrpc-status: 0\r\n\r\n");
        }
    });
    let front = Front::of(&upstream, &[]);
    let mut client = front.client().await;
    let trailers: HeaderMap = [("x-sum".parse().unwrap(), "7".parse().unwrap())].into_iter().collect();
    let (feed, body) = tokio::sync::mpsc::unbounded_channel();
    for frame in [Frame::data(Bytes::from("hello")), Frame::trailers(trailers)] {
        assert!(feed.send(frame).is_ok());
    }
    drop(feed);
    let request =
        get("/grpc").method("POST").header("te", "trailers").header("trailer", "x-sum").body(Fed(body)).unwrap();
    let answer = client.send(request).await;
    assert_eq!(answer.status(), 200);
    let collected = answer.into_body().collect().await.unwrap();
    let trailers = collected.trailers().unwrap();
    assert!(trailers.len() == 1 && trailers["grpc-status"] == "0", "{trailers:?}");
    assert_eq!(collected.to_bytes(), "hi");
    let head = seen.recv_timeout(PATIENCE).unwrap();
    assert!(head.contains("\r\nTe: trailers\r\n") && head.contains("\r\nTrailer: x-sum\r\n"), "{head}");
}

#[tokio::test]
async fn a_cut_answer_is_seen_to_be_cut() {
    let upstream = Upstream::with(|connection, _| {
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        false
    });
    let front = Front::of(&upstream, &[]);
    let mut client = front.client().await;
    let answer = client.send(empty(get("/"))).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.into_body().collect().await.is_err());
}

#[tokio::test]
async fn who_cancels_a_stream_cancels_the_upstreams_request() {
    let (gone, seen) = mpsc::channel();
    let upstream = Upstream::with(move |connection, request| {
        if request.start_line().contains("/slow") {
            gone.send(connection.is_closed()).unwrap();
            return false;
        }
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        true
    });
    let front = Front::of(&upstream, &[]);
    let mut client = front.client().await;
    let slow = tokio::spawn(client.sender.send_request(empty(get("/slow"))));
    eventually("the request is there", async || !upstream.requests().is_empty()).await;
    slow.abort();
    let closed = tokio::task::spawn_blocking(move || seen.recv_timeout(PATIENCE)).await.unwrap();
    assert_eq!(closed, Ok(true));
    assert_eq!(client.send(empty(get("/"))).await.status(), 200, "the connection goes on");
}

#[tokio::test]
async fn draining_ends_what_is_in_flight_and_then_the_connection() {
    let (go_on, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::with(move |connection, _| {
        wait.lock().unwrap().recv().unwrap();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        true
    });
    let mut front = Front::of(&upstream, &[]);
    let mut client = front.client().await;
    let idle = front.client::<Empty<Bytes>>().await;
    let mut mute = front.raw();
    let answer = tokio::spawn(client.sender.send_request(empty(get("/"))));
    eventually("the request is there", async || !upstream.requests().is_empty()).await;
    front.sidecar.signal("TERM");
    front.sidecar.wait_for_log("draining");
    timeout(PATIENCE, idle.ended).await.expect("it is closed").unwrap().expect("in order");
    assert!(mute.is_closed(), "who has not begun to speak is not waited for");
    go_on.send(()).unwrap();
    let answer = timeout(PATIENCE, answer).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
    timeout(PATIENCE, client.ended).await.expect("it is closed").unwrap().expect("in order");
    assert_eq!(front.sidecar.wait().code(), Some(0));
}

#[tokio::test]
async fn idle_connections_and_silent_ones_are_closed() {
    let upstream = Upstream::ok();
    let front = Front::of(&upstream, &["--server-request-header-timeout", "300ms", "--server-keepalive-idle", "600ms"]);
    let mut silent = front.raw();
    assert!(silent.is_closed());
    let mut client = front.client().await;
    assert_eq!(client.send(empty(get("/"))).await.status(), 200);
    timeout(PATIENCE, client.ended).await.expect("it is closed").unwrap().expect("in order, with GOAWAY");
}

#[tokio::test]
async fn an_answer_that_takes_its_time_is_not_idle() {
    let (go_on, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::with(move |connection, _| {
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
        wait.lock().unwrap().recv().unwrap();
        connection.send("k");
        true
    });
    let front = Front::of(&upstream, &["--server-request-header-timeout", "100ms", "--server-keepalive-idle", "100ms"]);
    let mut client = front.client().await;
    let answer = client.send(empty(get("/"))).await;
    // Not for synchronisation: the limit must pass several times.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!client.ended.is_finished() && client.sender.is_ready(), "no GOAWAY");
    go_on.send(()).unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
}

#[test]
fn what_http_2_forbids_does_not_reach_the_upstream() {
    let upstream = Upstream::ok();
    let front = Front::of(&upstream, &[]);
    let usual = [(":method", "GET"), (":scheme", "https"), (":authority", "shop.example"), (":path", "/")];
    let connect = [(":method", "CONNECT"), (":authority", "shop.example:443")];
    let extended = [&[(":protocol", "websocket"), (":method", "CONNECT")], &usual[1..]].concat();
    for (what, fields) in [
        ("Connection", [&usual[..], &[("connection", "close")]].concat()),
        ("Transfer-Encoding", [&usual[..], &[("transfer-encoding", "chunked")]].concat()),
        ("Upgrade", [&usual[..], &[("upgrade", "h2c")]].concat()),
        ("TE other than trailers", [&usual[..], &[("te", "gzip")]].concat()),
        ("upper case", [&usual[..], &[("X-A", "1")]].concat()),
        ("a pseudo field behind", [&usual[1..], &[("x-a", "1"), (":method", "GET")]].concat()),
        ("no path", usual[..3].to_vec()),
        ("extended CONNECT", extended),
        ("an empty length", [&usual[..], &[("content-length", "")]].concat()),
        ("a signed length", [&usual[..], &[("content-length", "+0")]].concat()),
        ("a length twice", [&usual[..], &[("content-length", "0"), ("content-length", "0")]].concat()),
    ] {
        let mut client = front.raw();
        client.hello();
        client.request(1, &fields, true);
        assert!(client.is_refused(1), "{what}");
        assert!(upstream.requests().is_empty(), "{what}: {:?}", upstream.requests());
    }
    // With END_STREAM h2 itself notices a wrong length.
    for length in ["9223372036854775808", "9999999999999999999", "18446744073709551616", "5, 5", "0x5"] {
        let post = [&[(":method", "POST")], &usual[1..], &[("content-length", length)]].concat();
        let mut client = front.raw();
        client.hello();
        client.request(1, &post, false);
        assert!(client.is_refused(1), "{length}");
    }
    let mut client = front.raw();
    client.hello();
    client.request(1, &connect, false);
    assert_eq!(client.status(1), 405, "CONNECT");
    let mut client = front.raw();
    client.hello();
    client.request(1, &[(":method", "GET"), (":scheme", "https"), (":path", "/")], true);
    assert_eq!(client.status(1), 400, "neither Host nor authority");
    assert!(upstream.requests().is_empty());
    let mut client = front.raw();
    client.hello();
    client.request(1, &usual, true);
    assert_eq!(client.status(1), 200);
}

#[test]
fn a_body_that_is_not_there_has_a_length_where_one_is_expected() {
    let upstream = Upstream::ok();
    let front = Front::of(&upstream, &[]);
    for (method, length) in
        [("POST", Some("0")), ("PUT", Some("0")), ("PATCH", Some("0")), ("GET", None), ("DELETE", None)]
    {
        let mut client = front.raw();
        client.hello();
        // With a Host beside the authority: the default port does not make it another host.
        let fields = [
            (":method", method),
            (":scheme", "https"),
            (":authority", "shop.example"),
            (":path", "/"),
            ("host", "shop.example:443"),
        ];
        client.request(1, &fields, true);
        assert_eq!(client.status(1), 200, "{method}");
        let request = upstream.requests().pop().unwrap();
        assert_eq!(request.value("content-length").as_deref(), length, "{method}");
        assert!(request.values("transfer-encoding").is_empty(), "{method}");
        assert_eq!(request.value("host").as_deref(), Some("shop.example:443"));
    }
}

/// Things that any client may do are not logged as warnings by default.
#[test]
fn the_crate_h2_is_silent_about_clients_unless_it_is_asked() {
    let upstream = Upstream::ok();
    for (level, is_heard) in [("info", false), ("info,h2=warn", true)] {
        let front = Front::of(&upstream, &["--log-level", level]);
        let mut client = front.raw();
        client.hello();
        // The answer to a ping that was never sent.
        client.frame(raw::PING, 1, 0, &[7; 8]);
        let usual = [(":method", "GET"), (":scheme", "https"), (":authority", "shop.example"), (":path", "/")];
        client.request(1, &usual, true);
        assert_eq!(client.status(1), 200);
        let said = front.sidecar.log().iter().any(|line| line.contains("\"target\":\"h2::"));
        assert_eq!(said, is_heard, "{level}: {:#?}", front.sidecar.log());
    }
}

#[test]
fn floods_of_resets_end_the_connection() {
    let upstream = Upstream::ok();
    let front = Front::of(&upstream, &[]);
    let usual = [(":method", "GET"), (":scheme", "https"), (":authority", "shop.example"), (":path", "/")];
    // CVE-2023-44487: requests that are reset at once.
    let mut client = front.raw();
    client.hello();
    client.flood(|client, stream| {
        client.request(stream, &usual, true);
        client.reset(stream);
    });
    client.ends_with(ENHANCE_YOUR_CALM);
    // CVE-2025-8671: requests that make the server reset them (here a window update of nothing).
    let mut client = front.raw();
    client.hello();
    client.flood(|client, stream| {
        client.request(stream, &usual, false);
        client.frame(8, 0, stream, &[0, 0, 0, 0]);
    });
    client.ends_with(ENHANCE_YOUR_CALM);
    // CVE-2024-27316: an endless head.
    let mut client = front.raw();
    client.hello();
    client.head_without_end(&usual);
    client.ends_with(ENHANCE_YOUR_CALM);
}

#[test]
fn curl_gets_its_answer_by_http_2() {
    let upstream = Upstream::ok();
    let front = Front::of(&upstream, &[]);
    let url = format!("https://shop.example:{}/x", front.address.port());
    let resolve = format!("shop.example:{}:127.0.0.1", front.address.port());
    let output = std::process::Command::new("curl")
        .args(["--silent", "--show-error", "--cacert", &front.authority.file(), "--resolve", &resolve])
        .args(["--cookie", "a=b", "--data-binary", "hello", "--write-out", " %{http_version} %{http_code}", &url])
        .output()
        .expect("curl is there");
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(out, "ok 2 200", "{}", String::from_utf8_lossy(&output.stderr));
    let request = upstream.request();
    assert_eq!((request.start_line().as_str(), request.body.as_slice()), ("POST /x HTTP/1.1", &b"hello"[..]));
    assert_eq!(request.value("content-length").as_deref(), Some("5"));
}

#[tokio::test]
async fn a_refresh_by_http_2_is_native() {
    let authority = Authority::new();
    let pair = authority.issue("shop", &["shop.example"]).argument();
    let tls = [("WP_JWT_SIDECAR_TLS_LISTEN", "127.0.0.1:0"), ("WP_JWT_SIDECAR_TLS_CERTIFICATES", pair.as_str())];
    let rig = Rig::start_on(Database::shared(), &tls).await;
    let token = rig.token().await;
    let mut client = client(tls_address(&rig.sidecar), &authority).await;
    let body = json!({"refresh_token": token.refresh_token}).to_string();
    let mut last = StatusCode::IM_A_TEAPOT;
    let mut refreshed = serde_json::Value::Null;
    // The home URL for https is requested in the background; until then calls are forwarded (299).
    for _ in 0..100 {
        let request = Request::post(format!("https://shop.example{ROUTE}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.clone())))
            .unwrap();
        let answer = client.send(request).await;
        last = answer.status();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        refreshed = serde_json::from_slice(&bytes).unwrap();
        if last != 299 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(last, 200, "{refreshed}");
    assert_eq!(refreshed["user_id"], rig.user.id);
    let asked = rig.upstream.requests();
    let asked = asked.iter().filter(|request| request.start_line().contains("_fields=home"));
    assert!(asked.clone().any(|request| request.value("x-forwarded-proto").as_deref() == Some("https")), "{HOME}");
}
