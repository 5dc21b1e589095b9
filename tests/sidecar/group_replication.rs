//! Several sidecars, each at its member of one group of MySQL's Group Replication. Run by
//! `tests/mysql mysql-sid --ignored group_replication::`.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;

use crate::support::apps::Apps;
use crate::support::group::Group;
use crate::support::mariadb::random_hex;
use crate::support::replicated::{Replicated, refresh};
use crate::support::rig::{NO_REUSE, command_environment, eventually};
use crate::support::sidecar;
use crate::trouble::{INTERVAL, families_are_whole};

const APPS: usize = 8;
const CALLS: usize = 2_000;

async fn site(environment: &[(&str, &str)]) -> Replicated<Group> {
    Replicated::start(Group::start().await, |group| group.members.each_ref(), true, environment).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/mysql mysql-sid --ignored group_replication::"]
async fn chains_over_all_members() {
    let site = site(&[INTERVAL]).await;
    let apps = Apps::start_at(APPS, &site.databases[0], site.user, &site.addresses()).await;
    while apps.rotations() < CALLS {
        apps.go_on(APPS);
    }
    let rotations = apps.rotations();
    let report = apps.end();
    println!("{rotations} rotations: {report:?}");
    assert!(report.lost.is_empty() && report.lost_unanswered == 0, "{report:?}");
    assert_eq!(site.forwarded(), 0);
    families_are_whole(&site.databases[2]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/mysql mysql-sid --ignored group_replication::"]
async fn a_race_has_one_winner_and_a_member_that_is_behind_refuses_nobody() {
    let site = site(&[NO_REUSE]).await;
    for round in 0..20 {
        let token = site.token().await;
        for database in &site.databases {
            eventually("all have it", async || {
                let rows = format!("SELECT id FROM wp_jwt_auth_tokens WHERE refresh_token_hash = '{token}'");
                !database.rows(&rows).await.is_empty()
            })
            .await;
        }
        let calls: Vec<_> =
            site.addresses().into_iter().map(|address| tokio::spawn(refresh(address, &token))).collect();
        let mut pairs = 0;
        for call in calls {
            pairs += usize::from(call.await.unwrap().1.is_some());
        }
        assert_eq!(pairs, 1, "{round}");
    }
    // What the applier may not write, the member lacks.
    let [first, second, _] = &site.sidecars[..] else { unreachable!("there are three") };
    assert_eq!(refresh(second.address(), &random_hex::<16>()).await.0, 403, "nobody issued it");
    let mut root = site.servers.members[1].root().await;
    root.query_drop("FLUSH TABLES WITH READ LOCK").await.unwrap();
    let (status, next) = refresh(first.address(), &site.token().await).await;
    assert_eq!(status, 200);
    let next = next.unwrap();
    let began = Instant::now();
    let late = tokio::spawn(refresh(second.address(), &next));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!late.is_finished(), "it waits for what the others have committed");
    root.query_drop("UNLOCK TABLES").await.unwrap();
    let (status, _) = late.await.unwrap();
    assert!(status == 200 || status == 503, "{status} after {:?}: never a refusal", began.elapsed());
    if status == 503 {
        assert_eq!(refresh(second.address(), &next).await.0, 200, "the client comes again");
    }
    assert_eq!(site.forwarded(), 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/mysql mysql-sid --ignored group_replication::"]
async fn the_members_state_is_shown() {
    let site = site(&[]).await;
    let check = || {
        let environment = command_environment(&site.databases[0], site.upstream.address());
        let output = sidecar::command().arg("check").envs(environment).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let told = check();
    assert!(told.contains("database cluster: its state cannot be read by this user"), "{told}");
    let mut root = site.servers.members[0].root().await;
    let grant = "GRANT SELECT ON performance_schema.replication_group_members TO sidecar@localhost";
    root.query_drop(grant).await.unwrap();
    let told = check();
    assert!(told.contains("database cluster: ONLINE, PRIMARY, 3 nodes"), "{told}");
}
