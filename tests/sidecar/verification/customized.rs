//! The recorded customized sites behind the sidecar: what the verification comes to, in which
//! words, and who answers then.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admin::{admin, get};
use crate::support::custom::recording::RecordedSite;
use crate::support::custom::{
    CustomSites, EXPIRE_IS_A_LENGTH, Login, ONE_USER_IN_FIFTY, ONLY_WITH_ORIGIN, UPDATE_AFTER, UPDATE_BEFORE,
};
use crate::support::raw::{Connection, Message};
use crate::support::sidecar::{PATIENCE, Sidecar};

/// The users of a verification by three answers.
pub const USERS: [&str; 3] = ["user1", "user2", "user3"];

/// As if the operator had read all of the site's code: then only answers and rows tell.
pub const TRUSTED: &str = "jwt_auth_before_authenticate,jwt_auth_token_before_dispatch,jwt_auth_token_refreshed,\
                       jwt_auth_refresh_token_data_before_update,jwt_auth_jwt_token_data_before_update,jwt_auth_*,\
                       jwt_auth_error_messages,jwt_auth_error_status,jwt_auth_rate_limit_enabled,\
                       jwt_auth_rate_limit_max_requests,jwt_auth_rate_limit_window_minutes";

/// The state that each site comes to, and the words for what differs there.
#[rustfmt::skip]
const EXPECTED: &[(&str, &str, &str)] = &[
    ("role_member", "differs", "body +role (string), +roles (array of string)"),
    ("meta_and_columns", "differs", "body +user_login (string), +email (string), +display_name (string), +registered (string), +first_name (string), +phone (string), +city (string), +level (integer) and 1 more"),
    ("body_replaced", "differs", "body +success (boolean), +statusCode (integer), +data (object), -access_token, -expires_in, -token_type, -refresh_token"),
    ("members_removed", "differs", "body +expires_at (string), -expires_in, -token_type"),
    ("avatar", "differs", "body +avatar (string)"),
    ("claim_user_data", "differs", "claim +data.user.role (string), +data.user.display_name (string), +data.user.email (string)"),
    ("claim_id_integer", "differs", "claim data.user.id (integer)"),
    ("claim_before_sign", "differs", "claim +sub (string), +aud (string), +roles (array of string), +data.user.level (integer)"),
    ("issuer_constant", "differs", "claim iss (not the home URL)"),
    ("lifetime_constant", "differs", "lifetime 2592000 s, the setting says 604800 s"),
    ("not_before_shifted", "differs", "claim nbf (not that of iat)"),
    ("issued_at_later", "differs", "claim iat (not the time of the answer)"),
    ("refresh_lifetime", "differs", "refresh lifetime 1209600 s, the setting says 2592000 s"),
    ("setting_filters", "differs", "lifetime 900 s, the setting says 604800 s"),
    ("refreshed_cookie", "differs", "header +set-cookie"),
    ("refreshed_exit", "differs", "body +ok (boolean), +jwt (string), +for (string), -access_token, -expires_in, -token_type, -refresh_token"),
    ("block_one_user", "agrees", ""),
    ("dispatch_error", "differs", "status 403, code account_pending, and the token is revoked"),
    ("dispatch_response_object", "differs", "status 500, and the token is revoked"),
    ("rest_closed", "closed", "WordPress answers {home}/wp-json/ with 401 rest_not_logged_in"),
    ("rest_closed_refresh_open", "closed", "WordPress answers {home}/wp-json/ with 401 rest_not_logged_in"),
    ("cors_replaced", "differs", "header -access-control-allow-credentials, -access-control-allow-methods, -access-control-allow-origin, -vary"),
    ("cors_plugin_on", "differs", "header access-control-expose-headers"),
    ("post_dispatch_header", "differs", "header +x-app-version"),
    ("pre_dispatch_refuses", "unverified", ""),
    ("error_messages", "differs", "the text of jwt_auth_invalid_refresh_token"),
    ("error_status", "differs", "status 401, the plugin answers 403"),
    ("rate_limit_off", "differs", "header -x-ratelimit-limit, -x-ratelimit-remaining, -x-ratelimit-reset"),
    ("rate_limit_no_headers", "differs", "header -x-ratelimit-limit, -x-ratelimit-remaining, -x-ratelimit-reset"),
    ("registered_late", "differs", "body +late (string)"),
    ("algorithm_hs512", "differs", "header of the access token: alg"),
    ("algorithm_unknown", "differs", "status 500, and the token is revoked"),
    ("secret_filter", "differs", "the signature of WordPress's access token does not verify"),
    ("salt_filter", "differs", "the hash that WordPress has stored is not that of its access token"),
    ("row_columns", "differs", "row blog_id"),
    ("ip_and_country", "agrees", ""),
    ("rest_prefix_api", "differs", "header link"),
    ("language_de_no_pack", "agrees", ""),
];

