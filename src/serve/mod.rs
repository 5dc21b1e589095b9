//! The running program: it handles signals, reloads what can change without a restart, keeps the
//! service manager informed, and drains at the end.
//!
//! All of this runs on one thread, the front, together with the accept loops. Requests are served
//! by the workers.

pub mod notify;
mod reload;
mod self_check;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::{self, Admin, InForce, Subject};
use crate::admission::per_address::PerAddress;
use crate::assemble::{LAST_WRITES, LEFT_TO_WORDPRESS, Lasting, Native, Parts, Sidecar};
use crate::config::{Config, Effective, Faults};
use crate::drain::Drain;
use crate::exchange::context::Settings;
use crate::listen::Listener;
use crate::listen::listeners::{Bound, HandOver, Listeners};
use crate::metrics::{Level, Shard};
use crate::net::dial::Dialer;
use crate::tls::{self, Tls};
use crate::worker::{self, Work};
use self_check::Pulse;

/// How often the service manager gets the number of connections.
const STATUS: Duration = Duration::from_secs(10);

/// How often during a drain, together with a request for more time.
const DRAINING_STATUS: Duration = Duration::from_secs(1);

/// How soon listening with TLS is tried again, if the certificate is there but the address cannot
/// be bound.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// The part of a drain's time that is kept for connections accepted during the drain: their
/// requests are short, or may be cut off.
const LAST_COMERS: Duration = Duration::from_secs(5);

/// Reads the whole configuration again, as at the start.
pub type Load = Arc<dyn Fn() -> Result<Parts, Faults> + Send + Sync>;

/// Serves requests on `bound` and the admin pages on `admin` until the future that `shutdown`
/// returns completes, then drains. Returns when everything has ended. `shutdown` is called inside a
/// runtime, before anything else. On SIGHUP, `load` supplies the new parts.
///
/// # Errors
/// If the system gives no threads or signals, or if a listener fails for good.
pub fn serve<S: Future<Output = ()> + 'static>(
    sidecar: Sidecar,
    bound: Vec<Bound>,
    admin: Option<Listener>,
    load: Load,
    shutdown: impl FnOnce() -> io::Result<S>,
) -> io::Result<()> {
    let drain = Drain::new(sidecar.config.shutdown.drain_timeout);
    let front = Builder::new_current_thread().enable_all().build()?;
    let admin = admin.map(|listener| start_admin(&sidecar, listener, &drain, front.handle())).transpose()?;
    let (native, retired, admin, served) = front.block_on(async {
        // From here on these signals no longer end the process by themselves.
        let mut signals = Signals { end: Box::pin(shutdown()?), hangup: signal(SignalKind::hangup())? };
        let mut serving = Serving::start(sidecar, bound, admin, load, drain.clone(), &mut signals).await?;
        let served = match drain.begun.is_cancelled() {
            true => Ok(()),
            false => serving.until_the_end(&mut signals).await,
        };
        let (native, retired, admin) = serving.drain().await;
        io::Result::Ok((native, retired, admin, served))
    })?;
    if let Some(native) = native {
        native.end(drain.end());
    }
    for thread in retired {
        if thread.join().is_err() {
            error!("the parts that a reload replaced ended in a panic");
        }
    }
    // Until here the status names what the start waits for.
    if let Some(admin) = admin {
        admin.end();
    }
    info!("ended");
    served
}

fn start_admin(sidecar: &Sidecar, listener: Listener, drain: &Drain, accepting: &Handle) -> io::Result<Admin> {
    let in_force = InForce {
        config: Arc::new(sidecar.config.clone()),
        effective: sidecar.config.effective().clone(),
        dialer: sidecar.dialer.clone(),
        refresher: sidecar.native.as_ref().map(|native| Arc::clone(&native.refresher)),
        tls: sidecar.tls.clone(),
    };
    let Lasting { metrics, refreshes, .. } = &sidecar.lasting;
    let (metrics, refreshes) = (Arc::clone(metrics), Arc::clone(refreshes));
    let subject = Subject::new(in_force, metrics, refreshes, drain.clone(), accepting.clone());
    admin::start(listener, subject)
}

struct Signals {
    end: Pin<Box<dyn Future<Output = ()>>>,
    hangup: Signal,
}

