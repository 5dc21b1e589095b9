//! Puts the parts together. `serve` and `check` share everything up to [`serve`](crate::serve); a
//! reload makes its new parts here too.

mod lasting;
mod native;
mod watch;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::{self, Config, Verify};
use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::net::dial::Dialer;
use crate::refresh::Refresher;
use crate::refresh::cleanup::{self, Cleanup};
use crate::refresh::epochs::Epochs;
use crate::tls::Tls;
use crate::verify::kept::{self, Kept};
use crate::verify::sampler::ALWAYS;
use crate::wordpress::database::until_stopped;
use crate::wordpress::installation::{Import, Installation};
use crate::wordpress::site::Site;
pub(crate) use lasting::Lasting;
use watch::{describe, describe_host, look, watch};

/// How long the start waits for the first look at the site. A database that is down refuses at
/// once; one behind a firewall may not answer at all.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// How long rotations and analytics rows may take at the end, even after the drain's deadline.
pub const LAST_WRITES: Duration = Duration::from_secs(5);

/// How long calls that began before a reload may take: the time for a body, and for a rotation that
/// is retried.
const LAST_CALLS: Duration = Duration::from_secs(60);

/// How soon an unsuccessful look is repeated while something waits for the site.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How often a replaced native refresh checks whether its calls have ended.
const RETIRED_LOOK: Duration = Duration::from_millis(50);

/// What was read before the start. Everything in it is valid.
pub struct Parts {
    /// The configuration.
    pub config: Config,
    /// How the upstream is reached.
    pub dialer: Dialer,
    /// The certificates; `None` where nothing listens with TLS.
    pub tls: Option<Arc<Tls>>,
    /// What wp-config.php says; `None` if the refresh route is left to WordPress.
    pub installation: Option<Installation>,
}

impl Parts {
    /// Whether any listener can serve. TLS listeners cannot without a certificate.
    pub fn can_serve(&self) -> bool {
        !self.config.server.listen.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.is_usable())
    }
}

/// All parts, assembled but not yet listening.
pub struct Sidecar {
    pub(crate) config: Config,
    pub(crate) dialer: Dialer,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) native: Option<Native>,
    pub(crate) lasting: Lasting,
}

/// What the native refresh needs besides the workers. Missing if `[refresh] mode` is `forward`.
pub struct Native {
    pub(crate) refresher: Arc<Refresher>,
    epochs: Arc<Epochs>,
    made_of: MadeOf,
    /// Rotations outlive the connections that asked for them, so they have their own runtime.
    runtime: OwnRuntime,
    analytics: Option<AnalyticsWriter>,
    table_prefix: String,
    /// The file that keeps the verification; `None`: it is kept in memory only.
    kept: Option<Arc<Kept>>,
    /// Ends the task that looks at the site from time to time.
    stop: CancellationToken,
}

/// Two native refreshes with equal parts need not replace each other at a reload.
#[derive(PartialEq)]
struct MadeOf {
    wordpress: config::WordPress,
    jwt: config::Jwt,
    refresh: config::Refresh,
    cleanup: config::Cleanup,
    rate_limit: config::RateLimit,
    dialer: Dialer,
    installation: Installation,
}

/// Dropped without [`end`](Native::end), it does not wait for its tasks: a runtime must not block
/// inside another.
struct OwnRuntime(Option<Runtime>);

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// What the cleanup deletes, by the configuration and the site's settings.
fn wanted(configured: &config::Cleanup, site: &Site) -> Cleanup {
    let days = u32::try_from(configured.tokens_after_days).unwrap_or(u32::MAX);
    Cleanup {
        tokens_after_days: (days > 0).then_some(days),
        analytics_after_days: site.settings.analytics_retention_days.filter(|_| configured.analytics),
    }
}

struct AnalyticsWriter {
    task: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
}

impl Sidecar {
    /// Puts the parts together. Nothing is bound and nothing is connected yet.
    ///
    /// # Errors
    /// If the system cannot start threads.
    pub fn assemble(parts: Parts) -> io::Result<Self> {
        let Parts { config, dialer, tls, installation } = parts;
        let lasting = Lasting::new();
        let native = installation
            .map(|installation| Native::assemble(&config, dialer.clone(), installation, &lasting))
            .transpose()?;
        Ok(Sidecar { config, dialer, tls, native, lasting })
    }

