//! What a rotation locks: only its own rows, by their primary keys.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use wp_jwt_sidecar::internals::declared::Read;
use wp_jwt_sidecar::internals::refresh::row_cache::RowRef;
use wp_jwt_sidecar::internals::refresh::store::{Child, Store};
use wp_jwt_sidecar::internals::wordpress::database::Database as Pool;

use crate::support::apps::Apps;
use crate::support::faults::{Fault, Relay};
use crate::support::mariadb::{Database, Row, TestDatabase, TokenState, USERMETA, random_hex};
use crate::support::rig::{self, Rig};

/// Rows locked by the transaction on `connection`, by the server's count.
async fn locked(root: &mut Conn, connection: u32) -> u64 {
    // The server does not refresh INNODB_TRX while it is read more often than every 0.1 s.
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    let statement =
        format!("SELECT trx_rows_locked FROM information_schema.INNODB_TRX WHERE trx_mysql_thread_id = {connection}");
    root.query_first(statement).await.unwrap().unwrap_or(0)
}

/// How many rows of `table` no other transaction has locked.
async fn free(database: &TestDatabase, table: &str) -> u64 {
    let mut other = database.connect().await;
    other.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await.unwrap();
    other.query_drop("START TRANSACTION").await.unwrap();
    let counted = format!("SELECT COUNT(*) FROM {table} FORCE INDEX (PRIMARY) FOR UPDATE SKIP LOCKED");
    let rows: Option<u64> = other.query_first(counted).await.unwrap();
    other.query_drop("ROLLBACK").await.unwrap();
    rows.unwrap()
}

