//! What a cluster costs: refreshes a second over one, two and three nodes, and a causal read. Run
//! by `tests/cluster --bench`; it prints, and proves nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use crate::cluster;
use crate::support::apps::Apps;
use crate::support::mariadb::{Database, TestDatabase};
use crate::support::rig;
use crate::trouble::INTERVAL;

/// Clients, each of which waits for its answer.
const CLIENTS: usize = 32;

/// Of each measurement, behind a second that does not count.
const SECONDS: u64 = 10;

/// Reads of one kind, one after the other.
const READS: usize = 2_000;

/// Refreshes a second, each client's next call at the next of `addresses`.
async fn rate(database: &TestDatabase, user: u64, addresses: &[SocketAddr]) -> u64 {
    let apps = Apps::start_at(CLIENTS, database, user, addresses).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (began, before) = (Instant::now(), apps.rotations());
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    let rate = (apps.rotations() - before) as f64 / began.elapsed().as_secs_f64();
    let report = apps.end();
    assert!(report.lost.is_empty(), "{report:?}");
    rate as u64
}

/// How long a statement takes at most for half of its runs.
async fn median(conn: &mut Conn, statement: &str) -> Duration {
    let mut took = Vec::new();
    for _ in 0..READS {
        let began = Instant::now();
        conn.query_drop(statement).await.unwrap();
        took.push(began.elapsed());
    }
    took.sort();
    took[READS / 2]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/cluster --bench"]
async fn what_a_cluster_costs() {
    let server = Database::private();
    let database = rig::site(&server).await;
    let user = database.insert_user("alice").await.id;
    database.execute("CREATE INDEX refresh_token ON wp_jwt_auth_tokens (refresh_token_hash)").await;
    let upstream = rig::wordpress();
    let sidecar = rig::sidecar(&database, upstream.address(), &[INTERVAL]);
    let address = sidecar.address();
    sidecar.wait_for_log("refreshing natively");
    println!("a single server: {} refreshes a second", rate(&database, user, &[address]).await);
    drop((sidecar, server));

    let site = cluster::site(true, &[INTERVAL]).await;
    let addresses = site.addresses();
    for nodes in 1..=3 {
        let rate = rate(&site.databases[0], site.user, &addresses[..nodes]).await;
        println!("Galera, sidecars at {nodes} of 3 nodes in turn: {rate} refreshes a second");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/cluster --bench"]
async fn what_a_causal_read_costs() {
    let site = cluster::site(true, &[INTERVAL]).await;
    let mut conn = site.servers.nodes[1].server.root().await;
    let name = site.databases[1].url().rsplit_once('/').unwrap().1.split_once('?').unwrap().0.to_owned();
    let read = format!("SELECT id FROM {name}.wp_jwt_auth_tokens WHERE refresh_token_hash = 'unknown'");
    let causal = format!("SET STATEMENT wsrep_sync_wait = 1 FOR {read}");
    println!("idle: {:?}, causal {:?}", median(&mut conn, &read).await, median(&mut conn, &causal).await);
    let apps = Apps::start_at(CLIENTS, &site.databases[0], site.user, &site.addresses()).await;
    apps.go_on(CLIENTS);
    println!(
        "refreshes at all nodes: {:?}, causal {:?}",
        median(&mut conn, &read).await,
        median(&mut conn, &causal).await
    );
    assert!(apps.end().lost.is_empty());
}
