//! Tracks what the database refuses every time, and what happens to refreshes meanwhile.
//!
//! A rotation that fails before it has written anything, with an error that is not temporary, is
//! not retried for ever: a [`trial`](super::trial) shows whether the database refuses it on another
//! connection and on every host, too. Then refreshes are left to WordPress if WordPress may do
//! better, and get a 503 if it could not. The trial is repeated every few seconds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::store::Store;
use super::trial::{self, Refused, Trial};
use super::waiting::RotationError;
use crate::wordpress::database::{DatabaseError, Refusal};

/// The first pause before a trial is repeated, and the longest.
const FIRST_AGAIN: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_secs(4);

/// How long a trial may take: some statements, and as many again on other connections.
const LIMIT: Duration = Duration::from_secs(3);

/// For how long a trial's refusal also applies to other refused rotations, and so does a passed
/// trial that a rotation contradicted: a flood of refreshes must not become one of trials.
const HOLDS: Duration = Duration::from_secs(1);

/// For how long a database that has stopped accepting writes is taken to be in a failover. Those of
/// managed databases take up to a minute, usually half of that.
const FAILOVER: Duration = Duration::from_secs(30);

/// What happens to refreshes while rotations are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// WordPress answers them.
    Leave,
    /// 503: WordPress would fail in the same way, and lose the session.
    Unavailable,
    /// 503, without logging an obstacle: another server is about to accept writes.
    Wait,
}

impl Course {
    /// `lasted`: how long the server has accepted no writes; `None` if it never did.
    fn of(refusal: Refusal, is_sites_own: bool, lasted: Option<Duration>) -> Self {
        match refusal {
            // The sidecar's own trouble: wrong table names or lost prepared statements.
            Refusal::Absent | Refusal::Unprepared => Course::Leave,
            Refusal::ReadOnly if lasted.is_some_and(|lasted| lasted < FAILOVER) => Course::Wait,
            Refusal::ReadOnly | Refusal::Denied if is_sites_own => Course::Unavailable,
            Refusal::ReadOnly | Refusal::Denied => Course::Leave,
        }
    }

    /// For a refusal that a trial does not show: the INSERT, which a trial only prepares, fails
    /// when it runs, for instance because a trigger names a table that is gone. The plugin would
    /// fail in the same way, and lose the session.
    fn unshown(refusal: Refusal) -> Self {
        match refusal {
            // Only on this connection; WordPress prepares nothing.
            Refusal::Unprepared => Course::Leave,
            Refusal::Absent | Refusal::ReadOnly | Refusal::Denied => Course::Unavailable,
        }
    }
}

/// The obstacle to rotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    pub refused: Refused,
    pub course: Course,
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Obstacle { refused, course } = self;
        match course {
            Course::Leave => write!(f, "leaving the refresh route to WordPress: {refused}"),
            Course::Unavailable | Course::Wait => write!(f, "answering refreshes with 503: {refused}"),
        }
    }
}

/// The current state, and how it is found out.
pub struct Standing {
    store: Arc<Store>,
    state: Mutex<State>,
    /// Read by every refresh: whether [`Course::Leave`] is in effect.
    leaves: AtomicBool,
    /// The last trial. Locked while one runs.
    last: tokio::sync::Mutex<Option<Last>>,
    /// Signalled when a rotation was refused.
    refused: Notify,
}

struct Last {
    began: Instant,
    trial: Trial,
    /// It passed, but a rotation was refused all the same.
    is_contradicted: bool,
}

impl Last {
    /// Whether its result also answers a question asked at `asked`.
    fn holds(&self, asked: Instant) -> bool {
        let is_refusal = matches!(self.trial, Trial::Refused(_)) || self.is_contradicted;
        self.began >= asked || (self.began.elapsed() < HOLDS && is_refusal)
    }
}

#[derive(Default)]
struct State {
    /// What is refused, and since when.
    refused: Option<(Refused, Instant)>,
    /// Whether a trial has ever passed.
    has_passed: bool,
    /// What was last logged.
    logged: Option<Obstacle>,
}

impl Standing {
    pub fn new(store: Arc<Store>) -> Self {
        Standing {
            store,
            state: Mutex::default(),
            leaves: AtomicBool::new(false),
            last: tokio::sync::Mutex::default(),
            refused: Notify::new(),
        }
    }

    /// Why every refresh is left to WordPress at present.
    pub fn leaves(&self) -> Option<String> {
        if !self.leaves.load(Ordering::Acquire) {
            return None;
        }
        self.state().refused.as_ref().map(|(refused, _)| refused.to_string())
    }

    /// The obstacle to rotations, as logged.
    pub fn obstacle(&self) -> Option<Obstacle> {
        self.state().logged.clone()
    }

    /// Runs a first trial, and a second one only if the first was inconclusive.
    pub async fn first_trial(&self) {
        let is_known = {
            let state = self.state();
            state.has_passed || state.refused.is_some()
        };
        if !is_known {
            self.examine().await;
        }
    }

    /// Repeats the trial of what was refused, every few seconds. Never returns.
    pub async fn keep_trying(&self) {
        loop {
            self.refused.notified().await;
            let mut pause = FIRST_AGAIN;
            while self.state().refused.is_some() {
                sleep(pause).await;
                pause = (pause * 2).min(AGAIN);
                self.examine().await;
            }
        }
    }

