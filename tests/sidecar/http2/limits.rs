//! What one HTTP/2 connection can take from others: unread responses, floods of frames, endless
//! fields.

use std::io::Write as _;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::raw::{CANCEL, DATA, PING, PRIORITY, RawHttp2, SETTINGS, WINDOW_UPDATE};
use super::{Front, empty, get};
use crate::support::raw::Upstream;
use crate::support::sidecar::PATIENCE;

const USUAL: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "shop.example"), (":path", "/")];

/// SETTINGS_INITIAL_WINDOW_SIZE: not a byte of any answer, before the client opens the stream's
/// window.
const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];

/// An upstream with a response that no buffer on the way holds, and a channel that reports when its
/// connection was closed.
fn endless() -> (Upstream, std::sync::mpsc::Receiver<()>) {
    let (sender, receiver) = channel();
    let upstream = Upstream::with(move |connection, _| {
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(65536));
        while connection.stream.write_all(chunk.as_bytes()).is_ok() {}
        let _ = sender.send(());
        false
    });
    (upstream, receiver)
}

#[test]
fn a_stream_without_a_window_does_not_hold_its_upstream_connection() {
    let (upstream, closed) = endless();
    let front = Front::of(&upstream, &["--server-response-write-idle", "500ms"]);
    let mut client = front.raw();
    client.hello_with(&NO_WINDOW);
    client.request(1, &USUAL, true);
    closed.recv_timeout(PATIENCE).expect("the upstream's connection is closed");
    assert_eq!(client.reset_of(1), CANCEL);
    let line = front.sidecar.wait_for_log("the client does not read its answer");
    assert!(line.contains("500ms") && line.contains("127.0.0.1"), "{line}");
    // The stream has ended, but not the connection: a client that reads continues.
    client.request(3, &USUAL, true);
    assert_eq!(client.status(3), 200);
    client.frame(WINDOW_UPDATE, 0, 3, &100_000_u32.to_be_bytes());
    client.frame(WINDOW_UPDATE, 0, 0, &100_000_u32.to_be_bytes());
    assert!(client.data_of(3, 100_000) >= 100_000);
}

#[test]
fn a_stream_that_is_read_byte_by_byte_does_not_either() {
    let (upstream, closed) = endless();
    let front = Front::of(&upstream, &["--server-response-write-idle", "500ms"]);
    let mut client = front.raw();
    client.hello_with(&NO_WINDOW);
    client.request(1, &USUAL, true);
    let deadline = Instant::now() + PATIENCE;
    // A byte every 20 ms is 50 a second; server.min_rate is 240, and never is there 500 ms of
    // silence.
    while closed.recv_timeout(Duration::from_millis(20)).is_err() {
        assert!(Instant::now() < deadline, "the upstream's connection stays open");
        client.frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes());
    }
    assert_eq!(client.reset_of(1), CANCEL);
    front.sidecar.wait_for_log("the client does not read its answer");
}

/// What counts is what the client reads, not whether a frame of the response has ended; and bytes
/// in transit keep a connection from being idle, even if the site has sent everything.
#[test]
fn a_slow_reader_goes_on_at_any_rate_above_the_minimum() {
    const LENGTH: usize = 12_000;
    const STEP: u32 = 500;
    let body = "x".repeat(LENGTH);
    let upstream = Upstream::answering(move |request| match request.start_line().contains("/chunked") {
        true => format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{LENGTH:x}\r\n{body}\r\n0\r\n\r\n"),
        false => format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n{body}"),
    });
    // All of it takes 2.4 seconds, at 5,000 bytes a second.
    let pace = ["--server-response-write-idle", "1s", "--server-min-rate", "1000"];
    let idle = ["--server-request-header-timeout", "300ms", "--server-keepalive-idle", "300ms"];
    let front = Front::of(&upstream, &[pace, idle].concat());
    let mut client = front.raw();
    client.hello_with(&NO_WINDOW);
    client.request(1, &USUAL, true);
    client.request(3, &[&USUAL[..3], &[(":path", "/chunked")]].concat(), true);
    let mut taken = 0;
    while taken < LENGTH {
        std::thread::sleep(Duration::from_millis(100));
        for stream in [1, 3] {
            client.frame(WINDOW_UPDATE, 0, stream, &STEP.to_be_bytes());
            assert_eq!(client.data_of(stream, STEP as usize), STEP as usize);
        }
        taken += STEP as usize;
    }
    assert!(front.sidecar.log().iter().all(|line| !line.contains("does not read its answer")));
    // Then it is idle.
    assert!(client.is_closed());
}

