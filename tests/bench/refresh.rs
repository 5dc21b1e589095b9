//! Refreshes a second, in chains of real rotations: every answer's token is the next request's. PHP behind nginx, the bare
//! database with one transaction for each rotation, and the sidecar, on the same server with every commit on the disk.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[allow(dead_code, reason = "a benchmark needs only a part of what the tests stand on")]
#[path = "../sidecar/support/mod.rs"]
mod support;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;

use support::mariadb::{TestDatabase, TokenState, random_hex};
use support::rig::{ROUTE, settings};
use support::sidecar::Sidecar;
use support::site::Site;

/// Before each line is measured: connections are made, statements prepared, caches filled.
const WARM_UP: Duration = Duration::from_secs(2);

struct Bench {
    site: Site,
    database: TestDatabase,
    host: String,
    root: OptsBuilder,
    seconds: Duration,
    user: u64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str, otherwise: u64| {
        let place = arguments.iter().position(|argument| argument == name);
        place.map_or(otherwise, |place| arguments[place + 1].parse().unwrap())
    };
    let (seconds, rows) = (number("--seconds", 10), number("--rows", 1_000_000));
    let site = Site::up(&[]);
    let database = site.database();
    let host = site.home().split_once("://").unwrap().1.to_owned();
    let root = OptsBuilder::default().user(Some("root")).socket(Some(site.said("DB_SOCKET").to_owned()));
    let mut bench = Bench { site, database, host, root, seconds: Duration::from_secs(seconds), user: 0 };
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(bench.run(rows));
}

impl Bench {
    async fn run(&mut self, rows: u64) {
        let mut root = Conn::new(self.root.clone()).await.unwrap();
        for setting in [
            "innodb_buffer_pool_size = 1073741824",
            "innodb_log_file_size = 268435456",
            "innodb_flush_log_at_trx_commit = 1",
        ] {
            root.query_drop(format!("SET GLOBAL {setting}")).await.unwrap();
        }
        let limits = settings(&[("rate_limit_settings", "enabled", "b:0;")]);
        self.database.set_option("jwt_auth_pro_settings", limits).await;
        self.user = self.database.insert_user("bench").await.id;
        println!(
            "{:44} {:>9} {:>8} {:>8} {:>9} {:>8} {:>8} {:>8}",
            "", "per s", "p50 ms", "p99 ms", "CPU s/1k", "writes", "fsyncs", "scanned"
        );
        for connections in [1, 64] {
            self.http("PHP behind nginx", self.site.upstream(), connections, true).await;
        }
        for connections in [1, 4, 16, 64] {
            self.bare(connections).await;
        }
        let sidecar = self.sidecar(&[]);
        for connections in [1, 16, 64, 256] {
            self.http("sidecar", sidecar.address(), connections, true).await;
        }
        self.refusals(sidecar.address()).await;
        drop(sidecar);
        let sidecar = self.sidecar(&["--refresh-analytics", "false"]);
        for connections in [1, 64, 256] {
            self.http("sidecar, no analytics", sidecar.address(), connections, false).await;
        }
        drop(sidecar);
        if rows > 0 {
            self.large(rows, &mut root).await;
        }
    }

