//! Whatever cannot be native on a network is left to WordPress without a wait, and the log contains
//! the reason.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::made::{At, NetworkSite, is_native, refresh};
use super::verified;
use crate::support::mariadb::TokenState;
use crate::support::sidecar::Sidecar;

/// Less than a call waits for a check that does not finish.
const AT_ONCE: Duration = Duration::from_millis(450);

/// Refreshes at a site until WordPress answers without a wait; calls that wait take longer. Returns
/// the log lines.
fn left_lines(network: &NetworkSite, sidecar: &Sidecar, at: At<'_>) -> Vec<Value> {
    let before = lines(sidecar).len();
    let mut took = Vec::new();
    for _ in 0..5 {
        let (by_php, began) = (network.refreshes_by_php(), Instant::now());
        refresh(sidecar, at, "00000000000000000000000000000000");
        took.push(began.elapsed());
        assert_eq!(network.refreshes_by_php(), by_php + 1, "{at:?}: answered by WordPress");
        if *took.last().unwrap() < AT_ONCE {
            break;
        }
    }
    assert!(took.iter().any(|took| *took < AT_ONCE), "{at:?}: each call waits: {took:?}");
    crate::support::sidecar::wait_until("the lines", || lines(sidecar).len() >= before + took.len());
    lines(sidecar).split_off(before)
}

/// The lines about refreshes.
fn lines(sidecar: &Sidecar) -> Vec<Value> {
    let log = sidecar.log();
    let lines = log.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["message"] == "refresh").collect()
}

/// Asserts that WordPress answered the call, for this reason.
fn assert_left(network: &NetworkSite, sidecar: &Sidecar, at: At<'_>, site: Option<&str>, reason: &str) {
    for line in left_lines(network, sidecar, at) {
        assert_eq!((&line["outcome"], line["site"].as_str()), (&"left_to_wordpress".into(), site), "{at:?}: {line}");
        assert!(line["reason"].as_str().unwrap().contains(reason), "{at:?}: {reason} is not in {line}");
    }
}

