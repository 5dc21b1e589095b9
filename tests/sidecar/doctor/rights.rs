//! The least privileges of a database user: the statements that the doctor proposes are sufficient
//! for everything, and without any one of them it reports what is missing.

use mysql_async::prelude::Queryable as _;
use serde_json::Value;

use super::{Report, lines, proposed, refreshes_natively, text};
use crate::support::mariadb::{Database, PASSWORD, PASSWORD_IN_URL, TestDatabase, TokenState, USERMETA};
use crate::support::rig::{self, eventually};
use crate::support::sidecar::command;

/// Enables everything that needs privileges.
const ALL_FEATURES: [(&str, &str); 7] = [
    ("WP_JWT_SIDECAR_CLEANUP_TOKENS_AFTER_DAYS", "1"),
    ("WP_JWT_SIDECAR_CLEANUP_ANALYTICS", "true"),
    ("WP_JWT_SIDECAR_REFRESH_REUSE_INTERVAL", "30s"),
    ("WP_JWT_SIDECAR_REFRESH_REUSE_DETECTION", "revoke_family"),
    (
        "WP_JWT_SIDECAR_REFRESH_FIELD",
        r#"[{ name = "login", value = { column = "login" } }, { name = "first", value = { meta = "first_name" } }]"#,
    ),
    ("WP_JWT_SIDECAR_JWT_CLAIM", r#"[{ path = "data.user.roles", value = { roles = "list" } }]"#),
    // Avoids waiting.
    ("WP_JWT_SIDECAR_UPSTREAM_KEEPALIVE_IDLE", "0s"),
];

/// The database as the proposed user.
fn as_proposed_user(database: &TestDatabase) -> TestDatabase {
    let (_, rest) = database.url().split_once('@').unwrap();
    TestDatabase::open(&format!("mysql://wp_jwt_sidecar:{PASSWORD_IN_URL}@{rest}"), database.prefix())
}

fn environment<'a>(database: &'a TestDatabase, upstream: &'a str) -> Vec<(&'static str, &'a str)> {
    let mut all = ALL_FEATURES.to_vec();
    all.extend([
        ("WP_JWT_SIDECAR_UPSTREAM_URL", upstream),
        ("WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL", database.url()),
        ("WP_JWT_SIDECAR_WORDPRESS_TABLE_PREFIX", database.prefix()),
    ]);
    all.extend(rig::SECRETS);
    // Skips watching an idle connection.
    all.push(("WP_JWT_SIDECAR_UPSTREAM_KEEPALIVE_IDLE", "0s"));
    all
}

