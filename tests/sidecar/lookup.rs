//! A token's row is found without reading the table: by the index, or by a map of all live tokens.

mod under_way;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};
use wp_jwt_sidecar::internals::refresh::live_tokens::LiveTokens;
use wp_jwt_sidecar::internals::refresh::lookup::LookUps;
use wp_jwt_sidecar::internals::refresh::row_cache::RowCache;
use wp_jwt_sidecar::internals::refresh::store::Store;
use wp_jwt_sidecar::internals::wordpress::database::Database as Pool;

use crate::support::mariadb::{Database, TestDatabase, TokenState, random_hex};
use crate::support::raw::Connection;
use crate::support::rig::{self, Rig, call, eventually};

const FILLED: &str = "the tokens of the table are known";

/// Rows that the server read by table scans.
async fn rows_scanned(root: &mut Conn) -> u64 {
    let status: Option<(String, u64)> =
        root.query_first("SHOW GLOBAL STATUS LIKE 'Handler_read_rnd_next'").await.unwrap();
    status.unwrap().1
}

/// How often the whole table was asked for a token, by the server's log, which is then cleared.
async fn look_ups(root: &mut Conn) -> Vec<String> {
    root.query(
        "SELECT CONVERT(argument USING utf8mb4) FROM mysql.general_log \
         WHERE command_type = 'Execute' AND argument LIKE '%WHERE refresh\\_token\\_hash IN%'",
    )
    .await
    .unwrap()
}

async fn log_statements(root: &mut Conn) {
    for statement in [
        "SET GLOBAL general_log = 0",
        "SET GLOBAL log_output = 'TABLE'",
        "TRUNCATE mysql.general_log",
        "SET GLOBAL general_log = 1",
    ] {
        root.query_drop(statement).await.unwrap();
    }
}

/// A sidecar on a separate server, whose table had `rows` rows before.
async fn rig(server: &Database, rows: u32, environment: &[(&str, &str)]) -> Rig {
    let database = rig::site(server).await;
    database.fill_tokens(rows).await;
    let user = database.insert_user("alice").await;
    Rig::of(database, user, environment)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_map_no_token_costs_a_scan() {
    let server = Database::private();
    let database = rig::site(&server).await;
    database.fill_tokens(30_000).await;
    let user = database.insert_user("alice").await;
    let before = database.insert_token(TokenState::Live, user.id).await;
    let rig = Rig::of(database, user, &[]);
    rig.sidecar.wait_for_log(FILLED);
    let mut root = server.root().await;
    log_statements(&mut root).await;
    let scanned = rows_scanned(&mut root).await;
    assert_eq!(rig.refresh(&before.refresh_token).status(), 200, "there at the start");
    let after = rig.token().await;
    assert_eq!(rig.refresh(&after.refresh_token.to_uppercase()).status(), 200, "a new login");
    for _ in 0..20 {
        assert_eq!(rig.refresh(&random_hex::<16>()).status(), 403);
    }
    assert_eq!(look_ups(&mut root).await, Vec::<String>::new());
    let scanned = rows_scanned(&mut root).await - scanned;
    assert!(scanned < 30_000, "{scanned} rows scanned");
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_committed_out_of_order_are_found() {
    let server = Database::private();
    let rig = rig(&server, 100, &[]).await;
    rig.sidecar.wait_for_log(FILLED);
    let mut root = server.root().await;
    log_statements(&mut root).await;
    // The lower id stays uncommitted while the higher is committed, presented and rotated.
    let mut slow = rig.database.connect().await;
    slow.query_drop("START TRANSACTION").await.unwrap();
    let (low, low_id) = insert(&mut slow, rig.user.id).await;
    let high = rig.token().await;
    assert!(low_id < high.id);
    let answer = rig.refresh(&high.refresh_token);
    assert_eq!(answer.status(), 200);
    let next = answer.json()["refresh_token"].as_str().unwrap().to_owned();
    // A miss reads the new rows again, and the gap with them.
    assert_eq!(rig.refresh(&random_hex::<16>()).status(), 403);
    assert_eq!(rig.refresh(&next).status(), 200);
    slow.query_drop("COMMIT").await.unwrap();
    assert_eq!(rig.refresh(&low).status(), 200);
    assert_eq!(look_ups(&mut root).await, Vec::<String>::new(), "without a scan");
}

/// Every rotation moves the end of the seen ids, even while the gaps before it are being read.
#[tokio::test(flavor = "multi_thread")]
async fn logins_beside_rotations_are_found() {
    let server = Database::private();
    let rig = rig(&server, 100, &[]).await;
    rig.sidecar.wait_for_log(FILLED);
    let mut slow = rig.database.connect().await;
    slow.query_drop("START TRANSACTION").await.unwrap();
    let _gap = insert(&mut slow, rig.user.id).await;
    let (address, stop) = (rig.sidecar.address(), Arc::new(AtomicBool::new(false)));
    let mut apps = Vec::new();
    for _ in 0..4 {
        let (mut token, stop) = (rig.token().await.refresh_token, Arc::clone(&stop));
        apps.push(std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let answer = rig::refresh_at(address, &token);
                assert_eq!(answer.status(), 200);
                token = answer.json()["refresh_token"].as_str().unwrap().to_owned();
            }
        }));
    }
    let mut logins = rig.database.connect().await;
    let mut answers = Vec::new();
    for _ in 0..300 {
        let (token, _) = insert(&mut logins, rig.user.id).await;
        answers.push(rig::refresh_at(address, &token).status());
    }
    stop.store(true, Ordering::SeqCst);
    for app in apps {
        app.join().unwrap();
    }
    assert_eq!(answers, vec![200; 300]);
}

