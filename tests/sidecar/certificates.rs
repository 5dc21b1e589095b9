//! Certificates for clients: several for one name, some that clients refuse, some that are missing
//! at first. None of that affects the other listeners and names.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::admin;
use crate::support::port::Port;
use crate::support::raw::{Connection, Upstream};
use crate::support::sidecar::{self, Sidecar};
use crate::support::systemd::{self, Notices};
use crate::support::tls::{Authority, Pair, TlsConnection, tls_address};

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n";
const LONG: (i32, i32) = (2020, 2090);

/// The flags for these pairs.
fn certificates(pairs: &[&Pair]) -> Vec<String> {
    pairs.iter().flat_map(|pair| ["--tls-certificates".to_owned(), pair.argument()]).collect()
}

fn forwarding(upstream: &Upstream, pairs: &[&Pair], more: &[&str]) -> Sidecar {
    let certificates = certificates(pairs);
    let all: Vec<&str> = more.iter().copied().chain(certificates.iter().map(String::as_str)).collect();
    Sidecar::forwarding_with(upstream.address(), &all)
}

fn check(arguments: &[&str]) -> (Option<i32>, String) {
    let always =
        ["check", "--upstream", "http://127.0.0.1:1", "--refresh-mode", "forward", "--tls-listen", "127.0.0.1:0"];
    let Output { status, stdout, stderr } = sidecar::command().args(always).args(arguments).output().unwrap();
    (status.code(), [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat())
}

fn plain_status(sidecar: &Sidecar) -> u16 {
    let mut client = Connection::to(sidecar.address());
    client.send(GET);
    client.response().status()
}

#[test]
fn each_client_gets_the_certificate_that_it_can_use() {
    let authority = Authority::new();
    let rsa = authority.issue_of("rsa", &["shop.example"], &rcgen::PKCS_RSA_SHA256, LONG);
    let ecdsa = authority.issue("ecdsa", &["shop.example"]);
    let upstream = Upstream::ok();
    let sidecar = forwarding(&upstream, &[&rsa, &ecdsa], &["--tls-listen", "127.0.0.1:0"]);
    let address = tls_address(&sidecar).to_string();
    for (client, expected) in [
        (&[][..], "ECDSA"),
        (&["-sigalgs", "rsa_pss_rsae_sha256:ecdsa_secp256r1_sha256"], "ECDSA"),
        (&["-sigalgs", "rsa_pss_rsae_sha256"], "RSA-PSS"),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], "ECDSA"),
        // It supports ECDSA signatures, but no cipher with them.
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "RSA-PSS"),
    ] {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &address, "-servername", "shop.example", "-verify_return_error"])
            .args(["-CAfile", &authority.file()])
            .args(client)
            .stdin(Stdio::null())
            .output()
            .expect("openssl is there");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(&format!("Peer signature type: {expected}\n")), "{client:?}: {said}");
    }
}

#[test]
fn check_shows_each_certificate_and_what_is_wrong_with_it() {
    let authority = Authority::new();
    let pairs = [
        authority.issue("good", &["shop.example", "www.shop.example"]),
        authority.issue_of("rsa", &["shop.example"], &rcgen::PKCS_RSA_SHA256, LONG),
        authority.issue("again", &["shop.example"]),
        authority.issue("nameless", &[]),
        authority.issue_of("ended", &["ended.example"], &rcgen::PKCS_ED25519, (2019, 2020)),
        authority.issue_of("early", &["early.example"], &rcgen::PKCS_ECDSA_P384_SHA384, (2089, 2090)),
        Pair { chain: "/does/not/exist.pem".into(), key: "/does/not/exist.key".into() },
    ];
    let flags = certificates(&pairs.each_ref());
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(["--listen", "127.0.0.1:0"]).collect();
    let (code, said) = check(&flags);
    assert_eq!(code, Some(0), "{said}");
    for shown in [
        "  shop.example, www.shop.example (ECDSA P-256) until Sun, 01 Jan 2090 00:00:00 GMT: ",
        "  shop.example (RSA 2048) until ",
        "  (no name) (ECDSA P-256) until ",
        "  ended.example (Ed25519) until Wed, 01 Jan 2020 ",
        "  early.example (ECDSA P-384) until ",
    ] {
        assert!(said.contains(shown), "{shown}: {said}");
    }
    let warnings: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("warning: ")).collect();
    for (warning, parts) in warnings.iter().zip([
        ["/does/not/exist.pem: cannot be read: ", "taken as soon as it can be read"],
        ["again.pem: ", "presented to no client while the one in "],
        ["nameless.pem: ", "has no name (subjectAltName)"],
        ["ended.pem: ", "no longer valid since Wed, 01 Jan 2020"],
        ["early.pem: ", "not valid before Sat, 01 Jan 2089"],
    ]) {
        assert!(parts.iter().all(|part| warning.contains(part)), "{warnings:#?}");
    }
    assert_eq!(warnings.len(), 5, "{warnings:#?}");
}

