//! Refreshes a second, in chains of real rotations: each response's token is the next request's. It
//! compares PHP behind nginx, the bare database with one transaction per rotation, and the sidecar,
//! on the same server with every commit on disk; then the same with a large table, refusals and
//! floods, and a storm of the plugin's own writes. Rounds alternate, and medians are printed; for
//! the storm, everything.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "rotation/bare.rs"]
mod bare;
#[path = "rotation/load.rs"]
mod load;
#[path = "rotation/measure.rs"]
mod measure;
#[path = "rotation/program.rs"]
mod program;
#[path = "rotation/report.rs"]
mod report;
#[path = "rotation/storm.rs"]
mod storm;
#[allow(dead_code, reason = "a benchmark needs only a part of what the tests stand on")]
#[path = "../sidecar/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::runtime::Builder;
use tokio::task::spawn_blocking;

use load::{Outcome, Target};
use measure::{Line, Measure};
use program::Program;
use report::{Report, declared_names};
use support::mariadb::{TestDatabase, TokenState};
use support::rig::settings;
use support::site::Site;

/// The time for WordPress's first responses, on so few connections: about a hundred in a second.
const VERIFYING: Duration = Duration::from_secs(2);
const FEW: usize = 4;

/// Unknown tokens a second, all different, and the connections that they are sent on.
const FLOOD: u64 = 10_000;
const FLOOD_CONNECTIONS: usize = 256;

/// How long the analytics rows of a line may take to be written.
const ANALYTICS_LIMIT: Duration = Duration::from_secs(30);

/// The minimum of seconds that the storm lasts beside each rate of refreshes; a multiple of 4.
const STORM: u64 = 32;

/// How long filling the map of a large table may take.
const MAP_LIMIT: Duration = Duration::from_secs(120);

/// How long a turn takes of two sidecars that are compared in turns, and how many each has.
const TURN: Duration = Duration::from_secs(1);
const TURNS: usize = 6;

const FIELDS: &str =
    r#"[{ name = "first_name", value = { meta = "first_name" } }, { name = "login", value = { column = "login" } }]"#;

/// The users whose tokens are refreshed: one for each connection of the largest number.
const USERS: usize = 256;

/// The declared meta values of users, and the others that WordPress stores for each
/// (`wp_insert_user()` in wp-includes/user.php).
const META: [&str; 15] = [
    "first_name",
    "wp_capabilities",
    "nickname",
    "last_name",
    "description",
    "rich_editing",
    "syntax_highlighting",
    "comment_shortcuts",
    "admin_color",
    "use_ssl",
    "show_admin_bar_front",
    "locale",
    "wp_user_level",
    "dismissed_wp_pointers",
    "session_tokens",
];
const CLAIM: &str = r#"[{ path = "data.user.role", value = { roles = "first" } }]"#;

struct Bench {
    site: Site,
    database: TestDatabase,
    host: String,
    root: Conn,
    seconds: Duration,
    users: Vec<u64>,
    only: Vec<String>,
    report: Report,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let texts = |name: &str| -> Vec<String> {
        arguments.windows(2).filter(|pair| pair[0] == name).map(|pair| pair[1].clone()).collect()
    };
    let number = |name: &str, otherwise: u64| texts(name).last().map_or(otherwise, |text| text.parse().unwrap());
    let (seconds, rounds, rows) = (number("--seconds", 5), number("--rounds", 3), number("--rows", 1_000_000));
    let site = Site::up(&[]);
    let database = site.database();
    let host = site.host().to_owned();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        // The site's user has all privileges on its server.
        let root = database.connect().await;
        let seconds = Duration::from_secs(seconds);
        let mut bench = Bench {
            site,
            database,
            host,
            root,
            seconds,
            users: Vec::new(),
            only: texts("--only"),
            report: Report::default(),
        };
        bench.run(rounds, rows).await;
    });
}

impl Bench {
    async fn run(&mut self, rounds: u64, rows: u64) {
        for setting in [
            "innodb_buffer_pool_size = 1073741824",
            "innodb_log_file_size = 1073741824",
            "innodb_flush_log_at_trx_commit = 1",
        ] {
            self.root.query_drop(format!("SET GLOBAL {setting}")).await.unwrap();
        }
        let limits = settings(&[("rate_limit_settings", "enabled", "b:0;")]);
        self.database.set_option("jwt_auth_pro_settings", limits).await;
        for user in 0..USERS {
            self.users.push(self.database.insert_user(&format!("bench{user}")).await.id);
        }
        for round in 1..=rounds {
            eprintln!("round {round} of {rounds}: small table");
            self.small().await;
        }
        if rows > 0 && self.wants("million") {
            eprintln!("a table of {rows} rows");
            self.empty().await;
            self.fill(rows).await;
            for indexed in [false, true] {
                self.index(indexed).await;
                for round in 1..=rounds {
                    eprintln!("round {round} of {rounds}: large table");
                    self.large(if indexed { "million rows, index" } else { "million rows, no index" }, !indexed).await;
                }
            }
        }
        self.report.print();
        if self.wants("storm") {
            eprintln!("the storm");
            storm::print(STORM.max((rounds * self.seconds.as_secs()).next_multiple_of(4))).await;
        }
    }

