//! Apps: `capacitor://localhost` and its like. Their refreshes are native once it was seen what
//! WordPress answers such an origin with, and have the same fields then.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::customized::{USERS, by_php, in_front_of, left, ready, refresh, tokens, view, without_limit};
use crate::admin::{admin, get};
use crate::support::custom::{APP_CORS, CustomSites};
use crate::support::raw::{Connection, Message};
use crate::support::rig::ROUTE;
use crate::support::sidecar::{PATIENCE, Sidecar, command};

const CAPACITOR: &str = "Origin: capacitor://localhost\r\n";
const IONIC: &str = "Origin: ionic://localhost\r\n";
const TAURI: &str = "Origin: tauri://localhost\r\n";
const UNKNOWN: &str = "00000000000000000000000000000000";

/// What depends on the origin.
fn cors(answer: &Message) -> Vec<(String, String)> {
    let is_of_origin = |name: &str| name.starts_with("access-control-") || name == "vary";
    let fields = answer.fields().into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let mut fields: Vec<_> = fields.filter(|(name, _)| is_of_origin(name)).collect();
    fields.sort();
    fields
}

fn allowed(answer: &Message) -> Option<String> {
    answer.value("access-control-allow-origin")
}

/// A refresh with a new token and these fields of the request; whether WordPress has answered it.
async fn call(sites: &CustomSites, sidecar: &Sidecar, user: usize, fields: &str) -> (Message, bool) {
    let token = sites.log_in(USERS[user % USERS.len()]).await.refresh_token;
    let before = sites.refreshes_by_php();
    let answer = refresh(sites, sidecar, &token, fields);
    assert_eq!(answer.status(), 200, "{answer:?}");
    (answer, sites.refreshes_by_php() > before)
}

