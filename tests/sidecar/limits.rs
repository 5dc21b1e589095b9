//! Limits of a request and a connection: sizes of bodies, numbers of requests, and how a connection
//! ends while bytes still arrive.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use crate::support::raw::{Connection, Message, OK, Upstream};
use crate::support::sidecar::{PATIENCE, Sidecar};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn post(sidecar: &Sidecar, fields: &str, body: &[u8]) -> Message {
    let mut client = Connection::to(sidecar.address());
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
    // It may be refused before it is written completely.
    let _ = client.stream.write_all(body);
    client.response()
}

fn chunked(length: usize) -> Vec<u8> {
    format!("{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length)).into_bytes()
}

#[test]
fn a_body_over_the_limit_is_a_413_and_one_of_its_size_passes() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--server-max-request-body", "1000"]);
    assert_eq!(post(&sidecar, "Content-Length: 1000", &[b'x'; 1000]).status(), 200);
    assert_eq!(post(&sidecar, "Transfer-Encoding: chunked", &chunked(1000)).status(), 200);
    assert_eq!(upstream.requests().len(), 2);
    // An announced body is refused before it is read, even if the client asks first.
    for fields in ["Content-Length: 1001", "Expect: 100-continue\r\nContent-Length: 99999999999"] {
        let answer = post(&sidecar, fields, b"");
        assert_eq!(answer.status(), 413, "{fields}");
        assert_eq!(answer.json()["code"], "wp_jwt_sidecar_request_too_large");
        assert!(sidecar.wait_for_log("\"status\":413").contains("server.max_request_body, 1000 bytes"));
    }
    let html = post(&sidecar, "Accept: text/html\r\nContent-Length: 1001", b"");
    assert!(html.value("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    assert_eq!(upstream.requests().len(), 2);
    // An unannounced one is noticed while it arrives.
    for length in [1001, 200_000] {
        assert_eq!(post(&sidecar, "Transfer-Encoding: chunked", &chunked(length)).status(), 413, "{length}");
    }
    assert!(upstream.requests().iter().skip(2).all(|request| !request.complete));
}

#[test]
fn who_is_refused_in_the_middle_of_an_upload_sees_why() {
    const SIZE: usize = 10 << 20;
    let upstream = Upstream::of_connections(|mut connection| {
        connection.head().unwrap();
        connection.send("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno");
        // Like web servers: what still arrives is read for a while.
        while !connection.take(1 << 16).is_empty() {}
    });
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--server-max-request-body", "15000000"]);
    for (status, length) in [(413, 2 * SIZE), (403, SIZE)] {
        for _ in 0..5 {
            let mut client = Connection::to(sidecar.address());
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
            // A client that writes everything before it reads, as most do.
            let body = vec![b'x'; SIZE];
            // A reset would end this, and on systems other than Linux would lose the response, too.
            client.stream.write_all(&body).expect("what still comes is taken");
            assert_eq!(client.response().status(), status);
        }
    }
}

#[test]
fn a_connection_is_closed_in_order_after_so_many_requests() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--server-max-requests-per-connection", "3"]);
    let mut client = Connection::to(sidecar.address());
    for last in [false, false, true] {
        client.send(GET);
        let answer = client.response();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.value("connection"), last.then(|| "close".to_owned()));
    }
    assert!(client.is_closed());
    // Pipelined requests beyond the limit are not begun.
    let before = upstream.requests().len();
    let mut client = Connection::to(sidecar.address());
    client.send(GET.repeat(5));
    for _ in 0..3 {
        assert_eq!(client.response().body, b"ok");
    }
    assert!(client.is_closed());
    assert_eq!(upstream.requests().len() - before, 3);
    // Unlimited.
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--server-max-requests-per-connection", "0"]);
    let mut client = Connection::to(sidecar.address());
    client.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    for _ in 0..1100 {
        client.send(GET);
        assert_eq!(client.response().values("connection").len(), 0);
    }
}

