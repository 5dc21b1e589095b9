//! `doctor --with-token`: one real refresh by the real WordPress, compared with the sidecar's
//! response.

use std::path::Path;

use serde_json::{Value, json};

use super::faults::{Placed, QUICKLY};
use super::{Report, lines, text};
use crate::support::mariadb::TestDatabase;
use crate::support::raw::Connection;
use crate::support::secrets;
use crate::support::site::Site;

/// The refresh token of a new login, directly at WordPress.
pub fn log_in(site: &Site) -> String {
    let body = json!({"username": site.said("USER"), "password": site.said("USER_PASSWORD")}).to_string();
    let mut client = Connection::to(site.upstream());
    client.send(format!(
        "POST /wp-json/jwt-auth/v1/token HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        site.host(),
        body.len()
    ));
    let token = client.response().json()["refresh_token"].as_str().unwrap().to_owned();
    secrets::register(&token);
    token
}

/// The doctor's findings with `token`, on standard input or on the command line, without running
/// the site's code.
fn with_token(site: &Site, token: &str, by_input: bool) -> Report {
    let (given, input) = if by_input { ("-", format!("{token}\n")) } else { (token, String::new()) };
    let arguments = [QUICKLY.as_slice(), &["--no-php", "--with-token", given]].concat();
    Report::with_input(&Report::arguments(site.wp_config(), site.said("UPSTREAM"), &arguments), &[], &input)
}

/// How many rows the token's family has, and how many of them are live.
async fn rows_of(database: &TestDatabase, token: &str) -> (usize, usize) {
    let rows = format!(
        "SELECT revoked_at FROM wp_jwt_auth_tokens WHERE token_family = \
         (SELECT token_family FROM wp_jwt_auth_tokens WHERE refresh_token_hash = '{token}')"
    );
    let rows = database.rows(&rows).await;
    (rows.len(), rows.iter().filter(|row| row.get("revoked_at").is_none()).count())
}

fn what(finding: &Value) -> String {
    text(&finding["what"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_refresh_is_compared() {
    let site = Site::up(&[]);
    let database = site.database();

    let token = log_in(&site);
    let report = with_token(&site, &token, true);
    let finding = report.the("ok", "parity.refresh");
    assert!(
        what(finding).contains("would have said the same: 4 members, 5 claims, the signing key, the salt"),
        "{finding}"
    );
    assert!(text(&finding["fix"]).contains("shown and kept nowhere"), "{finding}");
    assert_eq!(rows_of(&database, &token).await, (2, 1), "WordPress rotated it, once");

    // It is used up, and an unknown one is not sent either.
    for (token, says) in [(token.as_str(), "is used or revoked"), ("0123456789abcdef", "is unknown")] {
        let report = with_token(&site, token, false);
        let finding = report.the("warning", "parity.refresh");
        assert!(what(finding).contains(says) && what(finding).ends_with("nothing was sent to WordPress"), "{finding}");
    }
    assert_eq!(rows_of(&database, &token).await, (2, 1));
    let report = with_token(&site, "no token; at all", true);
    assert!(
        what(report.the("warning", "parity.refresh")).contains("was given no refresh token of the plugin's"),
        "{:#}",
        report.json
    );

    what_wordpress_says_otherwise(&site, &database).await;

    let away = "http://127.0.0.1:1";
    let arguments = [QUICKLY.as_slice(), &["--no-php", "--with-token", "-"]].concat();
    let report = Report::with_input(&Report::arguments(site.wp_config(), away, &arguments), &[], &log_in(&site));
    assert!(what(report.the("warning", "parity.refresh")).contains("was not used"), "{:#}", report.json);
}

async fn what_wordpress_says_otherwise(site: &Site, database: &TestDatabase) {
    let mu_plugins = Path::new(site.said("ROOT")).join("wp-content/mu-plugins");
    let changes = Placed::at(
        mu_plugins.join("profile.php"),
        "<?php\nadd_filter( 'rest_post_dispatch', function ( $response, $server, $request ) {\n\
         \tif ( '/jwt-auth/v1/token/refresh' === $request->get_route() && 200 === $response->get_status() ) {\n\
         \t\t$data = $response->get_data();\n\t\t$data['roles'] = array( 'subscriber' );\n\t\t$data['expires_in'] = 60;\n\
         \t\t$response->set_data( $data );\n\t\t$response->header( 'X-Shop', 'yes' );\n\t}\n\
         \treturn $response;\n}, 10, 3 );\n",
    );
    let token = log_in(site);
    let report = with_token(site, &token, true);
    let finding = report.the("problem", "parity.refresh");
    assert_eq!(
        lines(finding),
        [
            "member expires_in: WordPress 60, the sidecar 604800",
            "member roles (array): only from WordPress",
            "x-shop: (not shown) — only from WordPress"
        ],
        "{finding:#}"
    );
    report.the("ok", "parity.answers");
    assert_eq!(rows_of(database, &token).await, (2, 1));
    drop(changes);

    let _blocks = Placed::at(
        mu_plugins.join("blocks.php"),
        "<?php\nadd_filter( 'rest_request_before_callbacks', function ( $response, $handler, $request ) {\n\
         \t$is_live = null !== $GLOBALS['wpdb']->get_var( $GLOBALS['wpdb']->prepare( 'SELECT id FROM wp_jwt_auth_tokens WHERE \
         refresh_token_hash = %s', (string) $request->get_param( 'refresh_token' ) ) );\n\
         \treturn $is_live ? new WP_Error( 'shop_blocked', 'You are blocked.', array( 'status' => 403 ) ) : $response;\n}, 10, 3 );\n",
    );
    let token = log_in(site);
    let report = with_token(site, &token, true);
    let finding = report.the("problem", "parity.refresh");
    assert_eq!(lines(finding), ["status: WordPress 403 (shop_blocked), the sidecar 200"], "{finding:#}");
    assert_eq!(rows_of(database, &token).await, (1, 1), "it lives on");
}
