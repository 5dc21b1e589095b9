//! Every wait has its own limit, and each limits silence: a slow transfer continues. The exception
//! is the head of a request.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::raw::{Connection, OK, Upstream};
use crate::support::sidecar::{PATIENCE, Sidecar};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// The value of most limits in these tests, much shorter than the defaults.
const LIMIT: Duration = Duration::from_secs(2);
const LIMIT_TEXT: &str = "2s";

/// One step of silence is within the limit; three exceed it. More than a second remains for a
/// machine that is busy with other tests.
const STEP: Duration = Duration::from_millis(800);

/// A sidecar in front of `upstream` with one limit set to [`LIMIT`].
fn with_limit(upstream: &Upstream, key: &str) -> Sidecar {
    Sidecar::forwarding_with(upstream.address(), &[&format!("--{key}"), LIMIT_TEXT])
}

#[test]
fn a_connection_without_a_byte_is_closed() {
    let upstream = Upstream::ok();
    let sidecar = with_limit(&upstream, "server-first-byte-timeout");
    // The limit applies only to the first byte: not to the rest of a head, nor to a second request.
    let begun = Instant::now();
    let [mut silent, mut half, mut idle] = [(); 3].map(|()| Connection::to(sidecar.address()));
    half.send("GET / HT");
    idle.send(GET);
    assert_eq!(idle.response().status(), 200);
    assert!(silent.is_closed());
    assert!(begun.elapsed() >= LIMIT);
    sleep(STEP);
    half.send("TP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(half.response().status(), 200);
    idle.send("GET / HT");
    sleep(STEP * 3);
    half.send(GET);
    idle.send("TP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((half.response().status(), idle.response().status()), (200, 200));
}

#[test]
fn a_head_that_does_not_end_is_a_408_even_if_it_drips() {
    let upstream = Upstream::ok();
    let sidecar = with_limit(&upstream, "server-request-header-timeout");
    let mut client = Connection::to(sidecar.address());
    client.send(GET);
    assert_eq!(client.response().status(), 200);
    let begun = Instant::now();
    client.send("GET /slow HTTP/1.1\r\n");
    client.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    while begun.elapsed() < STEP {
        client.send("X: y\r\n");
        sleep(Duration::from_millis(50));
    }
    client.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let answer = client.response();
    assert_eq!(answer.status(), 408);
    assert_eq!(answer.json()["code"], "wp_jwt_sidecar_request_head_timeout");
    assert!(client.is_closed());
    assert_eq!(upstream.requests().len(), 1);
    let id = answer.json()["data"]["request_id"].as_str().unwrap().to_owned();
    assert!(sidecar.wait_for_log("head of the request did not arrive").contains(&id));
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let upstream = Upstream::ok();
    let sidecar = with_limit(&upstream, "server-keepalive-idle");
    let mut client = Connection::to(sidecar.address());
    for _ in 0..4 {
        client.send(GET);
        assert_eq!(client.response().status(), 200);
        sleep(STEP);
    }
    let begun = Instant::now();
    assert!(client.is_closed());
    assert!(begun.elapsed() < 5 * LIMIT);
}

/// Some clients send an additional empty line after a request (RFC 9112, 2.2).
#[test]
fn empty_lines_are_no_request_that_has_begun() {
    let upstream = Upstream::ok();
    let sidecar = with_limit(&upstream, "server-request-header-timeout");
    let endings = ["\r\n", "\n", "\r\n\r\n"];
    let mut clients = endings.map(|ending| {
        let mut client = Connection::to(sidecar.address());
        client.send(GET).send(ending);
        assert_eq!(client.response().status(), 200, "{ending:?}");
        client
    });
    sleep(STEP * 3);
    for (client, ending) in clients.iter_mut().zip(endings) {
        client.send("\n").send(GET);
        assert_eq!(client.response().status(), 200, "{ending:?}");
        client.send("\r\n");
    }
    assert_eq!(upstream.requests().len(), 6);
    sidecar.signal("TERM");
    assert!(clients.iter_mut().all(Connection::is_closed));
}

#[test]
fn a_request_body_that_stands_still_is_a_408_and_a_slow_one_arrives() {
    let upstream = Upstream::ok();
    // Only a few bytes arrive in a second here.
    let limits = ["--server-request-body-idle", LIMIT_TEXT, "--server-min-rate", "0"];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &limits);
    let begin = |framing: &'static str, body: &str| {
        let mut client = Connection::to(sidecar.address());
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}"));
        (framing, client)
    };
    let standing = ["Content-Length: 5", "Content-Length: 500000", "Transfer-Encoding: chunked"];
    for (framing, mut client) in standing.map(|framing| begin(framing, "2\r\n")) {
        let answer = client.response();
        assert_eq!(answer.status(), 408, "{framing}");
        assert_eq!(answer.json()["code"], "wp_jwt_sidecar_request_body_timeout");
        assert!(client.is_closed());
    }
    assert!(upstream.requests().iter().all(|request| !request.complete));
    let done = upstream.requests().len();
    let (_, mut whole) = begin("Content-Length: 6", "");
    let (_, mut chunked) = begin("Transfer-Encoding: chunked", "");
    for part in ["ab", "cd", "ef"] {
        sleep(STEP);
        whole.send(part);
        chunked.send(format!("2\r\n{part}\r\n"));
    }
    chunked.send("0\r\n\r\n");
    assert_eq!((whole.response().status(), chunked.response().status()), (200, 200));
    let bodies: Vec<_> = upstream.requests().split_off(done).into_iter().map(|request| request.body).collect();
    assert_eq!(bodies, [b"abcdef", b"abcdef"]);
}