/// How often WordPress was asked for the home URL of a site at the network's own path.
fn questions(network: &NetworkSite) -> usize {
    network.site.requests().iter().filter(|request| request.starts_with("GET /wp-json/?_fields=home")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_native_is_left_at_once_for_its_true_reason() {
    let paths = ["/archived", "/spam", "/deleted", "/new", "/other", "/bare", "/moved", "/inactive", "/two"];
    let sites: Vec<At<'_>> = paths.iter().map(|path| At("net.test", path)).chain([At("mapped.test", "")]).collect();
    let network = NetworkSite::bare("net.test", false, &sites, "");
    let id = |path: &str| paths.iter().position(|other| *other == path).unwrap() as u64 + 2;
    for id in (1..=sites.len() as u64 + 1).filter(|other| *other != id("/inactive")) {
        network.activate(id, true);
    }
    for at in [At("net.test", "")].iter().chain(&sites) {
        network.visit(*at);
    }
    network.flag(id("/archived"), "archived", "'1'").await;
    network.flag(id("/spam"), "spam", "1").await;
    network.flag(id("/deleted"), "deleted", "1").await;
    network.flag(id("/new"), "deleted", "2").await;
    network.flag(id("/other"), "site_id", "2").await;
    network.database.execute(&format!("RENAME TABLE wp_{}_jwt_auth_tokens TO gone", id("/bare"))).await;
    network.tables(id("/moved")).set_option("home", "http://net.test/elsewhere").await;

    let state = tempfile::tempdir().unwrap();
    let sidecar = verified(&network, state.path(), &[]);
    for (path, reason) in [
        ("/archived", "the site of the network is archived"),
        ("/spam", "the site of the network is marked as spam"),
        ("/deleted", "the site of the network is deleted"),
        ("/new", "the site of the network is not activated yet"),
        ("/other", "the site is of another network"),
        ("/bare", "the table wp_7_jwt_auth_tokens cannot be used"),
        ("/moved", "its home URL is http://net.test/elsewhere, and the network has it at net.test/moved/"),
        ("/inactive", "the plugin JWT Auth Pro is not active"),
        // This one could be native.
        ("/two", "it is not verified yet: "),
    ] {
        assert_left(&network, &sidecar, At("net.test", path), Some(&format!("net.test{path}/")), reason);
    }
    assert_left(&network, &sidecar, At("net.test", "/TWO"), None, "the site of the network is ambiguous");

    // The reason why all but the first site are left to WordPress. A call for the first one is left
    // for its own reason.
    let two = At("net.test", "/two");
    for (change, undo, reason) in [
        (
            "INSERT INTO wp_site (id, domain, path) VALUES (2, 'net.test', '/second/')",
            "DELETE FROM wp_site WHERE id = 2",
            "there are several networks in the table wp_site",
        ),
        (
            "UPDATE wp_site SET path = '/net/'",
            "UPDATE wp_site SET path = '/'",
            "the network is at the path /net/, and the constants in wp-config.php do not say so",
        ),
        (
            "UPDATE wp_blogs SET path = '/twö/' WHERE blog_id = 5",
            "UPDATE wp_blogs SET path = '/new/' WHERE blog_id = 5",
            "the site 5 has a domain or a path that databases compare in different ways",
        ),
    ] {
        network.database.execute(change).await;
        tokio::time::sleep(Duration::from_millis(3_500)).await;
        assert_left(&network, &sidecar, two, None, reason);
        assert_left(&network, &sidecar, At("mapped.test", ""), None, reason);
        assert_left(&network, &sidecar, At("net.test", ""), Some("net.test/"), "it is not verified yet: ");
        if reason.contains("several networks") {
            // A refusal of WordPress shows nothing about the first site, which it would be asked
            // about once a second. One question may be due anyway.
            let asked = questions(&network);
            for _ in 0..12 {
                assert_left(&network, &sidecar, two, None, reason);
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
            let more = questions(&network) - asked;
            assert!(more <= 1, "{more} questions");
        }
        network.database.execute(undo).await;
    }
    drop(sidecar);

    // If only PHP can compute which site is the main one, it is not looked for, although it exists.
    let config = std::fs::read_to_string(network.site.wp_config()).unwrap();
    let computed = config.replace("'BLOG_ID_CURRENT_SITE', 1", "'BLOG_ID_CURRENT_SITE', (int) getenv( 'BLOG' ) ?: 1");
    assert_ne!(config, computed);
    std::fs::write(network.site.wp_config(), computed).unwrap();
    let sidecar = verified(&network, state.path(), &[]);
    let reason = "the network's main site is unknown: the constant BLOG_ID_CURRENT_SITE in wp-config.php is computed";
    for at in [two, At("net.test", ""), At("mapped.test", "")] {
        assert_left(&network, &sidecar, at, None, reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_refresh_is_logged_with_its_site() {
    let network = NetworkSite::up(false, &[At("net.test", "/two")], "");
    let sidecar = network.sidecar(&[]);
    for (id, at, site) in [(1, At("net.test", ""), "net.test/"), (2, At("net.test", "/two"), "net.test/two/")] {
        super::until_looked_at(&network, &sidecar, id, at).await;
        let token = network.tables(id).insert_token(TokenState::Live, 1).await;
        assert!(is_native(&refresh(&sidecar, at, &token.refresh_token)));
        let of_family = || lines(&sidecar).into_iter().find(|line| line["family"] == token.token_family[..8]);
        crate::support::sidecar::wait_until("its line", || of_family().is_some());
        assert_eq!(of_family().unwrap()["site"], site);
    }
    // One line about the first site's table, and none about the further ones.
    let known: Vec<String> =
        sidecar.log().into_iter().filter(|line| line.contains("the tokens of the table are known")).collect();
    assert!(known.iter().all(|line| line.contains("wp_jwt_auth_tokens")) && !known.is_empty(), "{known:?}");
}
