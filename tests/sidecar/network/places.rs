//! Networks at a path, networks whose main site has another id than 1, and sites with several
//! domains.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;

use super::made::{At, NetworkSite, is_native, refresh, refresh_from};
use super::{claims, me, until_looked_at};
use crate::support::raw::Message;
use crate::support::sidecar::{Sidecar, wait_until};

/// Logs in and refreshes at a site, and has WordPress accept the token. Returns the response to the
/// refresh and whether it was native.
async fn login_and_refresh(network: &NetworkSite, sidecar: &Sidecar, at: At<'_>) -> (Message, bool) {
    let login = network.log_in(sidecar, at);
    // Two access tokens that the plugin makes for a user within one second are the same, and the
    // second one counts as revoked with the first.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let before = network.refreshes_by_php();
    let answer = refresh(sidecar, at, login["refresh_token"].as_str().unwrap());
    assert_eq!(answer.status(), 200, "{at:?}: {answer:?}");
    assert_eq!(me(network, at, answer.json()["access_token"].as_str().unwrap()), 200, "{at:?}");
    (answer, network.refreshes_by_php() == before)
}

/// Asserts that a native refresh writes its row to this site's table, and that its event has the
/// site's `blog_id`.
async fn assert_native_at(network: &NetworkSite, sidecar: &Sidecar, id: u64, at: At<'_>, home: &str) {
    until_looked_at(network, sidecar, id, at).await;
    let tables = network.tables(id);
    let (last_token, last_event) = tables.last_ids().await;
    let (answer, is_by_sidecar) = login_and_refresh(network, sidecar, at).await;
    assert!(is_by_sidecar && is_native(&answer), "{at:?}: {answer:?}");
    assert_eq!(claims(&answer)["iss"], Value::from(home), "{at:?}");
    assert_eq!(tables.token_rows_after(last_token).await.len(), 2, "{at:?}: the login's and the refresh's");
    crate::support::rig::eventually("both events", async || tables.analytics_rows_after(last_event).await.len() == 2)
        .await;
    for row in tables.analytics_rows_after(last_event).await {
        assert_eq!(row.get("blog_id"), Some(&*id.to_string()), "{at:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_at_a_path_is_native() {
    let two = At("net.test", "/net/two");
    let mapped = At("mapped.test", "");
    let network = NetworkSite::up_at("net.test/net", false, &[two, mapped], "");
    let sidecar = network.sidecar(&[]);
    assert_native_at(&network, &sidecar, 1, At("net.test", "/net"), "http://net.test/net").await;
    assert_native_at(&network, &sidecar, 2, two, "http://net.test/net/two").await;
    assert_native_at(&network, &sidecar, 3, mapped, "http://mapped.test").await;
    // Neither is a site of the network.
    for at in [At("net.test", "/net/nosuch"), At("net.test", "/two"), At("mapped.test", "/net/two")] {
        let before = network.refreshes_by_php();
        let answer = refresh(&sidecar, at, &network.token(2).await.refresh_token);
        assert!(answer.status() >= 300 && !is_native(&answer), "{at:?}: {answer:?}");
        assert_eq!(network.refreshes_by_php(), before + 1, "{at:?}");
    }
    drop(sidecar);

    // Too many sites to be read as a whole: each address is looked up.
    let many = "INSERT INTO wp_blogs (site_id, domain, path, registered) SELECT 1, 'net.test', CONCAT('/net/many', seq, '/'), \
                NOW() FROM seq_1_to_10000";
    network.database.execute(many).await;
    let sidecar = network.sidecar(&[]);
    assert_native_at(&network, &sidecar, 2, two, "http://net.test/net/two").await;
}

/// The state of a network after another site was made the main one.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_whose_main_site_is_another_is_native() {
    let two = At("net.test", "/two");
    let network = NetworkSite::up_at("net.test", false, &[two, At("net.test", "/three")], "");
    for (id, path) in [(1, "/old"), (2, "")] {
        network.database.execute(&format!("UPDATE wp_blogs SET path = '{path}/' WHERE blog_id = {id}")).await;
        for option in ["home", "siteurl"] {
            network.tables(id).set_option(option, format!("http://net.test{path}")).await;
        }
    }
    let config = std::fs::read_to_string(network.site.wp_config()).unwrap();
    let other = config.replace("'BLOG_ID_CURRENT_SITE', 1", "'BLOG_ID_CURRENT_SITE', 2");
    assert_ne!(config, other);
    std::fs::write(network.site.wp_config(), other).unwrap();
    wait_until("PHP has read it", || {
        network.get("net.test", "/old/wp-json/").json()["home"].as_str() == Some("http://net.test/old")
    });
    let sidecar = network.sidecar(&[]);
    sidecar.wait_for_log("refreshing natively: home http://net.test,");
    assert_native_at(&network, &sidecar, 2, At("net.test", ""), "http://net.test").await;
    assert_native_at(&network, &sidecar, 1, At("net.test", "/old"), "http://net.test/old").await;
    assert_native_at(&network, &sidecar, 3, At("net.test", "/three"), "http://net.test/three").await;

    // Each has its own limit for a client.
    let sites = [(2, At("net.test", "")), (1, At("net.test", "/old"))];
    for (id, _) in sites {
        network.set(id, "rate_limit_settings", "max_requests", "1");
    }
    for (_, at) in sites {
        let limit = || refresh(&sidecar, at, "00000000000000000000000000000000").value("x-ratelimit-limit");
        wait_until("the limit", || limit().as_deref() == Some("1"));
    }
    let client = Ipv4Addr::new(127, 0, 0, 9);
    for (id, at) in sites {
        let answer = refresh_from(client, &sidecar, at, &network.token(id).await.refresh_token);
        assert!(is_native(&answer), "{at:?}: {answer:?}");
        let answer = refresh_from(client, &sidecar, at, &network.token(id).await.refresh_token);
        assert_eq!(answer.status(), 429, "{at:?}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_domains_of_a_mapped_site_are_served() {
    let mapped = At("mapped.test", "");
    let network = NetworkSite::up(
        false,
        &[At("net.test", "/two"), mapped],
        "defined( 'WITHOUT_SUNRISE' ) || define( 'SUNRISE', true );",
    );
    // A domain that is not in the site's row: code that maps domains selects the site.
    let sunrise = format!("{}/wp-content/sunrise.php", network.site.said("ROOT"));
    std::fs::write(
        &sunrise,
        "<?php if ( 'second.test' === $_SERVER['HTTP_HOST'] ) {
             $current_blog = WP_Site::get_instance( 3 );
             $current_site = WP_Network::get_instance( 1 );
             $blog_id = 3; $site_id = 1; $public = 1;
         }",
    )
    .unwrap();
    wait_until("PHP runs it", || {
        network.get("second.test", "/wp-json/").json()["home"].as_str() == Some("http://mapped.test")
    });
    let sidecar = network.sidecar(&[]);
    // WordPress accepts the site's own domain with `www.` before it.
    for at in [mapped, At("www.mapped.test", "")] {
        assert_native_at(&network, &sidecar, 3, at, "http://mapped.test").await;
    }
    let (answer, is_by_sidecar) = login_and_refresh(&network, &sidecar, At("second.test", "")).await;
    assert!(!is_by_sidecar, "the network's table does not say whose this domain is: {answer:?}");
    assert_eq!(claims(&answer)["iss"], "http://mapped.test");
    // A token from one domain is valid on the other.
    let login = network.log_in(&sidecar, At("second.test", ""));
    assert!(is_native(&refresh(&sidecar, mapped, login["refresh_token"].as_str().unwrap())));
}
