//! `wp-jwt-sidecar doctor`: examines the whole installation and reports what is good, what needs
//! attention and what is a problem, each with its fix.
//!
//! It changes nothing, unless it is given a refresh token to refresh. It sends a dozen small
//! requests to the site; the plugin notes two refused refreshes of an address that no client has. A
//! check whose prerequisite is missing is skipped; the missing prerequisite is reported. Every step
//! has a time limit, and exceeding it is a finding.
//!
//! There is one file per area; in each, judging is separate from asking. [`running`] is for a
//! sidecar that shows its own state.

mod address;
mod authorization;
mod blocks;
mod client;
mod configuration;
mod database;
mod hooks;
mod imported;
pub mod keys;
mod limits;
mod network;
mod parity;
mod php;
mod plugin;
pub mod report;
mod rights;
pub mod running;
mod site;
pub mod store;
mod tables;
mod upstream;
mod verification;
mod wp_config;

use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::assemble::{Parts, Sidecar};
use crate::cli::{self, Options};
use crate::config::{Config, RefreshMode, Secret, Verify};
use crate::finding::{Area, Finding, Level, verdict};
use crate::net::dial::Dialer;
use crate::refresh::Refresher;
use crate::refresh::shared::Shared;
use crate::refresh::store::Store;
use crate::refresh::trial::{self, Trial};
use crate::tls::Tls;
use crate::wordpress::database::Database;
use crate::wordpress::installation::{Installation, installation};
use crate::wordpress::site::{Examined, Site};
use client::SiteAddress;

/// The time limit of a step that queries the database.
const DATABASE_LIMIT: Duration = Duration::from_secs(8);

/// The time limit of a step that asks the web server or PHP; each response also has its own.
const SITE_LIMIT: Duration = Duration::from_secs(14);

/// How to examine.
#[derive(Debug, Clone)]
pub struct How {
    /// Whether to run the site's own code, too.
    pub runs_php: bool,
    /// A token to refresh, which uses it up.
    pub token: Option<Secret>,
}

/// Examines everything. The findings are sorted by area.
///
/// # Errors
/// If the system cannot start threads.
pub fn examine(options: &Options, environment: Vec<(OsString, OsString)>, how: &How) -> io::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    match cli::load(options, environment.into_iter()) {
        Err(faults) => findings.extend(configuration::faults(&faults)),
        Ok(config) => {
            findings.extend(configuration::warnings(&config));
            look(config, how, &mut findings)?;
        }
    }
    if how.token.is_some() && !findings.iter().any(|finding| finding.id == parity::REFRESH) {
        findings.push(parity::token_not_used());
    }
    if !findings.iter().any(|finding| finding.area == Area::Configuration && finding.level == Level::Problem) {
        findings.push(Finding::ok(
            Area::Configuration,
            "configuration.read",
            "all that is configured can be understood",
        ));
    }
    findings.sort_by_key(|finding| (finding.area, std::cmp::Reverse(finding.level)));
    Ok(findings)
}

/// Checks what `serve` reads before it listens, then everything that can be asked.
fn look(mut config: Config, how: &How, findings: &mut Vec<Finding>) -> io::Result<()> {
    let environment = |name: &str| std::env::var_os(name);
    let dialer = Dialer::new(&config.upstream).map_err(|faults| findings.extend(configuration::faults(&faults))).ok();
    let tls = Tls::load(&config.tls).map_err(|faults| findings.extend(configuration::faults(&faults))).ok().flatten();
    findings.extend(tls.iter().flat_map(|tls| configuration::certificates(tls)));
    let installation = match config.refresh.mode {
        RefreshMode::Forward => None,
        RefreshMode::Native => installation(&config.wordpress, &config.jwt, &environment)
            .map_err(|faults| findings.extend(configuration::faults(&faults)))
            .ok(),
    };
    if let Some(installation) = &installation {
        findings.extend(configuration::assumed(installation));
        findings.extend(installation.import.iter().map(imported::look));
        findings.extend(installation.passed_over.iter().map(imported::passed_over));
        let source = installation.import.as_ref().map(|import| import.file.as_path());
        findings.extend(source.or(installation.config_file.as_deref()).map(wp_config::look).into_iter().flatten());
        findings.push(keys::salts(installation));
    }
    let (Some(dialer), Some(installation)) = (dialer.clone(), installation) else {
        // Without them only the web server can be asked.
        if let Some(dialer) = dialer {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            findings.push(runtime.block_on(upstream::reachable(&dialer, &config, None)));
            runtime.shutdown_background();
        }
        return Ok(());
    };
    let original = config.clone();
    // The doctor's own calls must not be counted as refreshes.
    config.refresh.analytics = false;
    // The doctor examines the native response itself.
    config.refresh.verify = Verify::Off;
    let parts = Parts { config, dialer: dialer.clone(), tls, installation: Some(installation.clone()) };
    let Some((refresher, runtime)) = Sidecar::assemble(parts)?.into_native() else { return Ok(()) };
    let patient = Patient { config: original, installation, dialer, refresher, how: how.clone() };
    findings.extend(runtime.block_on(patient.look()));
    // A pending name resolution must not delay the end.
    runtime.shutdown_background();
    Ok(())
}

