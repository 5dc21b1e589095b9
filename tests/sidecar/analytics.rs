//! Analytics rows reach the table: in batches, each once, without references to what is gone, and
//! after the database was down.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::OptsBuilder;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wp_jwt_sidecar::internals::refresh::analytics::{Analytics, Event, EventResult, Failure, Table, write_behind};
use wp_jwt_sidecar::internals::refresh::country::Countries;
use wp_jwt_sidecar::internals::wordpress::database::Database as Pool;

use crate::support::mariadb::{Database, Row, TestDatabase, TokenState, random_hex};
use crate::support::rig::{NO_REUSE, Rig, eventually};

const TARGET: &str = "/wp-json/jwt-auth/v1/token/refresh";

struct Writing {
    analytics: Analytics,
    stop: CancellationToken,
    writer: JoinHandle<()>,
}

impl Writing {
    fn to(database: &TestDatabase) -> Writing {
        Writing::limited(database, 1_000_000)
    }

    /// Refused calls write at most `refusals` rows a second.
    fn limited(database: &TestDatabase, refusals: usize) -> Writing {
        let opts = mysql_async::Opts::from_url(database.url()).unwrap();
        let pool = Arc::new(Pool::new(OptsBuilder::from_opts(opts)));
        let table = || Table { prefix: database.prefix().to_owned(), blog_id: 1 };
        let (analytics, events) = Analytics::new(table(), Countries::new(None, None), refusals);
        let stop = CancellationToken::new();
        let writer = tokio::spawn(write_behind(events, pool, Arc::new(table()), stop.clone()));
        Writing { analytics, stop, writer }
    }

    fn record(&self, user_agent: &str, result: EventResult) {
        let event = Event {
            arrived: Instant::now(),
            client: IpAddr::from([203, 0, 113, 77]),
            anonymize_ip: true,
            user_agent: user_agent.to_owned(),
            method: http::Method::POST,
            target: TARGET.into(),
            plugin: "jwt-auth-pro/jwt-auth-pro.php".into(),
        };
        self.analytics.record(event, result);
    }

    /// Stops the writer; returns when it has written its queue.
    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(20), self.writer).await.unwrap().unwrap();
    }
}

fn failure() -> EventResult {
    EventResult::Failure(Failure::InvalidToken)
}

fn success(user_id: u64, token_id: u64) -> EventResult {
    EventResult::Success { user_id, token_id, token_family: Some("f".to_owned()) }
}

/// All rows, once there are `count`.
async fn rows(database: &TestDatabase, count: usize) -> Vec<Row> {
    eventually(&format!("{count} rows"), async || database.analytics_rows_after(0).await.len() >= count).await;
    database.analytics_rows_after(0).await
}

#[tokio::test]
async fn rows_are_written_soon_and_whole() {
    let database = Database::shared().create_with_prefix("site7_").await;
    let user = database.insert_user("ann").await;
    let token = database.insert_token(TokenState::Live, user.id).await;
    let writing = Writing::to(&database);
    writing.record("O\\'Neil", success(user.id, token.id));
    writing.record("", EventResult::Failure(Failure::UserNotFound));
    let rows = rows(&database, 2).await;
    let expected = [
        [Some("1"), None, Some(&*user.id.to_string()), Some(&*token.id.to_string()), Some("f"), Some("O\\'Neil")],
        [Some("2"), Some("jwt_auth_user_not_found"), None, None, Some(""), Some("")],
    ];
    for (row, expected) in rows.iter().zip(expected) {
        let columns = ["event_status", "failure_reason", "user_id", "token_id", "token_family", "user_agent"];
        assert_eq!(columns.map(|column| row.get(column)), expected);
        for (column, value) in [
            ("event_type", "token_refresh"),
            ("ip_address", "203.0.113.0"),
            ("country_code", "ZZ"),
            ("request_path", TARGET),
            ("request_method", "POST"),
            ("response_time", "0"),
            ("blog_id", "1"),
        ] {
            assert_eq!(row.get(column), Some(value), "{column}");
        }
    }
    let off = "SELECT id FROM site7_jwt_auth_analytics WHERE \
               event_timestamp NOT BETWEEN UTC_TIMESTAMP() - INTERVAL 1 MINUTE AND UTC_TIMESTAMP()";
    assert_eq!(database.rows(off).await, []);
    writing.end().await;
}

#[tokio::test]
async fn what_waits_is_written_at_the_end() {
    let database = Database::shared().create().await;
    let writing = Writing::to(&database);
    for number in 0..1_000 {
        writing.record(&number.to_string(), failure());
    }
    writing.end().await;
    let rows = database.analytics_rows_after(0).await;
    let agents: Vec<&str> = rows.iter().filter_map(|row| row.get("user_agent")).collect();
    let expected: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
    assert_eq!(agents, expected, "each once, in order");
}

