//! Several sidecars of a site count refreshes together in a store, and each by itself while that is
//! away.

mod servers;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::admin::{admin, get};
use crate::support::mariadb::{Database, TestDatabase, TokenState, random_hex};
use crate::support::raw::{Connection, Message, Upstream};
use crate::support::rig::{self, NO_REUSE, command_environment, eventually};
use crate::support::secrets;
use crate::support::sidecar::{self, Sidecar};
use crate::support::store::Store;

const STORE: &str = "WP_JWT_SIDECAR_RATE_LIMIT_STORE";
const ADMIN: (&str, &str) = ("WP_JWT_SIDECAR_ADMIN_LISTEN", "127.0.0.1:0");
const USED: &str = "the shared store is used";
const AWAY: &str = "the shared store is unavailable";
const BACK: &str = "the shared store is available again";

/// No refresh waits longer for the store.
const LIMIT: Duration = Duration::from_millis(50);

/// The delays of a machine that runs other tests, too. Without a limit the wait has no end.
const BUSY: Duration = Duration::from_millis(200);

/// Several sidecars of one site, whose plugin lets some requests through.
struct Site {
    database: TestDatabase,
    user: u64,
    upstream: Upstream,
    sidecars: Vec<Sidecar>,
}

impl Site {
    async fn start(count: usize, most: u32, environment: &[(&str, &str)]) -> Site {
        let site = Site::without_sidecars(most).await;
        let sidecars: Vec<Sidecar> = (0..count).map(|_| site.sidecar(environment)).collect();
        for sidecar in &sidecars {
            sidecar.wait_for_log("refreshing natively");
        }
        Site { sidecars, ..site }
    }

    async fn without_sidecars(most: u32) -> Site {
        let database = rig::site(Database::shared()).await;
        let limit = format!("i:{most};");
        let settings = rig::settings(&[
            ("rate_limit_settings", "enabled", "b:1;"),
            ("rate_limit_settings", "max_requests", &limit),
            ("rate_limit_settings", "window_minutes", "i:5;"),
        ]);
        database.set_option("jwt_auth_pro_settings", settings).await;
        let user = database.insert_user("alice").await.id;
        Site { database, user, upstream: rig::wordpress(), sidecars: Vec::new() }
    }

    fn sidecar(&self, environment: &[(&str, &str)]) -> Sidecar {
        let environment = [environment, &[ADMIN, NO_REUSE]].concat();
        rig::sidecar(&self.database, self.upstream.address(), &environment)
    }

    /// A refresh of a token of its own at one of them, by the client `client` (the last byte of a
    /// loopback address).
    async fn refresh(&self, at: usize, client: u8) -> Message {
        let token = self.database.insert_token(TokenState::Live, self.user).await;
        let mut connection = Connection::from(Ipv4Addr::new(127, 0, 0, client), self.sidecars[at].address());
        connection.send(rig::call(&token.refresh_token));
        connection.response()
    }

    async fn status(&self, at: usize, client: u8) -> u16 {
        self.refresh(at, client).await.status()
    }

    /// What the status page has of the store.
    fn shown(&self, at: usize) -> Value {
        get(admin(&self.sidecars[at]), "/status.json").json()["store"].take()
    }

    fn metric(&self, at: usize, name: &str) -> f64 {
        let text = String::from_utf8(get(admin(&self.sidecars[at]), "/metrics").body).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("wp_jwt_sidecar_{name} ")));
        line.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
    }

    async fn until_connected(&self, is_so: bool) {
        for at in 0..self.sidecars.len() {
            eventually("the sidecar sees the store", async || self.shown(at)["up"] == is_so).await;
        }
    }
}