async fn insert(connection: &mut Conn, user: u64) -> (String, u64) {
    let token = random_hex::<16>();
    connection
        .exec_drop(
            "INSERT INTO wp_jwt_auth_tokens (hash, user_id, issued_at, expires_at, refresh_token_hash, \
             refresh_token_expires_at, token_family) VALUES (?, ?, UTC_TIMESTAMP(), UTC_TIMESTAMP(), ?, \
             UTC_TIMESTAMP() + INTERVAL 1 DAY, ?)",
            (random_hex::<16>(), user, &token, random_hex::<16>()),
        )
        .await
        .unwrap();
    (token, connection.last_insert_id().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_emptied_is_read_again() {
    let server = Database::private();
    let rig = rig(&server, 5_000, &[]).await;
    rig.sidecar.wait_for_log(FILLED);
    rig.database.execute("SET FOREIGN_KEY_CHECKS = 0").await;
    let mut connection = rig.database.connect().await;
    for statement in ["SET FOREIGN_KEY_CHECKS = 0", "TRUNCATE wp_jwt_auth_tokens"] {
        connection.query_drop(statement).await.unwrap();
    }
    let token = rig.token().await;
    assert!(token.id < 10, "ids start again");
    assert_eq!(rig.refresh(&token.refresh_token).status(), 200);
}

/// As when a table is copied or restored from a backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_has_another_id_than_it_had_is_found() {
    for indexed in [false, true] {
        let server = Database::private();
        let rig = rig(&server, 100, &[]).await;
        rig.sidecar.wait_for_log(FILLED);
        if indexed {
            add_index(&rig.database).await;
        }
        let answer = rig.refresh(&rig.token().await.refresh_token);
        assert_eq!(answer.status(), 200);
        let next = answer.json()["refresh_token"].as_str().unwrap().to_owned();
        let other = format!("UPDATE wp_jwt_auth_tokens SET id = id + 1000 WHERE refresh_token_hash = '{next}'");
        rig.database.execute(&other).await;
        let answer = rig.refresh(&next);
        assert_eq!(answer.status(), 200, "indexed: {indexed}");

        // A row that contains another token now belongs to that token.
        let next = answer.json()["refresh_token"].as_str().unwrap().to_owned();
        let other = random_hex::<16>();
        let change = format!("refresh_token_hash = '{other}' WHERE refresh_token_hash = '{next}'");
        rig.database.execute(&format!("UPDATE wp_jwt_auth_tokens SET {change}")).await;
        assert_eq!(rig.refresh(&next).status(), 403, "indexed: {indexed}");
        let answer = rig.refresh(&other);
        assert_eq!(answer.status(), 200, "indexed: {indexed}");

        // A row that belongs to another user now is that user's.
        let next = answer.json()["refresh_token"].as_str().unwrap().to_owned();
        let user = rig.database.insert_user("bob").await.id;
        let change = format!("user_id = {user} WHERE refresh_token_hash = '{next}'");
        rig.database.execute(&format!("UPDATE wp_jwt_auth_tokens SET {change}")).await;
        let answer = rig.refresh(&next).json();
        assert_eq!(answer["user_id"].as_u64(), Some(user), "indexed: {indexed}");
        let claims = answer["access_token"].as_str().unwrap().split('.').nth(1).unwrap().to_owned();
        let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        assert!(claims.contains(&format!(r#""user":{{"id":"{user}"}}"#)), "{claims}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_without_room_refuses_no_live_token() {
    let server = Database::private();
    let database = rig::site(&server).await;
    let user = database.insert_user("alice").await;
    let tokens = database.insert_tokens(40, TokenState::Live, user.id).await;
    let rig = Rig::of(database, user, &[("WP_JWT_SIDECAR_REFRESH_KNOWN_TOKENS", "10")]);
    rig.sidecar.wait_for_log(FILLED);
    for token in tokens {
        assert_eq!(rig.refresh(&token.refresh_token).status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_look_for_many_and_none_twice() {
    let server = Database::private();
    let database = rig::site(&server).await;
    database.fill_tokens(20_000).await;
    database.execute("UPDATE wp_jwt_auth_tokens SET refresh_token_expires_at = UTC_TIMESTAMP() + INTERVAL 1 DAY").await;
    let upstream = rig::wordpress();
    let sidecar = rig::sidecar(&database, upstream.address(), &[("WP_JWT_SIDECAR_REFRESH_KNOWN_TOKENS", "10")]);
    sidecar.wait_for_log("refreshing natively");
    sidecar.wait_for_log(FILLED);
    let mut root = server.root().await;
    log_statements(&mut root).await;
    let unknown: Vec<String> = (0..40).map(|_| random_hex::<16>()).collect();
    for _ in 0..2 {
        let calls: Vec<_> = unknown
            .iter()
            .map(|token| {
                let mut client = Connection::to(sidecar.address());
                client.send(call(token));
                client
            })
            .collect();
        for mut call in calls {
            assert_eq!(call.response().status(), 403);
        }
    }
    let look_ups = look_ups(&mut root).await;
    assert!(look_ups.len() < 20, "{} times the whole table", look_ups.len());
    for token in unknown {
        // Padded statements contain their last token several times.
        assert_eq!(look_ups.iter().filter(|said| said.contains(&token)).count(), 1, "never twice");
    }
}

/// By the index, and without room in the map, when each look-up reads the whole table.
#[tokio::test(flavor = "multi_thread")]
async fn never_more_than_two_looks_at_a_time() {
    for indexed in [true, false] {
        let server = Database::private();
        let database = rig::site(&server).await;
        let environment: &[(&str, &str)] = match indexed {
            true => &[],
            false => &[("WP_JWT_SIDECAR_REFRESH_KNOWN_TOKENS", "1")],
        };
        if indexed {
            add_index(&database).await;
        } else {
            database.fill_tokens(100_000).await;
            let user = database.insert_user("alice").await.id;
            database.insert_tokens(10, TokenState::Live, user).await;
        }
        let upstream = rig::wordpress();
        let sidecar = rig::sidecar(&database, upstream.address(), environment);
        sidecar.wait_for_log("refreshing natively");
        sidecar.wait_for_log(if indexed { "listening" } else { FILLED });
        let mut root = server.root().await;
        let mut gate = database.connect().await;
        if indexed {
            gate.query_drop("LOCK TABLES wp_jwt_auth_tokens WRITE").await.unwrap();
        }
        let mut calls = Vec::new();
        let mut most = 0;
        // A slow machine must ask more often to see two at once.
        for round in 0..400 {
            if round >= 40 && most >= 2 {
                break;
            }
            for _ in 0..8 {
                let mut client = Connection::to(sidecar.address());
                client.send(call(&random_hex::<16>()));
                calls.push(client);
            }
            // A statement whose result was sent may still be cleaning up when the next begins.
            let statement = "SELECT COUNT(*) FROM information_schema.PROCESSLIST \
                             WHERE INFO LIKE '%SELECT id, refresh\\_token\\_hash, revoked%' AND ID <> CONNECTION_ID() \
                             AND STATE IN ('Waiting for table metadata lock', 'Sending data', 'executing')";
            let looking: Option<u64> = root.query_first(statement).await.unwrap();
            most = most.max(looking.unwrap());
        }
        gate.query_drop("UNLOCK TABLES").await.unwrap();
        for mut call in calls {
            assert!(matches!(call.response().status(), 403 | 503));
        }
        assert_eq!(most, 2, "indexed: {indexed}");
    }
}

/// WordPress would wait for it as well, with a process per call.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_locked_is_not_waited_for_at_wordpress() {
    for indexed in [false, true] {
        let server = Database::private();
        let database = rig::site(&server).await;
        let user = database.insert_user("alice").await.id;
        if indexed {
            add_index(&database).await;
        }
        let upstream = rig::wordpress();
        let sidecar = rig::sidecar(&database, upstream.address(), &[]);
        sidecar.wait_for_log("refreshing natively");
        sidecar.wait_for_log(if indexed { "listening" } else { FILLED });
        let token = database.insert_token(TokenState::Live, user).await.refresh_token;
        let mut gate = database.connect().await;
        gate.query_drop("LOCK TABLES wp_jwt_auth_tokens WRITE").await.unwrap();
        for _ in 0..3 {
            assert_eq!(rig::refresh_at(sidecar.address(), &token).status(), 503, "indexed: {indexed}");
        }
        eventually("nothing waits for the table in the server any more", || async {
            let statement = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE STATE LIKE 'Waiting for table%'";
            server.root().await.query_first::<u64, _>(statement).await.unwrap() == Some(0)
        })
        .await;
        gate.query_drop("UNLOCK TABLES").await.unwrap();
        assert_eq!(rig::refresh_at(sidecar.address(), &token).status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_index_the_index_is_used() {
    let server = Database::private();
    let rig = rig(&server, 30_000, &[]).await;
    rig.sidecar.wait_for_log(FILLED);
    let mut root = server.root().await;
    add_index(&rig.database).await;
    looks_by_index(&server, &rig).await;
    let scanned = rows_scanned(&mut root).await;
    for _ in 0..20 {
        let token = rig.token().await;
        assert_eq!(rig.refresh(&token.refresh_token.to_uppercase()).status(), 200);
        assert_eq!(rig.refresh(&random_hex::<16>()).status(), 403);
    }
    let scanned = rows_scanned(&mut root).await - scanned;
    assert!(scanned < 30_000, "{scanned} rows scanned");
}

/// The columns are read with the site's settings, every few seconds; until then the map is used.
async fn looks_by_index(server: &Database, rig: &Rig) {
    log_statements(&mut server.root().await).await;
    eventually("a look-up by the index", || async {
        assert_eq!(rig.refresh(&random_hex::<16>()).status(), 403);
        !look_ups(&mut server.root().await).await.is_empty()
    })
    .await;
}

/// By its statistics, the server would rather read the whole table; and it does not use an index
/// that it must ignore.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_few_tokens_is_used_and_may_be_ignored() {
    let server = Database::private();
    let rig = rig(&server, 30_000, &[]).await;
    rig.sidecar.wait_for_log(FILLED);
    let mut root = server.root().await;
    for statement in [
        "UPDATE wp_jwt_auth_tokens SET refresh_token_hash = NULL",
        "ALTER TABLE wp_jwt_auth_tokens ADD INDEX `an ``odd`` one` (refresh_token_hash)",
        "ANALYZE TABLE wp_jwt_auth_tokens",
    ] {
        rig.database.execute(statement).await;
    }
    looks_by_index(&server, &rig).await;
    let scanned = rows_scanned(&mut root).await;
    let address = rig.sidecar.address();
    for _ in 0..5 {
        let mut calls: Vec<Connection> = (0..64).map(|_| Connection::to(address)).collect();
        for client in &mut calls {
            client.send(call(&random_hex::<16>()));
        }
        assert!(calls.iter_mut().all(|client| client.response().status() == 403));
    }
    assert!(look_ups(&mut root).await.iter().any(|look| look.matches(',').count() > 16), "many in one");
    let scanned = rows_scanned(&mut root).await - scanned;
    assert!(scanned < 30_000, "{scanned} rows scanned");

    rig.database.execute("ALTER TABLE wp_jwt_auth_tokens ALTER INDEX `an ``odd`` one` IGNORED").await;
    assert_eq!(rig.refresh(&rig.token().await.refresh_token).status(), 200);
    eventually("the map takes the index's place", || async {
        let before = look_ups(&mut server.root().await).await.len();
        assert_eq!(rig.refresh(&random_hex::<16>()).status(), 403);
        look_ups(&mut server.root().await).await.len() == before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_is_shown_added_and_removed() {
    let database = rig::site(Database::shared()).await;
    database.fill_tokens(1_000).await;
    let user = database.insert_user("alice").await;
    database.insert_token(TokenState::Live, user.id).await;
    let database = &database;
    let index = async |arguments: &[&str]| {
        let mut command = crate::support::sidecar::command();
        command
            .args(["index", "--upstream", "http://127.0.0.1:9"])
            .args(arguments)
            .env("WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL", database.url())
            .env("WP_JWT_SIDECAR_WORDPRESS_TABLE_PREFIX", database.prefix())
            .envs(rig::SECRETS);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        let is_there = !database
            .rows("SHOW INDEX FROM wp_jwt_auth_tokens WHERE Column_name = 'refresh_token_hash'")
            .await
            .is_empty();
        (said, is_there)
    };
    let (said, is_there) = index(&[]).await;
    assert!(
        said.contains("1001 rows, 1 of them live") && said.contains("none") && said.contains("LOCK=NONE"),
        "{said}"
    );
    assert!(!is_there);
    let (said, is_there) = index(&["--apply"]).await;
    assert!(said.contains("done in") && is_there, "{said}");
    assert!(index(&["--apply"]).await.0.contains("nothing to do"));
    assert!(index(&[]).await.0.contains("index on refresh_token_hash: wp_jwt_sidecar_refresh_token"));
    // A prefix of the column is sufficient for look-ups.
    let plan = database.rows("EXPLAIN SELECT id FROM wp_jwt_auth_tokens WHERE refresh_token_hash IN ('a', 'b')").await;
    assert_eq!(plan[0].get("key"), Some("wp_jwt_sidecar_refresh_token"));
    let (said, is_there) = index(&["--drop"]).await;
    assert!(said.contains("done in") && !is_there, "{said}");
    assert!(index(&["--drop"]).await.0.contains("nothing to do"));
    add_index(database).await;
    let (said, is_there) = index(&["--drop"]).await;
    assert!(said.contains("not this program's") && is_there, "{said}");
}

async fn add_index(database: &TestDatabase) {
    database.execute("ALTER TABLE wp_jwt_auth_tokens ADD INDEX some_name (refresh_token_hash)").await;
}

/// A reload makes new parts: the old ones must not stay in memory.
#[tokio::test]
async fn who_looks_up_ends_with_who_asks() {
    let database = Database::shared().create().await;
    let opts = OptsBuilder::from_opts(Opts::from_url(database.url()).unwrap());
    let store = Arc::new(Store::new(Pool::new(opts), database.prefix(), "wp_users"));
    let tokens = Arc::new(RowCache::new(10, None));
    let map = Arc::new(LiveTokens::new(Arc::clone(&store), Arc::clone(&tokens), None));
    let tasks = tokio::runtime::Handle::current().metrics();
    let before = tasks.num_alive_tasks();
    let look_ups = LookUps::start(Arc::clone(&store), tokens, map, Arc::default());
    tokio::task::yield_now().await;
    assert!(Arc::strong_count(&store) > 1 && tasks.num_alive_tasks() > before);
    drop(look_ups);
    eventually("the workers end", async || tasks.num_alive_tasks() == before && Arc::strong_count(&store) == 1).await;
}
