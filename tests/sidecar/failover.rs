//! The database moves to another host, planned or not, and no session is lost.

use std::time::{Duration, Instant};

use mysql_async::OptsBuilder;
use mysql_async::prelude::Queryable;
use wp_jwt_sidecar::internals::wordpress::database::Database as Pool;

use crate::support::apps::Apps;
use crate::support::mariadb::{Database, TestDatabase, TokenState, random_hex};
use crate::support::raw::Upstream;
use crate::support::replication::Pair;
use crate::support::rig::{self, NO_REUSE, eventually};
use crate::support::sidecar::{PATIENCE, Sidecar, command};
use crate::trouble::{INTERVAL, families_are_whole};

const APPS: usize = 16;
const HOSTS: &str = "WP_JWT_SIDECAR_WORDPRESS_DATABASE_HOSTS";
const MOVED: &str = "another one is used from now on";
const ANOTHER: &str = "it lacks what the one in use has";
const RETURNED: &str = "accepts writes again and is used from now on";

struct Moving {
    pair: Pair,
    database: TestDatabase,
    user: u64,
    sidecar: Sidecar,
    upstream: Upstream,
}

async fn moving(environment: &[(&str, &str)]) -> Moving {
    let pair = Pair::start().await;
    let database = rig::site(&pair.first.server).await;
    let user = database.insert_user("alice").await.id;
    let upstream = rig::wordpress();
    let hosts = pair.hosts();
    let mut all = vec![(HOSTS, hosts.as_str())];
    all.extend_from_slice(environment);
    let sidecar = rig::sidecar(&database, upstream.address(), &all);
    sidecar.wait_for_log("refreshing natively");
    Moving { pair, database, user, sidecar, upstream }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_that_change_under_load() {
    let Moving { pair, database, user, sidecar, .. } = moving(&[NO_REUSE]).await;
    let apps = Apps::start(APPS, &database, user, sidecar.address()).await;
    apps.go_on(3 * APPS);
    for _ in 0..2 {
        pair.first.hand_over_to(&pair.second).await;
        apps.go_on(3 * APPS);
        families_are_whole(&pair.second.server.same(&database)).await;
        pair.second.hand_over_to(&pair.first).await;
        apps.go_on(3 * APPS);
        families_are_whole(&database).await;
    }
    let report = apps.end();
    println!("{report:?}");
    assert!(report.lost.is_empty() && report.lost_unanswered == 0, "{report:?}");
    families_are_whole(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_under_load() {
    killed_under_load(NO_REUSE).await;
}

/// However long it takes until another host is the primary.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_under_load_with_replays() {
    killed_under_load(INTERVAL).await;
}

async fn killed_under_load(reuse: (&str, &str)) {
    let Moving { pair, database, user, sidecar, upstream } = moving(&[reuse]).await;
    // Tokens that come after that are found among the new rows, together with those of the apps.
    sidecar.wait_for_log("the tokens of the table are known");
    let token = database.insert_token(TokenState::Live, user).await;
    let apps = Apps::start(APPS, &database, user, sidecar.address()).await;
    apps.go_on(3 * APPS);
    let killed = Instant::now();
    pair.first.server.kill().await;
    // The replica is not the primary yet, and must be neither read nor written.
    let answer = rig::refresh_at(sidecar.address(), &token.refresh_token);
    assert_eq!((answer.status(), answer.value("retry-after").as_deref()), (503, Some("1")));
    let answer = rig::refresh_at(sidecar.address(), &random_hex::<16>());
    assert!(matches!(answer.status(), 299 | 503), "it cannot be known to be unknown: {}", answer.status());
    pair.second.take_over().await;
    let took = killed.elapsed();
    apps.go_on(3 * APPS);
    let report = apps.end();
    println!("{report:?}, taken over after {took:?}");
    assert!(report.lost.is_empty(), "{report:?}");
    // A call without a response may have been rotated by the last commits of the first server,
    // which the sidecar looks for as long as a rotation may take.
    let is_found = reuse == INTERVAL || took < Duration::from_secs(1);
    assert!(report.lost_unanswered <= if is_found { 0 } else { in_doubt(&sidecar) }, "{report:?}, {took:?}");
    families_are_whole(&pair.second.server.same(&database)).await;
    assert_eq!(rig::refresh_at(sidecar.address(), &token.refresh_token).status(), 200);
    assert_eq!(sidecar.log().iter().filter(|line| line.contains(MOVED)).count(), 1);
    drop(upstream);
}

/// For how many rotations the sidecar did not know whether they were stored.
fn in_doubt(sidecar: &Sidecar) -> usize {
    let lines = sidecar.log().into_iter().filter(|line| line.contains("it is not known whether a commit was stored"));
    let lines = lines.map(|line| serde_json::from_str::<serde_json::Value>(&line).unwrap());
    lines.map(|line| usize::try_from(line["rotations"].as_u64().unwrap()).unwrap()).sum()
}

/// The new primary lacks the last rows and gives their ids to other tokens. The sidecar does not
/// return to the earlier one, which comes back as if nothing had happened.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_known_of_another_server_does_not_count() {
    let Moving { pair, database, user, sidecar, upstream } = moving(&[]).await;
    let (address, second) = (sidecar.address(), pair.second.server.same(&database));
    let refresh = |token: &str| rig::refresh_at(address, token).status();
    sidecar.wait_for_log("the tokens of the table are known");
    let early = database.insert_token(TokenState::Live, user).await;
    // Both have it.
    pair.first.order(&["SET GLOBAL rpl_semi_sync_master_enabled = 0"]).await;
    pair.second.take_over().await;
    pair.second.order(&["SET GLOBAL read_only = 1"]).await;
    let late = database.insert_token(TokenState::Live, user).await;
    let elsewhere = random_hex::<16>();
    assert_eq!((refresh(&late.refresh_token), refresh(&elsewhere)), (200, 403));
    pair.first.server.stop().await;
    pair.second.order(&["SET GLOBAL read_only = 0"]).await;

    let other = second.insert_token(TokenState::Live, user).await;
    assert_eq!(other.id, late.id, "a row that the sidecar has seen, with another token");
    second
        .execute(&format!("UPDATE wp_jwt_auth_tokens SET refresh_token_hash = '{elsewhere}' WHERE id = {}", other.id))
        .await;
    assert_eq!(refresh(&early.refresh_token), 200);
    assert_eq!(refresh(&elsewhere), 200, "refused a moment ago by the other server");
    let said = check(&database, &upstream, &pair.hosts());
    let second_host = pair.second.server.socket().display().to_string();
    let in_use = said.lines().find(|line| line.starts_with("database in use: ")).unwrap();
    assert!(in_use.contains(&second_host), "{said}");

    // Clients have tokens that the first lacks, and the first has rows that the second lacks.
    pair.first.server.start().await;
    sidecar.wait_for_log(ANOTHER);
    assert!(!sidecar.log().iter().any(|line| line.contains(RETURNED)));
    assert_eq!(refresh(&random_hex::<16>()), 403);
}

/// The sidecar returns to a host that has everything, such as a cluster's node, which accepts
/// writes all the time.
#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_host_that_takes_writes_again_is_gone_back_to() {
    let Moving { pair, database, user, sidecar, upstream } = moving(&[]).await;
    let address = sidecar.address();
    let refresh = |token: &str| rig::refresh_at(address, token);
    sidecar.wait_for_log("the tokens of the table are known");
    let token = database.insert_token(TokenState::Live, user).await;
    let second_host = pair.second.server.socket().display().to_string();
    pair.first.hand_over_to(&pair.second).await;
    let answer = refresh(&token.refresh_token);
    assert_eq!(answer.status(), 200);
    let next = answer.json()["refresh_token"].as_str().unwrap().to_owned();
    let said = check(&database, &upstream, &pair.hosts());
    assert!(said.lines().find(|line| line.starts_with("database in use: ")).unwrap().contains(&second_host), "{said}");

    pair.first.order(&["SET GLOBAL read_only = 0"]).await;
    let mut asked = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !sidecar.log().iter().any(|line| line.contains(RETURNED)) {
        assert!(Instant::now() < deadline, "the earlier host is not gone back to");
        let token = random_hex::<16>();
        assert_eq!(refresh(&token).status(), 403);
        asked.push(token);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // The last may already have been sent to the earlier host.
    let back = &asked[asked.len() - 3];
    let last = database.insert_token(TokenState::Live, user).await;
    database
        .execute(&format!("UPDATE wp_jwt_auth_tokens SET refresh_token_hash = '{back}' WHERE id = {}", last.id))
        .await;
    assert_eq!(refresh(back).status(), 200, "refused a moment ago by the other server");
    assert_eq!(refresh(&next).status(), 200, "made at the second");
    let said = check(&database, &upstream, &pair.hosts());
    assert!(!said.lines().find(|line| line.starts_with("database in use: ")).unwrap().contains(&second_host), "{said}");
}

fn check(database: &TestDatabase, upstream: &Upstream, hosts: &str) -> String {
    let output = command()
        .arg("check")
        .envs(rig::command_environment(database, upstream.address()))
        .env(HOSTS, hosts)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A lost connection is killed by its number, which after a restart may belong to another client.
#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_connection_is_not_ended() {
    let server = Database::private();
    let database = server.create().await;
    let pool = || {
        let opts = mysql_async::Opts::from_url(database.url()).unwrap();
        Pool::new(OptsBuilder::from_opts(opts))
    };
    let before = pool();
    let lost = before.session().await.unwrap().name();
    server.kill().await;
    server.start().await;
    // Other clients connect, until one has the number and one a greater.
    let mut strangers = Vec::new();
    loop {
        let stranger = database.connect().await;
        let id = stranger.id();
        strangers.push(stranger);
        if id > lost.id() {
            break;
        }
    }
    let namesake = strangers.iter_mut().find(|stranger| stranger.id() == lost.id()).expect("numbered from 1 again");
    let after = pool();
    let mut session = after.fresh_session().await.unwrap();
    assert!(!session.end(&lost).await.unwrap());
    namesake.query_drop("DO 0").await.expect("it lives");

    // Without a restart it is killed, once the server has certainly run before the connection was
    // made and is running no statement for it.
    eventually("the server has run for a while", || async {
        let status: (String, u64) =
            server.root().await.query_first("SHOW GLOBAL STATUS LIKE 'Uptime'").await.unwrap().unwrap();
        status.1 > 2
    })
    .await;
    let mut held = after.session().await.unwrap();
    let lost = held.name();
    let mut session = after.fresh_session().await.unwrap();
    let (slept, is_at_work) = tokio::join!(held.conn().query_drop("DO SLEEP(1)"), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        session.end(&lost).await.unwrap()
    });
    slept.expect("it is left alone");
    assert!(is_at_work);
    // The result arrives a moment before the server counts the statement as finished, and the error
    // a moment before it has removed the connection.
    let deadline = Instant::now() + SOON;
    while session.end(&lost).await.unwrap() {
        assert!(Instant::now() < deadline, "it is not ended");
    }
    held.conn().query_drop("DO 0").await.expect_err("it is ended");
    while session.end(&lost).await.unwrap() {
        assert!(Instant::now() < deadline, "again");
    }
}

