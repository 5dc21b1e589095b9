//! An error gets the status of the party at fault, with a short response that names the reason and
//! the request's id.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use crate::support::port::Port;
use crate::support::raw::{Connection, Message, Upstream};
use crate::support::sidecar::Sidecar;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn ask(sidecar: &Sidecar, request: impl AsRef<[u8]>) -> Message {
    let mut client = Connection::to(sidecar.address());
    client.send(request);
    client.response()
}

#[test]
fn browsers_get_a_page_and_programs_json_both_with_the_request_id_of_the_log() {
    let closed = Port::reserve();
    let sidecar = Sidecar::forwarding(closed.address());
    let html = ask(&sidecar, "GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html,*/*;q=0.8\r\n\r\n");
    assert_eq!(html.status(), 502);
    assert_eq!(html.value("content-type").as_deref(), Some("text/html; charset=UTF-8"));
    assert_eq!(html.value("cache-control").as_deref(), Some("no-store"));
    let text = String::from_utf8(html.body).unwrap();
    assert!(text.contains("<h1>502 Bad Gateway</h1>") && text.contains("cannot be reached"), "{text}");
    let id = text.split("<code>").nth(1).and_then(|rest| rest.split("</code>").next()).unwrap();
    assert!(sidecar.wait_for_log(id).contains("could not connect to the upstream"));

    let json = ask(&sidecar, "GET / HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n");
    assert_eq!(json.json()["code"], "wp_jwt_sidecar_upstream_unreachable");
    let id = json.json()["data"]["request_id"].as_str().unwrap().to_owned();
    let line = sidecar.wait_for_log(&id);
    assert!(line.contains("\"status\":502") && line.contains("refused"), "{line}");

    let mut client = Connection::to(sidecar.address());
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response_to("HEAD").status(), 502);
    assert_eq!(client.response().status(), 502);
}