    /// The result of a trial that begins now, or of a recent refusal.
    pub async fn examine(&self) -> Trial {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(last) = last.as_ref().filter(|last| last.holds(asked)) {
            return last.trial.clone();
        }
        let began = Instant::now();
        let trial = timeout(LIMIT, trial::run(&self.store)).await;
        let trial = trial.unwrap_or(Trial::Unknown(DatabaseError::TimedOut));
        self.note(&trial);
        *last = Some(Last { began, trial: trial.clone(), is_contradicted: false });
        trial
    }

    /// The result of a refresh whose rotation or look-up was refused with `error`. It must not have
    /// written anything.
    pub async fn judge(&self, error: DatabaseError) -> RotationError {
        let Some(refusal) = error.refusal() else { return RotationError::Failed(error) };
        let course = match self.examine().await {
            Trial::Refused(refused) => self.course(refused.refusal),
            Trial::Passed => {
                self.contradicted(&error).await;
                Course::unshown(refusal)
            }
            Trial::Unknown(_) => Course::unshown(refusal),
        };
        match course {
            Course::Leave => RotationError::Refused(error),
            Course::Unavailable | Course::Wait => RotationError::Failed(error),
        }
    }

    /// A trial passed, but a rotation was refused with `error` twice.
    async fn contradicted(&self, error: &DatabaseError) {
        let mut last = self.last.lock().await;
        if let Some(last) = last.as_mut().filter(|last| matches!(last.trial, Trial::Passed) && !last.is_contradicted) {
            last.is_contradicted = true;
            warn!(%error, "the database refuses a rotation whose statements can be prepared; such refreshes get a 503");
        }
    }

    /// What happens to refreshes that are refused for this reason.
    pub fn course(&self, refusal: Refusal) -> Course {
        self.state().course(refusal, self.store.database.is_sites_own)
    }

    fn note(&self, trial: &Trial) {
        let mut state = self.state();
        match trial {
            Trial::Unknown(_) => return,
            Trial::Passed => {
                state.has_passed = true;
                state.refused = None;
            }
            Trial::Refused(refused) => {
                let since = state.refused.take().filter(|(before, _)| before.refusal == refused.refusal);
                let since = since.map_or_else(Instant::now, |(_, since)| since);
                state.refused = Some((refused.clone(), since));
                self.refused.notify_one();
            }
        }
        let is_sites_own = self.store.database.is_sites_own;
        let obstacle = state.refused.as_ref().map(|(refused, _)| Obstacle {
            refused: refused.clone(),
            course: state.course(refused.refusal, is_sites_own),
        });
        let obstacle = obstacle.filter(|obstacle| obstacle.course != Course::Wait);
        self.leaves.store(obstacle.as_ref().is_some_and(|of| of.course == Course::Leave), Ordering::Release);
        if obstacle == state.logged {
            return;
        }
        match &obstacle {
            None => info!("the database lets rotations be run again"),
            Some(Obstacle { refused, course: Course::Leave }) => warn!(
                reason = %refused, table = refused.table, fix = refused.fix(),
                "the database refuses rotations; refreshes are left to WordPress as long as it does"
            ),
            Some(Obstacle { refused, .. }) => warn!(
                reason = %refused, table = refused.table, fix = refused.fix(),
                "the database refuses rotations, and WordPress may use it in the same way; refreshes get a 503 as long as it does"
            ),
        }
        state.logged = obstacle;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn course(&self, refusal: Refusal, is_sites_own: bool) -> Course {
        let since = self.refused.as_ref().filter(|(refused, _)| refused.refusal == refusal).map(|(_, since)| *since);
        let lasted = self.has_passed.then(|| since.map(|since| since.elapsed()).unwrap_or_default());
        Course::of(refusal, is_sites_own, lasted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_trial_does_not_show_is_not_left_to_wordpress() {
        for refusal in [Refusal::Absent, Refusal::ReadOnly, Refusal::Denied] {
            assert_eq!(Course::unshown(refusal), Course::Unavailable, "{refusal:?}");
        }
        assert_eq!(Course::unshown(Refusal::Unprepared), Course::Leave);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_a_rotation_contradicts_holds_for_a_while() {
        let began = Instant::now();
        let last = |is_contradicted| Last { began, trial: Trial::Passed, is_contradicted };
        assert!(last(false).holds(began), "it began later than it was asked for");
        tokio::time::advance(HOLDS / 2).await;
        assert!(!last(false).holds(Instant::now()) && last(true).holds(Instant::now()));
        tokio::time::advance(HOLDS).await;
        assert!(!last(true).holds(Instant::now()));
    }

    #[test]
    fn what_becomes_of_refreshes() {
        let (a_moment, long) = (Some(Duration::from_secs(1)), Some(FAILOVER));
        for (refusal, is_sites_own, lasted, course) in [
            (Refusal::Absent, true, a_moment, Course::Leave),
            (Refusal::Absent, false, None, Course::Leave),
            (Refusal::Unprepared, true, long, Course::Leave),
            (Refusal::Denied, false, a_moment, Course::Leave),
            (Refusal::Denied, true, long, Course::Unavailable),
            (Refusal::ReadOnly, true, None, Course::Unavailable),
            (Refusal::ReadOnly, true, long, Course::Unavailable),
            (Refusal::ReadOnly, false, None, Course::Leave),
            (Refusal::ReadOnly, false, long, Course::Leave),
            (Refusal::ReadOnly, false, a_moment, Course::Wait),
            (Refusal::ReadOnly, true, a_moment, Course::Wait),
        ] {
            assert_eq!(Course::of(refusal, is_sites_own, lasted), course, "{refusal:?} {is_sites_own} {lasted:?}");
        }
    }
}
