//! Rotations in trouble, each in its own transaction: retries, and commits whose result was lost.
//!
//! A rotation that has begun ends in one of two ways: it is stored, or nothing of it remains.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use super::counters::Counters;
use super::plan::{Outcome, Plan};
use super::row_cache::RowRef;
use super::standing::{Course, Standing};
use super::store::{Resolution, Store};
use super::transaction::{self, HeldRows, Interrupted, UnknownCommit, Verdict};
use super::trial::Trial;
use super::waiting::{RotationError, Waiting, commit_by};
use crate::wordpress::database::{DatabaseError, Refusal, Session};

/// The first pause before a retry; it doubles each time, with jitter, so that two rotations that
/// collided do not collide again.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Rotations that may be in trouble at once: each may wait for a row, and holds a connection
/// meanwhile. At most half of all connections, since groups, look-ups and the site's settings need
/// theirs.
const AT_ONCE: usize = 8;

/// What retries need.
pub struct Retries {
    pub store: Arc<Store>,
    /// What the database refuses every time.
    pub standing: Arc<Standing>,
    pub counters: Arc<Counters>,
    permits: Semaphore,
}

/// The result of one attempt.
enum Attempt {
    Ended(Result<Outcome, RotationError>),
    Failed(Failure),
    /// The database [refuses](DatabaseError::refusal) it, and this attempt has written nothing.
    Refused(DatabaseError),
}

/// Why an attempt was not stored.
#[derive(Clone)]
pub struct Failure {
    pub error: DatabaseError,
    /// Whether a COMMIT was sent. Such a rotation is never left to WordPress, whatever is found out
    /// about the COMMIT.
    pub was_sent: bool,
}

impl Failure {
    /// The failure of an attempt that sent no COMMIT.
    fn unsent(error: DatabaseError) -> Self {
        Failure { error, was_sent: false }
    }
}

impl Retries {
    /// Starts without any rotation in trouble.
    pub fn new(store: Arc<Store>, standing: Arc<Standing>, counters: Arc<Counters>) -> Self {
        let permits = Semaphore::new(at_once(store.database.pool().limit));
        Retries { store, standing, counters, permits }
    }

    /// Rotates patiently: waits for a row that another transaction holds.
    pub async fn rotate(self: Arc<Self>, waiting: Waiting) {
        let result = self.try_and_try(&waiting.plan, waiting.row, waiting.deadline, None).await;
        waiting.end(result);
    }

    /// Continues a rotation whose attempt failed, alone or (`in_group`) with others.
    pub async fn after(self: Arc<Self>, waiting: Waiting, failure: Failure, in_group: bool) {
        // A group fails because of any of its rotations; which one it was shows when each is alone.
        // If a rotation was refused after something had been written and rolled back, a new
        // connection refuses it before that, since it prepares all statements first.
        let is_refused = failure.error.refusal().is_some();
        let result = if in_group || is_refused || is_worth_another_try(&failure.error) {
            self.try_and_try(&waiting.plan, waiting.row, waiting.deadline, Some(failure)).await
        } else {
            Err(RotationError::Failed(failure.error))
        };
        waiting.end(result);
    }

    /// Continues a rotation that the database refused with `error` before anything was written.
    pub async fn refused(self: Arc<Self>, waiting: Waiting, error: DatabaseError) {
        let examined = timeout_at(commit_by(waiting.deadline), self.standing.examine()).await;
        let course = match &examined {
            Ok(Trial::Refused(refused)) => Some((self.standing.course(refused.refusal), refused.refusal)),
            _ => None,
        };
        let result = match course {
            Some((Course::Leave, _)) => Err(RotationError::Refused(error)),
            Some((_, Refusal::Denied)) => Err(RotationError::Failed(error)),
            // Another server may soon accept writes, or the error may be of this connection only.
            _ => {
                self.counters.retry(error.code());
                let failure = Some(Failure::unsent(error));
                self.try_and_try(&waiting.plan, waiting.row, waiting.deadline, failure).await
            }
        };
        waiting.end(result);
    }

    /// Finds out whether a group was stored, and continues accordingly.
    pub async fn resolve(self: Arc<Self>, group: Vec<Waiting>, unknown: UnknownCommit) {
        let deadline = group.iter().map(|waiting| waiting.deadline).max().unwrap_or_else(Instant::now);
        match self.look(&unknown, deadline).await {
            Ok(Resolution::Committed) => self.hand_out(group, unknown.verdicts),
            Ok(Resolution::NotCommitted) => {
                for waiting in group {
                    self.counters.retry(None);
                    let failure = Failure { error: DatabaseError::Failed(None), was_sent: true };
                    tokio::spawn(Arc::clone(&self).after(waiting, failure, true));
                }
            }
            Err(error) => {
                for waiting in group {
                    waiting.end(Err(RotationError::Failed(error.clone())));
                }
            }
        }
    }

