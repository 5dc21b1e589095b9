//! Forwarded messages arrive unchanged, in both directions, except for the changes that
//! docs/forwarding.md lists.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::raw::{Connection, Upstream};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::tls::{Authority, TlsConnection, tls_address};

#[test]
fn target_bytes_arrive_as_sent() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    let targets =
        ["/", "//a//b", "/a/../b", "/%2f%zz", "/?", "/?a=b&&c[]=%00", "/{}|^\\[]", "/index.php?p=1", "/caf\u{e9}"];
    for target in targets {
        let mut client = Connection::to(sidecar.address());
        client.send(format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\n\r\n"));
        assert_eq!(client.response().status(), 200, "{target}");
    }
    let arrived: Vec<String> = upstream.requests().iter().map(|request| request.start_line()).collect();
    let sent: Vec<String> =
        targets.iter().map(|target| format!("GET {target} HTTP/1.1").bytes().map(char::from).collect()).collect();
    assert_eq!(arrived, sent);
}

#[test]
fn request_fields_keep_case_order_and_bytes() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send(b"GET / HTTP/1.1\r\nhost: Shop.Example:81\r\nX-CamelCase: \xe9\xff\r\nConnection: keep-alive, X-Mine\r\nACCEPT: */*\r\nX-Mine: 1\r\nCookie: a=b; c=d\r\nUpgrade: h2c\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    let id = upstream.request().value("x-request-id").unwrap();
    let fields = upstream.request().fields();
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        fields,
        [
            ("host", "Shop.Example:81"),
            ("X-CamelCase", "\u{e9}\u{ff}"),
            ("ACCEPT", "*/*"),
            ("Cookie", "a=b; c=d"),
            ("X-Forwarded-For", "127.0.0.1"),
            ("X-Forwarded-Proto", "http"),
            ("X-Forwarded-Host", "Shop.Example:81"),
            ("X-Request-Id", id.as_str()),
        ]
    );
}

