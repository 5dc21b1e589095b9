//! What one sidecar finds, the others of the site know.

use std::time::{Duration, Instant};

use serde_json::json;

use super::plugin::{Code, NONE};
use super::{AGREES, DIFFERS, Lab, THREE, is_native};
use crate::reload::Configured;
use crate::support::raw::Connection;
use crate::support::rig::{call_with, command_environment, sidecar};
use crate::support::sidecar::{Sidecar, wait_until};
use crate::support::store::Store;

const STORE: &str = "WP_JWT_SIDECAR_RATE_LIMIT_STORE";
/// What the log says of a store that is used, at once or after a probe that a busy machine made late.
const USED: [&str; 2] = ["the shared store is used", "the shared store is available again"];
const ELSEWHERE: &str = "another sidecar found: ";

const ROLES: Code = Code { success: |answer| answer.set("roles", json!(["editor"])), ..NONE };

/// Two looks at the store, and a busy machine.
const SECONDS: Duration = Duration::from_secs(9);

impl Lab {
    /// One that may know from the store at its first look that the site differs.
    fn late(&self, url: &str) -> Sidecar {
        sidecar(&self.database, self.wordpress.address(), &[&THREE[..], &[(STORE, url)]].concat())
    }

    /// A refresh of a kind that is compared even where others are native.
    async fn compared(&self, sidecar: &Sidecar) {
        let mut client = Connection::to(sidecar.address());
        let token = self.token(0).await.refresh_token;
        client.send(call_with(&json!({"refresh_token": token}), "Origin: https://app.example\r\n"));
        assert_eq!(client.response().status(), 200);
    }
}

fn wait_until_used(sidecar: &Sidecar) {
    let is_used = || sidecar.log().iter().any(|line| USED.iter().any(|used| line.contains(used)));
    wait_until("the store is used", is_used);
}