async fn footprint(rows: u32, reads: &[Read]) {
    let server = Database::private();
    let database = server.create().await;
    let user = database.insert_user("alice").await;
    database.fill_tokens(rows).await;
    let opts = mysql_async::Opts::from_url(database.url()).unwrap();
    database.execute(USERMETA).await;
    // Of one key the first value counts, and keys are compared exactly.
    for (key, value) in
        [("First_Name", "Other"), ("first_name", "Alice"), ("first_name", "Later"), ("wp_capabilities", "a:0:{}")]
    {
        database.execute(&format!("INSERT INTO wp_usermeta VALUES (NULL, {}, '{key}', '{value}')", user.id)).await;
    }
    // The meta values of other users, as on a site: seven each.
    let others = "INSERT INTO wp_usermeta SELECT NULL, 1000 + seq DIV 7, ELT(1 + seq % 7, 'first_name', 'last_name', \
                  'wp_capabilities', 'wp_user_level', 'nickname', 'locale', 'session_tokens'), 'x' FROM seq_1_to_7000";
    database.execute(others).await;
    database.execute("ANALYZE TABLE wp_usermeta").await;
    let pool = Pool::new(OptsBuilder::from_opts(opts));
    let store = Store::declaring(pool, database.prefix(), "wp_users", reads, Some("wp_usermeta"));
    let mut root = server.root().await;
    root.query_drop("SET GLOBAL log_output = 'TABLE'").await.unwrap();
    root.query_drop("SET GLOBAL general_log = 1").await.unwrap();
    for size in [1, 2, 3, 5, 9] {
        for skip_locked in [false, true] {
            let mut ids = Vec::new();
            for _ in 0..size {
                ids.push(database.insert_token(TokenState::Live, user.id).await.id);
            }
            let rows: Vec<RowRef> = ids.iter().map(|id| RowRef::found(*id, Some(user.id))).collect();
            // Neither neighbours nor the newest.
            let stranger = database.insert_token(TokenState::Live, user.id).await;
            let total = free(&database, "wp_jwt_auth_tokens").await;
            let mut session = store.database.transactions().await.unwrap();
            let connection = session.conn().id();
            if skip_locked {
                let mut other = database.connect().await;
                let last = ids.last().unwrap();
                let held = format!("SELECT id FROM wp_jwt_auth_tokens WHERE id = {last} FOR UPDATE");
                other.query_drop("START TRANSACTION").await.unwrap();
                other.query_drop(held).await.unwrap();
                let found = store.lock(&mut session, &rows, true).await.unwrap();
                assert_eq!(found.iter().map(|row| row.id).collect::<Vec<_>>(), ids[..ids.len() - 1]);
                other.query_drop("ROLLBACK").await.unwrap();
                session.rollback().await.unwrap();
            }
            let found = store.lock(&mut session, &rows, skip_locked).await.unwrap();
            assert_eq!(found.iter().map(|row| row.id).collect::<Vec<_>>(), ids);
            let count = size as u64;
            assert_eq!(locked(&mut root, connection).await, count, "{size} of {total} rows");
            assert_eq!(free(&database, "wp_jwt_auth_tokens").await, total - count);
            assert!(found.iter().all(|row| row.user.as_ref().is_some_and(|found| found.id == user.id)));
            assert_eq!(free(&database, "wp_users").await, 1, "a password change must not wait");
            assert_eq!(free(&database, "wp_usermeta").await, 7_004, "nor a new name");
            let alice = Some(b"Alice".to_vec());
            assert!(found.iter().all(|row| row.user.iter().all(|user| reads.is_empty() || user.found[0] == alice)));
            let tokens: Vec<String> = ids.iter().map(|_| random_hex::<16>()).collect();
            let children: Vec<Child> = ids
                .iter()
                .zip(&tokens)
                .map(|(id, token)| Child {
                    parent: *id,
                    hash: random_hex::<16>(),
                    user_id: user.id,
                    issued_at: 1_800_000_000,
                    expires_at: 1_800_000_600,
                    refresh_token: token,
                    refresh_token_lifetime: 600,
                    family: Some("f"),
                    metadata: "{}".to_owned(),
                    user_agent: "",
                    ip_address: "::1".to_owned(),
                })
                .collect();
            store.insert(&mut session, &children).await.unwrap();
            store.revoke_parents(&mut session, &children).await.unwrap();
            assert!(locked(&mut root, connection).await <= 3 * count, "{size} of {total} rows");
            assert_eq!(free(&database, "wp_jwt_auth_tokens").await, total - count, "only the parents");
            // The plugin's own statements run meanwhile.
            let mut plugin = database.connect().await;
            plugin.query_drop("SET SESSION innodb_lock_wait_timeout = 1").await.unwrap();
            database.insert_token(TokenState::Live, user.id).await;
            plugin
                .query_drop(format!(
                    "UPDATE wp_jwt_auth_tokens SET last_used_at = UTC_TIMESTAMP() WHERE hash = '{}'",
                    stranger.hash
                ))
                .await
                .unwrap();
            plugin.query_drop("UPDATE wp_users SET user_pass = 'x'").await.unwrap();
            session.commit().await.unwrap();
            session.give_back();
        }
    }
    root.query_drop("SET GLOBAL general_log = 0").await.unwrap();
    // Once the user's meta rows are known, groups read them by their ids.
    let by_row = if reads.is_empty() { 0 } else { 8 };
    every_statement_uses_the_primary_key(&mut root, &database, rows, by_row).await;
}

