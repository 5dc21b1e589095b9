//! Unusual input that passes unchanged, and the short list of what does not: the tests of the
//! section of docs/forwarding.md on changes.

use std::sync::mpsc::channel;
use std::time::Duration;

use crate::support::raw::{Connection, OK, Upstream};
use crate::support::sidecar::Sidecar;

fn exchange(sidecar: &Sidecar, request: impl AsRef<[u8]>) -> crate::support::raw::Message {
    let mut client = Connection::to(sidecar.address());
    client.send(request);
    client.response()
}

/// The request ID that the sidecar generated.
fn own_id(request: &crate::support::raw::Message) -> String {
    let id = request.value("x-request-id").unwrap();
    assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    id
}

/// The exact bytes of a request and a response, so that anything added or missing shows.
#[test]
fn the_bytes_of_a_plain_exchange() {
    let upstream = Upstream::answering(
        |_| "HTTP/1.1 200 Sure\r\nserver: x\r\nETag: W/\"1\"\r\nSet-Cookie: a=1; Path=/\r\nVary: Accept\r\nContent-Length: 2\r\nX-PHP: yes\r\n\r\nok",
    );
    let sidecar = Sidecar::forwarding(upstream.address());
    let answer = exchange(&sidecar, "GET /a?b HTTP/1.1\r\nuser-AGENT: me\r\nHost: shop.example\r\naccept: */*\r\n\r\n");
    assert_eq!(
        String::from_utf8_lossy(&upstream.request().head),
        format!(
            "GET /a?b HTTP/1.1\r\nuser-AGENT: me\r\nHost: shop.example\r\naccept: */*\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: shop.example\r\nX-Request-Id: {}\r\n\r\n",
            own_id(&upstream.request())
        )
    );
    assert_eq!(
        String::from_utf8_lossy(&answer.head),
        "HTTP/1.1 200 Sure\r\nserver: x\r\nETag: W/\"1\"\r\nSet-Cookie: a=1; Path=/\r\nVary: Accept\r\nContent-Length: 2\r\nX-PHP: yes\r\n\r\n"
    );
}

#[test]
fn preserve_adds_nothing_at_all() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--forwarded-mode", "preserve"]);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Port: 81\r\nForwarded: for=b\r\nX-Real-IP: 1.2.3.4\r\nX-Request-Id: mine\r\n\r\n";
    exchange(&sidecar, request);
    assert_eq!(String::from_utf8_lossy(&upstream.request().head), request);
    exchange(&sidecar, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(upstream.requests().last().unwrap().head, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn trace_context_passes_untouched() {
    let upstream = Upstream::ok();
    let context = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nTraceState: a=1,b=2\r\ntracestate: c=3\r\nbaggage: k=v\r\n";
    for mode in ["auto", "preserve"] {
        let sidecar = Sidecar::forwarding_with(upstream.address(), &["--forwarded-mode", mode]);
        exchange(&sidecar, format!("GET / HTTP/1.1\r\nHost: a\r\n{context}\r\n"));
        let head = String::from_utf8(upstream.requests().last().unwrap().head.clone()).unwrap();
        assert!(head.contains(&format!("Host: a\r\n{context}")), "{head}");
    }
}

#[test]
fn an_untrusted_peer_is_replaced_where_it_speaks_of_itself() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--log-level", "debug"]);
    exchange(
        &sidecar,
        "GET / HTTP/1.1\r\nX-Real-IP: 1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 1.2.3.5\r\nHost: a:81\r\nForwarded: for=1.2.3.4;by=x\r\nX-Forwarded-Port: 81\r\nX_Forwarded_For: 1.2.3.4\r\nX.Real.IP: 1.2.3.4\r\nContent_Length: 3\r\nX_Mine: 1\r\nX.Mine: 2\r\n\r\n",
    );
    assert_eq!(
        String::from_utf8_lossy(&upstream.request().head),
        format!(
            "GET / HTTP/1.1\r\nX-Real-IP: 127.0.0.1\r\nX-Forwarded-For: 127.0.0.1\r\nHost: a:81\r\nForwarded: for=127.0.0.1;host=\"a:81\";proto=http\r\nX_Mine: 1\r\nX.Mine: 2\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a:81\r\nX-Request-Id: {}\r\n\r\n",
            own_id(&upstream.request())
        )
    );
    sidecar.wait_for_log("\"total\":3");
    exchange(&sidecar, "GET / HTTP/1.1\r\nHost: a\r\nX_Real_IP: 1\r\n\r\n");
    assert!(sidecar.wait_for_log("x_real_ip").contains("\"total\":4"));
}

#[test]
fn options_of_the_server_itself() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    assert_eq!(exchange(&sidecar, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
    assert_eq!(upstream.request().start_line(), "OPTIONS * HTTP/1.1");
}

#[test]
fn an_absolute_target_of_the_same_host_becomes_a_path() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    assert_eq!(exchange(&sidecar, "GET http://A.example/b?c HTTP/1.1\r\nHost: a.example\r\n\r\n").status(), 200);
    assert_eq!(exchange(&sidecar, "GET http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n").status(), 200);
    let lines: Vec<_> = upstream.requests().iter().map(|request| request.start_line()).collect();
    assert_eq!(lines, ["GET /b?c HTTP/1.1", "GET / HTTP/1.1"]);
    // The scheme's default port, written or not, is the same host; Host passes as it arrived.
    for (target, host) in [("http://a.example/p", "A.example:80"), ("https://a.example:443/p", "a.example")] {
        assert_eq!(exchange(&sidecar, format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).status(), 200);
        assert_eq!(upstream.requests().pop().unwrap().value("host").as_deref(), Some(host));
    }
    // HTTP/1.0 needs no Host (RFC 9112, 3.2.2).
    assert_eq!(exchange(&sidecar, "GET http://old.example:81/d HTTP/1.0\r\n\r\n").status(), 200);
    let old = upstream.requests().pop().unwrap();
    assert_eq!(old.start_line(), "GET /d HTTP/1.1");
    for name in ["host", "x-forwarded-host"] {
        assert_eq!(old.value(name).as_deref(), Some("old.example:81"), "{name}");
    }
}

#[test]
fn a_host_with_a_dot_at_its_end_passes_as_it_came() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    for host in ["a.example.", "a.example.:81"] {
        assert_eq!(exchange(&sidecar, format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).status(), 200);
        let request = upstream.requests().pop().unwrap();
        assert_eq!(request.value("host").as_deref(), Some(host));
        assert_eq!(request.value("x-forwarded-host").as_deref(), Some(host));
    }
}

