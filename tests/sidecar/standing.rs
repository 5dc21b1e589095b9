//! An error that the database returns every time leads neither to a permanent 503 nor to a response
//! that loses a session: WordPress answers where it may succeed, and nothing is stored twice.

use std::path::PathBuf;

use mysql_async::prelude::Queryable as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::admin;
use crate::support::mariadb::{
    Database, PASSWORD, PASSWORD_IN_URL, TestDatabase, Token, TokenState, USERMETA, User, random_hex,
};
use crate::support::raw::Upstream;
use crate::support::replication::Pair;
use crate::support::rig::{self, eventually, refresh_at};
use crate::support::sidecar::{Sidecar, command};
use crate::support::splitter::Splitter;

const LEFT: &str = "refreshes are left to WordPress as long as it does";
const UNAVAILABLE: &str = "refreshes get a 503 as long as it does";
const AGAIN: &str = "the database lets rotations be run again";
const NATIVE: &str = "refreshing natively";

const CONFIG: &str = "WP_JWT_SIDECAR_WORDPRESS_CONFIG";
const URL: &str = "WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL";
const NO_ANALYTICS: (&str, &str) = ("WP_JWT_SIDECAR_REFRESH_ANALYTICS", "false");
const ADMIN: (&str, &str) = ("WP_JWT_SIDECAR_ADMIN_LISTEN", "127.0.0.1:0");

/// The user in `wp-config.php`, which has all rights.
const SITES_USER: &str = "sidecar";

struct Site<'a> {
    server: &'a Database,
    database: TestDatabase,
    user: User,
    upstream: Upstream,
    directory: TempDir,
}

