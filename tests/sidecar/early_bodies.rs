//! When the body of a request is sent (`upstream.early_bodies`), and the site's interim responses.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::admin;
use crate::support::raw::{Connection, OK, Upstream};
use crate::support::sidecar::{PATIENCE, Sidecar, wait_until};

const EXPECTING: &str = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
const ALWAYS: &[&str] = &["--upstream-early-bodies", "always"];

const ADMIN: [&str; 2] = ["--admin-listen", "127.0.0.1:0"];

/// The metrics that this upstream and its clients have caused.
fn assert_counted(sidecar: &Sidecar, lines: &[&str]) {
    let text = String::from_utf8(admin::get(admin::admin(sidecar), "/metrics").body).unwrap();
    for line in lines {
        assert!(text.contains(&format!("wp_jwt_sidecar_{line}\n")), "{line}: {text}");
    }
}

/// Whether nothing arrives for a while.
fn is_silent(client: &Connection) -> bool {
    client.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let is_silent = client.stream.peek(&mut [0]).is_err();
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    is_silent
}

#[test]
fn a_site_refuses_an_upload_before_a_byte_of_it_came() {
    let (sender, receiver) = channel();
    let upstream = Upstream::of_connections(move |mut connection| {
        let head = String::from_utf8(connection.head().unwrap()).unwrap();
        connection.send("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
        sender.send((head, connection.take(1))).unwrap();
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2000000000\r\n\r\n");
    let answer = client.response();
    // The bytes that follow could be the body as well as a request.
    assert_eq!((answer.status(), answer.value("connection").as_deref()), (413, Some("close")));
    let (head, body) = receiver.recv_timeout(PATIENCE).unwrap();
    assert!(head.contains("Expect: 100-continue\r\nContent-Length: 2000000000\r\n"), "{head}");
    assert_eq!(body, b"", "the connection ends");
    client.finish();
    assert!(client.is_closed());
}

#[test]
fn a_client_is_told_to_send_when_the_site_asks() {
    let (go_on, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::of_connections(move |mut connection| {
        connection.head().unwrap();
        wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        connection.send("HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(connection.take(3), b"abc");
        connection.send(OK);
        connection.is_closed();
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send(EXPECTING);
    assert!(is_silent(&client));
    go_on.send(()).unwrap();
    assert_eq!(client.head().unwrap(), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("abc");
    let answer = client.response();
    assert_eq!((answer.status(), answer.value("connection")), (200, None));
}

/// Another request on the same connection shows that both sides know where the body ended.
#[test]
fn a_site_that_never_asks_gets_the_body_after_a_second() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    let begun = Instant::now();
    client.send(EXPECTING);
    assert_eq!(client.response().status(), 100);
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    client.send("abc");
    assert_eq!(client.response().status(), 200);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    assert_eq!((upstream.requests()[0].body.as_slice(), upstream.connections()), (&b"abc"[..], 1));
}

#[test]
fn by_default_only_who_waits_to_be_told_is_early() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send(CHUNKED).send("1\r\na\r\n");
    assert!(is_silent(&client));
    assert_eq!(upstream.connections(), 0);
    client.send("0\r\n\r\n");
    assert_eq!(client.response().status(), 200);
}

/// An upstream that answers each line of a chunked request as it arrives.
fn parrot() -> Upstream {
    Upstream::of_connections(|mut connection| {
        while connection.head().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            loop {
                let size = connection.take(3);
                let rest = connection.take(if size == b"0\r\n" { 2 } else { 3 });
                if rest.is_empty() {
                    return;
                }
                connection.send([&size[..], &rest].concat());
                if size == b"0\r\n" {
                    break;
                }
            }
        }
    })
}

fn says(client: &mut Connection, letter: char) {
    let chunk = format!("1\r\n{letter}\r\n");
    client.send(&chunk);
    assert_eq!(String::from_utf8(client.take(chunk.len())).unwrap(), chunk);
}

fn ends(client: &mut Connection) {
    client.send("0\r\n\r\n");
    assert_eq!(client.take(5), b"0\r\n\r\n");
}

#[test]
fn client_and_site_speak_by_turns() {
    let upstream = parrot();
    let sidecar = Sidecar::forwarding_with(upstream.address(), ALWAYS);
    let mut client = Connection::to(sidecar.address());
    for _ in 0..2 {
        client.send(CHUNKED);
        assert!(client.head().unwrap().starts_with(b"HTTP/1.1 200 "));
        for letter in ['a', 'b', 'c'] {
            says(&mut client, letter);
        }
        ends(&mut client);
    }
    assert_eq!(upstream.connections(), 1);
    // A body with a length is not a conversation: its start is read first.
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab");
    assert!(is_silent(&client));
}

#[test]
fn one_address_has_so_many_early_bodies_and_no_more() {
    let upstream = parrot();
    let sidecar = Sidecar::forwarding_with(
        upstream.address(),
        &[ALWAYS, &["--server-max-early-bodies-per-address", "1"]].concat(),
    );
    let mut first = Connection::to(sidecar.address());
    first.send(CHUNKED);
    first.head().unwrap();
    says(&mut first, 'a');
    let mut second = Connection::to(sidecar.address());
    second.send(CHUNKED).send("1\r\na\r\n");
    assert!(is_silent(&second));
    let mut other = Connection::from(Ipv4Addr::new(127, 0, 0, 2), sidecar.address());
    other.send(CHUNKED);
    other.head().unwrap();
    says(&mut other, 'b');
    assert_eq!(upstream.connections(), 2);
    ends(&mut first);
    // A body that waits for its start continues to wait; the next one gets the permit.
    assert!(is_silent(&second));
    let mut third = Connection::to(sidecar.address());
    wait_until("a place", || {
        third = Connection::to(sidecar.address());
        third.send(CHUNKED);
        !is_silent(&third)
    });
    third.head().unwrap();
    says(&mut third, 'c');
}

#[test]
fn each_way_to_begin_is_counted() {
    let upstream = parrot();
    let arguments = [ALWAYS, &["--server-max-early-bodies-per-address", "1"], &ADMIN].concat();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &arguments);
    let mut first = Connection::to(sidecar.address());
    first.send(CHUNKED);
    first.head().unwrap();
    let mut second = Connection::to(sidecar.address());
    second.send(CHUNKED).send("0\r\n\r\n");
    assert_eq!(second.response().status(), 200);
    let asked = CHUNKED.replace("Host", "Expect: 100-continue\r\nHost");
    let mut third = Connection::from(Ipv4Addr::new(127, 0, 0, 2), sidecar.address());
    third.send(&asked);
    assert!(third.head().unwrap().starts_with(b"HTTP/1.1 200 "));
    let ways = ["at_once", "when_asked", "no_place"].map(|way| format!("early_bodies_total{{begin=\"{way}\"}} 1"));
    assert_counted(&sidecar, &ways.each_ref().map(String::as_str));
}

#[test]
fn an_early_body_must_keep_up_from_its_first_byte() {
    let (sender, receiver): (Sender<Vec<u8>>, Receiver<_>) = channel();
    let upstream = Upstream::of_connections(move |mut connection| {
        connection.head().unwrap();
        sender.send(connection.take(1000)).unwrap();
    });
    let slow = ["--server-request-body-idle", "1s"];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &[ALWAYS, &slow].concat());
    let mut client = Connection::to(sidecar.address());
    client.send(CHUNKED);
    let begun = Instant::now();
    // A byte now and then is too slow.
    while begun.elapsed() < Duration::from_millis(700) {
        client.send("1\r\na\r\n");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(client.response().status(), 408);
    let read = String::from_utf8(receiver.recv_timeout(PATIENCE).unwrap()).unwrap();
    assert!(read.starts_with("1\r\na\r\n") && !read.contains('0'), "{read}");
}

/// An upstream that sends interim responses.
fn announcing() -> Upstream {
    Upstream::answering(|_| {
        format!(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Going On\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <a>\r\nX-b: 1\r\nConnection: X-Hop\r\n\
             LINK: <b>\r\nX-Hop: 2\r\nContent-Length: 9\r\n\r\n{OK}"
        )
    })
}

#[test]
fn answers_before_the_answer_pass_where_they_are_wanted() {
    let upstream = announcing();
    let sidecar =
        Sidecar::forwarding_with(upstream.address(), &[&["--server-early-hints", "true"][..], &ADMIN].concat());
    let mut client = Connection::to(sidecar.address());
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.head().unwrap(), b"HTTP/1.1 102 Going On\r\n\r\n");
        let hints = b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\nX-b: 1\r\nLINK: <b>\r\n\r\n";
        assert_eq!(client.head().unwrap().escape_ascii().to_string(), hints.escape_ascii().to_string());
        assert_eq!(client.response().status(), 200);
    }
    let mut old = Connection::to(sidecar.address());
    old.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(old.response().status(), 200);
    // Two of each answer, and those of HTTP/1.0 pass nothing.
    assert_counted(
        &sidecar,
        &[
            "upstream_interim_responses_total{result=\"passed\"} 4",
            "upstream_interim_responses_total{result=\"dropped\"} 2",
        ],
    );
}

#[test]
fn by_default_there_is_one_answer() {
    let upstream = announcing();
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 200);
}

/// They arrive before the response, not together with it.
#[test]
fn hints_come_at_once_also_while_the_body_is_sent() {
    let (go_on, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::of_connections(move |mut connection| {
        connection.head().unwrap();
        connection.send("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n");
        wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        connection.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n");
        assert_eq!(connection.take(3), b"abc");
        connection.send(OK);
        connection.is_closed();
    });
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--server-early-hints", "true"]);
    let mut client = Connection::to(sidecar.address());
    client.send(EXPECTING);
    assert_eq!(client.head().unwrap(), b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n");
    go_on.send(()).unwrap();
    let mut both = [client.head().unwrap(), client.head().unwrap()];
    both.sort();
    assert_eq!(both.concat(), b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n");
    client.send("abc");
    assert_eq!(client.response().status(), 200);
}