    async fn large(&self, rows: u64, root: &mut Conn) {
        // Half of them live, as on a site whose sessions last.
        let table = "wp_jwt_auth_tokens";
        let fill = format!(
            "INSERT INTO {table} (hash, user_id, issued_at, expires_at, refresh_token_hash, refresh_token_expires_at, \
             token_family, revoked_at) SELECT MD5(RAND()), {}, UTC_TIMESTAMP(), UTC_TIMESTAMP(), MD5(RAND()), UTC_TIMESTAMP() + \
             INTERVAL 20 DAY, MD5(RAND()), IF(seq % 2, NULL, UTC_TIMESTAMP()) FROM seq_1_to_{rows}",
            self.user
        );
        self.database.execute(&fill).await;
        for indexed in [false, true] {
            if indexed {
                self.database.execute(&format!("ALTER TABLE {table} ADD INDEX bench (refresh_token_hash)")).await;
            }
            root.query_drop(format!("ANALYZE TABLE {}.{table}", self.site.said("DB_NAME"))).await.unwrap();
            let sidecar = self.sidecar(&[]);
            if !indexed {
                let deadline = Instant::now() + Duration::from_secs(120);
                while !sidecar.log().iter().any(|line| line.contains("the tokens of the table are known")) {
                    assert!(Instant::now() < deadline);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            let what = if indexed { "sidecar, large table, index" } else { "sidecar, large table" };
            self.http(what, sidecar.address(), 64, true).await;
            self.flood(what, &sidecar).await;
        }
    }

    fn sidecar(&self, arguments: &[&str]) -> Sidecar {
        Sidecar::of_site(self.site.upstream(), self.site.wp_config(), arguments)
    }

    async fn tokens(&self, count: usize) -> Vec<String> {
        let mut tokens = Vec::new();
        for _ in 0..count {
            tokens.push(self.database.insert_token(TokenState::Live, self.user).await.refresh_token);
        }
        tokens
    }

    /// Chains of refreshes by HTTP.
    async fn http(&self, what: &str, address: SocketAddr, connections: usize, analytics: bool) -> f64 {
        let tokens = self.tokens(connections).await;
        let rows = self.analytics_rows().await;
        let measure = Measure::begin(self).await;
        let tasks: Vec<_> = tokens
            .into_iter()
            .map(|token| tokio::spawn(chain(address, self.host.clone(), token, measure.clone())))
            .collect();
        let mut all = 0;
        let mut latencies = Vec::new();
        for task in tasks {
            let (count, measured) = task.await.unwrap();
            all += count;
            latencies.extend(measured);
        }
        let rate = measure.end(self, &format!("{what}, {connections} connections"), latencies).await;
        if analytics {
            let deadline = Instant::now() + Duration::from_secs(20);
            while self.analytics_rows().await < rows + all {
                assert!(Instant::now() < deadline, "analytics rows are missing: the run does not count");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        rate
    }

    async fn analytics_rows(&self) -> u64 {
        self.database.connect().await.query_first("SELECT COUNT(*) FROM wp_jwt_auth_analytics").await.unwrap().unwrap()
    }

    /// One unknown token, again and again.
    async fn refusals(&self, address: SocketAddr) {
        let measure = Measure::begin(self).await;
        let tasks: Vec<_> = (0..64)
            .map(|_| tokio::spawn(refused(address, self.host.clone(), vec!["0".repeat(32)], measure.clone(), None)))
            .collect();
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.extend(task.await.unwrap());
        }
        measure.end(self, "sidecar, one unknown token, 64 connections", latencies).await;
    }

    /// Good refreshes beside unknown tokens that never come twice, up to ten thousand a second.
    async fn flood(&self, what: &str, sidecar: &Sidecar) {
        let until = Instant::now() + WARM_UP + self.seconds;
        let measure = Measure { from: Instant::now(), until, before: HashMap::new(), cpu: 0.0 };
        let flood: Vec<_> = (0..16)
            .map(|_| {
                let pace = Some(Duration::from_micros(1_600));
                tokio::spawn(refused(sidecar.address(), self.host.clone(), Vec::new(), measure.clone(), pace))
            })
            .collect();
        self.http(&format!("{what}, in a flood"), sidecar.address(), 64, false).await;
        let mut refused = 0;
        for task in flood {
            refused += task.await.unwrap().len();
        }
        println!(
            "{:44} {:9.0}",
            "  the flood, unknown tokens",
            refused as f64 / (WARM_UP + self.seconds).as_secs_f64()
        );
    }

    /// The same statements from a plain client, one transaction for each rotation.
    async fn bare(&self, connections: usize) {
        let mut tokens = Vec::new();
        for _ in 0..connections {
            tokens.push(self.database.insert_token(TokenState::Live, self.user).await.id);
        }
        let measure = Measure::begin(self).await;
        let mut tasks = Vec::new();
        for id in tokens {
            let conn = self.database.connect().await;
            tasks.push(tokio::spawn(bare(conn, id, self.user, measure.clone())));
        }
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.extend(task.await.unwrap());
        }
        measure.end(self, &format!("bare database, {connections} connections"), latencies).await;
    }
}

/// Returns all rotations, and how long those took (in microseconds) that were measured.
async fn chain(address: SocketAddr, host: String, mut token: String, measure: Measure) -> (u64, Vec<u32>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut latencies = Vec::new();
    let mut count = 0;
    while Instant::now() < measure.until {
        let began = Instant::now();
        let (status, body) = exchange(&mut stream, address, &host, &token).await;
        assert_eq!(status, 200, "{body}");
        count += 1;
        let key = "\"refresh_token\":\"";
        let at = body.find(key).unwrap() + key.len();
        token = body[at..at + 32].to_owned();
        measure.note(began, &mut latencies);
    }
    (count, latencies)
}

async fn refused(
    address: SocketAddr,
    host: String,
    tokens: Vec<String>,
    measure: Measure,
    pace: Option<Duration>,
) -> Vec<u32> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut latencies = Vec::new();
    let mut next = Instant::now();
    while Instant::now() < measure.until {
        if let Some(pace) = pace {
            tokio::time::sleep_until(next.into()).await;
            next += pace;
        }
        let began = Instant::now();
        let token = tokens.first().cloned().unwrap_or_else(random_hex::<16>);
        assert_eq!(exchange(&mut stream, address, &host, &token).await.0, 403);
        measure.note(began, &mut latencies);
    }
    latencies
}

async fn exchange(stream: &mut TcpStream, address: SocketAddr, host: &str, token: &str) -> (u16, String) {
    let body = format!("{{\"refresh_token\":\"{token}\"}}");
    let call = format!(
        "POST {ROUTE} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = Vec::with_capacity(2048);
    loop {
        // nginx ends a connection after a thousand requests.
        let sent =
            stream.write_all(call.as_bytes()).await.is_ok() && stream.read_buf(&mut answer).await.unwrap_or(0) > 0;
        if sent {
            break;
        }
        *stream = TcpStream::connect(address).await.unwrap();
    }
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lower = head.to_ascii_lowercase();
            let length = lower.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
            let whole = length.map_or(body.ends_with("0\r\n\r\n"), |length: usize| body.len() >= length);
            if whole {
                return (head[9..12].parse().unwrap(), body.to_owned());
            }
        }
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "broken off");
    }
}

