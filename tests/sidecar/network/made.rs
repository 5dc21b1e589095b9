//! A real network of sites, converted from a real single site in the same way as an administrator
//! would.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::mariadb::{TestDatabase, Token, TokenState};
use crate::support::raw::{Connection, Message};
use crate::support::secrets;
use crate::support::sidecar::{Sidecar, wait_until};
use crate::support::site::Site;

/// The steps of `wp-admin/network.php`.
const MAKE_NETWORK: &str = r"
    require_once ABSPATH . 'wp-admin/includes/upgrade.php';
    foreach ( $wpdb->tables( 'ms_global' ) as $table => $prefixed ) {
        $wpdb->$table = $prefixed;
    }
    install_network();
    populate_network( 1, '{domain}', 'admin@example.org', 'Net', '{path}/', {subdomain} );
";

const CONFIG: &str = r"
define( 'MULTISITE', true );
define( 'SUBDOMAIN_INSTALL', {subdomain} );
define( 'DOMAIN_CURRENT_SITE', '{domain}' );
define( 'PATH_CURRENT_SITE', '{path}/' );
define( 'SITE_ID_CURRENT_SITE', 1 );
define( 'BLOG_ID_CURRENT_SITE', 1 );
";

const ADMIN: &str = "require_once ABSPATH . 'wp-admin/includes/plugin.php';";

const PLUGIN: &str = "'jwt-auth-pro/jwt-auth-pro.php'";

/// With passwords whose hashes are cheap to verify.
const MAKE_USERS: &str = r#"
    $wpdb->delete( $wpdb->users, array( 'ID' => 2 ) );
    $wpdb->delete( $wpdb->usermeta, array( 'user_id' => 2 ) );
    add_filter( 'wp_hash_password_options', fn() => array( 'cost' => 4 ) );
    foreach ( array( 1, 4, 7, 9, 10 ) as $n ) {
        $wpdb->insert( $wpdb->users, array( 'ID' => $n + 1, 'user_login' => "user$n", 'user_nicename' => "user$n",
            'user_email' => "user$n@example.test", 'display_name' => "User N\u{ba}$n \u{1f600}",
            'user_registered' => gmdate( 'Y-m-d H:i:s' ), 'user_pass' => wp_hash_password( "pass-$n" ) ) );
        add_user_meta( $n + 1, 'wp_capabilities', array( 'subscriber' => true ) );
        if ( $n < 6 ) {
            add_user_meta( $n + 1, 'wp_2_capabilities', array( 'subscriber' => true ) );
        }
    }
"#;

/// The route below a site's home.
pub const ROUTE: &str = "/wp-json/jwt-auth/v1/token/refresh";

pub struct NetworkSite {
    pub site: Site,
    pub database: TestDatabase,
}

/// A site of the network, by the host and the path that clients use.
#[derive(Clone, Copy, Debug)]
pub struct At<'a>(pub &'a str, pub &'a str);

