//! Rotations share a transaction and nothing else: a faulty one does not affect the others.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use mysql_async::prelude::Queryable;

use crate::support::mariadb::{Database, Token, TokenState, random_hex};
use crate::support::raw::{Connection, Message};
use crate::support::rig::{NO_REUSE, Rig, call, eventually};

/// Presents `token` on a new connection, in its own thread.
fn present(address: SocketAddr, token: &str) -> JoinHandle<Message> {
    let bytes = call(token);
    std::thread::spawn(move || {
        let mut client = Connection::to(address);
        client.send(bytes);
        client.response()
    })
}

/// Delays all rotations, so that those that arrive meanwhile form groups.
async fn gather(rig: &Rig, tokens: &[String]) -> Vec<u16> {
    // A miss makes the sidecar read all new rows, so that none has to be looked up later.
    assert_eq!(rig.refresh(&random_hex::<16>()).status(), 403);
    let mut gate = rig.database.connect().await;
    gate.query_drop("LOCK TABLES wp_jwt_auth_tokens READ").await.unwrap();
    let calls: Vec<_> = tokens.iter().map(|token| present(rig.sidecar.address(), token)).collect();
    // By then everything is in the queue; a late one is a group of its own and does no harm.
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    gate.query_drop("UNLOCK TABLES").await.unwrap();
    calls.into_iter().map(|call| call.join().unwrap().status()).collect()
}

impl Rig {
    async fn tokens(&self, count: usize, state: TokenState) -> Vec<Token> {
        self.database.insert_tokens(count, state, self.user.id).await
    }

    async fn live_rows(&self, token: &Token) -> (usize, usize) {
        let rows = self.database.family_rows(&token.token_family).await;
        (rows.len(), rows.iter().filter(|row| row.get("revoked_at").is_none()).count())
    }
}