#[test]
fn a_body_that_is_the_clients_fault_is_never_the_upstreams() {
    let (sender, receiver) = channel();
    let upstream = Upstream::of_connections(move |mut connection| {
        while !connection.take(1).is_empty() {}
        let _ = sender.send(());
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let more_than_is_waited_for = format!("{:x}\r\n{}\r\n", 100_000, "x".repeat(100_000));
    for chunk in [
        "zz\r\nabc\r\n",
        "-1\r\n",
        "+3\r\nabc\r\n",
        "0x3\r\nabc\r\n",
        "1_0\r\nabc\r\n",
        " 3\r\nabc\r\n",
        "ffffffffffffffffff\r\nabc\r\n",
        "3\r\nabcXX2\r\nde\r\n0\r\n\r\n",
        "3;a=\nb\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n",
    ] {
        for start in ["", &more_than_is_waited_for] {
            let before = upstream.connections();
            let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            let answer = ask(&sidecar, format!("{head}{start}{chunk}"));
            assert_eq!(answer.status(), 400, "{chunk:?}");
            assert_eq!(answer.json()["code"], "wp_jwt_sidecar_invalid_request_body", "{chunk:?}");
            match start {
                "" => assert_eq!(upstream.connections(), before, "{chunk:?}"),
                // The upstream has seen an incomplete request, and its connection closes.
                _ => receiver.recv_timeout(Duration::from_secs(10)).unwrap(),
            }
        }
    }
    assert!(sidecar.log().iter().all(|line| !line.contains("WARN")), "{:?}", sidecar.log());
}

#[test]
fn what_is_no_answer_is_a_502() {
    for answer in [
        "",
        "HTTP/1.1 200",
        "SSH-2.0-OpenSSH_9.2p1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nBroken : header\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
    ] {
        let upstream = Upstream::with(move |connection, _| {
            connection.send(answer);
            false
        });
        let sidecar = Sidecar::forwarding(upstream.address());
        let received = ask(&sidecar, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(received.status(), 502, "{answer:?}");
        assert!(sidecar.wait_for_log("\"status\":502").contains("WARN"), "{answer:?}");
    }
}

#[test]
fn a_client_that_leaves_is_a_499_in_the_log_and_ends_the_upstream_request() {
    let (sender, receiver) = channel();
    let upstream = Upstream::with(move |connection, _| {
        sender.send(connection.is_closed()).unwrap();
        false
    });
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--log-level", "debug"]);
    for (before, body) in ["Content-Length: 0\r\n\r\n", "Content-Length: 3\r\n\r\nabc"].iter().enumerate() {
        let mut client = Connection::to(sidecar.address());
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{body}"));
        upstream.wait_for_requests(before + 1);
        let lines = sidecar.log().len();
        drop(client);
        assert!(receiver.recv_timeout(Duration::from_secs(10)).unwrap());
        assert!(sidecar.wait_for_log_after(lines, "\"status\":499").contains("request_id"));
    }
}

#[test]
fn a_client_that_leaves_in_a_download_ends_it() {
    let (sender, receiver) = channel();
    let upstream = Upstream::with(move |connection, _| {
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        sender.send(connection.is_closed()).unwrap();
        false
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.head().unwrap();
    drop(client);
    assert!(receiver.recv_timeout(Duration::from_secs(10)).unwrap());
}

#[test]
fn what_has_side_effects_is_sent_once_and_not_on_a_connection_that_idled() {
    // The upstream closes without answering the second request of each connection.
    let upstream = Upstream::of_connections(|mut connection| {
        if connection.request().is_some() {
            connection.send(OK);
            connection.request();
        }
    });
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--server-workers", "1"]);
    let mut client = Connection::to(sidecar.address());
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
    let with_body = "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
    for request in [post, with_body, "DELETE / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        client.send(get);
        assert_eq!(client.response().status(), 200);
        let before = upstream.connections();
        client.send(request);
        assert_eq!(client.response().status(), 502, "{request}");
        assert_eq!(upstream.connections(), before, "{request}: sent twice");
    }
    for method in ["GET", "HEAD", "OPTIONS"] {
        client.send(get);
        assert_eq!(client.response().status(), 200);
        client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.response_to(method).status(), 200, "{method}");
        // That connection is used up, too: the next GET is also tried twice.
    }
    client.send(get);
    assert_eq!(client.response().status(), 200);
    std::thread::sleep(Duration::from_millis(1100));
    client.send(post);
    assert_eq!(client.response().status(), 200, "a POST meets a connection that idled for more than a second");
}

#[test]
fn bytes_behind_an_answer_are_not_the_next_one() {
    let upstream = Upstream::answering(
        |_| "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    );
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--server-workers", "1"]);
    for _ in 0..5 {
        assert_eq!(ask(&sidecar, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").body, b"ok");
    }
}

/// The write of the upload fails, but the response was there before (hyper#2384).
#[test]
fn an_answer_before_the_end_of_an_upload_is_not_lost() {
    let upstream = Upstream::of_connections(|mut connection| {
        connection.head().unwrap();
        stay_on_this_processor();
        connection.send("HTTP/1.1 413 Payload Too Large\r\nContent-Length: 4\r\n\r\nbig!");
        // With the upload unread: a reset.
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let body = vec![b'x'; 300_000];
    for round in 0..20 {
        let mut client = Connection::to(sidecar.address());
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()));
        // The client's own write may fail, too.
        let _ = std::io::Write::write_all(&mut client.stream, &body);
        let answer = client.response();
        assert_eq!((answer.status(), answer.body.as_slice()), (413, &b"big!"[..]), "round {round}");
    }
}

/// A thread's packets go through a queue of its processor: on a busy machine, a thread that moves
/// between two sends may have its second packet overtake the first, and a reset discards what comes
/// after it.
fn stay_on_this_processor() {
    let mut this = CpuSet::new();
    this.set(sched_getcpu().unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &this).unwrap();
}

/// Closing with the client's bytes unread would be a reset, which takes the response away from it.
#[test]
fn a_client_that_goes_on_sending_gets_its_last_answer() {
    let upstream = Upstream::answering(|_| OK);
    let sidecar = Sidecar::forwarding(upstream.address());
    for _ in 0..10 {
        let mut client = Connection::to(sidecar.address());
        client.send("GET / HTTP/1.1\r\nHost: a\r\nBroken : b\r\n\r\n");
        for _ in 0..50 {
            client.send(vec![b'x'; 1 << 14]);
        }
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(client.response().status(), 400);
        assert!(client.is_closed());
    }
}

#[test]
fn an_upstream_that_stops_reading_an_upload_is_let_go() {
    let (sender, receiver) = channel();
    let upstream = Upstream::of_connections(move |mut connection| {
        connection.head().unwrap();
        connection.send("HTTP/1.1 413 Payload Too Large\r\nContent-Length: 4\r\n\r\nbig!");
        // It reads nothing more, and does not close either: the sidecar must.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            use std::io::Write as _;
            if connection.stream.write(b"x").is_err() {
                sender.send(()).unwrap();
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000000\r\n\r\n");
    // Until every buffer on the way is full: the sidecar waits in a write to the upstream.
    client.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while std::io::Write::write(&mut client.stream, &[b'x'; 1 << 16]).is_ok() {}
    let answer = client.response();
    assert_eq!((answer.status(), answer.body.as_slice()), (413, &b"big!"[..]));
    drop(client);
    receiver.recv_timeout(Duration::from_secs(15)).expect("the upstream's connection is closed");
}

#[test]
fn what_is_no_http_gets_a_page_and_the_log_has_the_reason() {
    let upstream = Upstream::answering(|_| OK);
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--server-max-header-bytes", "2048"]);
    let fields = |count: usize, value: &str| (0..count).map(|i| format!("X-{i}: {value}\r\n")).collect::<String>();
    for (request, status, code, reason) in [
        ("GET /?a=#b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400, "invalid_request", "URI"),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(), 400, "invalid_request", "version"),
        ("GET /\r\n\r\n".to_owned(), 400, "invalid_request", "invalid"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(260, "")), 431, "request_head_too_large", "too large"),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(30, &"y".repeat(100))),
            431,
            "request_head_too_large",
            "too large",
        ),
        (
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(3000)),
            431,
            "request_head_too_large",
            "server.max_header_bytes",
        ),
    ] {
        // As the first request, and after others with similar responses.
        for before in [0, 3] {
            let mut client = Connection::to(sidecar.address());
            for _ in 0..before {
                client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                assert_eq!(client.response().body, b"ok");
            }
            client.send(&request);
            let answer = client.response();
            assert_eq!(answer.status(), status, "{request:.60}");
            assert_eq!(answer.json()["code"], format!("wp_jwt_sidecar_{code}"));
            assert!(client.is_closed());
            let id = answer.json()["data"]["request_id"].as_str().unwrap().to_owned();
            let line = sidecar.wait_for_log(&id);
            assert!(line.contains(reason) && line.contains("INFO"), "{line}");
        }
    }
    // A browser gets a page, if the head shows that it is one.
    let accept = "GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html,*/*\r\n";
    let cookie = format!("Cookie: {}\r\n\r\n", "c".repeat(3000));
    for (rest, title) in [
        ("X-A : b\r\n\r\n", "400 Bad"),
        ("Content-Length: x\r\n\r\n", "400 Bad"),
        ("Transfer-Encoding: gzip\r\n\r\n", "400 Bad"),
        (&cookie, "431 Request"),
    ] {
        let html = ask(&sidecar, format!("{accept}{rest}"));
        assert!(String::from_utf8(html.body).unwrap().contains(&format!("<h1>{title}")), "{rest:.40}");
    }
    let html = ask(&sidecar, accept.replace("GET /", "GET /?a=#b") + "\r\n");
    assert!(String::from_utf8(html.body).unwrap().contains("<h1>400 Bad"));
    assert_eq!(upstream.requests().len(), 18);
}

#[test]
fn a_bare_refusal_of_the_upstreams_passes_as_it_is() {
    let upstream = Upstream::answering(|request| match request.start_line().contains("/431") {
        true => "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\n\r\n",
        false => "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let mut client = Connection::to(sidecar.address());
    for (target, status) in [("/431", 431), ("/", 400), ("/431", 431)] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = client.response();
        assert_eq!((answer.status(), answer.body.as_slice()), (status, &b""[..]));
    }
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20));
    for _ in 0..20 {
        assert_eq!(client.response().body, b"");
    }
}