/// The statements with their values, by the server's log.
async fn every_statement_uses_the_primary_key(root: &mut Conn, database: &TestDatabase, rows: u32, by_row: usize) {
    let said: Vec<String> = root
        .query(
            "SELECT CONVERT(argument USING utf8mb4) FROM mysql.general_log WHERE command_type = 'Execute' AND \
             (argument LIKE '%SELECT t.id, refresh%FOR UPDATE%' OR argument LIKE 'UPDATE `wp_jwt%SET revoked_at%')",
        )
        .await
        .unwrap();
    assert_eq!(said.len(), 25, "{said:#?}");
    assert_eq!(said.iter().filter(|statement| statement.contains("CASE t.id")).count(), by_row, "{said:#?}");
    let mut explaining = database.connect().await;
    for statement in said {
        let plan = plan(&mut explaining, &statement).await;
        assert!(of_locked(&plan).len() == 1, "{rows} rows: {statement}: {plan:?}");
        assert_eq!(plan[0].get("key"), Some("PRIMARY"), "{rows} rows: {statement}: {plan:?}");
        assert!(matches!(plan[0].get("type"), Some("const" | "range")), "{rows} rows: {statement}: {plan:?}");
        let read: u64 = plan[0].get("rows").unwrap().parse().unwrap();
        assert!(read <= 16, "{rows} rows: {statement}: {plan:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_tables_rows() {
    footprint(10, &[]).await;
    footprint(10, &[Read::Meta("first_name".to_owned()), Read::Capabilities, Read::Login]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_tables_rows() {
    footprint(30_000, &[]).await;
}

/// All statements of a sidecar on rows: rotations, replays, revoked families, lost commits, and the
/// cleanup. Locking statements use the primary key, and no read scans the whole table.
async fn every_statement(rows: u32) {
    let server = Database::private();
    let database = rig::site(&server).await;
    database.fill_tokens(rows).await;
    let user = database.insert_user("alice").await.id;
    let old = database.insert_token(TokenState::Live, user).await;
    // An id that is missing when the table is read, as that of an uncommitted login.
    let gone = database.insert_token(TokenState::Live, user).await.id;
    database.execute(&format!("DELETE FROM wp_jwt_auth_tokens WHERE id = {gone}")).await;
    database.insert_token_of_family(TokenState::Live, user, &old.token_family).await;
    let age =
        "revoked_at = UTC_TIMESTAMP() - INTERVAL 90 DAY, refresh_token_expires_at = UTC_TIMESTAMP() - INTERVAL 90 DAY";
    database.execute(&format!("UPDATE wp_jwt_auth_tokens SET {age} WHERE id = {}", old.id)).await;
    let mut root = server.root().await;
    database.execute("ANALYZE TABLE wp_jwt_auth_tokens").await;
    let relay = Relay::to(server.socket());
    let url = relay.url(database.url());
    let upstream = rig::wordpress();
    root.query_drop("SET GLOBAL log_output = 'TABLE'").await.unwrap();
    root.query_drop("SET GLOBAL general_log = 1").await.unwrap();
    let environment = [
        ("WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL", url.as_str()),
        ("WP_JWT_SIDECAR_REFRESH_REUSE_INTERVAL", "60s"),
        ("WP_JWT_SIDECAR_REFRESH_REUSE_DETECTION", "revoke_family"),
        ("WP_JWT_SIDECAR_CLEANUP_TOKENS_AFTER_DAYS", "30"),
    ];
    let sidecar = rig::sidecar(&database, upstream.address(), &environment);
    sidecar.wait_for_log("refreshing natively");
    sidecar.wait_for_log("the tokens of the table are known");
    sidecar.wait_for_log("old rows deleted");
    let address = sidecar.address();
    let token = database.insert_token(TokenState::Live, user).await;
    let call = token.refresh_token.clone();
    let waiting = std::thread::spawn(move || rig::refresh_at(address, &call));
    tokio::task::block_in_place(|| relay.strike(Fault::CutAfter));
    let next = waiting.join().unwrap().json()["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(rig::refresh_at(address, &next).status(), 200);
    assert_eq!(rig::refresh_at(address, &token.refresh_token).status(), 200, "a replay");
    let late =
        format!("UPDATE wp_jwt_auth_tokens SET revoked_at = revoked_at - INTERVAL 90 SECOND WHERE id = {}", token.id);
    database.execute(&late).await;
    assert_eq!(rig::refresh_at(address, &token.refresh_token).status(), 403);
    sidecar.wait_for_log("its family is revoked");
    root.query_drop("SET GLOBAL general_log = 0").await.unwrap();

    let said: Vec<String> = root
        .query(
            "SELECT CONVERT(argument USING utf8mb4) FROM mysql.general_log WHERE command_type = 'Execute' AND \
             argument LIKE '%`wp_jwt_auth_tokens`%' AND argument NOT LIKE 'INSERT%'",
        )
        .await
        .unwrap();
    let mut seen = HashSet::new();
    let mut explaining = database.connect().await;
    for statement in said {
        let plan = plan(&mut explaining, &statement).await;
        let kind = KINDS.iter().find(|(kind, _)| statement.starts_with(kind) || statement.contains(kind));
        let (kind, reads) = kind.unwrap_or_else(|| panic!("what is this? {statement}"));
        // For a row that was deleted meanwhile, the server shows no plan.
        if plan[0].get("Extra") == Some("Impossible WHERE noticed after reading const tables") {
            continue;
        }
        seen.insert(*kind);
        let (key, read) = (plan[0].get("key"), rows_read(&plan[0]));
        let said = format!("{rows} rows: {statement}: {plan:?}");
        match reads {
            Reads::AndLocks => assert!(of_locked(&plan).len() == 1 && key == Some("PRIMARY") && read <= 128, "{said}"),
            Reads::Few if rows > 1_000 => assert!(key.is_some() && read <= 128, "{said}"),
            Reads::Pages => assert!(plan.iter().all(|table| table.get("key").is_some()), "{said}"),
            Reads::Few => {}
        }
    }
    let missing: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).filter(|kind| !seen.contains(kind)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

async fn plan(explaining: &mut Conn, statement: &str) -> Vec<Row> {
    // EXPLAIN does not support SET STATEMENT.
    let statement = statement.trim_start_matches("SET STATEMENT innodb_lock_wait_timeout = 1 FOR ");
    let plan: Vec<mysql_async::Row> = explaining.query(format!("EXPLAIN {statement}")).await.unwrap();
    plan.into_iter().map(Row::from).collect()
}

/// The plan without the users and their meta, which are read in addition: one per row, by the
/// primary key, and some by the user or by the primary key.
fn of_locked(plan: &[Row]) -> &[Row] {
    let (plan, meta) =
        plan.split_at(plan.iter().position(|row| row.get("table") == Some("wp_usermeta")).unwrap_or(plan.len()));
    for row in meta {
        let by = (row.get("key"), row.get("type"));
        assert!(matches!(by, (Some("user_id"), Some("ref")) | (Some("PRIMARY"), Some("eq_ref" | "const"))), "{row:?}");
        assert!(rows_read(row) <= 16, "{row:?}");
    }
    match plan {
        [rest @ .., user]
            if user.get("table") == Some("wp_users")
                && user.get("key") == Some("PRIMARY")
                && matches!(user.get("type"), Some("eq_ref" | "const")) =>
        {
            rest
        }
        plan => plan,
    }
}

/// As EXPLAIN prints it: with a filter it is "3 (0%)".
fn rows_read(table: &Row) -> u64 {
    let rows = table.get("rows").and_then(|rows| rows.split(' ').next());
    rows.map_or(0, |rows| rows.parse().unwrap())
}

#[derive(PartialEq)]
enum Reads {
    /// Rows that it locks.
    AndLocks,
    /// By an index, if the table is large enough for the server to use one.
    Few,
    /// In the order of an index, a limited number at a time.
    Pages,
}

/// The statements by a part of their text. The first match counts.
const KINDS: [(&str, Reads); 11] = [
    ("DELETE FROM", Reads::AndLocks),
    ("UPDATE `", Reads::AndLocks),
    ("FOR UPDATE SKIP LOCKED", Reads::AndLocks),
    // Revoking a family, and looking for a lost commit's parent.
    ("SELECT t.id, refresh_token_hash, revoked_at IS NOT NULL", Reads::AndLocks),
    ("SELECT revoked_at IS NOT NULL", Reads::AndLocks),
    // Looking for a lost commit's child, and for a family's live rows.
    ("WHERE user_id = ", Reads::Few),
    ("WHERE token_family = ", Reads::Few),
    // The cleanup, the map, its newest rows and its gaps.
    ("SELECT t.id", Reads::Pages),
    ("SELECT id, IF(", Reads::Pages),
    ("WHERE id >= ", Reads::Pages),
    ("id BETWEEN ", Reads::Pages),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_of_a_small_table() {
    every_statement(10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_of_a_large_table() {
    every_statement(30_000).await;
}

/// Without an index on the family, the plugin's own statements occasionally deadlock with each
/// other. No statement of the sidecar's may be involved.
async fn not_by_us(done: mysql_async::Result<()>, server: &Database) {
    let Err(error) = done else { return };
    let met_deadlock = matches!(&error, mysql_async::Error::Server(error) if error.code == 1213);
    assert!(met_deadlock, "the plugin's statement failed: {error}");
    let status: Option<(String, String, String)> =
        server.root().await.query_first("SHOW ENGINE INNODB STATUS").await.unwrap();
    let (_, _, status) = status.unwrap();
    let deadlock = status.split("LATEST DETECTED DEADLOCK").nth(1).unwrap().split("\nTRANSACTIONS\n").next().unwrap();
    let members = deadlock.matches(") TRANSACTION:").count();
    assert!(members >= 2 && deadlock.matches("/* plugin */").count() == members, "{deadlock}");
}

/// The plugin's statements that log a user out everywhere, delete a session and add one.
#[tokio::test(flavor = "multi_thread")]
async fn the_plugins_own_writes_meet_no_deadlock_of_ours() {
    let server = Arc::new(Database::private());
    let rig = Rig::start_on(&server, &[("WP_JWT_SIDECAR_REFRESH_REUSE_INTERVAL", "60s")]).await;
    let apps = Apps::start(16, &rig.database, rig.user.id, rig.sidecar.address()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writes = Arc::new(AtomicUsize::new(0));
    let mut storm = Vec::new();
    for kind in 0..6 {
        let mut connection = rig.database.connect().await;
        let user = rig.database.insert_user("bob").await.id;
        let (stop, writes, server) = (Arc::clone(&stop), Arc::clone(&writes), Arc::clone(&server));
        let address = rig.sidecar.address();
        storm.push(tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let (token, family) = (random_hex::<16>(), random_hex::<16>());
                let login = "INSERT /* plugin */ INTO wp_jwt_auth_tokens (hash, user_id, issued_at, expires_at, refresh_token_hash, \
                             refresh_token_expires_at, token_family) VALUES (?, ?, UTC_TIMESTAMP(), UTC_TIMESTAMP(), ?, \
                             UTC_TIMESTAMP() + INTERVAL 1 DAY, ?)";
                let logged_in = connection.exec_drop(login, (&token, user, &token, &family)).await;
                not_by_us(logged_in, &server).await;
                // The same user's token is being refreshed when all the user's tokens are revoked
                // or the family is deleted.
                let refresh = tokio::task::spawn_blocking(move || rig::refresh_at(address, &token).status());
                let done = if kind % 2 == 0 {
                    let all = "UPDATE /* plugin */ wp_jwt_auth_tokens SET revoked_at = UTC_TIMESTAMP() \
                               WHERE user_id = ? AND revoked_at IS NULL";
                    connection.exec_drop(all, (user,)).await
                } else {
                    let family_of = "DELETE /* plugin */ FROM wp_jwt_auth_tokens WHERE token_family = ?";
                    connection.exec_drop(family_of, (&family,)).await
                };
                not_by_us(done, &server).await;
                let status = refresh.await.unwrap();
                assert!(matches!(status, 200 | 403), "{status}");
                writes.fetch_add(2, Ordering::SeqCst);
            }
        }));
    }
    tokio::task::block_in_place(|| apps.go_on(1_000));
    stop.store(true, Ordering::SeqCst);
    for task in storm {
        task.await.unwrap();
    }
    let report = apps.end();
    println!("{} writes beside {report:?}", writes.load(Ordering::SeqCst));
    assert!(report.lost.is_empty() && report.lost_unanswered == 0, "{report:?}");
    assert!(writes.load(Ordering::SeqCst) > 100);
}
