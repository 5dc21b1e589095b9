//! Everything that the status page shows, gathered at one moment: the page is one way to write it down, `/status.json`
//! the other.
//!
//! Times are in seconds, sizes in bytes. SECURITY: no field may hold a token, a key, a salt or a password; what comes from
//! the configuration is shown as `check` shows it.

use serde::{Serialize, Serializer};
use serde_json::json;

use super::health::Readiness;
use super::network::Network;
use crate::finding::Finding;
use crate::verify::View;

/// The whole.
#[derive(Serialize)]
pub struct Status {
    pub program: Program,
    /// As `/readyz` says it.
    pub readiness: Readiness,
    /// Whether native refreshes are proven to be WordPress's; `None` where the refresh route is left to WordPress.
    pub verification: Option<View>,
    /// What an operator should look at, the worst first.
    #[serde(serialize_with = "with_titles")]
    pub findings: Vec<Finding>,
    /// What is known of the site; `None` where the refresh route is left to WordPress.
    pub site: Option<Site>,
    /// What is known of the network; `None` on a single site.
    pub network: Option<Network>,
    /// The site's database; `None` likewise.
    pub database: Option<Dependency>,
    pub upstream: Dependency,
    pub traffic: Vec<Flow>,
    pub latencies: Vec<Latency>,
    /// What is refused, and why.
    pub refusals: Vec<Refused>,
    /// What is open, and what was.
    pub open: Open,
    /// In the order of the configuration.
    pub certificates: Vec<Certificate>,
    /// What the system says of the process.
    pub process: Machine,
    /// The last hour in steps.
    pub history: Steps,
    /// Every key, secrets as `(set)`.
    pub configuration: Vec<Setting>,
}

/// The area is written as the page shows it.
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
    /// The TLS library in it.
    pub tls: &'static str,
    pub pid: u32,
    pub draining: bool,
    /// When it began, in seconds since 1970.
    pub started_unix_seconds: u64,
    pub uptime_seconds: u64,
    /// When all this was gathered, in seconds since 1970.
    pub now_unix_seconds: u64,
}

/// What is known of the site.
#[derive(Serialize)]
pub struct Site {
    /// Whether refreshes are answered here.
    pub native: bool,
    pub obstacle: Option<String>,
    /// The home URL as WordPress says it.
    pub home: Option<String>,
    /// Where the plugin is, below the plugins' folder.
    pub plugin: Option<String>,
    /// What tokens are signed with.
    pub algorithm: Option<String>,
    /// What the tables' names begin with.
    pub table_prefix: String,
    /// Whether the token table has an index on the tokens.
    pub indexed: Option<bool>,
    /// Whether the map that stands in for the index is filled.
    pub map_filled: bool,
    /// Refreshes that were WordPress's since the start because of the verification.
    pub left_unverified: u64,
    /// Analytics rows that could not be written since the start.
    pub lost_analytics: u64,
}

/// Something that the sidecar cannot do without.
#[derive(Serialize)]
pub struct Dependency {
    pub address: String,
    /// Whether it was seen lately, and nothing wrong since.
    pub well: bool,
    /// How long ago it was last seen well.
    pub seen_seconds_ago: Option<f64>,
    /// What was wrong last, even if it is well again.
    pub trouble: Option<Trouble>,
    /// How connections are protected; `None` where that is in the address.
    pub tls: Option<String>,
    pub busy: u64,
    /// Connections that wait for use.
    pub idle: u64,
    /// Connections that may be in use.
    pub limit: Option<u64>,
}

/// What was wrong with it.
#[derive(Serialize)]
pub struct Trouble {
    pub current: bool,
    pub began_seconds_ago: f64,
    pub found_seconds_ago: f64,
    pub error: String,
}

/// One kind of what goes through.
#[derive(Serialize)]
pub struct Flow {
    /// `forwarded`, for instance.
    pub name: &'static str,
    /// How many a second now; `None` in the first seconds.
    pub per_second: Option<f64>,
    pub last_hour: u64,
    pub total: u64,
}

/// How long one kind of thing takes.
#[derive(Serialize)]
pub struct Latency {
    /// `refresh`, for instance.
    pub name: &'static str,
    /// How many were measured in the last five minutes.
    pub count: u64,
    /// Half of them took at most this.
    pub p50_seconds: Option<f64>,
    /// 95 of 100 did.
    pub p95_seconds: Option<f64>,
    /// 99 of 100 did.
    pub p99_seconds: Option<f64>,
}

/// One reason for not doing what was asked.
#[derive(Serialize)]
pub struct Refused {
    /// `refresh`, `request` or `connection`.
    pub what: &'static str,
    pub reason: &'static str,
    /// The status of the answer, where there is one.
    pub status: Option<&'static str>,
    pub last_hour: u64,
    pub total: u64,
}

/// What is open, and what was.
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
    /// From when on it is valid, in seconds since 1970.
    pub begins_unix_seconds: u64,
    /// Until when it is valid, in seconds since 1970.
    pub ends_unix_seconds: u64,
    /// How long that is; 0 when it is over.
    pub left_seconds: u64,
}

/// The process, as the system sees it.
#[derive(Serialize)]
pub struct Machine {
    pub resident_bytes: Option<u64>,
    pub open_files: Option<u64>,
    pub max_open_files: Option<u64>,
    pub cpu_seconds: Option<f64>,
}

/// The last hour in steps, the oldest first; `null` where nothing is known.
#[derive(Serialize)]
pub struct Steps {
    pub step_seconds: u64,
    /// Forwarded, a second.
    pub forwarded: Vec<Option<f64>>,
    /// Refreshed here, a second.
    pub refreshed: Vec<Option<f64>>,
    /// Refreshes refused, a second.
    pub refused: Vec<Option<f64>>,
    /// Errors of the site, a second.
    pub site_errors: Vec<Option<f64>>,
    /// Errors of the sidecar, a second.
    pub own_errors: Vec<Option<f64>>,
    /// 95 of 100 forwarded requests had their answer's head in so many seconds.
    pub forward_p95: Vec<Option<f64>>,
    /// 95 of 100 refreshes were answered in so many seconds.
    pub refresh_p95: Vec<Option<f64>>,
}

/// One key of the configuration.
#[derive(Serialize)]
pub struct Setting {
    pub key: &'static str,
    /// Its value, as it would stand in the file.
    pub value: String,
    /// Who said so.
    pub from: String,
}
