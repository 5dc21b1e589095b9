//! No fault loses a session, whenever it happens: 16 apps refresh without a pause meanwhile.

use std::time::Duration;

use mysql_async::prelude::Queryable;

use crate::support::apps::{Apps, Report};
use crate::support::faults::{Fault, Relay};
use crate::support::mariadb::{Database, TestDatabase, TokenState, User};
use crate::support::raw::Upstream;
use crate::support::rig::{self, NO_REUSE, Rig};
use crate::support::sidecar::Sidecar;

const APPS: usize = 16;
pub(crate) const INTERVAL: (&str, &str) = ("WP_JWT_SIDECAR_REFRESH_REUSE_INTERVAL", "60s");
const NO_ANALYTICS: (&str, &str) = ("WP_JWT_SIDECAR_REFRESH_ANALYTICS", "false");

/// Rounds of each trouble; `SIDECAR_TEST_ROUNDS` sets another number.
fn rounds(usually: usize) -> usize {
    std::env::var("SIDECAR_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(usually)
}

/// No family has two live rows, and every family that was never logged out has one.
pub(crate) async fn families_are_whole(database: &TestDatabase) {
    let broken = database
        .rows(
            "SELECT token_family, COUNT(*) AS n, SUM(revoked_at IS NULL) AS live FROM wp_jwt_auth_tokens \
             GROUP BY token_family HAVING live <> 1",
        )
        .await;
    assert!(broken.is_empty(), "{broken:?}");
}

/// A sidecar with a relay between it and its database.
pub(crate) struct Relayed {
    pub(crate) database: TestDatabase,
    pub(crate) user: User,
    pub(crate) relay: Relay,
    pub(crate) sidecar: Sidecar,
    _upstream: Upstream,
}

pub(crate) async fn relayed(server: &Database, environment: &[(&str, &str)]) -> Relayed {
    let database = rig::site(server).await;
    let user = database.insert_user("alice").await;
    let relay = Relay::to(server.socket());
    let url = relay.url(database.url());
    let upstream = rig::wordpress();
    let mut all = vec![NO_ANALYTICS, ("WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL", url.as_str())];
    all.extend_from_slice(environment);
    let sidecar = rig::sidecar(&database, upstream.address(), &all);
    sidecar.wait_for_log("refreshing natively");
    Relayed { database, user, relay, sidecar, _upstream: upstream }
}

async fn struck(fault: Fault, usually: usize, environment: &[(&str, &str)]) -> Report {
    let Relayed { database, user, relay, sidecar, _upstream } = relayed(Database::shared(), environment).await;
    let apps = Apps::start(APPS, &database, user.id, sidecar.address()).await;
    for _ in 0..rounds(usually) {
        apps.go_on(2 * APPS);
        tokio::task::block_in_place(|| relay.strike(fault));
        families_are_whole(&database).await;
    }
    apps.go_on(2 * APPS);
    let report = apps.end();
    families_are_whole(&database).await;
    println!("{fault:?}: {report:?}");
    assert!(report.lost.is_empty(), "{fault:?}: {report:?}");
    if environment.contains(&INTERVAL) {
        assert_eq!(report.lost_unanswered, 0, "{fault:?}: {report:?}");
    }
    report
}

/// With replays and without, in parallel. The sidecar finds out in time whether a commit was
/// stored, so no session is lost even without replays.
async fn no_session_is_lost(fault: Fault, usually: usize) {
    let with = tokio::spawn(struck(fault, usually, &[INTERVAL]));
    let without = tokio::spawn(struck(fault, usually, &[NO_REUSE])).await.unwrap();
    assert_eq!(without.lost_unanswered, 0, "{without:?}");
    with.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_around_a_commit() {
    for fault in [Fault::CutBefore, Fault::CutDuring, Fault::CutAfter] {
        no_session_is_lost(fault, 12).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_in_the_place_of_a_commit() {
    for code in [1213, 1205, 1020, 3101, 1290] {
        no_session_is_lost(Fault::Error(code), 6).await;
    }
}

/// Error numbers that leave open whether the commit was stored: a server that stops, a connection
/// that was killed or timed out, a network error that the server or a proxy noticed, an isolated
/// cluster node, an error of the engine, an error of a proxy. Each is tested with the commit stored
/// and not stored.
#[tokio::test(flavor = "multi_thread")]
async fn errors_in_the_place_of_a_commit_that_tell_nothing() {
    for code in [1053, 1317, 1927, 1969, 3024, 1158, 1161, 1180, 1047, 9001] {
        // Both in parallel.
        let both = [Fault::Error(code), Fault::ErrorThough(code)];
        for struck in both.map(|fault| tokio::spawn(struck(fault, 2, &[NO_REUSE]))) {
            let report = struck.await.unwrap();
            assert_eq!(report.lost_unanswered, 0, "{report:?}");
        }
    }
}

/// The commit is done and its response is lost in one of these errors: the client gets the stored
/// pair and no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_stored_and_answered_with_an_error_is_answered() {
    let Relayed { database, user, relay, sidecar, _upstream } = relayed(Database::shared(), &[]).await;
    let token = database.insert_token(TokenState::Live, user.id).await;
    let address = sidecar.address();
    let call = token.refresh_token.clone();
    let waiting = std::thread::spawn(move || rig::refresh_at(address, &call));
    tokio::task::block_in_place(|| relay.strike(Fault::ErrorThough(1317)));
    let answer = waiting.join().unwrap();
    assert_eq!(answer.status(), 200);
    let rows = database.family_rows(&token.token_family).await;
    assert_eq!(rows.len(), 2, "rotated once");
    assert_eq!(answer.json()["refresh_token"].as_str(), rows[1].get("refresh_token_hash"));
}

/// The user logs out while the sidecar does not know yet whether the commit was stored: the row is
/// revoked, but not by the rotation.
#[tokio::test(flavor = "multi_thread")]
async fn a_logout_is_not_taken_for_a_commit() {
    let server = Database::shared();
    let database = rig::site(server).await;
    let user = database.insert_user("alice").await;
    let relay = Relay::to(server.socket());
    let url = relay.url(database.url());
    let upstream = rig::wordpress();
    // The sidecar ends a lost connection only if that connection certainly belongs to the server's
    // current run.
    rig::eventually("the server has run for a while", || async {
        let status: (String, u64) =
            server.root().await.query_first("SHOW GLOBAL STATUS LIKE 'Uptime'").await.unwrap().unwrap();
        status.1 > 3
    })
    .await;
    let sidecar = rig::sidecar(
        &database,
        upstream.address(),
        &[NO_ANALYTICS, ("WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL", url.as_str())],
    );
    sidecar.wait_for_log("refreshing natively");
    let token = database.insert_token(TokenState::Live, user.id).await;
    let (address, call) = (sidecar.address(), token.refresh_token.clone());
    let waiting = std::thread::spawn(move || rig::refresh_at(address, &call).status());
    tokio::task::block_in_place(|| relay.strike(Fault::Late(Duration::from_secs(8))));
    // The logout waits for the row's lock and gets it as soon as the sidecar ends the connection
    // that holds it.
    database.revoke(token.id).await;
    let status = waiting.join().unwrap();
    assert!(matches!(status, 403 | 503), "{status}: nothing is stored");
    assert_eq!(rig::refresh_at(address, &token.refresh_token).status(), 403);
    assert_eq!(database.family_rows(&token.token_family).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_and_answers_that_come_too_late() {
    for fault in [Fault::Late(Duration::from_millis(6500)), Fault::LateAnswer(Duration::from_millis(6500))] {
        let without = struck(fault, 2, &[NO_REUSE]).await;
        // Each is answered within 3 s; the rest is the load of this machine.
        assert!(without.slowest < Duration::from_millis(5500), "{without:?}");
        // The sidecar finds out what the server has done; it cannot know what reaches the server
        // later.
        if matches!(fault, Fault::LateAnswer(_)) {
            assert_eq!(without.lost_unanswered, 0, "{without:?}");
        }
        struck(fault, 2, &[INTERVAL]).await;
    }
}

/// The commit waits for a replica. Killing its connection would end that wait, and give the client
/// a pair that the replica does not have.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_the_server_is_at_work_on_is_left_alone() {
    let server = Database::private_with(&[
        "--server-id=1",
        "--log-bin=binary",
        "--rpl-semi-sync-master-wait-point=AFTER_SYNC",
        "--rpl-semi-sync-master-timeout=600000",
    ]);
    let rig = Rig::start_on(&server, &[INTERVAL, NO_ANALYTICS]).await;
    // So that the server has certainly run for a while before these connections are opened.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let token = rig.token().await;
    let mut root = server.root().await;
    // There is no replica, so every commit waits.
    root.query_drop("SET GLOBAL rpl_semi_sync_master_enabled = 1").await.unwrap();
    let (address, call) = (rig.sidecar.address(), token.refresh_token.clone());
    let waiting = std::thread::spawn(move || rig::refresh_at(address, &call));
    rig.sidecar.wait_for_log("it is not known whether a commit was stored");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rig.database.family_rows(&token.token_family).await.len(), 1, "its wait goes on");
    root.query_drop("SET GLOBAL rpl_semi_sync_master_enabled = 0").await.unwrap();
    let answer = waiting.join().unwrap();
    rig::eventually("it is stored", async || rig.database.family_rows(&token.token_family).await.len() == 2).await;
    let rows = rig.database.family_rows(&token.token_family).await;
    // On a busy machine the time may be over; then the line is logged at the next refresh.
    let answer = if answer.status() == 503 { rig.refresh(&token.refresh_token) } else { answer };
    assert_eq!(answer.json()["refresh_token"].as_str(), rows[1].get("refresh_token_hash"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_that_are_killed() {
    let mut rig = Rig::start_on(Database::shared(), &[INTERVAL]).await;
    let apps = Apps::start(APPS, &rig.database, rig.user.id, rig.sidecar.address()).await;
    for _ in 0..rounds(6) {
        apps.go_on(3 * APPS);
        rig.sidecar.signal("KILL");
        rig.sidecar.wait();
        families_are_whole(&rig.database).await;
        rig.sidecar = rig::sidecar(&rig.database, rig.upstream.address(), &[INTERVAL]);
        apps.moved(rig.sidecar.address());
    }
    let report = apps.end();
    families_are_whole(&rig.database).await;
    assert!(report.lost.is_empty() && report.lost_unanswered == 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_that_are_killed() {
    for environment in [[NO_REUSE], [INTERVAL]] {
        let server = Database::private();
        let rig = Rig::start_on(&server, &environment).await;
        let apps = Apps::start(APPS, &rig.database, rig.user.id, rig.sidecar.address()).await;
        for _ in 0..rounds(4) {
            apps.go_on(3 * APPS);
            server.kill().await;
            server.start().await;
            families_are_whole(&rig.database).await;
        }
        let report = apps.end();
        families_are_whole(&rig.database).await;
        println!("{report:?}");
        assert!(report.lost.is_empty(), "{report:?}");
        if environment == [INTERVAL] {
            assert_eq!(report.lost_unanswered, 0, "{report:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_read_only_for_a_while() {
    let server = Database::private();
    let rig = Rig::start_on(&server, &[]).await;
    let token = rig.token().await;
    let mut root = server.root().await;
    root.query_drop("SET GLOBAL read_only = 1").await.unwrap();
    let answer = rig.refresh(&token.refresh_token);
    assert_eq!((answer.status(), answer.value("retry-after").as_deref()), (503, Some("1")));
    let address = rig.sidecar.address();
    let call = token.refresh_token.clone();
    let waiting = std::thread::spawn(move || rig::refresh_at(address, &call).status());
    tokio::time::sleep(Duration::from_millis(500)).await;
    root.query_drop("SET GLOBAL read_only = 0").await.unwrap();
    assert_eq!(waiting.join().unwrap(), 200);
}

/// One address that leads to a replica for a while, which may lack the newest rows.
#[tokio::test(flavor = "multi_thread")]
async fn at_a_server_that_takes_no_writes_no_token_is_unknown() {
    for indexed in [true, false] {
        let server = Database::private();
        let database = rig::site(&server).await;
        if indexed {
            database.execute("ALTER TABLE wp_jwt_auth_tokens ADD INDEX (refresh_token_hash)").await;
        }
        let mut root = server.root().await;
        let upstream = rig::wordpress();
        let sidecar = rig::sidecar(&database, upstream.address(), &[]);
        sidecar.wait_for_log("refreshing natively");
        if !indexed {
            sidecar.wait_for_log("the tokens of the table are known");
        }
        root.query_drop("SET GLOBAL read_only = 1").await.unwrap();
        // Longer than the sidecar relies on its last check that the server accepts writes.
        tokio::time::sleep(Duration::from_millis(60)).await;
        let unknown = "0123456789abcdef0123456789abcdef";
        let answer = rig::refresh_at(sidecar.address(), unknown);
        assert_eq!((answer.status(), answer.value("retry-after").as_deref()), (503, Some("1")), "{indexed}");
        root.query_drop("SET GLOBAL read_only = 0").await.unwrap();
        rig::eventually("it is asked again", async || rig::refresh_at(sidecar.address(), unknown).status() == 403)
            .await;
    }
}