#[test]
fn a_request_body_that_trickles_is_a_408() {
    let upstream = Upstream::ok();
    let sidecar = with_limit(&upstream, "server-request-body-idle");
    for framing in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
        let mut client = Connection::to(sidecar.address());
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
        let begun = Instant::now();
        client.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        // 20 bytes a second, and no silence as long as the limit.
        let mut peeked = [0; 1];
        while client.stream.peek(&mut peeked).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "{framing}: it goes on and on");
            client.send("1\r\nx\r\n".get(..if framing.starts_with('T') { 6 } else { 1 }).unwrap());
        }
        client.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let answer = client.response();
        assert_eq!(answer.status(), 408, "{framing}");
        let id = answer.json()["data"]["request_id"].as_str().unwrap().to_owned();
        let line = sidecar.wait_for_log(&id);
        assert!(line.contains("slower than 240 bytes a second (server.min_rate)"), "{line}");
    }
    assert!(upstream.requests().iter().all(|request| !request.complete));
}

#[test]
fn a_slow_body_holds_no_upstream_connection() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut slow: Vec<Connection> = (0..50)
        .map(|_| {
            let mut client = Connection::to(sidecar.address());
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab");
            client
        })
        .collect();
    let mut client = Connection::to(sidecar.address());
    client.send(GET);
    assert_eq!(client.response().status(), 200);
    assert_eq!(upstream.connections(), 1);
    slow[7].send("cd");
    assert_eq!(slow[7].response().status(), 200);
    assert_eq!(upstream.requests().last().unwrap().body, b"abcd");
}

#[test]
fn a_client_that_reads_nothing_is_cut_off_and_a_slow_one_is_not() {
    const SIZE: usize = 40 << 20;
    let (sender, receiver) = channel();
    let upstream = Upstream::with(move |connection, request| {
        use std::io::Write as _;
        connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
        let written = connection.stream.write_all(&vec![b'x'; SIZE]);
        let _ = sender.send((request.start_line().contains("/stuck"), written.is_ok()));
        written.is_ok()
    });
    let sidecar = with_limit(&upstream, "server-response-write-idle");
    let mut stuck = Connection::to(sidecar.address());
    stuck.send("GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut slow = Connection::to(sidecar.address());
    slow.send(GET);
    slow.head().unwrap();
    let mut read = 0;
    for _ in 0..8 {
        sleep(STEP);
        read += slow.take(4 << 20).len();
    }
    read += slow.take(SIZE - read).len();
    assert_eq!(read, SIZE);
    let mut written = [(); 2].map(|()| receiver.recv_timeout(3 * PATIENCE).unwrap());
    written.sort_unstable();
    assert_eq!(written, [(false, true), (true, false)], "the upstream's connection for the stuck client is closed");
    assert!(sidecar.wait_for_log("the client does not read its answer").contains("nothing moved for 2s"));
}

#[test]
fn an_answer_that_stands_still_is_cut_and_the_log_says_why() {
    let upstream = Upstream::with(|connection, _| {
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
        sleep(STEP);
        connection.send("def");
        connection.is_closed()
    });
    let sidecar = with_limit(&upstream, "upstream-response-body-idle");
    let mut client = Connection::to(sidecar.address());
    client.send(GET);
    let answer = client.response();
    assert_eq!((answer.complete, answer.body.as_slice()), (false, &b"abcdef"[..]));
    assert!(sidecar.wait_for_log("response ended early").contains(LIMIT_TEXT));
}

/// Sends more than the sidecar collects before it connects to the upstream, then a little at a
/// time.
fn upload_slowly(client: &mut Connection) {
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(format!("{:x}\r\n{}\r\n", 100_000, "x".repeat(100_000)));
    for _ in 0..4 {
        sleep(STEP);
        client.send("1\r\nx\r\n");
    }
    client.send("0\r\n\r\n");
}

#[test]
fn an_upload_may_take_longer_than_the_wait_for_an_answer() {
    let upstream = Upstream::ok();
    let sidecar = with_limit(&upstream, "upstream-response-header-timeout");
    let mut client = Connection::to(sidecar.address());
    upload_slowly(&mut client);
    assert_eq!(client.response().status(), 200);
}

#[test]
fn an_answer_that_began_early_waits_for_the_upload() {
    let upstream = Upstream::of_connections(|mut connection| {
        connection.head().unwrap();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
        let mut upload = Vec::new();
        while !upload.ends_with(b"0\r\n\r\n") {
            match connection.take(1) {
                part if part.is_empty() => return,
                part => upload.extend(part),
            }
        }
        connection.send("ok");
    });
    let sidecar = with_limit(&upstream, "upstream-response-body-idle");
    let mut client = Connection::to(sidecar.address());
    upload_slowly(&mut client);
    let answer = client.response();
    assert_eq!((answer.status(), answer.complete), (200, true));
}

#[test]
fn an_address_has_no_more_connections_than_it_may() {
    let upstream = Upstream::ok();
    let two = ["--server-max-connections-per-address", "2"];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &two);
    let mut clients: Vec<Connection> = (0..2).map(|_| Connection::to(sidecar.address())).collect();
    for client in &mut clients {
        client.send(GET);
        assert_eq!(client.response().status(), 200);
    }
    assert!(Connection::to(sidecar.address()).is_closed());
    clients.pop();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut client = Connection::to(sidecar.address());
        client.send(GET);
        if client.head().is_some() {
            break;
        }
        assert!(Instant::now() < deadline, "the place of a closed connection stays taken");
    }
    // The limit does not apply to a trusted proxy.
    let trusted = [two[0], two[1], "--forwarded-trusted-proxies", "127.0.0.1"];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &trusted);
    let mut clients: Vec<Connection> = (0..5).map(|_| Connection::to(sidecar.address())).collect();
    for client in &mut clients {
        client.send(GET);
        assert_eq!(client.response().status(), 200);
    }
}

