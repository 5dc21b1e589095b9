//! A thousand sites of one network, each with tables of its own: their cost is the memory of the
//! sites in use.

use super::made::{At, NetworkSite, is_native, refresh};
use crate::support::mariadb::{TestDatabase, TokenState};
use crate::support::rig::eventually;

const SITES: u64 = 1_000;

/// The row and the tables of the site `id`, copied from the second site. Only the table of tokens
/// is its own, since it takes minutes to create thousands. All analytics are in the second site's
/// table, where `blog_id` distinguishes them.
fn copy(id: u64) -> [String; 4] {
    [
        format!("CREATE TABLE wp_{id}_jwt_auth_tokens LIKE wp_2_jwt_auth_tokens"),
        format!("CREATE VIEW wp_{id}_jwt_auth_analytics AS SELECT * FROM wp_2_jwt_auth_analytics"),
        format!(
            "CREATE VIEW wp_{id}_options AS SELECT option_id, option_name, IF(option_name IN ('home', 'siteurl'), \
             'http://net.test/s{id}', option_value) AS option_value, autoload FROM wp_2_options"
        ),
        format!(
            "INSERT INTO wp_blogs (blog_id, site_id, domain, path, registered) VALUES ({id}, 1, 'net.test', '/s{id}/', NOW())"
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_sites_cost_memory_as_they_are_used() {
    let network = NetworkSite::up(false, &[At("net.test", "/two")], "");
    // A file for each table, and writes that wait for the disk, would take minutes.
    for setting in ["innodb_file_per_table = 0", "innodb_flush_log_at_trx_commit = 0"] {
        network.database.execute(&format!("SET GLOBAL {setting}")).await;
    }
    let began = std::time::Instant::now();
    let mut connection = network.database.connect().await;
    for id in 3..3 + SITES {
        for statement in copy(id) {
            mysql_async::prelude::Queryable::query_drop(&mut connection, statement).await.unwrap();
        }
    }
    println!("made in {:?}", began.elapsed());
    let sidecar = network.sidecar(&[]);
    let memory = || resident_kib(sidecar.pid());
    assert!(is_native(&refresh(&sidecar, At("net.test", ""), &network.token(1).await.refresh_token)));
    assert!(is_native(&refresh(&sidecar, At("net.test", "/two"), &network.token(2).await.refresh_token)));
    let before = memory();
    let mut native = 0;
    for round in 0..2 {
        for id in 3..3 + SITES {
            let tables = TestDatabase::open(network.database.url(), &format!("wp_{id}_"));
            let token = tables.insert_token(TokenState::Live, 1).await.refresh_token;
            let answer = refresh(&sidecar, At("net.test", &format!("/s{id}")), &token);
            assert_eq!(answer.status(), 200, "{id}: {answer:?}");
            native += u64::from(is_native(&answer));
        }
        let now = memory();
        println!(
            "round {round}: {before} KiB before, {now} KiB with {SITES} sites in use: {} KiB each; {native} refreshes native so far",
            now.saturating_sub(before) / SITES
        );
    }
    // No call was refused, and no site's row was in another's table. WordPress answers for a site
    // whose first check takes longer than half a second.
    let left = network.refreshes_by_php() as u64;
    assert!(native + left == 2 * SITES && left <= SITES / 20, "{native} native, {left} by WordPress");
    eventually("the analytics rows", async || {
        let rows = network
            .database
            .rows("SELECT COUNT(DISTINCT blog_id) AS n FROM wp_2_jwt_auth_analytics WHERE blog_id > 2")
            .await;
        rows[0].get("n") == Some(&*SITES.to_string())
    })
    .await;
    let rows = network.tables(500).rows("SELECT COUNT(*) AS n FROM wp_500_jwt_auth_tokens").await;
    assert_eq!(rows[0].get("n"), Some("4"));
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
