//! The configuration: what was said by flags, environment and file, checked as a whole.
//!
//! Two kinds of types keep apart what was written ([`Sources`], the TOML, texts) and what is true
//! ([`Config`], whose addresses, durations and keys are parsed and agree with each other). A `Config`
//! exists only if nothing at all is wrong; otherwise every fault is told at once.
//!
//! Keys are declared in [`keys`], and nowhere else. This module does not read `wp-config.php`, does
//! not connect anywhere and does not look into keys further than to see that they are there.

mod check;
mod effective;
mod fault;
mod file;
pub mod keys;
mod kind;
mod names;
mod reader;
mod secret;
mod sources;
mod value;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

pub use effective::Effective;
pub use fault::{Fault, Faults};
pub use kind::Kind;
pub use names::{Algorithm, LogFormat, RefreshMode, ResponseFields, ReuseDetection, UnknownName};
pub use secret::Secret;
pub use sources::{CONFIG_VARIABLE, Flag, Sources};
pub use value::UpstreamUrl;

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The side that clients see.
    pub server: Server,
    /// The web server of the site.
    pub upstream: Upstream,
    /// Whom to believe about a client's address.
    pub forwarded: Forwarded,
    /// Where the site's settings and database are.
    pub wordpress: WordPress,
    /// What access tokens are signed with.
    pub jwt: Jwt,
    /// The refresh route.
    pub refresh: Refresh,
    /// Old rows.
    pub cleanup: Cleanup,
    /// What happens at the end.
    pub shutdown: Shutdown,
    /// What is written to standard error.
    pub log: Log,
    /// What an operator should look at, though it keeps nothing from working. For the log and `check`.
    pub warnings: Vec<String>,
    effective: Effective,
}

impl Config {
    /// Reads all sources and checks what they say together.
    ///
    /// # Errors
    /// Everything that is wrong, at once: unknown keys, flags and variables, wrong types, values that
    /// cannot be, keys that contradict each other, files that cannot be read.
    pub fn load(sources: &Sources) -> Result<Self, Faults> {
        check::check(sources::merge(sources))
    }

    /// Every key with its value and where that was said, to be displayed; secrets are not shown.
    pub fn effective(&self) -> &Effective {
        &self.effective
    }
}

/// `[server]`
#[derive(Debug, Clone)]
pub struct Server {
    /// Addresses to listen on, at least one, no two alike (port 0 aside).
    pub listen: Vec<SocketAddr>,
    /// Threads that forward, at least 1 (a configured 0 is resolved to the number of cores).
    pub workers: usize,
    /// Client connections open at once, at least 1.
    pub max_connections: usize,
    /// For the head of a request, and for an idle connection. Not zero.
    pub request_header_timeout: Duration,
}

/// `[upstream]`
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Where requests go.
    pub url: UpstreamUrl,
    /// Not zero.
    pub connect_timeout: Duration,
    /// Not zero.
    pub response_header_timeout: Duration,
    /// Zero: keep no idle connection.
    pub keepalive_idle: Duration,
    /// For each worker. Zero: keep no idle connection.
    pub keepalive_max_idle: usize,
}

/// `[forwarded]`
#[derive(Debug, Clone)]
pub struct Forwarded {
    /// Networks of proxies whose `X-Forwarded-For` is believed; host bits are zero.
    pub trusted_proxies: Vec<IpNet>,
}

/// `[wordpress]`
#[derive(Debug, Clone, Default)]
pub struct WordPress {
    /// `wp-config.php`. There is this or `database_url`, unless the route is left to WordPress.
    pub config: Option<PathBuf>,
    /// `mysql://…`, which `mysql_async::Opts::from_url` accepts, with a database's name.
    pub database_url: Option<Secret>,
    /// Letters, digits and underscores only; not empty.
    pub table_prefix: Option<String>,
    /// An `http` or `https` URL without a trailing slash.
    pub home: Option<String>,
    /// `AUTH_KEY`.
    pub auth_key: Option<Secret>,
    /// `AUTH_SALT`.
    pub auth_salt: Option<Secret>,
}

/// `[jwt]`
#[derive(Debug, Clone, Default)]
pub struct Jwt {
    /// `jwt.secret`, or what is in `jwt.secret_file`.
    pub secret: Option<Secret>,
    /// The private key in PEM form: what is in `jwt.private_key_file`.
    pub private_key: Option<Secret>,
    /// `None`: the site's setting. An asymmetric one comes with a `private_key`.
    pub algorithm: Option<Algorithm>,
}

/// `[refresh]`
#[derive(Debug, Clone)]
pub struct Refresh {
    /// Who answers the route.
    pub mode: RefreshMode,
    /// What a successful answer holds.
    pub response_fields: ResponseFields,
    /// Whether refreshes are written to the plugin's analytics table.
    pub analytics: bool,
    /// Zero: a used token is refused.
    pub reuse_interval: Duration,
    /// What happens when a used token comes back later.
    pub reuse_detection: ReuseDetection,
    /// Tokens whose rows are remembered, at least 1.
    pub known_tokens: usize,
    /// A MaxMind database. `None`: the one in the plugin's folder.
    pub country_database: Option<PathBuf>,
}

/// `[cleanup]`
#[derive(Debug, Clone)]
pub struct Cleanup {
    /// Zero: tokens are not deleted.
    pub tokens_after_days: usize,
    /// Whether analytics are deleted as the plugin's setting says.
    pub analytics: bool,
}

/// `[shutdown]`
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// For requests in flight. Zero: cut them off at once.
    pub drain_timeout: Duration,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct Log {
    /// The shape of a line.
    pub format: LogFormat,
    /// Directives that tracing-subscriber's `EnvFilter` accepts.
    pub level: String,
}
