//! Networks (multisite) of a real WordPress: each site is refreshed natively, with its own tables,
//! settings and home URL, and uncertain cases are left to WordPress.

mod compare;
mod expected;
mod left;
mod made;
mod many;
mod places;
mod recording;
mod replay;
mod tools;

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::rig::eventually;
use crate::support::sidecar::{Sidecar, command as sidecar_command, wait_until};
use made::{At, NetworkSite, is_native, refresh, refresh_with};

const MAIN: At<'static> = At("net.test", "");
const TWO: At<'static> = At("net.test", "/two");
const MAPPED: At<'static> = At("mapped.test", "");
const DEEP: At<'static> = At("mapped.test", "/deep");

fn claims(answer: &crate::support::raw::Message) -> Value {
    let body = answer.json();
    jsonwebtoken::dangerous::insecure_decode::<Value>(body["access_token"].as_str().unwrap()).unwrap().claims
}

/// On a busy machine, the first check of a site may take longer than its first call waits for it.
async fn until_looked_at(network: &NetworkSite, sidecar: &Sidecar, id: u64, at: At<'_>) {
    let tables = network.tables(id);
    let (_, last_event) = tables.last_ids().await;
    let calls = Cell::new(0);
    eventually("the site is native", async || {
        calls.set(calls.get() + 1);
        is_native(&refresh(sidecar, at, &network.token(id).await.refresh_token))
    })
    .await;
    eventually("their analytics", async || tables.analytics_rows_after(last_event).await.len() == calls.get()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_site_of_a_subdirectory_network_is_native() {
    let network = NetworkSite::up(false, &[TWO, MAPPED, DEEP], "");
    network.set(2, "token_settings", "jwt_expiration", "1200");
    let sidecar = network.sidecar(&[]);

    // WordPress logs users in, and the sidecar refreshes those tokens: with the site's issuer and
    // settings, in its tables.
    for (id, at, home, lifetime) in [
        (1, MAIN, "http://net.test", 604_800),
        (2, TWO, "http://net.test/two", 1200),
        (3, MAPPED, "http://mapped.test", 604_800),
        (4, DEEP, "http://mapped.test/deep", 604_800),
    ] {
        until_looked_at(&network, &sidecar, id, at).await;
        let by_php = network.refreshes_by_php();
        let login = network.log_in(&sidecar, at);
        let tables = network.tables(id);
        let (last_token, last_event) = tables.last_ids().await;
        let answer = refresh(&sidecar, at, login["refresh_token"].as_str().unwrap());
        assert!(is_native(&answer), "{at:?}: {answer:?}");
        let claims = claims(&answer);
        let lasts = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
        assert_eq!((claims["iss"].as_str(), lasts), (Some(home), lifetime), "{at:?}");
        let rows = tables.token_rows_after(last_token).await;
        assert_eq!((rows.len(), rows[0].get("blog_id")), (1, Some("1")), "{at:?}");
        assert!(answer.value("link").unwrap().starts_with(&format!("<{home}/wp-json/>")), "{answer:?}");
        eventually("the analytics row", async || !tables.analytics_rows_after(last_event).await.is_empty()).await;
        let events = tables.analytics_rows_after(last_event).await;
        let expected = (1, Some(&*id.to_string()), Some(&*format!("{}/wp-json/jwt-auth/v1/token/refresh", at.1)));
        assert_eq!((events.len(), events[0].get("blog_id"), events[0].get("request_path")), expected);
        // WordPress accepts the new token on that site only.
        let bearer = answer.json()["access_token"].as_str().unwrap().to_owned();
        assert_eq!(me(&network, at, &bearer), 200, "{at:?}");
        let other = if id == 2 { MAIN } else { TWO };
        assert_eq!(me(&network, other, &bearer), 401, "{at:?}");
        assert_eq!(network.refreshes_by_php(), by_php);
    }

    // The same site by other spellings that WordPress accepts.
    for host in ["NET.test", "net.test:80", "www.net.test"] {
        let token = network.token(2).await.refresh_token;
        assert!(is_native(&refresh(&sidecar, At(host, "/two"), &token)), "{host}");
    }
    // And spellings that are left to WordPress.
    let token = network.token(2).await.refresh_token;
    for (at, status) in [
        (At("net.test", "/TWO"), 403),
        (At("net.test", "//two"), 403),
        (At("net.test", "/nosuch"), 404),
        (At("unknown.test", ""), 302),
    ] {
        let before = network.refreshes_by_php();
        let answer = refresh(&sidecar, at, "00000000000000000000000000000000");
        assert_eq!((answer.status(), network.refreshes_by_php()), (status, before + 1), "{at:?}: {answer:?}");
    }
    // A token of one site is unknown at another, and stays valid.
    assert_eq!(refresh(&sidecar, MAIN, &token).status(), 403);
    assert_eq!(refresh(&sidecar, MAPPED, &token).status(), 403);
    assert!(is_native(&refresh(&sidecar, TWO, &token)));

    // Each site has its own limit.
    network.set(2, "rate_limit_settings", "enabled", "true");
    network.set(2, "rate_limit_settings", "max_requests", "2");
    wait_until("the limit", || {
        refresh(&sidecar, TWO, "00000000000000000000000000000000").value("x-ratelimit-limit").as_deref() == Some("2")
    });
    wait_until("the end of the window's room", || refresh(&sidecar, TWO, "0").status() == 429);
    assert!(is_native(&refresh(&sidecar, MAPPED, &network.token(3).await.refresh_token)));

    // A site that WordPress does not serve.
    for (column, value) in [("archived", "'1'"), ("spam", "1"), ("deleted", "1")] {
        let token = network.token(3).await.refresh_token;
        network.flag(3, column, value).await;
        tokio::time::sleep(Duration::from_millis(3_500)).await;
        let before = network.refreshes_by_php();
        let answer = refresh(&sidecar, MAPPED, &token);
        assert_eq!((answer.status(), network.refreshes_by_php()), (410, before + 1), "{column}: {answer:?}");
        assert!(is_native(&refresh(&sidecar, DEEP, &network.token(4).await.refresh_token)), "{column}");
        network.flag(3, column, "0").await;
        eventually("the site is back", async || {
            is_native(&refresh(&sidecar, MAPPED, &network.token(3).await.refresh_token))
        })
        .await;
    }

    // Nor does it serve the first one then.
    let token = network.token(1).await.refresh_token;
    network.flag(1, "archived", "'1'").await;
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    let before = network.refreshes_by_php();
    let answer = refresh(&sidecar, MAIN, &token);
    assert_eq!((answer.status(), network.refreshes_by_php()), (410, before + 1), "{answer:?}");
    network.flag(1, "archived", "'0'").await;
    eventually("the first site is back", async || {
        is_native(&refresh(&sidecar, MAIN, &network.token(1).await.refresh_token))
    })
    .await;

    // Active on some sites only; and a site whose tables are missing until WordPress's first
    // request creates them.
    network.site.php(
        "require_once ABSPATH . 'wp-admin/includes/plugin.php'; $p = 'jwt-auth-pro/jwt-auth-pro.php';
         deactivate_plugins( $p, false, true ); switch_to_blog( 2 ); activate_plugin( $p );",
    );
    network.set(2, "rate_limit_settings", "enabled", "false");
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    assert_eq!(refresh(&sidecar, MAPPED, "00000000000000000000000000000000").status(), 404);
    eventually("its own plugin", async || is_native(&refresh(&sidecar, TWO, &network.token(2).await.refresh_token)))
        .await;
    network.database.execute("RENAME TABLE wp_2_jwt_auth_tokens TO gone").await;
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    let before = network.refreshes_by_php();
    refresh(&sidecar, TWO, &token);
    assert_eq!(network.refreshes_by_php(), before + 1);
    network.database.execute("RENAME TABLE gone TO wp_2_jwt_auth_tokens").await;

    // Code that may keep sites in other databases: all sites but the first, which is treated like a
    // single site, are left to WordPress.
    network.site.php(
        "require_once ABSPATH . 'wp-admin/includes/plugin.php'; activate_plugin( 'jwt-auth-pro/jwt-auth-pro.php', '', true );",
    );
    eventually("native again", async || is_native(&refresh(&sidecar, TWO, &network.token(2).await.refresh_token)))
        .await;
    std::fs::write(format!("{}/wp-content/db.php", network.site.said("ROOT")), "<?php").unwrap();
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    let answer = refresh(&sidecar, TWO, &network.token(2).await.refresh_token);
    assert!(answer.status() == 200 && !is_native(&answer), "{answer:?}");
    assert!(is_native(&refresh(&sidecar, MAIN, &network.token(1).await.refresh_token)));
}

/// A sidecar that verifies, and for which three equal answers suffice.
fn verified(network: &NetworkSite, state: &Path, more: &[&str]) -> Sidecar {
    let upstream = format!("http://{}", network.site.upstream());
    let config = network.site.wp_config().to_str().unwrap();
    let mut arguments = vec!["--upstream", &upstream, "--wp-config", config];
    arguments.extend(["--refresh-verify", "auto", "--refresh-verify-first", "3"]);
    arguments.extend(["--refresh-state-directory", state.to_str().unwrap()]);
    arguments.extend(more);
    Sidecar::start(&arguments)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_site_is_verified_by_itself() {
    let network = NetworkSite::up(false, &[TWO, MAPPED], "");
    let state = tempfile::tempdir().unwrap();
    let sidecar = verified(&network, state.path(), &[]);
    // A compared response has everything that a native one has, so the requests that reached
    // WordPress show which it was.
    let is_by_php = async |id: u64, at: At<'static>| {
        let before = network.refreshes_by_php();
        let answer = refresh(&sidecar, at, &network.token(id).await.refresh_token);
        assert_eq!(answer.status(), 200, "{at:?}: {answer:?}");
        network.refreshes_by_php() > before
    };
    assert!(is_by_php(2, TWO).await, "it is not proven yet");
    eventually("the second site is proven", async || !is_by_php(2, TWO).await).await;
    let log = sidecar.wait_for_log("agree with the sidecar's: refreshing natively");
    assert!(log.contains(r#""site":"net.test/two/""#), "{log}");
    // That does not verify the others.
    for (id, at) in [(1, MAIN), (3, MAPPED)] {
        assert!(is_by_php(id, at).await, "{at:?}");
    }
    // A site whose background work ended, fifteen seconds after its last call, keeps its verdict
    // when it wakes up.
    let lines_of_two = || sidecar.log().iter().filter(|line| line.contains(r#""site":"net.test/two/""#)).count();
    let before = lines_of_two();
    tokio::time::sleep(Duration::from_secs(17)).await;
    eventually("it is awake", async || !is_by_php(2, TWO).await).await;
    let lines = sidecar.log().into_iter().filter(|line| line.contains(r#""site":"net.test/two/""#)).skip(before);
    let lines: Vec<String> = lines.filter(|line| !line.contains("wp_jwt_sidecar::refreshes")).collect();
    assert!(lines.is_empty(), "nothing new is known of it: {lines:?}");
    // Code of one site only: its theme, selected by an option that the others do not have.
    network.site.php("switch_to_blog( 2 ); update_option( 'stylesheet', 'other' );");
    eventually("another epoch", async || is_by_php(2, TWO).await).await;
    let kept = || std::fs::read_dir(state.path()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    eventually("what is kept", async || {
        ["-2.json", "-3.json"].iter().all(|end| kept().any(|name| name.ends_with(end)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_the_sites() {
    let network = NetworkSite::up(false, &[TWO, MAPPED, DEEP], "");
    network.flag(4, "archived", "'1'").await;
    network.database.execute("RENAME TABLE wp_3_jwt_auth_tokens TO gone").await;
    let config = network.site.wp_config().to_str().unwrap().to_owned();
    let run = |command: &str| {
        let upstream = format!("http://{}", network.site.upstream());
        let output =
            sidecar_command().args([command, "--upstream", &upstream, "--wp-config", &config]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let said = run("check");
    assert!(said.contains("network: 4 sites, 1 of them archived, deleted, spam or not activated"), "{said}");
    let said = run("doctor");
    for part in [
        "1 of the first 2 further sites can be refreshed natively",
        "2 net.test/two/: native",
        "3 mapped.test/: the table wp_3_jwt_auth_tokens cannot be used",
        "GRANT SELECT (blog_id, site_id, domain, path, archived, spam, deleted) ON `wordpress`.`wp_blogs`",
        "SELECT CONCAT('GRANT ', CASE",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    // The query prints statements that the server accepts.
    let query = said.lines().map(str::trim).find(|line| line.starts_with("SELECT CONCAT('GRANT ")).unwrap();
    let grants = network.database.rows(&query.trim_end_matches(';').replacen("SELECT ", "SELECT 1 AS n, ", 1)).await;
    // Tokens, analytics and options of the second and the fourth site, and the third's without its
    // tokens.
    assert_eq!(grants.len(), 8, "{query}");

    let sidecar = network.sidecar(&["--admin-listen", "127.0.0.1:0"]);
    let admin = crate::admin::admin(&sidecar);
    assert!(is_native(&refresh(&sidecar, TWO, &network.token(2).await.refresh_token)));
    refresh(&sidecar, MAPPED, "00000000000000000000000000000000");
    let get = |path: &str| crate::admin::get(admin, path);
    let status = get("/status.json").json();
    let seen = &status["network"];
    assert_eq!(
        [&seen["sites"], &seen["closed"], &seen["in_use"], &seen["native"], &seen["obstacle"]],
        [&json!(4), &json!(1), &json!(2), &json!(1), &Value::Null],
        "{seen}"
    );
    assert_eq!([&seen["listed"][0]["place"], &seen["listed"][1]["native"]], [&json!("mapped.test/"), &json!(true)]);
    let page = String::from_utf8_lossy(&get("/").body).into_owned();
    assert!(
        page.contains("1 of 2 in use refreshed here") && page.contains("wp_3_jwt_auth_tokens cannot be used"),
        "{page}"
    );
    let metrics = String::from_utf8_lossy(&get("/metrics").body).into_owned();
    for line in [
        "wp_jwt_sidecar_network_sites 4",
        "wp_jwt_sidecar_network_sites_in_use{refreshes=\"native\"} 1",
        "wp_jwt_sidecar_network_refreshes_total{site=\"net.test/two/\",outcome=\"native\"} 1",
        "wp_jwt_sidecar_network_refreshes_total{site=\"mapped.test/\",outcome=\"left\"} 1",
        "wp_jwt_sidecar_network_refreshes_total{site=\"others\",outcome=\"native\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }

    // Too many to be read as a whole: each address is looked up.
    let many = "INSERT INTO wp_blogs (site_id, domain, path, registered) SELECT 1, 'net.test', CONCAT('/many', seq, '/'), NOW() \
                FROM seq_1_to_10000";
    network.database.execute(many).await;
    let summary = || get("/status.json").json()["network"]["summary"].clone();
    wait_until("they are seen", || summary() == "more than 10000 sites, each looked for when it has a refresh");
    let before = network.refreshes_by_php();
    assert!(is_native(&refresh(&sidecar, TWO, &network.token(2).await.refresh_token)));
    assert_eq!(network.refreshes_by_php(), before);
    network.flag(2, "archived", "'1'").await;
    let token = network.token(2).await.refresh_token;
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    assert_eq!((refresh(&sidecar, TWO, &token).status(), network.refreshes_by_php()), (410, before + 1));
    assert!(is_native(&refresh(&sidecar, MAIN, &network.token(1).await.refresh_token)));
}

/// The status of WordPress's answer when a bearer asks for its own user.
fn me(network: &NetworkSite, At(host, path): At<'_>, bearer: &str) -> u16 {
    let mut connection = crate::support::raw::Connection::to(network.site.upstream());
    connection.send(format!(
        "GET {path}/wp-json/wp/v2/users/me HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {bearer}\r\n\r\n"
    ));
    connection.response().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_site_of_a_subdomain_network_is_native_unless_sunrise_swaps_it() {
    let (two, three) = (At("two.net.test", ""), At("three.net.test", ""));
    let network =
        NetworkSite::up(true, &[two, three, MAPPED], "defined( 'WITHOUT_SUNRISE' ) || define( 'SUNRISE', true );");
    let sunrise = format!("{}/wp-content/sunrise.php", network.site.said("ROOT"));
    std::fs::write(&sunrise, "<?php").unwrap();
    let sidecar = network.sidecar(&["--forwarded-trusted-proxies", "127.0.0.1"]);
    for (id, at, home) in [
        (1, MAIN, "http://net.test"),
        (2, two, "http://two.net.test"),
        (3, three, "http://three.net.test"),
        (4, MAPPED, "http://mapped.test"),
    ] {
        until_looked_at(&network, &sidecar, id, at).await;
        let by_php = network.refreshes_by_php();
        let answer = refresh(&sidecar, at, &network.token(id).await.refresh_token);
        assert!(is_native(&answer), "{at:?}: {answer:?}");
        assert_eq!(claims(&answer)["iss"].as_str(), Some(home), "{at:?}");
        assert_eq!(network.refreshes_by_php(), by_php, "{at:?}");
    }
    // By https the issuer differs, as in WordPress.
    let answer = refresh_with(&sidecar, two, &network.token(2).await.refresh_token, "X-Forwarded-Proto: https\r\n");
    assert!(is_native(&answer), "{answer:?}");
    assert_eq!(claims(&answer)["iss"].as_str(), Some("https://two.net.test"));
    let unknown = refresh(&sidecar, At("nosuch.net.test", ""), "00000000000000000000000000000000");
    assert_eq!((unknown.status(), unknown.value("location").unwrap().contains("wp-signup.php")), (302, true));

    // Code that runs before WordPress reads its table swaps two sites: the rows are not what
    // WordPress uses.
    drop(sidecar);
    std::fs::write(
        &sunrise,
        "<?php $swapped = array( 'two.net.test' => 3, 'three.net.test' => 2 )[ $_SERVER['HTTP_HOST'] ] ?? 0;
         if ( $swapped ) {
             $current_blog = WP_Site::get_instance( $swapped );
             $current_site = WP_Network::get_instance( 1 );
             $blog_id = $swapped; $site_id = 1; $public = 1;
         }",
    )
    .unwrap();
    // PHP checks a file that it has compiled only every two seconds.
    wait_until("PHP runs it", || {
        network.get("two.net.test", "/wp-json/").json()["home"].as_str() == Some("http://three.net.test")
    });
    let sidecar = network.sidecar(&[]);
    for (id, at) in [(3, two), (2, three)] {
        let before = network.refreshes_by_php();
        let token = network.token(id).await.refresh_token;
        let answer = refresh(&sidecar, at, &token);
        // WordPress finds it in the other site's table.
        assert!(answer.status() == 200 && !is_native(&answer), "{at:?}: {answer:?}");
        assert_eq!(network.refreshes_by_php(), before + 1, "{at:?}");
    }
    assert!(is_native(&refresh(&sidecar, MAPPED, &network.token(4).await.refresh_token)));
    assert!(is_native(&refresh(&sidecar, MAIN, &network.token(1).await.refresh_token)));
}
