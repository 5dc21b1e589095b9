//! The configuration: flags, environment and file, checked as a whole.
//!
//! Two kinds of types are kept apart: what was written ([`Sources`], the TOML, texts) and what is
//! valid ([`Config`], whose addresses, durations and keys are parsed and agree with each other). A
//! `Config` exists only if nothing is wrong; otherwise all faults are reported at once.
//!
//! Keys are declared in [`keys`], and nowhere else. This module does not read `wp-config.php`, does
//! not connect anywhere and only checks that signing keys exist.

mod address;
mod check;
mod credential;
pub mod db_host;
mod effective;
mod fault;
mod file;
pub mod keys;
mod kind;
mod merged;
mod names;
mod open_files;
mod secret;
mod sources;
pub mod store_url;
mod value;

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;

use crate::declared::{Declared, Member};
use crate::share::Share;
use crate::time::pace::Pace;

pub use address::{CertificateFiles, ListenAddress, UpstreamUrl};
pub use effective::Effective;
pub use fault::{Fault, Faults};
pub(crate) use file::open as open_file;
pub use kind::Kind;
pub use names::{
    Algorithm, DatabaseTls, EarlyBodies, ForwardedMode, LogFormat, ProxyProtocol, RefreshMode, RequestIdMode,
    ResponseFields, ReuseDetection, UpstreamProxyProtocol, Verify,
};
pub use open_files::{OpenFiles, raise_limit};
pub use secret::Secret;
pub use sources::{CONFIG_VARIABLE, Flag, Sources};

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The listeners for clients.
    pub server: Server,
    /// TLS with clients.
    pub tls: Tls,
    /// The web server of the site.
    pub upstream: Upstream,
    /// Which proxies are believed about a client's address.
    pub forwarded: Forwarded,
    /// Where the site's settings and database are.
    pub wordpress: WordPress,
    /// What access tokens are signed with.
    pub jwt: Jwt,
    /// The native refresh.
    pub refresh: Refresh,
    /// The deletion of old rows.
    pub cleanup: Cleanup,
    /// What several sidecars share.
    pub rate_limit: RateLimit,
    /// The listener for operators.
    pub admin: Admin,
    /// The end of the program.
    pub shutdown: Shutdown,
    /// What is written to standard error.
    pub log: Log,
    /// How open files are divided.
    pub open_files: OpenFiles,
    /// What an operator should check, although everything works. For the log and `check`.
    pub warnings: Vec<String>,
    effective: Effective,
}

impl Config {
    /// Reads all sources and checks them together.
    ///
    /// # Errors
    /// All faults at once: unknown keys, flags and variables, wrong types, invalid values, keys
    /// that contradict each other, unreadable files.
    pub fn load(sources: &Sources) -> Result<Self, Faults> {
        check::check(sources::merge(sources))
    }

    /// The declarations about the site's own code.
    pub fn declared(&self) -> Declared {
        let (claims, fields, omit) = (self.jwt.claims.clone(), self.refresh.fields.clone(), self.refresh.omit.clone());
        Declared::new(claims, fields, omit)
    }

    /// What `import` needs: `wordpress.config` and `wordpress.import`. Faults of other keys do not
    /// matter.
    ///
    /// # Errors
    /// The faults of these two, or of the file as a whole.
    pub fn site_files(sources: &Sources) -> Result<SiteFiles, Faults> {
        check::site_files(sources::merge(sources))
    }

    /// Every key with its value and source, for display; secrets are not shown.
    pub fn effective(&self) -> &Effective {
        &self.effective
    }
}

