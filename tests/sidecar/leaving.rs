//! A client that leaves ends its request, whatever that waits for: even if bytes of it are unread
//! before its end, so that a read cannot notice it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tempfile::TempDir;

use crate::support::raw::{Connection, Upstream};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::tls::{Authority, TlsConnection, tls_address};

/// An upload that fits into no buffer.
const UPLOAD: &str = "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 500000000\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// No time limit ends anything during a test.
const NEVER: [&str; 10] = [
    "--log-level",
    "debug",
    "--upstream-response-header-timeout",
    "1h",
    "--upstream-response-body-idle",
    "1h",
    "--server-request-body-idle",
    "1h",
    "--server-response-write-idle",
    "1h",
];

/// Reads the heads of requests, begins to respond, and reads nothing more until the test tells it
/// to find out whether the sidecar has closed the connection.
struct Deaf {
    upstream: Upstream,
    begun: Receiver<()>,
    find_out: Sender<()>,
    closed: Receiver<bool>,
}

impl Deaf {
    fn new(answer: &'static str) -> Deaf {
        let ((begins, begun), (find_out, finding_out), (closes, closed)) = (channel(), channel(), channel());
        let finding_out = Arc::new(Mutex::new(finding_out));
        let upstream = Upstream::of_connections(move |mut connection| {
            connection.head().unwrap();
            connection.send(answer);
            begins.send(()).unwrap();
            finding_out.lock().unwrap().recv().unwrap();
            // With unread bytes in front of it, a close shows only in a write.
            let deadline = Instant::now() + PATIENCE;
            let mut is_closed = false;
            while !is_closed && Instant::now() < deadline {
                is_closed = connection.stream.write(b"x").is_err();
                sleep(Duration::from_millis(10));
            }
            let _ = closes.send(is_closed);
        });
        Deaf { upstream, begun, find_out, closed }
    }

    fn is_let_go(&self) -> bool {
        self.find_out.send(()).unwrap();
        self.closed.recv_timeout(2 * PATIENCE).unwrap()
    }
}

/// How long nothing moves when everything is full, even on a busy machine.
const FULL: Duration = Duration::from_secs(1);