#[tokio::test]
async fn refused_calls_write_so_many_rows_a_second() {
    let database = Database::shared().create().await;
    let user = database.insert_user("ann").await;
    let token = database.insert_token(TokenState::Live, user.id).await;
    let writing = Writing::limited(&database, 5);
    let begun = Instant::now();
    for _ in 0..50 {
        writing.record("refused", failure());
        writing.record("rotated", success(user.id, token.id));
    }
    // The number of the clock's seconds in which they were written.
    let most = 5 * (begun.elapsed().as_secs() as usize + 2);
    let skipped = writing.analytics.skipped() as usize;
    writing.end().await;
    let rows = database.analytics_rows_after(0).await;
    let count = |agent| rows.iter().filter(|row| row.get("user_agent") == Some(agent)).count();
    assert_eq!(count("rotated"), 50);
    assert_eq!(count("refused"), 50 - skipped);
    assert!((5..=most).contains(&count("refused")), "{} rows", count("refused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_refused_calls_may_be_switched_off() {
    let environment = [("WP_JWT_SIDECAR_REFRESH_ANALYTICS_REFUSALS", "0"), NO_REUSE];
    let mut rig = Rig::start_on(Database::shared(), &environment).await;
    let token = rig.token().await;
    let unknown = random_hex::<16>();
    for (token, status) in [(&unknown, 403), (&token.refresh_token, 200), (&token.refresh_token, 403)] {
        assert_eq!(rig.refresh(token).status(), status);
    }
    rig.sidecar.signal("TERM");
    assert!(rig.sidecar.wait().success());
    let rows = rig.database.analytics_rows_after(0).await;
    let statuses: Vec<_> = rows.iter().map(|row| row.get("event_status")).collect();
    assert_eq!(statuses, [Some("1")]);
}

#[tokio::test]
async fn rows_of_a_user_or_a_token_that_is_gone() {
    let database = Database::shared().create().await;
    let (ann, bob) = (database.insert_user("ann").await, database.insert_user("bob").await);
    let kept = database.insert_token(TokenState::Used, ann.id).await;
    let deleted = database.insert_token(TokenState::Used, ann.id).await;
    database.execute(&format!("DELETE FROM wp_jwt_auth_tokens WHERE id = {}", deleted.id)).await;
    database.delete_user(bob.id).await;
    let writing = Writing::to(&database);
    for (user, token) in [(&ann, &kept), (&ann, &deleted), (&bob, &kept), (&bob, &deleted)] {
        writing.record("", success(user.id, token.id));
    }
    writing.end().await;
    let rows = database.analytics_rows_after(0).await;
    let references: Vec<_> = rows.iter().map(|row| (row.get("user_id"), row.get("token_id"))).collect();
    let (ann, kept) = (ann.id.to_string(), kept.id.to_string());
    let (ann, kept) = (Some(&*ann), Some(&*kept));
    assert_eq!(references, [(ann, kept), (ann, None), (None, kept), (None, None)]);
}

#[tokio::test]
async fn a_row_that_does_not_fit_harms_no_other() {
    let database = Database::shared().create().await;
    database.execute("ALTER TABLE wp_jwt_auth_analytics MODIFY user_agent VARCHAR(3) NULL").await;
    let writing = Writing::to(&database);
    for agent in ["a", "too long", "b", "too long", "c"] {
        writing.record(agent, failure());
    }
    writing.end().await;
    let rows = database.analytics_rows_after(0).await;
    let agents: Vec<&str> = rows.iter().filter_map(|row| row.get("user_agent")).collect();
    assert_eq!(agents, ["a", "b", "c"]);
}

#[tokio::test]
async fn without_the_table_nothing_waits() {
    let database = Database::shared().create().await;
    database.execute("DROP TABLE wp_jwt_auth_analytics").await;
    let writing = Writing::to(&database);
    writing.record("", failure());
    let begun = Instant::now();
    writing.end().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_database_goes_and_comes_back() {
    let server = Database::private();
    let database = server.create().await;
    let writing = Writing::to(&database);
    writing.record("before", failure());
    rows(&database, 1).await;
    server.kill().await;
    for number in 0..300 {
        writing.record(&number.to_string(), failure());
    }
    // Long enough for attempts to fail.
    tokio::time::sleep(Duration::from_millis(700)).await;
    server.start().await;
    rows(&database, 301).await;
    writing.record("after", failure());
    writing.end().await;
    let rows = database.analytics_rows_after(0).await;
    let mut agents: Vec<String> = rows.iter().filter_map(|row| row.get("user_agent")).map(str::to_owned).collect();
    assert_eq!(agents.pop().as_deref(), Some("after"));
    assert_eq!(agents.remove(0), "before");
    assert_eq!(agents, (0..300).map(|number| number.to_string()).collect::<Vec<_>>(), "each once, in order");
}

#[tokio::test]
async fn the_end_does_not_wait_for_ever() {
    let server = Database::private();
    let database = server.create().await;
    server.stop().await;
    let writing = Writing::to(&database);
    writing.record("", failure());
    let begun = Instant::now();
    writing.end().await;
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(4) && took < Duration::from_secs(30), "{took:?}");
}