async fn bare(mut conn: Conn, mut id: u64, user: u64, measure: Measure) -> Vec<u32> {
    conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await.unwrap();
    let mut latencies = Vec::new();
    while Instant::now() < measure.until {
        let began = Instant::now();
        conn.query_drop("START TRANSACTION").await.unwrap();
        let lock = "SELECT id, refresh_token_hash, revoked_at IS NOT NULL, refresh_token_expires_at <= UTC_TIMESTAMP(), user_id, \
                    token_family FROM wp_jwt_auth_tokens WHERE id = ? FOR UPDATE";
        conn.exec_drop(lock, (id,)).await.unwrap();
        conn.exec_drop("SELECT user_email, user_nicename, display_name FROM wp_users WHERE ID = ?", (user,))
            .await
            .unwrap();
        let insert = "INSERT INTO wp_jwt_auth_tokens (hash, user_id, issued_at, expires_at, refresh_token_hash, \
                      refresh_token_expires_at, token_family, metadata, user_agent, ip_address, blog_id) VALUES (?, ?, \
                      UTC_TIMESTAMP(), UTC_TIMESTAMP() + INTERVAL 7 DAY, ?, UTC_TIMESTAMP() + INTERVAL 30 DAY, ?, ?, '', '127.0.0.1', 1)";
        let (hash, token) = (random_hex::<16>(), random_hex::<16>());
        conn.exec_drop(insert, (hash, user, token, "f", "{\"user_agent\":\"\"}")).await.unwrap();
        let child = conn.last_insert_id().unwrap();
        conn.exec_drop("UPDATE wp_jwt_auth_tokens SET revoked_at = UTC_TIMESTAMP() WHERE id = ?", (id,)).await.unwrap();
        let event = "INSERT INTO wp_jwt_auth_analytics (event_type, event_status, user_id, token_id, token_family, ip_address, \
                     user_agent, country_code, request_path, request_method, response_time, blog_id, event_timestamp) VALUES \
                     ('token_refresh', 1, ?, ?, 'f', '127.0.0.1', '', '--', ?, 'POST', 1, 1, UTC_TIMESTAMP())";
        conn.exec_drop(event, (user, id, ROUTE)).await.unwrap();
        conn.query_drop("COMMIT").await.unwrap();
        id = child;
        measure.note(began, &mut latencies);
    }
    latencies
}