impl NetworkSite {
    /// `http://net.test` and further `sites`, with the ids from 2 on. The plugin is active on all
    /// of them, without a rate limit. `config`: additional lines for wp-config.php. Takes some
    /// seconds, and blocks meanwhile.
    pub fn up(is_subdomain: bool, sites: &[At<'_>], config: &str) -> NetworkSite {
        let network = NetworkSite::up_at("net.test", is_subdomain, sites, config);
        for id in 1..=sites.len() as u64 + 1 {
            network.set(id, "rate_limit_settings", "enabled", "false");
        }
        network
    }

    /// Like [`NetworkSite::up`], at `http://{place}`, which may have a path, with the plugin's
    /// default settings.
    pub fn up_at(place: &str, is_subdomain: bool, sites: &[At<'_>], config: &str) -> NetworkSite {
        let network = NetworkSite::bare(place, is_subdomain, sites, config);
        network.activate_everywhere();
        let (domain, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        for at in [At(domain, path)].iter().chain(sites) {
            network.visit(*at);
        }
        network
    }

    /// Like [`NetworkSite::up_at`], with the plugin not active anywhere.
    pub fn bare(place: &str, is_subdomain: bool, sites: &[At<'_>], config: &str) -> NetworkSite {
        let site = Site::up(&["--home", &format!("http://{place}")]);
        let subdomain = if is_subdomain { "true" } else { "false" };
        let (domain, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        let of_network =
            |text: &str| text.replace("{subdomain}", subdomain).replace("{domain}", domain).replace("{path}", path);
        // It is active on a single site.
        site.php(&format!("{ADMIN} deactivate_plugins( {PLUGIN} );"));
        site.php(&of_network(MAKE_NETWORK));
        let file = std::fs::read_to_string(site.wp_config()).unwrap();
        let lines = format!("{}{config}\n$table_prefix", of_network(CONFIG));
        std::fs::write(site.wp_config(), file.replacen("$table_prefix", &lines, 1)).unwrap();
        let database = site.database();
        let network = NetworkSite { site, database };
        for At(host, path) in sites {
            network.add(host, path);
        }
        network
    }

    /// A single site at `http://{domain}`, with additional lines in wp-config.php.
    pub fn of_one(domain: &str, config: &str) -> NetworkSite {
        let site = Site::up(&["--home", &format!("http://{domain}"), "--config", config]);
        let database = site.database();
        NetworkSite { site, database }
    }

    /// Activates the plugin on all sites, as an administrator of the network would.
    pub fn activate_everywhere(&self) {
        self.site.php(&format!("{ADMIN} activate_plugin( {PLUGIN}, '', true );"));
    }

    /// Activates or deactivates the plugin on the site `id`, as its own administrator would.
    pub fn activate(&self, id: u64, is_active: bool) {
        let call = if is_active { "activate_plugin" } else { "deactivate_plugins" };
        self.site.php(&format!("{ADMIN} switch_to_blog( {id} ); {call}( {PLUGIN} );"));
    }

    /// WordPress creates a site's tables at its first request.
    pub fn visit(&self, At(host, path): At<'_>) {
        let answer = self.get(host, &format!("{path}/wp-json/"));
        assert_eq!(answer.status(), 200, "{host}{path}: {answer:?}");
    }

    /// Creates the recorded users, with their ids, after it has deleted the user that every test
    /// site has.
    pub fn make_recorded_users(&self, is_network: bool) {
        self.site.php(MAKE_USERS);
        if is_network {
            self.site.php("update_site_option( 'site_admins', array( 'admin' ) );");
        }
    }

    /// Whether the web server passes `$host` as `HTTP_HOST`, as Debian's fastcgi_params do, or the
    /// client's own header.
    pub fn pass_dollar_host(&self, passes: bool) {
        let top = Path::new(self.site.said("LOGS")).parent().unwrap();
        let file = top.join("conf/nginx.conf");
        let conf = std::fs::read_to_string(&file).unwrap();
        let line = "fastcgi_param HTTP_HOST $host;\n";
        let without = conf.replace(line, "");
        let conf = if passes { without.replacen("fastcgi_pass ", &format!("{line}fastcgi_pass "), 1) } else { without };
        std::fs::write(&file, conf).unwrap();
        let seen = Path::new(self.site.said("ROOT")).join("wp-content/host.php");
        std::fs::write(seen, "<?php echo $_SERVER['HTTP_HOST'];").unwrap();
        let pid = std::fs::read_to_string(top.join("run/nginx.pid")).unwrap();
        let pid = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
        // No home URL here contains the site's own port.
        wait_until("the web server has read it", || {
            let answer = self.get("UPPER.CASE:4321", "/wp-content/host.php");
            String::from_utf8_lossy(&answer.body) == if passes { "upper.case" } else { "UPPER.CASE:4321" }
        });
    }

    /// The cookie of a user who is logged in.
    pub fn login_cookie(&self, user: &str) -> String {
        self.site.php(&format!(
            "$u = get_user_by( 'login', '{user}' );
             echo LOGGED_IN_COOKIE, '=', wp_generate_auth_cookie( $u->ID, time() + 3600, 'logged_in' );"
        ))
    }

    /// The plugin's tables of one site, in order.
    pub async fn plugin_tables(&self, id: u64) -> Vec<String> {
        let prefix = if id == 1 { "wp".to_owned() } else { format!("wp_{id}") };
        let rows = self
            .database
            .rows(&format!(
                "SELECT TABLE_NAME AS n FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() \
                 AND TABLE_NAME REGEXP '^{prefix}_jwt_auth_' ORDER BY TABLE_NAME"
            ))
            .await;
        rows.iter().map(|row| row.get("n").unwrap().to_owned()).collect()
    }

    /// A token that a site has issued.
    pub async fn token_of(&self, id: u64, refresh_token: &str) -> Token {
        let tables = self.tables(id);
        let rows = tables.token_rows_after(0).await;
        let row = rows.iter().find(|row| row.get("refresh_token_hash") == Some(refresh_token)).expect("its row");
        Token {
            id: row.get("id").unwrap().parse().unwrap(),
            user_id: row.get("user_id").unwrap().parse().unwrap(),
            refresh_token: refresh_token.to_owned(),
            token_family: row.get("token_family").unwrap().to_owned(),
            hash: row.get("hash").unwrap().to_owned(),
        }
    }

    /// Adds a site. Returns its id.
    pub fn add(&self, host: &str, path: &str) -> u64 {
        let said = self.site.php(&format!(
            "$id = wp_insert_site( array( 'domain' => '{host}', 'path' => '{path}/', 'network_id' => 1, 'user_id' => 1, 'title' => 'One more' ) );
             echo is_wp_error( $id ) ? $id->get_error_message() : $id;"
        ));
        said.parse().unwrap_or_else(|_| panic!("{host}{path}: {said}"))
    }

    /// Changes one of the plugin's settings on the site `id`. `value` is PHP.
    pub fn set(&self, id: u64, section: &str, key: &str, value: &str) {
        self.site.php(&format!(
            "switch_to_blog( {id} ); $s = get_option( 'jwt_auth_pro_settings' ); $s['{section}']['{key}'] = {value};
             update_option( 'jwt_auth_pro_settings', $s );"
        ));
    }

    /// Sets a column of the site's row.
    pub async fn flag(&self, id: u64, column: &str, value: &str) {
        self.database.execute(&format!("UPDATE wp_blogs SET {column} = {value} WHERE blog_id = {id}")).await;
    }

    /// The tables of one site.
    pub fn tables(&self, id: u64) -> TestDatabase {
        let prefix = if id == 1 { "wp_".to_owned() } else { format!("wp_{id}_") };
        TestDatabase::open(self.database.url(), &prefix)
    }

    /// A live token of the administrator in the table of one site.
    pub async fn token(&self, id: u64) -> Token {
        self.tables(id).insert_token(TokenState::Live, 1).await
    }

    /// A GET request to WordPress itself.
    pub fn get(&self, host: &str, target: &str) -> Message {
        let mut connection = Connection::to(self.site.upstream());
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        connection.response()
    }

    pub fn sidecar(&self, arguments: &[&str]) -> Sidecar {
        Sidecar::of_site(self.site.upstream(), self.site.wp_config(), arguments)
    }

    /// Logs the user ada in on a site, through `sidecar`. Returns the response's body.
    pub fn log_in(&self, sidecar: &Sidecar, At(host, path): At<'_>) -> Value {
        let body = json!({"username": self.site.said("USER"), "password": self.site.said("USER_PASSWORD")});
        let answer = post(sidecar, host, &format!("{path}/wp-json/jwt-auth/v1/token"), &body, "");
        assert_eq!(answer.status(), 200, "{answer:?}");
        let said = answer.json();
        secrets::register(said["refresh_token"].as_str().unwrap());
        said
    }

    /// How many calls of the route have reached WordPress so far.
    pub fn refreshes_by_php(&self) -> usize {
        let is_refresh = |request: &&String| request.starts_with("POST ") && request.contains("/token/refresh");
        self.site.requests().iter().filter(is_refresh).count()
    }
}

/// A refresh at a site.
pub fn refresh(sidecar: &Sidecar, at: At<'_>, token: &str) -> Message {
    refresh_with(sidecar, at, token, "")
}

/// Like [`refresh`], with additional header lines, each with its line end.
pub fn refresh_with(sidecar: &Sidecar, At(host, path): At<'_>, token: &str, fields: &str) -> Message {
    post(sidecar, host, &format!("{path}{ROUTE}"), &json!({"refresh_token": token}), fields)
}

/// Like [`refresh`], by a client with this address.
pub fn refresh_from(client: Ipv4Addr, sidecar: &Sidecar, At(host, path): At<'_>, token: &str) -> Message {
    let connection = Connection::from(client, sidecar.address());
    post_on(connection, host, &format!("{path}{ROUTE}"), &json!({"refresh_token": token}), "")
}

/// Whether the sidecar itself answered with a pair.
pub fn is_native(answer: &Message) -> bool {
    answer.status() == 200 && answer.value("cache-control").as_deref() == Some("no-store")
}

fn post(sidecar: &Sidecar, host: &str, target: &str, body: &Value, fields: &str) -> Message {
    post_on(Connection::to(sidecar.address()), host, target, body, fields)
}

fn post_on(mut connection: Connection, host: &str, target: &str, body: &Value, fields: &str) -> Message {
    let body = body.to_string();
    connection.send(format!(
        "POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{fields}\r\n{body}",
        body.len()
    ));
    connection.response()
}