struct Serving {
    config: Arc<Config>,
    /// The configuration of the start: some keys take effect only there.
    started: Effective,
    dialer: Dialer,
    tls: Option<Arc<Tls>>,
    native: Option<Native>,
    lasting: Lasting,
    admin: Option<Admin>,
    /// The counters of this thread.
    metrics: Arc<Shard>,
    per_address: Arc<PerAddress>,
    permits: Permits,
    workers: Vec<UnboundedSender<Work>>,
    threads: Vec<JoinHandle<()>>,
    listeners: Listeners,
    pulse: Arc<Pulse>,
    /// Ends the task that watches the certificates' files.
    watching: CancellationToken,
    /// Notified when that task has found new ones.
    renewed: Arc<Notify>,
    retired: Vec<JoinHandle<()>>,
    load: Load,
    drain: Drain,
}

impl Serving {
    async fn start(
        sidecar: Sidecar,
        bound: Vec<Bound>,
        admin: Option<Admin>,
        load: Load,
        drain: Drain,
        signals: &mut Signals,
    ) -> io::Result<Self> {
        let Sidecar { config, dialer, tls, native, lasting } = sidecar;
        match &native {
            Some(native) => tokio::select! {
                () = native.first_look() => {}
                () = &mut signals.end => drain.begin(),
            },
            None => info!("{LEFT_TO_WORDPRESS}"),
        }
        let config = Arc::new(config);
        let per_address = PerAddress::new(0, 0, 0, 0);
        let settings = settings(&config, &dialer, tls.as_deref(), native.as_ref(), &per_address);
        let (workers, threads) = (0..config.server.workers)
            .map(|number| worker::start(number, settings.clone(), lasting.metrics.shard(), drain.clone()))
            .collect::<io::Result<(Vec<_>, Vec<_>)>>()?;
        let metrics = lasting.metrics.shard();
        let permits = Permits::new(config.server.max_connections);
        let listeners = Listeners::start(
            bound,
            &config,
            tls.as_deref(),
            permits.semaphore(),
            Arc::clone(&metrics),
            to_workers(workers.clone()),
        );
        let renewed = Arc::default();
        let pulse = Arc::new(Pulse::new(listeners.orders(), &workers));
        let serving = Serving {
            started: config.effective().clone(),
            config,
            dialer,
            watching: watch_certificates(tls.as_ref(), &metrics, &renewed, "certificates are in effect"),
            renewed,
            metrics,
            tls,
            native,
            lasting,
            admin,
            per_address,
            permits,
            workers,
            threads,
            listeners,
            pulse,
            retired: Vec::new(),
            load,
            drain,
        };
        if let Some(interval) = notify::watchdog() {
            let pulse = Arc::clone(&serving.pulse);
            let begun = serving.drain.begun.clone();
            tokio::spawn(async move { begun.run_until_cancelled(keep_alive(pulse, interval)).await });
        }
        notify::ready(&serving.status());
        Ok(serving)
    }

    async fn until_the_end(&mut self, signals: &mut Signals) -> io::Result<()> {
        let mut status = interval(STATUS);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut signals.end => return Ok(()),
                error = self.listeners.failed() => return Err(error),
                _ = signals.hangup.recv() => tokio::select! {
                    () = self.reload() => {}
                    () = &mut signals.end => return Ok(()),
                },
                () = self.renewed.notified() => self.listen_with_tls().await,
                _ = status.tick(), if notify::is_wanted() => notify::status(&self.status()),
            }
        }
    }

    /// Opens the listeners that had to wait for a certificate, once there is one.
    async fn listen_with_tls(&mut self) {
        let Some(tls) = self.tls.clone().filter(|tls| tls.is_usable()) else { return };
        if !self.listeners.are_incomplete(&self.config) {
            return;
        }
        match self.listeners.prepare(&self.config, Some(&tls)).await {
            Ok(bound) => {
                self.listeners.change(bound, &self.config, Some(&tls));
                self.pulse.change(self.listeners.orders());
            }
            Err(faults) => {
                warn!(
                    faults = faults.one_line(),
                    "a certificate is there, and still nothing listens with TLS; trying again"
                );
                let renewed = Arc::clone(&self.renewed);
                tokio::spawn(async move {
                    sleep(LISTEN_AGAIN).await;
                    renewed.notify_one();
                });
            }
        }
    }

    async fn drain(self) -> (Option<Native>, Vec<JoinHandle<()>>, Option<Admin>) {
        info!("draining: no new connections, those in flight may end");
        notify::stopping();
        self.drain.begin();
        let Serving { mut listeners, admin, drain, native, lasting, workers, threads, retired, watching, .. } = self;
        watching.cancel();
        if let Some(native) = &native {
            native.stop_looking();
        }
        let end = drain.end();
        let ended = async {
            listeners.close_own();
            if !listeners.is_empty() {
                drain.earlier.close();
                let limit = end.saturating_duration_since(Instant::now());
                tokio::select! {
                    () = drain.earlier.wait() => {}
                    () = sleep_until(end - LAST_COMERS.min(limit / 2)) => {}
                }
            }
            listeners.close().await;
            drop(workers);
            join(threads).await;
        };
        let telling = async {
            loop {
                let left = end.saturating_duration_since(Instant::now());
                let status = format!("draining: {} connections, at most {left:.0?} more", open(&lasting));
                notify::draining(left + 2 * LAST_WRITES, &status);
                sleep(DRAINING_STATUS).await;
            }
        };
        tokio::select! {
            () = ended => {}
            () = telling => {}
        }
        notify::draining(2 * LAST_WRITES, "ending: what is written to the database");
        (native, retired, admin)
    }

    fn status(&self) -> String {
        let (addresses, upstream) = (self.listeners.describe(), &self.config.upstream.url);
        format!("serving {upstream} on {addresses}: {} connections", open(&self.lasting))
    }
}

