//! Several sidecars, each at its node of one cluster of databases, behave as one. Run by
//! `tests/cluster`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;

use crate::admin::{admin, get};
use crate::support::apps::Apps;
use crate::support::galera::{Cluster, Node};
use crate::support::mariadb::{TokenState, random_hex};
use crate::support::replicated::{Replicated, refresh};
use crate::support::rig::{self, NO_REUSE, command_environment, eventually};
use crate::support::sidecar;
use crate::support::splitter::Splitter;
use crate::trouble::{INTERVAL, families_are_whole};

const APPS: usize = 16;
const HOSTS: &str = "WP_JWT_SIDECAR_WORDPRESS_DATABASE_HOSTS";

/// Calls of the chains over all nodes; `tests/cluster --long` wants more.
const CALLS: usize = 5_000;

/// A site on a cluster, and a sidecar at each node.
pub(crate) async fn site(has_index: bool, environment: &[(&str, &str)]) -> Replicated<Cluster> {
    Replicated::start(Cluster::start().await, Cluster::servers, has_index, environment).await
}

/// A node that serves reads and applies nothing while this lives.
struct Behind(mysql_async::Conn);

impl Behind {
    async fn hold(node: &Node) -> Behind {
        let mut conn = node.server.root().await;
        conn.query_drop("FLUSH TABLES WITH READ LOCK").await.unwrap();
        Behind(conn)
    }

    async fn let_go(mut self) {
        self.0.query_drop("UNLOCK TABLES").await.unwrap();
    }
}

