//! The PROXY protocol on both sides: from trusted peers only, required if it is on, and one
//! client's connection never carries another's requests.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc;

use crate::support::raw::{Connection, Upstream};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::tls::{Authority, TlsConnection, tls_address};

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n";
const V1: &str = "PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\r\n";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

fn v2() -> Vec<u8> {
    [&SIGNATURE[..], b"\x21\x11\0\x0c\xcb\0\x71\x09\xc0\0\x02\x01\x12\x67\0\x50"].concat()
}

#[test]
fn the_header_names_the_client_of_every_request_on_the_connection() {
    let upstream = Upstream::ok();
    let arguments = ["--server-proxy-protocol", "any", "--forwarded-trusted-proxies", "127.0.0.1"];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &arguments);
    for (header, client) in [
        (V1.as_bytes(), "203.0.113.9"),
        (&v2(), "203.0.113.9"),
        (b"PROXY TCP6 2001:db8::9 ::1 1 2\r\n", "2001:db8::9"),
        (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 1 2\r\n", "203.0.113.9"),
    ] {
        let before = upstream.requests().len();
        let mut connection = Connection::to(sidecar.address());
        connection.send([header, GET.as_bytes()].concat());
        assert_eq!(connection.response().status(), 200);
        // It is not a trusted proxy itself: the client's fields about itself are ignored.
        connection.send(GET.replace("\r\n\r\n", "\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"));
        assert_eq!(connection.response().status(), 200);
        let requests = upstream.requests();
        let seen: Vec<_> =
            requests.iter().skip(before).filter_map(|request| request.value("x-forwarded-for")).collect();
        assert_eq!(seen, [client, client]);
    }
}

/// The proxy's own health checks are served; but the bytes after such a header are not the proxy's.
#[test]
fn a_header_without_a_client_makes_no_peer_trusted() {
    let upstream = Upstream::ok();
    let arguments = [
        "--server-proxy-protocol",
        "any",
        "--forwarded-trusted-proxies",
        "127.0.0.1",
        "--server-max-connections-per-address",
        "1",
    ];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &arguments);
    let v2 = |command_and_family: &[u8], addresses: &[u8]| {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], command_and_family, &length, addresses].concat()
    };
    let claims = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\nX-Forwarded-Port: 443\r\nX-Real-IP: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nX-Request-Id: mine\r\n\r\n";
    // All open at once: such connections belong to many clients, and do not count for one address.
    let mut connections = Vec::new();
    for (what, header) in [
        ("UNKNOWN", b"PROXY UNKNOWN\r\n".to_vec()),
        ("UNKNOWN with addresses", b"PROXY UNKNOWN 1.2.3.4 5.6.7.8 1 2\r\n".to_vec()),
        ("LOCAL", v2(b"\x20\x00", b"")),
        ("LOCAL with an address", v2(b"\x20\x11", &[1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2])),
        ("UNSPEC", v2(b"\x21\x00", b"")),
        ("AF_UNIX", v2(b"\x21\x31", &[0; 216])),
    ] {
        let before = upstream.requests().len();
        let mut connection = Connection::to(sidecar.address());
        connection.send([&header, claims.as_bytes()].concat());
        assert_eq!(connection.response().status(), 200, "{what}");
        connections.push(connection);
        let request = &upstream.requests()[before];
        for (name, expected) in [
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "a"),
            ("x-real-ip", "127.0.0.1"),
            ("forwarded", "for=127.0.0.1;host=\"a\";proto=http"),
        ] {
            assert_eq!(request.value(name).as_deref(), Some(expected), "{what}: {name}");
        }
        assert_eq!(request.values("x-forwarded-port").len(), 0, "{what}");
        assert_ne!(request.value("x-request-id").as_deref(), Some("mine"), "{what}");
    }
}

#[test]
fn ipv4_in_ipv6_form_is_ipv4_in_the_list_of_proxies() {
    let upstream = Upstream::ok();
    for trusted in ["::ffff:127.0.0.1", "::ffff:127.0.0.0/104"] {
        let sidecar = Sidecar::forwarding_with(upstream.address(), &["--forwarded-trusted-proxies", trusted]);
        let mut connection = Connection::to(sidecar.address());
        // There is no address between two commas, nor after the last one.
        connection.send(GET.replace("\r\n\r\n", "\r\nX-Forwarded-For: ::ffff:203.0.113.9,, ,\r\n\r\n"));
        assert_eq!(connection.response().status(), 200);
        let seen = upstream.requests().last().unwrap().value("x-forwarded-for");
        assert_eq!(seen.as_deref(), Some("::ffff:203.0.113.9, 127.0.0.1"), "{trusted}");
        connection.send("TRACE / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: ::ffff:203.0.113.9,, ,\r\n\r\n");
        assert_eq!(connection.response().status(), 405);
    }
}

#[test]
fn the_header_comes_before_tls() {
    let authority = Authority::new();
    let pair = authority.issue("shop", &["shop.example"]).argument();
    let upstream = Upstream::ok();
    let arguments = ["--server-proxy-protocol", "v1", "--forwarded-trusted-proxies", "127.0.0.1"];
    let tls = ["--tls-listen", "127.0.0.1:0", "--tls-certificates", &pair];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &[&arguments[..], &tls].concat());
    let mut socket = TcpStream::connect(tls_address(&sidecar)).unwrap();
    socket.write_all(V1.as_bytes()).unwrap();
    let mut client = TlsConnection::over(socket, "shop.example", authority.client(&["http/1.1"])).unwrap();
    client.exchange(GET, "ok");
    let request = upstream.request();
    assert_eq!(request.value("x-forwarded-for").as_deref(), Some("203.0.113.9"));
    assert_eq!(request.value("x-forwarded-proto").as_deref(), Some("https"));
}

