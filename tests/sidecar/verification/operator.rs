//! What an operator sees of the verification, and what can be done about it: log, status page,
//! metrics, `verify`, `check`, `doctor`; and what a restart goes on with.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::admin::{admin, get, readiness};
use crate::support::mariadb::{Database, TestDatabase};
use crate::support::raw::Upstream;
use crate::support::rig;
use crate::support::sidecar::{Sidecar, command, wait_until};

const ROLES: &str = "body +roles (array of string)";

/// A site whose sidecar verifies, with a state directory.
struct Verified {
    database: TestDatabase,
    upstream: Upstream,
    state: TempDir,
}

impl Verified {
    async fn new() -> Verified {
        let database = rig::site(Database::shared()).await;
        database.insert_user("alice").await;
        Verified { database, upstream: rig::wordpress(), state: TempDir::new().unwrap() }
    }

    fn directory(&self) -> String {
        self.state.path().to_str().unwrap().to_owned()
    }

    fn start_with(&self, more: &[(&str, &str)]) -> Sidecar {
        let directory = self.directory();
        let mut environment = vec![
            ("WP_JWT_SIDECAR_ADMIN_LISTEN", "127.0.0.1:0"),
            ("WP_JWT_SIDECAR_REFRESH_VERIFY", "auto"),
            ("WP_JWT_SIDECAR_REFRESH_STATE_DIRECTORY", &directory),
        ];
        environment.extend_from_slice(more);
        rig::sidecar(&self.database, self.upstream.address(), &environment)
    }

    fn start(&self) -> Sidecar {
        self.start_with(&[])
    }

    /// What a command says of the site, with the sidecar's operators at `admin`.
    fn run(&self, arguments: &[&str], admin: &str) -> Output {
        let mut command = command();
        command.args(arguments).args(["--listen", "127.0.0.1:0", "--admin-listen", admin, "--refresh-verify", "auto"]);
        command.args(["--refresh-state-directory", &self.directory()]);
        command.envs(rig::command_environment(&self.database, self.upstream.address())).output().unwrap()
    }