fn header(answer: &Message, name: &str) -> u64 {
    answer.value(name).unwrap_or_else(|| panic!("{name}: {answer:?}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn refreshes_are_counted_once_over_all_sidecars() {
    let store = Store::start();
    let url = store.url();
    let site = Site::start(3, 6, &[(STORE, &url)]).await;
    site.until_connected(true).await;
    let mut remaining = Vec::new();
    for call in 0..6 {
        let answer = site.refresh(call % 3, 1).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        remaining.push(header(&answer, "x-ratelimit-remaining"));
    }
    assert_eq!(remaining, [5, 4, 3, 2, 1, 0]);
    let mut ends = Vec::new();
    for at in [0, 1, 2, 0, 1, 2] {
        let answer = site.refresh(at, 1).await;
        assert_eq!(answer.status(), 429, "{answer:?}");
        assert!((1..=300).contains(&header(&answer, "retry-after")), "{answer:?}");
        ends.push(header(&answer, "x-ratelimit-reset"));
    }
    assert!(ends.iter().all(|end| end.abs_diff(ends[0]) <= 1), "one window: {ends:?}");
    // Another client has its own.
    assert_eq!(header(&site.refresh(1, 2).await, "x-ratelimit-remaining"), 5);

    let mut keys: Vec<String> = store.ask(&["KEYS", "*"]);
    keys.retain(|key| !key.ends_with("probe"));
    assert_eq!(keys.len(), 2, "{keys:?}");
    for key in &keys {
        assert!(key.starts_with("wp-jwt-sidecar:") && !key.contains("127"), "{key}");
        let left: i64 = store.ask(&["PTTL", key]);
        assert!((1..=300_000).contains(&left), "{left}");
    }
    // A client that is known to have had its share costs the store nothing.
    let asked = site.shown(0)["answered"].as_u64();
    assert_eq!(site.status(0, 1).await, 429);
    assert_eq!(site.shown(0)["answered"].as_u64(), asked);
    assert!((site.metric(0, "shared_store_up") - 1.0).abs() < 0.1);
    assert!(site.metric(2, "shared_store_duration_seconds_count") >= 2.0);
    for sidecar in &site.sidecars {
        sidecar.wait_for_log(USED);
        assert!(!sidecar.log().iter().any(|line| line.contains(AWAY)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_at_the_same_moment_are_counted_exactly() {
    const MOST: u32 = 40;
    let store = Store::start();
    let site = Site::start(3, MOST, &[(STORE, &store.url())]).await;
    site.until_connected(true).await;
    // Unknown tokens count as well, and cost no row.
    let calls: Vec<_> = (0..90)
        .map(|call| {
            let address = site.sidecars[call % 3].address();
            tokio::task::spawn_blocking(move || rig::refresh_at(address, &random_hex::<16>()).status())
        })
        .collect();
    let mut counted = 0;
    for call in calls {
        counted += u32::from(call.await.unwrap() == 403);
    }
    assert_eq!(counted, MOST);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_counts_alone_while_the_store_is_away() {
    let store = Store::start();
    let site = Site::start(2, 3, &[(STORE, &store.url())]).await;
    site.until_connected(true).await;
    assert_eq!((site.status(0, 1).await, site.status(1, 1).await), (200, 200));
    store.kill();
    // Each goes on from where the store was when it was last asked.
    assert_eq!(header(&site.refresh(0, 1).await, "x-ratelimit-remaining"), 1);
    assert_eq!(header(&site.refresh(1, 1).await, "x-ratelimit-remaining"), 0);
    assert_eq!([site.status(0, 1).await, site.status(0, 1).await, site.status(1, 1).await], [200, 429, 429]);
    site.until_connected(false).await;
    let is_refused = |shown: &Value| shown["trouble"].as_str().is_some_and(|trouble| trouble.contains("refused"));
    eventually("it is tried again", async || is_refused(&site.shown(0))).await;
    assert!(site.metric(0, "shared_store_up") < 0.1);
    let page = String::from_utf8(get(admin(&site.sidecars[0]), "/").body).unwrap();
    assert!(page.contains("counted by each sidecar on its own"), "{page}");
    assert!(page.contains("Each sidecar counts refreshes on its own until it returns"), "{page}");
    assert!(site.shown(0)["unasked"].as_u64() > Some(0));
    store.start_again();
    site.until_connected(true).await;
    assert_eq!([site.status(0, 2).await, site.status(1, 2).await, site.status(0, 2).await], [200; 3]);
    assert_eq!([site.status(1, 2).await, site.status(0, 2).await], [429; 2], "together again");
    for sidecar in &site.sidecars {
        let log = sidecar.log();
        let lines = |text: &str| log.iter().filter(|line| line.contains(text)).count();
        assert_eq!((lines(USED), lines(AWAY), lines(BACK)), (1, 1, 1), "{log:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_holds_up_no_refresh() {
    let store = Store::start();
    let site = Site::start(1, 1_000, &[(STORE, &store.url())]).await;
    site.until_connected(true).await;
    let address = site.sidecars[0].address();
    let mut tokens = Vec::new();
    for _ in 0..200 {
        tokens.push(site.database.insert_token(TokenState::Live, site.user).await.refresh_token);
    }
    let mut refresh = || {
        let token = tokens.pop().unwrap();
        let began = Instant::now();
        assert_eq!(rig::refresh_at(address, &token).status(), 200);
        began.elapsed()
    };
    let usual = (0..20).map(|_| refresh()).max().unwrap();
    store.freeze();
    let first = refresh();
    let later = (0..100).map(|_| refresh()).max().unwrap();
    println!("{usual:?} at most before, then {first:?}, then {later:?} at most");
    assert!(first <= LIMIT + BUSY + usual, "{first:?}, before {usual:?}");
    // It is tried again all the time, and none of these waits for that.
    let shown = site.shown(0);
    assert!(shown["failed"].as_u64() <= Some(1) && shown["unasked"].as_u64() >= Some(100), "{shown}");
    assert!(shown["trouble"].as_str().unwrap().contains("no answer within"), "{shown}");
    site.sidecars[0].wait_for_log(AWAY);
    tokio::time::sleep(Duration::from_secs(3)).await;
    store.thaw();
    site.until_connected(true).await;
    site.sidecars[0].wait_for_log(BACK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_flaps_is_told_of_twice() {
    let store = Store::start();
    let site = Site::start(1, 1_000, &[(STORE, &store.url())]).await;
    let mut pauses = Vec::new();
    for _ in 0..4 {
        site.until_connected(true).await;
        let _: i64 = store.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        site.until_connected(false).await;
        let began = Instant::now();
        site.until_connected(true).await;
        pauses.push(began.elapsed());
    }
    assert!(pauses[3] > Duration::from_millis(1_500), "it is backed off from: {pauses:?}");
    let log = site.sidecars[0].log();
    let lines = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!((lines(AWAY), lines(BACK)), (2, 1), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_and_never_shown() {
    let store = Store::start();
    let wrong = random_hex::<16>();
    secrets::register(&wrong);
    let url = format!("redis://:{wrong}@{}", store.port.address());
    let site = Site::start(1, 2, &[(STORE, &url)]).await;
    let line = site.sidecars[0].wait_for_log(AWAY);
    assert!(line.contains("login failed") && !line.contains(&wrong), "{line}");
    assert_eq!([site.status(0, 1).await, site.status(0, 1).await, site.status(0, 1).await], [200, 200, 429]);
    for command in ["check", "doctor"] {
        let output = sidecar::command()
            .arg(command)
            .envs(command_environment(&site.database, site.upstream.address()))
            .env(STORE, &url)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(told.contains("login failed, or a login is required"), "{told}");
        assert!(told.contains(&store.port.address().to_string()) && !told.contains(&wrong), "{told}");
        secrets::keep(&told);
    }
    let status = String::from_utf8(get(admin(&site.sidecars[0]), "/status.json").body).unwrap();
    assert!(status.contains("login failed") && !status.contains(&wrong), "{status}");
    // As it should be.
    let output = sidecar::command()
        .arg("check")
        .envs(command_environment(&site.database, site.upstream.address()))
        .env(STORE, store.url())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("rate limit: counted together at redis://127.0.0.1:"), "{told}");
    let line = told.lines().find(|line| line.starts_with("rate_limit.store ")).unwrap();
    assert!(line.contains("= (set)   (from environment"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_is_brought_again_where_it_is_gone_and_a_full_store_is_away() {
    let store = Store::start();
    let site = Site::start(1, 100, &[(STORE, &store.url())]).await;
    site.until_connected(true).await;
    let _: String = store.ask(&["SCRIPT", "FLUSH"]);
    assert_eq!(header(&site.refresh(0, 1).await, "x-ratelimit-remaining"), 99);
    assert_eq!((site.shown(0)["failed"].as_u64(), site.shown(0)["up"].as_bool()), (Some(0), Some(true)));
    // A key that holds something else is counted alone, and others in the store.
    let keys: Vec<String> = store.ask(&["KEYS", "*limit:*"]);
    let _: i64 = store.ask(&["DEL", &keys[0]]);
    let _: i64 = store.ask(&["LPUSH", &keys[0], "a"]);
    let _: i64 = store.ask(&["PEXPIRE", &keys[0], "50000"]);
    assert_eq!(header(&site.refresh(0, 1).await, "x-ratelimit-remaining"), 98);
    assert_eq!(header(&site.refresh(0, 2).await, "x-ratelimit-remaining"), 99);
    assert!(!site.sidecars[0].log().iter().any(|line| line.contains(AWAY)));
    let _: String = store.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let line = site.sidecars[0].wait_for_log(AWAY);
    assert!(line.contains("its memory is full"), "{line}");
    assert_eq!(header(&site.refresh(0, 1).await, "x-ratelimit-remaining"), 97);
    let _: String = store.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    site.sidecars[0].wait_for_log(BACK);
}
