//! What WordPress returns for its home URL and its REST API: code of the site that closes or moves
//! the API while the sidecar runs, and a home URL that depends on the request's host.

use std::path::Path;
use std::sync::Mutex;

use super::{Client, UNKNOWN_TOKEN, claims, is_native, pair, reached_by_refreshes, set, write};
use crate::support::rig::eventually;
use crate::support::sidecar::Sidecar;
use crate::support::site::Site;

/// Security plugins do this.
const CLOSED_TO_VISITORS: &str = "<?php add_filter( 'rest_authentication_errors', fn( $e ) => $e ?? ( is_user_logged_in() ? $e : \
                                  new WP_Error( 'rest_not_logged_in', 'No.', array( 'status' => 401 ) ) ) );";

const MOVED: &str = "<?php add_filter( 'rest_url_prefix', fn() => 'api' );";

/// As WordPress's documentation recommends for sites with several names.
const HOME_OF_HOST: &str = "define( 'WP_HOME', 'http://' . $_SERVER['HTTP_HOST'] );";

#[tokio::test(flavor = "multi_thread")]
async fn wordpress_is_believed_while_its_own_code_changes() {
    let site = Site::up(&[]);
    set(&site, "rate_limit_settings", "enabled", "false");
    let code = Path::new(site.said("ROOT")).join("wp-content/mu-plugins/own.php");
    let sidecar = Sidecar::of_site(site.upstream(), site.wp_config(), &[]);
    let client = Client::of(&site, sidecar.address());
    let of_php = Client::of(&site, site.upstream());
    // WordPress always answers such a call. It ignores an application password by http.
    let forwarded = Client { fields: "Authorization: Basic YWRhOng=\r\n", ..Client::of(&site, sidecar.address()) };
    let mut token = client.refresh_natively(&client.log_in_to(&site).refresh_token).refresh_token;

    write(&code, CLOSED_TO_VISITORS);
    eventually("it is closed", || async {
        forwarded.refresh(UNKNOWN_TOKEN);
        client.refresh(UNKNOWN_TOKEN).status() == 401
    })
    .await;
    let answer = client.refresh(&token);
    assert_eq!(answer.json(), of_php.refresh(&token).json(), "WordPress's own answer");
    assert_eq!(answer.json()["code"], "rest_not_logged_in");
    sidecar.wait_for_log("with 401 rest_not_logged_in");

    std::fs::remove_file(&code).unwrap();
    token = native_again(&client, token).await;

    write(&code, MOVED);
    site.php("flush_rewrite_rules( false );");
    assert_eq!(of_php.refresh(UNKNOWN_TOKEN).status(), 404);
    eventually("it has moved", || async {
        forwarded.refresh(UNKNOWN_TOKEN);
        client.refresh(UNKNOWN_TOKEN).status() == 404
    })
    .await;
    sidecar.wait_for_log("WordPress has its REST API elsewhere");

    std::fs::remove_file(&code).unwrap();
    site.php("flush_rewrite_rules( false );");
    native_again(&client, token).await;
}

/// Refreshes until the sidecar answers: it has noticed that WordPress accepts calls again. Returns
/// the last token.
async fn native_again(client: &Client<'_>, token: String) -> String {
    let token = Mutex::new(token);
    eventually("it is open again", || async {
        let answer = client.refresh(&token.lock().unwrap());
        if answer.status() == 200 {
            *token.lock().unwrap() = pair(&answer).refresh_token;
        }
        is_native(&answer)
    })
    .await;
    token.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn wordpress_takes_the_tokens_of_each_host() {
    let site = Site::up(&["--config", HOME_OF_HOST]);
    set(&site, "rate_limit_settings", "enabled", "false");
    let sidecar = Sidecar::of_site(site.upstream(), site.wp_config(), &["--wordpress-hosts", "alias.example"]);
    let own = Client::of(&site, sidecar.address());
    for host in [site.host(), "alias.example", "other.example"] {
        let client = Client { host, ..Client::of(&site, sidecar.address()) };
        let issuer = format!("http://{host}");
        let login = client.log_in_to(&site);
        assert_eq!(claims(&login.access_token)["iss"], issuer, "PHP's own");
        // The sidecar asks for an unnamed host when the first live token arrives with it.
        let is_known = host != "other.example";
        let token = if is_known { login.refresh_token } else { native_again(&client, login.refresh_token).await };
        let pair = client.refresh_natively(&token);
        assert_eq!(claims(&pair.access_token)["iss"], issuer);
        client.assert_is_ada(&pair.access_token);
        if host != site.host() {
            assert_eq!(own.me(&pair.access_token).status(), 401, "on its own host it is another site's");
        }
        // WordPress answers calls on that host whose token is not live.
        let before = reached_by_refreshes(&site);
        assert_eq!(client.refresh(UNKNOWN_TOKEN).status(), 403);
        assert_eq!(reached_by_refreshes(&site) > before, !is_known, "{host}");
    }
}
