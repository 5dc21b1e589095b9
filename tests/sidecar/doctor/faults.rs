//! One fault at a time, on a real site, each undone before the next.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Report, lines, text};
use crate::support::mariadb::PASSWORD_IN_URL;
use crate::support::port::Port;
use crate::support::raw::Upstream;
use crate::support::site::Site;

/// Skips watching an idle connection.
pub const QUICKLY: [&str; 2] = ["--upstream-keepalive-idle", "0s"];

/// A file that is removed on drop.
pub struct Placed(PathBuf);

impl Placed {
    pub fn at(path: PathBuf, content: &str) -> Placed {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        Placed(path)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_a_site_is_named() {
    let site = Site::up(&[]);
    what_the_code_of_the_site_changes(&site);
    hooks_that_refuse_or_act(&site).await;
    what_refuses_requests_in_wordpress(&site);
    what_the_plugins_settings_leave_out(&site);
    another_plugin_on_the_route(&site);
    other_keys_than_phps(&site);
    a_database_that_refuses(&site);
    an_upstream_that_is_away_or_silent(&site);
    without_php(&site);
    the_plugin_is_off(&site);
}

fn what_the_code_of_the_site_changes(site: &Site) {
    // A new name each time: PHP checks only every two seconds whether a file has changed.
    let mu_plugins = Path::new(site.said("ROOT")).join("wp-content/mu-plugins");
    let mu_plugin = mu_plugins.join("claims.php");
    let claims = Placed::at(
        mu_plugin.clone(),
        "<?php\nfunction shop_claims( $claims ) {\n\treturn $claims;\n}\nadd_filter( 'jwt_auth_pro_token_claims', 'shop_claims' );\n",
    );
    let report = Report::of(site, &QUICKLY, &[]);
    let finding = report.the("warning", "customized.filters");
    let place = fs::canonicalize(&mu_plugin).unwrap();
    let line = format!("jwt_auth_pro_token_claims (priority 10): shop_claims in {}:2", place.display());
    assert_eq!(lines(finding), [line]);
    assert!(text(&finding["fix"]).contains("refresh.mode"), "{finding}");
    report.the("ok", "parity.answers");
    drop(claims);

    let answers = Placed::at(
        mu_plugins.join("answers.php"),
        "<?php\nadd_filter( 'rest_post_dispatch', function ( $response ) {\n\
         \tif ( 403 === $response->get_status() ) { $response->set_status( 401 ); }\n\
         \t$response->header( 'X-Shop', 'yes' );\n\treturn $response;\n} );\n",
    );
    let report = Report::of(site, &QUICKLY, &[]);
    let finding = report.the("problem", "parity.answers");
    assert_eq!(
        lines(finding),
        [
            "status: WordPress 401, the sidecar 403 (unknown token; unknown token, with Origin)",
            "x-shop: yes — only from WordPress (all 8)"
        ],
        "{finding:#}"
    );
    let finding = report.the("ok", "customized.filters");
    assert!(lines(finding)[0].starts_with("rest_post_dispatch (priority 10): {closure}"), "{finding:#}");
    drop(answers);

    what_decides_the_fields_of_answers(site, &mu_plugins);

    let leaves = Placed::at(mu_plugins.join("leaves.php"), "<?php if ( 'cli' === PHP_SAPI ) { exit( 3 ); }");
    let report = Report::of(site, &QUICKLY, &[]);
    let finding = report.the("warning", "customized.php");
    assert!(text(&finding["what"]).contains("exit status: 3"), "{finding}");
    let report = Report::of(site, &[QUICKLY.as_slice(), &["--no-php"]].concat(), &[]);
    assert!(text(&report.the("ok", "customized.php")["what"]).contains("--no-php"));
    drop(leaves);

    let _hangs = Placed::at(mu_plugins.join("hangs.php"), "<?php if ( 'cli' === PHP_SAPI ) { sleep( 600 ); }");
    let report = Report::of(site, &QUICKLY, &[]);
    assert!(text(&report.the("warning", "customized.php")["what"]).contains("was not started"), "{:#}", report.json);
}

/// Callbacks that exist only once the REST API is set up, and one of a specific user.
fn what_decides_the_fields_of_answers(site: &Site, mu_plugins: &Path) {
    let _fields = Placed::at(
        mu_plugins.join("fields.php"),
        "<?php\nfunction shop_same( $value ) {\n\treturn $value;\n}\n\
         foreach ( array( 'http_origin', 'rest_url_prefix', 'determine_current_user' ) as $hook ) {\n\tadd_filter( $hook, \
         'shop_same' );\n}\nadd_action( 'rest_api_init', function () {\n\tforeach ( array( 'rest_send_nocache_headers', \
         'rest_exposed_cors_headers', 'rest_allowed_cors_headers', 'rest_endpoints' ) as $hook ) {\n\t\tadd_filter( $hook, \
         'shop_same', 11 );\n\t}\n} );\n",
    );
    let report = Report::of(site, &QUICKLY, &[]);
    let place = fs::canonicalize(mu_plugins.join("fields.php")).unwrap();
    let line = |hook: &str, priority: u32, rest: &str| {
        format!("{hook} (priority {priority}): shop_same in {}:2{rest}", place.display())
    };
    let late = |hook: &str, decides: &str| line(hook, 11, &format!("; decides {decides}; added in rest_api_init"));
    let mut answers = lines(report.the("ok", "customized.filters"));
    answers.sort();
    assert_eq!(
        answers,
        [
            line("http_origin", 10, "; decides Access-Control-Allow-Origin"),
            late("rest_allowed_cors_headers", "Access-Control-Allow-Headers"),
            late("rest_exposed_cors_headers", "Access-Control-Expose-Headers"),
            late("rest_send_nocache_headers", "Expires and Cache-Control"),
            line("rest_url_prefix", 10, "; decides the path of the REST API"),
        ]
    );
    let mut refusals = lines(report.the("warning", "customized.refusals"));
    refusals.sort();
    assert_eq!(
        refusals,
        [line("determine_current_user", 10, ""), line("rest_endpoints", 11, "; added in rest_api_init")]
    );
}

/// In a file that PHP's command line does not show, in a plugin, in the theme, in snippets.
async fn hooks_that_refuse_or_act(site: &Site) {
    let content = Path::new(site.said("ROOT")).join("wp-content");
    let blocks = "<?php\nif ( 'cli' !== PHP_SAPI ) {\n\tadd_filter( 'jwt_auth_before_authenticate', fn( $user ) => $user );\n}\n";
    let placed = [
        Placed::at(content.join("mu-plugins/blocks.php"), blocks),
        Placed::at(content.join("plugins/some-members/inc/auth.php"), blocks),
        Placed::at(content.join("plugins/some-members/some-members.php"), "<?php\n/* Plugin Name: Members */\n"),
        Placed::at(content.join("plugins/some-inactive/some-inactive.php"), blocks),
    ];
    let database = site.database();
    for statement in [
        "CREATE TABLE wp_snippets (id BIGINT UNSIGNED PRIMARY KEY, name TINYTEXT, code LONGTEXT, active TINYINT)",
        "INSERT INTO wp_snippets VALUES (11, 'off', 'add_action( ''jwt_auth_token_refreshed'', ''x'' );', 0), \
         (12, 'on', 'add_action( ''jwt_auth_token_refreshed'', ''x'' );', 1)",
        "INSERT INTO wp_posts (ID, post_type, post_status, post_title, post_content, post_excerpt, to_ping, pinged, \
         post_content_filtered, post_date, post_date_gmt, post_modified, post_modified_gmt) \
         SELECT id, 'wpcode', status, 'x', 'add_filter( ''jwt_auth_'' . $x, ''y'' );', '', '', '', '', NOW(), NOW(), NOW(), NOW() \
         FROM (SELECT 4711 AS id, 'publish' AS status UNION SELECT 4712, 'draft') snippets",
    ] {
        database.execute(statement).await;
    }
    let plugins = "require_once ABSPATH . 'wp-admin/includes/plugin.php';";
    site.php(&format!("{plugins} activate_plugin( 'some-members/some-members.php' );"));
    let report = Report::of(site, &[QUICKLY.as_slice(), &["--no-php"]].concat(), &[]);
    let finding = report.the("warning", "customized.hooks");
    assert_eq!(
        lines(finding),
        [
            "jwt_auth_before_authenticate in mu-plugins/blocks.php:3",
            "jwt_auth_before_authenticate in some-members/inc/auth.php:3",
            "jwt_auth_token_refreshed in snippet 12",
            "jwt_auth_* in snippet post 4711",
        ],
        "{finding:#}"
    );
    let key = "refresh.trusted_hooks = [\"mu-plugins/blocks.php:3\", \"some-members/inc/auth.php:3\", \"snippet 12\", \
               \"snippet post 4711\"]";
    assert!(text(&finding["fix"]).contains(key), "{finding}");
    assert_eq!(report.all("customized.hooks_unread").len(), 0, "{:#}", report.json);
    site.php(&format!("{plugins} deactivate_plugins( 'some-members/some-members.php' );"));
    database.execute("DROP TABLE wp_snippets").await;
    database.execute("DELETE FROM wp_posts WHERE ID IN (4711, 4712)").await;
    drop(placed);
    let report = Report::of(site, &[QUICKLY.as_slice(), &["--no-php"]].concat(), &[]);
    report.the("ok", "customized.hooks");
}

/// For security plugins that are known by name, early callbacks are reported as well; for others
/// not.
fn what_refuses_requests_in_wordpress(site: &Site) {
    let content = Path::new(site.said("ROOT")).join("wp-content");
    let plugin = |folder: &str| {
        let code = format!("<?php\n/* Plugin Name: {folder} */\nadd_action( 'init', fn() => null );\n");
        Placed::at(content.join(format!("plugins/{folder}/{folder}.php")), &code)
    };
    let placed = ["wordfence", "some-shop"].map(plugin);
    let closes = Placed::at(
        content.join("mu-plugins/closes.php"),
        "<?php\nfunction shop_blocks( $error ) {\n\treturn '203.0.113.66' === $_SERVER['REMOTE_ADDR'] ? new WP_Error( 'no' ) : \
         $error;\n}\nadd_filter( 'rest_authentication_errors', 'shop_blocks' );\nadd_filter( 'authenticate', fn( $user ) => $user );\n",
    );
    let plugins = "require_once ABSPATH . 'wp-admin/includes/plugin.php';";
    site.php(&format!("{plugins} activate_plugins( array( 'wordfence/wordfence.php', 'some-shop/some-shop.php' ) );"));
    let report = Report::of(site, &QUICKLY, &[]);
    let known = report.the("warning", "customized.blocks");
    assert_eq!(
        lines(known),
        ["Wordfence (wordfence/wordfence.php): addresses, countries, lockouts after failed logins"]
    );
    assert!(text(&known["what"]).contains("do not hold for refreshes"), "{known}");
    let refusals = lines(report.the("warning", "customized.refusals"));
    let has = |start: &str, end: &str| refusals.iter().any(|line| line.starts_with(start) && line.ends_with(end));
    assert!(has("init (priority 10): {closure}", "wordfence.php:3"), "{refusals:?}");
    assert!(has("rest_authentication_errors (priority 10): shop_blocks in ", "closes.php:2"), "{refusals:?}");
    assert!(has("authenticate (priority 10): ", "(for logins only, which WordPress answers)"), "{refusals:?}");
    assert_eq!(refusals.len(), 3, "{refusals:?}");
    report.the("ok", "parity.answers");
    site.php(&format!(
        "{plugins} deactivate_plugins( array( 'wordfence/wordfence.php', 'some-shop/some-shop.php' ) );"
    ));
    drop((placed, closes));
}

fn what_the_plugins_settings_leave_out(site: &Site) {
    let set = |limit: u32| {
        site.php(&format!(
            "$s = get_option( 'jwt_auth_pro_settings' ); $s['rate_limit_settings']['max_requests'] = {limit}; \
             update_option( 'jwt_auth_pro_settings', $s );"
        ));
    };
    set(3);
    let report = Report::of(site, &QUICKLY, &[]);
    assert!(text(&report.the("ok", "parity.rate_limit")["what"]).contains("lets 3 requests through"));
    assert!(text(&report.the("ok", "parity.answers")["what"]).starts_with("6 refused refreshes"));
    set(60);
    // update_option() accepts installed languages only.
    site.php("global $wpdb; $wpdb->replace( $wpdb->options, array( 'option_name' => 'WPLANG', 'option_value' => 'de_DE' ) );");
    let pack = Placed::at(Path::new(site.said("ROOT")).join("wp-content/languages/de_DE.mo"), "");
    let report = Report::of(site, &QUICKLY, &[]);
    let forwarded = lines(report.the("ok", "parity.forwarded"));
    assert!(forwarded.len() == 6 && forwarded[5].starts_with("broken JSON, with Origin: "), "{forwarded:?}");
    assert!(text(&report.the("ok", "parity.answers")["what"]).starts_with("2 refused refreshes"));
    // Without the pack, WordPress's messages are English.
    drop(pack);
    let report = Report::of(site, &QUICKLY, &[]);
    assert!(text(&report.the("ok", "parity.answers")["what"]).starts_with("8 refused refreshes"));
    site.php("update_option( 'WPLANG', '' ); update_option( 'jwt_auth_pro_version', '0.3.0' );");
    let report = Report::of(site, &QUICKLY, &[]);
    assert!(text(&report.the("warning", "plugin.version")["what"]).contains("version 0.3.0"));
    site.php("update_option( 'jwt_auth_pro_version', '0.2.1' );");
}

fn another_plugin_on_the_route(site: &Site) {
    let _file = Placed::at(
        Path::new(site.said("ROOT")).join("wp-content/plugins/other-login/other-login.php"),
        "<?php\n/* Plugin Name: Other login */\nadd_action( 'rest_api_init', function () {\n\
         \tregister_rest_route( 'jwt-auth/v1', '/token/refresh', array(\n\t\t'methods' => 'POST',\n\
         \t\t'callback' => 'other_refresh',\n\t\t'permission_callback' => '__return_true',\n\t) );\n} );\n\
         function other_refresh() { return array( 'other' => true ); }\n",
    );
    let plugins = "require_once ABSPATH . 'wp-admin/includes/plugin.php';";
    site.php(&format!("{plugins} activate_plugin( 'other-login/other-login.php' );"));
    let report = Report::of(site, &QUICKLY, &[]);
    let rivals = report.all("plugin.rival");
    assert_eq!(rivals.len(), 2, "seen from outside and by PHP: {:#}", report.json);
    assert!(rivals.iter().all(|rival| rival["level"] == "problem"));
    let named: Vec<String> = rivals.iter().flat_map(|rival| lines(rival)).collect();
    assert!(
        named.iter().any(|line| line.contains("other_refresh in") && line.contains("other-login.php:")),
        "{named:?}"
    );
    assert!(named.iter().any(|line| line.ends_with("(the plugin's own)")), "{named:?}");
    site.php(&format!("{plugins} deactivate_plugins( 'other-login/other-login.php' );"));
}

fn other_keys_than_phps(site: &Site) {
    let own = fs::read_to_string(site.wp_config()).unwrap();
    let with = |constant: &str, value: &str| {
        let start = own.find(&format!("define( '{constant}', '")).unwrap() + constant.len() + 13;
        let end = start + own[start..].find('\'').unwrap();
        let changed = format!("{}{value}{}", &own[..start], &own[end..]);
        Placed::at(site.wp_config().with_file_name("wp-config-other.php"), &changed)
    };
    let examine = |file: &Placed| Report::of_config(&file.0, site.said("UPSTREAM"), &QUICKLY, &[]);

    let report = examine(&with("AUTH_KEY", "put your unique phrase here"));
    let salts = report.the("warning", "keys.salts");
    assert!(text(&salts["fix"]).contains("wp config shuffle-salts"), "{salts}");
    assert!(text(&report.the("problem", "keys.salt_unknown")["fix"]).starts_with("Open the site once"));

    let report = examine(&with("AUTH_SALT", "another salt, of another site"));
    assert!(text(&report.the("problem", "keys.same")["what"]).contains("wp_salt( 'auth' ) is another in PHP"));

    let report = examine(&with("JWT_AUTH_SECRET_KEY", "your-top-secret-key"));
    assert!(text(&report.the("problem", "keys.signing")["what"]).contains("placeholder"));
    assert!(text(&report.the("problem", "keys.same")["what"]).contains("JWT_AUTH_SECRET_KEY is another in PHP"));

    let report = examine(&with("JWT_AUTH_SECRET_KEY", "k4Jd-92"));
    assert!(text(&report.the("warning", "keys.signing")["what"]).contains("has 7 bytes"));
}

fn a_database_that_refuses(site: &Site) {
    let socket = site.said("DB_SOCKET").replace('/', "%2F");
    let url = format!("mysql://wordpress:{PASSWORD_IN_URL}@localhost/wordpress?socket={socket}");
    let report = Report::of(site, &QUICKLY, &[("WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL", &url)]);
    let finding = report.the("problem", "database.reachable");
    assert!(text(&finding["what"]).contains("ERROR 1045"), "{finding}");
    assert!(text(&finding["fix"]).starts_with("User or password"), "{finding}");
    report.the("ok", "upstream.reachable");

    let closed = Port::reserve();
    let free = closed.address();
    let hosts = format!("{free},localhost:{}", site.said("DB_SOCKET"));
    let report = Report::of(site, &QUICKLY, &[("WP_JWT_SIDECAR_WORDPRESS_DATABASE_HOSTS", &hosts)]);
    let hosts: Vec<&str> = report.all("database.hosts").iter().map(|host| host["level"].as_str().unwrap()).collect();
    assert_eq!(hosts, ["warning", "ok"], "{:#}", report.json);
    report.the("ok", "database.reachable");
    let url = format!("mysql://wordpress:x@{free}/wordpress");
    let report = Report::of(site, &QUICKLY, &[("WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL", &url)]);
    assert!(text(&report.the("problem", "database.reachable")["fix"]).starts_with("Is the server running"));
}

fn an_upstream_that_is_away_or_silent(site: &Site) {
    let closed = Port::reserve();
    let free = closed.address();
    let report = Report::of_config(site.wp_config(), &format!("http://{free}"), &[], &[]);
    let finding = report.the("problem", "upstream.reachable");
    assert!(text(&finding["fix"]).starts_with("Is the web server running"), "{finding}");
    report.the("ok", "database.reachable");

    let silent = Upstream::of_connections(|mut connection| while connection.request().is_some() {});
    let began = Instant::now();
    let report = Report::of_config(site.wp_config(), &format!("http://{}", silent.address()), &[], &[]);
    assert!(text(&report.the("problem", "upstream.rest")["what"]).contains("no answer within"), "{:#}", report.json);
    assert!(report.the("warning", "upstream.keepalive")["what"].as_str().unwrap().contains("no answer within"));
    assert!(began.elapsed() < Duration::from_secs(60), "it hangs with the upstream");

    // Another program listens there.
    let page = Upstream::answering(|_| "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>");
    let report = Report::of_config(site.wp_config(), &format!("http://{}", page.address()), &QUICKLY, &[]);
    assert!(text(&report.the("problem", "upstream.rest")["fix"]).starts_with("A page came"), "{:#}", report.json);
}

fn without_php(site: &Site) {
    let report = Report::of(site, &QUICKLY, &[("PATH", "/does/not/exist")]);
    let finding = report.the("ok", "customized.php");
    assert!(text(&finding["what"]).starts_with("there is no PHP command line"), "{finding}");
    assert!(text(&finding["fix"]).contains("add_filter"), "{finding}");
}

fn the_plugin_is_off(site: &Site) {
    let plugins = "require_once ABSPATH . 'wp-admin/includes/plugin.php';";
    site.php(&format!("{plugins} deactivate_plugins( 'jwt-auth-pro/jwt-auth-pro.php' );"));
    let report = Report::of(site, &QUICKLY, &[]);
    let finding = report.the("problem", "plugin.active");
    assert!(text(&finding["what"]).contains("is not active"), "{finding}");
    assert!(text(&finding["fix"]).contains("wp plugin activate"), "{finding}");
}
