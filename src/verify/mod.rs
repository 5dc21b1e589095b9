//! Verifies continuously that native refreshes match WordPress's.
//!
//! A site's own PHP code may change what the plugin does, and a native refresh does not run that
//! code. So WordPress answers until enough of its responses equal those that the sidecar would have
//! sent. From then on a small sample of calls still goes to WordPress, and the first difference
//! leaves all calls to WordPress again, with a description of the difference. `refresh` compares;
//! this module draws the conclusions.
//!
//! Terms: an **epoch** is a period in which the site does not change, as far as its database and
//! its files show. A **comparison** is one call that WordPress answers and whose response is
//! compared. A **class** is a kind of request, as far as the response depends on it.

pub mod command;
mod counts;
pub mod difference;
pub mod epoch;
pub mod explain;
mod gate;
pub mod kept;
mod known;
pub mod origins;
pub mod sampler;
mod ticket;
pub mod verdict;
pub mod view;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, Semaphore};
use tracing::{info, warn};

use crate::config::Verify;
use crate::declared::Uncertain;
use counts::Counts;
use difference::Difference;
use explain::Explaining;
pub use gate::Gate;
use kept::Kept;
use known::Known;
use origins::Origins;
use sampler::Sampler;
pub use ticket::Ticket;
use verdict::{Class, State, Verdict};
pub use view::{View, ViewState};

/// Comparisons at once. Each costs the database some reads; WordPress only does additional work for
/// a sample.
const AT_ONCE: usize = 4;

/// The rules of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    pub verify: Verify,
    /// `[refresh] verify_first`.
    pub first: u32,
    /// `[refresh] verify_every`.
    pub every: u32,
}

impl Rules {
    /// One call in this many is compared.
    fn every(self) -> u32 {
        if self.verify == Verify::Always { self.every.min(sampler::ALWAYS) } else { self.every }
    }
}

/// The verification of one site.
pub struct Verification {
    rules: Rules,
    known: Mutex<Known>,
    /// One bit for each [`Class`] whose calls are native.
    native: AtomicU8,
    /// The state of apps' origins.
    origins: Origins,
    /// The tag of the [`Makeup`](crate::wordpress::site::Makeup) with which the epoch began; 0
    /// before the first.
    makeup: AtomicU64,
    sampler: Sampler,
    /// Samples refusals.
    refusals: Sampler,
    places: Arc<Semaphore>,
    counts: Arc<Counts>,
    /// Notified when the state has changed.
    changed: Notify,
    /// Whether another verification has taken over: see [`Verification::following`].
    is_replaced: AtomicBool,
    /// That other verification. Later results of this one are passed on to it.
    next: OnceLock<Arc<Verification>>,
    /// Whether the operator asked it to begin again, and what other sidecars found is not forgotten
    /// yet.
    begins_again: AtomicBool,
}

impl Verification {
    /// Continues from `kept`, the verdict of an earlier run, if there is one.
    pub fn new(rules: Rules, kept: Option<Verdict>) -> Arc<Self> {
        let now = unix_now();
        let verdict = kept.map_or_else(|| Verdict::new(rules.first, now), |kept| kept.resumed(now));
        Self::with(rules, Known::new(verdict), Origins::new(rules.every()), Arc::default())
    }

    /// Continues from the verdict of a verification that this process dropped a while ago. Changed
    /// files and rows begin another epoch, and nothing is native before they are checked.
    pub fn continuing(rules: Rules, verdict: Verdict) -> Arc<Self> {
        Self::with(rules, Known::new(verdict), Origins::new(rules.every()), Arc::default())
    }

    /// Continues from `before` under other rules.
    pub fn following(before: &Verification, rules: Rules) -> Arc<Self> {
        let now = unix_now();
        before.is_replaced.store(true, Ordering::Release);
        let known = before.known();
        let mut verdict = known.verdict.clone();
        if verdict.state == State::Unverified && before.rules.first != rules.first {
            verdict.again(rules.first, now);
        }
        let Known { hook, hook_since, is_scanned, closed, notes, .. } = &*known;
        let (hook, closed, notes) = (hook.clone(), closed.clone(), notes.clone());
        let (hook_since, is_scanned) = (*hook_since, *is_scanned);
        let known = Known { hook, hook_since, is_scanned, closed, notes, ..Known::new(verdict) };
        let origins = Origins::following(&before.origins, rules.every());
        let next = Self::with(rules, known, origins, Arc::clone(&before.counts));
        next.begins_again.store(before.begins_again(), Ordering::Release);
        // If it is replaced twice, the first replacement gets its results.
        let _ = before.next.set(Arc::clone(&next));
        next
    }

