//! Prometheus can read `/metrics`, and the dashboard and the alert rules use only existing metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::{LISTEN, admin, get, readiness};
use crate::support::mariadb::Database;
use crate::support::rig::Rig;
use crate::support::tls::Authority;

/// One sample: its name, its labels and its value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Reads OpenMetrics 1.0 text and is strict about it.
fn parse(text: &str) -> Vec<Sample> {
    let lines = text.strip_suffix("# EOF\n").expect("an end").lines();
    let mut families: BTreeMap<String, String> = BTreeMap::new();
    let mut family = (String::new(), String::new());
    let mut samples: Vec<Sample> = Vec::new();
    for line in lines {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect(line);
            assert!(!families.contains_key(name), "{name} comes twice");
            assert!(help.ends_with('.'), "{line}");
            family = (name.to_owned(), String::new());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            assert_eq!(name, family.0, "its help goes before");
            assert!(["counter", "gauge", "histogram", "info"].contains(&kind), "{line}");
            kind.clone_into(&mut family.1);
            families.insert(name.to_owned(), kind.to_owned());
        } else {
            let sample = sample(line);
            let suffix = sample.0.strip_prefix(&family.0).unwrap_or_else(|| panic!("{line} is not of {}", family.0));
            let allowed: &[&str] = match family.1.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                _ => &["_bucket", "_sum", "_count"],
            };
            assert!(allowed.contains(&suffix), "{line}");
            assert!(sample.2 >= 0.0, "{line}");
            assert!(!samples.iter().any(|(name, labels, _)| (name, labels) == (&sample.0, &sample.1)), "twice: {line}");
            samples.push(sample);
        }
    }
    for (name, _) in families.iter().filter(|(_, kind)| *kind == "histogram") {
        let of = |suffix: &str| samples.iter().filter(|(of, ..)| *of == format!("{name}{suffix}")).collect::<Vec<_>>();
        let bounds: Vec<f64> = of("_bucket").iter().map(|(_, labels, _)| labels["le"].parse().expect(name)).collect();
        assert!(bounds.is_sorted() && bounds.last() == Some(&f64::INFINITY), "{name}: {bounds:?}");
        let counts: Vec<f64> = of("_bucket").iter().map(|(.., count)| *count).collect();
        assert!(counts.is_sorted() && counts.last() == Some(&of("_count")[0].2), "{name}: {counts:?}");
    }
    samples
}

fn sample(line: &str) -> Sample {
    let name_end = line.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').expect(line);
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        let (written, behind) = inside.split_once("} ").expect(line);
        for label in written.split("\",") {
            let (label, value) = label.split_once("=\"").expect(line);
            let value = value.trim_end_matches('"');
            assert!(!value.contains(['"', '\\']), "{line}");
            assert!(labels.insert(label.to_owned(), value.to_owned()).is_none(), "{line}");
        }
        rest = behind;
    } else {
        rest = rest.strip_prefix(' ').expect(line);
    }
    (name.to_owned(), labels, rest.parse().unwrap_or_else(|_| panic!("no number: {line}")))
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

/// All expressions of the dashboard and of the rules.
fn expressions() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Value::String(text) if ["expr", "definition", "query"].contains(&name.as_str()) => {
                            found.push(text.clone())
                        }
                        _ => collect(value, found),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let dashboard = std::fs::read_to_string(shipped("grafana-dashboard.json")).unwrap();
    let mut found = Vec::new();
    collect(&serde_json::from_str(&dashboard).expect("JSON"), &mut found);
    found.extend(std::fs::read_to_string(shipped("alerts.yml")).unwrap().lines().map(str::to_owned));
    found
}