    /// The metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.lasting.metrics
    }

    /// The native refresh; `None` if the route is left to WordPress.
    pub fn refresher(&self) -> Option<&Arc<Refresher>> {
        self.native.as_ref().map(|native| &native.refresher)
    }

    /// Asks the database and WordPress, and describes what they answered.
    pub fn look(&self) -> String {
        match self.native.as_ref().and_then(|native| Some((native, native.runtime.0.as_ref()?))) {
            Some((native, runtime)) => {
                runtime.block_on(async { describe(&look(&native.refresher).await, &native.refresher) })
            }
            None => LEFT_TO_WORDPRESS.to_owned(),
        }
    }

    /// How used tokens are handled, for the site's algorithm if [`Sidecar::look`] found it. `None`
    /// if WordPress handles all of them.
    pub fn used_tokens(&self) -> Option<String> {
        let Refresher { sites, reuse, .. } = &*self.native.as_ref()?.refresher;
        let site = sites.last_read().and_then(Result::ok);
        Some(reuse.describe(site.map(|site| site.signer.algorithm())))
    }

    /// Further findings of [`Sidecar::look`], one per line.
    pub fn details(&self) -> Vec<String> {
        let Some(native) = &self.native else { return Vec::new() };
        let sites = &native.refresher.sites;
        let hosts = match sites.last_read() {
            Some(Ok(site)) => sites.named_hosts(&site).iter().map(describe_host).collect(),
            _ => Vec::new(),
        };
        let apart = sites.clocks_apart().map(|apart| format!("clocks: {apart}; tokens are issued by the slowest"));
        let others = match (self.config.wordpress.home.is_some(), sites.installation().multisite) {
            (_, true) => {
                "other hosts: those of the network's sites are refreshed natively, all others are left to WordPress"
            }
            (true, _) => {
                "other hosts: left to WordPress, since wordpress.home is set; wordpress.hosts names further ones"
            }
            _ => "other hosts: only live tokens are refreshed; wordpress.hosts names those that are this site's",
        };
        let network = native.refresher.blogs.as_ref().and_then(|blogs| blogs.network().last_read());
        let network = network.map(|known| format!("network: {known}"));
        [others.to_owned()].into_iter().chain(network).chain(hosts).chain(apart).collect()
    }

    /// The database host in use, if [`Sidecar::look`] found one; `None` if only one is configured.
    pub fn database_host(&self) -> Option<String> {
        self.native.as_ref().and_then(|native| native.refresher.store.database.host_in_use())
    }

    /// How the node of a cluster stands that is used, as far as [`Sidecar::look`] found one.
    pub fn cluster_node(&self) -> Option<String> {
        let database = &self.native.as_ref()?.refresher.store.database;
        let unknown =
            || "its state cannot be read by this user (SELECT on performance_schema.replication_group_members)";
        let node = database.is_cluster().then(|| database.node_view())?;
        Some(node.map_or_else(|| unknown().to_owned(), |node| node.to_string()))
    }

    /// How refreshes are verified, and the state that `serve` would begin with. `None` if they are
    /// not verified.
    pub fn verification(&self) -> Option<String> {
        let Native { refresher, made_of, .. } = self.native.as_ref()?;
        let (verification, refresh) = (&refresher.verification, &made_of.refresh);
        let every = match refresh.verify {
            Verify::Off => return None,
            Verify::Auto => refresh.verify_every,
            Verify::Always => refresh.verify_every.min(ALWAYS as usize),
        };
        let view = verification.view();
        let kept = view.kept_in.as_ref().map_or_else(
            || "kept in memory, so that a restart begins again (refresh.state_directory)".to_owned(),
            |file| format!("kept in {file}"),
        );
        let details = [view.difference.clone(), view.progress()];
        let details: String = details.into_iter().flatten().map(|detail| format!(": {detail}")).collect();
        Some(format!(
            "{} responses of WordPress first, then one of {every} refreshes; {kept}; begins as {}{details}",
            refresh.verify_first, view.state
        ))
    }

    /// Each database host with the TLS that it negotiates when asked.
    pub fn database_tls(&self) -> Vec<String> {
        match self.native.as_ref().and_then(|native| Some((native, native.runtime.0.as_ref()?))) {
            Some((native, runtime)) => runtime.block_on(native.refresher.store.database.examine_tls()),
            None => Vec::new(),
        }
    }

    /// Tries the shared store once and describes the result; `None` if no store is configured.
    pub fn shared_store(&self) -> Option<String> {
        let native = self.native.as_ref()?;
        let (store, runtime) = (native.refresher.rate_limiter.shared()?.store(), native.runtime.0.as_ref()?);
        let (label, prefix) = (store.standing().label, store.prefix());
        Some(match runtime.block_on(store.try_once()) {
            Ok(took) => format!(
                "counted together at {label} (keys {prefix}*), which answers in {:.1} ms",
                took.as_secs_f64() * 1e3
            ),
            Err(why) => format!("counted by each sidecar by itself, since {label} cannot be used: {why}"),
        })
    }

    /// Ends what [`Sidecar::look`] began.
    pub fn end(self) {
        if let Some(native) = self.native {
            native.end(Instant::now());
        }
    }

    /// The refresher and its runtime, for commands that look at a site without serving it. `None`
    /// if `[refresh] mode` is `forward`.
    pub fn into_native(self) -> Option<(Arc<Refresher>, Runtime)> {
        let Native { refresher, mut runtime, .. } = self.native?;
        Some((refresher, runtime.0.take()?))
    }
}

