//! Operators' commands for one further site of a network: its index, its verification, its old
//! rows.

use super::made::{At, NetworkSite, refresh};
use super::{until_looked_at, verified};
use crate::support::mariadb::TokenState;
use crate::support::rig::eventually;
use crate::support::sidecar::{command, wait_until};

const TWO: At<'static> = At("net.test", "/two");
const MAPPED: At<'static> = At("mapped.test", "");

/// Runs a command with this network's configuration. Returns its exit code and all output.
fn run(network: &NetworkSite, arguments: &[&str]) -> (Option<i32>, String) {
    let upstream = format!("http://{}", network.site.upstream());
    let config = network.site.wp_config().to_str().unwrap();
    let output = command().args(arguments).args(["--upstream", &upstream, "--wp-config", config]).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_site_has_an_index_of_its_own() {
    let network = NetworkSite::up(false, &[TWO, MAPPED], "");
    let indexed = async || {
        let query = "SELECT TABLE_NAME AS t FROM information_schema.STATISTICS WHERE INDEX_NAME = 'wp_jwt_sidecar_refresh_token'";
        let rows = network.database.rows(query).await;
        rows.iter().map(|row| row.get("t").unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (code, said) = run(&network, &["index", "--apply", "--site", "https://net.test/two/"]);
    assert_eq!((code, indexed().await), (Some(0), vec!["wp_2_jwt_auth_tokens".to_owned()]), "{said}");
    let (_, said) = run(&network, &["index", "--site", "3"]);
    assert!(said.contains("wp_3_jwt_auth_tokens"), "{said}");
    let (code, said) = run(&network, &["index", "--drop", "--site", "2"]);
    assert_eq!((code, indexed().await), (Some(0), Vec::new()), "{said}");
    for (site, problem) in [
        ("99", "the network has no site 99"),
        ("http://net.test/three", "the network has no site net.test/three/"),
        ("net.test/?p=1", "--site takes the id of a site of the network, or its URL"),
    ] {
        let (code, said) = run(&network, &["index", "--apply", "--site", site]);
        assert!(code != Some(0) && said.contains(problem), "{said}");
    }
    assert!(indexed().await.is_empty());

    // The database takes the first of these for the second, and for a third one.
    for (id, path) in [(8, "/fívé/"), (9, "/five/"), (10, "/sévén/")] {
        let row = format!("({id}, 1, 'net.test', '{path}', NOW())");
        let insert = "INSERT INTO wp_blogs (blog_id, site_id, domain, path, registered) VALUES";
        network.database.execute(&format!("{insert} {row}")).await;
    }
    let (_, said) = run(&network, &["index", "--site", "net.test/five"]);
    assert!(said.contains("wp_9_jwt_auth_tokens"), "{said}");
    let (code, said) = run(&network, &["index", "--site", "net.test/seven"]);
    assert!(code != Some(0) && said.contains("name the site by one of the ids 10"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_site_begins_its_verification_again() {
    let network = NetworkSite::up(false, &[TWO, MAPPED], "");
    let state = tempfile::tempdir().unwrap();
    let directory = ["--refresh-state-directory", state.path().to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let verify = |site: &str, more: &[&str]| {
        let arguments = [&["verify", "--site", site, "--refresh-verify", "auto"], &directory[..], more].concat();
        run(&network, &arguments)
    };
    let (code, said) = verify("net.test/two", &[]);
    assert!(code == Some(2) && said.contains("no state of the site net.test/two is kept in"), "{said}");

    let sidecar = verified(&network, state.path(), &[]);
    let is_by_php = async || {
        let before = network.refreshes_by_php();
        assert_eq!(refresh(&sidecar, TWO, &network.token(2).await.refresh_token).status(), 200);
        network.refreshes_by_php() > before
    };
    eventually("the site is proven", async || !is_by_php().await).await;
    wait_until("that is kept", || verify("2", &[]).1.contains("state:      agrees, since "));
    let (code, said) = verify("2", &["--admin-listen", "127.0.0.1:1"]);
    assert!(code == Some(0) && said.contains("refreshes are native"), "{said}");
    assert!(said.contains("not asked, as always with --site; this is what it has kept last"), "{said}");

    // It is in use, and another site is not.
    let (code, said) = verify("http://net.test/two/", &["--again"]);
    assert_eq!(code, Some(0), "{said}");
    sidecar.wait_for_log("the verification begins again");
    assert!(is_by_php().await, "nothing is known of it any more");
    eventually("it is proven again", async || !is_by_php().await).await;
    let (code, said) = verify("3", &["--again"]);
    assert!(
        code == Some(0)
            && said.contains("either the site 3 is not in use (it begins again at its next refresh), or no"),
        "{said}"
    );
    // The first site always is, so no sidecar runs.
    drop(sidecar);
    let (code, said) = verify("1", &["--again"]);
    assert!(code == Some(2) && said.contains("no sidecar of this configuration has noticed within 10s"), "{said}");
}

/// Which of a site's old rows exist: the first token of a family, its last one, an event.
async fn old_rows(network: &NetworkSite, id: u64, [first, last]: [u64; 2]) -> [bool; 3] {
    let tables = network.tables(id);
    let events = tables.analytics_rows_after(0).await;
    let event = events.iter().any(|row| row.get("event_type") == Some("old"));
    [tables.token_row(first).await.is_some(), tables.token_row(last).await.is_some(), event]
}

#[tokio::test(flavor = "multi_thread")]
async fn old_rows_of_sites_in_use_go() {
    let network = NetworkSite::up(false, &[TWO, MAPPED], "");
    let mut tokens = Vec::new();
    for id in [1, 2, 3] {
        let tables = network.tables(id);
        let first = tables.insert_token(TokenState::Revoked, 1).await;
        let last = tables.insert_token_of_family(TokenState::Revoked, 1, &first.token_family).await;
        tokens.push([first.id, last.id]);
        let prefix = if id == 1 { "wp_".to_owned() } else { format!("wp_{id}_") };
        let age = format!("SET revoked_at = UTC_TIMESTAMP() - INTERVAL 40 DAY WHERE id IN ({}, {})", first.id, last.id);
        tables.execute(&format!("UPDATE {prefix}jwt_auth_tokens {age}")).await;
        let event = "(event_type, event_status, event_timestamp) VALUES ('old', 1, UTC_TIMESTAMP() - INTERVAL 400 DAY)";
        tables.execute(&format!("INSERT INTO {prefix}jwt_auth_analytics {event}")).await;
    }
    let rows = async |id: u64| old_rows(&network, id, tokens[id as usize - 1]).await;
    let sidecar = network.sidecar(&["--cleanup-tokens-after-days", "30", "--cleanup-analytics", "true"]);
    until_looked_at(&network, &sidecar, 2, TWO).await;
    // Only the last row of a family stays, whatever its age.
    let left = [false, true, false];
    for id in [1, 2] {
        eventually("the old rows of the first site and of the one in use", async || rows(id).await == left).await;
    }
    assert_eq!(rows(3).await, [true; 3], "that site is not in use");
    until_looked_at(&network, &sidecar, 3, MAPPED).await;
    eventually("its old rows", async || rows(3).await == left).await;
    let deleted =
        |table: &str| sidecar.log().iter().any(|line| line.contains("old rows deleted") && line.contains(table));
    for table in ["wp_jwt_auth_tokens", "wp_2_jwt_auth_tokens", "wp_3_jwt_auth_tokens"] {
        wait_until("the lines", || deleted(table));
    }
}