/// A span of time, and what the server and the processes had counted when it began.
#[derive(Clone)]
struct Measure {
    from: Instant,
    until: Instant,
    before: HashMap<String, u64>,
    cpu: f64,
}

impl Measure {
    /// The counters are read before the warm-up and compared with all that was done since; rates are those of the span.
    async fn begin(bench: &Bench) -> Measure {
        let from = Instant::now() + WARM_UP;
        Measure { from, until: from + bench.seconds, before: status(bench).await, cpu: cpu_seconds() }
    }

    fn note(&self, began: Instant, latencies: &mut Vec<u32>) {
        let now = Instant::now();
        // Before the span: counted as done, for the columns that are per rotation, and told apart by its latency.
        let took = u32::try_from((now - began).as_micros()).unwrap();
        latencies.push(if began < self.from { u32::MAX } else { took });
    }

    async fn end(self, bench: &Bench, what: &str, latencies: Vec<u32>) -> f64 {
        let all = latencies.len().max(1) as f64;
        let mut latencies: Vec<u32> = latencies.into_iter().filter(|took| *took != u32::MAX).collect();
        latencies.sort_unstable();
        let rate = latencies.len() as f64 / bench.seconds.as_secs_f64();
        let quantile = |part: f64| {
            let place = (latencies.len() as f64 * part) as usize;
            latencies.get(place).map_or(0.0, |took| f64::from(*took) / 1e3)
        };
        let cpu = (cpu_seconds() - self.cpu) / all * 1e3;
        let after = status(bench).await;
        let per = |names: &[&str]| -> f64 {
            names
                .iter()
                .map(|name| (after.get(*name).unwrap_or(&0) - self.before.get(*name).unwrap_or(&0)) as f64)
                .sum::<f64>()
                / all
        };
        println!(
            "{what:44} {rate:9.0} {:8.2} {:8.2} {cpu:9.2} {:8.2} {:8.3} {:8.1}",
            quantile(0.5),
            quantile(0.99),
            per(&["Innodb_data_writes", "Innodb_log_writes"]),
            per(&["Innodb_data_fsyncs"]),
            per(&["Handler_read_rnd_next"]),
        );
        rate
    }
}

async fn status(bench: &Bench) -> HashMap<String, u64> {
    let rows: Vec<(String, String)> =
        Conn::new(bench.root.clone()).await.unwrap().query("SHOW GLOBAL STATUS").await.unwrap();
    rows.into_iter().filter_map(|(name, value)| Some((name, value.parse().ok()?))).collect()
}

/// CPU seconds of all processes below this one: the sidecar, the database, PHP and nginx, and not the load.
fn cpu_seconds() -> f64 {
    let mut parents = HashMap::new();
    let mut ticks = HashMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = rest.split(' ').collect();
        parents.insert(pid, fields[1].parse::<u32>().unwrap());
        ticks.insert(pid, fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap());
    }
    let mut below = HashSet::from([std::process::id()]);
    while let Some((pid, _)) = parents.iter().find(|(pid, parent)| below.contains(*parent) && !below.contains(*pid)) {
        below.insert(*pid);
    }
    below.remove(&std::process::id());
    // USER_HZ is 100 on Linux.
    below.iter().map(|pid| ticks[pid]).sum::<u64>() as f64 / 100.0
}