/// An installation that can be asked.
struct Patient {
    config: Config,
    installation: Installation,
    dialer: Dialer,
    refresher: Arc<Refresher>,
    how: How,
}

impl Patient {
    async fn look(&self) -> Vec<Finding> {
        let (mut findings, examined) = self.rows().await;
        let site = examined.as_ref().and_then(|examined| examined.site.clone());
        let secret = self.config.jwt.secret.as_ref().or(self.installation.jwt_secret.as_ref());
        let algorithm = site.as_ref().map(|site| site.signer.algorithm()).or(self.config.jwt.algorithm);
        findings.push(configuration::used_tokens(&self.refresher.reuse, algorithm));
        findings.push(keys::signing_key(algorithm, secret, self.config.jwt.private_key.is_some()));
        let php = async {
            let (Some(site), Some(place)) = (&site, site.as_deref().and_then(SiteAddress::of)) else {
                return Vec::new();
            };
            if !self.how.runs_php {
                return vec![php::not_run()];
            }
            let look = php::look(&self.installation, site, &place, secret);
            within(Area::Customized, "customized.php", SITE_LIMIT, look).await
        };
        let hooks = async {
            let Some(examined) = &examined else { return Vec::new() };
            let trusted = &self.config.refresh.trusted_hooks;
            let look = hooks::look(&self.installation, &self.refresher.store.database, examined, trusted);
            within(Area::Customized, "customized.hooks", SITE_LIMIT, look).await
        };
        let database = within(Area::Database, "database.reachable", DATABASE_LIMIT, self.database());
        let hosts = within(Area::Database, "database.hosts", SITE_LIMIT, database::hosts(&self.installation));
        let tls = within(Area::Database, "database.tls", SITE_LIMIT, database::tls(&self.installation));
        let verified = verification::look(&self.config, &self.installation);
        let verified = within(Area::Parity, "verify.state", verification::LIMIT, verified);
        let store = store::look(self.refresher.rate_limiter.shared().map(Shared::store));
        let store = within(Area::Store, store::AWAY, store::LIMIT, store);
        let (database, hosts, tls, web, php, hooks, verified, store) =
            tokio::join!(database, hosts, tls, self.web(site.as_deref()), php, hooks, verified, store);
        findings.extend([database, hosts, tls, web, php, hooks, verified, store].into_iter().flatten());
        self.refresher.store.database.close().await;
        findings
    }

    /// The findings about the site's rows. `None` if they cannot be read.
    async fn rows(&self) -> (Vec<Finding>, Option<Examined>) {
        match timeout(DATABASE_LIMIT, self.refresher.sites.examine()).await {
            Ok(Ok(examined)) => (plugin::findings(&examined), Some(examined)),
            // The database's own check reports why it cannot be read.
            Ok(Err(_)) | Err(_) => (Vec::new(), None),
        }
    }

