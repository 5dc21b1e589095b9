//! The log lines of each refresh and of each forwarded request, and the limit on floods of lines.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use wp_jwt_sidecar::internals::printable::is_harmful;

use crate::support::mariadb::{Database, TokenState};
use crate::support::raw::{Connection, Upstream};
use crate::support::rig::{ROUTE, Rig, call, call_with, refresh_at};
use crate::support::sidecar::{self, Sidecar};

const TRUSTING: (&str, &str) = ("WP_JWT_SIDECAR_FORWARDED_TRUSTED_PROXIES", "127.0.0.1");

/// The line about the request with this id in a part of the log.
fn line(sidecar: &Sidecar, target: &str, id: &str) -> Value {
    let is_it = |line: &Value| line["target"] == target && line["request_id"] == id;
    let deadline = std::time::Instant::now() + sidecar::PATIENCE;
    loop {
        let lines = sidecar.log();
        let mut parsed = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        if let Some(line) = parsed.find(is_it) {
            return line;
        }
        assert!(std::time::Instant::now() < deadline, "no line of {target} about {id} in {lines:#?}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn ask(address: std::net::SocketAddr, id: &str, call: &str) -> u16 {
    let mut client = Connection::to(address);
    let fields = format!("\r\nX-Request-Id: {id}\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n");
    client.send(call.replacen("\r\n\r\n", &fields, 1));
    client.response().status()
}

#[tokio::test]
async fn every_refresh_is_a_line() {
    // Without the detection, a used token counts as unknown if the map has it from a look at new
    // rows.
    let detection = ("WP_JWT_SIDECAR_REFRESH_REUSE_DETECTION", "revoke_family");
    let environment = [TRUSTING, ("WP_JWT_SIDECAR_LOG_LEVEL", "info"), detection];
    let rig = Rig::start_on(Database::shared(), &environment).await;
    let at = rig.sidecar.address();
    // Filling the map leaves out expired tokens, which would then be unknown.
    rig.sidecar.wait_for_log("the tokens of the table are known");
    let live = rig.token().await;
    let used = rig.database.insert_token(TokenState::Used, rig.user.id).await;
    let expired = rig.database.insert_token(TokenState::Expired, rig.user.id).await;
    let with_fields = call(&live.refresh_token).replacen(ROUTE, &format!("{ROUTE}?_fields=a"), 1);
    for (id, call, status, outcome, of) in [
        ("rotated", call(&live.refresh_token), 200, "rotated", Some(&live)),
        ("used", call(&used.refresh_token), 403, "used", Some(&used)),
        ("expired", call(&expired.refresh_token), 403, "expired", None),
        ("unknown", call("0123456789abcdef"), 403, "unknown", None),
        ("invalid", call_with(&json!({}), ""), 400, "invalid", None),
        ("left", with_fields, 299, "left_to_wordpress", None),
    ] {
        assert_eq!(ask(at, id, &call), status, "{id}");
        let line = line(&rig.sidecar, "wp_jwt_sidecar::refreshes", id);
        assert_eq!((&line["outcome"], &line["status"]), (&json!(outcome), &json!(status)), "{line}");
        assert_eq!((&line["level"], &line["client"]), (&json!("INFO"), &json!("203.0.113.9")), "{line}");
        assert!(line["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{line}");
        match of {
            Some(token) => {
                assert_eq!(line["user"], json!(rig.user.id), "{line}");
                assert_eq!(line["family"], json!(&token.token_family[..8]), "{line}");
            }
            None => assert!(line.get("user").is_none() && line.get("family").is_none(), "{line}"),
        }
    }
    let left = line(&rig.sidecar, "wp_jwt_sidecar::refreshes", "left");
    assert_eq!(left["reason"], "an unusual query");
    assert_eq!(rig.sidecar.log().iter().filter(|line| line.contains("sidecar::refreshes")).count(), 6);
    assert!(rig.sidecar.log().iter().all(|line| !line.contains("sidecar::access")));
}

#[tokio::test]
async fn refreshes_can_be_left_out() {
    let environment = [TRUSTING, ("WP_JWT_SIDECAR_LOG_REFRESHES", "false")];
    let rig = Rig::start_on(Database::shared(), &environment).await;
    assert_eq!(refresh_at(rig.sidecar.address(), &rig.token().await.refresh_token).status(), 200);
    // Its line would have been written before its response.
    assert!(rig.sidecar.log().iter().all(|line| !line.contains("sidecar::refreshes")));
}

#[test]
fn every_forwarded_request_can_be_a_line_without_its_query() {
    let upstream = Upstream::answering(|request| match request.start_line().contains("/gone") {
        true => "HTTP/1.1 410 Gone\r\nContent-Length: 5\r\n\r\n12345",
        false => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
    });
    // At every level, since it was named explicitly.
    let level = "error,wp_jwt_sidecar::listen=info";
    let arguments = ["--log-access", "true", "--log-level", level, "--forwarded-trusted-proxies", "127.0.0.1"];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &arguments);
    for (id, method, target, status, bytes) in [
        ("a", "GET", "/shop/?key=value&pass=word", 200, 7),
        ("b", "POST", "/gone", 410, 5),
        ("c", "HEAD", "/gone?", 410, 0),
    ] {
        let mut client = Connection::to(sidecar.address());
        client.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\nX-Forwarded-For: 203.0.113.9\r\nUser-Agent: me \"too\"\r\nContent-Length: 0\r\n\r\n"
        ));
        assert_eq!(client.response_to(method).status(), status);
        let line = line(&sidecar, "wp_jwt_sidecar::access", id);
        let path = target.split('?').next().unwrap();
        for (name, value) in [
            ("method", json!(method)),
            ("path", json!(path)),
            ("status", json!(status)),
            ("bytes", json!(bytes)),
            ("complete", json!(true)),
            ("client", json!("203.0.113.9")),
            ("user_agent", json!("me \"too\"")),
            ("protocol", json!("HTTP/1.1")),
        ] {
            assert_eq!(line[name], value, "{name} in {line}");
        }
        let (whole, waited) = (line["duration_ms"].as_f64().unwrap(), line["upstream_ms"].as_f64().unwrap());
        assert!(whole >= waited && waited > 0.0, "{line}");
    }
    // Refused: there is no time of the upstream.
    let mut client = Connection::to(sidecar.address());
    client.send("GET /?a HTTP/1.1\r\nHost: a\r\nHost: b\r\nX-Request-Id: d\r\n\r\n");
    assert_eq!(client.response().status(), 400);
    let line = line(&sidecar, "wp_jwt_sidecar::access", "d");
    assert!(line["status"] == 400 && line.get("upstream_ms").is_none() && line["path"] == "/", "{line}");
    let is_other = |line: &&String| !line.contains("sidecar::access") && !line.contains("sidecar::listen");
    assert_eq!(sidecar.log().iter().find(is_other), None);
}

