//! The README's commands and files that need no other server, and what its text says in passing.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::json;
use wp_jwt_sidecar::internals::config::keys::{Fallback, KEYS, Key, SECTIONS};

use super::block;
use super::blocks::read;
use crate::import::Wordpress;
use crate::support::raw::{Connection, Upstream};
use crate::support::rig::{self, ROUTE};
use crate::support::sidecar::{Sidecar, command};
use crate::support::site::Site;
use crate::support::tls::{Authority, TlsConnection, tls_address};

#[test]
fn quick_start() {
    let site = Site::up(&[]);
    let text = block("quick-start");
    let [build, serve] = text.lines().collect::<Vec<_>>()[..] else { panic!("not two commands: {text}") };
    assert_eq!(build, "cargo build --release", "tests/demo and packaging/deb run this");
    let arguments = serve.strip_prefix("target/release/wp-jwt-sidecar serve ").expect("serve");
    let here = arguments
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("http://127.0.0.1:8081", site.said("UPSTREAM"))
        .replace("/var/www/html/wp-config.php", site.said("WP_CONFIG"));
    assert!(!here.contains("808") && !here.contains("/var/www"), "{here}");
    let listen = here.strip_prefix("--listen 127.0.0.1:0 ").expect("the address, which Sidecar gives");
    let sidecar = Sidecar::start(&listen.split(' ').collect::<Vec<_>>());
    sidecar.wait_for_log("refreshing natively");
    let mut client = Connection::to(sidecar.address());
    client.send(format!(
        "POST {ROUTE} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}",
        site.host()
    ));
    assert_eq!((client.response().status(), site.requests().iter().any(|line| line.contains(ROUTE))), (400, false));

    // "takes the same options"
    let checked = command().arg("check").args(listen.split(' ')).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn import() {
    let wordpress = Wordpress::with("<?php define( 'DB_NAME', 'shop' ); require ABSPATH . 'wp-settings.php';");
    let text = block("import").replace("www-data", wordpress.user());
    let arguments = text.trim().strip_prefix("sudo wp-jwt-sidecar import ").expect("import");
    assert_eq!(wordpress.constant("DB_NAME", &arguments.split(' ').collect::<Vec<_>>()), "shop");
}

#[test]
fn tls_of_its_own() {
    let authority = Authority::new();
    authority.issue("example.com", &["example.com"]);
    let text = block("own-tls")
        .replace("[::]:443", "[::1]:0")
        .replace("/etc/ssl", authority.directory.path().to_str().unwrap());
    let (sidecar, _upstream) = forwarding(&text);
    let mut client = TlsConnection::to(tls_address(&sidecar), "example.com", authority.client(&["http/1.1"])).unwrap();
    let answer = client.exchange("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", "upstream");
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

#[tokio::test(flavor = "multi_thread")]
async fn out_again() {
    let mut rig = rig::Rig::start().await;
    let token = rig.token().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), block("out")).unwrap();
    rig.sidecar = rig::sidecar(
        &rig.database,
        rig.upstream.address(),
        &[("WP_JWT_SIDECAR_CONFIG", file.path().to_str().unwrap())],
    );
    let answer = rig.refresh(&token.refresh_token);
    assert_eq!(answer.json(), json!({"forwarded": format!("POST {ROUTE} HTTP/1.1")}));
}

/// Prometheus accepts what is to be put into its configuration, together with the rules that are
/// shipped.
#[test]
fn prometheus() {
    let text = block("prometheus");
    let rules = "/etc/prometheus/wp-jwt-sidecar-alerts.yml";
    assert!(text.contains(rules) && text.contains(KEYS.iter().find_map(default_of_admin).unwrap()), "{text}");
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/alerts.yml");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text.replace(rules, shipped.to_str().unwrap())).unwrap();
    let output = std::process::Command::new("promtool").args(["check", "config"]).arg(file.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said.contains("rules found"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(std::fs::read_to_string(shipped).unwrap().contains("job=\"wp-jwt-sidecar\""));
}

fn default_of_admin(key: &Key) -> Option<&'static str> {
    match key.default {
        Fallback::Is(address) if key.name == "admin.listen" => Some(address),
        _ => None,
    }
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

/// Keys, flags and commands that the text names in passing exist.
#[test]
fn the_text_names_what_there_is() {
    let text = read("README.md");
    let help = String::from_utf8(command().arg("--help").output().unwrap().stdout).unwrap();
    let mut seen = BTreeSet::new();
    let text: String = text.split("\n```").step_by(2).collect();
    for span in text.split('`').skip(1).step_by(2) {
        if let Some(arguments) = span.strip_prefix("wp-jwt-sidecar ") {
            let name = arguments.split(' ').next().unwrap();
            let known = help.lines().any(|line| line.trim_start().starts_with(&format!("{name} ")));
            assert!(known || name == "…", "no command {name}: `{span}`");
            seen.insert("command");
        }
        let words = span.split([' ', '=', ',']);
        for flag in words.filter_map(|word| word.strip_prefix("--")).filter(|_| span.contains("wp-jwt-sidecar")) {
            let known = KEYS.iter().any(|key| key.flag() == flag);
            assert!(
                known || ["apply", "drop", "again", "json", "config", "no-php"].contains(&flag),
                "no flag --{flag}: `{span}`"
            );
        }
        if let Some(section) = span.strip_prefix('[').and_then(|rest| rest.split(']').next())
            && section.chars().all(|letter| letter.is_ascii_lowercase())
        {
            assert!(SECTIONS.iter().any(|(name, _)| *name == section), "no section [{section}]: `{span}`");
            seen.insert("section");
            let keys = span.split("] ").nth(1).and_then(|rest| rest.split(" = ").next());
            if let Some(key) = keys {
                assert!(KEYS.iter().any(|known| known.name == format!("{section}.{key}")), "no key {key}: `{span}`");
                seen.insert("key of a section");
            }
        }
        let dotted = span.split([' ', '=']).next().unwrap();
        let section = dotted.split('.').next().unwrap();
        if dotted.contains('.') && SECTIONS.iter().any(|(name, _)| *name == section) {
            let is_file = ["rs", "toml"].iter().any(|ending| dotted.ends_with(&format!(".{ending}")));
            assert!(is_file || KEYS.iter().any(|key| key.name == dotted), "no key {dotted}: `{span}`");
            seen.insert("dotted key");
        }
    }
    assert_eq!(seen.len(), 4, "only {seen:?} was found: does this test still read the README?");
}
