//! A real network of sites, made of a real single site as an administrator makes one.

use serde_json::{Value, json};

use crate::support::mariadb::{TestDatabase, Token, TokenState};
use crate::support::raw::{Connection, Message};
use crate::support::secrets;
use crate::support::sidecar::Sidecar;
use crate::support::site::Site;

/// As `wp-admin/network.php` does.
const MAKE_NETWORK: &str = r"
    require_once ABSPATH . 'wp-admin/includes/upgrade.php';
    foreach ( $wpdb->tables( 'ms_global' ) as $table => $prefixed ) {
        $wpdb->$table = $prefixed;
    }
    install_network();
    populate_network( 1, '{domain}', 'admin@example.org', 'Net', '/', {subdomain} );
";

const CONFIG: &str = r"
define( 'MULTISITE', true );
define( 'SUBDOMAIN_INSTALL', {subdomain} );
define( 'DOMAIN_CURRENT_SITE', '{domain}' );
define( 'PATH_CURRENT_SITE', '/' );
define( 'SITE_ID_CURRENT_SITE', 1 );
define( 'BLOG_ID_CURRENT_SITE', 1 );
";

/// The route below a site's home.
pub const ROUTE: &str = "/wp-json/jwt-auth/v1/token/refresh";

pub struct NetworkSite {
    pub site: Site,
    pub database: TestDatabase,
}

/// A site of it, by the host and the path that clients use.
#[derive(Clone, Copy, Debug)]
pub struct At<'a>(pub &'a str, pub &'a str);

impl NetworkSite {
    /// `http://net.test` and further `sites`, which get the ids 2 and so on; the plugin is active
    /// on all of them, without a rate limit. `config`: more lines of wp-config.php. Takes some
    /// seconds, and blocks for them.
    pub fn up(is_subdomain: bool, sites: &[At<'_>], config: &str) -> NetworkSite {
        let network = NetworkSite::up_at("net.test", is_subdomain, sites, config);
        for id in 1..=sites.len() as u64 + 1 {
            network.set(id, "rate_limit_settings", "enabled", "false");
        }
        network
    }

    /// As [`NetworkSite::up`], at `http://{domain}`, with the settings that the plugin begins with.
    pub fn up_at(domain: &str, is_subdomain: bool, sites: &[At<'_>], config: &str) -> NetworkSite {
        let site = Site::up(&["--home", &format!("http://{domain}")]);
        let subdomain = if is_subdomain { "true" } else { "false" };
        let of_network = |text: &str| text.replace("{subdomain}", subdomain).replace("{domain}", domain);
        site.php(&of_network(MAKE_NETWORK));
        let file = std::fs::read_to_string(site.wp_config()).unwrap();
        let lines = format!("{}{config}\n$table_prefix", of_network(CONFIG));
        std::fs::write(site.wp_config(), file.replacen("$table_prefix", &lines, 1)).unwrap();
        let database = site.database();
        let network = NetworkSite { site, database };
        for At(host, path) in sites {
            network.add(host, path);
        }
        network.site.php("require_once ABSPATH . 'wp-admin/includes/plugin.php'; activate_plugin( 'jwt-auth-pro/jwt-auth-pro.php', '', true );");
        // Each site's tables come with its first request.
        for At(host, path) in [At(domain, "")].iter().chain(sites) {
            let answer = network.get(host, &format!("{path}/wp-json/"));
            assert_eq!(answer.status(), 200, "{host}{path}: {answer:?}");
        }
        network
    }

    /// One more site. Returns its id.
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

    /// Asks WordPress itself.
    pub fn get(&self, host: &str, target: &str) -> Message {
        let mut connection = Connection::to(self.site.upstream());
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        connection.response()
    }

    pub fn sidecar(&self, arguments: &[&str]) -> Sidecar {
        Sidecar::of_site(self.site.upstream(), self.site.wp_config(), arguments)
    }

    /// Logs ada in on a site, by way of `sidecar`. Returns the answer's body.
    pub fn log_in(&self, sidecar: &Sidecar, At(host, path): At<'_>) -> Value {
        let body = json!({"username": self.site.said("USER"), "password": self.site.said("USER_PASSWORD")});
        let answer = post(sidecar, host, &format!("{path}/wp-json/jwt-auth/v1/token"), &body, "");
        assert_eq!(answer.status(), 200, "{answer:?}");
        let said = answer.json();
        secrets::register(said["refresh_token"].as_str().unwrap());
        said
    }

    /// The calls of the route that reached WordPress so far.
    pub fn refreshes_by_php(&self) -> usize {
        let is_refresh = |request: &&String| request.starts_with("POST ") && request.contains("/token/refresh");
        self.site.requests().iter().filter(is_refresh).count()
    }
}

/// A refresh at a site.
pub fn refresh(sidecar: &Sidecar, at: At<'_>, token: &str) -> Message {
    refresh_with(sidecar, at, token, "")
}

/// As [`refresh`], with more fields, each with its line end.
pub fn refresh_with(sidecar: &Sidecar, At(host, path): At<'_>, token: &str, fields: &str) -> Message {
    post(sidecar, host, &format!("{path}{ROUTE}"), &json!({"refresh_token": token}), fields)
}

/// Whether the sidecar itself has answered with a pair.
pub fn is_native(answer: &Message) -> bool {
    answer.status() == 200 && answer.value("cache-control").as_deref() == Some("no-store")
}

fn post(sidecar: &Sidecar, host: &str, target: &str, body: &Value, fields: &str) -> Message {
    let body = body.to_string();
    let mut connection = Connection::to(sidecar.address());
    connection.send(format!(
        "POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{fields}\r\n{body}",
        body.len()
    ));
    connection.response()
}
