//! A sidecar with its own database and an upstream that imitates WordPress: it answers the question
//! about its home URL, and everything else with 299, so that a test sees what was forwarded.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::mariadb::{Database, TestDatabase, Token, TokenState, User};
use super::raw::{Connection, Message, Upstream};
use super::sidecar::{PATIENCE, Sidecar};

/// The secrets that every rig's site has.
pub const SECRET: &str = "rig-secret-key-0123456789-abcdefghijklmnop-XYZ";
pub const AUTH_KEY: &str = "rig-auth-key";
pub const AUTH_SALT: &str = "rig-auth-salt";

/// The same secrets as environment variables.
pub const SECRETS: [(&str, &str); 3] = [
    ("WP_JWT_SIDECAR_WORDPRESS_AUTH_KEY", AUTH_KEY),
    ("WP_JWT_SIDECAR_WORDPRESS_AUTH_SALT", AUTH_SALT),
    ("WP_JWT_SIDECAR_JWT_SECRET", SECRET),
];

/// The home URL of the rig's site.
pub const HOME: &str = "http://shop.example";

/// The usual form of the route.
pub const ROUTE: &str = "/wp-json/jwt-auth/v1/token/refresh";

/// A used token is refused at once.
pub const NO_REUSE: (&str, &str) = ("WP_JWT_SIDECAR_REFRESH_REUSE_INTERVAL", "0s");

/// The value of `active_plugins`.
pub const ACTIVE: &str = r#"a:1:{i:0;s:29:"jwt-auth-pro/jwt-auth-pro.php";}"#;

pub struct Rig {
    pub database: TestDatabase,
    pub upstream: Upstream,
    pub sidecar: Sidecar,
    pub user: User,
}

impl Rig {
    /// On the shared server.
    pub async fn start() -> Rig {
        Rig::start_on(Database::shared(), &[]).await
    }

    /// On `server`, with additional environment variables for the sidecar.
    pub async fn start_on(server: &Database, environment: &[(&str, &str)]) -> Rig {
        Rig::start_with_settings(server, &settings(&[("rate_limit_settings", "enabled", "b:0;")]), environment).await
    }

    /// On a site with these settings of the plugin (made by [`settings`]).
    pub async fn start_with_settings(server: &Database, settings: &str, environment: &[(&str, &str)]) -> Rig {
        let database = site(server).await;
        database.set_option("jwt_auth_pro_settings", settings).await;
        let user = database.insert_user("alice").await;
        Rig::of(database, user, environment)
    }

    /// In front of an existing site.
    pub fn of(database: TestDatabase, user: User, environment: &[(&str, &str)]) -> Rig {
        let upstream = wordpress();
        let sidecar = sidecar(&database, upstream.address(), environment);
        sidecar.wait_for_log("refreshing natively");
        Rig { database, upstream, sidecar, user }
    }

    /// A live token of the rig's user.
    pub async fn token(&self) -> Token {
        self.database.insert_token(TokenState::Live, self.user.id).await
    }

    /// Presents `token` on a new connection.
    pub fn refresh(&self, token: &str) -> Message {
        refresh_at(self.sidecar.address(), token)
    }

    /// How many calls of the route reached the upstream.
    pub fn forwarded(&self) -> usize {
        self.upstream.requests().iter().filter(|request| request.start_line().contains("token/refresh")).count()
    }
}

/// A database with the options of a site that has the plugin, without a rate limit (a test that
/// needs one sets it).
pub async fn site(server: &Database) -> TestDatabase {
    let database = server.create().await;
    database.set_option("home", HOME).await;
    database.set_option("siteurl", HOME).await;
    database.set_option("permalink_structure", "/%postname%/").await;
    database.set_option("active_plugins", ACTIVE).await;
    database.set_option("jwt_auth_pro_settings", settings(&[("rate_limit_settings", "enabled", "b:0;")])).await;
    database
}

/// The settings option with these values, each as PHP serializes it.
pub fn settings(values: &[(&str, &str, &str)]) -> String {
    let mut sections: Vec<&str> = values.iter().map(|(section, ..)| *section).collect();
    sections.dedup();
    let sections: Vec<String> = sections
        .iter()
        .map(|section| {
            let inside: Vec<String> = values
                .iter()
                .filter(|(of, ..)| of == section)
                .map(|(_, key, value)| format!("s:{}:\"{key}\";{value}", key.len()))
                .collect();
            format!("s:{}:\"{section}\";a:{}:{{{}}}", section.len(), inside.len(), inside.concat())
        })
        .collect();
    format!("a:{}:{{{}}}", sections.len(), sections.concat())
}

/// An upstream that imitates WordPress.
pub fn wordpress() -> Upstream {
    Upstream::answering(|request| {
        let line = request.start_line();
        let (status, body) = if line.contains("_fields=home,namespaces") {
            ("200 OK", json!({"home": HOME, "namespaces": ["wp/v2", "jwt-auth/v1"]}))
        } else {
            ("299 Forwarded", json!({"forwarded": line}))
        };
        let body = body.to_string();
        format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    })
}

/// A sidecar for `database` in front of `upstream`, configured by the environment.
pub fn sidecar(database: &TestDatabase, upstream: SocketAddr, environment: &[(&str, &str)]) -> Sidecar {
    let site = command_environment(database, upstream);
    let mut all: Vec<(&str, &str)> = site.iter().map(|(name, value)| (*name, value.as_str())).collect();
    all.push(("WP_JWT_SIDECAR_LOG_LEVEL", "info,wp_jwt_sidecar=debug"));
    all.extend_from_slice(environment);
    Sidecar::start_with(&[], &all)
}

/// The environment of a command for the site with `database` behind `upstream`.
pub fn command_environment(database: &TestDatabase, upstream: SocketAddr) -> Vec<(&'static str, String)> {
    let places = [
        ("WP_JWT_SIDECAR_UPSTREAM_URL", format!("http://{upstream}")),
        ("WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL", database.url().to_owned()),
        ("WP_JWT_SIDECAR_WORDPRESS_TABLE_PREFIX", database.prefix().to_owned()),
    ];
    places.into_iter().chain(SECRETS.map(|(name, value)| (name, value.to_owned()))).collect()
}

/// Presents `token` at `address`.
pub fn refresh_at(address: SocketAddr, token: &str) -> Message {
    let mut client = Connection::to(address);
    client.send(call(token));
    client.response()
}

/// The bytes of a refresh.
pub fn call(token: &str) -> String {
    call_with(&json!({"refresh_token": token}), "")
}

/// The bytes of a refresh with this body and these additional fields (each with its line end).
pub fn call_with(body: &Value, fields: &str) -> String {
    let body = body.to_string();
    format!(
        "POST {ROUTE} HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/json\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Waits until `holds` returns `true`.
pub async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let deadline = Instant::now() + 3 * PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        // The server does not refresh INNODB_TRX while it is read more often than every 0.1 s.
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
}
