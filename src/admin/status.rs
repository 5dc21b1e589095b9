//! Everything that the status page shows, gathered at one moment. The page and `/status.json` are
//! two representations of it.
//!
//! Times are in seconds, sizes in bytes. SECURITY: no field may contain a token, a key, a salt or a
//! password; configuration values are shown like by `check`.

use serde::{Serialize, Serializer};
use serde_json::json;

use super::health::Readiness;
use super::network::Network;
use crate::finding::Finding;
use crate::verify::View;

#[derive(Serialize)]
pub struct Status {
    pub program: Program,
    /// As for `/readyz`.
    pub readiness: Readiness,
    /// Whether native refreshes are proven to match WordPress's; `None` if the refresh route is
    /// left to WordPress.
    pub verification: Option<View>,
    /// What an operator should check, the worst first.
    #[serde(serialize_with = "with_titles")]
    pub findings: Vec<Finding>,
    /// What is known of the site; `None` if the refresh route is left to WordPress.
    pub site: Option<Site>,
    /// What is known of the network; `None` on a single site.
    pub network: Option<Network>,
    /// The site's database; `None` likewise.
    pub database: Option<Dependency>,
    pub upstream: Dependency,
    /// What several sidecars share besides the database; `None` where nothing is configured.
    pub store: Option<Store>,
    pub traffic: Vec<Flow>,
    pub latencies: Vec<Latency>,
    /// What is refused, and why.
    pub refusals: Vec<Refused>,
    /// What is open, and how much was.
    pub open: Open,
    /// In the order of the configuration.
    pub certificates: Vec<Certificate>,
    /// What the system reports about the process.
    pub process: Machine,
    /// The last hour in steps.
    pub history: Steps,
    /// Every key, secrets as `(set)`.
    pub configuration: Vec<Setting>,
}

/// Areas are written with the page's titles.
fn with_titles<S: Serializer>(findings: &[Finding], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(findings.iter().map(|finding| {
        let Finding { level, area, id, what, fix, lines } = finding;
        json!({"level": level, "area": area.title(), "id": id, "what": what, "fix": fix, "lines": lines})
    }))
}

/// The program.
#[derive(Serialize)]
pub struct Program {
    pub version: &'static str,
    pub commit: &'static str,
    pub tls: &'static str,
    pub pid: u32,
    pub draining: bool,
    /// When it started, in seconds since 1970.
    pub started_unix_seconds: u64,
    pub uptime_seconds: u64,
    /// When the status was gathered, in seconds since 1970.
    pub now_unix_seconds: u64,
}

/// What is known of the site.
#[derive(Serialize)]
pub struct Site {
    /// Whether refreshes are answered here.
    pub native: bool,
    pub obstacle: Option<String>,
    /// The home URL, as WordPress reports it.
    pub home: Option<String>,
    /// The plugin's main file, relative to the plugins directory.
    pub plugin: Option<String>,
    /// The signing algorithm.
    pub algorithm: Option<String>,
    /// The tables' prefix.
    pub table_prefix: String,
    /// Whether the token table has an index on the tokens.
    pub indexed: Option<bool>,
    /// Whether the map that replaces the index is filled.
    pub map_filled: bool,
    /// Refreshes left to WordPress since the start because of the verification.
    pub left_unverified: u64,
    /// Analytics rows that could not be written since the start.
    pub lost_analytics: u64,
}

/// A dependency of the sidecar.
#[derive(Serialize)]
pub struct Dependency {
    pub address: String,
    /// Whether it worked recently, and has not failed since.
    pub well: bool,
    /// When it last worked.
    pub seen_seconds_ago: Option<f64>,
    /// The last failure, even if it has ended.
    pub trouble: Option<Trouble>,
    /// What a node of a cluster says of itself; `None` on a single server.
    pub node: Option<String>,
    /// How connections are protected; `None` if the address shows it.
    pub tls: Option<String>,
    pub busy: u64,
    /// Idle connections.
    pub idle: u64,
    /// The limit of connections.
    pub limit: Option<u64>,
}

