//! What one sidecar finds, the others of the site know.

use std::time::{Duration, Instant};

use serde_json::json;

use super::plugin::{Code, NONE};
use super::{AGREES, DIFFERS, Lab, THREE, is_native};
use crate::support::raw::Connection;
use crate::support::rig::{call_with, sidecar};
use crate::support::sidecar::{Sidecar, wait_until};
use crate::support::store::Store;

const STORE: &str = "WP_JWT_SIDECAR_RATE_LIMIT_STORE";
const USED: &str = "the store that sidecars share is used";
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
        sidecar.wait_for_log(USED);
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
    for forged in [r#"{"kind":"agrees","what":"all is well"}"#, "", "true", "\u{1}"] {
        let _: String = store.ask(&["SET", &key, forged]);
        let second = lab.sidecar(&[(STORE, &url)]);
        second.wait_for_log(USED);
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
