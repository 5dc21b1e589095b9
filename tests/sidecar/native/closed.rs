//! A definite answer of WordPress's about its REST API counts; an uncertain one does not.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::send;
use crate::admin::{admin, get};
use crate::support::mariadb::Database;
use crate::support::raw::{Message, Upstream};
use crate::support::rig::{self, ACTIVE, HOME, Rig, call_with, eventually};
use crate::support::sidecar::command;

/// The upstream's behaviour.
#[derive(Clone, Copy, PartialEq)]
enum Site {
    Open,
    /// A status and a body for everything.
    Answers(u16, &'static str),
    /// A status and a body for the question; calls of the route are refused.
    AnswersQuestion(u16, &'static str),
    /// The REST API is only available by `rest_route`; everything else is a page that is not found.
    Moved,
}

const CLOSED: Site = Site::Answers(401, r#"{"code":"rest_not_logged_in","message":"No.","data":{"status":401}}"#);

/// The code of the sidecar's own refusals, which this upstream never sends.
const NATIVE: &str = "jwt_auth_invalid_refresh_token";

/// Another plugin beside it.
const MORE_PLUGINS: &str = r#"a:2:{i:0;s:9:"hello.php";i:1;s:29:"jwt-auth-pro/jwt-auth-pro.php";}"#;

/// A rig in front of such a site, with its admin listener.
async fn rig(site: &Arc<Mutex<Site>>) -> Rig {
    let database = rig::site(Database::shared()).await;
    let user = database.insert_user("alice").await;
    let site = Arc::clone(site);
    let upstream = Upstream::answering(move |request| {
        let line = request.start_line();
        let root = json!({"home": HOME, "namespaces": ["wp/v2", "jwt-auth/v1"]}).to_string();
        let is_root = line.contains("_fields=home,namespaces");
        let (status, body) = match *site.lock().unwrap() {
            Site::Answers(status, body) => (status, body.to_owned()),
            Site::AnswersQuestion(status, body) if is_root => (status, body.to_owned()),
            Site::AnswersQuestion(..) => (403, r#"{"code":"of_the_site"}"#.to_owned()),
            Site::Open if is_root => (200, root),
            Site::Moved if is_root && line.contains("/?rest_route=/&") => (200, root),
            Site::Moved => (404, "<html>Not found</html>".to_owned()),
            Site::Open => (299, "{}".to_owned()),
        };
        let kind = if body.starts_with('<') { "text/html" } else { "application/json; charset=UTF-8" };
        format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let sidecar = rig::sidecar(&database, upstream.address(), &[("WP_JWT_SIDECAR_ADMIN_LISTEN", "127.0.0.1:0")]);
    sidecar.wait_for_log("refreshing natively");
    Rig { database, upstream, sidecar, user }
}

fn questions(rig: &Rig) -> usize {
    rig.upstream.requests().iter().filter(|request| request.start_line().contains("_fields=home,namespaces")).count()
}

/// A call that is always left to WordPress.
fn forwarded(rig: &Rig) -> u16 {
    send(rig, call_with(&json!({"refresh_token": "none"}), "Authorization: Basic YTpi\r\n")).status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_makes_wordpress_be_asked_and_its_refusal_counts() {
    let site = Arc::new(Mutex::new(Site::Open));
    let rig = rig(&site).await;
    let address = admin(&rig.sidecar);
    assert_eq!(rig.refresh("none").status(), 403);
    *site.lock().unwrap() = CLOSED;
    // Within a minute of the last question, only a refused call causes another.
    eventually("the refusal counts", || async { (forwarded(&rig), rig.refresh("none").status()) == (401, 401) }).await;
    let refusal = format!("WordPress answers {HOME}/wp-json/ with 401 rest_not_logged_in");
    rig.sidecar.wait_for_log(&format!("leaving the refresh route to WordPress: {refusal}"));
    let asked = questions(&rig);
    for _ in 0..20 {
        assert_eq!((forwarded(&rig), rig.refresh("none").status()), (401, 401));
    }
    assert_eq!(questions(&rig), asked, "what is known already is not asked for again");

    let status = get(address, "/status.json").json();
    assert_eq!(
        (&status["site"]["native"], &status["site"]["obstacle"]),
        (&json!(false), &json!(refusal)),
        "{status:#}"
    );
    let findings = status["findings"].to_string();
    assert!(findings.contains("rest_not_logged_in") && findings.contains("wordpress.home"), "{findings}");
    let ready = get(address, "/readyz");
    assert_eq!(ready.status(), 200, "the site is served: {ready:?}");
    assert_eq!(ready.json()["warnings"], json!([format!("refreshes are left to WordPress: {refusal}")]));
    let environment = rig::command_environment(&rig.database, rig.upstream.address());
    let said = command().arg("check").envs(environment).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains(&refusal), "{said}");

    let logged = rig.sidecar.log().len();
    *site.lock().unwrap() = Site::Open;
    // A call that WordPress serves shows that the API is open again.
    eventually("it is open again", || async { (forwarded(&rig), rig.refresh("none").status()) == (299, 403) }).await;
    rig.sidecar.wait_for_log_after(logged, "refreshing natively");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_nothing_for_certain_leaves_the_last_answer() {
    let site = Arc::new(Mutex::new(Site::Open));
    let rig = rig(&site).await;
    for (status, body) in [
        (403, "<html>Blocked</html>"),
        (503, r#"{"code":"maintenance"}"#),
        (404, "<html>Not found</html>"),
        (200, "<html>Under construction</html>"),
    ] {
        *site.lock().unwrap() = Site::AnswersQuestion(status, body);
        let before = questions(&rig);
        eventually("WordPress is asked", || async { (forwarded(&rig), questions(&rig) > before) == (403, true) }).await;
        // Only the next question shows that it has been processed.
        let before = questions(&rig);
        eventually("it is asked again", || async { (forwarded(&rig), questions(&rig) > before) == (403, true) }).await;
        assert_eq!(code(&rig.refresh("none")).as_deref(), Some(NATIVE), "{status} {body}");
    }
}

/// Without any call of the route it is forwarded within seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_plugins_makes_wordpress_be_asked() {
    let site = Arc::new(Mutex::new(Site::Open));
    let rig = rig(&site).await;
    *site.lock().unwrap() = Site::Answers(410, r#"{"code":"wp_die","message":"This site has been archived"}"#);
    rig.database.set_option("active_plugins", MORE_PLUGINS).await;
    rig.sidecar.wait_for_log(&format!("WordPress answers {HOME}/wp-json/ with 410 wp_die"));
    assert_eq!(rig.refresh("none").status(), 410);
    *site.lock().unwrap() = Site::Moved;
    rig.database.set_option("active_plugins", ACTIVE).await;
    rig.sidecar.wait_for_log(&format!("WordPress has its REST API elsewhere than at {HOME}/wp-json/"));
    assert_eq!(rig.refresh("none").status(), 404);
    let asked = rig.upstream.requests().into_iter().next().unwrap();
    let field = |name| asked.value(name);
    assert_eq!(field("accept").as_deref(), Some("application/json"), "wp_die() then answers in JSON");
    assert_eq!(field("cache-control").as_deref(), Some("no-cache"));
}

/// The error code, if there is one.
fn code(answer: &Message) -> Option<String> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    body["code"].as_str().map(str::to_owned)
}