/// Text from a client is in the line unchanged, but can neither break the line nor steer a
/// terminal.
#[test]
fn no_byte_of_a_client_breaks_a_line() {
    let upstream = Upstream::answering(|_| "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let nasty: String = ('\u{80}'..='\u{9f}').chain("\u{2028}\u{2029}\u{202e}\u{2066}\\\u{e9}".chars()).collect();
    let request =
        format!("GET /{nasty} HTTP/1.1\r\nHost: a\r\nX-Request-Id: n\r\nUser-Agent: \t\"{nasty}\"\t{{\r\n\r\n");
    let arguments = ["--log-access", "true", "--forwarded-trusted-proxies", "127.0.0.1"];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &arguments);
    let mut client = Connection::to(sidecar.address());
    client.send(&request);
    assert_eq!(client.response().status(), 200);
    let line = line(&sidecar, "wp_jwt_sidecar::access", "n");
    assert_eq!(line["path"], format!("/{nasty}"));
    assert_eq!(line["user_agent"], format!("\"{nasty}\"\t{{"));
    let raw = sidecar.wait_for_log("sidecar::access");
    assert!(!raw.contains(is_harmful), "{raw}");

    let child = sidecar::command()
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off", "--refresh-mode", "forward"])
        .arg(format!("--upstream=http://{}", upstream.address()))
        .args(["--log-format", "text", "--log-access", "true"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let listening = lines.find(|line| line.contains("listening address=")).unwrap();
    let address = listening.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
    let mut client = Connection::to(address.parse().unwrap());
    client.send(&request);
    assert_eq!(client.response().status(), 200);
    let line = lines.find(|line| line.contains("sidecar::access")).unwrap();
    assert!(!line.replace('\t', "").contains(is_harmful), "{line:?}");
    assert!(
        line.contains("path=\"/\\u{80}\\u{81}") && line.contains("\\u{85}") && line.contains("\\u{2028}"),
        "{line}"
    );
}

#[test]
fn an_answer_that_does_not_arrive_whole_is_told_so() {
    let upstream = Upstream::with(|connection, _| {
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        false
    });
    let arguments = ["--log-access", "true", "--forwarded-trusted-proxies", "127.0.0.1"];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &arguments);
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: cut-off\r\n\r\n");
    assert!(!client.response().complete);
    let line = line(&sidecar, "wp_jwt_sidecar::access", "cut-off");
    assert_eq!((&line["complete"], &line["bytes"]), (&json!(false), &json!(3)), "{line}");
    assert!(sidecar.wait_for_log("ended early").contains("cut-off"));
}

#[test]
fn what_is_no_http_has_a_name_and_a_status_too() {
    let unreachable = ([127, 0, 0, 1], 1).into();
    // hyper's own limit for a target is some bytes below the default for a head.
    let sidecar = Sidecar::forwarding_with(unreachable, &["--server-max-header-bytes", "131072"]);
    for (request, status) in [
        ("GET / HTTP/1.1\r\nBad Header: 1\r\n\r\n".to_owned(), 400),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(66_000)), 414),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(300)), 431),
    ] {
        let mut client = Connection::to(sidecar.address());
        client.send(request);
        assert_eq!(client.response().status(), status);
        let line: Value = serde_json::from_str(&sidecar.wait_for_log(&format!("\"status\":{status}"))).unwrap();
        assert_eq!(line["message"], "refused a request that is not valid HTTP");
        assert_eq!(line["request_id"].as_str().map(str::len), Some(16), "{line}");
    }
}