pub fn in_front_of(sites: &CustomSites, more: &[&str]) -> Sidecar {
    let upstream = format!("http://{}", sites.site().upstream());
    let wp_config = sites.site().wp_config().to_str().unwrap();
    let mut arguments = vec!["--upstream", &*upstream, "--wp-config", wp_config, "--admin-listen", "127.0.0.1:0"];
    for (flag, usual) in
        [("--refresh-verify", "auto"), ("--refresh-verify-first", "3"), ("--refresh-verify-every", "1000000")]
    {
        if !more.contains(&flag) {
            arguments.extend([flag, usual]);
        }
    }
    arguments.extend_from_slice(more);
    Sidecar::start(&arguments)
}

pub fn refresh(sites: &CustomSites, sidecar: &Sidecar, token: &str, fields: &str) -> Message {
    let body = json!({"refresh_token": token}).to_string();
    let mut client = Connection::to(sidecar.address());
    client.send(format!(
        "POST /wp-json/jwt-auth/v1/token/refresh HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         {fields}Content-Length: {}\r\n\r\n{body}",
        sites.site().host(),
        body.len()
    ));
    client.response()
}

pub fn view(sidecar: &Sidecar) -> Value {
    get(admin(sidecar), "/status.json").json()["verification"].clone()
}

/// The view as soon as the state is another than that, or as it is after a while.
pub async fn left(sidecar: &Sidecar, state: &str, patience: Duration) -> Value {
    let deadline = Instant::now() + patience;
    loop {
        let view = view(sidecar);
        if view["state"] != state || Instant::now() > deadline {
            return view;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until calls are compared: the site is known, and its files are scanned.
pub async fn ready(sidecar: &Sidecar) {
    let deadline = Instant::now() + PATIENCE;
    while !view(sidecar)["files_scanned"].as_bool().unwrap() {
        assert!(Instant::now() < deadline, "the site's files are not scanned");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Came {
    state: String,
    difference: String,
    /// Of the refreshes after the verdict.
    by_php: usize,
    of: usize,
}

async fn come_to(sites: &CustomSites, site: &RecordedSite) -> Came {
    sites.open_window().await;
    let mut logins: Vec<Login> = Vec::new();
    for _ in 0..2 {
        for user in USERS {
            logins.push(sites.log_in(user).await);
        }
    }
    match &site.php {
        Some(php) => drop(sites.install(php)),
        None => {
            sites
                .database()
                .execute("REPLACE INTO wp_options (option_name, option_value) VALUES ('WPLANG', 'de_DE')")
                .await
        }
    }
    let sidecar = in_front_of(sites, &["--refresh-trusted-hooks", TRUSTED]);
    ready(&sidecar).await;
    sites.open_window().await;
    // What these do depends on the request.
    let fields = match &*site.name {
        "cors_replaced" => "Origin: https://app.example.test\r\n".to_owned(),
        "cors_plugin_on" => {
            format!("Authorization: Bearer {}\r\n", logins[0].access_token.as_ref().unwrap())
        }
        _ => String::new(),
    };
    refresh(sites, &sidecar, &"0".repeat(32), "");
    let (first, later) = logins.split_at(USERS.len());
    for login in first {
        refresh(sites, &sidecar, &login.refresh_token, &fields);
    }
    let view = left(&sidecar, "unverified", Duration::from_secs(2)).await;
    let before = sites.refreshes_by_php();
    for login in later {
        refresh(sites, &sidecar, &login.refresh_token, &fields);
    }
    let by_php = sites.refreshes_by_php() - before;
    let text = |key: &str| view[key].as_str().unwrap_or_default().to_owned();
    let difference = text("difference").replace(sites.site().home(), "{home}");
    let came = Came { state: text("state"), difference, by_php, of: later.len() };
    sites.remove();
    sites.database().execute("DELETE FROM wp_options WHERE option_name = 'WPLANG'").await;
    came
}

#[tokio::test(flavor = "multi_thread")]
async fn each_recorded_site_is_left_to_wordpress_where_it_differs() {
    let sites = CustomSites::start();
    let mut complaints = Vec::new();
    for site in &sites.recorded().sites {
        let came = come_to(&sites, site).await;
        let Came { state, difference, by_php, of } = &came;
        let expected = EXPECTED.iter().find(|(name, ..)| *name == site.name);
        let native = if state == "agrees" { 0 } else { *of };
        let as_expected = expected.is_some_and(|(_, in_state, words)| state == in_state && difference == words);
        if !as_expected || *by_php != native {
            complaints
                .push(format!("    (\"{}\", \"{state}\", \"{difference}\"), // {by_php} of {of} by PHP", site.name));
        }
    }
    assert!(complaints.is_empty(), "came otherwise:\n{}", complaints.join("\n"));
}

pub fn without_limit(sites: &CustomSites) {
    sites.site().php(
        "update_option( 'jwt_auth_pro_settings', array( 'rate_limit_settings' => array( 'enabled' => false ) ) );",
    );
}

/// Tokens of so many logins of each user.
pub async fn tokens(sites: &CustomSites, each: usize) -> Vec<String> {
    let mut tokens = Vec::new();
    for _ in 0..each {
        for user in USERS {
            tokens.push(sites.log_in(user).await.refresh_token);
        }
    }
    tokens
}

/// Refreshes with each of these; how many of them WordPress has answered.
pub fn by_php(sites: &CustomSites, sidecar: &Sidecar, tokens: &[String]) -> usize {
    let before = sites.refreshes_by_php();
    for token in tokens {
        let answer = refresh(sites, sidecar, token, "");
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
    sites.refreshes_by_php() - before
}

/// What differs, as soon as something does.
pub async fn difference(sidecar: &Sidecar) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let view = view(sidecar);
        if view["state"] == "differs" {
            return view["difference"].as_str().unwrap().to_owned();
        }
        assert!(Instant::now() < deadline, "nothing differs: {view}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_few_refreshes_show_is_found() {
    let sites = CustomSites::start();
    without_limit(&sites);

    // A length in place of a time: a token that ended in 1970.
    let ends_in_1970 = tokens(&sites, 1).await;
    sites.install(EXPIRE_IS_A_LENGTH);
    let sidecar = in_front_of(&sites, &[]);
    ready(&sidecar).await;
    by_php(&sites, &sidecar, &ends_in_1970[..1]);
    let words = difference(&sidecar).await;
    assert!(words.contains("lifetime"), "{words}");
    drop(sidecar);
    sites.remove();

    // An update of a plugin that agreed before.
    let (first, later) = (tokens(&sites, 1).await, tokens(&sites, 2).await);
    sites.install_as("shop.php", UPDATE_BEFORE);
    let sidecar = in_front_of(&sites, &["--refresh-trusted-hooks", TRUSTED]);
    ready(&sidecar).await;
    assert_eq!(by_php(&sites, &sidecar, &first), 3);
    assert_eq!(left(&sidecar, "unverified", PATIENCE).await["state"], "agrees");
    assert_eq!(by_php(&sites, &sidecar, &later[..1]), 0);
    sites.install_as("shop.php", UPDATE_AFTER);
    assert_eq!(left(&sidecar, "agrees", PATIENCE).await["state"], "unverified");
    ready(&sidecar).await;
    // PHP looks at a file that it knows every other second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(by_php(&sites, &sidecar, &later[1..2]), 1);
    assert_eq!(difference(&sidecar).await, "claim +data.user.shop (string)");
    assert_eq!(by_php(&sites, &sidecar, &later[2..]), 4);
    drop(sidecar);
    sites.remove();

    // Only browsers.
    let (first, later) = (tokens(&sites, 1).await, tokens(&sites, 1).await);
    sites.install(ONLY_WITH_ORIGIN);
    let sidecar = in_front_of(&sites, &["--refresh-trusted-hooks", TRUSTED]);
    ready(&sidecar).await;
    assert_eq!(by_php(&sites, &sidecar, &first), 3);
    assert_eq!(left(&sidecar, "unverified", PATIENCE).await["state"], "agrees");
    let before = sites.refreshes_by_php();
    refresh(&sites, &sidecar, &later[0], "Origin: https://app.example\r\n");
    assert_eq!(difference(&sidecar).await, "header +set-cookie");
    assert_eq!(by_php(&sites, &sidecar, &later[1..]) + 1, sites.refreshes_by_php() - before);
    drop(sidecar);
    sites.remove();

    // One user in fifty, seen by sixty responses; and by the file alone if it is not trusted.
    sites.make_crowd(60);
    sites.install(ONE_USER_IN_FIFTY);
    let sidecar = in_front_of(&sites, &["--refresh-trusted-hooks", TRUSTED, "--refresh-verify-first", "60"]);
    ready(&sidecar).await;
    for number in 1..=60 {
        let login = sites.log_in_with(&format!("crowd{number}"), "crowd").await;
        refresh(&sites, &sidecar, &login.refresh_token, "");
    }
    assert_eq!(difference(&sidecar).await, "body +member_number (string)");
    drop(sidecar);
    let sidecar = in_front_of(&sites, &[]);
    let words = difference(&sidecar).await;
    assert!(words.starts_with("jwt_auth_token_before_dispatch at mu-plugins/custom-"), "{words}");
}

/// Lets it verify the site by three answers.
async fn verify(sites: &CustomSites, sidecar: &Sidecar) {
    ready(sidecar).await;
    let (first, later) = (tokens(sites, 1).await, tokens(sites, 1).await);
    assert_eq!(by_php(sites, sidecar, &first), 3);
    assert_eq!(left(sidecar, "unverified", PATIENCE).await["state"], "agrees");
    assert_eq!(by_php(sites, sidecar, &later), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_site_agrees_and_stays_native() {
    let sites = CustomSites::start();
    without_limit(&sites);
    let root = std::path::PathBuf::from(sites.site().said("ROOT"));
    let state = tempfile::tempdir().unwrap();
    let kept = ["--refresh-state-directory", state.path().to_str().unwrap()];
    let sidecar = in_front_of(&sites, &kept);
    verify(&sites, &sidecar).await;

    // A reload changes nothing.
    let compared = view(&sidecar)["compared"].clone();
    sidecar.signal("HUP");
    sidecar.wait_for_log("reloaded");
    ready(&sidecar).await;
    assert_eq!((&view(&sidecar)["state"], &view(&sidecar)["compared"]), (&json!("agrees"), &compared));
    assert_eq!(by_php(&sites, &sidecar, &tokens(&sites, 1).await), 0);

    // Another plugin is activated, then the theme is edited in place: each is verified by a few.
    std::fs::write(root.join("wp-content/plugins/other.php"), "<?php\n/* Plugin Name: Other */\n").unwrap();
    sites.site().php("require_once ABSPATH . 'wp-admin/includes/plugin.php'; activate_plugin( 'other.php' );");
    assert_eq!(left(&sidecar, "agrees", PATIENCE).await["state"], "unverified");
    verify(&sites, &sidecar).await;
    let theme = sites.site().php("echo get_stylesheet_directory();");
    std::fs::write(std::path::Path::new(theme.trim()).join("functions.php"), "<?php\n// Nothing yet.\n").unwrap();
    assert_eq!(left(&sidecar, "agrees", PATIENCE).await["state"], "unverified");
    verify(&sites, &sidecar).await;

    // A second sidecar verifies for itself, and neither takes the other's rows for a stranger's.
    // One of fifty calls is a sample.
    let second = in_front_of(&sites, &["--refresh-verify-every", "50"]);
    verify(&sites, &second).await;
    let before = sites.refreshes_by_php();
    let mut token = tokens(&sites, 1).await.remove(0);
    for number in 0..refreshes() {
        let one = if number % 2 == 0 { &sidecar } else { &second };
        token = refresh(&sites, one, &token, "").json()["refresh_token"].as_str().unwrap().to_owned();
    }
    assert!(sites.refreshes_by_php() > before, "no sample");
    assert_eq!((&view(&sidecar)["state"], &view(&second)["state"]), (&json!("agrees"), &json!("agrees")));
    drop((sidecar, second));

    // A restart asks for three. No call is compared until the tokens of so large a table are known.
    let sidecar = in_front_of(&sites, &kept);
    sidecar.wait_for_log("the tokens of the table are known");
    verify(&sites, &sidecar).await;
}

/// In the long form ten thousand: `SIDECAR_TEST_REFRESHES=10000`.
fn refreshes() -> usize {
    std::env::var("SIDECAR_TEST_REFRESHES").map_or(1_000, |number| number.parse().unwrap())
}