#[test]
fn a_certificate_that_clients_refuse_ends_nothing() {
    let authority = Authority::new();
    let ended = authority.issue_of("ended", &["ended.example"], &rcgen::PKCS_ECDSA_P256_SHA256, (2019, 2020));
    let early = authority.issue_of("early", &["early.example"], &rcgen::PKCS_ECDSA_P256_SHA256, (2089, 2090));
    let good = authority.issue("good", &["good.example"]);
    let more = ["--tls-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let upstream = Upstream::ok();
    let sidecar = forwarding(&upstream, &[&ended, &early, &good], &more);
    let page = admin::admin(&sidecar);
    for text in ["ended.pem: the certificate is no longer valid", "early.pem: the certificate is not valid before"] {
        assert!(sidecar.wait_for_log(text).contains("\"WARN\""));
    }
    let address = tls_address(&sidecar);
    // Clients decide: this one reports why it refuses the certificate.
    for (name, reason) in [("ended.example", "expired"), ("early.example", "not valid yet")] {
        let error = TlsConnection::to(address, name, authority.client(&[])).err().unwrap();
        assert!(error.to_string().contains(reason), "{error}");
    }
    let mut client = TlsConnection::to(address, "good.example", authority.client(&["http/1.1"])).unwrap();
    assert!(client.exchange(GET, "ok").starts_with("HTTP/1.1 200 OK"));
    assert_eq!(plain_status(&sidecar), 200);

    let ready = admin::readiness(page, 200);
    let warnings = ready["warnings"].as_array().unwrap();
    assert!(warnings.len() == 2 && warnings[0].as_str().unwrap().contains("no longer valid"), "{ready}");
    let status = admin::get(page, "/status.json").json();
    let findings: Vec<(&str, &str)> = status["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["area"] == "TLS")
        .map(|finding| (finding["level"].as_str().unwrap(), finding["what"].as_str().unwrap()))
        .collect();
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings.iter().all(|(level, _)| *level == "problem"), "{findings:?}");
    assert!(findings.iter().any(|(_, what)| what.contains("ended.example is no longer valid")), "{findings:?}");

    let before = sidecar.log().len();
    sidecar.signal("HUP");
    sidecar.wait_for_log_after(before, "\"reloaded\"");
    sidecar.wait_for_log_after(before, "ended.pem: the certificate is no longer valid");
}

/// Copies the files of `pair` to where those of `as_` are missing.
fn put(pair: &Pair, as_: &Pair) {
    fs::copy(&pair.chain, &as_.chain).unwrap();
    fs::copy(&pair.key, &as_.key).unwrap();
}

fn in_(directory: &Path, name: &str) -> Pair {
    Pair { chain: directory.join(format!("{name}.pem")), key: directory.join(format!("{name}.key")) }
}

#[test]
fn a_pair_that_is_late_opens_its_listener() {
    let authority = Authority::new();
    let directory = TempDir::new().unwrap();
    let [late, later] = ["late", "later"].map(|name| in_(directory.path(), name));
    let port = Port::reserve();
    let listen = port.address().to_string();
    let upstream = Upstream::ok();
    let sidecar = forwarding(&upstream, &[&late, &later], &["--tls-listen", &listen, "--admin-listen", "127.0.0.1:0"]);
    let page = admin::admin(&sidecar);
    sidecar.wait_for_log("nothing listens with TLS until a pair of tls.certificates can be read");
    assert!(sidecar.wait_for_log("late.pem: cannot be read: ").contains("taken as soon as it can be read"));
    assert_eq!(plain_status(&sidecar), 200);
    assert!(TcpStream::connect(port.address()).is_err(), "a client that is refused goes elsewhere");
    let ready = admin::readiness(page, 503);
    assert!(ready["reasons"].to_string().contains("nothing listens with TLS"), "{ready}");
    let metrics = |text: &str| String::from_utf8(admin::get(page, "/metrics").body).unwrap().contains(text);
    assert!(metrics("wp_jwt_sidecar_tls_certificates_missing 2\n"));
    // A pair that was missing at the start does not prevent other changes.
    let before = sidecar.log().len();
    sidecar.signal("HUP");
    sidecar.wait_for_log_after(before, "\"reloaded\"");

    let pair = authority.issue("shop", &["shop.example"]);
    put(&pair, &late);
    let line: Value = serde_json::from_str(&sidecar.wait_for_log("\"tls\":true")).unwrap();
    assert_eq!((line["message"].as_str(), line["address"].as_str()), (Some("listening"), Some(listen.as_str())));
    let connect = || TlsConnection::to(port.address(), "shop.example", authority.client(&["http/1.1"])).unwrap();
    assert!(connect().exchange(GET, "ok").starts_with("HTTP/1.1 200 OK"));
    admin::readiness(page, 200);
    assert!(metrics("wp_jwt_sidecar_tls_certificates_missing 1\n"));

    // A pair that existed and is gone is a fault of a reload, which then changes nothing.
    let der = pair.der();
    fs::remove_file(&late.chain).unwrap();
    let before = sidecar.log().len();
    sidecar.signal("HUP");
    let line = sidecar.wait_for_log_after(before, "the one before stays in effect");
    assert!(line.contains("late.pem: cannot be read") && !line.contains("later.pem"), "{line}");
    assert_eq!(connect().certificate(), der);
}

#[test]
fn in_a_socket_of_systemds_clients_wait_for_the_certificate() {
    let authority = Authority::new();
    let directory = TempDir::new().unwrap();
    let late = in_(directory.path(), "late");
    let upstream = Upstream::ok();
    let ((http, _), (https, address)) = (systemd::socket(), systemd::socket());
    let mut command = systemd::command(vec![("http", http.into()), ("https", https.into())], false);
    command.args(["serve", "--listen", "systemd:http", "--log-format", "json", "--refresh-mode", "forward"]);
    command.args(["--upstream", &format!("http://{}", upstream.address())]);
    command.args(["--tls-listen", "systemd:https", "--tls-certificates", &late.argument()]);
    let sidecar = Sidecar::start_command(&mut command);
    sidecar.wait_for_log("nothing listens with TLS");
    assert_eq!(plain_status(&sidecar), 200);
    let waiting = TcpStream::connect(address).unwrap();
    put(&authority.issue("shop", &["shop.example"]), &late);
    let mut client = TlsConnection::over(waiting, "shop.example", authority.client(&["http/1.1"])).unwrap();
    assert!(client.exchange(GET, "ok").starts_with("HTTP/1.1 200 OK"));
}

#[test]
fn with_nothing_to_serve_the_exit_code_is_one_that_systemd_restarts() {
    let authority = Authority::new();
    let directory = TempDir::new().unwrap();
    let late = in_(directory.path(), "late");
    let config = directory.path().join("config.toml");
    let text = format!(
        "server.listen = []\nupstream.url = \"http://127.0.0.1:1\"\nrefresh.mode = \"forward\"\nadmin.listen = \"off\"\n\
         log.format = \"json\"\ntls.listen = [\"127.0.0.1:0\"]\ntls.certificates = [\"{}\"]\n",
        late.argument()
    );
    fs::write(&config, text).unwrap();
    let command = |name: &str| {
        let mut command = sidecar::command();
        command.arg(name).arg("--config").arg(&config).stdin(Stdio::null());
        command
    };
    for name in ["serve", "check"] {
        let output = command(name).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(75), "{error}");
        assert!(
            error.contains("there is nothing to listen on") && error.contains("late.pem: cannot be read"),
            "{error}"
        );
    }
    let unit = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/wp-jwt-sidecar.service")).unwrap();
    assert!(unit.contains("\nRestart=on-failure\n") && unit.contains("\nRestartPreventExitStatus=78\n"));

    // Under a service manager a short delay needs no restart.
    let notices = Notices::new();
    let mut serve = command("serve");
    let sidecar = std::thread::scope(|scope| {
        let started = scope.spawn(|| Sidecar::start_command(serve.env("NOTIFY_SOCKET", notices.socket())));
        notices.wait_for(0, "STATUS=waiting for a certificate");
        put(&authority.issue("shop", &["shop.example"]), &late);
        started.join().unwrap()
    });
    notices.wait_for(0, "READY=1");
    assert!(TlsConnection::to(sidecar.address(), "shop.example", authority.client(&[])).is_ok());
}