#[test]
fn answers_arrive_as_sent() {
    let upstream = Upstream::answering(|_| {
        b"HTTP/1.1 299 Quite Fine\r\nX-lower-Upper: \xe9\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive\r\nETag: \"x\"\r\nContent-Length: 2\r\n\r\nok"
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.response();
    assert_eq!(
        String::from_utf8_lossy(&answer.head),
        "HTTP/1.1 299 Quite Fine\r\nX-lower-Upper: \u{fffd}\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nETag: \"x\"\r\nContent-Length: 2\r\n\r\n"
    );
    assert_eq!(answer.body, b"ok");
}

#[test]
fn answers_without_a_body_keep_the_connection() {
    let upstream = Upstream::answering(|request| match request.start_line().split(' ').nth(1) {
        Some("/none") => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        Some("/same") => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n".to_owned(),
        Some("/head") => "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n".to_owned(),
        _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    for (method, target, status) in [
        ("GET", "/none", 204),
        ("GET", "/same", 304),
        ("HEAD", "/head", 200),
        ("GET", "/empty", 200),
        ("DELETE", "/none", 204),
    ] {
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = client.response_to(method);
        assert_eq!(answer.status(), status, "{target}");
        if method == "HEAD" {
            assert_eq!(answer.value("content-length").as_deref(), Some("12345"));
        }
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn chunked_bodies_arrive_whatever_the_method() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    for method in ["GET", "POST", "PUT", "DELETE", "PROPFIND"] {
        let mut client = Connection::to(sidecar.address());
        client.send(format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        ));
        assert_eq!(client.response().status(), 200);
        assert_eq!(upstream.requests().last().unwrap().body, b"abcde", "{method}");
    }
}

#[test]
fn a_length_with_a_coding_never_makes_an_empty_answer() {
    let upstream = Upstream::answering(
        |_| "HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\nX-After: 1\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    );
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.response();
    assert_eq!((answer.status(), answer.body.as_slice()), (200, &b"ok"[..]));
    assert_eq!(answer.value("content-length"), None);
    // Where such a response ends is doubtful: the bytes that follow on its connection belong to no
    // response.
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn http_1_0_works_on_both_sides() {
    let upstream = Upstream::answering(|_| "HTTP/1.0 200 OK\r\nX-A: b\r\n\r\nto the end");
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.0\r\n\r\n");
    let answer = client.response();
    assert_eq!((answer.status(), answer.body.as_slice()), (200, &b"to the end"[..]));
    assert!(answer.values("transfer-encoding").is_empty());
    let request = upstream.request();
    assert!(request.start_line().ends_with("HTTP/1.1"));
    assert_eq!(request.value("host"), Some(upstream.address().to_string()));
}

#[test]
fn a_slow_body_holds_no_upstream_connection() {
    for (framing, rest, arrived) in
        [("Content-Length: 3", "yz", 3), ("Transfer-Encoding: chunked", "2\r\nyz\r\n0\r\n\r\n", 3)]
    {
        let upstream = Upstream::ok();
        let sidecar = Sidecar::forwarding_with(
            upstream.address(),
            &["--server-workers", "1", "--upstream-early-bodies", "never"],
        );
        let mut slow = Connection::to(sidecar.address());
        slow.send(format!("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{framing}\r\n\r\n"));
        // The server is reading it.
        assert!(slow.head().unwrap().starts_with(b"HTTP/1.1 100 "));
        slow.send(if framing.ends_with("chunked") { "1\r\nx\r\n" } else { "x" });
        let mut other = Connection::to(sidecar.address());
        other.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(other.response().status(), 200);
        assert_eq!(upstream.connections(), 1, "{framing}");
        slow.send(rest);
        assert_eq!(slow.response().status(), 200);
        let bodies: Vec<usize> = upstream.requests().iter().map(|request| request.body.len()).collect();
        assert_eq!(bodies, [0, arrived], "{framing}");
    }
}

/// HTTP/1.0 has no chunks, so such a response ends with the connection, and only a reset shows that
/// it was cut.
#[test]
fn a_cut_answer_to_an_http_1_0_client_ends_with_a_reset() {
    for (end, is_cut) in [("0\r\n\r\n", false), ("", true), ("zz\r\n", true)] {
        let upstream = Upstream::with(move |connection, _| {
            connection.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n{end}"));
            false
        });
        let authority = Authority::new();
        let pair = authority.issue("a", &["a.example"]);
        let arguments = ["--tls-listen", "127.0.0.1:0", "--tls-certificates", &pair.argument()];
        let sidecar = Sidecar::forwarding_with(upstream.address(), &arguments);
        let plain = TcpStream::connect(sidecar.address()).unwrap();
        plain.set_read_timeout(Some(PATIENCE)).unwrap();
        let tls = TlsConnection::to(tls_address(&sidecar), "a.example", authority.client(&["http/1.1"])).unwrap();
        let (plain, tls) = (answer_of(plain), answer_of(tls.stream));
        match is_cut {
            false => {
                for whole in [plain, tls] {
                    assert!(whole.unwrap().ends_with(b"\r\n\r\nabc"));
                }
            }
            true => {
                assert_eq!(plain.unwrap_err().kind(), ErrorKind::ConnectionReset, "{end:?}");
                let kind = tls.unwrap_err().kind();
                assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof), "{end:?}: {kind}");
            }
        }
    }
}

fn answer_of(mut client: impl Read + Write) -> std::io::Result<Vec<u8>> {
    client.write_all(b"GET / HTTP/1.0\r\nHost: a.example\r\n\r\n")?;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_cut_answer_stays_cut() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let upstream = Upstream::with(move |connection, _| {
            connection.send(answer);
            false
        });
        let sidecar = Sidecar::forwarding(upstream.address());
        let mut client = Connection::to(sidecar.address());
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let received = client.response();
        assert!(!received.complete, "{answer:?}");
        assert_eq!(received.body, b"abc");
    }
}

#[test]
fn large_bodies_stream_both_ways() {
    const SIZE: usize = 30 << 20;
    let upstream = Upstream::answering(|request| {
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len()).into_bytes();
        answer.extend_from_slice(&request.body);
        answer
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let body: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
    let mut client = Connection::to(sidecar.address());
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n")).send(&body);
    assert!(client.response().body == body, "the body came back changed");
}

#[test]
fn a_client_that_does_not_read_stops_the_upstream() {
    let (sent, progress) = std::sync::mpsc::channel();
    let upstream = Upstream::with(move |connection, _| {
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = format!("{:x}\r\n{}\r\n", 65536, "x".repeat(65536));
        connection.stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        for _ in 0..4096 {
            use std::io::Write;
            if connection.stream.write_all(chunk.as_bytes()).is_err() {
                break;
            }
            let _ = sent.send(chunk.len());
        }
        false
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut total = 0;
    // Silence for longer than a failed write to the upstream takes means that it has stopped.
    while let Ok(count) = progress.recv_timeout(Duration::from_secs(4)) {
        total += count;
    }
    assert!(total < 64 << 20, "{total} bytes went into a client that reads nothing");
}

#[test]
fn a_client_that_leaves_ends_the_upstream_request() {
    let (gone, left) = std::sync::mpsc::channel();
    let upstream = Upstream::with(move |connection, _| {
        let started = Instant::now();
        assert!(connection.is_closed());
        let _ = gone.send(started.elapsed());
        false
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream.wait_for_requests(1);
    drop(client);
    left.recv_timeout(Duration::from_secs(5)).expect("the upstream's connection closes");
}

#[test]
fn a_stale_connection_costs_a_get_nothing() {
    // Answers once per connection, then closes it as the next request arrives.
    let upstream = Upstream::with(|connection, request| {
        if request.start_line().contains("/first")
            || request.start_line().contains("/again") && connection_is_new(connection)
        {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            return true;
        }
        false
    });
    fn connection_is_new(connection: &mut Connection) -> bool {
        // Marks the connection: the second request on it finds the mark.
        let nodelay = connection.stream.nodelay().unwrap();
        connection.stream.set_nodelay(false).unwrap();
        nodelay
    }
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("GET /again HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    client.send("GET /again HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn an_upstream_that_is_away_is_a_502_and_then_a_200() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let sidecar = Sidecar::forwarding(address);
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.response();
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.json()["code"], "wp_jwt_sidecar_upstream_unreachable");
}

/// The log contains the client's address, not only the proxy's.
#[test]
fn an_upstream_that_takes_no_connection_in_time_is_a_504() {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    // They are not accepted, and there is no room for more.
    let limit = Duration::from_millis(300);
    let waiting: Vec<_> = (0..4).map_while(|_| std::net::TcpStream::connect_timeout(&address, limit).ok()).collect();
    assert!(waiting.len() < 4);
    let arguments = ["--upstream-connect-timeout", "300ms", "--forwarded-trusted-proxies", "127.0.0.1"];
    let sidecar = Sidecar::forwarding_with(address, &arguments);
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n");
    let answer = client.response();
    assert_eq!(
        (answer.status(), answer.json()["code"].as_str()),
        (504, Some("wp_jwt_sidecar_upstream_connect_timeout"))
    );
    let line = sidecar.wait_for_log("the upstream took no connection within");
    assert!(line.contains("\"client\":\"203.0.113.9\"") && line.contains("\"peer\":\"127.0.0.1\""), "{line}");
}

#[test]
fn a_silent_upstream_is_a_504() {
    let upstream = Upstream::with(|connection, _| connection.is_closed());
    let arguments = ["--upstream-response-header-timeout", "300ms"];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &arguments);
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 504);
}

#[test]
fn a_trusted_proxy_is_believed_and_appended_to() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--forwarded-trusted-proxies", "127.0.0.0/8"]);
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    let request = upstream.request();
    assert_eq!(request.value("x-forwarded-for").as_deref(), Some("203.0.113.9, 127.0.0.1"));
    assert_eq!(request.value("x-forwarded-proto").as_deref(), Some("https"));
}
