//! `wp-jwt-sidecar doctor` on a real site: what is fine is reported as such, each real fault is
//! named with its level and fix, and there are no other findings. Nothing printed contains a secret
//! (every [`Report`] checks that).

mod faults;
pub(crate) mod real;
mod rights;
mod web_server;

use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::support::mariadb::{PASSWORD, PASSWORD_IN_URL};
use crate::support::rig::refresh_at;
use crate::support::sidecar::{Sidecar, command, tells_a_secret};
use crate::support::site::Site;

/// The output of the doctor.
struct Report {
    json: Value,
}

/// A finding in short form.
type Short = (String, String);

impl Report {
    /// Runs the doctor with these arguments and this environment.
    fn with(arguments: &[&str], environment: &[(&str, &str)]) -> Report {
        Report::with_input(arguments, environment, "")
    }

    /// With this standard input, too.
    fn with_input(arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Report {
        let mut command = command();
        command.args(["doctor", "--json"]).args(arguments).envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = checked(&output);
        let json: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let code = match json["verdict"].as_str() {
            Some("ok") => 0,
            Some("warning") => 1,
            Some("problem") => 2,
            other => panic!("{other:?}"),
        };
        assert_eq!(output.status.code(), Some(code), "{json:#}");
        assert_eq!(json["format"], 1);
        Report { json }
    }

    /// For a site whose proxy is on this machine.
    fn of(site: &Site, arguments: &[&str], environment: &[(&str, &str)]) -> Report {
        let upstream = site.said("UPSTREAM").to_owned();
        Report::of_config(site.wp_config(), &upstream, arguments, environment)
    }

    fn of_config(wp_config: &Path, upstream: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Report {
        Report::with(&Report::arguments(wp_config, upstream, arguments), environment)
    }

    /// For a site whose proxy is on this machine, with these additional arguments.
    fn arguments<'a>(wp_config: &'a Path, upstream: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
        let wp_config = wp_config.to_str().unwrap();
        let mut all =
            vec!["--upstream", upstream, "--wp-config", wp_config, "--forwarded-trusted-proxies", "127.0.0.1"];
        all.extend_from_slice(arguments);
        all
    }

    fn findings(&self) -> &[Value] {
        self.json["findings"].as_array().unwrap()
    }

    /// All findings that are not good, as (level, id).
    fn faults(&self) -> Vec<Short> {
        let bad = self.findings().iter().filter(|finding| finding["level"] != "ok");
        bad.map(|finding| (text(&finding["level"]), text(&finding["id"]))).collect()
    }

    /// The findings with this id.
    fn all(&self, id: &str) -> Vec<&Value> {
        self.findings().iter().filter(|finding| finding["id"] == id).collect()
    }

    /// The only finding with this id, which must have this level.
    fn the(&self, level: &str, id: &str) -> &Value {
        let all = self.all(id);
        assert_eq!(all.len(), 1, "{id} in {:#}", self.json);
        assert_eq!(all[0]["level"], level, "{:#}", all[0]);
        all[0]
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn lines(finding: &Value) -> Vec<String> {
    finding["lines"].as_array().unwrap().iter().map(text).collect()
}

/// The output, if it contains no secret.
fn checked(output: &Output) -> String {
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for said in said.lines().chain(errors.lines()) {
        assert!(!tells_a_secret(said), "the doctor tells a secret: {said}");
    }
    said.into_owned()
}

/// The proposed statements for the sidecar's own user, with a password.
fn proposed(finding: &Value) -> Vec<String> {
    let statements = lines(finding);
    assert!(statements[0].starts_with("CREATE USER `wp_jwt_sidecar`@`localhost`"), "{statements:?}");
    statements.iter().map(|statement| statement.replace("A-LONG-RANDOM-PASSWORD", PASSWORD)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_is_well_is_said_to_be() {
    let site = Site::up(&[]);
    let report = Report::of(&site, &[], &[]);
    let everywhere = ("warning".to_owned(), "rights.everywhere".to_owned());
    assert_eq!(report.faults(), [everywhere], "{:#}", report.json);
    for id in [
        "configuration.read",
        "configuration.used_tokens",
        "wp_config.readers",
        "database.reachable",
        "database.clock",
        "rights.enough",
        "tables.analytics",
        "tables.index",
        "plugin.active",
        "plugin.settings",
        "keys.signing",
        "keys.salts",
        "keys.same",
        "upstream.reachable",
        "upstream.keepalive",
        "upstream.body_limit",
        "upstream.rest",
        "upstream.route",
        "upstream.authorization",
        "upstream.clock",
        "client_address.seen",
        "customized.blocks",
        "customized.filters",
        "customized.hooks",
        "customized.refusals",
        "parity.answers",
    ] {
        report.the("ok", id);
    }
    let seen = text(&report.the("ok", "client_address.seen")["what"]);
    assert!(seen.contains("and so does the web server"), "{seen}");
    assert!(text(&report.the("ok", "parity.answers")["what"]).starts_with("8 refused refreshes"));

    // The absence of findings is not an all-clear: it says what was checked, and what was not.
    for id in ["customized.filters", "customized.hooks", "customized.refusals"] {
        let finding = report.the("ok", id);
        let what = text(&finding["what"]);
        assert!(what.starts_with("looked at: ") || what.starts_with("read: "), "{finding}");
        assert!(text(&finding["fix"]).starts_with("Not seen this way: "), "{finding}");
    }
    let used_tokens = text(&report.the("ok", "configuration.used_tokens")["what"]);
    assert!(used_tokens.contains("within 10s gets the same pair once more"), "{used_tokens}");

    // The proposed user is sufficient for a site, and for the doctor to find nothing at all.
    let database = site.database();
    for statement in proposed(report.the("warning", "rights.everywhere")) {
        database.execute(&statement).await;
    }
    let socket = site.said("DB_SOCKET").replace('/', "%2F");
    let url = format!("mysql://wp_jwt_sidecar:{PASSWORD_IN_URL}@localhost/wordpress?socket={socket}");
    let own_user = [("WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL", url.as_str())];
    let report = Report::of(&site, &[], &own_user);
    assert_eq!(report.faults(), [], "{:#}", report.json);
    assert_eq!(report.json["counts"]["problem"], 0);
    assert!(report.json["program"].as_str().unwrap().starts_with("wp-jwt-sidecar "));

    // As text for people.
    let output = command()
        .args(["doctor", "--upstream", site.said("UPSTREAM"), "--wp-config", site.wp_config().to_str().unwrap()])
        .args(["--forwarded-trusted-proxies", "127.0.0.1"])
        .envs(own_user)
        .output()
        .unwrap();
    let said = checked(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.starts_with("Configuration\n  ok      "), "{said}");
    assert!(said.ends_with(" ok, 0 warnings, 0 problems\n"), "{said}");
    assert!(!said.contains('\x1b'), "no colours but on a terminal");

    a_clock_that_is_wrong_is_told(&site, &own_user).await;
}

/// The server sets the clock of every connection of users without administrator privileges.
async fn a_clock_that_is_wrong_is_told(site: &Site, own_user: &[(&str, &str)]) {
    let database = site.database();
    for (by, level) in [("+ 10", "warning"), ("- 3600", "problem")] {
        database.execute(&format!("SET GLOBAL init_connect = 'SET timestamp = UNIX_TIMESTAMP() {by}'")).await;
        let report = Report::of(site, &["--upstream-keepalive-idle", "0s"], own_user);
        let clock = report.the(level, "database.clock");
        assert!(text(&clock["fix"]).contains("NTP"), "{clock}");
        let direction = if by.starts_with('+') { "ahead of" } else { "behind" };
        assert!(text(&clock["what"]).contains(direction), "{clock}");
    }
    database.execute("SET GLOBAL init_connect = ''").await;
}

#[test]
fn a_wrong_configuration_is_told_as_findings() {
    let report = Report::with(&["--upstream", "ftp://x", "--listen", "nowhere", "--wp-config", "/does/not/exist"], &[]);
    let faults: Vec<String> = report.all("configuration.fault").iter().map(|fault| text(&fault["what"])).collect();
    assert_eq!(faults.len(), 2, "{:#}", report.json);
    assert!(faults.iter().any(|fault| fault.starts_with("upstream.url = \"ftp://x\" (--upstream)")), "{faults:?}");
    assert!(text(&report.the("problem", "wp_config.fault")["what"]).contains("/does/not/exist"));
    assert_eq!(report.json["verdict"], "problem");
    assert_eq!(report.json["counts"], json!({"ok": 0, "warning": 0, "problem": 3}));
}

/// A native refresh through a sidecar with this environment.
fn refreshes_natively(sidecar: &Sidecar, token: &str) -> Value {
    let answer = refresh_at(sidecar.address(), token);
    assert_eq!((answer.status(), answer.value("cache-control").as_deref()), (200, Some("no-store")), "{answer:?}");
    answer.json()
}