fn open(lasting: &Lasting) -> u64 {
    lasting.metrics.level(Level::Connections)
}

fn settings(
    config: &Arc<Config>,
    dialer: &Dialer,
    tls: Option<&Tls>,
    native: Option<&Native>,
    per_address: &PerAddress,
) -> Settings {
    let server = &config.server;
    Settings {
        config: Arc::clone(config),
        dialer: dialer.clone(),
        acceptor: tls.map(Tls::acceptor),
        refresher: native.map(|native| Arc::clone(&native.refresher)),
        per_address: per_address.with_limits(
            server.max_connections_per_address,
            server.max_exchanges_per_address,
            server.exchanges_of_one(),
            server.max_early_bodies_per_address,
        ),
    }
}

/// Gives connections to the workers in turn.
fn to_workers(workers: Vec<UnboundedSender<Work>>) -> HandOver {
    let turn = AtomicUsize::new(0);
    Arc::new(move |accepted| {
        let worker = workers.get(turn.fetch_add(1, Ordering::Relaxed) % workers.len().max(1));
        match worker.map(|worker| worker.send(Work::Serve(accepted))) {
            Some(Ok(())) => Ok(()),
            _ => Err(io::Error::other("a worker has ended")),
        }
    })
}

/// Watches the certificates' files until the returned token is cancelled.
fn watch_certificates(
    tls: Option<&Arc<Tls>>,
    metrics: &Arc<Shard>,
    renewed: &Arc<Notify>,
    message: &str,
) -> CancellationToken {
    let stop = CancellationToken::new();
    if let Some(tls) = tls {
        match tls.is_usable() {
            true => info!(certificates = tls.describe(), "{message}"),
            false => warn!("nothing listens with TLS until a pair of tls.certificates can be read"),
        }
        for warning in tls.warnings() {
            warn!("{warning}");
        }
        let (tls, metrics, renewed) = (Arc::clone(tls), Arc::clone(metrics), Arc::clone(renewed));
        tokio::spawn(tls::reload_when_changed(tls, metrics, renewed, stop.clone()));
    }
    stop
}

/// Reports to the service manager twice per interval that the program is alive, if the self-check
/// confirms it.
async fn keep_alive(pulse: Arc<Pulse>, interval: Duration) {
    let limit = interval / 4;
    loop {
        match pulse.beats(limit).await {
            Ok(()) => notify::alive(),
            Err(silent) => warn!(%silent, "the self-check failed; the watchdog gets no sign of life"),
        }
        sleep(interval / 2).await;
    }
}

async fn join(threads: Vec<JoinHandle<()>>) {
    let joined = tokio::task::spawn_blocking(move || {
        for thread in threads {
            if thread.join().is_err() {
                error!("a worker ended in a panic");
            }
        }
    });
    if let Err(error) = joined.await {
        error!(%error, "the workers could not be waited for");
    }
}

/// The permits of `[server] max_connections`.
struct Permits {
    free: Arc<Semaphore>,
    limit: usize,
}

impl Permits {
    fn new(limit: usize) -> Self {
        Permits { free: Arc::new(Semaphore::new(limit)), limit }
    }

    fn semaphore(&self) -> Arc<Semaphore> {
        Arc::clone(&self.free)
    }

    /// A lower limit applies to new connections; open ones stay.
    fn change(&mut self, limit: usize) {
        if let Some(more) = limit.checked_sub(self.limit) {
            self.free.add_permits(more);
        } else {
            let fewer = u32::try_from(self.limit - limit).unwrap_or(u32::MAX);
            let free = Arc::clone(&self.free);
            tokio::spawn(async move {
                if let Ok(permits) = free.acquire_many_owned(fewer).await {
                    permits.forget();
                }
            });
        }
        self.limit = limit;
    }
}
