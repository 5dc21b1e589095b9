//! A sidecar in this process whose verification the test can see and lead, and rows as PHP writes
//! them.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::oneshot;
use wp_jwt_sidecar::internals::assemble::{Parts, Sidecar};
use wp_jwt_sidecar::internals::config::{Config, ListenAddress, Sources};
use wp_jwt_sidecar::internals::listen::inherited::Inherited;
use wp_jwt_sidecar::internals::listen::listeners;
use wp_jwt_sidecar::internals::net::dial::Dialer;
use wp_jwt_sidecar::internals::refresh::Refresher;
use wp_jwt_sidecar::internals::serve::{self, Load};
use wp_jwt_sidecar::internals::verify::Gate;
use wp_jwt_sidecar::internals::verify::verdict::{Class, Observation};
use wp_jwt_sidecar::internals::wordpress::installation::installation;

use crate::config::site::variables;
use crate::support::mariadb::{Database, TestDatabase, User, random_hex};
use crate::support::raw::{Message, Upstream};
use crate::support::rig::{self, AUTH_KEY, AUTH_SALT, HOME, SECRET, refresh_at};
use crate::support::sidecar::PATIENCE;

pub const DAY: u64 = 86_400;

/// What the settings say where they say nothing.
pub const LIFETIME: u64 = 7 * DAY;
pub const REFRESH_LIFETIME: u64 = 30 * DAY;

/// So much later a row counts that was issued in the epoch: see `row_proof::counts_from`.
pub const COUNTS_AFTER: u64 = 6;

/// A sidecar that verifies. Dropped, it is drained.
pub struct Verifying {
    pub database: TestDatabase,
    pub upstream: Upstream,
    pub user: User,
    pub refresher: Arc<Refresher>,
    address: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

impl Verifying {
    /// Before a site of its own, with more environment.
    pub async fn start(more: &[(&str, &str)]) -> Verifying {
        let database = rig::site(Database::shared()).await;
        let user = database.insert_user("alice").await;
        let upstream = rig::wordpress();
        let site = rig::command_environment(&database, upstream.address());
        let site = site.iter().map(|(name, value)| (*name, value.as_str())).chain([
            ("WP_JWT_SIDECAR_SERVER_LISTEN", "127.0.0.1:0"),
            ("WP_JWT_SIDECAR_SERVER_WORKERS", "1"),
            ("WP_JWT_SIDECAR_REFRESH_VERIFY", "auto"),
            ("WP_JWT_SIDECAR_REFRESH_VERIFY_FIRST", "1"),
            // Nothing is compared that the test does not compare.
            ("WP_JWT_SIDECAR_REFRESH_VERIFY_EVERY", "1000000"),
        ]);
        let is_other = |(name, _): &(&str, &str)| more.iter().all(|(more, _)| more != name);
        let environment: Vec<(&str, &str)> = site.filter(is_other).chain(more.iter().copied()).collect();
        let config = Config::load(&Sources { environment: variables(&environment), ..Sources::default() }).unwrap();
        let bound = listeners::open(&config, None, Inherited::from_environment().unwrap()).unwrap();
        let ListenAddress::Tcp(address) = *bound.last().unwrap().address() else { panic!("a port") };
        let dialer = Dialer::new(&config.upstream).unwrap();
        let installation = installation(&config.wordpress, &config.jwt, &|_| None).unwrap();
        let parts = Parts { config, dialer, tls: None, installation: Some(installation) };
        let sidecar = Sidecar::assemble(parts).unwrap();
        let refresher = Arc::clone(sidecar.refresher().unwrap());
        let load: Load = Arc::new(|| unreachable!("no SIGHUP is sent"));
        let (stop, stopped) = oneshot::channel();
        let shutdown = move || Ok(async move { drop(stopped.await) });
        let serving = std::thread::spawn(move || serve::serve(sidecar, bound, None, load, shutdown).unwrap());
        let (stop, serving) = (Some(stop), Some(serving));
        let verifying = Verifying { database, upstream, user, refresher, address, stop, serving };
        verifying.wait("the watch has begun", || verifying.refresher.row_watch.looks.value() > 0);
        verifying
    }

    pub fn verification(&self) -> &Arc<wp_jwt_sidecar::internals::verify::Verification> {
        &self.refresher.verification
    }

    fn makeup(&self) -> Option<u64> {
        self.refresher.sites.last_read().and_then(Result::ok).map(|site| site.makeup.tag())
    }

