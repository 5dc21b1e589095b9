//! The configuration: what was said by flags, environment and file, checked as a whole.
//!
//! Two kinds of types keep apart what was written ([`Sources`], the TOML, texts) and what is true
//! ([`Config`], whose addresses, durations and keys are parsed and agree with each other). A `Config`
//! exists only if nothing at all is wrong; otherwise every fault is told at once.
//!
//! Keys are declared in [`keys`], and nowhere else. This module does not read `wp-config.php`, does
//! not connect anywhere and does not look into keys further than to see that they are there.

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
    /// The side that clients see.
    pub server: Server,
    /// TLS with clients.
    pub tls: Tls,
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
    /// The listener for operators.
    pub admin: Admin,
    /// What happens at the end.
    pub shutdown: Shutdown,
    /// What is written to standard error.
    pub log: Log,
    /// Where open files go.
    pub open_files: OpenFiles,
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

    /// What the site's own code adds to a refresh, as it is declared.
    pub fn declared(&self) -> Declared {
        let (claims, fields, omit) = (self.jwt.claims.clone(), self.refresh.fields.clone(), self.refresh.omit.clone());
        Declared::new(claims, fields, omit)
    }

    /// What `import` has to know: `wordpress.config` and `wordpress.import`. What is wrong with other keys does not matter.
    ///
    /// # Errors
    /// What is wrong with these two, or with the file as a whole.
    pub fn site_files(sources: &Sources) -> Result<SiteFiles, Faults> {
        check::site_files(sources::merge(sources))
    }

    /// Every key with its value and where that was said, to be displayed; secrets are not shown.
    pub fn effective(&self) -> &Effective {
        &self.effective
    }
}

/// `[server]`
#[derive(Debug, Clone)]
pub struct Server {
    /// Addresses to listen on without TLS. With those of `tls`, there is at least one, and no two are alike (port 0 aside).
    pub listen: Vec<ListenAddress>,
    /// What the files of unix sockets are like.
    pub unix: UnixSockets,
    /// Whether connections begin with a PROXY header; then `forwarded.trusted_proxies` names somebody.
    pub proxy_protocol: ProxyProtocol,
    /// Threads that forward, at least 1 (a configured 0 is resolved to the number of cores).
    pub workers: usize,
    /// Client connections open at once, at least 1, and no more than fit the limit of open files.
    pub max_connections: usize,
    /// Client connections of one address open at once. Zero: not limited.
    pub max_connections_per_address: usize,
    /// Requests of one connection in flight at once. Zero: not limited.
    pub max_exchanges_per_connection: usize,
    /// Requests of one address in flight at once. Zero: not limited.
    pub max_exchanges_per_address: usize,
    /// Requests of one address in flight whose body began to flow before its start was there. Zero: not limited.
    pub max_early_bodies_per_address: usize,
    /// Requests in flight at once, by all workers together. Zero: not limited.
    pub max_exchanges: usize,
    /// For the first byte of a connection. Not zero.
    pub first_byte_timeout: Duration,
    /// For the head of a request, from its first byte. Not zero.
    pub request_header_timeout: Duration,
    /// Between two requests. Not zero.
    pub keepalive_idle: Duration,
    /// Within a request body. Not zero.
    pub request_body_idle: Duration,
    /// Within an answer that the client does not read. Not zero.
    pub response_write_idle: Duration,
    /// Bytes a second that a client has to send of a body, or to read of an answer. Zero: any.
    pub min_rate: usize,
    /// Whether answers that only announce one pass to clients of HTTP/1.1.
    pub early_hints: bool,
    /// Whether a request whose client has left goes on to its end.
    pub ignore_client_abort: bool,
    /// Within a tunnel. Not zero.
    pub tunnel_idle: Duration,
    /// Bytes of the head of a request.
    pub max_header_bytes: usize,
    /// Fields of a request.
    pub max_header_fields: usize,
    /// Bytes of the body of a request. Zero: the upstream decides.
    pub max_request_body: usize,
    /// Requests that a connection serves. Zero: any number.
    pub max_requests_per_connection: usize,
}

impl Server {
    /// How fast the body of a request has to come.
    pub fn request_pace(&self) -> Pace {
        Pace { silence: self.request_body_idle, min_rate: self.min_rate as u64 }
    }

    /// How fast an answer has to be read.
    pub fn response_pace(&self) -> Pace {
        Pace { silence: self.response_write_idle, min_rate: self.min_rate as u64 }
    }
}

/// What the files of unix sockets to listen on are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixSockets {
    /// Permission bits. To connect to a socket takes the right to write to it.
    pub mode: u32,
    /// The user's id. `None`: whoever runs the program.
    pub owner: Option<u32>,
    /// The group's id. `None`: the group of whoever runs the program.
    pub group: Option<u32>,
}

/// Of how many requests a connection's are, where `max_exchanges_per_connection` is any number: its default.
const ONE_CONNECTION: usize = 32;

impl Server {
    /// How many requests of one connection find room at a worker.
    pub fn exchanges_of_one(&self) -> usize {
        match self.max_exchanges_per_connection {
            0 => ONE_CONNECTION,
            limit => limit,
        }
    }

    /// A worker's share of `max_exchanges`; zero is any number.
    pub fn exchanges_at(&self, share: Share) -> usize {
        self.of_clients(self.max_exchanges, share)
    }

    /// A worker's share of `max_exchanges_per_address`; zero is any number.
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
    /// At least one where there are addresses; the first is for clients that ask for no name that is known. Not yet read.
    pub certificates: Vec<CertificateFiles>,
    /// Not zero.
    pub handshake_timeout: Duration,
}