async fn chains_over_all_nodes(has_index: bool) {
    let calls = std::env::var("SIDECAR_TESTS_CALLS").ok().map_or(CALLS, |calls| calls.parse().unwrap());
    let site = site(has_index, &[INTERVAL]).await;
    let apps = Apps::start_at(APPS, &site.databases[0], site.user, &site.addresses()).await;
    while apps.rotations() < calls {
        apps.go_on(APPS);
    }
    let rotations = apps.rotations();
    let report = apps.end();
    println!("{rotations} rotations, index: {has_index}: {report:?}");
    assert!(report.lost.is_empty() && report.lost_unanswered == 0, "{report:?}");
    assert_eq!(site.forwarded(), 0);
    families_are_whole(&site.databases[2]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/cluster"]
async fn chains_over_all_nodes_by_the_index() {
    chains_over_all_nodes(true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/cluster"]
async fn chains_over_all_nodes_without_an_index() {
    chains_over_all_nodes(false).await;
}

/// A node that is behind for long enough, so that without the causal read each of these is refused.
async fn a_node_that_is_behind(has_index: bool) {
    let site = site(has_index, &[INTERVAL]).await;
    if !has_index {
        for sidecar in &site.sidecars {
            sidecar.wait_for_log("the tokens of the table are known");
        }
    }
    // It catches up in time: the token is good, and so is the replay of the one before.
    let first = site.token().await;
    assert_eq!(site.refresh(1, &random_hex::<16>()).await.0, 403, "it was never issued");
    let behind = Behind::hold(&site.servers.nodes[1]).await;
    let (status, next) = site.refresh(0, &first).await;
    assert_eq!(status, 200);
    let next = next.unwrap();
    let later = tokio::spawn(refresh(site.sidecars[1].address(), &next));
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!later.is_finished(), "it waits for what the others have committed");
    behind.let_go().await;
    let (status, _) = later.await.unwrap();
    assert_eq!(status, 200);
    // It does not: 503, and nothing is left to a WordPress that would refuse it as well.
    let second = site.token().await;
    eventually("the node is back", async || site.refresh(1, &random_hex::<16>()).await.0 == 403).await;
    let behind = Behind::hold(&site.servers.nodes[1]).await;
    let next = site.refresh(0, &second).await.1.unwrap();
    let began = Instant::now();
    let unknown = random_hex::<16>();
    let (known, guessed) = tokio::join!(site.refresh(1, &next), site.refresh(1, &unknown));
    assert_eq!((known.0, guessed.0), (503, 503), "whether they are valid is unknown");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    behind.let_go().await;
    eventually("the node is back", async || site.refresh(1, &unknown).await.0 == 403).await;
    assert_eq!(site.refresh(1, &next).await.0, 200, "the client comes again");
    assert_eq!(site.forwarded(), 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/cluster"]
async fn a_node_that_is_behind_refuses_no_valid_token_by_the_index() {
    a_node_that_is_behind(true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/cluster"]
async fn a_node_that_is_behind_refuses_no_valid_token_without_an_index() {
    a_node_that_is_behind(false).await;
}

/// What the plugin writes comes in two transactions: the old token may be revoked at a node that
/// lacks the new one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/cluster"]
async fn a_replay_waits_for_the_successor() {
    let site = site(true, &[INTERVAL]).await;
    let (status, next) = site.refresh(0, &site.token().await).await;
    assert_eq!(status, 200);
    let next = next.unwrap();
    // As known at node 2 before it falls behind.
    let used = site.token().await;
    let (status, successor) = site.refresh(0, &used).await;
    assert_eq!(status, 200);
    let successor = successor.unwrap();
    eventually("node 2 has it", async || site.refresh(1, &used).await == (200, Some(successor.clone()))).await;
    // Its successor is used and replaced at node 1, while node 2 sees the first successor live.
    let behind = Behind::hold(&site.servers.nodes[1]).await;
    let (status, newest) = site.refresh(0, &successor).await;
    assert_eq!(status, 200);
    let replay = tokio::spawn(refresh(site.sidecars[1].address(), &used));
    tokio::time::sleep(Duration::from_millis(500)).await;
    behind.let_go().await;
    assert_eq!(replay.await.unwrap(), (200, newest), "the family's live pair, not one that is used");
    // While a node is behind, no row can be locked here, so the statement itself shows that the
    // read waited.
    let mut root = site.servers.nodes[1].server.root().await;
    root.query_drop("SET GLOBAL log_output = 'TABLE', GLOBAL general_log = 1").await.unwrap();
    assert_eq!(site.refresh(1, &used).await.0, 200, "a replay");
    let causal = "SET STATEMENT wsrep_sync_wait = 1 FOR SELECT id, hash%";
    let count: Option<usize> = root
        .query_first(format!("SELECT COUNT(*) FROM mysql.general_log WHERE argument LIKE '{causal}'"))
        .await
        .unwrap();
    assert!(count > Some(0), "the successor is read causally");
    assert_eq!(site.refresh(2, &next).await.0, 200);
}

/// Unknown tokens by the hundred: none is answered before it was asked for with causality, and the
/// reads are few.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/cluster"]
async fn a_flood_of_unknown_tokens_is_few_causal_reads() {
    const FLOOD: usize = 400;
    let site = site(true, &[INTERVAL]).await;
    let reads = async || site.servers.nodes[1].status("Com_select").await.parse::<usize>().unwrap();
    let behind = Behind::hold(&site.servers.nodes[1]).await;
    // Something to wait for.
    site.token().await;
    let before = reads().await;
    let calls: Vec<_> =
        (0..FLOOD).map(|_| tokio::spawn(refresh(site.sidecars[1].address(), &random_hex::<16>()))).collect();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let waiting: Vec<Vec<Option<String>>> = site.servers.nodes[1]
        .server
        .root()
        .await
        .query("SELECT INFO FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SET STATEMENT wsrep_sync_wait%'")
        .await
        .map(|rows: Vec<Option<String>>| rows.into_iter().map(|row| vec![row]).collect())
        .unwrap();
    assert!(waiting.len() <= 2, "{} causal reads at a time", waiting.len());
    assert!(!calls.iter().any(tokio::task::JoinHandle::is_finished), "none is answered before the node has caught up");
    behind.let_go().await;
    let mut answers: HashMap<u16, usize> = HashMap::new();
    for call in calls {
        *answers.entry(call.await.unwrap().0).or_default() += 1;
    }
    let selects = reads().await - before;
    println!("{answers:?} by {selects} reads");
    assert_eq!(answers.get(&403), Some(&FLOOD), "{answers:?}");
    assert!(selects < FLOOD / 2, "{selects} reads for {FLOOD} tokens");
}

/// One token at all sidecars at once: there is one successor.
async fn races(environment: (&str, &str), winners: usize) {
    let site = site(true, &[environment]).await;
    for round in 0..60 {
        let token = site.token().await;
        for database in &site.databases {
            eventually("all have it", async || {
                !database
                    .rows(&format!("SELECT id FROM wp_jwt_auth_tokens WHERE refresh_token_hash = '{token}'"))
                    .await
                    .is_empty()
            })
            .await;
        }
        let calls: Vec<_> =
            site.addresses().into_iter().map(|address| tokio::spawn(refresh(address, &token))).collect();
        let mut answers = Vec::new();
        for call in calls {
            answers.push(call.await.unwrap());
        }
        let mut pairs: Vec<&String> = answers.iter().filter_map(|(_, next)| next.as_ref()).collect();
        assert_eq!(pairs.len(), winners, "{round}: {answers:?}");
        pairs.dedup();
        assert_eq!(pairs.len(), 1, "{round}: {answers:?}");
    }
    families_are_whole(&site.databases[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/cluster"]
async fn a_race_has_one_winner() {
    races(NO_REUSE, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/cluster"]
async fn a_race_with_replays_has_one_pair() {
    races(INTERVAL, 3).await;
}

/// A node that is killed, stopped and comes back, under load at all three.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/cluster"]
async fn nodes_that_die_freeze_and_come_back() {
    let site = site(true, &[INTERVAL]).await;
    let apps = Apps::start_at(APPS, &site.databases[0], site.user, &site.addresses()).await;
    apps.go_on(10 * APPS);
    site.servers.nodes[2].server.kill().await;
    apps.go_on(10 * APPS);
    site.servers.nodes[2].server.start().await;
    site.servers.nodes[2].until("Synced").await;
    apps.go_on(10 * APPS);
    site.servers.nodes[1].server.freeze().await;
    apps.go_on(4 * APPS);
    tokio::time::sleep(Duration::from_secs(8)).await;
    apps.go_on(4 * APPS);
    site.servers.nodes[1].server.thaw().await;
    site.servers.nodes[1].until("Synced").await;
    apps.go_on(10 * APPS);
    let rotations = apps.rotations();
    let report = apps.end();
    println!("{rotations} rotations: {report:?}");
    assert!(report.lost.is_empty(), "{report:?}");
    families_are_whole(&site.databases[0]).await;
}

/// A node that the network separates from the others, under load at all three: it has no majority,
/// takes nothing, and comes back.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/cluster"]
async fn a_node_that_is_cut_off_refuses_nobody() {
    let site = site(true, &[INTERVAL]).await;
    let apps = Apps::start_at(APPS, &site.databases[0], site.user, &site.addresses()).await;
    apps.go_on(10 * APPS);
    let node = &site.servers.nodes[2];
    // Galera's own way to drop all packets of the group's.
    let isolate = async |on: u8| {
        let mut root = node.server.root().await;
        root.query_drop(format!("SET GLOBAL wsrep_provider_options = 'gmcast.isolate={on}'")).await.unwrap();
    };
    isolate(1).await;
    eventually("it has no majority", async || node.status("wsrep_cluster_status").await == "non-Primary").await;
    apps.go_on(10 * APPS);
    isolate(0).await;
    node.until("Synced").await;
    apps.go_on(10 * APPS);
    let report = apps.end();
    assert!(report.lost.is_empty(), "{report:?}");
    families_are_whole(&site.databases[0]).await;
}

/// One sidecar that has all nodes as its hosts passes over one that is not synced, and goes back
/// when it is.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/cluster"]
async fn a_node_that_is_not_synced_is_passed_over() {
    let cluster = Cluster::start().await;
    let [first, second, _] = &cluster.nodes;
    let database = rig::site(&first.server).await;
    let user = database.insert_user("alice").await.id;
    database.execute("CREATE INDEX refresh_token ON wp_jwt_auth_tokens (refresh_token_hash)").await;
    let upstream = rig::wordpress();
    let hosts = format!("{},{}", first.server.host(), second.server.host());
    let sidecar = rig::sidecar(&database, upstream.address(), &[(HOSTS, &hosts)]);
    sidecar.wait_for_log("refreshing natively");
    let behind = Behind::hold(first).await;
    let token = second.server.same(&database).insert_token(TokenState::Live, user).await.refresh_token;
    // The first call finds out that the node is behind; the next one is at the other.
    eventually("it is at the other node", async || refresh(sidecar.address(), &token).await.0 == 200).await;
    let line = sidecar.wait_for_log("another one is used from now on");
    assert!(line.contains("Donor/Desynced, Primary"), "{line}");
    behind.let_go().await;
    sidecar.wait_for_log("accepts writes again and is used from now on");
    let token = first.server.same(&database).insert_token(TokenState::Live, user).await.refresh_token;
    assert_eq!(refresh(sidecar.address(), &token).await.0, 200);
    drop(upstream);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/cluster"]
async fn the_nodes_state_is_shown() {
    let site = site(true, &[("WP_JWT_SIDECAR_ADMIN_LISTEN", "127.0.0.1:0")]).await;
    let environment = command_environment(&site.databases[0], site.upstream.address());
    let output = sidecar::command().arg("check").envs(environment).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("database cluster: Synced, Primary, 3 nodes"), "{told}");
    let page = admin(&site.sidecars[1]);
    let status = || get(page, "/status.json").json();
    eventually("all nodes are seen", async || status()["database"]["node"] == "Synced, Primary, 3 nodes").await;
    let metrics = || String::from_utf8(get(page, "/metrics").body).unwrap();
    assert!(metrics().contains("wp_jwt_sidecar_database_node_synced 1\n"));
    assert!(metrics().contains("wp_jwt_sidecar_database_cluster_nodes 3\n"));
    let behind = Behind::hold(&site.servers.nodes[1]).await;
    eventually("it is seen", async || status()["database"]["node"] == "Donor/Desynced, Primary, 3 nodes").await;
    assert!(status()["findings"].to_string().contains("is not in step: Donor/Desynced, Primary, 3 nodes"));
    assert!(metrics().contains("wp_jwt_sidecar_database_node_synced 0\n"));
    behind.let_go().await;
    site.servers.nodes[2].server.kill().await;
    eventually("one is missing", async || status()["database"]["node"] == "Synced, Primary, 2 nodes").await;
}

/// As ProxySQL with the rules of its documentation: reads outside of transactions go to another
/// node, which is behind.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/cluster"]
async fn a_proxy_that_splits_reads_refuses_nobody() {
    let cluster = Cluster::start().await;
    let [first, second, _] = &cluster.nodes;
    let database = rig::site(&first.server).await;
    let user = database.insert_user("alice").await.id;
    database.execute("CREATE INDEX refresh_token ON wp_jwt_auth_tokens (refresh_token_hash)").await;
    let name = database.url().rsplit_once('/').unwrap().1.split_once('?').unwrap().0.to_owned();
    let mut root = first.server.root().await;
    root.query_drop("CREATE USER split@localhost").await.unwrap();
    root.query_drop(format!("GRANT ALL ON {name}.* TO split@localhost")).await.unwrap();
    eventually("the other node has the account and the site", async || {
        let asked = format!("SELECT 1 FROM mysql.db WHERE User = 'split' AND Db = '{name}'");
        let known: Option<u8> = second.server.root().await.query_first(asked).await.unwrap();
        known.is_some()
    })
    .await;
    let splitter = Splitter::between(first.server.socket(), second.server.socket());
    let url = format!("mysql://split@{}/{name}", splitter.address());
    let upstream = rig::wordpress();
    let environment = [("WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL", url.as_str()), INTERVAL];
    let sidecar = rig::sidecar(&database, upstream.address(), &environment);
    sidecar.wait_for_log("a proxy sends reads to other servers than writes");
    sidecar.wait_for_log("refreshing natively");
    let behind = Behind::hold(second).await;
    let mut token = database.insert_token(TokenState::Live, user).await.refresh_token;
    for call in 0..20 {
        let (status, next) = refresh(sidecar.address(), &token).await;
        assert_eq!(status, 200, "{call}");
        assert_eq!(refresh(sidecar.address(), &token).await, (200, next.clone()), "{call}: a replay");
        token = next.unwrap();
    }
    assert_eq!(refresh(sidecar.address(), &random_hex::<16>()).await.0, 403);
    let tokens: Vec<_> = splitter.read().into_iter().filter(|text| text.contains("`wp_jwt_auth_tokens`")).collect();
    assert!(!tokens.iter().any(|text| text.contains("refresh_token_hash")), "no token is looked for there: {tokens:?}");
    behind.let_go().await;
    drop(upstream);
}