/// `[server]`
#[derive(Debug, Clone)]
pub struct Server {
    /// Addresses to listen on without TLS. With those of `tls`, there is at least one, and no two
    /// are alike (port 0 aside).
    pub listen: Vec<ListenAddress>,
    /// Mode and owner of unix sockets' files.
    pub unix: UnixSockets,
    /// Whether connections begin with a PROXY header; if so, `forwarded.trusted_proxies` is not
    /// empty.
    pub proxy_protocol: ProxyProtocol,
    /// Threads that forward, at least 1 (a configured 0 is resolved to the number of cores).
    pub workers: usize,
    /// Client connections open at once, at least 1, and no more than fit the limit of open files.
    pub max_connections: usize,
    /// Client connections open at once per address. Zero: unlimited.
    pub max_connections_per_address: usize,
    /// Requests in flight at once per connection. Zero: unlimited.
    pub max_exchanges_per_connection: usize,
    /// Requests in flight at once per address. Zero: unlimited.
    pub max_exchanges_per_address: usize,
    /// Requests in flight per address whose body was sent before its start was read. Zero:
    /// unlimited.
    pub max_early_bodies_per_address: usize,
    /// Requests in flight at once on all workers. Zero: unlimited.
    pub max_exchanges: usize,
    /// The time for the first byte of a connection. Not zero.
    pub first_byte_timeout: Duration,
    /// The time for the head of a request, from its first byte. Not zero.
    pub request_header_timeout: Duration,
    /// The idle time between two requests. Not zero.
    pub keepalive_idle: Duration,
    /// The silence within a request body. Not zero.
    pub request_body_idle: Duration,
    /// The time without progress in a response that the client does not read. Not zero.
    pub response_write_idle: Duration,
    /// The minimum rate in bytes per second at which a client sends a body or reads a response.
    /// Zero: none.
    pub min_rate: usize,
    /// Whether interim responses (1xx) are passed to clients of HTTP/1.1.
    pub early_hints: bool,
    /// Whether a request whose client has left is completed.
    pub ignore_client_abort: bool,
    /// The silence within a tunnel. Not zero.
    pub tunnel_idle: Duration,
    /// The maximum size of a request's head, in bytes.
    pub max_header_bytes: usize,
    /// The maximum number of a request's fields.
    pub max_header_fields: usize,
    /// The maximum size of a request's body, in bytes. Zero: the upstream decides.
    pub max_request_body: usize,
    /// Requests that a connection serves. Zero: unlimited.
    pub max_requests_per_connection: usize,
}

impl Server {
    /// The slowest pace of a request's body.
    pub fn request_pace(&self) -> Pace {
        Pace { silence: self.request_body_idle, min_rate: self.min_rate as u64 }
    }

    /// The slowest pace at which a response is read.
    pub fn response_pace(&self) -> Pace {
        Pace { silence: self.response_write_idle, min_rate: self.min_rate as u64 }
    }
}

/// Mode and owner of unix sockets' files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixSockets {
    /// Permission bits. Connecting to a socket requires write permission.
    pub mode: u32,
    /// The user's id. `None`: the user who runs the program.
    pub owner: Option<u32>,
    /// The group's id. `None`: the group of the user who runs the program.
    pub group: Option<u32>,
}

/// The number of requests assumed per connection if `max_exchanges_per_connection` is unlimited:
/// its default.
const ONE_CONNECTION: usize = 32;

impl Server {
    /// How many requests of one connection fit on a worker.
    pub fn exchanges_of_one(&self) -> usize {
        match self.max_exchanges_per_connection {
            0 => ONE_CONNECTION,
            limit => limit,
        }
    }

    /// A worker's share of `max_exchanges`; zero is unlimited.
    pub fn exchanges_at(&self, share: Share) -> usize {
        self.of_clients(self.max_exchanges, share)
    }

    /// A worker's share of `max_exchanges_per_address`; zero is unlimited.
    pub fn exchanges_of_address_at(&self, share: Share) -> usize {
        self.of_clients(self.max_exchanges_per_address, share)
    }

    fn of_clients(&self, limit: usize, share: Share) -> usize {
        if limit == 0 { 0 } else { share.of_clients(limit, self.exchanges_of_one()) }
    }
}