    /// The only file that is kept.
    fn file(&self) -> Option<PathBuf> {
        let files: Vec<PathBuf> = fs::read_dir(self.state.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        let kept: Vec<&PathBuf> = files.iter().filter(|file| file.extension().is_some_and(|is| is == "json")).collect();
        assert!(kept.len() < 2, "{files:?}");
        kept.first().map(|file| (*file).clone())
    }

    /// As if an earlier run had left this state.
    fn put(&self, state: &Value) {
        let file = self.file().unwrap();
        let mut kept: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        kept["verdict"]["state"] = state.clone();
        fs::write(&file, kept.to_string()).unwrap();
    }

    /// A sidecar that has found out before that WordPress adds a member.
    fn that_differs(&self) -> Sidecar {
        self.that_was(&json!({"differs": {"kind": "body", "what": ROLES}}))
    }

    fn that_was(&self, state: &Value) -> Sidecar {
        let mut sidecar = self.start();
        sidecar.wait_for_log("ready to refresh natively");
        wait_until("it is kept", || self.file().is_some());
        sidecar.signal("TERM");
        assert_eq!(sidecar.wait().code(), Some(0));
        self.put(state);
        self.start()
    }
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn verification(address: SocketAddr) -> Value {
    get(address, "/status.json").json()["verification"].clone()
}

fn text(address: SocketAddr, path: &str) -> String {
    String::from_utf8(get(address, path).body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_is_not_verified_is_wordpresss_and_everybody_is_told() {
    let site = Verified::new().await;
    let sidecar = site.start();
    let line = sidecar.wait_for_log("ready to refresh natively once that is verified: home http://shop.example");
    assert!(line.contains("\"INFO\""), "{line}");
    let address = admin(&sidecar);
    assert_eq!(rig::refresh_at(sidecar.address(), &"0".repeat(32)).status(), 299, "WordPress's");

    let view = verification(address);
    assert_eq!((&view["state"], &view["agreed"], &view["needed"]), (&json!("unverified"), &json!(0), &json!(20)));
    assert!(view["fix"].as_str().is_some_and(|fix| fix.starts_with("Nothing has to be done")), "{view}");
    let kept_in = view["kept_in"].as_str().unwrap();
    assert_eq!(Some(Path::new(kept_in)), site.file().as_deref());
    let status = get(address, "/status.json").json();
    assert_eq!(status["site"]["native"], false);
    let why = "it is not verified yet: 0 of 20 responses of WordPress agree";
    assert_eq!(status["site"]["obstacle"], why);
    let ready = readiness(address, 200);
    assert_eq!(
        ready,
        json!({"ready": true, "reasons": [], "warnings": [format!("refreshes are left to WordPress: {why}")]})
    );
    let metrics = text(address, "/metrics");
    for line in [
        "wp_jwt_sidecar_verify_state{state=\"unverified\"} 1",
        "wp_jwt_sidecar_verify_state{state=\"agrees\"} 0",
        "wp_jwt_sidecar_verify_state{state=\"trusted\"} 0",
        "wp_jwt_sidecar_verify_total{result=\"differs\",difference=\"body\"} 0",
        "wp_jwt_sidecar_verify_total{result=\"agrees\",difference=\"none\"} 0",
        "wp_jwt_sidecar_native 0.0",
        "wp_jwt_sidecar_refreshes_left_total{reason=\"verification\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    let page = text(address, "/");
    let (first, main) = (page.find("id=\"verification\"").unwrap(), page.find("<main").unwrap());
    assert!(main < first && first < page.find("id=\"attention\"").unwrap(), "the first thing on the page");

    let (code, shown) = said(&site.run(&["verify"], &address.to_string()));
    assert_eq!(code, Some(1), "{shown}");
    for part in [
        &format!("sidecar:    {address}, for http://shop.example\n"),
        "state:      unverified, since ",
        ": WordPress has the refreshes\n",
        "compared:   0 responses of WordPress; 0 of 20 responses of WordPress agree\n",
        "what to do: Nothing has to be done.",
        &format!("kept in:    {kept_in}\n"),
    ] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    let shown = site.run(&["verify", "--json"], &address.to_string());
    let report: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&report["format"], &report["verification"]), (&json!(1), &verification(address)));
    assert_eq!(report["asked"], address.to_string());

    let (code, checked) = said(&site.run(&["check"], "off"));
    assert_eq!(code, Some(0), "{checked}");
    assert!(checked.contains("found: ready to refresh natively once that is verified: home"), "{checked}");
    let line = format!(
        "verification: 20 responses of WordPress first, then one of 1000 refreshes; kept in {kept_in}; begins as unverified: 0 of 20 \
         responses of WordPress agree\n"
    );
    assert!(checked.contains(&line) && !checked.contains("is a risk"), "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_outlives_a_restart_and_is_told_with_its_fix() {
    let site = Verified::new().await;
    let sidecar = site.that_differs();
    let line = sidecar.wait_for_log("leaving the refresh route to WordPress");
    assert!(line.contains("\"WARN\"") && line.contains(ROLES), "{line}");
    let address = admin(&sidecar);
    assert_eq!(rig::refresh_at(sidecar.address(), &"0".repeat(32)).status(), 299, "WordPress's");
    let view = verification(address);
    assert_eq!(
        (&view["state"], &view["difference"], &view["kind"]),
        (&json!("differs"), &json!(ROLES), &json!("body"))
    );
    assert_eq!(fs::metadata(site.file().unwrap()).unwrap().permissions().mode() & 0o777, 0o600);
    let warnings = readiness(address, 200)["warnings"].to_string();
    assert!(warnings.contains(&format!("WordPress's work differs: {ROLES}")), "{warnings}");
    let findings = get(address, "/status.json").json()["findings"].clone();
    let finding = findings.as_array().unwrap().iter().find(|finding| finding["id"] == "verify.differs").unwrap();
    assert_eq!((&finding["level"], &finding["fix"]), (&json!("warning"), &view["fix"]));
    assert!(text(address, "/metrics").contains("wp_jwt_sidecar_verify_state{state=\"differs\"} 1\n"));
    assert!(text(address, "/").contains(ROLES));
    let (code, shown) = said(&site.run(&["verify"], &address.to_string()));
    assert_eq!(code, Some(1), "{shown}");
    assert!(
        shown.contains(&format!("difference: {ROLES}\n")) && shown.contains("jwt_auth_token_before_dispatch"),
        "{shown}"
    );
    let (_, examined) = said(&site.run(&["doctor", "--no-php", "--json"], &address.to_string()));
    assert!(examined.contains("than the running sidecar would, and gets all refreshes: body +roles"), "{examined}");

    // A reload is a way back.
    let lines = sidecar.log().len();
    sidecar.signal("HUP");
    sidecar.wait_for_log_after(lines, "verifying: WordPress gets the refreshes");
    assert_eq!(verification(address)["state"], "unverified");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_begins_again_when_it_is_asked_to() {
    let site = Verified::new().await;
    let sidecar = site.that_differs();
    let address = admin(&sidecar);
    assert_eq!(verification(address)["state"], "differs");
    let (code, shown) = said(&site.run(&["verify", "--again"], &address.to_string()));
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("state:      unverified, since "), "{shown}");
    sidecar.wait_for_log("the verification begins again");
    wait_until("that is kept", || fs::read_to_string(site.file().unwrap()).unwrap().contains("\"unverified\""));
    wait_until("nothing is left of it", || fs::read_dir(site.state.path()).unwrap().count() == 1);
    drop(sidecar);

    let mark = || said(&site.run(&["verify", "--again"], "off"));
    let (code, shown) = mark();
    assert_eq!(code, Some(2), "{shown}");
    assert!(shown.contains("no sidecar of this configuration has noticed"), "{shown}");
    site.put(&json!({"differs": {"kind": "body", "what": ROLES}}));
    let sidecar = site.start();
    sidecar.wait_for_log("the verification begins again");
    assert_eq!(verification(admin(&sidecar))["state"], "unverified", "the marker waited for the next start");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_agreed_has_little_to_prove_after_a_restart() {
    let site = Verified::new().await;
    let sidecar = site.that_was(&json!("agrees"));
    let view = verification(admin(&sidecar));
    assert_eq!((&view["state"], &view["needed"]), (&json!("unverified"), &json!(3)));
    drop(sidecar);

    // Without its operators' listener the file is shown.
    site.put(&json!("agrees"));
    let (code, shown) = said(&site.run(&["verify"], "off"));
    assert_eq!(code, Some(0), "{shown}");
    assert!(
        shown.contains("not asked, since admin.listen is \"off\"") && shown.contains("state:      agrees"),
        "{shown}"
    );
    fs::remove_file(site.file().unwrap()).unwrap();
    let (code, shown) = said(&site.run(&["verify"], "off"));
    assert!(code == Some(2) && shown.contains("no state is kept in"), "{shown}");
    let (code, shown) = said(&site.run(&["verify"], "127.0.0.1:1"));
    assert!(code == Some(2) && shown.contains("no sidecar answers at admin.listen: 127.0.0.1:1: "), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_or_read_costs_a_warning() {
    let site = Verified::new().await;
    drop(site.that_differs());
    fs::write(site.file().unwrap(), "\u{0}garbage").unwrap();
    let sidecar = site.start();
    let line = sidecar.wait_for_log("the stored state of the verification cannot be used; verifying again");
    assert!(line.contains("it is not what this version writes"), "{line}");
    assert_eq!(verification(admin(&sidecar))["state"], "unverified");
    wait_until("a good one is there", || fs::read_to_string(site.file().unwrap()).unwrap().contains("\"unverified\""));
    drop(sidecar);

    let gone = site.state.path().join("gone");
    let unset = ("WP_JWT_SIDECAR_REFRESH_VERIFY_FIRST", "7");
    let environment = [("STATE_DIRECTORY", gone.to_str().unwrap()), unset];
    let sidecar = {
        let mut all = vec![("WP_JWT_SIDECAR_ADMIN_LISTEN", "127.0.0.1:0"), ("WP_JWT_SIDECAR_REFRESH_VERIFY", "auto")];
        all.extend(environment);
        rig::sidecar(&site.database, site.upstream.address(), &all)
    };
    let line = sidecar.wait_for_log("the state of the verification cannot be kept; it begins again at a restart");
    assert!(line.contains("StateDirectory=wp-jwt-sidecar"), "{line}");
    // Each turn of two seconds tries, and says no more.
    let address = admin(&sidecar);
    assert_eq!(verification(address)["needed"], 7);
    fs::create_dir(&gone).unwrap();
    wait_until("it is kept", || fs::read_dir(&gone).unwrap().count() == 1);
    let logged = sidecar.log().iter().filter(|line| line.contains("cannot be kept")).count();
    assert_eq!(logged, 1);

    let mut command = command();
    command.arg("check").envs(rig::command_environment(&site.database, site.upstream.address()));
    let output = command.env("WP_JWT_SIDECAR_REFRESH_STATE_DIRECTORY", "/dev/null").output().unwrap();
    let (code, shown) = said(&output);
    assert!(code == Some(78) && shown.contains("is not a directory"), "{code:?} {shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_of_several_sites_share_a_directory() {
    let (one, other) = (Verified::new().await, Verified::new().await);
    let directory = one.directory();
    let same = ("WP_JWT_SIDECAR_REFRESH_STATE_DIRECTORY", directory.as_str());
    let (first, second) = (one.start(), other.start_with(&[same]));
    wait_until("both are kept", || fs::read_dir(one.state.path()).unwrap().count() == 2);
    let kept = [&first, &second].map(|sidecar| verification(admin(sidecar))["kept_in"].as_str().unwrap().to_owned());
    assert!(kept[0] != kept[1] && kept.iter().all(|file| Path::new(file).starts_with(one.state.path())), "{kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_verified_where_that_is_off_and_check_names_the_risk() {
    let site = Verified::new().await;
    let sidecar = site.start_with(&[("WP_JWT_SIDECAR_REFRESH_VERIFY", "off")]);
    sidecar.wait_for_log("refreshing natively: home http://shop.example");
    let address = admin(&sidecar);
    assert_eq!(rig::refresh_at(sidecar.address(), &"0".repeat(32)).status(), 403, "the sidecar's");
    let view = verification(address);
    assert_eq!((&view["state"], &view["kept_in"]), (&json!("trusted"), &Value::Null));
    assert_eq!(readiness(address, 200), json!({"ready": true, "reasons": []}));
    assert!(text(address, "/metrics").contains("wp_jwt_sidecar_verify_state{state=\"trusted\"} 1\n"));
    let (code, shown) = said(&site.run(&["verify"], &address.to_string()));
    assert!(code == Some(0) && shown.contains("state:      trusted"), "{shown}");
    assert_eq!(site.file(), None);

    let mut command = command();
    command.args(["check", "--listen", "127.0.0.1:0"]);
    let output = command.envs(rig::command_environment(&site.database, site.upstream.address())).output().unwrap();
    let (code, shown) = said(&output);
    assert_eq!(code, Some(0), "{shown}");
    assert!(
        shown.contains("warning: refresh.verify: \"off\" is a risk: ") && !shown.contains("verification: "),
        "{shown}"
    );
    assert!(shown.contains("found: refreshing natively"), "{shown}");

    let (code, shown) = said(&site.run(&["verify", "--refresh-mode", "forward"], &address.to_string()));
    assert!(code == Some(1) && shown.contains("refresh.mode is \"forward\""), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_rest_api_is_a_state_of_its_own() {
    let database = rig::site(Database::shared()).await;
    let upstream = Upstream::answering(|_| {
        let body = r#"{"code":"rest_not_logged_in","message":"No.","data":{"status":401}}"#;
        format!("HTTP/1.1 401 X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let environment = [("WP_JWT_SIDECAR_ADMIN_LISTEN", "127.0.0.1:0"), ("WP_JWT_SIDECAR_REFRESH_VERIFY", "auto")];
    let sidecar = rig::sidecar(&database, upstream.address(), &environment);
    sidecar.wait_for_log("leaving the refresh route to WordPress");
    let address = admin(&sidecar);
    wait_until("it is reported", || verification(address)["state"] == "closed");
    let view = verification(address);
    assert!(view["difference"].as_str().is_some_and(|words| words.contains("401 rest_not_logged_in")), "{view}");
    assert!(view["fix"].as_str().is_some_and(|fix| fix.contains("closes the REST API")), "{view}");
    assert!(text(address, "/metrics").contains("wp_jwt_sidecar_verify_state{state=\"closed\"} 1\n"));
}
