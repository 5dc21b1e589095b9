//! The route's address: below a home URL with a path, in each form that permalinks allow, and by
//! https through a proxy.

use serde_json::Value;

use super::{Client, Pair, UNKNOWN_TOKEN, claims, pair, reached_by_refreshes, set};
use crate::support::rig::eventually;
use crate::support::sidecar::Sidecar;
use crate::support::site::Site;

const HOME: &str = "http://shop.example/blog";

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_the_route_is_native() {
    let site = Site::up(&["--home", HOME]);
    set(&site, "rate_limit_settings", "enabled", "false");
    let sidecar = Sidecar::of_site(site.upstream(), site.wp_config(), &["--forwarded-trusted-proxies", "127.0.0.1/32"]);
    let at = |rest| Client { path: "/blog", rest, ..Client::of(&site, sidecar.address()) };
    let of_php = Client { path: "/blog", ..Client::of(&site, site.upstream()) };
    let (pretty, index, query) = (at("/wp-json"), at("/index.php/wp-json"), at("/?rest_route="));
    let query_index = at("/index.php?rest_route=");

    for client in [&pretty, &index, &query, &query_index] {
        goes_round(&site, client, "http://shop.example/blog/wp-json/");
    }
    assert_eq!(reached_by_refreshes(&site), 0);
    let outside = Client { path: "", ..at("/wp-json") };
    outside.refresh(UNKNOWN_TOKEN);
    assert_eq!(reached_by_refreshes(&site), 1, "what is not below the home path is forwarded");

    by_https(&site, &pretty).await;

    permalinks(&site, "");
    native_from_now_on(&site, &query, "http://shop.example/blog/index.php?rest_route=/").await;
    goes_round(&site, &query_index, "http://shop.example/blog/index.php?rest_route=/");
    let page = pretty.refresh(UNKNOWN_TOKEN);
    let php = of_php.refresh(UNKNOWN_TOKEN);
    assert_eq!((page.status(), page.value("content-type")), (php.status(), php.value("content-type")));
    assert_eq!(page.value("content-type").as_deref(), Some("text/html; charset=UTF-8"), "an ordinary page");

    permalinks(&site, "/index.php/%postname%/");
    native_from_now_on(&site, &index, "http://shop.example/blog/index.php/wp-json/").await;
    goes_round(&site, &query, "http://shop.example/blog/index.php/wp-json/");
}

/// Logs in, refreshes and reads the user, all with the same form of address.
fn goes_round(site: &Site, client: &Client<'_>, rest_root: &str) {
    let login = client.log_in_to(site);
    let answer = client.refresh(&login.refresh_token);
    assert!(super::is_native(&answer), "{}: {answer:?}", client.rest);
    assert_eq!(answer.value("link"), Some(format!("<{rest_root}>; rel=\"https://api.w.org/\"")));
    let Pair { access_token, .. } = pair(&answer);
    assert_eq!(claims(&access_token)["iss"], HOME);
    client.assert_is_ada(&access_token);
}

/// WordPress has another home URL by https, and so another issuer.
async fn by_https(site: &Site, plain: &Client<'_>) {
    let https = Client { fields: "X-Forwarded-Proto: https\r\nX-Forwarded-For: 203.0.113.5\r\n", ..*plain };
    let login = https.log_in_to(site);
    let issuer = |token: &str| claims(token)["iss"].clone();
    assert_eq!(issuer(&login.access_token), "https://shop.example/blog", "PHP's own");
    // WordPress was not asked for its home URL by https before; until it is known, calls are
    // forwarded.
    eventually("the home URL by https is known", || async {
        let before = reached_by_refreshes(site);
        https.refresh(UNKNOWN_TOKEN).status() == 403 && reached_by_refreshes(site) == before
    })
    .await;
    let pair = https.refresh_natively(&login.refresh_token);
    assert_eq!(issuer(&pair.access_token), "https://shop.example/blog");
    https.assert_is_ada(&pair.access_token);
    assert_eq!(plain.me(&pair.access_token).status(), 401, "by http that is another site's token");

    // A sidecar that does not trust the peer sends the scheme that it sees itself, to PHP as well.
    let sidecar = Sidecar::of_site(site.upstream(), site.wp_config(), &[]);
    let https = Client { address: sidecar.address(), ..https };
    let login = https.log_in_to(site);
    assert_eq!(issuer(&login.access_token), Value::from(HOME));
    let pair = https.refresh_natively(&login.refresh_token);
    assert_eq!(issuer(&pair.access_token), Value::from(HOME));
}

fn permalinks(site: &Site, structure: &str) {
    site.php(&format!(
        "global $wp_rewrite; update_option( 'permalink_structure', '{structure}' ); $wp_rewrite->init(); flush_rewrite_rules( false );"
    ));
}

/// Waits until the sidecar has noticed the change.
async fn native_from_now_on(site: &Site, client: &Client<'_>, rest_root: &str) {
    eventually("the form is native", || async {
        let before = reached_by_refreshes(site);
        let answer = client.refresh(UNKNOWN_TOKEN);
        answer.status() == 403
            && reached_by_refreshes(site) == before
            && answer.value("link").is_some_and(|link| link.contains(rest_root))
    })
    .await;
    goes_round(site, client, rest_root);
}
