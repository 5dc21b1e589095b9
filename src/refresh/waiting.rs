//! A rotation that waits for its transaction: until when, whose turn it is, and why it may end without being stored.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{MutexGuard, mpsc};
use tokio::time::{Instant, timeout};

use super::plan::{Outcome, Plan};
use super::row_cache::RowRef;
use crate::wordpress::access_token::SignerError;
use crate::wordpress::database::DatabaseError;

/// A refresh has its answer by then, whatever it has to wait for; a client that waits longer gives up.
pub const LIMIT: Duration = Duration::from_secs(3);

/// What is left of [`LIMIT`] when COMMIT is sent: it has an answer by then, or there is time to find out what became of it.
const AFTER_COMMIT: Duration = Duration::from_secs(1);

/// If so many wait, the next group begins although this one has not written yet. Measured at 64 connections: with 8 or 48 there were
/// fewer refreshes a second. At 256 any such number was better than none.
const GOOD_GROUP: usize = 16;

/// A statement that takes longer than most (a packet that was lost, a server that is busy) keeps no others waiting. Those of the
/// largest groups take some milliseconds.
const LONG_STATEMENT: Duration = Duration::from_millis(10);

/// A rotation that waits for its end.
pub struct Waiting {
    pub plan: Arc<Plan>,
    /// The row that the token is in.
    pub row: RowRef,
    pub deadline: Instant,
    /// What is done with its end.
    pub on_end: OnEnd,
}

/// What is done with a rotation's end. It must not take long: the others of its group wait.
pub type OnEnd = Box<dyn FnOnce(Result<Outcome, RotationError>) + Send>;

impl Waiting {
    pub fn end(self, result: Result<Outcome, RotationError>) {
        (self.on_end)(result);
    }
}

/// Why a rotation could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The database failed before the first statement: nothing has happened, WordPress may answer.
    #[error("{0} before the rotation began")]
    NotBegun(#[source] DatabaseError),
    /// The database refuses rotations as it stands (see [`super::standing`]), nothing has been written, and WordPress may answer.
    #[error("the database refuses the rotation: {0}")]
    Refused(#[source] DatabaseError),
    /// The database failed later, and again until the time was up; or there was no time left.
    #[error("{0} during the rotation")]
    Failed(#[source] DatabaseError),
    /// It is not verified, or not any more, that WordPress would do the same: nothing has been written, and WordPress answers.
    #[error("{0}")]
    Unverified(String),
    /// The access token could not be signed.
    #[error("cannot sign the access token")]
    Sign(#[from] SignerError),
}

/// Until when a COMMIT may be sent for a rotation that must have ended by `deadline`.
pub fn commit_by(deadline: Instant) -> Instant {
    deadline - AFTER_COMMIT
}

/// Held by the worker whose turn it is: nobody else takes from the queue.
pub struct Turn<'a>(pub MutexGuard<'a, mpsc::Receiver<Waiting>>);

impl Turn<'_> {
    /// Whether the next group would be a good one already.
    pub fn is_due(&self) -> bool {
        self.0.len() >= GOOD_GROUP
    }
}

/// What `asked` comes to. The turn comes back unless that takes long: then it ends meanwhile.
pub async fn in_turn<'a, T>(turn: Option<Turn<'a>>, asked: impl Future<Output = T>) -> (T, Option<Turn<'a>>) {
    let Some(turn) = turn else { return (asked.await, None) };
    let mut asked = pin!(asked);
    if let Ok(answer) = timeout(LONG_STATEMENT, &mut asked).await {
        return (answer, Some(turn));
    }
    drop(turn);
    (asked.await, None)
}
