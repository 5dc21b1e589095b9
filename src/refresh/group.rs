//! Gathers waiting rotations into one transaction.
//!
//! A few workers, each with its own connection, take the waiting rotations, at most
//! [`LARGEST_GROUP`], and never wait for more: a single call is a group of one. They take turns:
//! while one locks its rows and writes, the next group gathers. So groups grow with the load, and
//! many rotations share the cost of a statement. A turn ends with the last statement before the
//! COMMIT, so that one worker waits for the disk while the next begins. It ends earlier, between
//! two statements, if enough rotations wait for a good group already, or during a statement that
//! takes long.
//!
//! Workers leave all trouble to [`retry`](super::retry): rotations whose row another transaction
//! holds, that failed, or whose commit is uncertain continue there in a task each, and the worker
//! takes the next group.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, timeout_at};

use super::counters::Counters;
use super::plan::Plan;
use super::retry::{Failure, Retries};
use super::row_cache::RowRef;
use super::standing::Standing;
use super::store::{LARGEST_GROUP, Store};
use super::supervise::keep_working;
use super::transaction::{self, HeldRows, Interrupted};
use super::waiting::{OnEnd, RotationError, Turn, Waiting, commit_by};
use crate::wordpress::database::{DatabaseError, Session};

/// The minimum time of a transaction until its COMMIT: one rotation that has waited long must not
/// cut short the others of its group.
const LEAST: Duration = Duration::from_millis(500);

/// Groups in progress at once. One waits for the disk while another is prepared; more would make
/// groups smaller.
const WORKERS: usize = 2;

/// Rotations that may wait. At a thousand a second, the rate of the slowest disk, more could not be
/// served within [`LIMIT`](super::waiting::LIMIT).
const QUEUE: usize = 4096;

/// Accepts rotations. Its workers end when it is dropped.
pub struct Groups {
    queue: mpsc::Sender<Waiting>,
    counters: Arc<Counters>,
    tasks: Handle,
}

impl Groups {
    /// Starts the workers in the current runtime.
    pub fn start(store: Arc<Store>, standing: Arc<Standing>, counters: Arc<Counters>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let queue = Arc::new(Mutex::new(receiver));
        let retries = Arc::new(Retries::new(store, standing, Arc::clone(&counters)));
        for _ in 0..WORKERS {
            let (retries, queue) = (Arc::clone(&retries), Arc::clone(&queue));
            tokio::spawn(keep_working("rotations", move || work(Arc::clone(&retries), Arc::clone(&queue))));
        }
        Groups { queue: sender, counters, tasks: Handle::current() }
    }

    /// Rotates the token in row `row` as planned by `deadline`, then calls `on_end` on the database
    /// side. May be called from any thread. `on_end` is dropped without a call only if a worker
    /// fails or the runtime ends.
    pub fn hand_in(&self, plan: Arc<Plan>, row: RowRef, deadline: Instant, on_end: OnEnd) {
        let waiting = Waiting { plan, row, deadline, on_end };
        self.counters.queued.add();
        let Err(rejected) = self.queue.try_send(waiting) else { return };
        let (TrySendError::Full(waiting) | TrySendError::Closed(waiting)) = rejected;
        let (queue, counters) = (self.queue.clone(), Arc::clone(&self.counters));
        self.tasks.spawn(async move {
            match timeout_at(commit_by(waiting.deadline), queue.reserve()).await {
                Ok(Ok(place)) => place.send(waiting),
                _ => {
                    counters.queued.subtract(1);
                    waiting.end(Err(RotationError::Failed(DatabaseError::TimedOut)));
                }
            }
        });
    }
}

async fn work(retries: Arc<Retries>, queue: Arc<Mutex<mpsc::Receiver<Waiting>>>) {
    let store = Arc::clone(&retries.store);
    let mut group = Vec::with_capacity(LARGEST_GROUP);
    loop {
        let mut turn = queue.lock().await;
        let received = turn.recv_many(&mut group, LARGEST_GROUP).await;
        if received == 0 {
            return;
        }
        retries.counters.group(received);
        // Between two groups the connection is among the idle ones, which are kept alive.
        let session = store.database.ready_transactions();
        // Other workers do not wait while a connection is being made.
        let turn = session.is_some().then_some(Turn(turn));
        if let Some(session) = rotate(&retries, &store, session, std::mem::take(&mut group), turn).await {
            session.give_back();
        }
    }
}