    /// Gives each user the meta values `keys`, and no others.
    async fn give_meta(&mut self, keys: &[&str]) {
        let meta = format!(
            "INSERT INTO wp_usermeta (user_id, meta_key, meta_value) SELECT ID, meta_key, IF(meta_key = 'wp_capabilities', \
             'a:1:{{s:10:\"subscriber\";b:1;}}', 'Bench') FROM wp_users, (SELECT 0 AS place, '' AS meta_key {}) AS meta \
             WHERE user_login LIKE 'bench%' AND place > 0 ORDER BY ID, place",
            (1..).zip(keys).map(|(place, key)| format!("UNION SELECT {place}, '{key}' ")).collect::<String>()
        );
        for statement in ["TRUNCATE wp_usermeta", &meta, "ANALYZE TABLE wp_usermeta"] {
            self.root.query_drop(statement).await.unwrap();
        }
    }

    fn wants(&self, what: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| what.contains(only.as_str()))
    }

    /// One round over all lines of the small table, each with an empty table and its own sidecar.
    async fn small(&mut self) {
        let analytics: &[&str] = &[];
        let none = ["--refresh-analytics", "false"];
        for connections in [1, 64] {
            let what = format!("PHP, {connections} connections");
            if self.wants(&what) {
                self.empty().await;
                self.chains(&what, self.site.upstream(), connections, true).await;
            }
        }
        for connections in [1, 4, 16, 64] {
            self.bare(connections).await;
        }
        for (name, arguments, counts) in
            [("sidecar", analytics, &[1, 16, 64, 256][..]), ("no analytics", &none[..], &[1, 64, 256][..])]
        {
            for connections in counts {
                let what = format!("{name}, {connections} connections");
                if self.wants(&what) {
                    self.empty().await;
                    let sidecar = self.sidecar(arguments);
                    self.chains(&what, sidecar.address(), *connections, arguments.is_empty()).await;
                }
            }
        }
        for keys in [&META[..2], &META[..]] {
            for connections in [64, 256] {
                self.declared(keys, connections).await;
            }
        }
        // With a sample each second, for which PHP reads the table, and then without one.
        for (name, every) in [("verified", "1000"), ("verified, no sample", "1000000")] {
            for connections in [64, 256] {
                let what = format!("sidecar, {name}, {connections} connections");
                if self.wants(&what) {
                    self.empty().await;
                    let sidecar = self.verified(every).await;
                    self.chains(&what, sidecar.address(), connections, true).await;
                }
            }
        }
        if self.wants("refusals of one token") {
            let sidecar = self.sidecar(&[]);
            self.refusals("refusals of one token, 64 connections", sidecar.address()).await;
        }
    }

    /// Values that a site's own code may add, read with the user of each refresh, and a sidecar
    /// without, in short turns: machines vary by more than the difference.
    async fn declared(&mut self, keys: &[&str], connections: usize) {
        let names = declared_names(keys.len(), connections);
        if !names.iter().any(|name| self.wants(name)) {
            return;
        }
        self.empty().await;
        self.give_meta(keys).await;
        let sidecars = [self.sidecar(&[]), self.sidecar(&["--refresh-field", FIELDS, "--jwt-claim", CLAIM])];
        let seconds = std::mem::replace(&mut self.seconds, TURN);
        for turn in 0..TURNS {
            for place in [turn % 2, 1 - turn % 2] {
                self.chains(&names[place], sidecars[place].address(), connections, true).await;
            }
        }
        self.seconds = seconds;
    }

    /// One round over the lines of a large table.
    async fn large(&mut self, what: &str, has_map: bool) {
        for flooded in [false, true] {
            let sidecar = self.sidecar(&[]);
            if has_map {
                sidecar.wait_for("the tokens of the table are known", MAP_LIMIT);
            }
            if flooded {
                self.flood(what, sidecar.address()).await;
            } else {
                self.chains(&format!("{what}, 64 connections"), sidecar.address(), 64, true).await;
            }
        }
    }

    /// Half of the rows are live, as on a site with long sessions.
    async fn fill(&mut self, rows: u64) {
        let fill = format!(
            "INSERT INTO wp_jwt_auth_tokens (hash, user_id, issued_at, expires_at, refresh_token_hash, refresh_token_expires_at, \
             token_family, revoked_at) SELECT MD5(RAND()), {}, UTC_TIMESTAMP(), UTC_TIMESTAMP(), MD5(RAND()), UTC_TIMESTAMP() + \
             INTERVAL 20 DAY, MD5(RAND()), IF(seq % 2, NULL, UTC_TIMESTAMP()) FROM seq_1_to_{rows}",
            self.users[0]
        );
        self.root.query_drop(fill).await.unwrap();
    }

    async fn index(&mut self, indexed: bool) {
        if indexed {
            self.root.query_drop("ALTER TABLE wp_jwt_auth_tokens ADD INDEX bench (refresh_token_hash)").await.unwrap();
        }
        self.root.query_drop("ANALYZE TABLE wp_jwt_auth_tokens").await.unwrap();
    }

    async fn empty(&mut self) {
        for statement in [
            "SET FOREIGN_KEY_CHECKS = 0",
            "TRUNCATE wp_jwt_auth_analytics",
            "TRUNCATE wp_jwt_auth_tokens",
            "SET FOREIGN_KEY_CHECKS = 1",
        ] {
            self.root.query_drop(statement).await.unwrap();
        }
    }

    fn sidecar(&self, arguments: &[&str]) -> Program {
        Program::of_site(self.site.upstream(), self.site.wp_config(), arguments)
    }

    /// A sidecar that has verified the site by WordPress's responses, and continues to compare one
    /// in `every` refreshes, at most one a second.
    async fn verified(&self, every: &str) -> Program {
        let verify = ["--refresh-verify", "auto", "--refresh-verify-first", "3", "--refresh-verify-every", every];
        let sidecar = self.sidecar(&verify);
        let (tokens, target) = (self.tokens(FEW).await, self.target(sidecar.address()));
        let from = Instant::now();
        let span = load::Span { from, until: from + VERIFYING };
        spawn_blocking(move || load::chains(&target, span, tokens)).await.unwrap();
        sidecar.wait_for("agree with the sidecar's", Duration::ZERO);
        sidecar
    }

    fn target(&self, address: SocketAddr) -> Target {
        Target { address, host: self.host.clone() }
    }

    async fn tokens(&self, count: usize) -> Vec<String> {
        let mut tokens = Vec::new();
        for user in self.users.iter().cycle().take(count) {
            tokens.push(self.database.insert_token(TokenState::Live, *user).await.refresh_token);
        }
        tokens
    }

    async fn chains(&mut self, what: &str, address: SocketAddr, connections: usize, analytics: bool) {
        let (tokens, target) = (self.tokens(connections).await, self.target(address));
        let rows = self.analytics_rows().await;
        let measure = Measure::begin(&mut self.root, self.seconds).await;
        let span = measure.span;
        let outcome = spawn_blocking(move || load::chains(&target, span, tokens)).await.unwrap();
        let all = outcome.all;
        let line = measure.end(&mut self.root, outcome).await;
        self.report.note(what, line);
        if analytics {
            self.analytics_are_there(rows + all).await;
        }
    }

    async fn analytics_rows(&mut self) -> u64 {
        self.root.query_first("SELECT COUNT(*) FROM wp_jwt_auth_analytics").await.unwrap().unwrap()
    }

    async fn analytics_are_there(&mut self, rows: u64) {
        let deadline = Instant::now() + ANALYTICS_LIMIT;
        while self.analytics_rows().await < rows {
            assert!(Instant::now() < deadline, "analytics rows are missing: the run does not count");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn bare(&mut self, connections: usize) {
        let what = format!("bare database, {connections} connections");
        if !self.wants(&what) {
            return;
        }
        self.empty().await;
        let mut tokens = Vec::new();
        for user in self.users.iter().cycle().take(connections) {
            tokens.push((self.database.insert_token(TokenState::Live, *user).await.id, *user));
        }
        let measure = Measure::begin(&mut self.root, self.seconds).await;
        let mut tasks = Vec::new();
        for (id, user) in tokens {
            let conn = self.database.connect().await;
            tasks.push(tokio::spawn(bare::rotations(conn, id, user, measure.span)));
        }
        let mut outcome = Outcome::default();
        for task in tasks {
            let one = task.await.unwrap();
            outcome.all += one.all;
            outcome.latencies.extend(one.latencies);
        }
        let line = measure.end(&mut self.root, outcome).await;
        self.report.note(&what, line);
    }

    async fn refusals(&mut self, what: &str, address: SocketAddr) {
        let target = self.target(address);
        let measure = Measure::begin(&mut self.root, self.seconds).await;
        let span = measure.span;
        let outcome = spawn_blocking(move || load::refusals(&target, span, 64)).await.unwrap();
        let line = measure.end(&mut self.root, outcome).await;
        self.report.note(what, line);
    }

    /// Valid refreshes beside a flood.
    async fn flood(&mut self, what: &str, address: SocketAddr) {
        let (tokens, target) = (self.tokens(64).await, self.target(address));
        let measure = Measure::begin(&mut self.root, self.seconds).await;
        let span = measure.span;
        let unknown = target.clone();
        let flood = spawn_blocking(move || load::flood(&unknown, span, FLOOD_CONNECTIONS, FLOOD));
        let outcome = spawn_blocking(move || load::chains(&target, span, tokens)).await.unwrap();
        let line = measure.end(&mut self.root, outcome).await;
        self.report.note(&format!("{what}, in a flood"), line);
        let answered = flood.await.unwrap() as f64 / self.seconds.as_secs_f64();
        self.report.note(&format!("{what}, the flood's refusals"), Line { rate: answered, ..Line::default() });
    }
}