/// A refresh may take 3 s; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(8);

/// Tokens that the sidecar has to look up, presented at once: more than it has connections.
const UNSEEN: usize = 24;

/// The primary is alive and its connections stay open, but it does not respond.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_frozen_under_load_and_replaced() {
    for reuse in [NO_REUSE, INTERVAL] {
        let moving = moving(&[reuse]).await;
        let Moving { pair, database, user, sidecar, .. } = &moving;
        let apps = Apps::start(APPS, database, *user, sidecar.address()).await;
        apps.go_on(3 * APPS);
        // Tokens whose rows were never looked up.
        let unseen = moving.log_in(UNSEEN).await;
        pair.first.server.freeze().await;
        // No host accepts writes.
        let statuses = moving.present(&unseen).await;
        assert!(statuses.iter().all(|status| matches!(status, 503 | 299)), "{statuses:?}");
        pair.second.take_over().await;
        apps.go_on(3 * APPS);
        let second = pair.second.server.same(database);
        families_are_whole(&second).await;
        for token in &unseen {
            assert_eq!(moving.settled(token).await, 200);
        }

        // It wakes up with what was on its way to it, and believes that it is still the primary.
        pair.first.server.thaw().await;
        sidecar.wait_for_log(ANOTHER);
        apps.go_on(3 * APPS);
        let report = apps.end();
        println!("{report:?}");
        assert!(report.lost.is_empty(), "{report:?}");
        if reuse == INTERVAL {
            assert_eq!(report.lost_unanswered, 0, "{report:?}");
        }
        assert!(report.slowest < SOON, "{report:?}");
        families_are_whole(&second).await;
        families_are_whole(database).await;
        assert!(!sidecar.log().iter().any(|line| line.contains(RETURNED)), "the first lacks what clients have");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_frozen_under_load_and_wakes() {
    let moving = moving(&[INTERVAL]).await;
    let Moving { pair, database, user, sidecar, .. } = &moving;
    let apps = Apps::start(APPS, database, *user, sidecar.address()).await;
    for _ in 0..3 {
        apps.go_on(3 * APPS);
        let unseen = moving.log_in(UNSEEN).await;
        pair.first.server.freeze().await;
        let statuses = moving.present(&unseen).await;
        assert!(statuses.iter().all(|status| matches!(status, 503 | 299)), "{statuses:?}");
        pair.first.server.thaw().await;
        apps.go_on(3 * APPS);
        for token in &unseen {
            assert_eq!(moving.settled(token).await, 200);
        }
        families_are_whole(database).await;
    }
    let report = apps.end();
    println!("{report:?}");
    assert!(report.lost.is_empty() && report.lost_unanswered == 0 && report.slowest < SOON, "{report:?}");
    families_are_whole(database).await;
}

impl Moving {
    /// So many sessions that the sidecar does not know.
    async fn log_in(&self, count: usize) -> Vec<String> {
        let mut tokens = Vec::new();
        for _ in 0..count {
            tokens.push(self.database.insert_token(TokenState::Live, self.user).await.refresh_token);
        }
        tokens
    }

    /// The response to a client that retries as long as it gets a 503.
    async fn settled(&self, token: &str) -> u16 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = rig::refresh_at(self.sidecar.address(), token).status();
            if !matches!(status, 503 | 299) || Instant::now() > deadline {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Presents all at once. None waits for long.
    async fn present(&self, tokens: &[String]) -> Vec<u16> {
        let calls: Vec<_> = tokens
            .iter()
            .map(|token| {
                let (address, token) = (self.sidecar.address(), token.clone());
                tokio::task::spawn_blocking(move || {
                    let began = Instant::now();
                    let status = rig::refresh_at(address, &token).status();
                    assert!(began.elapsed() < SOON, "{status} after {:?}", began.elapsed());
                    status
                })
            })
            .collect();
        let mut statuses = Vec::new();
        for call in calls {
            statuses.push(call.await.unwrap());
        }
        statuses
    }
}