#[test]
fn a_flood_of_one_warning_is_a_hundred_lines_and_a_count() {
    let mut sidecar = Sidecar::forwarding(([127, 0, 0, 1], 1).into());
    for _ in 0..130 {
        let mut client = Connection::to(sidecar.address());
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response().status(), 502);
    }
    let mut client = Connection::to(sidecar.address());
    client.send("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 405);
    // Another kind of line has its own limit of a hundred.
    sidecar.wait_for_log("TRACE is not answered");
    sidecar.signal("TERM");
    assert!(sidecar.wait().success());
    let more = sidecar.wait_for_log("… and 30 more: could not connect to the upstream");
    assert!(more.contains("\"level\":\"WARN\"") && more.contains("\"count\":30"), "{more}");
    let same = |line: &&String| line.contains("could not connect to the upstream") && !line.contains("more:");
    assert_eq!(sidecar.log().iter().filter(same).count(), 100);
}

#[test]
fn no_request_waits_for_a_log_that_is_not_read() {
    let upstream = Upstream::answering(|_| "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let child = sidecar::command()
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off", "--refresh-mode", "forward"])
        .arg(format!("--upstream=http://{}", upstream.address()))
        .args(["--log-format", "json", "--log-access", "true"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let address = sidecar::listens_on(&lines.find(|line| line.contains("\"listening\"")).unwrap());
    // About 5.6 MB, more than the pipe and the buffer hold. A connection ends after a thousand
    // requests.
    let request = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(6000));
    let mut client = Connection::to(address);
    for _ in 0..900 {
        client.send(&request);
        assert_eq!(client.response().status(), 200);
    }
    client.send("GET /afterwards HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.all(|line| said.send(line).is_ok()));
    let next = |text: &str| loop {
        let line = heard.recv_timeout(sidecar::PATIENCE).unwrap();
        if line.contains(text) {
            break line;
        }
    };
    let lost = next("lines were lost");
    client.send("GET /in-the-end HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    next("\"path\":\"/in-the-end\"");
    let lost: Value = serde_json::from_str(&lost).unwrap();
    assert!(lost["lines"].as_u64().is_some_and(|lines| (50..800).contains(&lines)), "{lost}");
}

/// A process that ends with its test in any case.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn without_a_choice_it_is_the_journal_or_text() {
    let journald_is_here = Path::new("/run/systemd/journal/socket").exists();
    // The variable names another file than the pipe, as after a redirection, so the format is text.
    let mut child = sidecar::command()
        .args(["serve", "--listen", "127.0.0.1:0", "--upstream", "http://127.0.0.1:1", "--refresh-mode", "forward"])
        .env("JOURNAL_STREAM", "1:1")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("listening")).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.contains(" INFO wp_jwt_sidecar::listen::listeners: listening address=127.0.0.1:"), "{line}");
    if journald_is_here {
        return;
    }
    let output = sidecar::command()
        .args(["serve", "--listen", "127.0.0.1:0", "--upstream", "http://127.0.0.1:1", "--refresh-mode", "forward"])
        .args(["--log-format", "journald"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("log.format is \"journald\", but journald cannot be reached"), "{said}");
}