/// In the path and in the query; the log escapes them.
#[test]
fn a_target_passes_byte_for_byte_but_for_a_number_sign() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    let bytes: Vec<u8> = (b'!'..=b'~').chain(0x80..=0xff).collect();
    for before in ["/", "/?", "http://a/", "http://a?"] {
        let refused: Vec<u8> = bytes
            .iter()
            .copied()
            .filter(|byte| {
                let target = [before.as_bytes(), &[*byte], b"x"].concat();
                let request = [b"GET ", &target[..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
                if exchange(&sidecar, request).status() == 400 {
                    return true;
                }
                let head = upstream.requests().pop().unwrap().head;
                let path = target.strip_prefix(b"http://a").unwrap_or(&target);
                let slash: &[u8] = if path.starts_with(b"/") { b"" } else { b"/" };
                let line = [b"GET ", slash, path, b" HTTP/1.1\r\n"].concat();
                assert!(head.starts_with(&line), "{}", String::from_utf8_lossy(&head));
                false
            })
            .collect();
        assert_eq!(refused, b"#", "{before}");
    }
}

#[test]
fn the_log_names_the_path_of_any_target() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--log-access", "true"]);
    exchange(&sidecar, b"GET /<\xff`\"?secret=\" HTTP/1.1\r\nHost: a\r\n\r\n");
    let line = sidecar.wait_for_log("wp_jwt_sidecar::access");
    assert!(line.contains(r#""path":"/<\ufffd`\""#) || line.contains("\"path\":\"/<\u{fffd}`\\\"\""), "{line}");
    assert!(!line.contains("secret"), "{line}");
}

#[test]
fn any_reason_passes() {
    for reason in [&b" N\xe3o encontrado"[..], b" \xc3\xa9", b" ", b" a  b\tc ", b" 404"] {
        let answer = [b"HTTP/1.1 404", reason, b"\r\nContent-Length: 0\r\n\r\n"].concat();
        let upstream = Upstream::answering(move |_| answer.clone());
        let sidecar = Sidecar::forwarding(upstream.address());
        let head = exchange(&sidecar, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").head;
        let line = [b"HTTP/1.1 404", reason, b"\r\n"].concat();
        assert!(head.starts_with(&line), "{}", String::from_utf8_lossy(&head));
    }
}

#[test]
fn unusual_methods_pass() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    for method in ["PROPFIND", "PURGE", "M-SEARCH", "PATCH", "X"] {
        assert_eq!(exchange(&sidecar, format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).status(), 200);
        assert_eq!(upstream.requests().last().unwrap().start_line(), format!("{method} / HTTP/1.1"));
    }
}

#[test]
fn answers_with_a_thousand_fields_pass() {
    let fields = |count: usize| (0..count).map(|i| format!("X-Field-{i}: {i}\r\n")).collect::<String>();
    let upstream =
        Upstream::answering(move |_| format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok", fields(999)));
    let sidecar = Sidecar::forwarding(upstream.address());
    let answer = exchange(&sidecar, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let names: Vec<String> = answer.fields().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 1000);
    assert!((0..999).all(|i| names[i] == format!("X-Field-{i}")));
}

#[test]
fn many_cookies_and_long_fields_pass() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    let cookie = format!("session={}", "c".repeat(40_000));
    let more: String = (0..200).map(|i| format!("X-{i}: \"{i}\"\r\n")).collect();
    let answer = exchange(&sidecar, format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n{more}\r\n"));
    assert_eq!(answer.status(), 200);
    assert_eq!(upstream.request().value("cookie"), Some(cookie));
    assert_eq!(upstream.request().value("x-199").as_deref(), Some("\"199\""));
}

#[test]
fn lines_pass_in_their_order_with_repeated_ones_in_their_places() {
    let upstream = Upstream::answering(
        |_| "HTTP/1.1 200 OK\r\nLink: <a>\r\nSet-Cookie: a=1\r\nX-Between: 1\r\nLINK: <b>\r\nset-cookie: b=2\r\nContent-Length: 0\r\n\r\n",
    );
    let sidecar = Sidecar::forwarding(upstream.address());
    let answer = exchange(
        &sidecar,
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nCookie: a=1\r\nConnection: X-B, close\r\nx-a: 2\r\nX-B: 1\r\nCookie: b=2\r\n\r\n",
    );
    assert_eq!(
        String::from_utf8_lossy(&answer.head),
        "HTTP/1.1 200 OK\r\nLink: <a>\r\nSet-Cookie: a=1\r\nX-Between: 1\r\nLINK: <b>\r\nset-cookie: b=2\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let head = String::from_utf8(upstream.request().head).unwrap();
    let lines = "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nCookie: a=1\r\nx-a: 2\r\nCookie: b=2\r\nX-Forwarded-For: ";
    assert!(head.starts_with(lines), "{head}");
}

#[test]
fn hop_by_hop_fields_end_here_in_both_directions() {
    let upstream = Upstream::answering(
        |_| "HTTP/1.1 200 OK\r\nX-First: 1\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nProxy-Authenticate: Basic\r\nUpgrade: h2\r\nConnection: Set-Cookie\r\nSet-Cookie: a=1\r\nX-Last: 2\r\nContent-Length: 0\r\n\r\n",
    );
    let sidecar = Sidecar::forwarding(upstream.address());
    let answer = exchange(
        &sidecar,
        "GET / HTTP/1.1\r\nX-First: 1\r\nConnection: X-Hop\r\nHost: a\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nX-Hop: 2\r\nAuthorization: Bearer t\r\nKeep-Alive: 5\r\nConnection: authorization, cookie, host, x-forwarded-for, X-Wp-Nonce\r\nCookie: a=1\r\nX-WP-Nonce: n\r\nProxy-Authorization: Basic x\r\n\r\n",
    );
    let names =
        |message: &crate::support::raw::Message| message.fields().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(&answer), ["X-First", "Set-Cookie", "X-Last", "Content-Length"]);
    let request = upstream.request();
    assert_eq!(names(&request)[..5], ["X-First", "Host", "Authorization", "Cookie", "X-WP-Nonce"]);
    assert_eq!(names(&request)[5..], ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Request-Id"]);
}

#[test]
fn a_clients_close_is_not_the_upstreams_nor_the_other_way_round() {
    let upstream = Upstream::answering(|request| match request.start_line().contains("/close") {
        true => "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        false => OK,
    });
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--server-workers", "1"]);
    for _ in 0..3 {
        let mut client = Connection::to(sidecar.address());
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(client.response().status(), 200);
        assert!(client.is_closed());
    }
    assert_eq!(upstream.connections(), 1);
    let mut client = Connection::to(sidecar.address());
    for _ in 0..3 {
        client.send("GET /close HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.response();
        assert_eq!((answer.status(), answer.values("connection").len()), (200, 0));
    }
    assert_eq!(upstream.connections(), 3);
}

#[test]
fn trailers_pass_both_ways() {
    let upstream = Upstream::of_connections(|mut connection| {
        let head = connection.head().unwrap();
        let rest = connection.take("3\r\nabc\r\n0\r\nX-Sum: 42\r\n\r\n".len());
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.contains("trailer: x-sum") && head.contains("te: trailers"), "{head}");
        let rest = String::from_utf8(rest).unwrap();
        connection.send(format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Got, Grpc-Status\r\n\r\n2\r\nok\r\n0\r\nX-Got: {}\r\nGrpc-Status: 0\r\n\r\n",
            rest.to_lowercase().contains("\r\nx-sum: 42\r\n")
        ));
        connection.is_closed();
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 42\r\n\r\n");
    let head = String::from_utf8(client.head().unwrap()).unwrap();
    assert!(head.contains("Trailer: X-Got, Grpc-Status"), "{head}");
    let body = b"2\r\nok\r\n0\r\nx-got: true\r\ngrpc-status: 0\r\n\r\n";
    let received = client.take(body.len());
    assert_eq!(String::from_utf8(received).unwrap().to_lowercase(), String::from_utf8_lossy(body));
}

/// The client need not announce that it accepts trailers.
#[test]
fn trailers_pass_that_were_not_announced() {
    let (sender, receiver) = channel();
    let upstream = Upstream::of_connections(move |mut connection| {
        connection.head().unwrap();
        sender.send(connection.take("1\r\na\r\n0\r\nX-Sum: 42\r\n\r\n".len())).unwrap();
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Got: 1\r\n\r\n");
        connection.is_closed();
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 42\r\n\r\n");
    let body = receiver.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(String::from_utf8(body).unwrap(), "1\r\na\r\n0\r\nX-Sum: 42\r\n\r\n");
    client.head().unwrap();
    let rest = "2\r\nok\r\n0\r\nX-Got: 1\r\n\r\n";
    assert_eq!(String::from_utf8(client.take(rest.len())).unwrap(), rest);
    // HTTP/1.0 has no trailers.
    let mut old = Connection::to(sidecar.address());
    old.send("POST / HTTP/1.0\r\nContent-Length: 25\r\n\r\n1234567890123456789012345");
    let answer = old.response();
    assert_eq!((answer.status(), answer.body.as_slice()), (200, &b"ok"[..]));
}

#[test]
fn trailers_do_not_say_who_the_client_is() {
    let (sender, receiver) = channel();
    let upstream = Upstream::of_connections(move |mut connection| {
        connection.head().unwrap();
        sender.send(connection.take("1\r\na\r\n0\r\nX-Sum: 42\r\n\r\n".len())).unwrap();
        connection.send(OK);
        connection.is_closed();
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-Forwarded-For, X-Sum, X_Real_IP, Forwarded\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Forwarded-For: 1.2.3.4\r\nX_Real_IP: 1.2.3.4\r\nX-Sum: 42\r\nForwarded: for=1.2.3.4\r\n\r\n";
    assert_eq!(exchange(&sidecar, request).status(), 200);
    let body = String::from_utf8(receiver.recv_timeout(Duration::from_secs(10)).unwrap()).unwrap();
    assert_eq!(body.to_lowercase(), "1\r\na\r\n0\r\nx-sum: 42\r\n\r\n");
}

#[test]
fn trailers_hold_nothing_that_must_be_known_before_the_body() {
    let (sender, receiver) = channel();
    let upstream = Upstream::of_connections(move |mut connection| {
        connection.head().unwrap();
        sender.send(connection.take("1\r\na\r\n0\r\nX-Sum: 42\r\n\r\n".len())).unwrap();
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Set-Cookie, X-Got, Content-Length\r\n\r\n0\r\nSet-Cookie: a=b\r\nX-Got: 1\r\nContent-Length: 3\r\n\r\n");
        connection.is_closed();
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: Cookie, X-Sum, Authorization, Host, X-WP-Nonce, Expect\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nCookie: a=b\r\nAuthorization: Basic eA==\r\nHost: b\r\nX-Sum: 42\r\nX-WP-Nonce: n\r\nExpect: 100-continue\r\n\r\n");
    let body = String::from_utf8(receiver.recv_timeout(Duration::from_secs(10)).unwrap()).unwrap();
    assert_eq!(body.to_lowercase(), "1\r\na\r\n0\r\nx-sum: 42\r\n\r\n");
    client.head().unwrap();
    let trailers = "0\r\nx-got: 1\r\n\r\n";
    assert_eq!(String::from_utf8(client.take(trailers.len())).unwrap().to_lowercase(), trailers);
}

#[test]
fn answers_stream_as_they_come() {
    let (go_on, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::with(move |connection, _| {
        connection.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for event in ["5\r\ndata1\r\n", "5\r\ndata2\r\n", "0\r\n\r\n"] {
            wait.lock().unwrap().recv_timeout(Duration::from_secs(10)).unwrap();
            connection.send(event);
        }
        true
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.head().unwrap();
    for event in ["5\r\ndata1\r\n", "5\r\ndata2\r\n", "0\r\n\r\n"] {
        go_on.send(()).unwrap();
        assert_eq!(client.take(event.len()), event.as_bytes());
    }
}

/// After their first 64 KiB, which the sidecar waits for.
#[test]
fn chunked_requests_stream_as_they_come() {
    let start = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let chunks = [start.as_str(), "1\r\na\r\n", "1\r\nb\r\n", "0\r\n\r\n"].map(str::to_owned);
    let expected = chunks.clone();
    let (go_on, wait) = channel();
    let upstream = Upstream::of_connections(move |mut connection| {
        connection.head().unwrap();
        for chunk in &expected {
            assert_eq!(connection.take(chunk.len()), chunk.as_bytes());
            go_on.send(()).unwrap();
            if chunk.starts_with('1') {
                connection.send("HTTP/1.1 100 Continue\r\n\r\n");
            }
        }
        connection.send(OK);
        connection.is_closed();
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for chunk in chunks {
        client.send(chunk);
        wait.recv_timeout(Duration::from_secs(10)).unwrap();
    }
    assert_eq!(client.response().status(), 200);
}

#[test]
fn an_empty_chunked_request_stays_chunked() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    exchange(&sidecar, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    let request = upstream.request();
    assert_eq!(request.value("transfer-encoding").as_deref(), Some("chunked"));
    assert!(request.body.is_empty());
}

#[test]
fn expectations_are_met_once() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(client.response().status(), 100);
    client.send("abc");
    assert_eq!(client.response().status(), 200);
    assert_eq!(upstream.request().body, b"abc");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::answering(|request| {
        let line = request.start_line();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{line}", line.len())
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    let get = |i: usize| format!("GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n");
    client.send((0..20).map(get).collect::<String>());
    for i in 0..20 {
        assert_eq!(client.response().body, format!("GET /{i} HTTP/1.1").as_bytes());
    }
}

#[test]
fn old_clients_that_ask_for_it_keep_their_connection() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    for _ in 0..3 {
        client.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        let answer = client.response();
        assert_eq!((answer.status(), answer.body.as_slice()), (200, &b"ok"[..]));
        assert!(answer.value("connection").is_some_and(|value| value.eq_ignore_ascii_case("keep-alive")));
    }
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    assert!(client.is_closed());
}

#[test]
fn a_close_delimited_answer_is_whole() {
    let body = "x".repeat(300_000);
    let answer = format!("HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n{body}");
    let upstream = Upstream::with(move |connection, _| {
        connection.send(&answer);
        false
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.response();
        assert!(answer.complete && answer.body == body.as_bytes());
    }
}

#[test]
fn an_upstream_that_sends_a_body_with_head_or_304_disturbs_no_other_exchange() {
    let upstream = Upstream::with(|connection, request| {
        let status = if request.start_line().starts_with("HEAD") { "200 OK" } else { "304 Not Modified" };
        connection.send(format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\nevil"));
        true
    });
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--server-workers", "1"]);
    let mut client = Connection::to(sidecar.address());
    for (method, status) in [("HEAD", 200), ("GET", 304), ("HEAD", 200), ("GET", 304)] {
        client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = client.response_to(method);
        assert_eq!((answer.status(), answer.body.len()), (status, 0));
        assert_eq!(answer.value("content-length").as_deref(), Some("4"), "it says what a GET or a 200 would have");
    }
}