    async fn database(&self) -> Vec<Finding> {
        let database = Database::new(self.installation.database.clone());
        let looked = async {
            let mut session = database.session().await?;
            let mut server = database::server(&mut session).await?;
            // The user may be allowed to write all the same.
            server.read_only &= session.is_read_only().await?;
            let label = database.host_in_use().unwrap_or_else(|| self.installation.database_label.clone());
            let mut findings = server.findings(&label);
            findings.extend(database::connections(&mut session, self.config.wordpress.database_connections).await?);
            let declared = self.config.declared();
            let store = Store::declaring(
                Database::new(self.installation.database.clone()),
                &self.installation.table_prefix,
                &self.installation.users_table,
                declared.reads(),
                self.installation.usermeta_table.as_deref(),
            );
            let needs = rights::needs(&self.config, &self.installation, &store, server.is_mariadb());
            findings.extend(rights::look(&mut session, &server, &needs).await?);
            if self.installation.multisite {
                findings.push(network::rights(&mut session, &server, &needs, &self.installation.base_prefix).await?);
            }
            let writes_events = self.config.refresh.analytics;
            findings.extend(tables::look(&mut session, &server, &self.installation, writes_events).await?);
            session.give_back();
            // Most reasons for refused rotations have been reported by then, with the lines to
            // copy.
            if verdict(&findings) != Level::Problem
                && let Trial::Refused(refused) = trial::run(&store).await
            {
                let what = format!("the database refuses a rotation's statements: {refused}");
                findings.push(Finding::problem(Area::Database, "database.refuses", what, refused.fix()));
            }
            store.database.close().await;
            Ok(findings)
        };
        let findings = looked.await.unwrap_or_else(|error| vec![database::unreachable(&error, &self.installation)]);
        database.close().await;
        findings
    }

    /// The web server, WordPress behind it, and, if both sides can answer, the comparison of their
    /// responses.
    async fn web(&self, site: Option<&Site>) -> Vec<Finding> {
        let place = site.and_then(SiteAddress::of);
        let host = place.as_ref().map(|place| place.host.as_str());
        let mut findings = vec![upstream::reachable(&self.dialer, &self.config, host).await];
        let (Some(site), Some(place)) = (site, place) else { return findings };
        if verdict(&findings) == Level::Problem {
            return findings;
        }
        let limits = async {
            let reused_for = self.config.upstream.keepalive_idle;
            let (keep_alive, body_limit) = tokio::join!(
                limits::keep_alive(&self.dialer, &place, reused_for),
                limits::body_limit(&self.dialer, &place)
            );
            vec![keep_alive, body_limit]
        };
        let limits = within(Area::Upstream, "upstream.keepalive", SITE_LIMIT, limits);
        let wordpress = async {
            let mut findings = within(Area::Upstream, "upstream.rest", SITE_LIMIT, self.wordpress(site, &place)).await;
            // Refreshes are native only after WordPress has confirmed its home URL.
            if self.refresher.sites.home(site, place.scheme).is_ok() {
                let prefix = &self.installation.table_prefix;
                let parity = parity::look(&self.refresher, &self.dialer, site, &place, prefix);
                findings.extend(within(Area::Parity, "parity.answers", SITE_LIMIT, parity).await);
                if let Some(token) = &self.how.token {
                    // Without an overall limit, since each of its steps has one. Cut off in
                    // between, the token's state would be unknown.
                    findings.extend(parity::refresh(&self.refresher, &self.dialer, site, &place, token).await);
                }
            }
            findings
        };
        let (limits, wordpress) = tokio::join!(limits, wordpress);
        findings.extend(limits);
        findings.extend(wordpress);
        findings
    }

    async fn wordpress(&self, site: &Site, place: &SiteAddress) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Some(question) = site.question(place.scheme) {
            let (finding, home) = upstream::rest_root(&self.dialer, question).await;
            findings.push(finding);
            if home.is_none() {
                return findings;
            }
        }
        findings.extend(upstream::route(&self.dialer, place).await);
        findings.push(authorization::look(&self.dialer, place).await);
        // From here on the native path knows WordPress's answer.
        if let Err(obstacle) = self.refresher.sites.ask_homes(site).await {
            findings.push(site::obstacle(&obstacle));
        }
        findings.extend(self.refresher.sites.named_hosts(site).iter().map(site::named_host));
        findings.extend(network::look(&self.refresher).await);
        findings
    }
}

/// A step that takes too long is given up and reported.
async fn within(
    area: Area,
    id: &'static str,
    limit: Duration,
    step: impl Future<Output = Vec<Finding>>,
) -> Vec<Finding> {
    timeout(limit, step).await.unwrap_or_else(|_| {
        let what = format!("looking took longer than {limit:?} and was given up; what would have been seen is not known");
        let fix = "Something does not answer, or is very slow: look at the load of the database and of PHP, and run it again.";
        vec![Finding::problem(area, id, what, fix)]
    })
}