#[test]
fn the_upstream_gets_no_more_connections_than_it_may() {
    let (go_on, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::with(move |connection, request| {
        if request.start_line().contains("/slow") {
            wait.lock().unwrap().recv().unwrap();
        }
        connection.send(OK);
        true
    });
    let limits = ["--server-workers", "1", "--upstream-max-connections", "2", "--upstream-connect-timeout", LIMIT_TEXT];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &limits);
    let slow: Vec<Connection> = (0..2)
        .map(|_| {
            let mut client = Connection::to(sidecar.address());
            client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
            client
        })
        .collect();
    upstream.wait_for_requests(2);
    let mut third = Connection::to(sidecar.address());
    third.send(GET);
    let answer = third.response();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.value("retry-after").as_deref(), Some("1"));
    assert_eq!(answer.json()["code"], "wp_jwt_sidecar_upstream_busy");
    // A connection that becomes free in time is used; the client's connection stays open after a
    // 503.
    third.send(GET);
    sleep(STEP);
    go_on.send(()).unwrap();
    assert_eq!(third.response().status(), 200);
    go_on.send(()).unwrap();
    for mut client in slow {
        assert_eq!(client.response().status(), 200);
    }
}

#[test]
fn idle_upstream_connections_make_room() {
    let open: Arc<AtomicUsize> = Arc::default();
    let most: Arc<AtomicUsize> = Arc::default();
    let upstream = Upstream::of_connections({
        let (open, most) = (Arc::clone(&open), Arc::clone(&most));
        move |mut connection| {
            most.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
            while connection.request().is_some() {
                sleep(STEP);
                connection.send(OK);
            }
            open.fetch_sub(1, SeqCst);
        }
    });
    let limits = ["--server-workers", "1", "--upstream-max-connections", "2"];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &limits);
    let two_at_once = |request: &str| {
        let mut clients = [Connection::to(sidecar.address()), Connection::to(sidecar.address())];
        clients.iter_mut().for_each(|client| _ = client.send(request));
        clients.iter_mut().for_each(|client| assert_eq!(client.response().status(), 200));
    };
    two_at_once(GET);
    assert_eq!(open.load(SeqCst), 2);
    // A POST is not sent on a connection that was idle for over a second.
    sleep(Duration::from_millis(1200));
    let mut client = Connection::to(sidecar.address());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    assert_eq!((upstream.connections(), open.load(SeqCst)), (3, 2));
    assert!(most.load(SeqCst) <= 3, "the old one may still be closing when the new one opens");
}

#[test]
fn silent_clients_do_not_stop_others() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    let silent: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(sidecar.address()).unwrap()).collect();
    let halves: Vec<Connection> = (0..300)
        .map(|_| {
            let mut client = Connection::to(sidecar.address());
            client.send("GET / HTTP/1.1\r\nX-");
            client
        })
        .collect();
    for _ in 0..20 {
        let mut client = Connection::to(sidecar.address());
        client.send(GET);
        assert_eq!(client.response().status(), 200);
    }
    drop((silent, halves));
}
