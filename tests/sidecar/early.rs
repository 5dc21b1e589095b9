//! Responses that begin before their request has ended: both continue, and a request that fails
//! then does not affect its response, and is its client's fault.

use std::io::Write as _;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use crate::support::raw::{Connection, Message, Upstream};
use crate::support::sidecar::{PATIENCE, Sidecar};

/// More than all buffers between client and upstream hold, in bytes.
const LARGE: usize = 40 << 20;

/// More than is read before the upstream is contacted, in bytes.
const START: usize = 100_000;

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

const LIMIT: &str = "2s";

/// Two of these are well within the limit, three exceed it.
const STEP: Duration = Duration::from_millis(800);

/// An upstream that sends a [`LARGE`] response as soon as it has the head of a request, and reads
/// the request meanwhile. Reports how much of it arrived.
fn both_ways() -> (Upstream, Receiver<usize>) {
    answering_until(Last::Sent)
}

/// When the response ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// When all of it is sent.
    Sent,
    /// Not before [`LARGE`] bytes of the request have arrived, too.
    Read,
}

fn answering_until(last: Last) -> (Upstream, Receiver<usize>) {
    let (sender, receiver) = channel();
    let upstream = Upstream::of_connections(move |mut connection| {
        connection.head().unwrap();
        let mut writing = connection.stream.try_clone().unwrap();
        let (is_read, wait) = channel();
        let answer: JoinHandle<bool> = std::thread::spawn(move || {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
            let is_sent =
                writing.write_all(head.as_bytes()).is_ok() && writing.write_all(&vec![b'x'; LARGE - 1]).is_ok();
            let is_time = last == Last::Sent || wait.recv().is_ok();
            is_sent && is_time && writing.write_all(b"x").is_ok()
        });
        // A slow test keeps it waiting.
        connection.stream.set_read_timeout(Some(3 * PATIENCE)).unwrap();
        connection.stream.set_write_timeout(Some(3 * PATIENCE)).unwrap();
        let mut read = 0;
        while let part @ 1.. = connection.take(1 << 16).len() {
            read += part;
            if read >= LARGE {
                // The response may have ended before.
                let _ = is_read.send(());
            }
        }
        let _ = sender.send(read);
        let _ = answer.join();
    });
    (upstream, receiver)
}

fn chunk(size: usize) -> String {
    format!("{size:x}\r\n{}\r\n", "x".repeat(size))
}

#[test]
fn a_client_may_send_everything_before_it_reads() {
    // The rest of a request is dropped when its response has ended.
    let (upstream, receiver) = answering_until(Last::Read);
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"));
    client.send(vec![b'x'; LARGE]);
    let answer = client.response();
    assert_eq!((answer.complete, answer.body.len()), (true, LARGE));
    drop((client, sidecar));
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), LARGE);
}

#[test]
fn who_sends_is_not_silent_though_it_does_not_read() {
    let (upstream, _heard) = both_ways();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--server-response-write-idle", LIMIT]);
    let mut client = Connection::to(sidecar.address());
    client.send(CHUNKED).send(chunk(START));
    for _ in 0..4 {
        sleep(STEP);
        client.send(chunk(1000));
    }
    client.send("0\r\n\r\n");
    let answer = client.response();
    assert_eq!((answer.complete, answer.body.len()), (true, LARGE));
}

#[test]
fn who_neither_sends_nor_reads_is_cut_off() {
    let (upstream, receiver) = both_ways();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--server-response-write-idle", LIMIT]);
    let mut client = Connection::to(sidecar.address());
    client.send(CHUNKED).send(chunk(START));
    assert!(receiver.recv_timeout(PATIENCE).unwrap() >= START);
    assert!(sidecar.wait_for_log("the client does not read its answer").contains("nothing moved for 2s"));
}