fn missing(report: &Report) -> Vec<&Value> {
    report.all("rights.missing")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proposed_user_is_enough_for_everything_and_needs_all_of_it() {
    // A separate server, since users belong to the server.
    let server = Database::private();
    let database = rig::site(&server).await;
    database.execute(USERMETA).await;
    let roles = r#"a:1:{s:6:"editor";a:2:{s:4:"name";s:6:"Editor";s:12:"capabilities";a:0:{}}}"#;
    database.set_option("wp_user_roles", roles).await;
    let upstream = rig::wordpress();
    let url = format!("http://{}", upstream.address());
    let mut root = server.root().await;

    let report = Report::with(&[], &environment(&database, &url));
    assert!(missing(&report).is_empty() && report.all("rights.everywhere").is_empty(), "{:#}", report.json);
    let statements = proposed(report.the("ok", "rights.enough"));
    for statement in &statements {
        root.query_drop(statement).await.unwrap();
    }
    let user = as_proposed_user(&database);
    let report = Report::with(&[], &environment(&user, &url));
    assert!(missing(&report).is_empty(), "{:#}", report.json);
    assert!(lines(report.the("ok", "rights.enough")).is_empty(), "there is nothing more to propose");
    assert!(user.connect().await.query_drop("SELECT user_pass FROM wp_users").await.is_err(), "no passwords");

    it_refreshes_and_cleans_up(&database, &user, &upstream).await;
    it_adds_the_index_with_one_right_more(&database, &user, &url, &mut root).await;

    for grant in &statements[1..] {
        let (privileges, rest) = grant.strip_prefix("GRANT ").unwrap().split_once(" ON ").unwrap();
        let (table, account) = rest.split_once(" TO ").unwrap();
        // A comma within parentheses does not separate.
        let single = if privileges.contains("option_name")
            || privileges.contains("user_email")
            || privileges.contains("umeta_id")
        {
            vec![privileges]
        } else {
            privileges.split(", ").collect()
        };
        for privilege in single {
            root.query_drop(format!("REVOKE {privilege} ON {table} FROM {account}")).await.unwrap();
            let report = Report::with(&[], &environment(&user, &url));
            root.query_drop(grant).await.unwrap();
            let missing = missing(&report);
            assert_eq!(missing.len(), 1, "without {privilege} on {table}: {:#}", report.json);
            assert!(lines(missing[0]).contains(grant), "{missing:?}");
            let level = if table.contains("analytics") { "warning" } else { "problem" };
            assert_eq!(missing[0]["level"], level, "{missing:?}");
        }
    }
    too_much_is_told(&database, &url, &mut root).await;
}

async fn it_refreshes_and_cleans_up(
    database: &TestDatabase,
    user: &TestDatabase,
    upstream: &crate::support::raw::Upstream,
) {
    let alice = database.insert_user("alice").await;
    let old = database.insert_token(TokenState::Used, alice.id).await;
    database
        .execute(&format!(
            "UPDATE wp_jwt_auth_tokens SET revoked_at = UTC_TIMESTAMP() - INTERVAL 3 DAY WHERE id = {}",
            old.id
        ))
        .await;
    let newer = database.insert_token_of_family(TokenState::Live, alice.id, &old.token_family).await;
    database
        .execute(
            "INSERT INTO wp_jwt_auth_analytics (event_type, event_status, event_timestamp) \
             VALUES ('login', 1, UTC_TIMESTAMP() - INTERVAL 400 DAY)",
        )
        .await;
    let sidecar = rig::sidecar(user, upstream.address(), &ALL_FEATURES);
    sidecar.wait_for_log("refreshing natively");
    let pair = refreshes_natively(&sidecar, &newer.refresh_token);
    let again = refreshes_natively(&sidecar, &newer.refresh_token);
    assert_eq!(pair["refresh_token"], again["refresh_token"], "a lost answer is given again");
    eventually("the event", || async {
        !database.rows("SELECT id FROM wp_jwt_auth_analytics WHERE event_type = 'token_refresh'").await.is_empty()
    })
    .await;
    eventually("the cleanup", || async {
        database.token_row(old.id).await.is_none()
            && database.rows("SELECT id FROM wp_jwt_auth_analytics WHERE event_type = 'login'").await.is_empty()
    })
    .await;
}

async fn it_adds_the_index_with_one_right_more(
    database: &TestDatabase,
    user: &TestDatabase,
    url: &str,
    root: &mut mysql_async::Conn,
) {
    let index = |action: &str| {
        command().args(["index", action]).envs(environment(user, url)).output().unwrap().status.success()
    };
    assert!(!index("--apply"), "the proposed user may not change tables");
    database.fill_tokens(60_000).await;
    database.execute("ANALYZE TABLE wp_jwt_auth_tokens").await;
    let report = Report::with(&[], &environment(user, url));
    let finding = report.the("warning", "tables.index");
    assert!(text(&finding["fix"]).contains("wp-jwt-sidecar index"), "{finding}");
    let grant = &lines(finding)[0];
    root.query_drop(grant).await.unwrap();
    assert!(index("--apply"), "{grant} is enough");
    let report = Report::with(&[], &environment(user, url));
    assert!(text(&report.the("ok", "tables.index")["what"]).contains("wp_jwt_sidecar_refresh_token"));
    assert!(index("--drop"));
    root.query_drop(grant.replacen("GRANT", "REVOKE", 1).replace(" TO ", " FROM ")).await.unwrap();
    database.execute("TRUNCATE TABLE wp_jwt_auth_analytics").await;
    database.execute("DELETE FROM wp_jwt_auth_tokens").await;
}

async fn too_much_is_told(database: &TestDatabase, url: &str, root: &mut mysql_async::Conn) {
    root.query_drop(format!("CREATE USER mighty@localhost IDENTIFIED BY '{PASSWORD}'")).await.unwrap();
    root.query_drop("GRANT SELECT, FILE, SUPER ON *.* TO mighty@localhost").await.unwrap();
    let (_, rest) = database.url().split_once('@').unwrap();
    let mighty = TestDatabase::open(&format!("mysql://mighty:{PASSWORD_IN_URL}@{rest}"), "wp_");
    let report = Report::with(&[], &environment(&mighty, url));
    let finding = report.the("warning", "rights.everywhere");
    assert!(text(&finding["what"]).contains("SELECT, FILE, SUPER"), "{finding}");
    assert_eq!(missing(&report).len(), 2, "tokens and analytics: {:#}", report.json);
}
