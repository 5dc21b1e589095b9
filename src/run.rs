//! Puts the parts together, serves, and drains. `serve` and `check` share everything up to [`Sidecar::serve`].

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::admin::{self, Admin};
use crate::client_addr::Scheme;
use crate::config::{self, Config, ReuseDetection};
use crate::drain::Drain;
use crate::forward::dial::Dialer;
use crate::listen::{self, Accepted, Listener};
use crate::metrics::Metrics;
use crate::per_address::PerAddress;
use crate::refresh::Refresher;
use crate::refresh::analytics::{self, Analytics};
use crate::refresh::cleanup::{self, Cleanup};
use crate::refresh::country::Countries;
use crate::refresh::group::Groups;
use crate::refresh::lookup::LookUps;
use crate::refresh::map::Map;
use crate::refresh::rate_limit::RateLimiter;
use crate::refresh::replay::Reuse;
use crate::refresh::store::Store;
use crate::refresh::tokens::Tokens;
use crate::tls::{self, Tls};
use crate::wordpress::database::Database;
use crate::wordpress::home::{Home, Homes};
use crate::wordpress::installation::Installation;
use crate::wordpress::site::{NotNative, Site, Sites};
use crate::worker;

/// How often the site is looked at even without a request: what is known of it stays fresh, and the log tells of changes.
const LOOK: Duration = Duration::from_secs(5);

/// How long the start waits for the first look: a database that is away refuses at once, one behind a firewall may not.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// What rotations and analytics rows get at the end, though the drain's deadline has passed.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// Threads of the database side. One waits for the disk while the other prepares the next statement.
const DATABASE_THREADS: usize = 2;

/// What was read before the start, all of it found good.
pub struct Parts {
    /// The configuration.
    pub config: Config,
    /// The way to the upstream.
    pub dialer: Dialer,
    /// The certificates; `None` where nothing listens with TLS.
    pub tls: Option<Arc<Tls>>,
    /// What wp-config.php says; `None` where the refresh route is left to WordPress.
    pub installation: Option<Installation>,
}

/// All parts, put together and not yet listening.
pub struct Sidecar {
    config: Config,
    dialer: Dialer,
    tls: Option<Arc<Tls>>,
    native: Option<Native>,
    metrics: Arc<Metrics>,
}

/// What the native refresh needs besides the workers; not there where `[refresh] mode` is `forward`.
struct Native {
    refresher: Arc<Refresher>,
    /// Rotations outlive the connections that asked for them, so they have a runtime of their own.
    runtime: Runtime,
    analytics: Option<AnalyticsWriter>,
    table_prefix: String,
}

