//! Stores of all kinds: by TLS, by a socket, behind Sentinels, a cluster, and another one after a
//! reload.

use std::sync::atomic::{AtomicU8, Ordering};

use super::{AWAY, STORE, Site, USED, header};
use crate::reload::Configured;
use crate::support::mariadb::TokenState;
use crate::support::rig::{self, command_environment, eventually};
use crate::support::secrets;
use crate::support::store::{Sentinel, Store};
use crate::support::tls::Authority;

const CA_FILE: &str = "WP_JWT_SIDECAR_RATE_LIMIT_STORE_CA_FILE";
const PREFIX: &str = "WP_JWT_SIDECAR_RATE_LIMIT_STORE_PREFIX";

#[tokio::test(flavor = "multi_thread")]
async fn by_tls_and_only_to_whom_is_trusted() {
    let authority = Authority::new();
    let pair = authority.issue("store", &["127.0.0.1", "localhost"]);
    let (chain, key) = (pair.chain.to_str().unwrap(), pair.key.to_str().unwrap());
    let store = Store::start_with(&["--tls-cert-file", chain, "--tls-key-file", key, "--tls-auth-clients", "no"]);
    let url = format!("rediss://:{}@{}", store.password, store.port.address());
    let file = authority.file();
    let site = Site::start(2, 3, &[(STORE, &url), (CA_FILE, &file)]).await;
    site.until_connected(true).await;
    assert_eq!([site.status(0, 1).await, site.status(1, 1).await, site.status(0, 1).await], [200; 3]);
    assert_eq!(site.status(1, 1).await, 429);
    let other = Authority::new();
    let untrusting = site.sidecar(&[(STORE, &url), (CA_FILE, &other.file())]);
    let line = untrusting.wait_for_log(AWAY);
    assert!(line.contains("certificate"), "{line}");
    drop(store);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_a_socket_with_a_prefix_and_rights_for_it() {
    let store = Store::start();
    let rules = "on >shop-password-of-the-test ~shop:* resetchannels -@all +evalsha +script|load +get +getrange +set +del +incr +pttl";
    secrets::register("shop-password-of-the-test");
    let command: Vec<&str> = ["ACL", "SETUSER", "shop"].into_iter().chain(rules.split(' ')).collect();
    let _: String = store.ask(&command);
    let url = format!("unix:{}?user=shop&pass=shop-password-of-the-test", store.socket().display());
    let site = Site::start(2, 1, &[(STORE, &url), (PREFIX, "shop:")]).await;
    site.until_connected(true).await;
    assert_eq!([site.status(0, 1).await, site.status(1, 1).await], [200, 429]);
    let keys: Vec<String> = store.ask(&["KEYS", "*"]);
    assert!(!keys.is_empty() && keys.iter().all(|key| key.starts_with("shop:")), "{keys:?}");
    // Another site in the same store, by the same prefix.
    let other = Site::start(1, 1, &[(STORE, &url), (PREFIX, "shop:")]).await;
    other.until_connected(true).await;
    assert_eq!(other.status(0, 1).await, 200);
    // Rights that only verdicts need must be missed before there is one.
    let _: String = store.ask(&["ACL", "SETUSER", "shop", "-getrange"]);
    let site = Site::start(1, 1, &[(STORE, &url), (PREFIX, "shop:")]).await;
    let line = site.sidecars[0].wait_for_log(AWAY);
    assert!(line.contains("GETRANGE"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_say_which_server_it_is() {
    let (first, second) = (Store::start(), Store::start());
    let same = &["CONFIG", "SET", "requirepass", &first.password];
    let _: String = first.ask(&["CONFIG", "SET", "masterauth", &first.password]);
    let _: String = second.ask(&["CONFIG", "SET", "masterauth", &first.password]);
    let _: String = first.ask(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    let _: String = second.ask(&["REPLICAOF", "127.0.0.1", &first.port.number().to_string()]);
    let _: String = second.ask(same);
    let second = second.with_password(&first.password);
    let sentinel = Sentinel::watching("shop", &first);
    eventually("the replica is known", async || sentinel.replicas("shop") == 1).await;
    let is_copied = || second.ask::<String>(&["INFO", "replication"]).contains("master_link_status:up");
    eventually("the replica has what the primary has", async || is_copied()).await;
    let url = format!(
        "redis+sentinel://:{}@127.0.0.1:1,{}/shop/0?sentinel_password={}",
        first.password,
        sentinel.port.address(),
        sentinel.password
    );
    let site = Site::start(2, 3, &[(STORE, &url)]).await;
    site.until_connected(true).await;
    assert_eq!([site.status(0, 1).await, site.status(1, 1).await], [200; 2]);
    assert_eq!(first.ask::<Vec<String>>(&["KEYS", "*limit:*"]).len(), 1);
    sentinel.fail_over("shop");
    eventually("the replica has taken over", async || {
        second.ask::<Vec<redis::Value>>(&["ROLE"])[0] == redis::Value::BulkString(b"master".to_vec())
    })
    .await;
    // The primary before refuses to count, or closed. What was counted came along.
    let clients = AtomicU8::new(10);
    for at in 0..2 {
        eventually("the other server counts", async || {
            let before = second.ask::<Vec<String>>(&["KEYS", "*limit:*"]).len();
            site.status(at, clients.fetch_add(1, Ordering::SeqCst)).await;
            second.ask::<Vec<String>>(&["KEYS", "*limit:*"]).len() > before
        })
        .await;
    }
    site.until_connected(true).await;
    assert_eq!([site.status(0, 1).await, site.status(1, 1).await], [200, 429]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_counts_each_client_at_its_server() {
    let cluster = Store::cluster();
    let hosts: Vec<String> = cluster.iter().map(|store| store.port.address().to_string()).collect();
    let url = format!("redis+cluster://:{}@{}", cluster[0].password, hosts.join(","));
    let site = Site::start(2, 2, &[(STORE, &url)]).await;
    site.until_connected(true).await;
    for client in 1..=20 {
        assert_eq!(
            [site.status(0, client).await, site.status(1, client).await, site.status(0, client).await],
            [200, 200, 429]
        );
    }
    let keys = cluster.each_ref().map(|store| store.ask::<Vec<String>>(&["KEYS", "*limit:*"]).len());
    assert!(keys.iter().sum::<usize>() == 20 && keys.iter().all(|keys| *keys > 0), "{keys:?}");
    assert!(!site.sidecars[0].log().iter().any(|line| line.contains(AWAY)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_of_a_cluster_does_not_keep_it_from_being_connected_to() {
    let cluster = Store::cluster();
    let hosts: Vec<String> = cluster.iter().map(|store| store.port.address().to_string()).collect();
    let url = format!("redis+cluster://:{}@{}", cluster[0].password, hosts.join(","));
    let slot: usize = cluster[0].ask(&["CLUSTER", "KEYSLOT", "shop:probe"]);
    // Not the one that the connection is tried at.
    let silent = &cluster[(slot / 5461 + 1) % 3];
    silent.freeze();
    let site = Site::without_sidecars(2).await;
    let sidecar = site.sidecar(&[(STORE, &url), (PREFIX, "shop:")]);
    sidecar.wait_for_log(USED);
    assert!(!sidecar.log().iter().any(|line| line.contains("no answer within 4s")));
    silent.thaw();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_another_store_and_keeps_what_was_counted() {
    let (first, second) = (Store::start(), Store::start());
    let site = Site::without_sidecars(4).await;
    let environment = command_environment(&site.database, site.upstream.address());
    let names = [
        ("upstream.url", "WP_JWT_SIDECAR_UPSTREAM_URL"),
        ("wordpress.database_url", "WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL"),
        ("wordpress.table_prefix", "WP_JWT_SIDECAR_WORDPRESS_TABLE_PREFIX"),
        ("wordpress.auth_key", "WP_JWT_SIDECAR_WORDPRESS_AUTH_KEY"),
        ("wordpress.auth_salt", "WP_JWT_SIDECAR_WORDPRESS_AUTH_SALT"),
        ("jwt.secret", "WP_JWT_SIDECAR_JWT_SECRET"),
    ];
    let value = |variable: &str| environment.iter().find(|(name, _)| *name == variable).unwrap().1.as_str();
    let mut keys: Vec<(&str, String)> = names.map(|(key, variable)| (key, format!("{:?}", value(variable)))).into();
    keys.extend(
        [("server.listen", "[\"127.0.0.1:0\"]"), ("admin.listen", "\"off\""), ("refresh.mode", "\"native\"")]
            .map(|(key, value)| (key, value.to_owned())),
    );
    let with = |store: Option<&Store>| {
        let store = store.map(|store| ("rate_limit.store", format!("{:?}", store.url())));
        keys.iter().cloned().chain(store).collect::<Vec<_>>()
    };
    fn borrowed<'a>(keys: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
        keys.iter().map(|(key, value)| (*key, value.as_str())).collect()
    }
    let configured = Configured::start(&borrowed(&with(Some(&first))));
    let sidecar = &configured.sidecar;
    sidecar.wait_for_log("refreshing natively");
    sidecar.wait_for_log(USED);
    let refresh = async || {
        let token = site.database.insert_token(TokenState::Live, site.user).await;
        header(&rig::refresh_at(sidecar.address(), &token.refresh_token), "x-ratelimit-remaining")
    };
    assert_eq!([refresh().await, refresh().await], [3, 2]);
    let before = sidecar.log().len();
    configured.change(&borrowed(&with(Some(&second))));
    let line = sidecar.wait_for_log_after(before, USED);
    assert!(line.contains(&second.port.address().to_string()), "{line}");
    assert_eq!(refresh().await, 3, "by another store");
    configured.change(&borrowed(&with(None)));
    assert_eq!(refresh().await, 1, "alone, from where it was");
    // That of the question itself is there.
    for store in [&first, &second] {
        let connections = || store.ask::<String>(&["CLIENT", "LIST"]).lines().count();
        eventually("its connection has ended", async || connections() == 1).await;
    }
    assert!(!sidecar.log().iter().any(|line| line.contains(AWAY)));
}