/// What the log says if there is no native refresh.
pub const LEFT_TO_WORDPRESS: &str = "leaving the refresh route to WordPress: refresh.mode is \"forward\"";

impl Native {
    /// Whether one assembled from these parts would be equal.
    pub fn is_made_of(&self, config: &Config, dialer: &Dialer, installation: &Installation) -> bool {
        self.made_of == MadeOf::of(config, dialer, installation)
    }

    /// Starts looking at the site and waits for the first look, so that refreshes are native from
    /// the first request on unless the site takes too long.
    pub async fn first_look(&self) {
        if let Some(other) = &self.refresher.sites.installation().passed_over {
            let (problem, fix) = (other.problem(), other.fix());
            warn!(problem, fix, "an import of another site is not used for this one");
        }
        if let Some(Import { file, stale: Some(change), .. }) = &self.refresher.sites.installation().import {
            let import = file.display();
            warn!(%import, change, "the import is older than the files that it was made from");
        }
        let tasks = &self.refresher.tasks;
        let (looked, first_look) = oneshot::channel();
        tasks.spawn(watch(Arc::clone(&self.refresher), looked, self.stop.clone()));
        let filling = Arc::clone(&self.refresher);
        let filling = async move { filling.keep_live_tokens_filled().await };
        tasks.spawn(until_stopped(self.stop.clone(), filling));
        if self.refresher.verification.is_on() {
            let (refresher, epochs) = (Arc::clone(&self.refresher), Arc::clone(&self.epochs));
            let looking = async move { epochs.keep_looking(&refresher, || ()).await };
            tasks.spawn(until_stopped(self.stop.clone(), looking));
        }
        if let Some(recent) = self.refresher.recent.clone() {
            tasks.spawn(until_stopped(self.stop.clone(), async move { recent.keep_swept().await }));
        }
        if self.refresher.rate_limiter.shared().is_some() {
            let refresher = Arc::clone(&self.refresher);
            let connecting = async move {
                if let Some(shared) = refresher.rate_limiter.shared() {
                    shared.store().keep_connected().await;
                }
            };
            tasks.spawn(until_stopped(self.stop.clone(), connecting));
        }
        if let Some(blogs) = self.refresher.blogs.clone() {
            tasks.spawn(until_stopped(self.stop.clone(), async move { blogs.keep_swept().await }));
        }
        let standing = Arc::clone(&self.refresher.standing);
        let trying = async move { standing.keep_trying().await };
        tasks.spawn(until_stopped(self.stop.clone(), trying));
        if self.refresher.verification.is_on() {
            let refresher = Arc::clone(&self.refresher);
            let watching = async move { refresher.row_watch.keep_watching(&refresher).await };
            tasks.spawn(until_stopped(self.stop.clone(), watching));
        }
        let refresher = Arc::clone(&self.refresher);
        let keeping = async move { refresher.store.database.keep_two_ready().await };
        tasks.spawn(until_stopped(self.stop.clone(), keeping));
        if self.refresher.store.database.host_in_use().is_some() {
            let refresher = Arc::clone(&self.refresher);
            let returning =
                async move { refresher.store.database.return_to_earlier_hosts(&refresher.store.tokens).await };
            tasks.spawn(until_stopped(self.stop.clone(), returning));
        }
        let configured = self.made_of.cleanup.clone();
        if configured.tokens_after_days > 0 || configured.analytics {
            let refresher = Arc::clone(&self.refresher);
            let wanted = move || {
                let (refresher, configured) = (Arc::clone(&refresher), configured.clone());
                async move { refresher.sites.current().await.ok().map(|site| wanted(&configured, &site)) }
            };
            let cleaning = cleanup::clean(Arc::clone(&self.refresher), self.table_prefix.clone(), wanted);
            tasks.spawn(until_stopped(self.stop.clone(), cleaning));
            if let Some(blogs) = self.refresher.blogs.clone() {
                let configured = self.made_of.cleanup.clone();
                let of_site = move |refresher: Arc<Refresher>| {
                    let configured = configured.clone();
                    async move { refresher.sites.current().await.ok().map(|site| self::wanted(&configured, &site)) }
                };
                tasks.spawn(until_stopped(self.stop.clone(), async move { blogs.keep_clean(of_site).await }));
            }
        }
        if let Some(kept) = self.kept.clone() {
            tasks.spawn(kept::keep(Arc::clone(&self.refresher.verification), kept, self.stop.clone()));
        }
        // The sender lives as long as the program.
        let _ = timeout(FIRST_LOOK, first_look).await;
    }

