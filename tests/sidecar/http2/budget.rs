//! How much of the shared resources one HTTP/2 connection, and one client, may hold: connections to
//! the site, and open files.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use super::raw::RawHttp2;
use super::{Client, Front, client};
use crate::admin::{admin, get};
use crate::support::mariadb::Database;
use crate::support::raw::{Connection, Upstream};
use crate::support::rig::{ROUTE, Rig};
use crate::support::sidecar::{self, PATIENCE, Sidecar, wait_until};
use crate::support::tls::{Authority, tls_address};

/// As large as the responses of the attack.
const LARGE: usize = 2 << 20;

/// SETTINGS_INITIAL_WINDOW_SIZE: not a byte of any answer.
const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];

fn usual(path: &str) -> [(&str, &str); 4] {
    [(":method", "GET"), (":scheme", "https"), (":authority", "shop.example"), (":path", path)]
}

/// Answers with a large body; `/small` with a small one.
fn site() -> Upstream {
    Upstream::with(|connection, request| {
        let length = if request.start_line().contains("/small") { 2 } else { LARGE };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
        connection.stream.write_all(answer.as_bytes()).is_ok()
    })
}

fn targets(upstream: &Upstream) -> Vec<String> {
    upstream.requests().iter().map(|request| request.start_line().split(' ').nth(1).unwrap().to_owned()).collect()
}

/// Requests a small response on a new connection.
fn small(sidecar: &Sidecar) -> u16 {
    let mut client = Connection::to(sidecar.address());
    client.send("GET /small HTTP/1.1\r\nHost: a\r\n\r\n");
    client.response().status()
}

#[test]
fn the_33rd_request_of_a_connection_waits_before_it_takes_a_connection_to_the_site() {
    let upstream = site();
    let front = Front::of(&upstream, &["--server-workers", "1", "--upstream-keepalive-idle", "0s"]);
    let mut attacker = front.raw();
    attacker.hello_with(&NO_WINDOW);
    for stream in (1..80).step_by(2) {
        attacker.request(stream, &usual(&format!("/{stream}")), true);
    }
    let mut answered = attacker.answered(32);
    answered.sort_unstable();
    assert_eq!(answered, (1..64).step_by(2).collect::<Vec<u32>>());
    // The worker has seen everything that was sent before this.
    assert_eq!(small(&front.sidecar), 200);
    assert_eq!(upstream.connections(), 33);
    // A waiting request that is cancelled is never sent; the next one gets the permit of one that
    // has ended.
    attacker.reset(65);
    attacker.reset(1);
    assert_eq!(attacker.answered(1), [67]);
    assert_eq!(upstream.connections(), 34);
    // Waiting requests end with their connection.
    drop(attacker);
    assert_eq!(small(&front.sidecar), 200);
    let targets = targets(&upstream);
    assert!(!targets.contains(&"/65".to_owned()) && !targets.contains(&"/69".to_owned()), "{targets:?}");
}

#[test]
fn the_connection_of_a_trusted_proxy_has_the_requests_of_many() {
    let upstream = site();
    let front = Front::of(&upstream, &["--forwarded-trusted-proxies", "127.0.0.1"]);
    let mut proxy = front.raw();
    proxy.hello_with(&NO_WINDOW);
    for stream in (1..80).step_by(2) {
        proxy.request(stream, &usual("/"), true);
    }
    assert_eq!(proxy.answered(40).len(), 40);
}

/// A sidecar that may open `files` files.
fn with_open_files(files: usize, upstream: &Upstream, authority: &Authority, verb: &str) -> Command {
    let sidecar = sidecar::command();
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={files}")).arg(sidecar.get_program()).arg(verb);
    for (name, value) in sidecar.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let pair = authority.issue("shop", &["shop.example"]).argument();
    let url = format!("http://{}", upstream.address());
    let arguments =
        ["--listen", "127.0.0.1:0", "--log-format", "json", "--upstream", &url, "--refresh-mode", "forward"];
    command.args(arguments).args(["--tls-listen", "127.0.0.1:0", "--tls-certificates", &pair]);
    // A request waits for a permit for this long.
    command.args(["--admin-listen", "127.0.0.1:0", "--server-workers", "2", "--upstream-connect-timeout", "1s"]);
    command.stdin(Stdio::null());
    command
}

/// `tests/bench/streams` does the same at the size of a real server.
#[test]
fn an_attack_by_streams_that_are_not_read_leaves_room_for_others() {
    let (upstream, authority) = (site(), Authority::new());
    let sidecar = Sidecar::start_command(with_open_files(400, &upstream, &authority, "serve").stdout(Stdio::null()));
    let warning = sidecar.wait_for_log("do not fit the limit of open files, which is 400");
    assert!(warning.contains("server.max_connections: 4096 client connections"), "{warning}");
    let (address, operators) = (tls_address(&sidecar), admin(&sidecar));
    let mut attackers: Vec<RawHttp2> = (0..5)
        .map(|_| {
            let mut attacker = RawHttp2::from(Ipv4Addr::new(127, 0, 0, 2), address, &authority);
            attacker.hello_with(&NO_WINDOW);
            for stream in (1..256).step_by(2) {
                attacker.request(stream, &usual("/"), true);
            }
            attacker
        })
        .collect();
    // By the limits of their connections, 160 could be in flight; by that of their address, half of
    // 150.
    wait_until("it is an attack", || upstream.connections() >= 70);
    for _ in 0..50 {
        assert_eq!(small(&sidecar), 200);
        assert_eq!(get(operators, "/healthz").status(), 200);
    }
    assert!(upstream.connections() <= 75 + 50, "{} connections", upstream.connections());
    // Those beyond the address's limit get a 503.
    sidecar.wait_for_log("as many requests as may be were in flight for the client's address");
    assert!(sidecar.log().iter().all(|line| !line.contains("cannot accept connections")));
    attackers.clear();
}

