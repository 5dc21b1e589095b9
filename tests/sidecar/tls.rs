//! TLS with clients: which certificate is used, which versions are accepted, and how new
//! certificates replace old ones without the loss of a connection.

use std::io::Read as _;
use std::net::SocketAddr;

use crate::support::raw::{Connection, Upstream};
use crate::support::sidecar::{self, Sidecar};
use crate::support::tls::{Authority, Pair, TlsConnection, openssl, tls_address};

const GET: &str = "GET /x?y HTTP/1.1\r\nHost: shop.example\r\n\r\n";

/// A sidecar that listens with and without TLS.
fn serving(upstream: &Upstream, pairs: &[&Pair], more: &[&str]) -> (Sidecar, SocketAddr) {
    let pairs: Vec<String> = pairs.iter().map(|pair| pair.argument()).collect();
    let mut arguments = vec!["--tls-listen", "127.0.0.1:0"];
    for pair in &pairs {
        arguments.extend(["--tls-certificates", pair]);
    }
    arguments.extend_from_slice(more);
    let sidecar = Sidecar::forwarding_with(upstream.address(), &arguments);
    let address = tls_address(&sidecar);
    (sidecar, address)
}

#[test]
fn tls_1_2_and_1_3_are_https_to_the_site() {
    let authority = Authority::new();
    let pair = authority.issue("shop", &["shop.example"]);
    let upstream = Upstream::ok();
    let (_sidecar, address) = serving(&upstream, &[&pair], &[]);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for protocols in [&["http/1.1"][..], &[]] {
            let config = authority.client_of(&[version], protocols);
            let mut client = TlsConnection::to(address, "shop.example", config).unwrap();
            assert_eq!(client.stream.conn.protocol_version(), Some(version.version));
            assert_eq!(client.stream.conn.alpn_protocol(), protocols.first().map(|name| name.as_bytes()));
            for _ in 0..2 {
                let answer = client.exchange(GET, "ok");
                assert_eq!(answer, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        }
    }
    let requests = upstream.requests();
    assert_eq!(requests.len(), 8);
    for request in requests {
        assert_eq!(request.start_line(), "GET /x?y HTTP/1.1");
        assert_eq!(request.value("x-forwarded-proto").as_deref(), Some("https"));
        assert_eq!(request.value("host").as_deref(), Some("shop.example"));
    }
}

#[test]
fn each_name_gets_its_certificate() {
    let authority = Authority::new();
    let first = authority.issue("first", &["first.example", "other.test"]);
    let wildcard = authority.issue("wildcard", &["*.shop.example"]);
    let exact = authority.issue("exact", &["www.shop.example"]);
    let upstream = Upstream::ok();
    let (_sidecar, address) = serving(&upstream, &[&first, &wildcard, &exact], &[]);
    for (name, expected) in
        [("first.example", &first), ("other.test", &first), ("a.shop.example", &wildcard), ("WWW.shop.example", &exact)]
    {
        let client = TlsConnection::to(address, name, authority.client(&[])).unwrap();
        assert_eq!(client.certificate(), expected.der(), "{name}");
    }
    // No certificate has this name: the client gets the first certificate and refuses it.
    let error = TlsConnection::to(address, "unknown.example", authority.client(&[])).err().unwrap();
    assert!(error.to_string().contains("not valid for name"), "{error}");
}

#[test]
fn keys_of_every_usual_form_are_read() {
    let authority = Authority::new();
    let directory = authority.directory.path().to_owned();
    let file = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    openssl(&["genrsa", "-traditional", "-out", &file("pkcs1.key"), "2048"]);
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &file("sec1.key")]);
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", &file("pkcs8.key")]);
    for (kind, label) in [("pkcs1", "RSA PRIVATE KEY"), ("sec1", "EC PRIVATE KEY"), ("pkcs8", "PRIVATE KEY")] {
        let key = std::fs::read_to_string(file(&format!("{kind}.key"))).unwrap();
        assert!(key.starts_with(&format!("-----BEGIN {label}-----")), "{key}");
        let (key_file, pem) = (file(&format!("{kind}.key")), file(&format!("{kind}.pem")));
        let names = format!("subjectAltName=DNS:{kind}.example");
        openssl(&["req", "-x509", "-key", &key_file, "-subj", "/CN=x", "-addext", &names, "-days", "30", "-out", &pem]);
    }
    // And one file that contains both.
    let both = std::fs::read_to_string(file("sec1.key")).unwrap() + &std::fs::read_to_string(file("sec1.pem")).unwrap();
    std::fs::write(file("both.pem"), both).unwrap();
    let pair = |kind: &str| format!("{}:{}", file(&format!("{kind}.pem")), file(&format!("{kind}.key")));
    let checked = sidecar::command()
        .args(["check", "--upstream", "http://127.0.0.1:1", "--refresh-mode", "forward", "--tls-listen", "127.0.0.1:0"])
        .args(["--tls-certificates", &pair("pkcs1"), "--tls-certificates", &pair("sec1")])
        .args(["--tls-certificates", &pair("pkcs8"), "--tls-certificates", &file("both.pem")])
        .output()
        .unwrap();
    let (out, error) = (String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
    assert!(checked.status.success(), "{error}");
    for shown in
        ["pkcs1.example (RSA 2048) until ", "sec1.example (ECDSA P-256) until ", "pkcs8.example (Ed25519) until "]
    {
        assert!(out.contains(shown), "{out}");
    }
}

