//! A site with several hosts, each with its own home URL: a token is issued for the host of its
//! request. On a host that only the client has named, only live tokens are refreshed, and nothing
//! is refused.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use serde_json::{Value, json};

use super::noticed::{at_host, with_wp_config};
use crate::support::mariadb::{Database, TokenState};
use crate::support::raw::{Message, Upstream};
use crate::support::rig::{self, ACTIVE, ROUTE, Rig, eventually, settings};
use crate::support::sidecar::{Sidecar, command};

/// A WordPress whose home URL is always the requested host; it answers calls of the route with 299.
/// `blog.example` is another site.
fn wordpress() -> Upstream {
    Upstream::answering(|request| {
        let host = request.value("host").unwrap();
        let (status, body) = match request.start_line().contains("_fields=home,namespaces") {
            true if host == "closed.example" => (403, json!({"code": "rest_forbidden"})),
            true if host == "blog.example" => (200, json!({"home": "http://blog.example", "namespaces": ["wp/v2"]})),
            true => (200, json!({"home": format!("http://{host}"), "namespaces": ["jwt-auth/v1"]})),
            false => (299, json!({})),
        };
        let body = body.to_string();
        format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    })
}

async fn rig(environment: &[(&str, &str)]) -> Rig {
    let database = rig::site(Database::shared()).await;
    let user = database.insert_user("alice").await;
    let upstream = wordpress();
    let sidecar = rig::sidecar(&database, upstream.address(), environment);
    sidecar.wait_for_log("refreshing natively");
    Rig { database, upstream, sidecar, user }
}

fn refresh_at(sidecar: &Sidecar, host: &str, token: &str) -> Message {
    at_host(sidecar, host, &json!({"refresh_token": token}).to_string())
}

/// The issuer of the new access token, and the new refresh token.
fn pair(answer: &Message) -> (String, String) {
    assert_eq!(answer.status(), 200, "{answer:?}");
    let body = answer.json();
    let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(body["token"].as_str().unwrap()).unwrap().claims;
    (claims["iss"].as_str().unwrap().to_owned(), body["refresh_token"].as_str().unwrap().to_owned())
}