    /// Distributes the verdicts of a transaction, also of one whose commit was found to be stored.
    pub fn hand_out(self: &Arc<Self>, group: Vec<Waiting>, verdicts: Vec<Verdict>) {
        for (waiting, verdict) in group.into_iter().zip(verdicts) {
            match verdict {
                Verdict::Ended(outcome) => waiting.end(Ok(outcome)),
                Verdict::Unsigned(error) => waiting.end(Err(error.into())),
                Verdict::Alone => {
                    self.counters.held.add();
                    drop(tokio::spawn(Arc::clone(self).rotate(waiting)));
                }
            }
        }
    }

    /// Rolls the transaction back after an error. The connection is kept only if the server
    /// confirms it.
    pub async fn rolled_back<'a>(
        &self,
        mut session: Session<'a>,
        why: &DatabaseError,
        deadline: Instant,
    ) -> Option<Session<'a>> {
        self.store.database.heed(why);
        if matches!(why, DatabaseError::TimedOut) && session.is_silent() {
            // The server may be frozen: an idle connection would cost the next rotation its time,
            // too.
            self.store.database.distrust();
        }
        let answered = why.code().is_some_and(|code| !LOST.contains(&code)) || matches!(why, DatabaseError::Column(_));
        let is_back = answered && matches!(timeout_at(deadline, session.rollback()).await, Ok(Ok(())));
        is_back.then_some(session)
    }

    /// `failure` is that of an attempt in a group. Without it, nothing has begun.
    async fn try_and_try(
        &self,
        plan: &Plan,
        row: RowRef,
        deadline: Instant,
        failure: Option<Failure>,
    ) -> Result<Outcome, RotationError> {
        let mut begun = failure.is_some();
        let mut was_sent = failure.as_ref().is_some_and(|failure| failure.was_sent);
        let mut refused = failure.and_then(|failure| failure.error.refusal().map(|_| failure.error.code()));
        // After an error, other rotations are about to retry, too.
        let mut pause = if begun { jitter(FIRST_PAUSE) } else { Duration::ZERO };
        loop {
            sleep(pause).await;
            let (error, is_refused) = match self.once(plan, row, deadline, &mut begun, refused.is_some()).await {
                Attempt::Ended(result) => return result,
                Attempt::Failed(failure) => {
                    was_sent |= failure.was_sent;
                    (failure.error, false)
                }
                Attempt::Refused(error) => (error, !was_sent),
            };
            if !begun
                && matches!(error, DatabaseError::Connect(_) | DatabaseError::Tls(_) | DatabaseError::NoConnection)
            {
                return Err(RotationError::NotBegun(error));
            }
            pause = jitter((pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE));
            let is_again = refused == Some(error.code());
            refused = is_refused.then(|| error.code());
            let is_worth_it = is_worth_another_try(&error) || (is_refused && !is_again);
            if !is_worth_it || Instant::now() + pause >= commit_by(deadline) {
                if is_refused {
                    let judged = timeout_at(deadline, self.standing.judge(error.clone())).await;
                    return Err(judged.unwrap_or(RotationError::Failed(error)));
                }
                return Err(if begun { RotationError::Failed(error) } else { RotationError::NotBegun(error) });
            }
            self.counters.retry(error.code());
        }
    }

    /// `is_refused`: the previous attempt was refused, and this one is on a new connection.
    async fn once(&self, plan: &Plan, row: RowRef, deadline: Instant, begun: &mut bool, is_refused: bool) -> Attempt {
        let commit_by = commit_by(deadline);
        let Ok(Ok(_permit)) = timeout_at(commit_by, self.permits.acquire()).await else {
            // Otherwise the rotation has begun: its own row is held.
            *begun = true;
            return Attempt::Failed(Failure::unsent(DatabaseError::TimedOut));
        };
        let database = &self.store.database;
        let opened = transaction::open(database.fresh_transactions_after(is_refused), commit_by).await;
        let mut session = match opened {
            Ok(session) => session,
            Err(error) => return not_opened(error),
        };
        let items = [(plan, row)];
        let mut attempted = transaction::attempt(&self.store, &mut session, &items, HeldRows::Wait, commit_by).await;
        if let Err(Interrupted::AtOnce(_)) = attempted {
            drop(session);
            session = match transaction::open(database.fresh_transactions(), commit_by).await {
                Ok(session) => session,
                Err(error) => return not_opened(error),
            };
            attempted = transaction::attempt(&self.store, &mut session, &items, HeldRows::Wait, commit_by).await;
        }
        *begun = true;
        let (error, failed): (_, fn(DatabaseError) -> Attempt) = match attempted {
            Ok(verdicts) => {
                session.give_back();
                return only(verdicts);
            }
            Err(Interrupted::Refused(error)) => (error, Attempt::Refused),
            Err(Interrupted::AtOnce(error) | Interrupted::BeforeCommit(error)) => {
                (error, |error| Attempt::Failed(Failure::unsent(error)))
            }
            Err(Interrupted::RolledBack(error)) => (error, |error| Attempt::Failed(Failure { error, was_sent: true })),
            Err(Interrupted::InCommit(unknown)) => {
                drop(session);
                return match self.look(&unknown, deadline).await {
                    Ok(Resolution::Committed) => only(unknown.verdicts),
                    Ok(Resolution::NotCommitted) => {
                        Attempt::Failed(Failure { error: DatabaseError::Failed(None), was_sent: true })
                    }
                    Err(error) => Attempt::Ended(Err(RotationError::Failed(error))),
                };
            }
        };
        if let Some(session) = self.rolled_back(session, &error, deadline).await {
            session.give_back();
        }
        failed(error)
    }

    /// Checks on a new connection whether a commit was stored.
    async fn look(&self, unknown: &UnknownCommit, deadline: Instant) -> Result<Resolution, DatabaseError> {
        let node = self.store.database.node_state().map(tracing::field::display);
        warn!(rotations = unknown.traces.len(), node, "it is not known whether a commit was stored; looking");
        self.counters.ambiguous.add();
        let mut pause = FIRST_PAUSE;
        loop {
            let look = async {
                let mut session = self.store.database.fresh_causal_session().await?;
                let resolution = self.store.resolve(&mut session, &unknown.connection, &unknown.traces).await?;
                session.give_back();
                Ok::<_, DatabaseError>(resolution)
            };
            let error = match timeout_at(deadline, look).await {
                Ok(Ok(resolution)) => {
                    match resolution {
                        Resolution::Committed => self.counters.resolved_committed.add(),
                        Resolution::NotCommitted => self.counters.resolved_not_committed.add(),
                    }
                    // The node of the new connection.
                    let node = self.store.database.node_state().map(tracing::field::display);
                    info!(rotations = unknown.traces.len(), ?resolution, node, "the commit's result is known");
                    return Ok(resolution);
                }
                Ok(Err(error)) => error,
                Err(_) => DatabaseError::TimedOut,
            };
            if Instant::now() + pause >= deadline {
                self.counters.unresolved.add();
                return Err(error);
            }
            sleep(jitter(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Rotations in trouble at once, for so many connections. Pure.
fn at_once(connections: usize) -> usize {
    AT_ONCE.min(connections / 2).max(1)
}

/// If no host accepts writes, WordPress could not do better, unless it has another host.
fn not_opened(error: DatabaseError) -> Attempt {
    match error {
        DatabaseError::ReadOnly => Attempt::Refused(error),
        _ => Attempt::Failed(Failure::unsent(error)),
    }
}

/// The verdict of a transaction with one item.
fn only(verdicts: Vec<Verdict>) -> Attempt {
    match verdicts.into_iter().next() {
        Some(Verdict::Ended(outcome)) => Attempt::Ended(Ok(outcome)),
        Some(Verdict::Unsigned(error)) => Attempt::Ended(Err(error.into())),
        Some(Verdict::Alone) | None => Attempt::Failed(Failure::unsent(DatabaseError::TimedOut)),
    }
}

/// Errors after which the connection is useless: shutdown (1053), read-only (1290, 1792, 1836),
/// killed (1317, 1927), not in the cluster (1047), a statement that is no longer prepared (1243:
/// see [`STATEMENTS`](crate::wordpress::database::STATEMENTS)).
const LOST: [u16; 8] = [1047, 1053, 1243, 1290, 1317, 1792, 1836, 1927];

/// Deadlock (1213), lock wait (1205), a changed record (1020), an error during commit (1180), group
/// replication's conflict (3101).
const TRANSIENT: [u16; 5] = [1020, 1180, 1205, 1213, 3101];

fn is_worth_another_try(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::Failed(Some(code)) => TRANSIENT.contains(code) || LOST.contains(code),
        DatabaseError::Failed(None)
        | DatabaseError::NoConnection
        | DatabaseError::Connect(_)
        | DatabaseError::Tls(_)
        | DatabaseError::ReadOnly
        | DatabaseError::NotUnderstood(_)
        | DatabaseError::TimedOut => true,
        DatabaseError::Column(_) => false,
    }
}

/// Between half and one and a half times `pause`.
fn jitter(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    pause / 2 + pause.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_try_can_fix() {
        for code in [1213, 1205, 1020, 3101, 1290, 1053, 1243] {
            assert!(is_worth_another_try(&DatabaseError::Failed(Some(code))), "{code}");
        }
        assert!(is_worth_another_try(&DatabaseError::Failed(None)));
        // Data too long, a failed CHECK, no such column: the result is always the same.
        for code in [1406, 4025, 1054] {
            assert!(!is_worth_another_try(&DatabaseError::Failed(Some(code))), "{code}");
        }
    }

    #[test]
    fn trouble_leaves_half_of_the_connections() {
        for (connections, expected) in [(1, 1), (2, 1), (4, 2), (5, 2), (16, 8), (100, AT_ONCE)] {
            assert_eq!(at_once(connections), expected, "{connections}");
        }
    }

    #[test]
    fn jitter_stays_around_the_pause() {
        for _ in 0..1000 {
            let pause = jitter(Duration::from_millis(10));
            assert!((Duration::from_millis(5)..=Duration::from_millis(15)).contains(&pause), "{pause:?}");
        }
    }
}