#[test]
fn a_pair_that_cannot_be_used_is_a_fault_at_the_start() {
    let authority = Authority::new();
    let good = authority.issue("good", &["good.example"]);
    let other = authority.issue("other", &["other.example"]);
    let mixed = format!("{}:{}", good.chain.display(), other.key.display());
    let no_key = format!("{0}:{0}", good.chain.display());
    for command in ["serve", "check"] {
        let output = sidecar::command()
            .args([command, "--upstream", "http://127.0.0.1:1", "--refresh-mode", "forward"])
            .args(["--tls-listen", "127.0.0.1:0", "--tls-certificates", &mixed, "--tls-certificates", &no_key])
            .args(["--tls-certificates", &other.argument(), "--tls-certificates", "/does/not/exist"])
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{error}");
        assert_eq!(error.matches("tls.certificates = \"").count(), 2, "{error}");
        for part in ["other.key is not the key of the certificate in ", "good.pem: has no private key in PEM form"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

#[test]
fn new_certificates_take_effect_and_no_connection_is_lost() {
    let authority = Authority::new();
    let first = authority.issue("shop", &["shop.example"]);
    let first_der = first.der();
    let upstream = Upstream::ok();
    let (sidecar, address) = serving(&upstream, &[&first], &[]);
    let presented = || TlsConnection::to(address, "shop.example", authority.client(&[])).unwrap().certificate();
    let mut open = TlsConnection::to(address, "shop.example", authority.client(&[])).unwrap();
    assert_eq!(open.certificate(), first_der);

    // The change is noticed without a signal.
    let second = authority.issue("shop", &["shop.example"]);
    sidecar.wait_for_log("new certificates are in effect");
    assert_eq!(presented(), second.der());
    assert!(open.exchange(GET, "ok").starts_with("HTTP/1.1 200 OK"));

    // An invalid pair: one log line, and the previous certificate stays in use.
    std::fs::write(&second.key, "no key").unwrap();
    let second_der = second.der();
    let line = sidecar.wait_for_log("those before stay in effect");
    assert!(line.contains("shop.key: has no private key"), "{line}");
    assert_eq!(presented(), second_der);

    // A SIGHUP tries again, which fails, and succeeds after the file was fixed.
    let before = sidecar.log().len();
    sidecar.signal("HUP");
    let line = sidecar.wait_for_log_after(before, "the new configuration has faults, the one before stays in effect");
    assert!(line.contains("shop.key: has no private key"), "{line}");
    assert_eq!(presented(), second_der);
    let third = authority.issue("shop", &["shop.example"]);
    let before = sidecar.log().len();
    sidecar.signal("HUP");
    sidecar.wait_for_log_after(before, "new certificates are in effect");
    assert_eq!(presented(), third.der());
    assert!(open.exchange(GET, "ok").starts_with("HTTP/1.1 200 OK"));
    let failures = sidecar.log().iter().filter(|line| line.contains("those before stay in effect")).count();
    assert_eq!(failures, 1, "one line for the change; the signal has its own");
}

#[test]
fn who_does_not_finish_the_handshake_is_closed() {
    let authority = Authority::new();
    let pair = authority.issue("shop", &["shop.example"]);
    let upstream = Upstream::ok();
    let (_sidecar, address) = serving(&upstream, &[&pair], &["--tls-handshake-timeout", "300ms"]);
    let mut silent = Connection::to(address);
    assert!(silent.is_closed());
    let mut half = Connection::to(address);
    half.send(b"\x16\x03\x01\x02\x00\x01");
    assert!(half.is_closed());
    let mut plain = Connection::to(address);
    plain.send(GET);
    let alert = plain.take(1024);
    assert!(alert.is_empty() || alert.starts_with(b"\x15\x03"), "{alert:?}");
    assert!(upstream.requests().is_empty());
    let mut client = TlsConnection::to(address, "shop.example", authority.client(&["http/1.1"])).unwrap();
    assert!(client.exchange(GET, "ok").starts_with("HTTP/1.1 200 OK"));
    let error = TlsConnection::to(address, "shop.example", authority.client(&["spdy/3"])).err().unwrap();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
}

#[test]
fn draining_closes_what_is_still_in_the_handshake() {
    let authority = Authority::new();
    let pair = authority.issue("shop", &["shop.example"]);
    let upstream = Upstream::ok();
    let (mut sidecar, address) = serving(&upstream, &[&pair], &["--tls-handshake-timeout", "1h"]);
    let mut silent = Connection::to(address);
    let mut idle = TlsConnection::to(address, "shop.example", authority.client(&[])).unwrap();
    assert!(idle.exchange(GET, "ok").starts_with("HTTP/1.1 200 OK"));
    sidecar.signal("TERM");
    assert!(silent.is_closed());
    // The connection ends with a close_notify; without one, this read is an error.
    assert_eq!(idle.stream.read(&mut [0; 16]).unwrap(), 0);
    assert_eq!(sidecar.wait().code(), Some(0));
}
