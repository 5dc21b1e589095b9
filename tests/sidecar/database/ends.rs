//! Connections end as the protocol requires, so the server logs none as aborted; and there are
//! never more than allowed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::Opts;
use mysql_async::prelude::Queryable;
use tempfile::TempDir;
use wp_jwt_sidecar::internals::wordpress::database::{Database as Pool, Hosts, Session};

use crate::support::mariadb::{Database, TestDatabase, TokenState};
use crate::support::rig::{self, eventually};
use crate::support::sidecar::{PATIENCE, command};

fn pool(database: &TestDatabase) -> Pool {
    Pool::new(Hosts::new(vec![Opts::from_url(database.url()).unwrap()]))
}

/// The number of connections that the server had to close because the client was gone, and of open
/// ones.
async fn aborted_and_open(root: &mut mysql_async::Conn) -> (u64, u64) {
    let mut numbers = Vec::new();
    for name in ["Aborted_clients", "Threads_connected"] {
        let row: (String, u64) = root.query_first(format!("SHOW GLOBAL STATUS LIKE '{name}'")).await.unwrap().unwrap();
        numbers.push(row.1);
    }
    (numbers[0], numbers[1])
}

/// Waits until `root` is the only connection. The server counts an aborted connection a moment
/// after removing it from the list of open ones, so the count must be stable for a while.
async fn aborted_when_quiet(root: &mut mysql_async::Conn) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let (aborted, open) = aborted_and_open(root).await;
        if open > 1 || aborted != last {
            assert!(Instant::now() < deadline, "{open} connections are still open");
            (last, since) = (aborted, Instant::now());
        } else if since.elapsed() > Duration::from_millis(250) {
            return aborted;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Start, refreshes, reload, commands, stop: none leaves an aborted connection.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_sees_no_aborted_connection() {
    let server = Database::private();
    let database = rig::site(&server).await;
    let user = database.insert_user("alice").await;
    let mut tokens = Vec::new();
    for _ in 0..20 {
        tokens.push(database.insert_token(TokenState::Live, user.id).await.refresh_token);
    }
    let mut root = server.root().await;
    // The test's own connections are dropped; from here on there are only the sidecar's.
    let before = aborted_when_quiet(&mut root).await;

    let directory = TempDir::new().unwrap();
    let file = directory.path().join("config.toml");
    let configure = |connections: u32| {
        fs::write(&file, format!("[wordpress]\ndatabase_connections = {connections}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    };
    configure(8);
    let upstream = rig::wordpress();
    let mut sidecar = rig::sidecar(&database, upstream.address(), &[("WP_JWT_SIDECAR_CONFIG", file.to_str().unwrap())]);
    sidecar.wait_for_log("refreshing natively");
    let refresh = |tokens: &[String]| {
        std::thread::scope(|scope| {
            let calls: Vec<_> =
                tokens.iter().map(|token| scope.spawn(|| rig::refresh_at(sidecar.address(), token).status())).collect();
            assert!(calls.into_iter().all(|call| call.join().unwrap() == 200));
        });
    };
    refresh(&tokens[..10]);
    configure(6);
    sidecar.signal("HUP");
    sidecar.wait_for_log("\"reloaded\"");
    refresh(&tokens[10..]);

    let environment = rig::command_environment(&database, upstream.address());
    let commands: [&[&str]; 4] = [&["check"], &["index"], &["index", "--apply"], &["doctor", "--no-php"]];
    for arguments in commands {
        let output = command().args(arguments).envs(environment.clone()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        // doctor reports problems of a site that an upstream only imitates.
        assert!(arguments[0] == "doctor" || output.status.success(), "{arguments:?}: {said}");
        assert!(!said.contains("cannot be used"), "{arguments:?}: {said}");
        assert_eq!(aborted_and_open(&mut root).await.0, before, "{arguments:?}: {said}");
    }
    sidecar.signal("TERM");
    let stopped = Instant::now();
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(stopped.elapsed() < Duration::from_millis(1_500), "the stop waits for no goodbye: {:?}", stopped.elapsed());
    assert_eq!(aborted_when_quiet(&mut root).await, before);

    // A dropped connection is counted.
    drop(database.connect().await);
    assert_eq!(aborted_when_quiet(&mut root).await, before + 1);
}

/// All except one of each mode are closed when they have been idle for too long, and these two are
/// kept alive.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_go_and_two_stay() {
    let database = Database::shared().create().await;
    // On an overloaded machine, a look that is late by more than half of this finds all of them too
    // old.
    let longest = Duration::from_secs(3);
    let pool = Arc::new(pool(&database).at_most(6).idle_for(longest));
    let keeping = Arc::clone(&pool);
    let keeping = tokio::spawn(async move { keeping.keep_two_ready().await });
    let mut sessions: Vec<Session> = Vec::new();
    for _ in 0..3 {
        sessions.push(pool.session().await.unwrap());
        sessions.push(pool.transactions().await.unwrap());
    }
    let last: BTreeSet<u32> = sessions[4..].iter().map(|session| session.name().id()).collect();
    sessions.into_iter().for_each(Session::give_back);
    assert_eq!((pool.pool().idle, pool.pool().busy, pool.pool().limit), (6, 0, 6));
    eventually("four are gone", async || pool.pool().idle == 2).await;
    // Longer than any may be idle.
    tokio::time::sleep(longest + longest / 4).await;
    let (first, second) = (pool.session().await.unwrap(), pool.transactions().await.unwrap());
    assert_eq!(BTreeSet::from([first.name().id(), second.name().id()]), last, "they are the two that were used last");
    assert_eq!(pool.connected.value(), 6);
    keeping.abort();
}

/// Connections of both modes together.
#[tokio::test(flavor = "multi_thread")]
async fn there_are_never_more_than_the_limit() {
    let server = Database::shared();
    let database = server.create().await;
    let name = database.url().split(['/', '?']).nth(3).unwrap().to_owned();
    let pool = pool(&database).at_most(4);
    let mut root = server.root().await;
    let mut open = async || -> u64 {
        let asked = format!("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE DB = '{name}'");
        root.query_first(asked).await.unwrap().unwrap()
    };
    for _ in 0..2 {
        let mut sessions = Vec::new();
        for _ in 0..4 {
            sessions.push(pool.session().await.unwrap());
        }
        sessions.into_iter().for_each(Session::give_back);
        let mut sessions = Vec::new();
        for _ in 0..4 {
            sessions.push(pool.transactions().await.unwrap());
        }
        // A connection that has sent COM_QUIT is gone in a moment.
        for _ in 0..100 {
            if open().await <= 4 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(open().await, 4);
        assert_eq!((pool.pool().busy, pool.pool().idle), (4, 0));
        sessions.into_iter().for_each(Session::give_back);
    }
}

/// A server may be configured to begin another transaction at each COMMIT, or to close the
/// connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_ends_the_transaction_and_nothing_else() {
    let server = Database::private();
    let database = server.create().await;
    let mut root = server.root().await;
    for completion_type in ["CHAIN", "RELEASE"] {
        root.query_drop(format!("SET GLOBAL completion_type = '{completion_type}'")).await.unwrap();
        let pool = pool(&database);
        let mut session = pool.transactions().await.unwrap();
        let name = session.name().id();
        for end in ["COMMIT", "ROLLBACK"] {
            session.conn().query_drop("START TRANSACTION").await.unwrap();
            session.conn().query_drop("UPDATE wp_users SET display_name = 'x'").await.unwrap();
            session.conn().query_drop(end).await.unwrap();
            let now = session.conn().query_first("SELECT CONNECTION_ID(), @@in_transaction").await.unwrap();
            assert_eq!(now.map(mysql_async::from_row::<(u32, u8)>), Some((name, 0)), "{completion_type}, {end}");
        }
    }
}

/// Dropped between two statements or within one, it releases its locks as soon as before.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_is_rolled_back_at_once() {
    let database = Database::shared().create().await;
    let user = database.insert_user("alice").await.id;
    let pool = pool(&database);
    let update = format!("UPDATE wp_users SET display_name = 'x' WHERE ID = {user}");
    for within in [false, true] {
        let mut session = pool.transactions().await.unwrap();
        session.conn().query_drop(update.as_str()).await.unwrap();
        if within {
            let asleep = session.conn().query_drop("SELECT SLEEP(0.05)");
            assert!(tokio::time::timeout(Duration::from_millis(10), asleep).await.is_err());
        }
        drop(session);
        let mut other = database.connect().await;
        other.query_drop("SET innodb_lock_wait_timeout = 2").await.unwrap();
        other.query_drop(update.as_str()).await.unwrap();
        let name: Option<String> =
            other.query_first(format!("SELECT display_name FROM wp_users WHERE ID = {user}")).await.unwrap();
        assert_eq!(name.as_deref(), Some("x"));
        other.query_drop("UPDATE wp_users SET display_name = 'alice'").await.unwrap();
    }
}
