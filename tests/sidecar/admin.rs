//! The admin listener: what it answers, which clients it refuses, and that it never affects the
//! site.

mod exposition;
mod page;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::mariadb::Database;
use crate::support::raw::{Connection, Message, Upstream};
use crate::support::rig::{NO_REUSE, Rig};
use crate::support::secrets;
use crate::support::sidecar::{PATIENCE, Sidecar, tells_a_secret};

/// Any free port.
const LISTEN: (&str, &str) = ("WP_JWT_SIDECAR_ADMIN_LISTEN", "127.0.0.1:0");

/// Where the listener is.
pub(crate) fn admin(sidecar: &Sidecar) -> SocketAddr {
    let line: Value = serde_json::from_str(&sidecar.wait_for_log("status page and metrics")).unwrap();
    line["address"].as_str().and_then(|address| address.parse().ok()).expect("an address")
}

fn ask(address: SocketAddr, method: &str, path: &str, fields: &str) -> Message {
    let mut client = Connection::to(address);
    client.send(format!("{method} {path} HTTP/1.1\r\n{fields}\r\n"));
    let answer = client.response_to(method);
    secrets::keep(&String::from_utf8_lossy(&answer.body));
    assert!(client.is_closed(), "one request a connection");
    answer
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Message {
    ask(address, "GET", path, &format!("Host: {address}\r\n"))
}

/// The response of `/readyz`, once it has this status.
pub(crate) fn readiness(address: SocketAddr, status: u16) -> Value {
    let deadline = Instant::now() + 3 * PATIENCE;
    loop {
        let answer = get(address, "/readyz");
        if answer.status() == status {
            return answer.json();
        }
        assert!(Instant::now() < deadline, "not {status} in time: {answer:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn every_route_answers_and_nothing_else_does() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--admin-listen", "127.0.0.1:0"]);
    let address = admin(&sidecar);
    readiness(address, 200);
    for (path, status, content_type) in [
        ("/", 200, "text/html; charset=UTF-8"),
        ("/?x=1", 200, "text/html; charset=UTF-8"),
        ("/status.json", 200, "application/json; charset=UTF-8"),
        ("/metrics", 200, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("/healthz", 200, "text/plain; charset=UTF-8"),
        ("/readyz", 200, "application/json; charset=UTF-8"),
        ("/nothing", 404, "text/plain; charset=UTF-8"),
        ("/metrics/", 404, "text/plain; charset=UTF-8"),
        ("//", 404, "text/plain; charset=UTF-8"),
    ] {
        let answer = get(address, path);
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.value("content-type").as_deref(), Some(content_type), "{path}");
        assert_eq!(answer.value("cache-control").as_deref(), Some("no-store"), "{path}");
        assert_eq!(answer.value("x-content-type-options").as_deref(), Some("nosniff"), "{path}");
        assert_eq!(answer.value("cross-origin-resource-policy").as_deref(), Some("same-origin"), "{path}");
        assert_eq!(answer.value("access-control-allow-origin"), None, "{path}");
        assert!(answer.value("date").is_some() && answer.complete, "{path}");
        let head = ask(address, "HEAD", path, &format!("Host: {address}\r\n"));
        assert_eq!((head.status(), head.body.len()), (status, 0), "{path}");
        assert!(head.value("content-length").is_some_and(|length| length != "0"), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
        let answer = ask(address, method, "/", &format!("Host: {address}\r\nContent-Length: 0\r\n"));
        assert_eq!((answer.status(), answer.value("allow").as_deref()), (405, Some("GET, HEAD")), "{method}");
    }
    let policy = get(address, "/").value("content-security-policy").unwrap();
    for directive in ["default-src 'none'", "frame-ancestors 'none'", "script-src 'sha256-", "connect-src 'self'"] {
        assert!(policy.contains(directive), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(String::from_utf8(get(address, "/healthz").body).unwrap(), "alive\n");
    assert!(upstream.requests().is_empty(), "nothing of this reaches the site");
}

#[test]
fn names_of_others_are_refused() {
    let upstream = Upstream::ok();
    let arguments = ["--admin-listen", "127.0.0.1:0", "--admin-hosts", "status.example"];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &arguments);
    let address = admin(&sidecar);
    for (host, status) in [
        ("127.0.0.1", 200),
        ("localhost:9151", 200),
        ("[::1]:9151", 200),
        ("status.example", 200),
        ("Status.example:8443", 200),
        ("evil.example", 421),
        (&format!("evil.example:{}", address.port()), 421),
        ("a b", 400),
        ("", 400),
    ] {
        let answer = ask(address, "GET", "/status.json", &format!("Host: {host}\r\n"));
        assert_eq!(answer.status(), status, "{host}");
        assert_eq!(String::from_utf8_lossy(&answer.body).contains("uptime_seconds"), status == 200, "{host}");
    }
    assert_eq!(ask(address, "GET", "/", "").status(), 400, "no host");
    assert_eq!(ask(address, "GET", "/", "Host: 127.0.0.1\r\nHost: 127.0.0.1\r\n").status(), 400, "two hosts");
    let answer = ask(address, "GET", "/", "Host: evil.example\r\n");
    assert!(String::from_utf8_lossy(&answer.body).contains("[admin]"), "{answer:?}");
}

#[test]
fn a_unix_socket_has_the_mode_of_the_others_and_takes_any_name() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("admin.sock");
    let listen = format!("unix:{}", socket.display());
    let upstream = Upstream::ok();
    let arguments = ["--admin-listen", &listen, "--server-unix-mode", "0600"];
    let mut sidecar = Sidecar::forwarding_with(upstream.address(), &arguments);
    sidecar.wait_for_log("status page and metrics");
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let mut client = UnixStream::connect(&socket).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"GET /healthz HTTP/1.1\r\nHost: whatever\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("alive\n"), "{answer}");
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(!socket.exists(), "the file is still there");
}

#[test]
fn a_taken_port_stops_the_site_only_where_it_was_asked_for() {
    let upstream = Upstream::ok();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = crate::support::sidecar::command()
        .args(["serve", "--listen", "127.0.0.1:0", "--refresh-mode", "forward", "--admin-listen", &address])
        .args(["--upstream", &format!("http://{}", upstream.address())])
        .output()
        .unwrap();
    let answer = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{answer}");
    assert!(answer.contains(&format!("admin.listen: cannot listen on {address}")), "{answer}");

    // The default port, used by another sidecar on this machine or by this test. Another process
    // may have released it just then; then the sidecar gets it, and the test begins again.
    let deadline = Instant::now() + PATIENCE;
    let (sidecar, warning, _taken) = loop {
        let taken = std::net::TcpListener::bind("127.0.0.1:9151");
        let mut command = crate::support::sidecar::command();
        command.args(["serve", "--listen", "127.0.0.1:0", "--refresh-mode", "forward", "--log-format", "json"]);
        let sidecar = Sidecar::start_command(command.args(["--upstream", &format!("http://{}", upstream.address())]));
        let answer = sidecar.wait_for_log("status page and");
        if answer.contains("no status page and no metrics") {
            break (sidecar, answer, taken);
        }
        assert!(taken.is_err() && Instant::now() < deadline, "it listens where another one does: {answer}");
    };
    assert!(warning.contains("127.0.0.1:9151") && warning.contains("admin.listen"), "{warning}");
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    assert_eq!(client.response().status(), 200);
}

#[test]
fn clients_cannot_keep_it_busy() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--admin-listen", "127.0.0.1:0"]);
    let address = admin(&sidecar);
    // More connections than it accepts at once, all silent or with half a head. A complete request
    // replaces the oldest of them.
    let begun = Instant::now();
    let mut silent: Vec<Connection> = (0..40).map(|_| Connection::to(address)).collect();
    for client in silent.iter_mut().step_by(2) {
        client.send("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n");
    }
    for _ in 0..20 {
        assert_eq!(get(address, "/healthz").status(), 200);
    }
    assert!(begun.elapsed() < Duration::from_millis(1_900), "they waited for the silent: {:?}", begun.elapsed());
    // The others are closed when their head is overdue.
    assert!(silent.iter_mut().all(Connection::is_closed));
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    // Meanwhile the site is served as usual.
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    assert_eq!(client.response().status(), 200);
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--admin-listen", "127.0.0.1:0"]);
    let field = format!("X-Long: {}\r\n", "x".repeat(64 * 1024));
    assert_eq!(ask_once(admin(&sidecar), &field), 431);
}

/// The status of a response that a reset may follow, since the request was not read completely.
fn ask_once(address: SocketAddr, fields: &str) -> u16 {
    let mut client = Connection::to(address);
    client.send(format!("GET / HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n"));
    let head = client.head().expect("an answer");
    Message { head, body: Vec::new(), complete: true }.status()
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_is_who_sees_database_and_upstream() {
    let server = Database::private();
    let rig = Rig::start_on(&server, &[LISTEN]).await;
    let address = admin(&rig.sidecar);
    assert_eq!(readiness(address, 200), serde_json::json!({"ready": true, "reasons": []}));

    server.kill().await;
    let answer = readiness(address, 503)["reasons"].to_string();
    assert!(
        answer.contains("the database was last seen ") && answer.contains("cannot connect to the database"),
        "{answer}"
    );
    assert!(!answer.contains("the upstream"), "{answer}");
    let page = String::from_utf8(get(address, "/").body).unwrap();
    assert!(page.contains("The database cannot be read"), "{page}");
    assert_eq!(get(address, "/healthz").status(), 200, "alive all the same");
    server.start().await;
    readiness(address, 200);
    let status = get(address, "/status.json").json();
    assert_eq!(status["database"]["well"], true);
    assert_eq!(status["database"]["trouble"]["current"], false, "the last failure is still shown");

    rig.upstream.stop();
    let answer = readiness(address, 503)["reasons"].to_string();
    assert!(answer.contains("the upstream was last seen ") && answer.contains("could not connect"), "{answer}");
    let page = String::from_utf8(get(address, "/").body).unwrap();
    assert!(page.contains("web server cannot be reached"), "{page}");
}

#[test]
fn a_sidecar_that_is_ending_is_alive_and_not_ready() {
    let slow = Upstream::with(|connection, _| {
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n12");
        // Until the client leaves.
        connection.is_closed();
        false
    });
    let mut sidecar = Sidecar::forwarding_with(slow.address(), &["--admin-listen", "127.0.0.1:0"]);
    let address = admin(&sidecar);
    readiness(address, 200);
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    client.head();
    sidecar.signal("TERM");
    sidecar.wait_for_log("draining");
    let answer = readiness(address, 503);
    assert!(answer["reasons"][0].as_str().is_some_and(|reason| reason.starts_with("shutting down")), "{answer}");
    assert_eq!(get(address, "/healthz").status(), 200);
    assert!(String::from_utf8(get(address, "/").body).unwrap().contains("Shutting down"));
    drop(client);
    assert_eq!(sidecar.wait().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_the_truth_and_no_secret() {
    let rig = Rig::start_on(Database::shared(), &[LISTEN, NO_REUSE]).await;
    let address = admin(&rig.sidecar);
    let token = rig.token().await;
    assert_eq!(rig.refresh(&token.refresh_token).status(), 200);
    assert_eq!(rig.refresh(&token.refresh_token).status(), 403);
    for _ in 0..3 {
        let mut client = Connection::to(rig.sidecar.address());
        client.send("GET /shop HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        assert_eq!(client.response().status(), 299);
    }
    let status = get(address, "/status.json").json();
    let total = |name: &str| {
        let flows = status["traffic"].as_array().unwrap();
        flows.iter().find(|flow| flow["name"] == name).map(|flow| flow["total"].clone()).unwrap()
    };
    assert_eq!((total("forwarded"), total("refreshed"), total("refused")), (3.into(), 1.into(), 1.into()));
    let used = status["refusals"].as_array().unwrap().iter().find(|refused| refused["reason"] == "used_token").unwrap();
    assert_eq!((&used["total"], &used["status"]), (&1.into(), &"403".into()));
    assert_eq!(status["site"]["native"], true, "{}", status["site"]);
    assert_eq!(status["site"]["home"], "http://shop.example");
    assert_eq!(status["site"]["table_prefix"], rig.database.prefix());
    assert_eq!(status["database"]["well"], true);
    assert_eq!(status["history"]["forwarded"].as_array().unwrap().len(), 240);
    let upstream = format!("\"http://{}\"", rig.upstream.address());
    let settings = status["configuration"].as_array().unwrap();
    let setting = |key: &str| settings.iter().find(|setting| setting["key"] == key).unwrap();
    assert_eq!(setting("upstream.url")["value"], upstream);
    assert_eq!(setting("wordpress.database_url")["value"], "(set)");
    assert_eq!(setting("jwt.secret")["from"], "from environment WP_JWT_SIDECAR_JWT_SECRET");
    for path in ["/", "/status.json", "/metrics", "/readyz"] {
        let text = String::from_utf8(get(address, path).body).unwrap();
        assert!(!tells_a_secret(&text), "{path}: {text}");
    }
    let page = String::from_utf8(get(address, "/").body).unwrap();
    assert!(page.contains("shop.example") && page.contains("Refresh: used token"), "{page}");
}

#[test]
fn what_comes_from_outside_is_escaped() {
    let upstream = Upstream::ok();
    let directory = TempDir::new().unwrap();
    let socket = format!("unix:{}", directory.path().join("a\"><script>x<.sock").display());
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--admin-listen", "127.0.0.1:0", "--listen", &socket]);
    let page = String::from_utf8(get(admin(&sidecar), "/").body).unwrap();
    assert!(page.contains("&quot;&gt;&lt;script&gt;x&lt;.sock"), "{page}");
    assert_eq!(page.matches("<script").count(), 1, "{page}");
}