/// Calls of WordPress's until they are native; WordPress's last answer, and how many it gave.
async fn until_native(sites: &CustomSites, sidecar: &Sidecar, fields: &str) -> (Message, usize) {
    let mut last = None;
    for count in 0..10 {
        let (answer, is_by_php) = call(sites, sidecar, count, fields).await;
        if !is_by_php {
            let last: Message = last.unwrap();
            assert_eq!(cors(&answer), cors(&last), "{fields}");
            return (last, count);
        }
        last = Some(answer);
        // What was found goes in behind the answer.
        let deadline = Instant::now() + PATIENCE;
        while view(sidecar)["compared"].as_u64().unwrap() <= count as u64 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("{fields} is not native: {}", view(sidecar));
}

fn state_of(view: &Value, origin: &str) -> Option<String> {
    let origins = view["origins"].as_array().unwrap();
    let found = origins.iter().find(|one| one["origin"] == origin && one["bearer"] == false)?;
    Some(found["state"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_answered_natively_with_what_wordpress_answers_it() {
    let sites = CustomSites::start();
    without_limit(&sites);

    // A site without CORS code has nothing to say to an app, and nor has the sidecar.
    let sidecar = in_front_of(&sites, &[]);
    ready(&sidecar).await;
    let (answer, count) = until_native(&sites, &sidecar, CAPACITOR).await;
    assert_eq!((allowed(&answer).as_deref(), count), (Some(""), 3), "{answer:?}");
    assert_eq!(left(&sidecar, "unverified", PATIENCE).await["state"], "agrees");
    // That says nothing of another app, nor of a web page.
    assert!(call(&sites, &sidecar, 0, TAURI).await.1);
    assert!(call(&sites, &sidecar, 0, "Origin: https://app.example\r\n").await.1);
    assert!(call(&sites, &sidecar, 0, "Origin: capacitor://localhost/\r\n").await.1);
    assert!(!call(&sites, &sidecar, 0, CAPACITOR).await.1);
    drop(sidecar);

    // Code that has something to say to two of them, each its own.
    sites.install(APP_CORS);
    let sidecar = in_front_of(&sites, &[]);
    ready(&sidecar).await;
    assert_eq!(by_php(&sites, &sidecar, &tokens(&sites, 1).await), 3);
    assert_eq!(left(&sidecar, "unverified", PATIENCE).await["state"], "agrees");
    let (answer, count) = until_native(&sites, &sidecar, CAPACITOR).await;
    assert_eq!((allowed(&answer).as_deref(), count), (Some("capacitor://localhost"), 3));
    assert_eq!(answer.value("access-control-max-age").as_deref(), Some("600"));
    let (other, count) = until_native(&sites, &sidecar, IONIC).await;
    assert_eq!((allowed(&other).as_deref(), count), (Some("*"), 3));
    assert!(other.value("access-control-allow-credentials").is_none() && cors(&other) != cors(&answer));
    // With a bearer token the plugin may answer otherwise.
    assert!(call(&sites, &sidecar, 0, &format!("{CAPACITOR}Authorization: Bearer x\r\n")).await.1);

    // One refusal is compared for each, and the others are native.
    for (fields, of_wordpress) in [(CAPACITOR, &answer), (IONIC, &other)] {
        let mut by_php = 0;
        for _ in 0..30 {
            let before = sites.refreshes_by_php();
            let refused = refresh(&sites, &sidecar, UNKNOWN, fields);
            assert_eq!((refused.status(), cors(&refused)), (403, cors(of_wordpress)), "{fields}");
            by_php += sites.refreshes_by_php() - before;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!((1..=2).contains(&by_php), "{fields}: {by_php}");
    }
    let malformed = refresh(&sites, &sidecar, "", CAPACITOR);
    assert_eq!((malformed.status(), cors(&malformed)), (403, cors(&answer)));

    // A preflight stays WordPress's, and has its answer.
    let preflights = || sites.site().requests().iter().filter(|line| line.starts_with("OPTIONS ")).count();
    let mut client = Connection::to(sidecar.address());
    client.send(format!(
        "OPTIONS {ROUTE} HTTP/1.1\r\nHost: {}\r\n{CAPACITOR}Access-Control-Request-Method: POST\r\n\r\n",
        sites.site().host()
    ));
    let preflight = client.response();
    assert_eq!((preflight.status(), allowed(&preflight), preflights()), (200, allowed(&answer), 1));

    is_said(&sites, &sidecar);

    // A token that is used up gets its pair again, with the same fields.
    let token = sites.log_in("user1").await.refresh_token;
    let (first, again) = (refresh(&sites, &sidecar, &token, IONIC), refresh(&sites, &sidecar, &token, IONIC));
    assert_eq!(
        (again.json()["refresh_token"].clone(), cors(&again)),
        (first.json()["refresh_token"].clone(), cors(&other))
    );

    // Once the site is another, nothing of that counts.
    sites.install("<?php // Nothing.");
    assert_eq!(left(&sidecar, "agrees", PATIENCE).await["state"], "unverified");
    assert_eq!(view(&sidecar)["origins"], json!([]));
    assert!(call(&sites, &sidecar, 0, CAPACITOR).await.1);
}

/// Wherever the state of the verification is, that of each origin is.
fn is_said(sites: &CustomSites, sidecar: &Sidecar) {
    let view = view(sidecar);
    for (origin, state) in
        [("capacitor://localhost", Some("agrees")), ("ionic://localhost", Some("agrees")), ("tauri://localhost", None)]
    {
        assert_eq!(state_of(&view, origin).as_deref(), state, "{view}");
    }
    let text = |path: &str| String::from_utf8(get(admin(sidecar), path).body).unwrap();
    let metrics = text("/metrics");
    for line in
        ["wp_jwt_sidecar_verify_origins{state=\"agrees\"} 2", "wp_jwt_sidecar_verify_origins{state=\"unverified\"} 1"]
    {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.contains("://localhost"));
    assert!(text("/").contains("capacitor://localhost: native"));
    let upstream = format!("http://{}", sites.site().upstream());
    let wp_config = sites.site().wp_config().to_str().unwrap();
    let admin = admin(sidecar).to_string();
    let output = |name: &[&str]| {
        let arguments = ["--upstream", &*upstream, "--wp-config", wp_config, "--admin-listen", &*admin];
        let output = command().args(name).args(arguments).args(["--refresh-verify", "auto"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let verified = output(&["verify"]);
    assert!(verified.contains("origin:     ionic://localhost: native\n"), "{verified}");
    let bearer = "origin:     capacitor://localhost with Bearer: WordPress's: 1 of 3 answers agree\n";
    assert!(verified.contains(bearer), "{verified}");
    let examined = output(&["doctor", "--no-php"]);
    assert!(examined.contains("origin capacitor://localhost: native"), "{examined}");
    sidecar.wait_for_log("WordPress's answers to an app's origin agree");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_wordpress_answers_otherwise_is_wordpresss_again() {
    let sites = CustomSites::start();
    without_limit(&sites);
    sites.install(APP_CORS);
    // A sample each second, of each origin.
    let sidecar = in_front_of(&sites, &["--refresh-verify-every", "1"]);
    ready(&sidecar).await;
    assert_eq!(by_php(&sites, &sidecar, &tokens(&sites, 1).await), 3);
    assert_eq!(left(&sidecar, "unverified", PATIENCE).await["state"], "agrees");
    for fields in [CAPACITOR, IONIC] {
        until_native(&sites, &sidecar, fields).await;
    }

    // An option of the site's own, which no change of the site shows.
    sites.site().php("update_option( 'app_cors', 'https://elsewhere.example' );");
    let deadline = Instant::now() + PATIENCE;
    while state_of(&view(&sidecar), "capacitor://localhost").as_deref() != Some("differs") {
        assert!(Instant::now() < deadline, "{}", view(&sidecar));
        call(&sites, &sidecar, 0, CAPACITOR).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let line = sidecar.wait_for_log("WordPress answers an app's origin differently than before");
    assert!(line.contains("header access-control-allow-origin") && line.contains("capacitor://localhost"), "{line}");
    assert!(!line.contains("elsewhere.example"), "{line}");
    for user in 0..4 {
        let (answer, is_by_php) = call(&sites, &sidecar, user, CAPACITOR).await;
        assert_eq!((allowed(&answer).as_deref(), is_by_php), (Some("https://elsewhere.example"), true));
    }
    // The site's others are not touched.
    let now = view(&sidecar);
    assert_eq!((&now["state"], state_of(&now, "ionic://localhost").as_deref()), (&json!("agrees"), Some("agrees")));
    let findings = get(admin(&sidecar), "/status.json").json()["findings"].to_string();
    assert!(findings.contains("verify.origin") && findings.contains("capacitor://localhost"), "{findings}");
    let metrics = String::from_utf8(get(admin(&sidecar), "/metrics").body).unwrap();
    let counted = "wp_jwt_sidecar_verify_total{result=\"origin_differs\",difference=\"header\"} 1";
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
    let mut by_php = 0;
    for user in 0..4 {
        by_php += usize::from(call(&sites, &sidecar, user, IONIC).await.1);
    }
    assert!(by_php < 4, "ionic is native, but for samples");
    // Begun again, it needs few.
    sites.site().php("update_option( 'app_cors', 'capacitor://localhost' );");
    sites.install("<?php // Nothing.");
    assert_eq!(left(&sidecar, "agrees", PATIENCE).await["state"], "unverified");
    ready(&sidecar).await;
    until_native(&sites, &sidecar, CAPACITOR).await;
}