/// `[tls]`
#[derive(Debug, Clone)]
pub struct Tls {
    /// Addresses to listen on with TLS.
    pub listen: Vec<ListenAddress>,
    /// At least one if there are addresses; the first is for clients that ask for no known name.
    /// Not yet read.
    pub certificates: Vec<CertificateFiles>,
    /// Not zero.
    pub handshake_timeout: Duration,
}

/// `[upstream]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Where requests are sent.
    pub url: UpstreamUrl,
    /// Certificates, in PEM form, of authorities that may sign the upstream's. `None`: those that
    /// the system trusts.
    pub ca_file: Option<PathBuf>,
    /// The server name of an https upstream, in SNI and certificate.
    pub tls_name: TlsName,
    /// Whether connections begin with a PROXY header. Each request then has its own connection.
    pub proxy_protocol: UpstreamProxyProtocol,
    /// When the body of a request is sent.
    pub early_bodies: EarlyBodies,
    /// Not zero.
    pub connect_timeout: Duration,
    /// Not zero.
    pub response_header_timeout: Duration,
    /// The silence within a response's body. Not zero.
    pub response_body_idle: Duration,
    /// Connections in use at once on all workers. Zero: unlimited.
    pub max_connections: usize,
    /// Zero: keep no idle connection.
    pub keepalive_idle: Duration,
    /// For each worker. Zero: keep no idle connection.
    pub keepalive_max_idle: usize,
}

/// `[upstream] tls_name`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsName {
    /// The host in `url`.
    OfUrl,
    /// This name or IP address.
    Is(String),
    /// The `Host` of each request, if it is the home URL's or one of these (`host` or `host:port`),
    /// otherwise the one in `url`.
    OfHost(Vec<String>),
}

/// `[forwarded]`
#[derive(Debug, Clone)]
pub struct Forwarded {
    /// Networks of proxies whose `X-Forwarded-For` is believed: host bits are zero, and none is
    /// IPv4 in IPv6 form.
    pub trusted_proxies: Vec<IpNet>,
    /// How the fields are handled that tell the upstream the client's address.
    pub mode: ForwardedMode,
    /// How `X-Request-Id` is handled.
    pub request_id: RequestIdMode,
}

/// `[wordpress]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WordPress {
    /// `wp-config.php`. Either this, `import` or `database_url` is set, unless the route is left to
    /// WordPress.
    pub config: Option<PathBuf>,
    /// The output of `import`.
    pub import: Option<ImportFile>,
    /// `mysql://…` with a database's name, accepted by `mysql_async::Opts::from_url`.
    pub database_url: Option<Secret>,
    /// Each in the form of `DB_HOST`. Empty: the host of the other settings.
    pub database_hosts: Vec<String>,
    /// Whether connections to the database are encrypted.
    pub database_tls: DatabaseTls,
    /// Certificates, in PEM form, of authorities that may sign the database's, in addition to those
    /// that the system trusts. Not yet read.
    pub database_ca_file: Option<PathBuf>,
    /// The certificate that the sidecar presents to the database. Not yet read.
    pub database_client_certificate: Option<CertificateFiles>,
    /// The name that the database's certificate must be valid for. `None`: the host.
    pub database_tls_name: Option<String>,
    /// At least 4: each of two workers may need a second one to find out what became of a commit on
    /// the first.
    pub database_connections: usize,
    /// Letters, digits and underscores only; not empty.
    pub table_prefix: Option<String>,
    /// An `http` or `https` URL without a trailing slash.
    pub home: Option<String>,
    /// `host` or `host:port`, in lower case.
    pub hosts: Vec<String>,
    /// `AUTH_KEY`.
    pub auth_key: Option<Secret>,
    /// `AUTH_SALT`.
    pub auth_salt: Option<Secret>,
}

/// The two files that describe a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteFiles {
    /// `[wordpress] config`
    pub config: Option<PathBuf>,
    /// `[wordpress] import`, or its default place. It need not exist.
    pub import: PathBuf,
}