#[tokio::test]
async fn more_fields_than_allowed_are_431() {
    let upstream = Upstream::ok();
    let front = Front::of(&upstream, &["--server-max-header-fields", "20"]);
    let mut client = front.client().await;
    let request = |fields: usize| (0..fields).fold(get("/"), |request, i| request.header(format!("x-{i}"), "a"));
    // With the Host that is derived from the authority.
    assert_eq!(client.send(empty(request(19))).await.status(), 200);
    let answer = client.send(empty(request(20))).await;
    assert_eq!(answer.status(), 431);
    front.sidecar.wait_for_log("more fields than server.max_header_fields");
    // Each cookie may be a field of its own; for the site they are one line.
    let cookies = (0..50).fold(get("/"), |request, i| request.header("cookie", format!("c{i}=1")));
    assert_eq!(client.send(empty(cookies)).await.status(), 200);
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn a_connection_ends_in_order_after_so_many_requests() {
    let upstream = Upstream::ok();
    let front = Front::of(&upstream, &["--server-max-requests-per-connection", "3"]);
    let mut client = front.client().await;
    for _ in 0..3 {
        assert_eq!(client.send(empty(get("/"))).await.status(), 200);
    }
    tokio::time::timeout(PATIENCE, client.ended).await.expect("it is closed").unwrap().expect("in order");
}

/// Some clients end an empty upload by a frame of its own.
#[test]
fn a_body_that_ends_without_a_byte_has_the_length_zero() {
    let upstream = Upstream::ok();
    let front = Front::of(&upstream, &[]);
    let mut client = front.raw();
    client.hello();
    for (stream, method, length) in [(1, "POST", Some("0")), (3, "GET", None)] {
        client.request(stream, &[&[(":method", method)], &USUAL[1..]].concat(), false);
        client.frame(DATA, 1, stream, &[]);
        assert_eq!(client.status(stream), 200);
        let request = upstream.requests().pop().unwrap();
        assert_eq!(request.value("content-length").as_deref(), length, "{request:?}");
        assert_eq!(request.value("transfer-encoding"), None, "{request:?}");
    }
}

fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

/// Frames that are cheap to send and have no flow control.
#[test]
fn floods_of_small_frames_take_no_memory_and_stop_no_other_client() {
    let (sender, receiver) = channel();
    let upstream = Upstream::with(move |connection, request| {
        if request.start_line().starts_with("POST") {
            let _ = sender.send(());
            return !connection.is_closed();
        }
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        true
    });
    let front = Front::of(&upstream, &["--server-workers", "1"]);
    let before = resident(front.sidecar.pid());
    let post = [&[(":method", "POST")], &USUAL[1..]].concat();
    let flood = |kind: u8, stream: u32, payload: &'static [u8]| {
        let mut client: RawHttp2 = front.raw();
        client.hello();
        client.request(1, &post, false);
        client.limit_writes(Duration::from_secs(2));
        for _ in 0..100_000 {
            if client.has_failed() {
                break;
            }
            client.frame(kind, 0, stream, payload);
        }
        client
    };
    let floods = [
        ("PING", flood(PING, 0, b"12345678")),
        ("SETTINGS", flood(SETTINGS, 0, &[])),
        ("DATA without data", flood(DATA, 1, &[])),
        ("DATA of one byte", flood(DATA, 1, b"x")),
        ("PRIORITY", flood(PRIORITY, 1, &[0, 0, 0, 3, 1])),
        ("WINDOW_UPDATE", flood(WINDOW_UPDATE, 0, &[0, 0, 0, 1])),
    ];
    let mut other = front.raw();
    other.hello();
    other.request(1, &USUAL, true);
    assert_eq!(other.status(1), 200);
    let grown = resident(front.sidecar.pid()).saturating_sub(before);
    assert!(grown < 30, "{grown} MiB more after floods");
    drop((floods, receiver));
}
