//! The files of docs/web-servers.md that need no other server, and the certificate of docs/forwarding.md.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use super::block;
use super::blocks::read;
use crate::support::port::Port;
use crate::support::raw::{Connection, Upstream};
use crate::support::sidecar::{Sidecar, wait_until};
use crate::support::site::Site;
use crate::support::tls::{Authority, Pair, TlsConnection, TlsUpstream, tls_address};

const GET: &str = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";

#[test]
fn tls_of_its_own() {
    let authority = Authority::new();
    authority.issue("example.com", &["example.com"]);
    let text = block("own-tls")
        .replace("[::]:443", "[::1]:0")
        .replace("/etc/ssl", authority.directory.path().to_str().unwrap());
    let (sidecar, _upstream) = forwarding(&text);
    let mut client = TlsConnection::to(tls_address(&sidecar), "example.com", authority.client(&["http/1.1"])).unwrap();
    let answer = client.exchange(GET, "upstream");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn behind_a_load_balancer() {
    let text = block("load-balancer");
    assert!(text.contains("listen = [\"0.0.0.0:8080\"]") && text.contains("10.0.0.0/8"), "{text}");
    // (the balancer is trusted: its word counts, else it does not)
    for (trusted, client) in [("127.0.0.0/8", "203.0.113.7"), ("10.0.0.0/8", "127.0.0.1")] {
        let (sidecar, upstream) =
            forwarding(&text.replace("0.0.0.0:8080", "127.0.0.1:0").replace("10.0.0.0/8", trusted));
        let mut balancer = Connection::to(sidecar.address());
        balancer.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n\r\n");
        balancer.response();
        let seen = upstream.request().value("x-forwarded-for").unwrap();
        assert_eq!(seen.split(',').next(), Some(client), "{trusted}: {seen}");
    }
}

/// The unit says the same in its head, and forbids the right by itself.
#[test]
fn ports_below_1024() {
    let (drop_in, unit) = (block("low-ports"), read("systemd/wp-jwt-sidecar.service"));
    let lines: Vec<&str> = drop_in.lines().collect();
    assert_eq!((lines[0], lines.len()), ("[Service]", 4), "{drop_in}");
    for line in &lines[1..] {
        assert!(unit.lines().any(|said| said.starts_with('#') && said.contains(line)), "the unit's head has no {line}");
    }
}

/// The challenge passes to the site; what certbot has made is taken when its hook has run, and once more at a renewal.
#[test]
fn certbot() {
    let site = Site::up(&[]);
    let command = block("certbot");
    let root = "/var/www/html";
    assert!(command.contains(&format!("certonly --webroot --webroot-path {root} ")), "{command}");
    assert!(block("nginx").contains(&format!("root {root};")), "certbot writes where the web server reads");
    let challenge = Path::new(site.said("ROOT")).join(".well-known/acme-challenge");
    std::fs::create_dir_all(&challenge).unwrap();
    std::fs::write(challenge.join("token"), "the answer").unwrap();

    let (authority, directory) = (Authority::new(), tempfile::TempDir::new().unwrap());
    let copies = directory.path().to_str().unwrap();
    let port = Port::reserve();
    let config = block("certbot-tls")
        .replace("[::]:443", &port.address().to_string())
        .replace("[::]:80", "127.0.0.1:0")
        .replace("/etc/wp-jwt-sidecar", copies);
    let file = directory.path().join("config.toml");
    std::fs::write(&file, config).unwrap();
    let sidecar = Sidecar::forwarding_with(site.upstream(), &["--config", file.to_str().unwrap()]);
    sidecar.wait_for_log("nothing listens with TLS until a pair of tls.certificates can be read");
    let mut authoritys = Connection::to(sidecar.address());
    authoritys.send(format!("GET /.well-known/acme-challenge/token HTTP/1.1\r\nHost: {}\r\n\r\n", site.host()));
    assert_eq!(authoritys.response().body, b"the answer");

    let hook = block("certbot-hook");
    let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let run_hook = |pair: &Pair| {
        let lineage = tempfile::TempDir::new().unwrap();
        std::fs::copy(&pair.chain, lineage.path().join("fullchain.pem")).unwrap();
        std::fs::copy(&pair.key, lineage.path().join("privkey.pem")).unwrap();
        let here =
            hook.replace("/etc/wp-jwt-sidecar", copies).replace("-o wp-jwt-sidecar", &format!("-o {}", user.trim()));
        let output = Command::new("sh").args(["-c", &here]).env("RENEWED_LINEAGE", lineage.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let connect = || TlsConnection::to(port.address(), "example.com", authority.client(&["http/1.1"])).unwrap();
    let first = authority.issue("first", &["example.com"]);
    run_hook(&first);
    wait_until("port 443 opens", || TcpStream::connect(port.address()).is_ok());
    assert_eq!(connect().certificate(), first.der());
    let renewed = authority.issue("renewed", &["example.com"]);
    run_hook(&renewed);
    wait_until("the renewed certificate is presented", || connect().certificate() == renewed.der());
}

/// What docs/forwarding.md tells to make is trusted, by the name that it has.
#[test]
fn a_certificate_for_an_https_upstream() {
    let directory = tempfile::TempDir::new().unwrap();
    let made = Command::new("bash").args(["-ec", &block("upstream-certificate")]).current_dir(&directory).output();
    assert!(made.as_ref().is_ok_and(|made| made.status.success()), "{made:?}");
    let [chain, key] = ["upstream.pem", "upstream.key"].map(|name| directory.path().join(name));
    let upstream = TlsUpstream::start(&[("www.example.com", &Pair { chain: chain.clone(), key })], &[]);
    let url = format!("https://127.0.0.1:{}", upstream.port);
    let name = ["--upstream-ca-file", chain.to_str().unwrap(), "--upstream-tls-name", "www.example.com"];
    let sidecar = Sidecar::start_with(
        &[&["--upstream", &url][..], &name].concat(),
        &[("WP_JWT_SIDECAR_REFRESH_MODE", "forward")],
    );
    let mut client = Connection::to(sidecar.address());
    client.send(GET);
    assert_eq!(client.response().status(), 200);
}

/// A sidecar that only forwards, with this file besides, and its upstream.
fn forwarding(config: &str) -> (Sidecar, Upstream) {
    let upstream = Upstream::answering(|_| "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nupstream");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config).unwrap();
    let at: SocketAddr = upstream.address();
    let sidecar = Sidecar::forwarding_with(at, &["--config", file.path().to_str().unwrap()]);
    (sidecar, upstream)
}
