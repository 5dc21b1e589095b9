//! What is refused: nothing of it reaches the upstream, and a clean request right after works.

use crate::support::raw::{Connection, Upstream};
use crate::support::sidecar::Sidecar;

#[test]
fn doubtful_requests_do_not_reach_the_upstream() {
    let upstream = Upstream::answering(|_| "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let sidecar = Sidecar::forwarding(upstream.address());
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let cases: &[(&str, u16, String)] = &[
        ("no Host", 400, "GET / HTTP/1.1\r\n\r\n".into()),
        ("two Hosts", 400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into()),
        ("a Host with userinfo", 400, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n".into()),
        ("an empty Host", 400, "GET / HTTP/1.1\r\nHost:\r\n\r\n".into()),
        ("another host in the target", 400, "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("CONNECT", 405, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".into()),
        ("a space before the colon", 400, "GET / HTTP/1.1\r\nHost: a\r\nX-A : b\r\n\r\n".into()),
        ("a folded line", 400, "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n".into()),
        (
            "two lengths",
            400,
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx{smuggled}"),
        ),
        ("a signed length", 400, format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx{smuggled}")),
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
    }
    let mut client = Connection::to(sidecar.address());
    client.send("GET /clean HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    assert_eq!(upstream.request().start_line(), "GET /clean HTTP/1.1");
}

#[test]
fn what_follows_a_length_with_a_coding_is_not_a_request() {
    let upstream = Upstream::answering(|_| "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
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