/// Where `import` writes to and `serve` reads from by default.
pub const DEFAULT_IMPORT: &str = "/etc/wp-jwt-sidecar/site.toml";

/// `[wordpress] import`, or the file in its default place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportFile {
    /// The file.
    pub path: PathBuf,
    /// Whether the configuration or an option names it. A file in the default place may be another
    /// site's.
    pub is_named: bool,
}

/// `[jwt]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Jwt {
    /// `jwt.secret`, or the contents of `jwt.secret_file`.
    pub secret: Option<Secret>,
    /// The private key in PEM form: the contents of `jwt.private_key_file`.
    pub private_key: Option<Secret>,
    /// `None`: the site's setting. An asymmetric one comes with a `private_key`.
    pub algorithm: Option<Algorithm>,
    /// The lifetime of access tokens. `None`: the site's setting.
    pub lifetime: Option<Duration>,
    /// What the site's own code adds to access tokens.
    pub claims: Vec<Member>,
}

/// `[refresh]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refresh {
    /// Who answers the route.
    pub mode: RefreshMode,
    /// Whether native refreshes are verified to match WordPress's.
    pub verify: Verify,
    /// How many responses of WordPress are compared first, at least 1.
    pub verify_first: usize,
    /// Later one call in this many is compared, at least 1.
    pub verify_every: usize,
    /// Response fields that are not compared, in lower case.
    pub verify_ignore_headers: Vec<String>,
    /// Places or hooks whose code may be skipped by refreshes.
    pub trusted_hooks: Vec<String>,
    /// Where the verification is kept across restarts. `None`: only in memory.
    pub state_directory: Option<PathBuf>,
    /// The members of a successful response.
    pub response_fields: ResponseFields,
    /// What the site's own code adds to a successful response.
    pub fields: Vec<Member>,
    /// What the site's own code removes.
    pub omit: Vec<String>,
    /// Whether refreshes are written to the plugin's analytics table.
    pub analytics: bool,
    /// Rows a second that refused refreshes add to it.
    pub analytics_refusals: usize,
    /// Zero: a used token is refused at once.
    pub reuse_interval: Duration,
    /// What happens when a used token comes back later.
    pub reuse_detection: ReuseDetection,
    /// How many tokens are remembered with their rows, at least 1.
    pub known_tokens: usize,
    /// A MaxMind database. `None`: the one in the plugin's directory.
    pub country_database: Option<PathBuf>,
}

/// `[cleanup]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleanup {
    /// Zero: tokens are not deleted.
    pub tokens_after_days: usize,
    /// Whether analytics are deleted by the plugin's setting.
    pub analytics: bool,
}

/// `[rate_limit]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// `rate_limit.store`, or what is in `rate_limit.store_file`: what [`store_url::parse`]
    /// accepts. `None`: this process counts by itself.
    pub store: Option<Secret>,
    /// Certificates, in PEM form, of authorities that may sign the store's in place of those that
    /// the system trusts. Not yet read.
    pub store_ca_file: Option<PathBuf>,
    /// What the names of keys begin with: `[A-Za-z0-9:._-]+`. `None`: one that is made of the site.
    pub store_prefix: Option<String>,
}

/// `[admin]`
#[derive(Debug, Clone)]
pub struct Admin {
    /// The listener's address; `None` if it is off.
    pub listen: Option<ListenAddress>,
    /// Whether it is configured. A default address that is in use must not keep the sidecar from
    /// starting.
    pub listen_is_given: bool,
    /// `host` or `host:port`, in lower case.
    pub hosts: Vec<String>,
}

/// `[shutdown]`
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// The time for requests in flight. Zero: they are cut off at once.
    pub drain_timeout: Duration,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct Log {
    /// The format of a line.
    pub format: LogFormat,
    /// Directives that tracing-subscriber's `EnvFilter` accepts.
    pub level: String,
    /// Whether each refresh is logged.
    pub refreshes: bool,
    /// Whether each forwarded request is logged.
    pub access: bool,
}
