//! Key by key: what takes effect at a SIGHUP, and what is reported to need a restart.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wp_jwt_sidecar::internals::config::keys::{Fallback, KEYS, Key};

use super::{Configured, GET, get, named, toml, url};
use crate::admin::{self, admin};
use crate::config::site::Site;
use crate::support::raw::Connection;
use crate::support::sidecar::PATIENCE;
use crate::support::tls::Authority;

/// The effect of keys from outside, with and without them.
#[test]
fn keys_take_effect() {
    let upstream = named("name", Arc::default());
    let url = url(&upstream);
    let configured = Configured::start(&[("upstream.url", &url)]);
    let address = configured.sidecar.address();
    let mut kept = Connection::to(address);
    let forwarded_for = |client: &mut Connection| {
        client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n");
        client.response();
        upstream.requests().last().unwrap().value("x-forwarded-for").unwrap()
    };
    let large = |client: &mut Connection| {
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Large: {}\r\n\r\n", "x".repeat(2_000)));
        client.response().status()
    };
    assert_eq!((forwarded_for(&mut kept).as_str(), large(&mut kept)), ("127.0.0.1", 200));

    configured.change(&[("upstream.url", &url), ("forwarded.trusted_proxies", "[\"127.0.0.1\"]")]);
    assert_eq!(forwarded_for(&mut kept), "203.0.113.9, 127.0.0.1", "on an open connection, too");
    configured.change(&[("upstream.url", &url), ("forwarded.mode", "\"preserve\"")]);
    assert_eq!(forwarded_for(&mut kept), "203.0.113.9");

    configured.change(&[("upstream.url", &url), ("server.max_header_bytes", "1024")]);
    assert_eq!((large(&mut Connection::to(address)), large(&mut kept)), (431, 431), "on an open connection, too");

    configured.change(&[("upstream.url", &url), ("server.ignore_client_abort", "true")]);
    let mut half = Connection::to(address);
    half.send(GET);
    half.finish();
    assert_eq!(half.response().status(), 200);

    configured.change(&[("upstream.url", &url), ("server.first_byte_timeout", "\"100ms\"")]);
    assert!(Connection::to(address).is_closed());
    configured.change(&[("upstream.url", &url), ("server.max_connections_per_address", "1")]);
    // Open ones count.
    drop((kept, half));
    let deadline = Instant::now() + PATIENCE;
    let first = loop {
        assert!(Instant::now() < deadline, "no connection at all");
        let mut client = Connection::to(address);
        client.send(GET);
        if client.head().is_some() {
            break client;
        }
    };
    assert!(Connection::to(address).is_closed(), "one too many");
    drop(first);
    configured.change(&[
        ("upstream.url", &url),
        ("server.proxy_protocol", "\"v1\""),
        ("forwarded.trusted_proxies", "[\"127.0.0.1\"]"),
    ]);
    let mut introduced = Connection::to(address);
    introduced.send("PROXY TCP4 203.0.113.7 127.0.0.1 1 2\r\n");
    assert_eq!(get(&mut introduced).status(), 200);

    // The limit is reached: others wait. The accept loop holds a permit of its own.
    configured.change(&[("upstream.url", &url), ("server.max_connections", "3")]);
    let mut open: Vec<Connection> = (0..6).map(|_| Connection::to(address)).collect();
    let waiting = open.iter_mut().skip(3).map(|client| {
        client.send(GET);
        client.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        client.stream.peek(&mut [0]).is_err()
    });
    assert!(waiting.last().unwrap(), "more than max_connections are served");
    configured.change(&[
        ("upstream.url", &url),
        ("server.max_connections", "30"),
        ("shutdown.drain_timeout", "\"200ms\""),
    ]);
    let last = open.last_mut().unwrap();
    last.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(last.response().status(), 200);

    let mut slow = Connection::to(address);
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    slow.head().unwrap();
    let Configured { mut sidecar, .. } = configured;
    sidecar.signal("TERM");
    let begun = Instant::now();
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(25), "drain_timeout was 30 s before");
}

/// The number of connections to the site follows from those of listeners and clients, unless it is
/// set.
#[test]
fn idle_connections_to_the_site_outlive_a_change_of_how_many_there_may_be() {
    let upstream = named("name", Arc::default());
    let url = url(&upstream);
    let usual = [("upstream.url", url.as_str()), ("server.workers", "1")];
    let configured = Configured::start(&usual);
    let mut kept = Connection::to(configured.sidecar.address());
    assert_eq!(get(&mut kept).status(), 200);
    let three = "[\"127.0.0.1:0\", \"127.0.0.1:0\", \"127.0.0.1:0\"]";
    for more in [("server.listen", three), ("server.max_connections", "50"), ("upstream.max_connections", "7")] {
        let line = configured.change(&[&usual[..], &[more]].concat());
        assert!(line.contains("\"reloaded\"") && line.contains(more.0), "{line}");
        assert_eq!(get(&mut kept).status(), 200);
        assert_eq!(upstream.connections(), 1, "{}", more.0);
    }
    // To the sidecar it is another site.
    configured.change(&[&usual[..], &[("upstream.connect_timeout", "\"9s\"")]].concat());
    assert_eq!(get(&mut kept).status(), 200);
    assert_eq!(upstream.connections(), 2);
}

