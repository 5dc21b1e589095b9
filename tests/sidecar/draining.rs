//! SIGTERM and SIGINT: no new connections, what is in flight ends, exit code 0.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::raw::{Connection, Upstream};
use crate::support::sidecar::{Sidecar, wait_until};

#[test]
fn what_is_in_flight_ends_and_new_connections_are_refused() {
    for signal in ["TERM", "INT"] {
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let upstream = Upstream::with(move |connection, _| {
            wait.lock().unwrap().recv().unwrap();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            true
        });
        let mut sidecar = Sidecar::forwarding(upstream.address());
        let mut idle = Connection::to(sidecar.address());
        let mut client = Connection::to(sidecar.address());
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        upstream.wait_for_requests(1);
        sidecar.signal(signal);
        sidecar.wait_for_log("draining");
        assert!(idle.is_closed());
        wait_until("it takes no connections", || TcpStream::connect(sidecar.address()).is_err());
        go_on.send(()).unwrap();
        let answer = client.response();
        assert_eq!((answer.status(), answer.body.as_slice()), (200, &b"ok"[..]));
        assert!(client.is_closed());
        assert_eq!(sidecar.wait().code(), Some(0), "{signal}");
    }
}

#[test]
fn a_hangup_ends_nothing() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response().status(), 200);
        sidecar.signal("HUP");
    }
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 200);
}

#[test]
fn the_deadline_ends_what_does_not_end() {
    let upstream = Upstream::with(|connection, _| connection.is_closed());
    let mut sidecar = Sidecar::forwarding_with(upstream.address(), &["--shutdown-drain-timeout", "500ms"]);
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream.wait_for_requests(1);
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(0));
    sidecar.wait_for_log("did not end within drain_timeout");
}

#[test]
fn a_request_that_crosses_the_signal_is_answered() {
    /// How long a drain waits for such a request.
    const WAIT: Duration = Duration::from_secs(1);
    let upstream = Upstream::ok();
    for attempt in 1.. {
        let mut sidecar = Sidecar::forwarding(upstream.address());
        let mut used = Connection::to(sidecar.address());
        used.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(used.response().status(), 200);
        let fresh = Connection::to(sidecar.address());
        let before = Instant::now();
        sidecar.signal("TERM");
        // Once no connection is accepted any more, the workers have been notified, too.
        while TcpStream::connect(sidecar.address()).is_ok() {
            assert!(before.elapsed() < Duration::from_secs(20), "it still takes connections");
        }
        std::thread::sleep(Duration::from_millis(20));
        let mut clients = [used, fresh];
        for client in &mut clients {
            let _ = client.stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        // On a busy machine it may be too late; then it is tried again.
        if before.elapsed() > WAIT && attempt < 10 {
            continue;
        }
        for mut client in clients {
            let answer = client.response();
            assert_eq!((answer.status(), answer.value("connection").as_deref()), (200, Some("close")));
            assert!(client.is_closed());
        }
        assert_eq!(sidecar.wait().code(), Some(0));
        return;
    }
}