#[test]
fn a_proxy_that_ends_tls_says_so() {
    let upstream = Upstream::ok();
    let arguments = ["--server-proxy-protocol", "v2", "--forwarded-trusted-proxies", "127.0.0.1"];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &arguments);
    let addresses = [203, 0, 113, 9, 192, 0, 2, 1, 0x12, 0x67, 1, 0xbb];
    for (by_tls, scheme) in [(1, "https"), (0, "http")] {
        let before = upstream.requests().len();
        let extension = [0x20, 0, 5, by_tls, 0, 0, 0, 0];
        let length = u8::try_from(addresses.len() + extension.len()).unwrap();
        let mut client = Connection::to(sidecar.address());
        client.send([&SIGNATURE[..], &[0x21, 0x11, 0, length], &addresses, &extension, GET.as_bytes()].concat());
        assert_eq!(client.response().status(), 200);
        let request = &upstream.requests()[before];
        assert_eq!(request.value("x-forwarded-proto").as_deref(), Some(scheme));
        assert_eq!(request.value("x-forwarded-for").as_deref(), Some("203.0.113.9"));
    }
}

#[test]
fn without_a_header_that_may_be_believed_the_connection_is_closed() {
    let upstream = Upstream::ok();
    let start = |version: &str, trusted: &str| {
        let arguments =
            ["--server-proxy-protocol", version, "--forwarded-trusted-proxies", trusted, "--server-workers", "1"];
        Sidecar::forwarding_with(upstream.address(), &arguments)
    };
    for (version, trusted, header, reason) in [
        ("any", "127.0.0.1", &b""[..], "there is no PROXY header"),
        ("v1", "127.0.0.1", &v2(), "there is no PROXY header"),
        ("v2", "127.0.0.1", V1.as_bytes(), "there is no PROXY header"),
        ("any", "127.0.0.1", b"PROXY TCP4 203.0.113.9 192.0.2.1 +4711 80\r\n", "is not valid"),
        ("any", "10.0.0.0/8", V1.as_bytes(), "from forwarded.trusted_proxies only"),
    ] {
        let sidecar = start(version, trusted);
        let mut connection = Connection::to(sidecar.address());
        connection.send([header, GET.as_bytes()].concat());
        assert!(connection.is_closed(), "{reason}");
        let line = sidecar.wait_for_log("closed a connection");
        assert!(line.contains(reason) && line.contains("WARN"), "{line}");
        // The next one does not fill the log.
        Connection::to(sidecar.address()).send(GET.repeat(2)).is_closed();
        assert_eq!(sidecar.log().iter().filter(|line| line.contains("closed a connection")).count(), 1);
    }
    assert!(upstream.requests().is_empty());
    // Half a header.
    let sidecar = start("any", "127.0.0.1");
    let mut connection = Connection::to(sidecar.address());
    connection.send("PROXY TC");
    assert!(connection.is_closed());
    assert!(sidecar.wait_for_log("closed a connection").contains("did not come within"));
}

#[test]
fn the_upstream_is_told_the_client_of_each_connection() {
    let (headers, seen) = mpsc::channel();
    let headers = Mutex::new(headers);
    let upstream = Upstream::of_connections(move |mut connection| {
        let mut header = connection.take(16);
        let length = u16::from_be_bytes([header[14], header[15]]);
        header.extend(connection.take(length.into()));
        while let Some(request) = connection.request() {
            headers.lock().unwrap().send((header.clone(), request.start_line())).unwrap();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let arguments =
        ["--upstream-proxy-protocol", "v2", "--forwarded-trusted-proxies", "127.0.0.1", "--server-workers", "1"];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &arguments);
    let mut client = Connection::to(sidecar.address());
    for (path, forwarded_for, family, address) in [
        ("/a", "203.0.113.9", 0x11, &[203, 0, 113, 9][..]),
        ("/b", "203.0.113.10", 0x11, &[203, 0, 113, 10]),
        ("/c", "2001:db8::9", 0x21, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]),
    ] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {forwarded_for}\r\n\r\n"));
        assert_eq!(client.response().body, b"ok");
        let (header, line) = seen.recv_timeout(PATIENCE).unwrap();
        assert_eq!(line, format!("GET {path} HTTP/1.1"));
        assert_eq!((&header[..12], &header[12..14]), (&SIGNATURE[..], &[0x21, family][..]));
        assert!(header[16..].starts_with(address), "{header:?}");
    }
    assert_eq!(upstream.connections(), 3, "one for each request");
}

#[test]
fn draining_closes_what_has_sent_no_header() {
    let upstream = Upstream::ok();
    let arguments = ["--server-proxy-protocol", "any", "--forwarded-trusted-proxies", "127.0.0.1"];
    let mut sidecar = Sidecar::forwarding_with(upstream.address(), &arguments);
    let mut silent = TcpStream::connect(sidecar.address()).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut open = Connection::to(sidecar.address());
    open.send([V1, GET].concat());
    assert_eq!(open.response().status(), 200);
    sidecar.signal("TERM");
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(sidecar.wait().code(), Some(0));
}
