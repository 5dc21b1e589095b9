//! Connections that switch protocols: a protocol that was requested and agreed to becomes a tunnel,
//! anything else does not.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::support::raw::{Connection, Upstream};
use crate::support::sidecar::Sidecar;

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat, superchat\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: superchat\r\n\r\n";

/// An upstream that switches protocols on every request and echoes what it receives, in capitals.
fn echo() -> Upstream {
    Upstream::with(|connection, _| {
        connection.send(SWITCHED);
        loop {
            let bytes = connection.take(1);
            if bytes.is_empty() {
                return false;
            }
            connection.send(bytes.to_ascii_uppercase());
        }
    })
}

fn switched(sidecar: &Sidecar) -> Connection {
    let mut client = Connection::to(sidecar.address());
    client.send(HANDSHAKE);
    assert_eq!(client.response().status(), 101);
    client
}

#[test]
fn a_websocket_handshake_arrives_whole_on_both_sides() {
    let upstream = echo();
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send(HANDSHAKE);
    let answer = client.response();
    assert_eq!(answer.start_line(), "HTTP/1.1 101 Switching Protocols");
    assert_eq!(answer.value("upgrade").as_deref(), Some("WebSocket"));
    assert_eq!(answer.value("connection").as_deref(), Some("Upgrade"));
    assert_eq!(answer.value("sec-websocket-accept").as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.value("sec-websocket-protocol").as_deref(), Some("superchat"));
    assert!(answer.values("content-length").is_empty() && answer.values("transfer-encoding").is_empty());
    client.send("hello");
    assert_eq!(client.take(5), b"HELLO");
    let request = upstream.request();
    assert_eq!(request.value("upgrade").as_deref(), Some("websocket"));
    assert_eq!(request.value("connection").as_deref(), Some("Upgrade"));
    assert_eq!(request.value("sec-websocket-protocol").as_deref(), Some("chat, superchat"));
    // The two header lines of the upgrade are where the client put them.
    let names: Vec<String> = request.fields().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names[..3], ["Host", "Connection", "Upgrade"]);
}

