//! The values declared for a user are read at each refresh, and from the rows in which they were
//! before.

use data_encoding::BASE64URL_NOPAD;
use mysql_async::prelude::Queryable;
use mysql_async::{Opts, OptsBuilder, Row};
use serde_json::{Value, json};
use wp_jwt_sidecar::internals::declared::Read;
use wp_jwt_sidecar::internals::refresh::row_cache::RowRef;
use wp_jwt_sidecar::internals::refresh::store::{LockedRow, Store};
use wp_jwt_sidecar::internals::wordpress::database::{Database as Pool, Session};

use crate::support::mariadb::{Database, TestDatabase, TokenState, USERMETA};
use crate::support::rig::{self, Rig};

const FIELDS: (&str, &str) = (
    "WP_JWT_SIDECAR_REFRESH_FIELD",
    r#"[{ name = "city", value = { meta = "city" } }, { name = "plan", value = { meta = "plan" } }]"#,
);

const CLAIM: (&str, &str) = ("WP_JWT_SIDECAR_JWT_CLAIM", r#"[{ path = "data.user.plan", value = { meta = "plan" } }]"#);

async fn give(database: &TestDatabase, user: u64, meta: &[(&str, &str)]) {
    for (key, value) in meta {
        database.execute(&format!("INSERT INTO wp_usermeta VALUES (NULL, {user}, '{key}', '{value}')")).await;
    }
}

async fn rig(server: &Database) -> Rig {
    let database = rig::site(server).await;
    database.execute(USERMETA).await;
    let user = database.insert_user("alice").await;
    give(&database, user.id + 1, &[("city", "Oslo"), ("plan", "none")]).await;
    give(&database, user.id, &[("nickname", "alice"), ("city", "Gdansk"), ("plan", "basic"), ("locale", "")]).await;
    Rig::of(database, user, &[FIELDS, CLAIM])
}

/// Refreshes `token`, and returns the next one and the declared members. The access token has the
/// same plan.
fn refreshed(rig: &Rig, token: &str) -> (String, Value) {
    let answer = rig.refresh(token);
    assert_eq!(answer.status(), 200, "{answer:?}");
    let body = answer.json();
    let claims = body["access_token"].as_str().unwrap().split('.').nth(1).unwrap().to_owned();
    let claims: Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap()).unwrap();
    assert_eq!(claims["data"]["user"]["plan"], body["plan"]);
    (body["refresh_token"].as_str().unwrap().to_owned(), json!([body["city"], body["plan"]]))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refresh_has_the_values_of_its_moment() {
    let rig = rig(Database::shared()).await;
    let (alice, other) = (rig.user.id, rig.user.id + 1);
    let mut token = rig.token().await.refresh_token;
    for (change, city, plan) in [
        ("DO 0".to_owned(), "Gdansk", "basic"),
        (
            format!("UPDATE wp_usermeta SET meta_value = 'Łódź' WHERE meta_key = 'city' AND user_id = {alice}"),
            "Łódź",
            "basic",
        ),
        // As update_user_meta() and delete_user_meta() do.
        (format!("DELETE FROM wp_usermeta WHERE meta_key = 'plan' AND user_id = {alice}"), "Łódź", ""),
        (format!("INSERT INTO wp_usermeta VALUES (NULL, {alice}, 'plan', 'gold')"), "Łódź", "gold"),
        (format!("INSERT INTO wp_usermeta VALUES (NULL, {alice}, 'plan', 'second')"), "Łódź", "gold"),
        (format!("DELETE FROM wp_usermeta WHERE meta_value = 'gold' AND user_id = {alice}"), "Łódź", "second"),
        // A row that was remembered gets another key, or another user.
        (
            format!("UPDATE wp_usermeta SET meta_key = 'City' WHERE meta_key = 'city' AND user_id = {alice}"),
            "",
            "second",
        ),
        (
            format!("UPDATE wp_usermeta SET meta_key = 'city' WHERE meta_key = 'City' AND user_id = {alice}"),
            "Łódź",
            "second",
        ),
        (format!("UPDATE wp_usermeta SET user_id = {other} WHERE meta_value = 'second'"), "Łódź", ""),
        (format!("UPDATE wp_usermeta SET user_id = {alice} WHERE meta_value = 'second'"), "Łódź", "second"),
        // The keys change their rows.
        (
            format!(
                "UPDATE wp_usermeta SET meta_key = IF(meta_key = 'city', 'plan', 'city') \
                 WHERE meta_key IN ('city', 'plan') AND user_id = {alice}"
            ),
            "second",
            "Łódź",
        ),
    ] {
        rig.database.execute(&change).await;
        // Once with what was remembered before, and once more.
        for _ in 0..2 {
            let (next, found) = refreshed(&rig, &token);
            assert_eq!(found, json!([city, plan]), "{change}");
            token = next;
        }
    }
    // What cannot be declared is WordPress's, also in a row that is known.
    for uncertain in ["NULL", "'a:1:{i:0;i:1;}'"] {
        rig.database.execute(&format!("UPDATE wp_usermeta SET meta_value = {uncertain} WHERE meta_key = 'city'")).await;
        assert_eq!(rig.refresh(&token).status(), 299, "{uncertain}");
    }
    rig.database.execute("UPDATE wp_usermeta SET meta_value = 'Hel' WHERE meta_key = 'city'").await;
    assert_eq!(refreshed(&rig, &token).1, json!(["Hel", "Łódź"]));
}

/// Index entries and rows that the server has read since it was started.
async fn rows_read(server: &Database) -> u64 {
    let counters: Vec<(String, u64)> =
        server.root().await.query("SHOW GLOBAL STATUS LIKE 'Handler_read%'").await.unwrap();
    counters.into_iter().map(|(_, count)| count).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_other_values_are_read_once() {
    const OTHERS: u64 = 16_384;
    let server = Database::private();
    let rig = rig(&server).await;
    give(&rig.database, rig.user.id, &[("seen", "once")]).await;
    for _ in 0..OTHERS.ilog2() {
        let twice = "INSERT INTO wp_usermeta (user_id, meta_key, meta_value) \
                     SELECT user_id, meta_key, meta_value FROM wp_usermeta WHERE meta_key = 'seen'";
        rig.database.execute(twice).await;
    }
    rig.database.execute("ANALYZE TABLE wp_usermeta").await;
    let mut token = rig.token().await.refresh_token;
    let mut read = Vec::new();
    for _ in 0..4 {
        let before = rows_read(&server).await;
        token = refreshed(&rig, &token).0;
        read.push(rows_read(&server).await - before);
    }
    assert!(read[0] >= OTHERS, "{read:?}");
    assert!(read[1..].iter().all(|read| *read < OTHERS / 4), "{read:?}");
}

fn found(row: &LockedRow) -> Vec<Option<String>> {
    let found = row.user.iter().flat_map(|user| &user.found);
    found.map(|value| value.as_ref().map(|value| String::from_utf8(value.clone()).unwrap())).collect()
}

async fn rows_sent(session: &mut Session<'_>) -> u64 {
    let counted: Option<Row> = session.conn().exec_first("SHOW SESSION STATUS LIKE 'Rows_sent'", ()).await.unwrap();
    counted.unwrap().get(1).unwrap()
}

/// In one statement: users that are remembered and others, one of them twice, and a row whose user
/// was taken for another. With few keys, whose rows are remembered, and with many.
#[tokio::test(flavor = "multi_thread")]
async fn each_user_of_a_group_has_its_own_values() {
    let database = rig::site(Database::shared()).await;
    database.execute(USERMETA).await;
    let mut users = Vec::new();
    let more: Vec<String> = (0..7).map(|number| format!("key{number}")).collect();
    for (name, meta) in [
        ("alice", &[("city", "Gdansk"), ("plan", "basic"), ("wp_capabilities", "a:0:{}")][..]),
        ("bob", &[("plan", "gold"), ("wp_capabilities", "a:0:{}"), ("city", "Oslo")]),
        ("carol", &[("plan", "none"), ("wp_capabilities", "a:0:{}")]),
    ] {
        let id = database.insert_user(name).await.id;
        give(&database, id, meta).await;
        give(&database, id, &more.iter().map(|key| (key.as_str(), name)).collect::<Vec<_>>()).await;
        users.push(id);
    }
    let mut rows = Vec::new();
    for user in [0, 1, 0, 2] {
        rows.push((database.insert_token(TokenState::Live, users[user]).await.id, user));
    }
    // The capabilities are the roles, and may be declared as meta, too.
    let few = ["city", "plan", "wp_capabilities"].map(|key| Read::Meta(key.to_owned()));
    let few = few.into_iter().chain([Read::Capabilities]).collect::<Vec<_>>();
    let many = few.iter().cloned().chain(more.iter().cloned().map(Read::Meta)).collect::<Vec<_>>();
    for (reads, is_remembered) in [(few, true), (many, false)] {
        let pool = Pool::new(OptsBuilder::from_opts(Opts::from_url(database.url()).unwrap()));
        let store = Store::declaring(pool, database.prefix(), "wp_users", &reads, Some("wp_usermeta"));
        let of = |user: usize| {
            let [name, city, plan] =
                [["alice", "Gdansk", "basic"], ["bob", "Oslo", "gold"], ["carol", "", "none"]][user];
            let of_key = |key: &str| match key {
                "city" => city,
                "plan" => plan,
                "wp_capabilities" => "a:0:{}",
                _ => name,
            };
            let values = reads.iter().map(|read| match read {
                Read::Meta(key) => of_key(key),
                _ => "a:0:{}",
            });
            values.map(|value| (!value.is_empty()).then(|| value.to_owned())).collect::<Vec<_>>()
        };
        let mut session = store.database.transactions().await.unwrap();
        // Alice is remembered after the first; carol, who lacks a value, never is.
        for (group, by_row) in [
            (&rows[..1], false),
            (&rows[..1], true),
            (&rows[..3], false),
            (&rows[..3], true),
            (&rows[..2], true),
            (&rows, false),
            (&rows[1..], false),
        ] {
            let locked: Vec<RowRef> = group.iter().map(|(id, user)| RowRef::found(*id, Some(users[*user]))).collect();
            let before = rows_sent(&mut session).await;
            let locked = store.lock(&mut session, &locked, true).await.unwrap();
            let found: Vec<_> = locked.iter().map(|row| (row.id, found(row))).collect();
            assert_eq!(found, group.iter().map(|(id, user)| (*id, of(*user))).collect::<Vec<_>>());
            // Read by their rows, the values of a token's user come in one row of the result.
            let sent = rows_sent(&mut session).await - before;
            assert_eq!(sent == group.len() as u64, by_row && is_remembered, "{sent} for {group:?}");
            session.rollback().await.unwrap();
            session.conn().query_drop("START TRANSACTION").await.unwrap();
        }
        let mistaken = RowRef::found(rows[0].0, Some(users[1]));
        let locked = store.lock(&mut session, &[mistaken], true).await.unwrap();
        assert_eq!((locked[0].user_id, found(&locked[0])), (users[0], of(0)));
        session.rollback().await.unwrap();
    }
}