fn told(store: &Store) -> Vec<String> {
    store.ask(&["KEYS", "*differs:*"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_is_known_to_all_sidecars_of_the_site() {
    let store = Store::start();
    let url = store.url();
    let lab = Lab::of(NONE).await;
    let (first, second) = (lab.agreeing(&[(STORE, &url)]).await, lab.agreeing(&[(STORE, &url)]).await);
    // By another configuration it is another site.
    let other = lab.agreeing(&[(STORE, &url), ("WP_JWT_SIDECAR_REFRESH_RESPONSE_FIELDS", "oauth2")]).await;
    for sidecar in [&first, &second, &other] {
        wait_until_used(sidecar);
        assert!(is_native(&lab.refresh(sidecar, 0).await));
    }
    // Each has looked once.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(told(&store), Vec::<String>::new());

    lab.wordpress.set(ROLES);
    lab.compared(&first).await;
    let line = first.wait_for_log(DIFFERS);
    assert!(line.contains("roles") && !line.contains(ELSEWHERE), "{line}");
    let before = Instant::now();
    let line = second.wait_for_log(ELSEWHERE);
    assert!(before.elapsed() < SECONDS, "{:?}", before.elapsed());
    assert!(line.contains(DIFFERS) && line.contains("roles"), "{line}");
    assert!(!is_native(&lab.refresh(&second, 1).await));
    let keys = told(&store);
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert!((1..=86_400).contains(&store.ask::<i64>(&["TTL", &keys[0]])));
    // A late starter knows it before it has compared anything.
    let compared = lab.wordpress.refreshes();
    let late = lab.late(&url);
    late.wait_for_log(ELSEWHERE);
    assert_eq!(lab.wordpress.refreshes(), compared);
    assert!(is_native(&lab.refresh(&other, 1).await), "it has to find out by itself");
    assert!(!other.log().iter().any(|line| line.contains(DIFFERS)));

    // The site's code is mended, and the operator says so at one of them.
    lab.wordpress.set(NONE);
    first.signal("HUP");
    wait_until("what was told is taken back", || told(&store).is_empty());
    for user in 0..3 {
        lab.refresh(&first, user).await;
    }
    wait_until("it is native again", || first.log().iter().filter(|line| line.contains(AGREES)).count() == 2);
    assert!(!is_native(&lab.refresh(&second, 1).await), "the other one decides by itself");
    let skip = second.log().len();
    second.signal("HUP");
    second.wait_for_log_after(skip, "verifying: WordPress gets the refreshes");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!second.log().iter().skip(skip).any(|line| line.contains(DIFFERS)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_changes_a_key_heeds_no_difference_of_its_own() {
    let store = Store::start();
    let lab = Lab::of(ROLES).await;
    let keys = |interval: &'static str| {
        [
            ("refresh.mode", "\"native\""),
            ("refresh.verify", "\"auto\""),
            ("refresh.verify_first", "3"),
            ("refresh.verify_every", "1000000"),
            ("refresh.reuse_interval", interval),
        ]
    };
    let environment = command_environment(&lab.database, lab.wordpress.address());
    let url = store.url();
    let mut environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    environment.push((STORE, &url));
    let configured = Configured::start_with(&keys("\"10s\""), &environment);
    let sidecar = &configured.sidecar;
    wait_until_used(sidecar);
    sidecar.wait_for_log("natively once that is verified: home");
    // It has looked before it finds something.
    tokio::time::sleep(Duration::from_secs(4)).await;
    lab.refresh(sidecar, 0).await;
    sidecar.wait_for_log(DIFFERS);
    wait_until("it is told", || told(&store).len() == 1);

    lab.wordpress.set(NONE);
    let skip = sidecar.log().len();
    assert!(configured.change(&keys("\"20s\"")).contains("\"reloaded\""));
    wait_until("what was told is taken back", || told(&store).is_empty());
    for user in 0..3 {
        lab.refresh(sidecar, user).await;
    }
    sidecar.wait_for_log_after(skip, AGREES);
    assert!(!sidecar.log().iter().skip(skip).any(|line| line.contains(ELSEWHERE)));

    // What another one has found since is not taken back with its own.
    lab.wordpress.set(ROLES);
    lab.compared(sidecar).await;
    wait_until("it is told", || told(&store).len() == 1);
    let key = told(&store).remove(0);
    let _: String = store.ask(&["SET", &key, r#"{"kind":"row","what":"a row","by":"another"}"#]);
    let skip = sidecar.log().len();
    assert!(configured.change(&keys("\"10s\"")).contains("\"reloaded\""));
    sidecar.wait_for_log_after(skip, ELSEWHERE);
    assert_eq!(told(&store), [key]);
}

/// From its start until then no look at the store has had an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_difference_found_while_the_store_was_away_is_published() {
    let store = Store::start();
    let url = store.url();
    store.kill();
    let lab = Lab::of(NONE).await;
    let first = lab.agreeing(&[(STORE, &url)]).await;
    first.wait_for_log("the shared store is unavailable");
    // A look that has no answer.
    tokio::time::sleep(Duration::from_secs(4)).await;
    lab.wordpress.set(ROLES);
    lab.compared(&first).await;
    first.wait_for_log(DIFFERS);
    store.start_again();
    wait_until("it is published", || told(&store).len() == 1);
    lab.late(&url).wait_for_log(ELSEWHERE);
}

/// Who can write to the store costs forwarding, and makes nothing native.
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_store_makes_nothing_native() {
    let store = Store::start();
    let url = store.url();
    let lab = Lab::of(ROLES).await;
    let first = lab.sidecar(&[(STORE, &url)]);
    lab.refresh(&first, 0).await;
    first.wait_for_log(DIFFERS);
    wait_until("it is told", || told(&store).len() == 1);
    let key = told(&store).remove(0);
    // More than is read of a value.
    let long = format!(r#"{{"kind":"row","what":"{}"}}"#, "a".repeat(4_096));
    for forged in [r#"{"kind":"agrees","what":"all is well"}"#, "", "true", "\u{1}", &long] {
        let _: String = store.ask(&["SET", &key, forged]);
        let second = lab.sidecar(&[(STORE, &url)]);
        wait_until_used(&second);
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(!is_native(&lab.refresh(&first, 1).await));
        assert!(!second.log().iter().any(|line| line.contains(ELSEWHERE) || line.contains(AGREES)));
    }
    let _: String = store.ask(&["FLUSHALL"]);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!is_native(&lab.refresh(&first, 2).await));
    // A made-up difference is heeded, and its words are made fit to be shown.
    let _: String = store.ask(&["SET", &key, r#"{"kind":"row","what":"a\nb\u001b[31m"}"#]);
    let second = lab.late(&url);
    let line = second.wait_for_log(ELSEWHERE);
    assert!(line.contains(r"a\\nb\\u{1b}[31m"), "{line}");
}
