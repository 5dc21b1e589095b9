//! Why a refresh that had begun has no result.

use tokio::sync::oneshot::error::RecvError;

use super::waiting::RotationError;
use crate::body::BodyError;

/// Why there is no response, neither of ours nor of WordPress's.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The request's body failed.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// A rotation had begun when the database failed.
    #[error("the database failed during a rotation")]
    Rotation(#[source] RotationError),
    /// A rotation was dropped without a result: the program's own fault.
    #[error("the rotation ended without a result")]
    Dropped(#[from] RecvError),
}