#[test]
fn any_agreed_protocol_passes_whatever_its_case() {
    let upstream = Upstream::with(|connection, _| {
        connection.send("HTTP/1.1 101 Go On\r\nConnection: upgrade\r\nUpgrade: Foo/2\r\n\r\nearly");
        let bytes = connection.take(3);
        connection.send(bytes);
        false
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    // The option is on a second line, the protocols are on two; bytes of the new protocol follow
    // the head immediately.
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: UPGRADE\r\nUpgrade: bar\r\nUpgrade: FOO/2\r\n\r\nabc");
    let answer = client.response();
    assert_eq!(answer.start_line(), "HTTP/1.1 101 Go On");
    assert_eq!(client.take(8), b"earlyabc");
    assert!(client.is_closed());
}

#[test]
fn each_direction_closes_on_its_own() {
    let (sender, receiver) = channel();
    let upstream = Upstream::with(move |connection, _| {
        connection.send(SWITCHED);
        let mut all = Vec::new();
        while let [byte] = connection.take(1)[..] {
            all.push(byte);
        }
        sender.send(all).unwrap();
        connection.send("late words");
        false
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = switched(&sidecar);
    client.send("last words");
    client.finish();
    assert_eq!(receiver.recv_timeout(Duration::from_secs(10)).unwrap(), b"last words");
    assert_eq!(client.take(100), b"late words");

    // And the reverse: the upstream is finished, the client is not.
    let (sender, receiver): (_, Receiver<Vec<u8>>) = channel();
    let upstream = Upstream::with(move |connection, _| {
        connection.send(SWITCHED).send("bye");
        connection.finish();
        sender.send(connection.take(9)).unwrap();
        false
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = switched(&sidecar);
    assert_eq!(client.take(100), b"bye");
    client.send("but still");
    assert_eq!(receiver.recv_timeout(Duration::from_secs(10)).unwrap(), b"but still");
}

#[test]
fn a_refused_switch_is_an_ordinary_answer_and_the_connection_goes_on() {
    let upstream = Upstream::answering(|_| "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    for _ in 0..2 {
        client.send(HANDSHAKE);
        let answer = client.response();
        assert_eq!((answer.status(), answer.body.as_slice()), (403, &b"no"[..]));
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn h2c_is_never_asked_for_upstream() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    for upgrade in ["h2c", "H2C", "h2c, H2c", "h2c;q=1", "\"h2c\"", "h2c/1", "h2", "HTTP/2.0", "TLS/1.0"] {
        let mut client = Connection::to(sidecar.address());
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"));
        assert_eq!(client.response().status(), 200);
    }
    let mut client = Connection::to(sidecar.address());
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nHTTP2-Settings: AA\r\nUpgrade: h2c;q=1, websocket, HTTP/2.0\r\n\r\n",
    );
    assert_eq!(client.response().status(), 200);
    let requests = upstream.requests();
    assert!(requests.iter().all(|request| request.values("http2-settings").is_empty()));
    let upgrades: Vec<_> = requests.iter().map(|request| request.values("upgrade")).collect();
    let (last, others) = upgrades.split_last().unwrap();
    assert_eq!((last.as_slice(), others.len()), (&["websocket".to_owned()][..], 9));
    assert!(others.iter().all(Vec::is_empty), "{others:?}");
}

#[test]
fn what_was_not_asked_for_is_a_502() {
    let other = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n";
    let unnamed = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n";
    let plain = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let without_option = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n";
    let with_a_body =
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx";
    let old = "GET / HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for (answer, request) in [
        (other, HANDSHAKE),
        (unnamed, HANDSHAKE),
        (SWITCHED, plain),
        (SWITCHED, without_option),
        (SWITCHED, with_a_body),
        (SWITCHED, old),
    ] {
        let upstream = Upstream::with(move |connection, _| {
            connection.send(answer);
            connection.is_closed()
        });
        let sidecar = Sidecar::forwarding(upstream.address());
        let mut client = Connection::to(sidecar.address());
        client.send(request);
        let answer = client.response();
        assert_eq!(answer.status(), 502, "{request}");
        assert_eq!(answer.json()["code"], "wp_jwt_sidecar_upstream_unasked_upgrade");
    }
}

#[test]
fn a_silent_tunnel_is_closed_and_a_busy_one_is_not() {
    let upstream = echo();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--server-tunnel-idle", "2s"]);
    let mut silent = switched(&sidecar);
    let mut busy = switched(&sidecar);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        busy.send("x");
        assert_eq!(busy.take(1), b"X");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(silent.is_closed());
    // So the upstream's own timeout was not the cause.
    assert!(begun.elapsed() < Duration::from_secs(20));
    busy.send("y");
    assert_eq!(busy.take(1), b"Y");
}

#[test]
fn a_drain_waits_for_tunnels_up_to_its_limit() {
    let upstream = echo();
    let mut sidecar = Sidecar::forwarding(upstream.address());
    let mut client = switched(&sidecar);
    sidecar.signal("TERM");
    sidecar.wait_for_log("draining");
    client.send("still");
    assert_eq!(client.take(5), b"STILL");
    drop(client);
    assert_eq!(sidecar.wait().code(), Some(0));

    let mut sidecar = Sidecar::forwarding_with(upstream.address(), &["--shutdown-drain-timeout", "500ms"]);
    let _client = switched(&sidecar);
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(sidecar.wait_for_log("did not end within drain_timeout").contains("\"tunnels\":1"));
}

#[test]
fn a_client_that_leaves_its_tunnel_ends_the_upstreams_side() {
    let (sender, receiver) = channel();
    let upstream = Upstream::with(move |connection, _| {
        connection.send(SWITCHED);
        let closed = connection.is_closed();
        sender.send(closed).unwrap();
        false
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    drop(switched(&sidecar));
    assert!(receiver.recv_timeout(Duration::from_secs(10)).unwrap());
}