#[test]
fn check_shows_where_open_files_go() {
    let (upstream, authority) = (site(), Authority::new());
    let run = |files: usize, more: &[&str]| {
        let mut command = with_open_files(files, &upstream, &authority, "check");
        String::from_utf8(command.args(more).output().unwrap().stdout).unwrap()
    };
    let output = run(1_200, &[]);
    assert!(
        output.contains("open files: limit 1200: 549 client connections, 549 connections to the upstream, 102 for"),
        "{output}"
    );
    assert!(
        output.contains("requests in flight: 1098 in all, 274 of one address, 32 of one HTTP/2 connection"),
        "{output}"
    );
    assert!(output.contains("warning: server.max_connections: 4096 client connections do not fit"), "{output}");
    let output = run(1_200, &["--server-max-connections", "100", "--upstream-max-connections", "0"]);
    assert!(output.contains("100 client connections, any number of connections to the upstream"), "{output}");
    assert!(output.contains("200 in all, 100 of one address") && !output.contains("warning: "), "{output}");
}

async fn refresh(client: &mut Client<Full<Bytes>>, token: &str) -> (u16, Value) {
    let request = Request::post(format!("https://shop.example{ROUTE}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(json!({ "refresh_token": token }).to_string())))
        .unwrap();
    let answer = client.send(request).await;
    let status = answer.status().as_u16();
    (status, serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap())
}

/// A refresh counts among the exchanges in flight, but needs no connection to the site.
#[tokio::test]
async fn refreshes_are_exchanges_that_need_no_connection_to_the_site() {
    let authority = Authority::new();
    let pair = authority.issue("shop", &["shop.example"]).argument();
    let rig = Rig::start_on(
        Database::shared(),
        &[
            ("WP_JWT_SIDECAR_TLS_LISTEN", "127.0.0.1:0"),
            ("WP_JWT_SIDECAR_TLS_CERTIFICATES", pair.as_str()),
            ("WP_JWT_SIDECAR_SERVER_WORKERS", "1"),
            ("WP_JWT_SIDECAR_SERVER_MAX_EXCHANGES", "2"),
            ("WP_JWT_SIDECAR_SERVER_MAX_EXCHANGES_PER_ADDRESS", "0"),
            ("WP_JWT_SIDECAR_UPSTREAM_MAX_CONNECTIONS", "1"),
            ("WP_JWT_SIDECAR_UPSTREAM_KEEPALIVE_IDLE", "0s"),
            ("WP_JWT_SIDECAR_UPSTREAM_CONNECT_TIMEOUT", "100ms"),
        ],
    )
    .await;
    let mut app = client(tls_address(&rig.sidecar), &authority).await;
    let unknown = "0".repeat(64);
    let deadline = Instant::now() + PATIENCE;
    // The home URL as WordPress has it for https is asked for in the background.
    while refresh(&mut app, &unknown).await.0 != 403 {
        assert!(Instant::now() < deadline, "not native");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The only connection to the site is taken by a running upload, which has begun once it exceeds
    // what is read first.
    let before = rig.upstream.connections();
    let mut upload = Connection::to(rig.sidecar.address());
    upload.send("POST /upload HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 200000\r\n\r\n");
    upload.send(vec![b'x'; 100_000]);
    while rig.upstream.connections() == before {
        assert!(Instant::now() < deadline, "the upload does not begin");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (status, answer) = refresh(&mut app, &rig.token().await.refresh_token).await;
    assert_eq!((status, answer["user_id"] == rig.user.id), (200, true), "{answer}");
    // With the second permit taken, too, none is left for a refresh.
    let mut other = Connection::to(rig.sidecar.address());
    other.send("POST /upload HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 200000\r\n\r\nx");
    let refused = loop {
        assert!(Instant::now() < deadline, "refreshes are not counted");
        let (status, answer) = refresh(&mut app, &unknown).await;
        if status != 403 {
            break (status, answer);
        }
    };
    assert_eq!((refused.0, &refused.1["code"]), (503, &json!("wp_jwt_sidecar_too_many_in_flight")));
    rig.sidecar.wait_for_log("as many requests as may be were in flight in all (server.max_exchanges)");
    drop(other);
    while refresh(&mut app, &unknown).await.0 != 403 {
        assert!(Instant::now() < deadline, "the place is not given back");
    }
}
