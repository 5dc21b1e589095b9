//! The listener for operators: a status page, the same as JSON, metrics, and two health checks.
//!
//! It has its own thread, few connections and short time limits, so that it cannot affect the
//! site's clients. It never changes anything, never shows a secret, and does not answer other web
//! pages.

mod answer;
pub mod exposition;
mod findings;
mod gather;
mod guard;
mod health;
mod history;
mod network;
mod page;
mod process;
mod server;
mod status;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::runtime::{Builder, Handle};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{self, Config, Effective, UnixSockets};
use crate::drain::Drain;
use crate::last_seen::LastSeen;
use crate::listen::{self, Listener};
use crate::metrics::Metrics;
use crate::net::dial::Dialer;
use crate::refresh::Refresher;
use crate::refresh::counters::Counters;
use crate::tls::Tls;
use answer::Answers;
use exposition::Exposed;
use history::{History, Reading, STEP};

/// What the responses are about.
pub struct Subject {
    pub metrics: Arc<Metrics>,
    pub refreshes: Arc<Counters>,
    pub drain: Drain,
    /// The runtime of the accept loop.
    pub accepting: Handle,
    in_force: Mutex<Arc<InForce>>,
    upstream: LastSeen,
    history: History,
}

/// The part that a reload may change.
pub struct InForce {
    pub config: Arc<Config>,
    /// The configuration for people, with the keys that need a restart as they were at the start.
    pub effective: Effective,
    pub dialer: Dialer,
    /// The native refresh; `None` if `[refresh] mode` is `forward`.
    pub refresher: Option<Arc<Refresher>>,
    /// The certificates; `None` if nothing listens with TLS.
    pub tls: Option<Arc<Tls>>,
}

impl InForce {
    /// How the upstream is reached, with the host of the home URL if known. `None` if that is
    /// needed and the database was not read yet.
    fn way_home(&self) -> Option<(Dialer, Option<String>)> {
        let sites = self.refresher.as_ref().map(|refresher| &refresher.sites);
        let home = sites.and_then(|sites| sites.home_host());
        let will_be_known = home.is_none() && sites.is_some_and(|sites| !sites.is_database_away());
        (!self.dialer.goes_by_hosts() || !will_be_known).then(|| (self.dialer.clone(), home))
    }
}

impl Subject {
    pub fn new(
        in_force: InForce,
        metrics: Arc<Metrics>,
        refreshes: Arc<Counters>,
        drain: Drain,
        accepting: Handle,
    ) -> Self {
        let (upstream, history) = (LastSeen::default(), History::default());
        Subject { metrics, refreshes, drain, accepting, in_force: Mutex::new(Arc::new(in_force)), upstream, history }
    }

    fn exposed(&self) -> Exposed {
        let (in_force, metrics) = (self.in_force(), Arc::clone(&self.metrics));
        let (refresher, tls) = (in_force.refresher.clone(), in_force.tls.clone());
        Exposed { metrics, refreshes: Arc::clone(&self.refreshes), refresher, tls }
    }

    fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.in_force.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Opens the listener; `None` if it is off, or if it was not configured and the default address is
/// in use.
///
/// # Errors
/// The system's error, if `[admin] listen` was configured.
pub fn bind(config: &config::Admin, unix: &UnixSockets) -> io::Result<Option<Listener>> {
    let Some(address) = &config.listen else { return Ok(None) };
    match listen::bind(address, unix, false) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if config.listen_is_given => Err(error),
        Err(error) => {
            warn!(
                %address, %error,
                "no status page and no metrics: the default address cannot be had, perhaps by another sidecar; set \
                 admin.listen to another one, or to \"off\""
            );
            Ok(None)
        }
    }
}

/// The thread of the listener. Ends with [`Admin::end`].
pub struct Admin {
    subject: Arc<Subject>,
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

/// Answers on `listener`.
///
/// # Errors
/// If the system cannot start the thread or its runtime.
pub fn start(listener: Listener, subject: Subject) -> io::Result<Admin> {
    let subject = Arc::new(subject);
    let stop = CancellationToken::new();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (stopped, about) = (stop.clone(), Arc::clone(&subject));
    let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
        runtime.block_on(stopped.run_until_cancelled_owned(work(listener, about)));
    })?;
    Ok(Admin { subject, stop, thread })
}

impl Admin {
    /// Takes the new parts after a reload.
    pub fn change(&self, in_force: InForce) {
        *self.subject.in_force.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(in_force);
    }

    /// Closes the listener and its connections.
    pub fn end(self) {
        self.stop.cancel();
        if self.thread.join().is_err() {
            error!("the admin listener ended in a panic");
        }
    }
}

async fn work(listener: Listener, subject: Arc<Subject>) {
    info!(address = %listener.address, "status page and metrics");
    let answers = Arc::new(Answers::new(Arc::clone(&subject)));
    let mut answered = gather::answers_of_upstream(&subject);
    let is_heard_from = || {
        let before = std::mem::replace(&mut answered, gather::answers_of_upstream(&subject));
        answered > before
    };
    tokio::join!(
        server::serve(listener, answers),
        sample(&subject),
        health::watch_upstream(|| subject.in_force().way_home(), &subject.upstream, is_heard_from),
    );
}

/// Records the history.
async fn sample(subject: &Subject) {
    let mut steps = interval(STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let at = steps.tick().await;
        subject.history.push(Reading::take(&subject.metrics, &subject.refreshes, Instant::from(at)));
    }
}