    fn with(rules: Rules, known: Known, origins: Origins, counts: Arc<Counts>) -> Arc<Self> {
        let verification = Verification {
            rules,
            known: Mutex::new(known),
            native: AtomicU8::new(0),
            origins,
            makeup: AtomicU64::new(0),
            sampler: Sampler::new(rules.every()),
            refusals: Sampler::new(1),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            counts,
            changed: Notify::new(),
            is_replaced: AtomicBool::new(false),
            next: OnceLock::new(),
            begins_again: AtomicBool::new(false),
        };
        verification.publish(&verification.known());
        Arc::new(verification)
    }

    /// From now on the verdict is kept in that file, by [`kept::keep`].
    pub fn keep_in(&self, kept: Option<Arc<Kept>>) {
        self.known().kept = kept;
    }

    /// The `site` of a network that log lines name.
    pub fn name(&self, site: Arc<str>) {
        self.known().site = Some(site);
    }

    /// Waits until the state has changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether another verification has taken over.
    pub fn is_replaced(&self) -> bool {
        self.is_replaced.load(Ordering::Acquire)
    }

    /// The results of comparisons.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Whether anything is verified at all.
    pub fn is_on(&self) -> bool {
        self.rules.verify != Verify::Off
    }

    /// Whether the epoch began with this makeup: if not, another is about to begin.
    pub fn is_of(&self, makeup: u64) -> bool {
        self.makeup.load(Ordering::Acquire) == makeup
    }

    /// Whether calls of `class` are native. Checked again under the row's lock: a changed verdict
    /// applies to all calls whose transaction has not begun.
    pub fn is_native(&self, class: Class) -> bool {
        !self.is_on() || self.native.load(Ordering::Acquire) & bit(class) != 0
    }

    /// Whether no refusal was compared yet.
    pub fn wants_refusal(&self) -> bool {
        self.known().verdict.wants_refusal()
    }

    /// Whether the response to this user would help to explain a difference.
    pub fn wants_sample(&self, user: u64) -> bool {
        self.is_on() && self.known().explaining.wants(user, unix_now())
    }

    /// Whether native refreshes are only waiting to be proven, for the first time or again.
    pub fn is_in_doubt(&self) -> bool {
        self.known().difference().is_none()
    }

    /// Why calls are left to WordPress.
    pub fn why(&self) -> String {
        self.known().why()
    }

    /// The plugin alone would not have written a row this way, or another difference was found that
    /// no client can cause.
    pub fn differs(&self, difference: Difference) {
        self.counts.differs(difference.kind);
        self.differs_elsewhere(difference);
    }

    /// Another sidecar of the site has found it.
    // SECURITY: there is no other way for another sidecar's word to count, and this one only takes
    // nativeness away.
    pub fn differs_elsewhere(&self, difference: Difference) {
        if let Some(next) = self.next.get() {
            next.change(|known| known.verdict.differ(difference.clone(), unix_now()));
        }
        self.change(|known| known.verdict.differ(difference, unix_now()));
    }

    /// What comparisons have found that differs, here or elsewhere.
    pub fn found(&self) -> Option<Difference> {
        match &self.known().verdict.state {
            State::Differs(difference) => Some(difference.clone()),
            State::Unverified | State::Agrees => None,
        }
    }

    /// A difference that a client may have caused, or that comes from the sidecar's own
    /// environment: an address, a country.
    pub fn note(&self, note: String) {
        if self.is_noted(&note) {
            warn!(note, "WordPress stores something else about a refresh than the sidecar would");
        }
    }

    /// Declared values are uncertain for some user, whose refreshes are left to WordPress.
    pub fn uncertain(&self, uncertain: &Uncertain) {
        if self.is_noted(&format!("{uncertain}. Refreshes of such users are WordPress's, and are not compared.")) {
            info!(%uncertain, "refreshes of some users are WordPress's");
        }
    }

    /// Whether `note` is new, and there is room for it.
    fn is_noted(&self, note: &str) -> bool {
        let mut known = self.known();
        let is_new = known.notes.len() < 16 && !known.notes.iter().any(|other| other == note);
        if is_new {
            known.notes.push(note.to_owned());
        }
        is_new
    }