impl<'a> Site<'a> {
    async fn on(server: &'a Database) -> Site<'a> {
        let database = rig::site(server).await;
        let user = database.insert_user("alice").await;
        Site { server, database, user, upstream: rig::wordpress(), directory: TempDir::new().unwrap() }
    }

    fn name(&self) -> &str {
        self.database.url().rsplit_once('/').unwrap().1.split_once('?').unwrap().0
    }

    async fn order(&self, statement: &str) {
        self.server.root().await.query_drop(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    /// Creates a user with these rights on the table of tokens, and read access to everything else.
    /// Returns its URL.
    async fn account(&self, rights: &[&str]) -> (String, String) {
        let user = format!("own_{}", random_hex::<4>());
        self.order(&format!("CREATE USER {user}@localhost IDENTIFIED BY '{PASSWORD}'")).await;
        self.order(&format!("GRANT SELECT ON {}.* TO {user}@localhost", self.name())).await;
        for right in rights {
            self.grant(&user, right).await;
        }
        let url = self.database.url().replace(&format!("//{SITES_USER}:"), &format!("//{user}:"));
        assert!(url.contains(&format!("{user}:{PASSWORD_IN_URL}@")));
        (user, url)
    }

    async fn grant(&self, user: &str, right: &str) {
        self.order(&format!("GRANT {right} ON {}.wp_jwt_auth_tokens TO {user}@localhost", self.name())).await;
    }

    async fn revoke(&self, user: &str, right: &str) {
        self.order(&format!("REVOKE {right} ON {}.wp_jwt_auth_tokens FROM {user}@localhost", self.name())).await;
    }

    /// A `wp-config.php` with `user` as the database user.
    fn wp_config(&self, user: &str, more: &str) -> PathBuf {
        let path = self.directory.path().join("wp-config.php");
        let (name, socket) = (self.name(), self.server.socket().display().to_string());
        let text = format!(
            "<?php define('DB_NAME', '{name}'); define('DB_USER', '{user}'); define('DB_PASSWORD', '{PASSWORD}'); \
             define('DB_HOST', 'localhost:{socket}'); $table_prefix = 'wp_'; {more}"
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    fn sidecar(&self, environment: &[(&str, &str)]) -> Sidecar {
        let mut all = vec![NO_ANALYTICS, ADMIN];
        all.extend_from_slice(environment);
        rig::sidecar(&self.database, self.upstream.address(), &all)
    }

    async fn token(&self) -> Token {
        self.database.insert_token(TokenState::Live, self.user.id).await
    }

    /// The token was not rotated and is live.
    async fn is_as_it_was(&self, token: &Token) -> bool {
        let rows = self.database.family_rows(&token.token_family).await;
        rows.len() == 1 && rows[0].get("revoked_at").is_none()
    }
}

fn status(sidecar: &Sidecar, token: &str) -> u16 {
    refresh_at(sidecar.address(), token).status()
}

/// The only warning with this text in the log after its first `skip` lines.
fn warning(sidecar: &Sidecar, skip: usize, text: &str) -> Value {
    let line: Value = serde_json::from_str(&sidecar.wait_for_log_after(skip, text)).unwrap();
    assert_eq!(line["level"].as_str(), Some("WARN"), "{line}");
    let count = sidecar.log().iter().skip(skip).filter(|line| line.contains(text)).count();
    assert_eq!(count, 1, "said once");
    line
}

fn checked(upstream: &Upstream, environment: &[(&str, &str)]) -> String {
    let output = command()
        .arg("check")
        .env("WP_JWT_SIDECAR_UPSTREAM_URL", format!("http://{}", upstream.address()))
        .envs(rig::SECRETS)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_of_its_own_that_may_too_little() {
    let site = Site::on(Database::shared()).await;
    let (user, url) = site.account(&[]).await;
    let wp_config = site.wp_config(SITES_USER, "");
    let environment = [(URL, url.as_str()), (CONFIG, wp_config.to_str().unwrap())];
    let token = site.token().await;
    let found = checked(&site.upstream, &environment);
    let refused = "the database user may not INSERT in the table wp_jwt_auth_tokens (database error 1142)";
    assert!(
        found.contains(&format!("found: leaving the refresh route to WordPress: {refused}; grant the right")),
        "{found}"
    );

    let sidecar = site.sidecar(&environment);
    let line = warning(&sidecar, 0, LEFT);
    assert_eq!(
        (line["table"].as_str(), line["reason"].as_str()),
        (Some("wp_jwt_auth_tokens"), Some(refused)),
        "{line}"
    );
    assert!(line["fix"].as_str().unwrap().contains("wp-jwt-sidecar doctor"), "{line}");
    assert!(!sidecar.log().iter().any(|line| line.contains(NATIVE)));
    for token in [token.refresh_token.as_str(), &random_hex::<16>()] {
        assert_eq!(status(&sidecar, token), 299, "WordPress's, whether it knows the token or not");
    }
    let admin_listener = admin::admin(&sidecar);
    let ready = admin::readiness(admin_listener, 200);
    assert_eq!(ready["warnings"], json!([format!("refreshes are left to WordPress: {refused}")]), "{ready}");
    let shown = admin::get(admin_listener, "/status.json").json();
    assert_eq!(shown["site"]["native"], Value::Bool(false));
    assert!(
        shown["site"]["obstacle"].as_str().unwrap().contains(refused)
            && shown["findings"].to_string().contains(refused)
    );
    let page = String::from_utf8(admin::get(admin_listener, "/").body).unwrap();
    assert!(page.contains(refused), "{page}");

    let seen = sidecar.log().len();
    site.grant(&user, "INSERT, UPDATE").await;
    sidecar.wait_for_log_after(seen, AGAIN);
    assert_eq!(admin::readiness(admin_listener, 200).get("warnings"), None);
    assert!(site.is_as_it_was(&token).await);
    assert_eq!(status(&sidecar, &token.refresh_token), 200);
    assert!(checked(&site.upstream, &environment).contains("found: refreshing natively"));

    // While the sidecar runs, with many calls at once: a right that is needed before anything is
    // written, and one that is needed after.
    for right in ["INSERT", "UPDATE"] {
        let mut tokens = Vec::new();
        for _ in 0..12 {
            tokens.push(site.token().await);
        }
        let seen = sidecar.log().len();
        site.revoke(&user, right).await;
        let calls: Vec<_> = tokens
            .iter()
            .map(|token| {
                let (address, token) = (sidecar.address(), token.refresh_token.clone());
                tokio::task::spawn_blocking(move || refresh_at(address, &token).status())
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap(), 299, "{right}");
        }
        assert!(warning(&sidecar, seen, LEFT)["reason"].as_str().unwrap().contains(right));
        for token in &tokens {
            assert!(site.is_as_it_was(token).await, "{right}");
        }
        site.grant(&user, right).await;
        sidecar.wait_for_log_after(seen, AGAIN);
        assert_eq!(status(&sidecar, &tokens[0].refresh_token), 200, "{right}");
    }
}

/// The plugin would answer 200 with a pair that it could not store.
#[tokio::test(flavor = "multi_thread")]
async fn the_sites_own_account_that_may_too_little() {
    let site = Site::on(Database::shared()).await;
    let (user, url) = site.account(&["INSERT", "UPDATE"]).await;
    let wp_config = site.wp_config(&user, "");
    let sidecar = site.sidecar(&[(URL, &url), (CONFIG, wp_config.to_str().unwrap())]);
    sidecar.wait_for_log(NATIVE);
    let token = site.token().await;
    for right in ["INSERT", "SELECT"] {
        let seen = sidecar.log().len();
        match right {
            "SELECT" => site.order(&format!("REVOKE SELECT ON {}.* FROM {user}@localhost", site.name())).await,
            _ => site.revoke(&user, right).await,
        }
        if right == "SELECT" {
            // Open connections keep a right on a whole database.
            site.order(&format!("KILL USER {user}@localhost")).await;
        }
        let answer = refresh_at(sidecar.address(), &token.refresh_token);
        assert_eq!((answer.status(), answer.value("retry-after").as_deref()), (503, Some("1")), "{right}");
        let line = warning(&sidecar, seen, UNAVAILABLE);
        assert!(line["reason"].as_str().unwrap().contains(right), "{line}");
        assert!(!sidecar.log().iter().any(|line| line.contains(LEFT)));
        let ready = admin::readiness(admin::admin(&sidecar), 503);
        assert!(ready["reasons"].to_string().contains("refreshes are answered with 503"), "{ready}");
        assert!(site.is_as_it_was(&token).await);
        match right {
            "SELECT" => site.order(&format!("GRANT SELECT ON {}.* TO {user}@localhost", site.name())).await,
            _ => site.grant(&user, right).await,
        }
        sidecar.wait_for_log_after(seen, AGAIN);
    }
    assert_eq!(status(&sidecar, &token.refresh_token), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_users_that_is_missing() {
    let site = Site::on(Database::shared()).await;
    let wp_config = site.wp_config(SITES_USER, "define('CUSTOM_USER_TABLE', 'wp_customers');");
    let sidecar = site.sidecar(&[(CONFIG, wp_config.to_str().unwrap())]);
    let line = warning(&sidecar, 0, LEFT);
    assert_eq!(line["table"].as_str(), Some("wp_customers"), "{line}");
    let token = site.token().await;
    assert_eq!(status(&sidecar, &token.refresh_token), 299);
    site.database.execute("CREATE TABLE wp_customers LIKE wp_users").await;
    site.database.execute("INSERT INTO wp_customers SELECT * FROM wp_users").await;
    sidecar.wait_for_log(AGAIN);
    assert_eq!(status(&sidecar, &token.refresh_token), 200);
    // The same with a missing column.
    let token = site.token().await;
    site.database.execute("ALTER TABLE wp_customers CHANGE user_nicename nicename VARCHAR(50)").await;
    assert_eq!(status(&sidecar, &token.refresh_token), 299);
    assert!(site.is_as_it_was(&token).await);
}

/// The declared claims of a user are read through the index that WordPress creates on the user
/// meta. Plugins that tune indexes drop it.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_the_users_meta_that_is_missing() {
    let site = Site::on(Database::shared()).await;
    site.database.execute(USERMETA).await;
    let field = r#"[{ name = "first_name", value = { meta = "first_name" } }]"#;
    let sidecar = site.sidecar(&[("WP_JWT_SIDECAR_REFRESH_FIELD", field)]);
    sidecar.wait_for_log(NATIVE);
    assert_eq!(status(&sidecar, &site.token().await.refresh_token), 200);
    let token = site.token().await;
    site.database.execute("ALTER TABLE wp_usermeta DROP INDEX user_id").await;
    assert_eq!(status(&sidecar, &token.refresh_token), 299);
    let line = warning(&sidecar, 0, LEFT);
    assert_eq!(line["table"].as_str(), Some("wp_usermeta"), "{line}");
    assert!(site.is_as_it_was(&token).await);
    site.database.execute("ALTER TABLE wp_usermeta ADD INDEX user_id (user_id)").await;
    sidecar.wait_for_log(AGAIN);
    assert_eq!(status(&sidecar, &token.refresh_token), 200);
}

/// An error that shows only in the statement would hit the plugin as well: it answers 200 with a
/// pair that is in no table.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_whose_table_is_missing() {
    let site = Site::on(Database::shared()).await;
    let sidecar = site.sidecar(&[]);
    sidecar.wait_for_log(NATIVE);
    let token = site.token().await;
    site.order(&format!(
        "CREATE TRIGGER {0}.noted BEFORE INSERT ON {0}.wp_jwt_auth_tokens FOR EACH ROW INSERT INTO {0}.wp_gone VALUES (1)",
        site.name()
    ))
    .await;
    for _ in 0..3 {
        let answer = refresh_at(sidecar.address(), &token.refresh_token);
        assert_eq!((answer.status(), answer.value("retry-after").as_deref()), (503, Some("1")));
    }
    let line: Value = serde_json::from_str(&sidecar.wait_for_log("such refreshes get a 503")).unwrap();
    assert!(line["error"].as_str().unwrap().contains("1146"), "{line}");
    assert!(!sidecar.log().iter().any(|line| line.contains(LEFT)));
    assert!(site.is_as_it_was(&token).await);
    site.order(&format!("DROP TRIGGER {}.noted", site.name())).await;
    assert_eq!(status(&sidecar, &token.refresh_token), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_for_now() {
    let server = Database::private();
    let site = Site::on(&server).await;

    // The token's row is known already, so the refresh fails in the rotation, not before it.
    let sidecar = site.sidecar(&[]);
    sidecar.wait_for_log(NATIVE);
    let token = site.token().await;
    let answer = refresh_at(sidecar.address(), &token.refresh_token);
    let next = answer.json()["refresh_token"].as_str().unwrap().to_owned();
    site.order("SET GLOBAL max_prepared_stmt_count = 0").await;
    site.order(&format!("KILL USER {SITES_USER}@localhost")).await;
    assert_eq!(status(&sidecar, &next), 299, "the first is WordPress's as those after it");
    assert_eq!(status(&sidecar, &next), 299);
    warning(&sidecar, 0, LEFT);
    assert_eq!(site.database.family_rows(&token.token_family).await.len(), 2);
    site.order("SET GLOBAL max_prepared_stmt_count = 16382").await;
    sidecar.wait_for_log(AGAIN);
    assert_eq!(status(&sidecar, &next), 200);
    drop(sidecar);

    // Read-only, but not for every user.
    let (user, url) = site.account(&["INSERT", "UPDATE"]).await;
    site.order("SET GLOBAL read_only = 1").await;
    let wp_config = site.wp_config(SITES_USER, "");
    let of_its_own = [(URL, url.as_str()), (CONFIG, wp_config.to_str().unwrap())];
    let (others, own) = (site.sidecar(&of_its_own), site.sidecar(&[]));
    assert!(warning(&others, 0, LEFT)["reason"].as_str().unwrap().contains("accepts no writes"));
    assert!(warning(&own, 0, UNAVAILABLE)["reason"].as_str().unwrap().contains("accepts no writes"));
    let mut root = server.root().await;
    root.query_drop(format!("USE {}", site.name())).await.unwrap();
    let token = site.token_by(&mut root).await;
    assert_eq!((status(&others, &token), status(&own, &token)), (299, 503));
    site.order(&format!("GRANT READ ONLY ADMIN ON *.* TO {user}@localhost")).await;
    others.wait_for_log(AGAIN);
    assert_eq!(status(&others, &token), 200);
    assert_eq!(status(&others, &random_hex::<16>()), 403);
    let admitted = site.sidecar(&of_its_own);
    admitted.wait_for_log(NATIVE);
    assert_eq!(status(&admitted, &random_hex::<16>()), 403);
}

impl Site<'_> {
    /// A token that only an administrator can insert.
    async fn token_by(&self, root: &mut mysql_async::Conn) -> String {
        let token = random_hex::<16>();
        root.query_drop(format!(
            "INSERT INTO wp_jwt_auth_tokens (hash, user_id, issued_at, expires_at, refresh_token_hash, \
             refresh_token_expires_at, token_family) VALUES (MD5(RAND()), {}, UTC_TIMESTAMP(), \
             UTC_TIMESTAMP() + INTERVAL 1 DAY, '{token}', UTC_TIMESTAMP() + INTERVAL 1 DAY, '{}')",
            self.user.id,
            random_hex::<16>()
        ))
        .await
        .unwrap();
        token
    }
}

/// A proxy sends SELECT statements to a lagging replica: a token missing there is not unknown, and
/// a read-only replica says nothing about the primary.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_reads_from_a_replica() {
    let pair = Pair::start().await;
    let database = rig::site(&pair.first.server).await;
    let user = database.insert_user("alice").await;
    let name = database.url().rsplit_once('/').unwrap().1.split_once('?').unwrap().0.to_owned();
    pair.first.order(&["CREATE USER split@localhost", &format!("GRANT ALL ON {name}.* TO split@localhost")]).await;
    let replica = pair.second.server.same(&database);
    eventually("the replica has the site and the user", || async {
        let mut root = pair.second.server.root().await;
        let known: Option<u8> = root.query_first("SELECT 1 FROM mysql.user WHERE user = 'split'").await.unwrap();
        known.is_some()
    })
    .await;
    eventually("the rights are granted", || async {
        let mut root = pair.second.server.root().await;
        root.query_drop("SHOW GRANTS FOR split@localhost").await.is_ok()
            && root.query::<String, _>("SHOW GRANTS FOR split@localhost").await.unwrap().len() > 1
    })
    .await;
    pair.second.order(&["STOP SLAVE SQL_THREAD"]).await;
    let splitter = Splitter::between(pair.first.server.socket(), pair.second.server.socket());
    let url = format!("mysql://split@{}/{name}", splitter.address());
    for indexed in [false, true] {
        if indexed {
            database.execute("ALTER TABLE wp_jwt_auth_tokens ADD INDEX (refresh_token_hash)").await;
        }
        let upstream = rig::wordpress();
        let environment = [(URL, url.as_str()), NO_ANALYTICS, ("WP_JWT_SIDECAR_REFRESH_REUSE_INTERVAL", "60s")];
        let sidecar = rig::sidecar(&database, upstream.address(), &environment);
        sidecar.wait_for_log("a proxy sends reads to other servers than writes");
        sidecar.wait_for_log(NATIVE);
        let token = database.insert_token(TokenState::Live, user.id).await;
        assert!(replica.token_row(token.id).await.is_none(), "it lags behind");
        let answer = refresh_at(sidecar.address(), &token.refresh_token);
        assert_eq!(answer.status(), 200, "{indexed}");
        let next = answer.json()["refresh_token"].as_str().unwrap().to_owned();
        let replayed = refresh_at(sidecar.address(), &token.refresh_token);
        assert_eq!(replayed.json()["refresh_token"].as_str(), Some(next.as_str()), "the same pair again, {indexed}");
        assert_eq!(status(&sidecar, &next), 200, "{indexed}");
        assert_eq!(status(&sidecar, &random_hex::<16>()), 403, "{indexed}");
        assert_eq!(database.family_rows(&token.token_family).await.len(), 3);
        let held: Vec<_> =
            splitter.read().into_iter().filter(|text| text.contains("FROM `wp_jwt_auth_tokens`")).collect();
        assert!(held.is_empty(), "{held:?}");
    }
    a_host_that_refuses(&pair, &database, user.id, &name).await;
}

/// Both hosts accept writes, as the nodes of a cluster do; one of them refuses the account.
async fn a_host_that_refuses(pair: &Pair, database: &TestDatabase, user: u64, name: &str) {
    let half = format!("GRANT SELECT ON {name}.* TO half@localhost");
    pair.first.order(&["CREATE USER half@localhost", &half, "SET GLOBAL rpl_semi_sync_master_enabled = 0"]).await;
    pair.second.order(&["START SLAVE SQL_THREAD"]).await;
    pair.second.take_over().await;
    pair.second.order(&[&format!("GRANT INSERT, UPDATE ON {name}.* TO half@localhost")]).await;
    let second = pair.second.server.same(database);
    let token = second.insert_token(TokenState::Live, user).await;
    let (upstream, hosts) = (rig::wordpress(), pair.hosts());
    let url = format!("mysql://half@localhost/{name}");
    let environment = [(URL, url.as_str()), ("WP_JWT_SIDECAR_WORDPRESS_DATABASE_HOSTS", hosts.as_str()), NO_ANALYTICS];
    let sidecar = rig::sidecar(database, upstream.address(), &environment);
    sidecar.wait_for_log("another one is used from now on");
    sidecar.wait_for_log(NATIVE);
    assert_eq!(status(&sidecar, &token.refresh_token), 200);
    assert!(!sidecar.log().iter().any(|line| line.contains(LEFT) || line.contains(UNAVAILABLE)));
}