/// An upstream that answers `/slow` when the channel has something for it, and everything else at
/// once.
fn slow() -> (Upstream, Sender<()>) {
    let (go_on, wait) = channel();
    let wait = Mutex::new(wait);
    let upstream = Upstream::with(move |connection, request| {
        if request.start_line().contains("/slow") && wait.lock().unwrap().recv().is_err() {
            return false;
        }
        if request.value("upgrade").is_some() {
            connection.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n");
            return !connection.is_closed();
        }
        connection.send(OK);
        true
    });
    (upstream, go_on)
}

#[test]
fn one_address_has_so_many_requests_in_flight_and_others_have_theirs() {
    let (upstream, go_on) = slow();
    let limits = ["--server-max-exchanges-per-address", "2", "--server-workers", "1"];
    let limits = [&limits[..], &["--upstream-connect-timeout", "200ms"]].concat();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &limits);
    let mut clients: Vec<Connection> = (0..2).map(|_| Connection::to(sidecar.address())).collect();
    for client in &mut clients {
        client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    upstream.wait_for_requests(2);
    let mut third = Connection::to(sidecar.address());
    third.send(GET);
    let answer = third.response();
    assert_eq!((answer.status(), answer.value("retry-after").as_deref()), (503, Some("1")));
    assert_eq!(answer.json()["code"], "wp_jwt_sidecar_too_many_in_flight");
    assert!(sidecar.wait_for_log("\"status\":503").contains("server.max_exchanges_per_address"));
    let mut neighbour = Connection::from(Ipv4Addr::new(127, 0, 0, 2), sidecar.address());
    neighbour.send(GET);
    assert_eq!(neighbour.response().status(), 200);
    // A waiting request gets a permit that is released.
    third.send(GET);
    go_on.send(()).unwrap();
    assert_eq!(third.response().status(), 200);
    go_on.send(()).unwrap();
    for client in &mut clients {
        assert_eq!(client.response().status(), 200);
    }
    // Requests of one connection are sequential, so it never holds more than one permit.
    third.send(GET.repeat(5));
    for _ in 0..5 {
        assert_eq!(third.response().status(), 200);
    }
    // A trusted proxy carries the requests of many clients.
    let limits = [&limits[..], &["--forwarded-trusted-proxies", "127.0.0.1"]].concat();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &limits);
    for client in &mut clients {
        *client = Connection::to(sidecar.address());
        client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    let mut third = Connection::to(sidecar.address());
    third.send(GET);
    assert_eq!(third.response().status(), 200);
    drop(go_on);
}

#[test]
fn a_tunnel_keeps_its_place_until_it_ends() {
    let (upstream, _go_on) = slow();
    let limits = ["--server-max-exchanges", "1", "--server-max-exchanges-per-address", "0", "--server-workers", "1"];
    let limits = [&limits[..], &["--upstream-connect-timeout", "100ms"]].concat();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &limits);
    let mut tunnel = Connection::to(sidecar.address());
    tunnel.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n");
    assert_eq!(tunnel.response().status(), 101);
    let mut other = Connection::to(sidecar.address());
    other.send(GET);
    assert_eq!(other.response().status(), 503);
    assert!(sidecar.wait_for_log("\"status\":503").contains("server.max_exchanges)"));
    drop(tunnel);
    let deadline = Instant::now() + PATIENCE;
    loop {
        other.send(GET);
        match other.response().status() {
            200 => break,
            status => assert!(status == 503 && Instant::now() < deadline, "{status}"),
        }
    }
}

fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

/// The part of a body that is read first is small, and so is its memory, however it was split into
/// packets.
#[test]
fn a_body_that_comes_byte_by_byte_takes_no_more_memory_than_it_has_bytes() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--server-workers", "1"]);
    let mut client = Connection::to(sidecar.address());
    client.send(GET);
    assert_eq!(client.response().status(), 200);
    let before = resident(sidecar.pid());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n");
    for byte in 0..20_000u32 {
        client.send("x");
        // So that each is read separately.
        if byte.is_multiple_of(2) {
            std::thread::sleep(Duration::from_micros(20));
        }
    }
    let grown = resident(sidecar.pid()).saturating_sub(before);
    client.send("x".repeat(40_000));
    assert_eq!(client.response().status(), 200);
    assert_eq!(upstream.requests().last().unwrap().body.len(), 60_000);
    assert!(grown < 8, "{grown} MiB more for 20,000 bytes");
}