    /// The site is in `epoch`, with this version of the plugin. `makeup` is the argument of
    /// [`Verification::gate`] from now on. Returns `true` if the epoch is new, so that its files
    /// must be scanned.
    pub fn enter(&self, epoch: &str, makeup: u64, plugin_version: &str) -> bool {
        let (first, mut is_new) = (self.rules.first, false);
        self.change(|known| {
            let before = known.verdict.state.clone();
            let version = std::mem::replace(&mut known.verdict.plugin_version, plugin_version.to_owned());
            let plugin_changed = !version.is_empty() && version != plugin_version;
            is_new = known.verdict.enter(epoch, plugin_changed, first, unix_now());
            if is_new {
                known.explaining = Explaining::default();
            }
            known.is_scanned &= !is_new;
            is_new && before != known.verdict.state
        });
        self.makeup.store(makeup, Ordering::Release);
        is_new
    }

    /// The result of scanning the site's files in this epoch: the first untrusted hit, if any.
    pub fn scanned(&self, hook: Option<Difference>) {
        self.change(|known| {
            let was_scanned = std::mem::replace(&mut known.is_scanned, true);
            let is_new = known.hook != hook;
            if is_new {
                (known.hook, known.hook_since) = (hook, unix_now());
            }
            is_new || (!was_scanned && known.is_native())
        });
    }

    /// Whether the files of this epoch were scanned.
    pub fn is_scanned(&self) -> bool {
        self.known().is_scanned
    }

    /// Whether WordPress refuses its REST API, and how. For operators: it decides nothing here.
    pub fn closed(&self, obstacle: Option<String>) {
        let mut known = self.known();
        if known.closed.as_ref().map(|(words, _)| words) != obstacle.as_ref() {
            known.closed = obstacle.map(|words| (words, unix_now()));
        }
    }

    /// Begins again without any knowledge of the site.
    pub fn again(&self) {
        let first = self.rules.first;
        self.change(|known| {
            known.verdict.again(first, unix_now());
            known.notes.clear();
            known.explaining = Explaining::default();
            true
        });
    }

    /// The same, as the operator asks: what other sidecars have found is forgotten, too.
    pub fn again_as_asked(&self) {
        self.begins_again.store(true, Ordering::Release);
        self.again();
    }

    /// Whether the operator asked for that, and what other sidecars have found is yet to be
    /// forgotten.
    pub fn begins_again(&self) -> bool {
        self.begins_again.load(Ordering::Acquire)
    }

    /// What other sidecars had found is forgotten.
    pub fn has_begun_again(&self) {
        self.begins_again.store(false, Ordering::Release);
    }

    /// The configuration was reloaded, which gives a site that differed another chance.
    pub fn reloaded(&self) {
        if matches!(self.known().verdict.state, State::Differs(_)) {
            self.again();
        }
    }

    /// Unix seconds at which the epoch began, if the site agrees in it: older rows may be from
    /// before a change of the site.
    pub fn agrees_since(&self) -> Option<u64> {
        let known = self.known();
        (known.verdict.state == State::Agrees).then_some(known.verdict.epoch_since)
    }

    /// Unix seconds at which the epoch began.
    pub fn epoch_since(&self) -> u64 {
        self.known().verdict.epoch_since
    }

    /// The verdict for the state file.
    pub fn verdict(&self) -> Verdict {
        self.known().verdict.clone()
    }

    /// The state for operators.
    pub fn view(&self) -> View {
        let known = self.known();
        let view = View::of(&known.verdict, known.hook.as_ref(), self.is_on());
        let is_waiting = view.state == ViewState::Agrees && !known.is_scanned;
        let view = View {
            state: if is_waiting { ViewState::Unverified } else { view.state },
            since_unix_seconds: view.since_unix_seconds.max(known.hook_since),
            files_scanned: known.is_scanned,
            notes: known.notes.clone(),
            explanation: known.explaining.explanation().cloned(),
            kept_in: known.kept.as_ref().map(|kept| kept.file().display().to_string()),
            origins: self.origins.view(),
            ..view
        };
        match &known.closed {
            Some((obstacle, since)) => view.closed(obstacle.clone(), *since),
            None => view,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Known) -> bool) {
        let mut known = self.known();
        let forgotten = known.verdict.forgotten();
        let is_new = change(&mut known);
        if known.verdict.forgotten() != forgotten {
            self.origins.clear();
        }
        if known.verdict.state == State::Agrees {
            known.explaining = Explaining::default();
        }
        self.publish(&known);
        if is_new && self.is_on() {
            known.tell();
        }
        drop(known);
        if is_new {
            self.changed.notify_one();
        }
    }

    fn publish(&self, known: &Known) {
        let classes = Class::ALL.into_iter().filter(|class| known.is_clear() && known.verdict.knows(*class));
        self.native.store(classes.map(bit).fold(0, |all, one| all | one), Ordering::Release);
        self.sampler.hurry(known.verdict.is_suspicious());
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bit(class: Class) -> u8 {
    1 << class as u8
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