/// `[upstream]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Where requests go.
    pub url: UpstreamUrl,
    /// Certificates, in PEM form, of those who may sign the upstream's. `None`: those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// What an https upstream is called, in SNI and certificate.
    pub tls_name: TlsName,
    /// Whether connections begin with a PROXY header. Each request has a connection of its own then.
    pub proxy_protocol: UpstreamProxyProtocol,
    /// When the body of a request begins to flow.
    pub early_bodies: EarlyBodies,
    /// Not zero.
    pub connect_timeout: Duration,
    /// Not zero.
    pub response_header_timeout: Duration,
    /// Within the body of an answer. Not zero.
    pub response_body_idle: Duration,
    /// In use at once, by all workers together. Zero: not limited.
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
    /// The `Host` of each request, where it is the home URL's or one of these (`host` or `host:port`), else the one in `url`.
    OfHost(Vec<String>),
}

/// `[forwarded]`
#[derive(Debug, Clone)]
pub struct Forwarded {
    /// Networks of proxies whose `X-Forwarded-For` is believed: host bits are zero, and none is of IPv4 in IPv6 form.
    pub trusted_proxies: Vec<IpNet>,
    /// What becomes of the fields that tell the upstream who the client is.
    pub mode: ForwardedMode,
    /// What becomes of `X-Request-Id`.
    pub request_id: RequestIdMode,
}

/// `[wordpress]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WordPress {
    /// `wp-config.php`. There is this, `import` or `database_url`, unless the route is left to WordPress.
    pub config: Option<PathBuf>,
    /// What `import` wrote.
    pub import: Option<ImportFile>,
    /// `mysql://…`, which `mysql_async::Opts::from_url` accepts, with a database's name.
    pub database_url: Option<Secret>,
    /// Each as `DB_HOST` may be. Empty: what the others say.
    pub database_hosts: Vec<String>,
    /// Whether connections to the database are encrypted.
    pub database_tls: DatabaseTls,
    /// Certificates, in PEM form, of authorities that may sign the database's besides those that the system trusts. Not yet read.
    pub database_ca_file: Option<PathBuf>,
    /// The certificate that the sidecar presents to the database. Not yet read.
    pub database_client_certificate: Option<CertificateFiles>,
    /// The name that the database's certificate is checked for. `None`: the host.
    pub database_tls_name: Option<String>,
    /// At least 4: each of two workers may need a second one to find out what became of the first.
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

/// The two files that say what a site is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteFiles {
    /// `[wordpress] config`
    pub config: Option<PathBuf>,
    /// `[wordpress] import`, or its default place. It need not be there.
    pub import: PathBuf,
}

/// Where `import` writes to, and `serve` reads from, where nothing else is named.
pub const DEFAULT_IMPORT: &str = "/etc/wp-jwt-sidecar/site.toml";

/// `[wordpress] import`, or what is in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whether the configuration or an option names it. What is in the default place may be another site's.
    pub is_named: bool,
}

/// `[jwt]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Jwt {
    /// `jwt.secret`, or what is in `jwt.secret_file`.
    pub secret: Option<Secret>,
    /// The private key in PEM form: what is in `jwt.private_key_file`.
    pub private_key: Option<Secret>,
    /// `None`: the site's setting. An asymmetric one comes with a `private_key`.
    pub algorithm: Option<Algorithm>,
    /// Of access tokens. `None`: the site's setting.
    pub lifetime: Option<Duration>,
    /// What the site's own code adds to access tokens.
    pub claims: Vec<Member>,
}

/// `[refresh]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refresh {
    /// Who answers the route.
    pub mode: RefreshMode,
    /// Whether it is verified that native refreshes are what WordPress would have done.
    pub verify: Verify,
    /// Answers of WordPress that are compared first, at least 1.
    pub verify_first: usize,
    /// Later one call of so many is compared, at least 1.
    pub verify_every: usize,
    /// Fields of an answer that are not compared, in lower case.
    pub verify_ignore_headers: Vec<String>,
    /// Places or hooks whose code refreshes need not run.
    pub trusted_hooks: Vec<String>,
    /// Where the verification is kept across restarts. `None`: only in memory.
    pub state_directory: Option<PathBuf>,
    /// What a successful answer holds.
    pub response_fields: ResponseFields,
    /// What the site's own code adds to a successful answer.
    pub fields: Vec<Member>,
    /// What it takes out.
    pub omit: Vec<String>,
    /// Whether refreshes are written to the plugin's analytics table.
    pub analytics: bool,
    /// Rows a second that refused ones add to it.
    pub analytics_refusals: usize,
    /// Zero: a used token is refused at once.
    pub reuse_interval: Duration,
    /// What happens when a used token comes back later.
    pub reuse_detection: ReuseDetection,
    /// Tokens whose rows are remembered, at least 1.
    pub known_tokens: usize,
    /// A MaxMind database. `None`: the one in the plugin's folder.
    pub country_database: Option<PathBuf>,
}

/// `[cleanup]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleanup {
    /// Zero: tokens are not deleted.
    pub tokens_after_days: usize,
    /// Whether analytics are deleted as the plugin's setting says.
    pub analytics: bool,
}

/// `[admin]`
#[derive(Debug, Clone)]
pub struct Admin {
    /// Where it listens. `None`: nowhere.
    pub listen: Option<ListenAddress>,
    /// Whether somebody said so. A default that cannot be had must not stop the site's front door.
    pub listen_is_given: bool,
    /// `host` or `host:port`, in lower case.
    pub hosts: Vec<String>,
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
    /// Whether each refresh is a line.
    pub refreshes: bool,
    /// Whether each forwarded request is a line.
    pub access: bool,
}