/// Where several sidecars count together.
#[derive(Serialize)]
pub struct Store {
    /// Without user and password.
    pub address: String,
    pub up: bool,
    /// Why it cannot be used.
    pub trouble: Option<String>,
    /// Questions since the start, with an answer.
    pub answered: u64,
    /// Those without one in time.
    pub failed: u64,
    /// Those that were not asked since it was away.
    pub unasked: u64,
}

/// A failure.
#[derive(Serialize)]
pub struct Trouble {
    pub current: bool,
    pub began_seconds_ago: f64,
    pub found_seconds_ago: f64,
    pub error: String,
}

/// One kind of traffic.
#[derive(Serialize)]
pub struct Flow {
    /// `forwarded`, for instance.
    pub name: &'static str,
    /// The current rate; `None` in the first seconds.
    pub per_second: Option<f64>,
    pub last_hour: u64,
    pub total: u64,
}

/// The durations of one kind of work.
#[derive(Serialize)]
pub struct Latency {
    /// `refresh`, for instance.
    pub name: &'static str,
    /// How many were measured in the last five minutes.
    pub count: u64,
    /// Half of them took at most this.
    pub p50_seconds: Option<f64>,
    /// 95 of 100 took at most this.
    pub p95_seconds: Option<f64>,
    /// 99 of 100 took at most this.
    pub p99_seconds: Option<f64>,
}

/// One reason for refusals.
#[derive(Serialize)]
pub struct Refused {
    /// `refresh`, `request` or `connection`.
    pub what: &'static str,
    pub reason: &'static str,
    /// The status of the response, if there is one.
    pub status: Option<&'static str>,
    pub last_hour: u64,
    pub total: u64,
}

/// What is open, and how much was.
#[derive(Serialize)]
pub struct Open {
    pub connections: u64,
    pub max_connections: u64,
    /// Accepted since the start.
    pub accepted: u64,
    pub requests: u64,
    /// Connections that switched protocols, WebSockets for example.
    pub tunnels: u64,
}

/// A certificate that clients get.
#[derive(Serialize)]
pub struct Certificate {
    pub name: String,
    pub kind: String,
    /// The start of its validity, in seconds since 1970.
    pub begins_unix_seconds: u64,
    /// The end of its validity, in seconds since 1970.
    pub ends_unix_seconds: u64,
    /// The time until then; 0 if it has expired.
    pub left_seconds: u64,
}

/// The process, as the system reports it.
#[derive(Serialize)]
pub struct Machine {
    pub resident_bytes: Option<u64>,
    pub open_files: Option<u64>,
    pub max_open_files: Option<u64>,
    pub cpu_seconds: Option<f64>,
}

/// The last hour in steps, the oldest first; `null` if unknown.
#[derive(Serialize)]
pub struct Steps {
    pub step_seconds: u64,
    /// Forwarded requests per second.
    pub forwarded: Vec<Option<f64>>,
    /// Native refreshes per second.
    pub refreshed: Vec<Option<f64>>,
    /// Refused refreshes per second.
    pub refused: Vec<Option<f64>>,
    /// The site's errors per second.
    pub site_errors: Vec<Option<f64>>,
    /// The sidecar's errors per second.
    pub own_errors: Vec<Option<f64>>,
    /// The time in seconds within which 95 of 100 forwarded requests got their response's head.
    pub forward_p95: Vec<Option<f64>>,
    /// The time in seconds within which 95 of 100 refreshes were answered.
    pub refresh_p95: Vec<Option<f64>>,
}

/// One key of the configuration.
#[derive(Serialize)]
pub struct Setting {
    pub key: &'static str,
    /// Its value, as in the file.
    pub value: String,
    /// The source of the value.
    pub from: String,
}
