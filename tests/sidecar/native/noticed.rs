//! Changes by the operator or the site's owner are noticed within seconds, and what the sidecar
//! cannot do correctly it leaves to WordPress.

use serde_json::json;

use crate::support::mariadb::Database;
use crate::support::raw::{Connection, Message};
use crate::support::rig::{self, ACTIVE, HOME, NO_REUSE, ROUTE, Rig, eventually, refresh_at, settings};
use crate::support::sidecar::Sidecar;

/// The response to a call with this `Host`.
pub(super) fn at_host(sidecar: &Sidecar, host: &str, body: &str) -> Message {
    let mut client = Connection::to(sidecar.address());
    client.send(format!(
        "POST {ROUTE} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    client.response()
}

async fn becomes(rig: &Rig, status: u16) {
    eventually(&format!("the answer is {status}"), || async { rig.refresh("none").status() == status }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_is_switched_off_and_on() {
    // Each change shows within seconds, and all together are not slower than one.
    let switched = async |off: Option<&str>| {
        let rig = Rig::start().await;
        becomes(&rig, 403).await;
        match off {
            Some(off) => rig.database.set_option("active_plugins", off).await,
            None => rig.database.delete_option("active_plugins").await,
        }
        becomes(&rig, 299).await;
        if off == Some("a:0:{}") {
            rig.sidecar.wait_for_log("leaving the refresh route to WordPress: the plugin JWT Auth Pro is not active");
        }
        rig.database.set_option("active_plugins", ACTIVE).await;
        becomes(&rig, 403).await;
    };
    tokio::join!(
        switched(Some("a:0:{}")),
        switched(Some("a:1:{i:0;s:9:\"hello.php\";}")),
        switched(Some("not serialized")),
        switched(None),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_algorithm_that_cannot_be_signed_is_left_to_wordpress() {
    let changed = async |unknown: &str, known: &str| {
        let rig = Rig::start().await;
        let token = rig.token().await.refresh_token;
        for (algorithm, status) in [(unknown, 299), (known, 403)] {
            let value = format!("s:{}:\"{algorithm}\";", algorithm.len());
            let all =
                [("rate_limit_settings", "enabled", "b:0;"), ("token_settings", "signing_algorithm", value.as_str())];
            rig.database.set_option("jwt_auth_pro_settings", settings(&all)).await;
            becomes(&rig, status).await;
        }
        let answer = rig.refresh(&token);
        assert_eq!(answer.status(), 200);
        let header = jsonwebtoken::decode_header(answer.json()["access_token"].as_str().unwrap()).unwrap();
        assert_eq!(format!("{:?}", header.alg), known);
    };
    tokio::join!(changed("RS256", "HS512"), changed("ES256K", "HS256"), changed("none", "HS384"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_is_not_english_answers_400s_itself() {
    let bad = json!({"refresh_token": 1}).to_string();
    let changed = async |foreign: &str, english: &str| {
        let rig = Rig::start_on(Database::shared(), &[NO_REUSE]).await;
        for (language, status) in [(foreign, 299), (english, 400)] {
            rig.database.set_option("WPLANG", language).await;
            eventually(language, || async { at_host(&rig.sidecar, "shop.example", &bad).status() == status }).await;
            let token = rig.token().await.refresh_token;
            assert_eq!(rig.refresh(&token).status(), 200, "{language}: success has no words");
            assert_eq!(rig.refresh(&token).status(), 403, "{language}: the plugin's words are not translated");
        }
    };
    tokio::join!(changed("de_DE", "en_GB"), changed("fr_FR", ""));
}

/// A sidecar whose `wp-config.php` has these lines; everything else is in its environment.
pub(super) async fn with_wp_config(rig: &Rig, lines: &str, environment: &[(&str, &str)]) -> Sidecar {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("wp-config.php");
    std::fs::write(&file, format!("<?php\n{lines}\n")).unwrap();
    let mut all = vec![("WP_JWT_SIDECAR_WORDPRESS_CONFIG", file.to_str().unwrap())];
    all.extend_from_slice(environment);
    let sidecar = rig::sidecar(&rig.database, rig.upstream.address(), &all);
    sidecar.wait_for_log("refreshing natively");
    sidecar
}

#[tokio::test(flavor = "multi_thread")]
async fn only_calls_for_the_sites_own_host_are_native() {
    let rig = Rig::start().await;
    rig.database
        .execute("CREATE TABLE wp_sitemeta (meta_id BIGINT AUTO_INCREMENT PRIMARY KEY, site_id BIGINT, meta_key VARCHAR(255), meta_value LONGTEXT)")
        .await;
    let unknown = json!({"refresh_token": "none"}).to_string();
    let single = with_wp_config(&rig, "define('MULTISITE', false);", &[]).await;
    let computed = with_wp_config(&rig, "define('WP_HOME', 'http://' . $_SERVER['HTTP_HOST']);", &[]).await;
    // Activated for the whole network, it is not among the site's own plugins.
    rig.database.set_option("active_plugins", "a:0:{}").await;
    let active = "a:1:{s:29:\"jwt-auth-pro/jwt-auth-pro.php\";i:1700000000;}";
    rig.database
        .execute(&format!(
            "INSERT INTO wp_sitemeta (site_id, meta_key, meta_value) VALUES (1, 'active_sitewide_plugins', '{active}')"
        ))
        .await;
    let network = with_wp_config(&rig, "define('MULTISITE', true); define('BLOG_ID_CURRENT_SITE', 1);", &[]).await;
    assert_eq!(at_host(&network, "shop.example", &unknown).status(), 403);
    assert_eq!(at_host(&network, "SHOP.example", &unknown).status(), 403);
    for host in ["other.example", "shop.example:8080", "sub.shop.example"] {
        assert_eq!(at_host(&network, host, &unknown).status(), 299, "{host}");
    }
    rig.database.set_option("active_plugins", ACTIVE).await;
    for (sidecar, status) in [(&single, 403), (&computed, 299)] {
        eventually("active again", || async { at_host(sidecar, "shop.example", &unknown).status() == 403 }).await;
        // If WP_HOME depends on the host, another spelling results in another home URL.
        assert_eq!(at_host(sidecar, "shop.example:80", &unknown).status(), status);
        // The token may be live on another site of the same web server.
        assert_eq!(at_host(sidecar, "other.example", &unknown).status(), 299);
    }
    let hosts = [("WP_JWT_SIDECAR_WORDPRESS_HOSTS", "www.shop.example,other.example:8080")];
    let named = rig::sidecar(&rig.database, rig.upstream.address(), &hosts);
    named.wait_for_log("refreshing natively");
    // Without a wp-config.php it is unknown whether WP_HOME depends on the host.
    for (host, status) in
        [("www.shop.example", 403), ("WWW.shop.example", 299), ("other.example:8080", 403), ("other.example", 299)]
    {
        assert_eq!(at_host(&named, host, &unknown).status(), status, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mode_forward_leaves_the_route_to_wordpress() {
    let rig = Rig::start().await;
    let sidecar = rig::sidecar(&rig.database, rig.upstream.address(), &[("WP_JWT_SIDECAR_REFRESH_MODE", "forward")]);
    let token = rig.token().await;
    assert_eq!(refresh_at(sidecar.address(), &token.refresh_token).status(), 299);
    assert_eq!(rig.database.family_rows(&token.token_family).await.len(), 1);
    assert_eq!(rig.refresh(&token.refresh_token).status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn wordpress_has_the_last_word_about_the_home_url() {
    let database = rig::site(Database::shared()).await;
    let user = database.insert_user("alice").await;
    database.set_option("home", "http://stored.example").await;
    let upstream = rig::wordpress();
    let sidecar = rig::sidecar(&database, upstream.address(), &[]);
    sidecar.wait_for_log(&format!("refreshing natively: home {HOME}"));
    let token = database.insert_token(crate::support::mariadb::TokenState::Live, user.id).await;
    let answer = refresh_at(sidecar.address(), &token.refresh_token);
    let claims =
        jsonwebtoken::dangerous::insecure_decode::<serde_json::Value>(answer.json()["token"].as_str().unwrap());
    assert_eq!(claims.unwrap().claims["iss"], HOME);
    let asked = upstream.requests().into_iter().next().unwrap();
    assert_eq!(asked.value("host").as_deref(), Some("stored.example"));
}
