//! A used token within `reuse_interval` gets the same pair again, from the table alone, and never
//! after a logout; one that comes back later revokes its family, if that is configured. If
//! signatures cannot be made again, the process that made the pair has it.

use std::path::Path;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use serde_json::Value;

use crate::rotation::{Others, race};
use crate::support::faults::Fault;
use crate::support::mariadb::{Database, Row, Token, TokenState};
use crate::support::raw::{Connection, Message};
use crate::support::rig::{self, NO_REUSE, Rig, call, eventually, refresh_at};
use crate::support::tls::openssl;
use crate::trouble::{Relayed, relayed};

const INTERVAL: (&str, &str) = ("WP_JWT_SIDECAR_REFRESH_REUSE_INTERVAL", "30s");
const DETECTION: (&str, &str) = ("WP_JWT_SIDECAR_REFRESH_REUSE_DETECTION", "revoke_family");

/// Access and refresh token.
fn pair(answer: &Message) -> (String, String) {
    assert_eq!(answer.status(), 200, "{:?}", String::from_utf8_lossy(&answer.body));
    let body = answer.json();
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    (text("access_token"), text("refresh_token"))
}

async fn table(rig: &Rig) -> Vec<Row> {
    rig.database.token_rows_after(0).await
}

/// A → B → C.
async fn chain(rig: &Rig) -> (Token, (String, String), (String, String)) {
    let first = rig.token().await;
    let second = pair(&rig.refresh(&first.refresh_token));
    let third = pair(&rig.refresh(&second.1));
    (first, second, third)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_pair_again_and_nothing_written() {
    let rig = Rig::start_on(Database::shared(), &[INTERVAL, DETECTION]).await;
    let (first, second, third) = chain(&rig).await;
    let before = table(&rig).await;
    for _ in 0..3 {
        assert_eq!(pair(&rig.refresh(&first.refresh_token)), third);
        assert_eq!(pair(&rig.refresh(&second.1.to_uppercase())), third);
    }
    let expires_in = rig.refresh(&first.refresh_token).json()["expires_in"].as_u64().unwrap();
    assert!((604_700..=604_800).contains(&expires_in), "{expires_in}");
    assert_eq!(table(&rig).await, before, "neither a token nor a later window");
    let fourth = pair(&rig.refresh(&third.1));
    assert_eq!(pair(&rig.refresh(&first.refresh_token)), fourth);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_another_sidecar_and_after_a_kill() {
    let mut rig = Rig::start_on(Database::shared(), &[INTERVAL]).await;
    let (first, _, third) = chain(&rig).await;
    let second = rig::sidecar(&rig.database, rig.upstream.address(), &[INTERVAL]);
    second.wait_for_log("refreshing natively");
    assert_eq!(pair(&refresh_at(second.address(), &first.refresh_token)), third);

    // The client does not read; the sidecar is killed as soon as the rotation is stored.
    let token = rig.token().await;
    let mut client = Connection::to(rig.sidecar.address());
    client.send(call(&token.refresh_token));
    eventually("the rotation is stored", || async { rig.database.family_rows(&token.token_family).await.len() == 2 })
        .await;
    rig.sidecar.signal("KILL");
    rig.sidecar.wait();
    let third = rig::sidecar(&rig.database, rig.upstream.address(), &[INTERVAL]);
    third.wait_for_log("refreshing natively");
    third.wait_for_log("the tokens of the table are known");
    let stored = &rig.database.family_rows(&token.token_family).await[1];
    let again = pair(&refresh_at(third.address(), &token.refresh_token));
    assert_eq!(Some(again.1.as_str()), stored.get("refresh_token_hash"));
    assert_eq!(pair(&refresh_at(second.address(), &token.refresh_token)), again);
    assert_eq!(refresh_at(third.address(), &again.1).status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_at_the_same_instant_all_get_the_pair() {
    let rig = Rig::start_on(Database::shared(), &[INTERVAL]).await;
    let token = rig.token().await;
    let mut clients: Vec<_> = (0..64).map(|_| Connection::to(rig.sidecar.address())).collect();
    for client in &mut clients {
        client.send(call(&token.refresh_token));
    }
    let mut pairs: Vec<_> = clients.iter_mut().map(|client| pair(&client.response())).collect();
    pairs.dedup();
    assert_eq!(pairs.len(), 1);
    assert_eq!(rig.database.family_rows(&token.token_family).await.len(), 2);
}

/// As if the token had been used so many seconds earlier.
async fn aged(rig: &Rig, token: &Token, seconds: u32) {
    let earlier = format!("revoked_at = revoked_at - INTERVAL {seconds} SECOND WHERE id = {}", token.id);
    rig.database.execute(&format!("UPDATE wp_jwt_auth_tokens SET {earlier}")).await;
}

/// A site whose tokens are signed with ES256 or ES384: the key is in `directory`.
fn signing(algorithm: &str, curve: &str, directory: &Path) -> [(&'static str, String); 2] {
    let file = directory.join(algorithm).to_str().unwrap().to_owned();
    let curve = format!("ec_paramgen_curve:{curve}");
    openssl(&["genpkey", "-quiet", "-algorithm", "EC", "-pkeyopt", &curve, "-out", &file]);
    [("WP_JWT_SIDECAR_JWT_ALGORITHM", algorithm.to_owned()), ("WP_JWT_SIDECAR_JWT_PRIVATE_KEY_FILE", file)]
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_that_cannot_be_made_again_are_remembered_by_the_process() {
    let directory = tempfile::tempdir().unwrap();
    for (algorithm, curve) in [("ES256", "P-256"), ("ES384", "P-384")] {
        let keys = signing(algorithm, curve, directory.path());
        let environment: Vec<(&str, &str)> = keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let rig = Rig::start_on(Database::shared(), &environment).await;
        race(&rig.database, rig.user.id, &[rig.sidecar.address()], Others::Served).await;

        let (first, second, third) = chain(&rig).await;
        let before = table(&rig).await;
        for _ in 0..3 {
            assert_eq!(pair(&rig.refresh(&first.refresh_token)), third, "{algorithm}");
            assert_eq!(pair(&rig.refresh(&second.1.to_uppercase())), third, "{algorithm}");
        }
        assert_eq!(table(&rig).await, before, "neither a token nor a later window");
        let header = jsonwebtoken::decode_header(&third.0).unwrap();
        assert_eq!(format!("{:?}", header.alg), algorithm);

        // Another process cannot, and revokes nothing within the interval.
        let detecting: Vec<(&str, &str)> = environment.iter().copied().chain([DETECTION]).collect();
        let other = rig::sidecar(&rig.database, rig.upstream.address(), &detecting);
        other.wait_for_log("refreshing natively");
        assert_eq!(refresh_at(other.address(), &first.refresh_token).status(), 403);
        assert_eq!(table(&rig).await, before);
        assert_eq!(pair(&rig.refresh(&first.refresh_token)), third, "the first one still does");
        // Nor does the first one have what the other made.
        let fourth = pair(&refresh_at(other.address(), &third.1));
        assert_eq!(rig.refresh(&first.refresh_token).status(), 403);
        assert_eq!(pair(&refresh_at(other.address(), &third.1)), fourth);

        remembered_never_after_the_end_of_a_session(&rig).await;
        assert_eq!(rig.forwarded(), 0);
    }
}

async fn remembered_never_after_the_end_of_a_session(rig: &Rig) {
    let live = "revoked_at IS NULL AND token_family = '{f}'";
    let everything = format!("user_id = {}", rig.user.id);
    for (what, change, rows) in [
        ("a logout", "revoked_at = UTC_TIMESTAMP()", live),
        ("a password change", "revoked_at = UTC_TIMESTAMP()", everything.as_str()),
        ("its time", "refresh_token_expires_at = UTC_TIMESTAMP()", live),
        ("the interval", "revoked_at = revoked_at - INTERVAL 12 SECOND", "token_family = '{f}'"),
        ("another access token's row", "hash = REVERSE(hash)", live),
        ("another time of issue", "issued_at = issued_at - INTERVAL 1 SECOND", live),
        ("another user", "user_id = user_id + 1", live),
    ] {
        let (first, second, third) = chain(rig).await;
        assert_eq!(pair(&rig.refresh(&first.refresh_token)), third);
        let rows = rows.replace("{f}", &first.token_family);
        rig.database.execute(&format!("UPDATE wp_jwt_auth_tokens SET {change} WHERE {rows}")).await;
        assert_eq!(rig.refresh(&first.refresh_token).status(), 403, "{what}");
        assert_eq!(rig.refresh(&second.1).status(), 403, "{what}");
        if what == "a logout" {
            // Only by hand; what was forgotten at the logout stays forgotten.
            let alive =
                format!("UPDATE wp_jwt_auth_tokens SET revoked_at = NULL WHERE refresh_token_hash = '{}'", third.1);
            rig.database.execute(&alive).await;
            assert_eq!(rig.refresh(&first.refresh_token).status(), 403, "it is not kept beyond a logout");
        }
    }
}

/// The server has stored the pair and reports that to the call that waited for the row, before the
/// rotation has its own result.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_meets_a_rotation_in_its_commit_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let keys = signing("ES256", "P-256", directory.path());
    let environment: Vec<(&str, &str)> = keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let Relayed { database, user, relay, sidecar, .. } = &relayed(Database::shared(), &environment).await;
    let token = database.insert_token(TokenState::Live, user.id).await;
    let mut first = Connection::to(sidecar.address());
    first.send(call(&token.refresh_token));
    tokio::task::block_in_place(|| relay.strike(Fault::LateAnswer(Duration::from_millis(1200))));
    eventually("it is stored", || async { database.family_rows(&token.token_family).await.len() == 2 }).await;
    let second = pair(&refresh_at(sidecar.address(), &token.refresh_token));
    assert_eq!(pair(&first.response()), second);
    assert_eq!(database.family_rows(&token.token_family).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn never_after_the_end_of_a_session() {
    let rig = Rig::start_on(Database::shared(), &[INTERVAL]).await;
    let live = "revoked_at IS NULL AND token_family = '{f}'";
    let everything = format!("user_id = {}", rig.user.id);
    for (what, change, rows) in [
        ("a logout", "revoked_at = UTC_TIMESTAMP()", live),
        ("a password change", "revoked_at = UTC_TIMESTAMP()", everything.as_str()),
        ("its time", "refresh_token_expires_at = UTC_TIMESTAMP()", live),
        ("the interval", "revoked_at = revoked_at - INTERVAL 32 SECOND", "token_family = '{f}'"),
        ("a row that cannot be rebuilt", "hash = REVERSE(hash)", live),
        ("no family", "token_family = ''", "token_family = '{f}'"),
        ("no family at all", "token_family = NULL", "token_family = '{f}'"),
        ("another user", "user_id = user_id + 1", live),
    ] {
        let (first, second, _) = chain(&rig).await;
        assert_eq!(rig.refresh(&first.refresh_token).status(), 200);
        let rows = rows.replace("{f}", &first.token_family);
        rig.database.execute(&format!("UPDATE wp_jwt_auth_tokens SET {change} WHERE {rows}")).await;
        assert_eq!(rig.refresh(&first.refresh_token).status(), 403, "{what}");
        assert_eq!(rig.refresh(&second.1).status(), 403, "{what}");
    }
    let (first, ..) = chain(&rig).await;
    rig.database.insert_token_of_family(TokenState::Live, rig.user.id, &first.token_family).await;
    assert_eq!(rig.refresh(&first.refresh_token).status(), 403, "two live rows");
    let (older, ..) = chain(&rig).await;
    let revoked = rig.database.insert_token_of_family(TokenState::Live, rig.user.id, &older.token_family).await;
    rig.database.revoke(revoked.id).await;
    assert_eq!(rig.refresh(&revoked.refresh_token).status(), 403, "the live row is no successor");
    let (first, ..) = chain(&rig).await;
    rig.database.delete_user(rig.user.id).await;
    assert_eq!(rig.refresh(&first.refresh_token).status(), 403, "no user");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_logs_no_user_out() {
    let server = Database::private();
    let rig = relayed(&server, &[INTERVAL]).await;
    let Relayed { database, user, relay, sidecar, .. } = &rig;
    let first = database.insert_token(TokenState::Live, user.id).await;
    assert_eq!(refresh_at(sidecar.address(), &first.refresh_token).status(), 200);
    let mut other = database.connect().await;
    let mut client = Connection::to(sidecar.address());
    client.send(call(&first.refresh_token));
    // Between the transaction that finds the token used and the reading of the live pair.
    tokio::task::block_in_place(|| relay.strike_rollback(Fault::Late(Duration::from_millis(300))));
    other.query_drop("LOCK TABLES wp_users WRITE").await.unwrap();
    eventually("the replay waits", || async {
        let waiting = "SELECT 1 FROM information_schema.PROCESSLIST WHERE STATE LIKE 'Waiting for table%'";
        server.root().await.query_first::<u8, _>(waiting).await.unwrap().is_some()
    })
    .await;
    server.kill().await;
    assert_eq!(client.response().status(), 503);
    server.start().await;
    assert_eq!(refresh_at(sidecar.address(), &first.refresh_token).status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_token_that_comes_back_late_revokes_its_family() {
    let rig = Rig::start_on(Database::shared(), &[INTERVAL, DETECTION]).await;
    let bystander = rig.token().await;
    let (first, second, third) = chain(&rig).await;
    // Within the interval nothing is revoked, whatever happens.
    assert_eq!(pair(&rig.refresh(&second.1)), third);
    let late =
        format!("UPDATE wp_jwt_auth_tokens SET revoked_at = revoked_at - INTERVAL 40 SECOND WHERE id = {}", first.id);
    rig.database.execute(&late).await;
    assert_eq!(rig.refresh(&first.refresh_token).status(), 403);
    let rows = rig.database.family_rows(&first.token_family).await;
    assert!(rows.iter().all(|row| row.get("revoked_at").is_some()), "{rows:?}");
    for token in [&second.1, &third.1] {
        assert_eq!(rig.refresh(token).status(), 403);
    }
    rig.sidecar.wait_for_log("its family is revoked");
    assert_eq!(rig.refresh(&bystander.refresh_token).status(), 200, "only its own family");
}

/// More than one statement takes, and more than PHP would ever make.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_family_is_revoked_to_its_last_row() {
    let rig = Rig::start_on(Database::shared(), &[NO_REUSE, DETECTION]).await;
    let (first, ..) = chain(&rig).await;
    for _ in 0..150 {
        rig.database.insert_token_of_family(TokenState::Live, rig.user.id, &first.token_family).await;
    }
    assert_eq!(rig.refresh(&first.refresh_token).status(), 403);
    let rows = rig.database.family_rows(&first.token_family).await;
    let live = rows.iter().filter(|row| row.get("revoked_at").is_none()).count();
    assert_eq!((rows.len(), live), (153, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_detection_the_family_lives() {
    let rig = Rig::start().await;
    let (first, second, third) = chain(&rig).await;
    // By default the interval is 10 s, with the column's precision of a second.
    assert_eq!(pair(&rig.refresh(&first.refresh_token)), third);
    aged(&rig, &first, 12).await;
    rig.database
        .execute(&format!("UPDATE wp_jwt_auth_tokens SET revoked_at = revoked_at - INTERVAL 12 SECOND WHERE refresh_token_hash = '{}'", second.1))
        .await;
    for token in [&first.refresh_token, &second.1] {
        let answer = rig.refresh(token);
        assert_eq!((answer.status(), &answer.json()["code"]), (403, &Value::from("jwt_auth_invalid_refresh_token")));
    }
    assert_eq!(rig.refresh(&third.1).status(), 200);
}