/// The hosts that WordPress was asked about.
fn asked_for(rig: &Rig) -> BTreeSet<String> {
    let questions =
        rig.upstream.requests().into_iter().filter(|request| request.start_line().contains("_fields=home,namespaces"));
    questions.map(|request| request.value("host").unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_host_has_its_issuer() {
    let hosts = ("WP_JWT_SIDECAR_WORDPRESS_HOSTS", "www.shop.example,shop.test:8080,blog.example,closed.example");
    let rig = rig(&[hosts]).await;
    let token = rig.token().await.refresh_token;
    let (issuer, token) = pair(&refresh_at(&rig.sidecar, "shop.example", &token));
    assert_eq!(issuer, "http://shop.example");
    let (issuer, token) = pair(&refresh_at(&rig.sidecar, "www.shop.example", &token));
    assert_eq!(issuer, "http://www.shop.example");
    let (issuer, token) = pair(&refresh_at(&rig.sidecar, "shop.test:8080", &token));
    assert_eq!(issuer, "http://shop.test:8080");
    let link = refresh_at(&rig.sidecar, "shop.test:8080", "none").value("link");
    assert_eq!(link.as_deref(), Some("<http://shop.test:8080/wp-json/>; rel=\"https://api.w.org/\""));
    // A configured host that turns out to be another site's, or closed.
    for host in ["blog.example", "closed.example"] {
        assert_eq!(refresh_at(&rig.sidecar, host, &token).status(), 299, "{host}");
        let line = rig.sidecar.wait_for_log(&format!("\"host\":\"{host}\""));
        assert!(line.contains("refreshes on a host in wordpress.hosts go to WordPress"), "{line}");
    }
    let environment = rig::command_environment(&rig.database, rig.upstream.address());
    let said = command().arg("check").envs(environment).env(hosts.0, hosts.1).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    for wanted in [
        "host www.shop.example: its tokens are issued for http://www.shop.example\n",
        "host blog.example in wordpress.hosts: left to WordPress: WordPress does not have the route jwt-auth/v1\n",
        "host closed.example in wordpress.hosts: left to WordPress: WordPress answers http://closed.example/wp-json/ with 403",
    ] {
        assert!(said.contains(wanted), "no {wanted:?} in\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_another_host_only_live_tokens_are_refreshed() {
    let rig = rig(&[]).await;
    rig.sidecar.wait_for_log("the tokens of the table are known");
    let other = "other.example:8080";
    let token = |state| rig.database.insert_token(state, rig.user.id);
    // None of these causes a question to WordPress, and none is refused.
    let dead = [
        "none".to_owned(),
        token(TokenState::Used).await.refresh_token,
        token(TokenState::Expired).await.refresh_token,
        String::new(),
    ];
    for token in &dead {
        assert_eq!(refresh_at(&rig.sidecar, other, token).status(), 299);
    }
    for body in ["{", "{}", r#"{"refresh_token": 1}"#] {
        assert_eq!(at_host(&rig.sidecar, other, body).status(), 299, "{body}");
    }
    assert_eq!(asked_for(&rig), ["shop.example".to_owned()].into());
    let line = rig.sidecar.wait_for_log("left_to_wordpress");
    assert!(line.contains("neither the home URL's nor in wordpress.hosts"), "the key is named: {line}");

    // A live one does, but does not wait for it.
    let live = token(TokenState::Live).await.refresh_token;
    assert_eq!(refresh_at(&rig.sidecar, other, &live).status(), 299);
    eventually("WordPress has been asked", || async { asked_for(&rig).contains(other) }).await;
    let mut answer = refresh_at(&rig.sidecar, other, &live);
    while answer.status() == 299 {
        answer = refresh_at(&rig.sidecar, other, &live);
    }
    let (issuer, next) = pair(&answer);
    assert_eq!(issuer, "http://other.example:8080");
    for token in &dead {
        assert_eq!(refresh_at(&rig.sidecar, other, token).status(), 299, "also when the home URL is known");
    }
    assert_eq!(rig.refresh(&dead[0]).status(), 403, "on the site's own host it is refused");

    // Another site, one that cannot be asked about, and a host in an invalid form.
    for host in ["blog.example", "closed.example", "shop.example.", "[::1]:80"] {
        for _ in 0..3 {
            assert_eq!(refresh_at(&rig.sidecar, host, &next).status(), 299, "{host}");
        }
    }
    let asked = asked_for(&rig);
    assert!(!asked.contains("shop.example.") && !asked.contains("[::1]:80"), "{asked:?}");
    assert_eq!(pair(&refresh_at(&rig.sidecar, other, &next)).0, "http://other.example:8080");
}

/// Clients choose the hosts, and one live token is enough.
#[tokio::test(flavor = "multi_thread")]
async fn questions_for_other_hosts_are_few() {
    let rig = rig(&[]).await;
    let live = rig.token().await.refresh_token;
    let begun = Instant::now();
    for number in 0..200 {
        assert_eq!(refresh_at(&rig.sidecar, &format!("h{number}.example"), &live).status(), 299);
    }
    let most = 2 + begun.elapsed().as_millis() / 250;
    assert!(asked_for(&rig).len() as u128 <= most, "{:?} in {:?}", asked_for(&rig), begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_limit_refuses_no_call_on_another_host() {
    let rig = rig(&[]).await;
    let live = rig.token().await.refresh_token;
    assert_eq!(refresh_at(&rig.sidecar, "blog.example", &live).status(), 299, "its row is known from now on");
    let limit = [
        ("rate_limit_settings", "enabled", "b:1;"),
        ("rate_limit_settings", "max_requests", "i:1;"),
        ("rate_limit_settings", "window_minutes", "i:1;"),
    ];
    rig.database.set_option("jwt_auth_pro_settings", settings(&limit)).await;
    eventually("the limit shows", || async { rig.refresh("none").status() == 429 }).await;
    let three_calls = || {
        for _ in 0..3 {
            assert_eq!(refresh_at(&rig.sidecar, "other.example", &live).status(), 299);
        }
    };
    three_calls();
    // Nothing was read or asked for them. Reads wait here, so that they can be seen.
    let mut locking = rig.database.connect().await;
    locking.query_drop("LOCK TABLES wp_jwt_auth_tokens WRITE").await.unwrap();
    three_calls();
    assert_eq!(reading(&rig).await, Vec::<u32>::new());
    locking.query_drop("UNLOCK TABLES").await.unwrap();
    assert!(!asked_for(&rig).contains("other.example"));
    let events = rig.database.analytics_rows_after(0).await;
    assert!(events.iter().all(|event| event.get("event_status") != Some("1")), "{events:?}");
}

/// Clients choose the hosts: reads for them leave most connections to rotations. None waits for
/// long, and a call that was answered or whose client has left does not end a statement and its
/// connection.
#[tokio::test(flavor = "multi_thread")]
async fn other_hosts_take_few_connections_and_break_none_off() {
    let rig = rig(&[]).await;
    let live = rig.token().await.refresh_token;
    assert_eq!(refresh_at(&rig.sidecar, "other.example", &live).status(), 299, "its row is known from now on");
    let mut locking = rig.database.connect().await;
    let mut rounds = 0..10;
    let taken = loop {
        rounds.next().expect("a round of less than a second");
        locking.query_drop("LOCK TABLES wp_jwt_auth_tokens WRITE").await.unwrap();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let calls: Vec<_> =
                (0..20).map(|_| scope.spawn(|| refresh_at(&rig.sidecar, "other.example", &live).status())).collect();
            assert!(calls.into_iter().all(|call| call.join().unwrap() == 299));
        });
        let taken = reading(&rig).await;
        locking.query_drop("UNLOCK TABLES").await.unwrap();
        // No statement waits for the lock longer than a second, so on a busy machine some may have
        // given up.
        if begun.elapsed() < Duration::from_millis(900) {
            break taken;
        }
    };
    assert_eq!(taken.len(), 4, "{taken:?}");
    eventually("their connections are kept", async || {
        let asleep: Vec<u32> = processes(&rig, "COMMAND = 'Sleep'").await;
        taken.iter().all(|id| asleep.contains(id))
    })
    .await;
    assert_eq!(rig.refresh(&live).status(), 200);
}

/// The connections of the rig's database that satisfy this condition.
async fn processes(rig: &Rig, condition: &str) -> Vec<u32> {
    let name = rig.database.url().split(['/', '?']).nth(3).unwrap();
    let asked = format!("SELECT ID FROM information_schema.PROCESSLIST WHERE DB = '{name}' AND {condition}");
    Database::shared().root().await.query(asked).await.unwrap()
}

/// Those that read the state of a token for a host that only the client has named.
async fn reading(rig: &Rig) -> Vec<u32> {
    processes(rig, "COMMAND != 'Sleep' AND INFO LIKE '%TIMESTAMPDIFF(SECOND, revoked_at, UTC_TIMESTAMP()) FROM%'").await
}

/// On a network, a token may belong to any site, and so may a host.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_network_other_hosts_are_wordpresss() {
    let rig = rig(&[]).await;
    rig.database
        .execute("CREATE TABLE wp_sitemeta (meta_id BIGINT AUTO_INCREMENT PRIMARY KEY, site_id BIGINT, meta_key VARCHAR(255), meta_value LONGTEXT)")
        .await;
    rig.database.set_option("active_plugins", ACTIVE).await;
    let network = with_wp_config(
        &rig,
        "define('MULTISITE', true); define('BLOG_ID_CURRENT_SITE', 1);",
        &[("WP_JWT_SIDECAR_WORDPRESS_HOSTS", "second.example")],
    )
    .await;
    let live = rig.token().await.refresh_token;
    for _ in 0..3 {
        assert_eq!(refresh_at(&network, "third.example", &live).status(), 299);
    }
    assert!(!asked_for(&rig).contains("third.example"));
    // A configured one with its own home URL.
    assert_eq!(refresh_at(&network, "second.example", &live).status(), 299);
    network.wait_for_log("it is another site of the network");
    assert_eq!(refresh_at(&network, "shop.example", &live).status(), 200);
}

/// The client used one host, lost the response, and uses the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_on_another_host_is_the_same_pair() {
    let environment =
        [("WP_JWT_SIDECAR_WORDPRESS_HOSTS", "www.shop.example"), ("WP_JWT_SIDECAR_REFRESH_REUSE_INTERVAL", "30s")];
    let rig = rig(&environment).await;
    let token = rig.token().await.refresh_token;
    let first = refresh_at(&rig.sidecar, "www.shop.example", &token);
    let again = refresh_at(&rig.sidecar, "shop.example", &token);
    assert_eq!((pair(&first), &first.json()["token"]), (pair(&again), &again.json()["token"]));
    assert_eq!(pair(&again).0, "http://www.shop.example");
    // Also on an unconfigured host, once WordPress has answered about it; once it can no longer be
    // replayed, it is left to WordPress.
    let (_, live) = pair(&again);
    let other = "other.example";
    let mut answer = refresh_at(&rig.sidecar, other, &live);
    while answer.status() == 299 {
        answer = refresh_at(&rig.sidecar, other, &live);
    }
    let (issuer, _) = pair(&answer);
    assert_eq!(issuer, "http://other.example");
    assert_eq!(refresh_at(&rig.sidecar, other, &live).json()["token"], answer.json()["token"]);
    assert_eq!(refresh_at(&rig.sidecar, "shop.example", &live).json()["token"], answer.json()["token"]);
    rig.database
        .execute(
            "UPDATE wp_jwt_auth_tokens SET revoked_at = revoked_at - INTERVAL 60 SECOND WHERE revoked_at IS NOT NULL",
        )
        .await;
    assert_eq!(refresh_at(&rig.sidecar, other, &live).status(), 299);
    assert_eq!(refresh_at(&rig.sidecar, "shop.example", &live).status(), 403);
    assert!(rig.upstream.requests().iter().any(|request| request.start_line().contains(ROUTE)));
}

/// `[wordpress] home` is the issuer on all hosts, and nothing is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_home_that_is_given_is_the_issuer_everywhere() {
    let environment = [
        ("WP_JWT_SIDECAR_WORDPRESS_HOSTS", "www.shop.example"),
        ("WP_JWT_SIDECAR_WORDPRESS_HOME", "http://shop.example"),
    ];
    let rig = rig(&environment).await;
    let (issuer, token) = pair(&refresh_at(&rig.sidecar, "www.shop.example", &rig.token().await.refresh_token));
    assert_eq!(issuer, "http://shop.example");
    assert_eq!(refresh_at(&rig.sidecar, "other.example", &token).status(), 299);
    assert_eq!(asked_for(&rig), BTreeSet::new());
}