/// A line of the level info for each refused request, while that level is set.
#[test]
fn the_level_of_the_log_changes() {
    let upstream = named("name", Arc::default());
    let url = url(&upstream);
    let configured = Configured::start(&[("upstream.url", &url)]);
    let address = configured.sidecar.address();
    let refused = |host: &str| {
        let mut client = Connection::to(address);
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nHost: {host}\r\n\r\n"));
        let answer = client.response();
        assert_eq!(answer.status(), 400);
        answer.json()["data"]["request_id"].as_str().unwrap().to_owned()
    };
    let first = refused("b");
    configured.sidecar.wait_for_log(&first);
    let line = configured.change(&[("upstream.url", &url), ("log.level", "\"error\""), ("log.access", "true")]);
    assert!(line.contains("\"changed\":\"log.level, log.access\""), "{line}");
    let unsaid = refused("b");
    // Named explicitly, and so at every level.
    assert!(configured.sidecar.wait_for_log(&unsaid).contains("wp_jwt_sidecar::access"));
    let line = configured.change(&[("upstream.url", &url), ("log.level", "\"debug\"")]);
    assert!(line.contains("log.level"), "{line}");
    let last = refused("b");
    configured.sidecar.wait_for_log(&last);
    let said = |id: &str| configured.sidecar.log().iter().filter(|line| line.contains(id)).count();
    assert_eq!((said(&first), said(&unsaid)), (1, 1));
}

#[test]
fn every_key_takes_effect_or_is_said_to_need_a_restart() {
    let site = Site::new();
    let base: BTreeMap<&str, String> = [
        ("wordpress.database_url", "\"mysql://nobody:nothing@127.0.0.1:1/none\""),
        ("wordpress.table_prefix", "\"wp_\""),
        ("wordpress.auth_key", "\"k\""),
        ("wordpress.auth_salt", "\"s\""),
        ("forwarded.trusted_proxies", "[\"10.9.9.9\"]"),
        ("admin.listen", "\"127.0.0.1:0\""),
    ]
    .map(|(key, value)| (key, value.to_owned()))
    .into();
    let authority = Authority::new();
    let pairs = ["one", "two"].map(|file| authority.issue(file, &["shop.example"]).argument());
    let text = |changed: &[(&str, String)]| {
        let all: BTreeMap<&str, String> = base.clone().into_iter().chain(changed.iter().cloned()).collect();
        toml(&all.iter().map(|(key, value)| (*key, value.as_str())).collect::<Vec<_>>())
    };
    let start = text(&[]);
    let configured = Configured::start(&[("admin.listen", "\"127.0.0.1:0\"")]);
    let page = admin(&configured.sidecar);
    configured.change_text(&start);
    let in_force = |key: &Key| {
        let status = admin::get(page, "/status.json").json();
        let settings = status["configuration"].as_array().unwrap().clone();
        settings.into_iter().find(|setting| setting["key"] == key.name).unwrap()["value"].as_str().unwrap().to_owned()
    };
    let certificates = |pair: usize| ("tls.certificates", format!("[\"{}\"]", pairs[pair]));
    let tls = ("tls.listen", "[\"127.0.0.1:0\"]".to_owned());
    let mut at_restart = Vec::new();
    for key in KEYS {
        let [_, sample, other] = site.samples(key);
        let value = |text: &str| (key.name, key.kind.toml(text));
        // Some need another key with them, or their own place.
        let changed = match key.name {
            "server.listen" => vec![value("127.0.0.1:0,127.0.0.1:0")],
            "tls.listen" => vec![tls.clone(), certificates(0)],
            "tls.certificates" => vec![tls.clone(), certificates(1)],
            "log.format" => continue,
            "admin.listen" => vec![value("unix:/run/z.sock")],
            "refresh.mode" => {
                vec![value("native"), ("jwt.secret", "\"not-a-secret-not-a-secret-not-a-secret\"".into())]
            }
            "upstream.ca_file" => vec![value(&authority.file())],
            "rate_limit.store_ca_file" => {
                vec![value(&authority.file()), ("rate_limit.store", "\"rediss://127.0.0.1:1\"".into())]
            }
            "rate_limit.store_prefix" => vec![value(&sample), ("rate_limit.store", "\"redis://127.0.0.1:1\"".into())],
            "jwt.algorithm" => vec![value("HS384")],
            "refresh.verify" => vec![value("always")],
            _ if configured_default(key) == sample => vec![value(&other)],
            _ => vec![value(&sample)],
        };
        let before = configured.sidecar.log().len();
        let in_force_before = in_force(key);
        let line = configured.change_text(&text(&changed));
        assert!(
            line.contains("\"reloaded\"") && line.contains(key.name) || key.kind.is_secret(),
            "{}: {line}",
            key.name
        );
        let warned = configured.sidecar.log().into_iter().skip(before).any(|line| {
            line.contains("take effect at the next start only") && line.contains(&format!("\"keys\":\"{}\"", key.name))
        });
        assert_eq!(warned, key.takes_a_restart(), "{}", key.name);
        let (_, new) = changed.iter().find(|(name, _)| *name == key.name).unwrap();
        let expected = match key.takes_a_restart() {
            true => in_force_before,
            false if key.kind.is_secret() => "(set)".to_owned(),
            false => new.clone(),
        };
        assert_eq!(in_force(key), expected, "{}: what the status page has as in force", key.name);
        if warned {
            at_restart.push(key.name);
        }
        // The next one reverts it: with more reloads than this, the log would suppress lines.
    }
    let example = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml")).unwrap();
    assert_eq!(example.matches("Takes a restart.").count(), at_restart.len() + 1, "{at_restart:?} and log.format");
}

fn configured_default(key: &Key) -> &'static str {
    match key.default {
        Fallback::Is(text) => text,
        _ => "",
    }
}
