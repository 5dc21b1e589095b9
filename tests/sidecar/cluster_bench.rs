//! What a cluster costs: refreshes a second over one, two and three nodes, and a causal read. Run
//! by `tests/cluster --bench`; it prints, and proves nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::cluster::{Site, refresh};
use crate::support::apps::Apps;
use crate::support::mariadb::{Database, TestDatabase, random_hex};
use crate::support::rig;
use crate::trouble::INTERVAL;

/// Clients, each of which waits for its answer.
const CLIENTS: usize = 32;

/// Of each measurement, behind a second that does not count.
const SECONDS: u64 = 10;

/// Tokens that nobody has issued, one after the other.
const UNKNOWN: usize = 1_000;

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

/// How long an answer to an unknown token takes, half of them at most.
async fn unknown(address: SocketAddr) -> Duration {
    let mut took = Vec::new();
    for _ in 0..UNKNOWN {
        let (began, token) = (Instant::now(), random_hex::<16>());
        assert_eq!(refresh(address, &token).await.0, 403);
        took.push(began.elapsed());
    }
    took.sort();
    took[UNKNOWN / 2]
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
    println!("a single server: an unknown token is refused in {:?}", unknown(address).await);
    drop((sidecar, server));

    let site = Site::start(true, &[INTERVAL]).await;
    let addresses = site.addresses();
    for nodes in 1..=3 {
        let rate = rate(&site.databases[0], site.user, &addresses[..nodes]).await;
        println!("Galera, sidecars at {nodes} of 3 nodes in turn: {rate} refreshes a second");
    }
    println!("Galera: an unknown token is refused in {:?}", unknown(addresses[0]).await);
}