/// What the cleanup is to delete, as the configuration and the site's settings say.
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
    /// Puts the parts together. Nothing is bound, and nobody is asked yet.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn assemble(parts: Parts) -> io::Result<Self> {
        let Parts { config, dialer, tls, installation } = parts;
        let metrics = Metrics::new();
        let native =
            installation.map(|found| Native::assemble(&config, dialer.clone(), found, &metrics)).transpose()?;
        if let Some(tls) = &tls {
            metrics.observe_tls(tls);
        }
        Ok(Sidecar { config, dialer, tls, native, metrics })
    }

    /// What it counts.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Asks the database and WordPress, and says what was found.
    pub fn look(&self) -> String {
        match &self.native {
            Some(native) => native.runtime.block_on(async { describe(&look(&native.refresher).await) }),
            None => "leaving the refresh route to WordPress: refresh.mode is \"forward\"".to_owned(),
        }
    }

    /// The host that the database is used at, as far as [`Sidecar::look`] found one; `None` where there is only one.
    pub fn database_host(&self) -> Option<String> {
        self.native.as_ref().and_then(|native| native.refresher.store.database.host_in_use())
    }

    /// What answers refreshes, and the runtime that it lives in, for those who look at a site without serving it. `None`
    /// where `[refresh] mode` is `forward`.
    pub fn into_native(self) -> Option<(Arc<Refresher>, Runtime)> {
        self.native.map(|native| (native.refresher, native.runtime))
    }

    /// Serves on `listeners`, and what operators want to know on `admin`, until the future that `shutdown` makes is there,
    /// then drains. Returns when everything has ended. `shutdown` is called inside a runtime, before anything else.
    ///
    /// # Errors
    /// When the system gives no threads or no signals, or a listener fails for good.
    pub fn serve<S: Future<Output = ()>>(
        self,
        listeners: Vec<Listener>,
        admin: Option<Listener>,
        shutdown: impl FnOnce() -> io::Result<S>,
    ) -> io::Result<()> {
        let drain = Drain::new(self.config.shutdown.drain_timeout);
        let front = Builder::new_current_thread().enable_all().build()?;
        let shutdown = front.block_on(async { shutdown() })?;
        let admin = admin.map(|listener| self.start_admin(listener, &drain, front.handle())).transpose()?;
        let (senders, threads) = self.start_workers(&drain)?.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
        let served = front.block_on(async {
            let mut shutdown = pin!(shutdown);
            tokio::select! {
                () = self.first_look(&drain) => {}
                () = shutdown.as_mut() => drain.begin(),
            }
            accept_until(listeners, &self, senders, shutdown, &drain).await
        });
        for thread in threads {
            if thread.join().is_err() {
                error!("a worker ended in a panic");
            }
        }
        if let Some(native) = self.native {
            native.end(&drain);
        }
        // Until here it says what is waited for.
        if let Some(admin) = admin {
            admin.end();
        }
        info!("ended");
        served
    }

    fn start_admin(&self, listener: Listener, drain: &Drain, accepting: &Handle) -> io::Result<Admin> {
        let in_force = admin::InForce {
            config: Arc::new(self.config.clone()),
            dialer: self.dialer.clone(),
            refresher: self.native.as_ref().map(|native| Arc::clone(&native.refresher)),
            tls: self.tls.clone(),
        };
        let subject = admin::Subject::new(in_force, Arc::clone(&self.metrics), drain.clone(), accepting.clone());
        admin::start(listener, subject)
    }

    /// Refreshes are native from the first request on, unless the site takes its time.
    async fn first_look(&self, drain: &Drain) {
        let Some(native) = &self.native else { return info!("{}", self.look()) };
        let (looked, first_look) = oneshot::channel();
        native.runtime.spawn(watch(Arc::clone(&native.refresher), looked, drain.begun.clone()));
        let filling = Arc::clone(&native.refresher);
        let filling = async move { filling.keep_map_filled().await };
        native.runtime.spawn(drain.begun.clone().run_until_cancelled_owned(filling));
        if native.refresher.store.database.host_in_use().is_some() {
            let refresher = Arc::clone(&native.refresher);
            let returning = async move { refresher.store.database.return_to_earlier_hosts().await };
            native.runtime.spawn(drain.begun.clone().run_until_cancelled_owned(returning));
        }
        if self.config.cleanup.tokens_after_days > 0 || self.config.cleanup.analytics {
            let (refresher, configured) = (Arc::clone(&native.refresher), self.config.cleanup.clone());
            let wanted = move || {
                let (refresher, configured) = (Arc::clone(&refresher), configured.clone());
                async move { refresher.sites.current().await.ok().map(|site| wanted(&configured, &site)) }
            };
            let cleaning = cleanup::clean(Arc::clone(&native.refresher), native.table_prefix.clone(), wanted);
            native.runtime.spawn(drain.begun.clone().run_until_cancelled_owned(cleaning));
        }
        // The sender is dropped only with the program.
        let _ = timeout(FIRST_LOOK, first_look).await;
    }

    fn start_workers(&self, drain: &Drain) -> io::Result<Vec<(UnboundedSender<Accepted>, JoinHandle<()>)>> {
        let refresher = self.native.as_ref().map(|native| Arc::clone(&native.refresher));
        let limit = self.config.server.max_connections_per_address;
        let per_address = (limit > 0).then(|| PerAddress::new(limit));
        (0..self.config.server.workers)
            .map(|number| {
                let (dialer, refresher) = (self.dialer.clone(), refresher.clone());
                let metrics = self.metrics.shard();
                worker::start(number, &self.config, dialer, refresher, per_address.clone(), metrics, drain.clone())
            })
            .collect()
    }
}