/// The unwanted rest of a request must be read, otherwise the client never reads its response.
#[test]
fn the_unwanted_rest_of_a_request_is_read_before_its_response() {
    let (upstream, receiver) = both_ways();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--server-max-request-body", "1000000"]);
    let mut client = begun(&sidecar);
    for _ in 0..LARGE / START {
        client.send(chunk(START));
    }
    client.send("0\r\n\r\n");
    let answer = client.response();
    assert_eq!((answer.complete, answer.body.len()), (true, LARGE));
    drop(client);
    assert!(receiver.recv_timeout(PATIENCE).unwrap() < 2_000_000);
    is_told_as_the_clients(&sidecar, "the request body is larger than server.max_request_body");
}

/// An upstream that sends half of `abcdef` when it has the head of a request, and the rest when the
/// test allows it.
fn in_halves() -> (Upstream, Sender<()>, Receiver<()>) {
    let ((go_on, wait), (sender, receiver)) = (channel(), channel());
    let wait = Arc::new(Mutex::new(wait));
    let upstream = Upstream::of_connections(move |mut connection| {
        connection.head().unwrap();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc");
        if wait.lock().unwrap().recv().is_ok() {
            connection.send("def");
        }
        connection.stream.set_read_timeout(Some(2 * PATIENCE)).unwrap();
        while !connection.take(1 << 16).is_empty() {}
        let _ = sender.send(());
    });
    (upstream, go_on, receiver)
}

/// A client whose upload continues while its response has begun.
fn begun(sidecar: &Sidecar) -> Connection {
    let mut client = Connection::to(sidecar.address());
    client.send(CHUNKED).send(chunk(START));
    client.stream.peek(&mut [0]).expect("an answer");
    client
}

fn is_told_as_the_clients(sidecar: &Sidecar, what: &str) {
    let line = sidecar.wait_for_log(what);
    assert!(line.contains("INFO") && line.contains("\"client\":\"127.0.0.1\""), "{line}");
    assert!(line.contains("its answer had begun"), "{line}");
    assert!(sidecar.log().iter().all(|line| !line.contains("WARN")), "{:?}", sidecar.log());
}

fn whole(answer: &Message) -> (bool, &[u8]) {
    (answer.complete, &answer.body)
}

#[test]
fn a_request_that_breaks_does_not_break_its_answer() {
    let limits = ["--server-request-body-idle", LIMIT, "--server-max-request-body", "200000"];
    for (rest, what) in [
        ("zz\r\nabc\r\n".to_owned(), "could not read the request body"),
        ("3\r\nabcXX".to_owned(), "could not read the request body"),
        ("0\r\nA B: c\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "could not read the request body"),
        ("3\r\nab".to_owned(), "the request body did not arrive in time"),
        (chunk(2 * START), "the request body is larger than server.max_request_body"),
    ] {
        let (upstream, go_on, receiver) = in_halves();
        let sidecar = Sidecar::forwarding_with(upstream.address(), &limits);
        let mut client = begun(&sidecar);
        client.send(&rest);
        is_told_as_the_clients(&sidecar, what);
        go_on.send(()).unwrap();
        assert_eq!(whole(&client.response()), (true, &b"abcdef"[..]), "{what}");
        // Where its next request would begin is unknown, and the upstream has half a request.
        assert!(client.is_closed(), "{what}");
        receiver.recv_timeout(PATIENCE).unwrap();
        is_told_as_the_clients(&sidecar, what);
    }
}

#[test]
fn an_answer_that_waits_for_the_rest_of_a_broken_request_is_cut() {
    let (upstream, go_on, receiver) = in_halves();
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = begun(&sidecar);
    client.send("zz\r\n");
    // Sooner than by response_body_idle.
    assert_eq!(whole(&client.response()), (false, &b"abc"[..]));
    drop(go_on);
    receiver.recv_timeout(PATIENCE).unwrap();
    is_told_as_the_clients(&sidecar, "could not read the request body");
}

#[test]
fn a_client_that_leaves_in_its_upload_ends_it() {
    let (upstream, go_on, receiver) = in_halves();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--log-level", "debug"]);
    drop(begun(&sidecar));
    is_told_as_the_clients(&sidecar, "could not read the request body");
    sidecar.wait_for_log("connection ended");
    drop(go_on);
    receiver.recv_timeout(PATIENCE).unwrap();
    is_told_as_the_clients(&sidecar, "could not read the request body");
}