fn texts(tokens: &[Token]) -> impl Iterator<Item = String> {
    tokens.iter().map(|token| token.refresh_token.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_a_group_are_independent() {
    independent_on(Database::private()).await;
}

/// MariaDB under another name: this runs the code for MySQL (no `FOR UPDATE WAIT`, no lock wait of
/// zero) and for servers without `SKIP LOCKED`, though not on such servers.
#[tokio::test(flavor = "multi_thread")]
async fn items_are_independent_with_the_statements_for_other_servers() {
    for version in ["--version=8.0.36", "--version=5.7.44"] {
        independent_on(Database::private_with(&[version])).await;
    }
}

async fn independent_on(server: Database) {
    let rig = Rig::start_on(&server, &[NO_REUSE]).await;
    let live = rig.tokens(40, TokenState::Live).await;
    let expired = rig.tokens(4, TokenState::Expired).await;
    let revoked = rig.tokens(4, TokenState::Revoked).await;
    let orphans = rig.tokens(4, TokenState::Orphan).await;
    let unknown: Vec<String> = (0..4).map(|_| random_hex::<16>()).collect();
    // The first three occur three times, once in capitals.
    let again = texts(&live[..3]).chain(texts(&live[..3]).map(|token| token.to_uppercase()));
    let all: Vec<String> = texts(&live)
        .chain(texts(&expired))
        .chain(again)
        .chain(texts(&revoked))
        .chain(texts(&orphans))
        .chain(unknown)
        .collect();
    let mut root = server.root().await;
    root.query_drop("SET GLOBAL log_output = 'TABLE'").await.unwrap();
    root.query_drop("SET GLOBAL general_log = 1").await.unwrap();
    let statuses = gather(&rig, &all).await;
    root.query_drop("SET GLOBAL general_log = 0").await.unwrap();

    let of = |token: &Token| -> Vec<u16> {
        let is_this = |text: &String| text.eq_ignore_ascii_case(&token.refresh_token);
        all.iter().zip(&statuses).filter(|(text, _)| is_this(text)).map(|(_, status)| *status).collect()
    };
    for (place, token) in live.iter().enumerate() {
        let mut statuses = of(token);
        statuses.sort_unstable();
        let expected: &[u16] = if place < 3 { &[200, 403, 403] } else { &[200] };
        assert_eq!(statuses, expected, "token {place}");
        assert_eq!(rig.live_rows(token).await, (2, 1), "token {place}");
    }
    for (token, rows) in expired.iter().map(|token| (token, (1, 1))).chain(revoked.iter().map(|token| (token, (1, 0))))
    {
        assert_eq!(of(token), [403]);
        assert_eq!(rig.live_rows(token).await, rows);
    }
    for token in &orphans {
        assert_eq!(of(token), [403]);
        assert_eq!(rig.live_rows(token).await, (1, 1));
    }
    assert_eq!(statuses[statuses.len() - 4..], [403; 4]);
    assert_eq!(rig.forwarded(), 0);

    // Groups did this, each with few round trips.
    let said: Vec<String> = root
        .query(
            "SELECT CONVERT(argument USING utf8mb4) FROM mysql.general_log WHERE command_type IN ('Execute', 'Query')",
        )
        .await
        .unwrap();
    let locks = said.iter().filter(|said| said.contains("FOR UPDATE"));
    let largest = locks.clone().map(|said| said.matches(',').count()).max().unwrap();
    // Sixteen of them are in between; how many items a group has depends on the machine.
    assert!(largest > 16 + 2, "{said:#?}");
    assert!(locks.count() < 20, "{said:#?}");
    assert!(said.iter().filter(|said| said.contains("INSERT INTO `wp_jwt_auth_tokens`")).count() < 20);
    // A child's id is known: it needs no look-up.
    let next = rig.database.family_rows(&live[20].token_family).await[1].get("refresh_token_hash").unwrap().to_owned();
    root.query_drop("TRUNCATE mysql.general_log").await.unwrap();
    root.query_drop("SET GLOBAL general_log = 1").await.unwrap();
    assert_eq!(rig.refresh(&next).status(), 200);
    let looked: Option<u8> = root
        .query_first("SELECT 1 FROM mysql.general_log WHERE argument LIKE '%WHERE refresh\\_token\\_hash%'")
        .await
        .unwrap();
    assert_eq!(looked, None);
}

/// A token that occurs twice in a group is used by its first occurrence, a moment ago.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_there_twice_is_replayed_within_the_interval() {
    let rig = Rig::start().await;
    let tokens = rig.tokens(8, TokenState::Live).await;
    let four_times: Vec<String> =
        texts(&tokens).flat_map(|token| [token.clone(), token.clone(), token.clone(), token]).collect();
    assert_eq!(gather(&rig, &four_times).await, [200; 32]);
    for token in &tokens {
        assert_eq!(rig.live_rows(token).await, (2, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_fails_fails_alone() {
    let rig = Rig::start().await;
    let tokens = rig.tokens(30, TokenState::Live).await;
    let bad = rig.database.insert_user("mallory").await;
    let bad = rig.database.insert_token(TokenState::Live, bad.id).await;
    let trigger = format!(
        "CREATE TRIGGER refuse BEFORE INSERT ON wp_jwt_auth_tokens FOR EACH ROW \
         IF NEW.user_id = {} THEN SIGNAL SQLSTATE '45000'; END IF",
        bad.user_id
    );
    Database::shared().root().await.query_drop("SET GLOBAL log_bin_trust_function_creators = 1").await.unwrap();
    rig.database.execute(&trigger).await;
    let mut all: Vec<String> = texts(&tokens).collect();
    all.insert(15, bad.refresh_token.clone());
    let statuses = gather(&rig, &all).await;
    for (token, status) in all.iter().zip(statuses) {
        assert_eq!(status, if *token == bad.refresh_token { 503 } else { 200 });
    }
    assert_eq!(rig.live_rows(&bad).await, (1, 1));
    rig.database.execute("DROP TRIGGER refuse").await;
    assert_eq!(rig.refresh(&bad.refresh_token).status(), 200, "nothing was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_held_delay_no_other_rotation() {
    held_on(Database::shared()).await;
    held_on(&Database::private_with(&["--version=8.0.36"])).await;
}

async fn held_on(server: &Database) {
    let rig = Rig::start_on(server, &[]).await;
    let held = rig.tokens(4, TokenState::Live).await;
    let free = rig.tokens(20, TokenState::Live).await;
    let mut other = rig.database.connect().await;
    other.query_drop("START TRANSACTION").await.unwrap();
    let ids: Vec<String> = held.iter().map(|token| token.id.to_string()).collect();
    let lock = format!("SELECT id FROM wp_jwt_auth_tokens WHERE id IN ({}) FOR UPDATE", ids.join(","));
    other.query_drop(lock).await.unwrap();
    let waiting: Vec<_> = texts(&held).map(|token| present(rig.sidecar.address(), &token)).collect();
    eventually("the rotations wait for their rows", || async {
        let waiting = "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT' \
                       AND trx_query LIKE '%wp_jwt_auth_tokens%'";
        server.root().await.query_first::<u64, _>(waiting).await.unwrap() >= Some(4)
    })
    .await;
    for token in texts(&free) {
        assert_eq!(rig.refresh(&token).status(), 200);
    }
    assert!(waiting.iter().all(|call| !call.is_finished()), "answered while the others wait");
    other.query_drop("ROLLBACK").await.unwrap();
    for call in waiting {
        assert_eq!(call.join().unwrap().status(), 200);
    }
}

/// Nor does a statement that takes long, whatever the server does for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_writes_slowly_delays_no_other_group() {
    let server = Database::private();
    let rig = Rig::start_on(&server, &[]).await;
    let tokens = rig.tokens(3, TokenState::Live).await;
    let slow = rig.database.insert_user("mallory").await;
    let slow = rig.database.insert_token(TokenState::Live, slow.id).await;
    let trigger = format!(
        "CREATE TRIGGER slow BEFORE INSERT ON wp_jwt_auth_tokens FOR EACH ROW IF NEW.user_id = {} THEN DO SLEEP(1.5); END IF",
        slow.user_id
    );
    let mut root = server.root().await;
    root.query_drop("SET GLOBAL log_bin_trust_function_creators = 1").await.unwrap();
    rig.database.execute(&trigger).await;
    // Each worker has its connection by then: one that is still connecting passes its turn on.
    for token in texts(&rig.tokens(4, TokenState::Live).await) {
        assert_eq!(rig.refresh(&token).status(), 200);
    }
    let writing = present(rig.sidecar.address(), &slow.refresh_token);
    eventually("the row is written", || async {
        let asleep = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE STATE = 'User sleep'";
        server.root().await.query_first::<u64, _>(asleep).await.unwrap() == Some(1)
    })
    .await;
    for token in texts(&tokens) {
        assert_eq!(rig.refresh(&token).status(), 200);
    }
    assert!(!writing.is_finished(), "answered while the other is written");
    assert_eq!(writing.join().unwrap().status(), 200);
}