/// Rotates one group. Returns the session if the next group can use it.
async fn rotate<'a>(
    retries: &Arc<Retries>,
    store: &'a Store,
    kept: Option<Session<'a>>,
    group: Vec<Waiting>,
    turn: Option<Turn<'_>>,
) -> Option<Session<'a>> {
    let now = Instant::now();
    let in_time = |waiting: &Waiting| commit_by(waiting.deadline) >= now + LEAST;
    let (group, late): (Vec<_>, Vec<_>) = group.into_iter().partition(in_time);
    for waiting in late {
        waiting.end(Err(RotationError::Failed(DatabaseError::TimedOut)));
    }
    let deadline = commit_by(group.iter().map(|waiting| waiting.deadline).min()?);
    let mut session = match kept {
        Some(session) => session,
        None => match transaction::open(store.database.transactions(), deadline).await {
            Ok(session) => session,
            Err(error) => return without_database(retries, group, &error),
        },
    };
    let items: Vec<(&Plan, RowRef)> = group.iter().map(|waiting| (&*waiting.plan, waiting.row)).collect();
    let begun = Instant::now();
    let mut attempted = transaction::attempt(store, &mut session, &items, HeldRows::Skip(turn), deadline).await;
    if let Err(Interrupted::AtOnce(_)) = attempted {
        // A connection that was idle may be dead: try a new one at once.
        drop(session);
        session = match transaction::open(store.database.fresh_transactions(), deadline).await {
            Ok(session) => session,
            Err(error) => return without_database(retries, group, &error),
        };
        attempted = transaction::attempt(store, &mut session, &items, HeldRows::Skip(None), deadline).await;
    }
    retries.counters.transactions.observe(begun.elapsed());
    match attempted {
        Ok(verdicts) => {
            retries.hand_out(group, verdicts);
            Some(session)
        }
        Err(Interrupted::InCommit(unknown)) => {
            tokio::spawn(Arc::clone(retries).resolve(group, *unknown));
            None
        }
        Err(Interrupted::Refused(error)) => {
            let session = retries.rolled_back(session, &error, deadline).await;
            for waiting in group {
                tokio::spawn(Arc::clone(retries).refused(waiting, error.clone()));
            }
            session
        }
        Err(Interrupted::AtOnce(error) | Interrupted::BeforeCommit(error)) => {
            apart(retries, session, group, Failure { error, was_sent: false }, deadline).await
        }
        Err(Interrupted::RolledBack(error)) => {
            apart(retries, session, group, Failure { error, was_sent: true }, deadline).await
        }
    }
}

/// After a failure, each rotation continues by itself.
async fn apart<'a>(
    retries: &Arc<Retries>,
    session: Session<'a>,
    group: Vec<Waiting>,
    failure: Failure,
    deadline: Instant,
) -> Option<Session<'a>> {
    let session = retries.rolled_back(session, &failure.error, deadline).await;
    let in_group = group.len() > 1;
    if in_group {
        retries.counters.taken_apart.add();
    }
    for waiting in group {
        retries.counters.retry(failure.error.code());
        tokio::spawn(Arc::clone(retries).after(waiting, failure.clone(), in_group));
    }
    session
}

fn without_database<'a>(retries: &Arc<Retries>, group: Vec<Waiting>, error: &DatabaseError) -> Option<Session<'a>> {
    for waiting in group {
        match error {
            // During a failover: one of the hosts is about to accept writes.
            DatabaseError::ReadOnly => drop(tokio::spawn(Arc::clone(retries).rotate(waiting))),
            _ => waiting.end(Err(RotationError::NotBegun(error.clone()))),
        }
    }
    None
}
