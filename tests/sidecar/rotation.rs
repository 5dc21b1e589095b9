//! One rotation per token, even with simultaneous calls; and nothing that a client sends or does
//! loses a session.
//!
//! With `reuse_interval = "0s"` one of many callers gets the pair and the others get 403; with the
//! default all get the same pair.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use serde_json::json;

use crate::support::mariadb::{Database, TestDatabase, Token, TokenState};
use crate::support::raw::{Connection, Message};
use crate::support::rig::{self, NO_REUSE, Rig, call, call_with, eventually, refresh_at};

const CLIENTS: usize = 64;

/// Rounds of each race; `SIDECAR_TEST_ROUNDS` sets another number.
fn rounds() -> usize {
    std::env::var("SIDECAR_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(100)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_at_the_same_instant_one_rotates() {
    let rig = Rig::start_on(Database::shared(), &[NO_REUSE]).await;
    race(&rig.database, rig.user.id, &[rig.sidecar.address()], Others::Refused).await;
    assert_eq!(rig.forwarded(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_at_two_sidecars_one_rotates() {
    let rig = Rig::start_on(Database::shared(), &[NO_REUSE]).await;
    let second = rig::sidecar(&rig.database, rig.upstream.address(), &[NO_REUSE]);
    second.wait_for_log("refreshing natively");
    race(&rig.database, rig.user.id, &[rig.sidecar.address(), second.address()], Others::Refused).await;
    assert_eq!(rig.forwarded(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_at_the_same_instant_all_get_the_one_pair_by_default() {
    let rig = Rig::start().await;
    race(&rig.database, rig.user.id, &[rig.sidecar.address()], Others::Served).await;
    assert_eq!(rig.forwarded(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_at_two_sidecars_all_get_the_one_pair_by_default() {
    let rig = Rig::start().await;
    let second = rig::sidecar(&rig.database, rig.upstream.address(), &[]);
    second.wait_for_log("refreshing natively");
    race(&rig.database, rig.user.id, &[rig.sidecar.address(), second.address()], Others::Served).await;
    assert_eq!(rig.forwarded(), 0);
}

/// What the callers get that did not rotate the token.
#[derive(Clone, Copy)]
pub(crate) enum Others {
    /// 403.
    Refused,
    /// The pair of the caller that did. Fewer rounds: each answer costs more of the machine's time.
    Served,
}

pub(crate) async fn race(database: &TestDatabase, user_id: u64, addresses: &[SocketAddr], others: Others) {
    let rounds = match others {
        Others::Refused => rounds(),
        Others::Served => rounds().div_ceil(4),
    };
    for round in 0..rounds {
        let token = database.insert_token(TokenState::Live, user_id).await;
        let answers = present_at_once(&token, addresses);
        let statuses: Vec<u16> = answers.iter().map(Message::status).collect();
        let successes = statuses.iter().filter(|status| **status == 200).count();
        let refusals = statuses.iter().filter(|status| **status == 403).count();
        let expected = match others {
            Others::Refused => (1, CLIENTS - 1),
            Others::Served => (CLIENTS, 0),
        };
        assert_eq!((successes, refusals), expected, "round {round}: {statuses:?}");
        let pairs: HashSet<(String, String)> = answers
            .iter()
            .filter(|answer| answer.status() == 200)
            .map(|answer| {
                ["access_token", "refresh_token"].map(|name| answer.json()[name].as_str().unwrap().to_owned())
            })
            .map(|[access, refresh]| (access, refresh))
            .collect();
        assert_eq!(pairs.len(), 1, "round {round}: one pair");
        let rows = database.family_rows(&token.token_family).await;
        let live = rows.iter().filter(|row| row.get("revoked_at").is_none()).count();
        assert_eq!((rows.len(), live), (2, 1), "round {round}");
    }
}

fn present_at_once(token: &Token, addresses: &[SocketAddr]) -> Vec<Message> {
    let barrier = Arc::new(Barrier::new(CLIENTS));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|at| {
            let mut client = Connection::to(addresses[at % addresses.len()]);
            let (barrier, bytes) = (Arc::clone(&barrier), call(&token.refresh_token));
            std::thread::spawn(move || {
                barrier.wait();
                client.send(bytes);
                client.response()
            })
        })
        .collect();
    clients.into_iter().map(|client| client.join().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_is_the_next_calls_token() {
    let rig = Rig::start_on(Database::shared(), &[NO_REUSE]).await;
    let first = rig.token().await;
    let mut token = first.refresh_token.clone();
    for _ in 0..20 {
        let answer = rig.refresh(&token);
        assert_eq!(answer.status(), 200);
        let next = answer.json()["refresh_token"].as_str().unwrap().to_owned();
        assert_eq!(rig.refresh(&token).status(), 403, "a used token");
        assert_ne!(next, token);
        token = next;
    }
    let rows = rig.database.family_rows(&first.token_family).await;
    assert_eq!(rows.len(), 21);
    let hashes: HashSet<_> = rows.iter().map(|row| row.get("hash").unwrap()).collect();
    assert_eq!(hashes.len(), 21, "every access token is unique, within a second, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_user_agent_costs_a_session() {
    let rig = Rig::start().await;
    let agents: [(Vec<u8>, &str); 6] = [
        (b"x".repeat(10_000), &"x".repeat(255)),
        ("\u{1f600}".repeat(300).into_bytes(), &"\u{1f600}".repeat(255)),
        (b"\xff\xfe\x00".iter().copied().filter(|byte| *byte != 0).collect(), ""),
        (b"O'Neil \"x\" <b>y</b>".to_vec(), "O\\'Neil \\\"x\\\" y"),
        (b"".to_vec(), ""),
        ("a\u{e9}\u{301}".into(), "a\u{e9}\u{301}"),
    ];
    for (agent, stored) in agents {
        let token = rig.token().await;
        let body = json!({"refresh_token": token.refresh_token}).to_string();
        let mut client = Connection::to(rig.sidecar.address());
        client
            .send(format!("POST {} HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/json\r\n", rig::ROUTE));
        client.send("User-Agent: ").send(&agent).send(format!("\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        assert_eq!(client.response().status(), 200, "{stored}");
        let rows = rig.database.family_rows(&token.token_family).await;
        assert_eq!(rows[1].get("user_agent"), Some(stored));
        let metadata: serde_json::Value = serde_json::from_str(rows[1].get("metadata").unwrap()).unwrap();
        assert_eq!(metadata["user_agent"], stored);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_another_charset_costs_no_session() {
    let stored_as = async |charset: &str, stored: &str| {
        let rig = Rig::start().await;
        rig.database
            .execute(&format!(
                "ALTER TABLE wp_jwt_auth_tokens MODIFY user_agent VARCHAR(20) CHARACTER SET {charset} NULL"
            ))
            .await;
        // The columns' types are read together with the settings, every few seconds.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let token = rig.token().await;
        let mut client = Connection::to(rig.sidecar.address());
        client.send(call_with(&json!({"refresh_token": token.refresh_token}), "User-Agent: a\u{1f600}\u{e9}\r\n"));
        assert_eq!(client.response().status(), 200, "{charset}");
        let rows = rig.database.family_rows(&token.token_family).await;
        assert_eq!(rows[1].get("user_agent"), Some(stored), "{charset}");
    };
    tokio::join!(stored_as("latin1", "a??"), stored_as("utf8mb3", "a\u{fffd}\u{e9}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_does_not_cut_its_rotation_short() {
    let rig = Rig::start().await;
    let token = rig.token().await;
    // A lock on the row keeps the rotation waiting until the client has left.
    let mut other = rig.database.connect().await;
    other.query_drop("START TRANSACTION").await.unwrap();
    other.exec_drop("SELECT id FROM wp_jwt_auth_tokens WHERE id = ? FOR UPDATE", (token.id,)).await.unwrap();
    let mut client = Connection::to(rig.sidecar.address());
    client.send(call(&token.refresh_token));
    eventually("the rotation waits for the row", || async {
        let waiting = "SELECT trx_id FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'";
        Database::shared().root().await.query_first::<u64, _>(waiting).await.unwrap().is_some()
    })
    .await;
    drop(client);
    tokio::time::sleep(Duration::from_millis(100)).await;
    other.query_drop("ROLLBACK").await.unwrap();
    eventually("the rotation is stored", || async { rig.database.family_rows(&token.token_family).await.len() == 2 })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_held_for_long_is_a_503_and_no_loss() {
    let rig = Rig::start().await;
    let token = rig.token().await;
    let mut other = rig.database.connect().await;
    other.query_drop("START TRANSACTION").await.unwrap();
    other.exec_drop("SELECT id FROM wp_jwt_auth_tokens WHERE id = ? FOR UPDATE", (token.id,)).await.unwrap();
    let answer = rig.refresh(&token.refresh_token);
    assert_eq!((answer.status(), answer.value("retry-after").as_deref()), (503, Some("1")));
    other.query_drop("ROLLBACK").await.unwrap();
    assert_eq!(rig.refresh(&token.refresh_token).status(), 200);
    assert_eq!(rig.forwarded(), 0, "a rotation that began is never forwarded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_another_case_finds_its_row() {
    let rig = Rig::start().await;
    let token = rig.token().await;
    let capitals = rig.refresh(&token.refresh_token.to_uppercase());
    assert_eq!(capitals.status(), 200);
    let again = rig.refresh(&token.refresh_token).json();
    for name in ["access_token", "refresh_token"] {
        assert_eq!(again[name], capitals.json()[name], "it is the same token, used a moment ago");
    }
    assert_eq!(rig.database.family_rows(&token.token_family).await.len(), 2);
}

/// Same as in the plugin: its `refresh_token_expires_at > now` is not true of NULL.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_never_expires_is_refused() {
    let rig = Rig::start().await;
    let token = rig.token().await;
    rig.database
        .execute(&format!("UPDATE wp_jwt_auth_tokens SET refresh_token_expires_at = NULL WHERE id = {}", token.id))
        .await;
    assert_eq!(rig.refresh(&token.refresh_token).status(), 403);
    assert_eq!(rig.database.family_rows(&token.token_family).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_away_and_comes_back() {
    let server = Database::private();
    let rig = Rig::start_on(&server, &[]).await;
    let known = rig.token().await;
    let known = rig.refresh(&known.refresh_token).json()["refresh_token"].as_str().unwrap().to_owned();
    let unseen = rig.token().await.refresh_token;
    server.stop().await;
    for token in [&known, &unseen] {
        assert_eq!(rig.refresh(token).status(), 299, "nothing had begun: WordPress answers");
    }
    let mut client = Connection::to(rig.sidecar.address());
    client.send("GET /page HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    assert_eq!(client.response().status(), 299, "forwarding goes on");
    tokio::time::sleep(Duration::from_secs(7)).await;
    let said =
        rig.sidecar.log().iter().filter(|line| line.contains("settings cannot be read; the sidecar retries")).count();
    assert_eq!(said, 1, "said once");
    server.start().await;
    for token in [&known, &unseen] {
        assert_eq!(rig.refresh(token).status(), 200, "refreshes go on without a restart");
    }
}

/// The database is not down but silent: connections stay open and nothing is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_database_holds_up_nothing_else() {
    let server = Database::private();
    let rig = Rig::start_on(&server, &[]).await;
    let known = rig.token().await;
    let known = rig.refresh(&known.refresh_token).json()["refresh_token"].as_str().unwrap().to_owned();
    let unseen = rig.token().await.refresh_token;
    server.freeze().await;
    // Long enough for the site's settings to be due for reading.
    tokio::time::sleep(Duration::from_secs(4)).await;
    for target in ["/page", "/?rest_route=/wp/v2/posts", "/wp-json/wp/v2/posts"] {
        let started = std::time::Instant::now();
        let mut client = Connection::to(rig.sidecar.address());
        client.send(format!("POST {target} HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(client.response().status(), 299, "{target}");
        assert!(started.elapsed() < Duration::from_secs(2), "{target} waited for the database");
    }
    for token in [&known, &unseen] {
        let status = rig.refresh(token).status();
        assert!(matches!(status, 299 | 503), "{status}");
    }
    server.thaw().await;
    for token in [&known, &unseen] {
        eventually("refreshes go on", || async { rig.refresh(token).status() == 200 }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_away_at_the_start() {
    let server = Database::private();
    let database = rig::site(&server).await;
    let user = database.insert_user("alice").await;
    let token = database.insert_token(TokenState::Live, user.id).await;
    server.stop().await;
    let upstream = rig::wordpress();
    let sidecar = rig::sidecar(&database, upstream.address(), &[]);
    sidecar.wait_for_log("settings cannot be read; the sidecar retries");
    assert_eq!(refresh_at(sidecar.address(), &token.refresh_token).status(), 299);
    server.start().await;
    sidecar.wait_for_log("refreshing natively");
    assert_eq!(refresh_at(sidecar.address(), &token.refresh_token).status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_killed_loses_nothing() {
    let server = Database::private();
    let rig = Rig::start_on(&server, &[]).await;
    for _ in 0..3 {
        let token = rig.token().await;
        let mut client = Connection::to(rig.sidecar.address());
        client.send(call(&token.refresh_token));
        server.kill().await;
        let answer = client.response();
        server.start().await;
        let rows = rig.database.family_rows(&token.token_family).await;
        match answer.status() {
            200 => {
                let next = answer.json()["refresh_token"].as_str().unwrap().to_owned();
                assert_eq!(rows.len(), 2, "an answer is never without its row");
                assert_eq!(rig.refresh(&next).status(), 200);
            }
            299 => assert_eq!(rows.len(), 1, "what was forwarded had not begun"),
            status => assert_eq!(status, 503),
        }
        let live = rig.database.family_rows(&token.token_family).await;
        assert_eq!(live.iter().filter(|row| row.get("revoked_at").is_none()).count(), 1);
    }
}
