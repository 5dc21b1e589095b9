//! Refused requests: nothing of them reaches the upstream, and a valid request right after works.

use crate::support::raw::{Connection, Upstream};
use crate::support::sidecar::Sidecar;

#[test]
fn doubtful_requests_do_not_reach_the_upstream() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let cases: &[(&str, u16, String)] = &[
        ("no Host", 400, "GET / HTTP/1.1\r\n\r\n".into()),
        ("two Hosts", 400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into()),
        ("a Host with userinfo", 400, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n".into()),
        ("an empty Host", 400, "GET / HTTP/1.1\r\nHost:\r\n\r\n".into()),
        (
            "a fragment",
            400,
            "POST /wp-json/jwt-auth/v1/token/refresh#x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".into(),
        ),
        ("a fragment behind the query", 400, "GET /?a#b HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("an empty fragment", 400, "GET /# HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("a fragment of an absolute target", 400, "GET http://a#/b HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("another port in the target", 400, "GET http://a:8080/ HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("another host in the target", 400, "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("CONNECT", 405, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".into()),
        ("a space before the colon", 400, "GET / HTTP/1.1\r\nHost: a\r\nX-A : b\r\n\r\n".into()),
        ("a folded line", 400, "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n".into()),
        (
            "two lengths",
            400,
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx{smuggled}"),
        ),
        (
            "a length twice",
            400,
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx{smuggled}"),
        ),
        ("an old target with userinfo", 400, "GET http://u@a/ HTTP/1.0\r\n\r\n".into()),
        ("a signed length", 400, format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx{smuggled}")),
        ("an empty length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n".into()),
        ("a negative length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n".into()),
        ("a hexadecimal length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\nx".into()),
        ("a list of lengths", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx".into()),
        (
            "a length that overflows",
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\nx".into(),
        ),
        ("a bare CR in a value", 400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n".into()),
        ("a NUL in a value", 400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n".into()),
        ("a NUL in a name", 400, "GET / HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n".into()),
        ("a space in the target", 400, "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        (
            "a tab before the colon",
            400,
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        ("a field without a name", 400, "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n".into()),
        ("a space before the first field", 400, "GET / HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n".into()),
        ("HTTP/0.9", 400, "GET /\r\n\r\n".into()),
        ("HTTP/1.2", 400, "GET / HTTP/1.2\r\nHost: a\r\n\r\n".into()),
        ("HTTP/2.0 by word", 400, "GET / HTTP/2.0\r\nHost: a\r\n\r\n".into()),
        ("two different Hosts", 400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into()),
        ("a Host with a path", 400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into()),
        ("a Host with a space", 400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into()),
        ("a Host that is not ASCII", 400, "GET / HTTP/1.1\r\nHost: \u{e4}\r\n\r\n".into()),
        ("userinfo in the target", 400, "GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n".into()),
        ("another scheme", 400, "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("an authority for a target", 400, "GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".into()),
        ("a star for another method", 400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("TRACE", 405, "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        (
            "an empty coding",
            400,
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            "identity",
            400,
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            "a coding that only looks like chunked",
            400,
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            "a parameter of chunked",
            400,
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            "an empty member before chunked",
            501,
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            "a vertical tab before chunked",
            400,
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            "another last coding",
            400,
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            "a coding before chunked",
            501,
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            "chunked twice",
            501,
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
            ),
        ),
        (
            "a coding in HTTP/1.0",
            400,
            format!("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
    ];
    for (what, status, bytes) in cases {
        let mut client = Connection::to(sidecar.address());
        client.send(bytes);
        let answer = client.response();
        assert_eq!(answer.status(), *status, "{what}");
        assert!(client.is_closed(), "{what}: the connection stays open");
        assert!(upstream.requests().is_empty(), "{what}: {:?}", upstream.requests());
        assert_eq!(upstream.connections(), 0, "{what}: a connection without a request");
    }
    let mut client = Connection::to(sidecar.address());
    client.send("GET /clean HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    assert_eq!(upstream.request().start_line(), "GET /clean HTTP/1.1");
}

#[test]
fn what_may_be_lenient_is_made_plain() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    for (what, bytes, body) in [
        ("bare line feeds", "POST / HTTP/1.1\nHost: a\nContent-Length: 1\n\nx", "x"),
        ("an empty line in front", "\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", "x"),
        (
            "an extension of a chunk and a trailer that frames",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n1;a=b\r\nx\r\n0\r\nContent-Length: 9\r\n\r\n",
            "x",
        ),
    ] {
        let mut client = Connection::to(sidecar.address());
        client.send(bytes);
        assert_eq!(client.response().status(), 200, "{what}");
        let request = upstream.requests().pop().unwrap();
        let framing = request.values("content-length").len() + request.values("transfer-encoding").len();
        assert_eq!((framing, request.body.as_slice()), (1, body.as_bytes()), "{what}");
        assert!(!request.head.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r'), "{what}");
    }
}

#[test]
fn what_follows_a_length_with_a_coding_is_not_a_request() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    client.response();
    assert!(client.is_closed());
    assert!(upstream.requests().iter().all(|request| !request.start_line().contains("smuggled")));
    assert!(upstream.requests().iter().all(|request| request.values("content-length").is_empty()));
}

#[test]
fn a_bad_chunk_is_the_clients_fault() {
    let upstream = Upstream::with(|connection, _| connection.is_closed());
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n");
    assert_eq!(client.response().status(), 400);
}

#[test]
fn an_unasked_switch_of_protocols_is_a_502() {
    let upstream =
        Upstream::answering(|_| "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n");
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 502);
}