/// Sends until all buffers on the way are full and a write times out.
fn fill(client: &mut impl Write) {
    loop {
        let begun = Instant::now();
        match client.write(&[b'x'; 1 << 16]) {
            Ok(_) if begun.elapsed() < FULL => {}
            Ok(_) => return,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn reset(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
}

/// How many bytes sent by `client` are unread in the system.
fn unread(sidecar: SocketAddr, client: &TcpStream) -> u64 {
    let ends = |near: u16, far: u16| format!("0100007F:{near:04X} 0100007F:{far:04X}");
    let ends = ends(sidecar.port(), client.local_addr().unwrap().port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let line = table.lines().find(|line| line.contains(&ends)).expect("the connection");
    let queues = line.split_whitespace().nth(4).unwrap();
    u64::from_str_radix(queues.split_once(':').unwrap().1, 16).unwrap()
}

#[test]
fn in_an_upload_that_the_upstream_does_not_read() {
    let deaf = Deaf::new("");
    let sidecar = Sidecar::forwarding_with(deaf.upstream.address(), &NEVER);
    let mut client = Connection::to(sidecar.address());
    client.send(UPLOAD);
    client.stream.set_write_timeout(Some(FULL)).unwrap();
    fill(&mut client.stream);
    reset(client.stream);
    sidecar.wait_for_log("\"status\":499");
    assert!(deaf.is_let_go());
}

/// The last bytes are never read, and precede the end of the stream.
#[test]
fn by_an_orderly_close_behind_bytes_that_are_not_read() {
    let deaf = Deaf::new("");
    let sidecar = Sidecar::forwarding_with(deaf.upstream.address(), &NEVER);
    let mut client = Connection::to(sidecar.address());
    client.send(UPLOAD);
    loop {
        client.send([b'x'; 1 << 15]);
        let begun = Instant::now();
        while unread(sidecar.address(), &client.stream) > 0 && begun.elapsed() < FULL {
            sleep(Duration::from_millis(1));
        }
        if begun.elapsed() >= FULL {
            break;
        }
    }
    drop(client);
    sidecar.wait_for_log("\"status\":499");
    assert!(deaf.is_let_go());
}

#[test]
fn while_a_connection_to_the_upstream_is_waited_for() {
    let deaf = Deaf::new("");
    let one = ["--server-workers", "1", "--upstream-max-connections", "1", "--upstream-connect-timeout", "1h"];
    let sidecar = Sidecar::forwarding_with(deaf.upstream.address(), &[&NEVER[..], &one].concat());
    let mut first = Connection::to(sidecar.address());
    first.send(GET);
    deaf.begun.recv_timeout(PATIENCE).unwrap();
    for is_reset in [false, true] {
        let lines = sidecar.log().len();
        let mut second = Connection::to(sidecar.address());
        // More than is read before a connection is taken.
        second.send(UPLOAD).send([b'x'; 100 << 10]);
        let begun = Instant::now();
        while unread(sidecar.address(), &second.stream) > 40 << 10 {
            assert!(begun.elapsed() < PATIENCE, "the sidecar reads no more of it");
            sleep(Duration::from_millis(1));
        }
        if is_reset {
            reset(second.stream);
        } else {
            drop(second);
        }
        sidecar.wait_for_log_after(lines, "\"status\":499");
    }
}

#[test]
fn with_its_next_request_sent() {
    for is_reset in [false, true] {
        let deaf = Deaf::new("");
        let sidecar = Sidecar::forwarding_with(deaf.upstream.address(), &NEVER);
        let mut client = Connection::to(sidecar.address());
        client.send(GET).send(GET);
        deaf.begun.recv_timeout(PATIENCE).unwrap();
        if is_reset {
            client.send(UPLOAD).send([b'x'; 50_000]);
            reset(client.stream);
        } else {
            drop(client);
        }
        sidecar.wait_for_log("\"status\":499");
        assert!(deaf.is_let_go());
    }
}

#[test]
fn while_its_answer_stands_still() {
    let deaf = Deaf::new("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
    let sidecar = Sidecar::forwarding_with(deaf.upstream.address(), &NEVER);
    let mut client = Connection::to(sidecar.address());
    client.send(UPLOAD);
    client.stream.set_write_timeout(Some(FULL)).unwrap();
    fill(&mut client.stream);
    client.head().unwrap();
    client.take(3);
    reset(client.stream);
    sidecar.wait_for_log("connection ended");
    assert!(deaf.is_let_go());
}

#[test]
fn by_tls_and_by_a_unix_socket() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("http.sock");
    let listen = format!("unix:{}", socket.display());
    let authority = Authority::new();
    let pair = authority.issue("a", &["a.example"]);
    let pair = pair.argument();
    let listeners = ["--listen", &listen, "--tls-listen", "127.0.0.1:0", "--tls-certificates", &pair];

    let deaf = Deaf::new("");
    let sidecar = Sidecar::forwarding_with(deaf.upstream.address(), &[&NEVER[..], &listeners].concat());
    let client = TlsConnection::to(tls_address(&sidecar), "a.example", authority.client(&["http/1.1"])).unwrap();
    let mut stream = client.stream;
    stream.write_all(UPLOAD.as_bytes()).unwrap();
    stream.sock.set_write_timeout(Some(FULL)).unwrap();
    fill(&mut stream);
    reset(stream.sock);
    sidecar.wait_for_log("\"status\":499");
    assert!(deaf.is_let_go());
    drop(sidecar);

    let deaf = Deaf::new("");
    let sidecar = Sidecar::forwarding_with(deaf.upstream.address(), &[&NEVER[..], &listeners].concat());
    sidecar.wait_for_log("http.sock");
    let mut client = UnixStream::connect(&socket).unwrap();
    client.write_all(UPLOAD.as_bytes()).unwrap();
    client.set_write_timeout(Some(FULL)).unwrap();
    fill(&mut client);
    drop(client);
    sidecar.wait_for_log("\"status\":499");
    assert!(deaf.is_let_go());
}

/// TCP does not show whether it still reads, and it has announced that it sends nothing more. nginx
/// does the same.
#[test]
fn who_ends_its_sending_side_has_left() {
    let deaf = Deaf::new("");
    let sidecar = Sidecar::forwarding_with(deaf.upstream.address(), &NEVER);
    for requests in [1, 2] {
        let lines = sidecar.log().len();
        let mut client = Connection::to(sidecar.address());
        client.send(GET.repeat(requests));
        deaf.begun.recv_timeout(PATIENCE).unwrap();
        client.finish();
        sidecar.wait_for_log_after(lines, "\"status\":499");
        let mut end = Vec::new();
        client.stream.read_to_end(&mut end).unwrap();
        assert!(end.is_empty());
    }
}

/// With bytes in transit, a client that has left completely answers by a reset: a client that still
/// reads need not lose anything.
#[test]
fn who_ends_its_sending_side_with_an_answer_on_its_way_gets_that() {
    const LARGE: usize = 40 << 20;
    let upstream = Upstream::with(|connection, _| {
        connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
        connection.stream.write_all(&vec![b'x'; LARGE]).is_ok()
    });
    let sidecar = Sidecar::forwarding_with(upstream.address(), &NEVER);
    let mut client = Connection::to(sidecar.address());
    client.send(GET.repeat(2));
    client.stream.peek(&mut [0]).expect("an answer");
    client.finish();
    sleep(2 * FULL);
    let answer = client.response();
    assert_eq!((answer.complete, answer.body.len()), (true, LARGE));
}

/// The form of wp-cron's call (`spawn_cron` in wp-includes/cron.php): sent completely, and closed
/// at once.
fn call(number: usize, length: usize) -> String {
    format!(
        "POST /wp-cron.php?n={number} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{}",
        "x".repeat(length)
    )
}

/// Responds in two parts and reports for each request whether its body was complete, and whether
/// the sidecar read both parts.
fn scripts() -> (Upstream, Receiver<(String, usize, bool)>) {
    let (sender, ended) = channel();
    let upstream = Upstream::with(move |connection, request| {
        sleep(Duration::from_millis(50));
        // More than the sockets hold: a reader that is missing is noticed.
        let part = vec![b'y'; 4 << 20];
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 2 * part.len());
        let took = connection.stream.write_all(head.as_bytes()).is_ok()
            && connection.stream.write_all(&part).is_ok()
            && connection.stream.write_all(&part).is_ok();
        sender.send((request.start_line(), request.body.len(), took)).unwrap();
        took
    });
    (upstream, ended)
}

#[test]
fn a_request_goes_on_without_its_client_where_that_is_wanted() {
    // Without the key, most of 30 clients that leave at once are noticed before anything is sent.
    for (length, is_reset, leavers) in [(0, false, 30), (0, true, 8), (100 << 10, false, 8), (100 << 10, true, 8)] {
        let (upstream, ended) = scripts();
        let keys = ["--server-ignore-client-abort", "true", "--server-workers", "1"];
        let sidecar = Sidecar::forwarding_with(upstream.address(), &[&NEVER[..], &keys].concat());
        for number in 0..leavers {
            let mut client = Connection::to(sidecar.address());
            client.send(call(number, length));
            if is_reset {
                reset(client.stream);
            } else {
                drop(client);
            }
        }
        let mut lines = Vec::new();
        for _ in 0..leavers {
            let (line, received, took) = ended.recv_timeout(PATIENCE).expect("every request is sent on");
            assert_eq!((received, took), (length, true), "{line}");
            lines.push(line);
        }
        lines.sort();
        lines.dedup();
        assert_eq!(lines.len(), leavers, "each once");
        assert!(sidecar.log().iter().all(|line| !line.contains("\"status\":499")));
    }
}

/// An upstream with endless responses: a part each `pause`. Reports when the sidecar has dropped
/// one.
fn endless(part: usize, pause: Duration) -> (Upstream, Receiver<()>) {
    let (sender, ended) = channel();
    let upstream = Upstream::of_connections(move |mut connection| {
        connection.head().unwrap();
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = format!("{part:x}\r\n{}\r\n", "y".repeat(part));
        while connection.stream.write_all(chunk.as_bytes()).is_ok() {
            sleep(pause);
        }
        let _ = sender.send(());
    });
    (upstream, ended)
}

/// Clients that come and leave would hold all connections to the site with such responses.
#[test]
fn an_answer_without_end_ends_all_the_same_when_its_client_has_left() {
    let (hour, tick) = ("1h", Duration::from_millis(20));
    for (part, pause, idle, drains) in [
        (1 << 16, Duration::ZERO, hour, false), // by its size
        (10, tick, "300ms", false),             // by its time
        (10, tick, hour, true),                 // since the program is to end
    ] {
        let (upstream, ended) = endless(part, pause);
        let keys = ["--server-ignore-client-abort", "true", "--server-response-write-idle", idle];
        let sidecar = Sidecar::forwarding_with(upstream.address(), &keys);
        let mut client = Connection::to(sidecar.address());
        client.send(GET);
        client.head().unwrap();
        reset(client.stream);
        if drains {
            assert!(ended.recv_timeout(Duration::from_millis(500)).is_err(), "it goes on without its client");
            sidecar.signal("TERM");
        }
        ended.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{part} bytes each {pause:?} go on"));
    }
}

#[test]
fn who_ends_its_sending_side_gets_its_answer_where_that_is_wanted() {
    let (go_on, going_on) = channel();
    let going_on = Mutex::new(going_on);
    let upstream = Upstream::with(move |connection, _| {
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc");
        going_on.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        connection.send("def");
        true
    });
    let keys = ["--server-ignore-client-abort", "true"];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &[&NEVER[..], &keys].concat());
    let mut client = Connection::to(sidecar.address());
    client.send(GET);
    client.finish();
    client.head().unwrap();
    assert_eq!(client.take(3), b"abc");
    go_on.send(()).unwrap();
    assert_eq!(client.take(3), b"def");
}

/// A client that leaves within its request has not sent one.
#[test]
fn half_a_request_is_not_sent_on_all_the_same() {
    let (upstream, ended) = scripts();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--server-ignore-client-abort", "true"]);
    let mut client = Connection::to(sidecar.address());
    client.send(&call(0, 1000)[..500]);
    drop(client);
    sidecar.wait_for_log("\"status\":400");
    let mut client = Connection::to(sidecar.address());
    client.send(call(1, 10));
    assert_eq!(client.response().body.len(), 8 << 20);
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap().1, 10);
    assert_eq!(upstream.requests().len(), 1);
}