/// The metrics in an expression, each with the labels that must equal a value.
fn asked(expression: &str) -> Vec<(String, Vec<(String, String)>)> {
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut found = Vec::new();
    for prefix in ["wp_jwt_sidecar_", "process_"] {
        for (place, _) in expression.match_indices(prefix) {
            if expression[..place].ends_with(is_of_name) {
                continue;
            }
            let rest = &expression[place..];
            let (name, behind) = rest.split_at(rest.find(|letter| !is_of_name(letter)).unwrap_or(rest.len()));
            let matchers =
                behind.strip_prefix('{').and_then(|inside| inside.split_once('}')).map_or("", |(inside, _)| inside);
            let labels = matchers.split(',').filter_map(|matcher| {
                let (label, value) = matcher.split_once("=\"").or(matcher.split_once("=\\\""))?;
                Some((label.trim().to_owned(), value.trim_end_matches(['"', '\\']).to_owned()))
            });
            // Prometheus adds these.
            let labels = labels.filter(|(label, _)| label != "job" && label != "instance");
            found.push((name.to_owned(), labels.collect()));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_dashboard_and_rules_ask_for_is_there() {
    let authority = Authority::new();
    let pair = authority.issue("shop", &["shop.example"]);
    let certificates = pair.argument();
    let environment = [
        LISTEN,
        ("WP_JWT_SIDECAR_TLS_LISTEN", "127.0.0.1:0"),
        ("WP_JWT_SIDECAR_TLS_CERTIFICATES", certificates.as_str()),
        ("WP_JWT_SIDECAR_RATE_LIMIT_STORE", "redis://127.0.0.1:1"),
    ];
    let rig = Rig::start_on(Database::shared(), &environment).await;
    let address = admin(&rig.sidecar);
    readiness(address, 200);
    let token = rig.token().await;
    assert_eq!(rig.refresh(&token.refresh_token).status(), 200);
    let text = String::from_utf8(get(address, "/metrics").body).unwrap();
    let samples = parse(&text);
    let value = |name: &str, label: Option<(&str, &str)>| {
        let has = |labels: &BTreeMap<String, String>| {
            label.is_none_or(|(label, value)| labels.get(label).is_some_and(|v| v == value))
        };
        samples.iter().filter(|(of, labels, _)| of == name && has(labels)).map(|(.., value)| value).sum::<f64>()
    };
    assert!((value("wp_jwt_sidecar_refreshes_total", Some(("outcome", "rotated"))) - 1.0).abs() < 0.1, "{text}");
    for name in ["ready", "database_up", "upstream_up", "native"] {
        assert!((value(&format!("wp_jwt_sidecar_{name}"), None) - 1.0).abs() < 0.1, "{name}: {text}");
    }

    let asked: Vec<_> = expressions().iter().flat_map(|expression| asked(expression)).collect();
    assert!(asked.len() > 60, "{asked:?}");
    for (name, wanted) in &asked {
        let there = samples
            .iter()
            // An expression names a histogram without its suffixes.
            .filter(|(of, ..)| of == name || *of == format!("{name}_count"))
            .any(|(_, labels, _)| wanted.iter().all(|(label, value)| labels.get(label) == Some(value)));
        assert!(there, "{name} {wanted:?} is in systemd/grafana-dashboard.json or alerts.yml, but not in /metrics");
    }
    // The dashboard shows every metric of the sidecar.
    let shown: BTreeSet<&str> = asked.iter().map(|(name, _)| name.as_str()).collect();
    let forgotten: BTreeSet<&str> = samples
        .iter()
        .map(|(name, ..)| name.as_str())
        .filter(|name| !["_sum", "_count", "_bucket"].iter().any(|end| name.ends_with(end)) && !shown.contains(name))
        .collect();
    assert_eq!(forgotten, BTreeSet::new(), "the dashboard shows all there is");
}

#[test]
fn prometheus_takes_the_rules_and_fires_them() {
    let check = |arguments: &[&str]| {
        let output = Command::new("promtool").args(arguments).output().expect("promtool is there (Debian: prometheus)");
        let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{printed}");
    };
    let rules = shipped("alerts.yml");
    check(&["check", "rules", rules.to_str().unwrap()]);
    // The paths in a test of rules are relative to it.
    let directory = TempDir::new().unwrap();
    std::fs::copy(&rules, directory.path().join("alerts.yml")).unwrap();
    let test = directory.path().join("test.yml");
    std::fs::write(&test, include_str!("alerts.test.yml")).unwrap();
    check(&["test", "rules", test.to_str().unwrap()]);
}
