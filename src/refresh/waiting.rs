//! A rotation that waits for its transaction: its deadline, whose turn it is, and why it may end
//! without being stored.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{MutexGuard, mpsc};
use tokio::time::{Instant, timeout};

use super::plan::{Outcome, Plan};
use super::row_cache::RowRef;
use crate::wordpress::access_token::SignerError;
use crate::wordpress::database::DatabaseError;

/// By when a refresh is answered, whatever it waits for; clients give up after more.
pub const LIMIT: Duration = Duration::from_secs(3);

/// How much of [`LIMIT`] is left when COMMIT is sent: for its result, or for finding out what
/// became of it.
const AFTER_COMMIT: Duration = Duration::from_secs(1);

/// With so many rotations waiting, the next group begins although this one has not written yet.
/// Measured at 64 connections: 8 and 48 both gave fewer refreshes a second. At 256, any such number
/// was better than none.
const GOOD_GROUP: usize = 16;

/// A statement that takes longer than this (because of a lost packet or a busy server) does not
/// keep the other workers waiting. Those of the largest groups take some milliseconds.
const LONG_STATEMENT: Duration = Duration::from_millis(10);

/// A rotation that waits for its result.
pub struct Waiting {
    pub plan: Arc<Plan>,
    pub row: RowRef,
    pub deadline: Instant,
    /// Receives the result.
    pub on_end: OnEnd,
}

/// Receives a rotation's result. It must be quick: the other rotations of the group wait.
pub type OnEnd = Box<dyn FnOnce(Result<Outcome, RotationError>) + Send>;

impl Waiting {
    pub fn end(self, result: Result<Outcome, RotationError>) {
        (self.on_end)(result);
    }
}

/// Why a rotation could not be completed.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The database failed before the first statement: nothing has been changed, so WordPress may
    /// answer.
    #[error("{0} before the rotation began")]
    NotBegun(#[source] DatabaseError),
    /// The database currently refuses rotations (see [`super::standing`]). Nothing has been
    /// written, so WordPress may answer.
    #[error("the database refuses the rotation: {0}")]
    Refused(#[source] DatabaseError),
    /// The database failed later, and kept failing until the deadline; or there was no time left.
    #[error("{0} during the rotation")]
    Failed(#[source] DatabaseError),
    /// It is not, or no longer, verified that WordPress would do the same. Nothing has been
    /// written, and WordPress answers.
    #[error("{0}")]
    Unverified(String),
    #[error("cannot sign the access token")]
    Sign(#[from] SignerError),
}

/// The latest time to send a COMMIT for a rotation that must end by `deadline`.
pub fn commit_by(deadline: Instant) -> Instant {
    deadline - AFTER_COMMIT
}

/// Held by the worker whose turn it is: no other takes from the queue.
pub struct Turn<'a>(pub MutexGuard<'a, mpsc::Receiver<Waiting>>);

impl Turn<'_> {
    /// Whether the waiting rotations would already make a good group.
    pub fn is_due(&self) -> bool {
        self.0.len() >= GOOD_GROUP
    }
}

/// Awaits `asked`. If it takes longer than [`LONG_STATEMENT`], releases the turn meanwhile and
/// returns `None` for it.
pub async fn in_turn<'a, T>(turn: Option<Turn<'a>>, asked: impl Future<Output = T>) -> (T, Option<Turn<'a>>) {
    let Some(turn) = turn else { return (asked.await, None) };
    let mut asked = pin!(asked);
    if let Ok(answer) = timeout(LONG_STATEMENT, &mut asked).await {
        return (answer, Some(turn));
    }
    drop(turn);
    (asked.await, None)
}