    /// Lets comparisons agree until calls are native.
    pub fn agree(&self) {
        let verification = self.verification();
        self.wait("calls are native", || {
            match verification.gate(Class::Plain, self.makeup().unwrap_or_default()) {
                Gate::Left(_, Some(ticket)) => {
                    ticket.observed(Observation::Agrees { class: Class::Plain, user: Some(self.user.id) });
                }
                Gate::Native | Gate::Sample(_) | Gate::Left(..) => {}
            }
            verification.is_native(Class::Plain)
        });
    }

    /// What differs, with its kind, as soon as something does.
    pub fn difference(&self) -> (String, &'static str) {
        self.wait("something differs", || self.verification().view().difference.is_some());
        let view = self.verification().view();
        (view.difference.unwrap(), view.kind.unwrap().name())
    }

    pub fn agrees(&self) -> bool {
        self.verification().view().state.name() == "agrees"
    }

    /// Waits until the row watch has looked twice at all rows that are there by now.
    pub fn watched(&self) {
        let looks = &self.refresher.row_watch.looks;
        // One may be under way.
        let enough = looks.value() + 3;
        self.wait("the watch has looked", || looks.value() >= enough);
    }

    pub fn refresh(&self, token: &str) -> Message {
        refresh_at(self.address, token)
    }

    /// Puts `row` into the table. Returns its id.
    pub async fn insert(&self, row: &PhpRow) -> u64 {
        row.insert(&mut self.database.connect().await, self.database.prefix()).await
    }

    pub fn wait(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "not in time: {what}: {:?}", self.verification().view());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Verifying {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.serving.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

/// A row as PHP writes it, and what its code may make of it.
#[derive(Clone)]
pub struct PhpRow {
    pub user_id: u64,
    pub refresh_token: String,
    pub issued_at: u64,
    pub lifetime: u64,
    pub refresh_lifetime: u64,
    pub blog_id: u64,
    pub metadata: Value,
    /// As the token has them.
    pub claims: Value,
    pub salt: String,
}

impl PhpRow {
    /// As the plugin alone writes it.
    pub fn plain(user_id: u64, issued_at: u64) -> PhpRow {
        let claims = json!({
            "iss": HOME,
            "iat": issued_at,
            "nbf": issued_at,
            "exp": issued_at + LIFETIME,
            "data": {"user": {"id": user_id.to_string()}},
        });
        PhpRow {
            user_id,
            refresh_token: random_hex::<16>(),
            issued_at,
            lifetime: LIFETIME,
            refresh_lifetime: REFRESH_LIFETIME,
            blog_id: 1,
            metadata: json!({"user_agent": "app/1.0"}),
            claims,
            salt: format!("{AUTH_KEY}{AUTH_SALT}"),
        }
    }

    /// With one claim more.
    pub fn with_role(user_id: u64, issued_at: u64) -> PhpRow {
        let mut row = PhpRow::plain(user_id, issued_at);
        row.claims["data"]["user"]["role"] = json!("subscriber");
        row
    }

    /// As `jwt_auth_expire` makes it.
    #[must_use]
    pub fn living(mut self, lifetime: u64) -> PhpRow {
        self.lifetime = lifetime;
        self.claims["exp"] = json!(self.issued_at + lifetime);
        self
    }

    pub fn hash(&self) -> String {
        let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"HS256"}"#);
        let said = format!("{header}.{}", URL_SAFE_NO_PAD.encode(self.claims.to_string()));
        let mut mac: Hmac<Sha256> = Hmac::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(said.as_bytes());
        let jwt = format!("{said}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()));
        let mut mac: Hmac<Md5> = Hmac::new_from_slice(self.salt.as_bytes()).unwrap();
        mac.update(jwt.as_bytes());
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub async fn insert(&self, connection: &mut Conn, prefix: &str) -> u64 {
        let epoch = "'1970-01-01' + INTERVAL ? SECOND";
        let statement = format!(
            "INSERT INTO {prefix}jwt_auth_tokens (hash, user_id, issued_at, expires_at, refresh_token_hash, \
             refresh_token_expires_at, token_family, metadata, user_agent, ip_address, blog_id) \
             VALUES (?, ?, {epoch}, {epoch}, ?, {epoch}, ?, ?, 'app/1.0', '127.0.0.1', ?)"
        );
        let values = (
            self.hash(),
            self.user_id,
            self.issued_at,
            self.issued_at + self.lifetime,
            &self.refresh_token,
            self.issued_at + self.refresh_lifetime,
            random_hex::<16>(),
            self.metadata.to_string(),
            self.blog_id,
        );
        connection.exec_drop(statement, values).await.unwrap();
        connection.last_insert_id().unwrap()
    }
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