impl Native {
    fn assemble(config: &Config, dialer: Dialer, installation: Installation, metrics: &Metrics) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(DATABASE_THREADS)
            .thread_name("database")
            .enable_all()
            .build()?;
        let tasks = runtime.handle().clone();
        let table_prefix = installation.table_prefix.clone();
        let store = Arc::new(Store::new(
            Database::new(installation.database.clone()),
            &table_prefix,
            &installation.users_table,
        ));
        let homes = Homes::new(dialer, tasks.clone());
        let countries = Countries::new(config.refresh.country_database.clone(), installation.plugins_dir.clone());
        let sites = Sites::new(installation, config.jwt.clone(), Arc::clone(&store), homes, tasks.clone());
        let (analytics, writer) = if config.refresh.analytics {
            let (analytics, events) = Analytics::new(countries);
            let stop = CancellationToken::new();
            let task =
                runtime.spawn(analytics::write_behind(events, Arc::clone(&store), table_prefix.clone(), stop.clone()));
            (Some(analytics), Some(AnalyticsWriter { task, stop }))
        } else {
            (None, None)
        };
        let reuse = Reuse {
            interval: config.refresh.reuse_interval,
            revoke_family: config.refresh.reuse_detection == ReuseDetection::RevokeFamily,
        };
        let counters = Arc::clone(&metrics.refresh);
        let tokens = Arc::new(Tokens::new(config.refresh.known_tokens));
        let map = Arc::new(Map::new(Arc::clone(&store), Arc::clone(&tokens), reuse.told_for()));
        let within = runtime.enter();
        let look_ups = LookUps::start(Arc::clone(&store), tokens, map, Arc::clone(&counters));
        let groups = Groups::start(Arc::clone(&store), Arc::clone(&counters));
        drop(within);
        let refresher = Refresher {
            fields: config.refresh.response_fields,
            hosts: config.wordpress.hosts.clone(),
            sites,
            store,
            look_ups,
            groups,
            reuse,
            counters,
            rate_limiter: RateLimiter::new(),
            analytics,
            tasks,
            rotations: TaskTracker::new(),
        };
        let refresher = Arc::new(refresher);
        metrics.observe_refresher(&refresher);
        Ok(Native { refresher, runtime, analytics: writer, table_prefix })
    }

    /// What goes on behind the connections ends after them: rotations, then the analytics rows, then the database.
    fn end(self, drain: &Drain) {
        let Native { refresher, runtime, analytics, .. } = self;
        runtime.block_on(async {
            // A slow download may have used the time up; what is left here takes moments, if the database answers.
            let deadline = drain.deadline().await.max(Instant::now() + LAST_WRITES);
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
        // Tasks that are still there wait for a database that does not answer.
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

async fn accept_until(
    listeners: Vec<Listener>,
    sidecar: &Sidecar,
    senders: Vec<UnboundedSender<Accepted>>,
    shutdown: impl Future<Output = ()>,
    drain: &Drain,
) -> io::Result<()> {
    let Sidecar { config, tls, metrics, .. } = sidecar;
    let permits = Arc::new(Semaphore::new(config.server.max_connections));
    let mut accepting = JoinSet::new();
    let metrics = metrics.shard();
    if let Some(tls) = tls {
        info!(certificates = tls.describe(), "certificates are in effect");
        accepting.spawn(tls::reload_when_changed(Arc::clone(tls), Arc::clone(&metrics), drain.begun.clone()));
    }
    for listener in listeners {
        info!(address = %listener.address, tls = listener.tls.is_some(), upstream = %config.upstream.url, "listening");
        let (permits, metrics) = (Arc::clone(&permits), Arc::clone(&metrics));
        accepting.spawn(listen::accept(listener, permits, senders.clone(), metrics, drain.begun.clone()));
    }
    drop(senders);
    let served = tokio::select! {
        () = drain.begun.cancelled() => Ok(()),
        () = shutdown => Ok(()),
        Some(ended) = accepting.join_next() => ended.unwrap_or_else(|error| Err(io::Error::other(error))),
    };
    info!("draining: no new connections, those in flight may end");
    drain.begin();
    // The listeners close here: a client that connects now is refused and goes elsewhere.
    while accepting.join_next().await.is_some() {}
    served
}

type Found = Result<(Arc<Site>, Home), Arc<NotNative>>;

async fn look(refresher: &Refresher) -> Found {
    let site = refresher.sites.current().await?;
    let home = refresher.sites.ask_home(&site, Scheme::Http).await?;
    Ok((site, home))
}

fn describe(found: &Found) -> String {
    match found {
        Ok((site, home)) => format!(
            "refreshing natively: home {}, algorithm {}, plugin {}",
            home.url,
            site.signer.algorithm(),
            site.plugin
        ),
        Err(why) => format!("leaving the refresh route to WordPress: {why}"),
    }
}

/// Looks at the site now and then, and tells the log when something changed.
async fn watch(refresher: Arc<Refresher>, looked: oneshot::Sender<()>, stop: CancellationToken) {
    let mut last = String::new();
    let mut looked = Some(looked);
    loop {
        let found = look(&refresher).await;
        let now = describe(&found);
        if now != last {
            match found {
                Ok(_) => info!("{now}"),
                Err(_) => warn!("{now}"),
            }
            last = now;
        }
        if let Some(looked) = looked.take() {
            let _ = looked.send(());
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(LOOK) => {}
        }
    }
}