    /// Waits up to a limit until refreshes are native, so that a reload does not interrupt them.
    pub async fn ready(&self) {
        let refresher = Arc::clone(&self.refresher);
        let latest = Instant::now() + FIRST_LOOK;
        let ready = async move {
            // A look is never cut off half way, and none is started after the limit.
            while look(&refresher).await.is_err() && Instant::now() < latest {
                sleep(LOOK_AGAIN).await;
            }
        };
        let ready = self.refresher.tasks.spawn(until_stopped(self.stop.clone(), ready));
        let _ = timeout_at(latest, ready).await;
    }

    /// Stops looking at the site.
    pub fn stop_looking(&self) {
        self.stop.cancel();
        // The replacement continues with what is known of the network's sites.
        if let Some(blogs) = &self.refresher.blogs {
            blogs.stop();
        }
    }

    /// Ends a native refresh that a reload has replaced, once its calls are answered. Blocks.
    pub fn retire(self, drain: &Drain) {
        self.stop_looking();
        let latest = Instant::now() + LAST_CALLS;
        while Arc::strong_count(&self.refresher) > 1 && Instant::now() < latest && !drain.begun.is_cancelled() {
            std::thread::sleep(RETIRED_LOOK);
        }
        self.end(Instant::now() + LAST_WRITES);
    }

    /// Ends the work behind the connections: rotations first, then the analytics rows, then the
    /// database. Blocks.
    pub fn end(self, deadline: Instant) {
        let Native { refresher, mut runtime, analytics, stop, .. } = self;
        stop.cancel();
        if let Some(blogs) = &refresher.blogs {
            blogs.stop();
        }
        let Some(runtime) = runtime.0.take() else { return };
        runtime.block_on(async {
            // A slow download may have used up the time; what is left here takes milliseconds if
            // the database answers.
            let deadline = deadline.max(Instant::now() + LAST_WRITES);
            refresher.rotations.close();
            if timeout_at(deadline, refresher.rotations.wait()).await.is_err() {
                warn!(
                    rotations = refresher.rotations.len(),
                    "leaving with rotations that did not end within drain_timeout"
                );
            }
            if let Some(AnalyticsWriter { task, stop }) = analytics {
                stop.cancel();
                if timeout_at(deadline, task).await.is_err() {
                    warn!("leaving with analytics rows that could not be written within drain_timeout");
                }
            }
            refresher.store.database.close().await;
        });
        // Tasks still running wait for a database that does not answer.
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

impl MadeOf {
    fn of(config: &Config, dialer: &Dialer, installation: &Installation) -> Self {
        MadeOf {
            wordpress: config.wordpress.clone(),
            jwt: config.jwt.clone(),
            refresh: config.refresh.clone(),
            cleanup: config.cleanup.clone(),
            rate_limit: config.rate_limit.clone(),
            dialer: dialer.clone(),
            installation: installation.clone(),
        }
    }
}
