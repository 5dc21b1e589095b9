//! Errors of refreshes that had begun.

use tokio::sync::oneshot::error::RecvError;

use super::waiting::RotationError;
use crate::body::BodyError;

/// Why there is no response, neither the sidecar's nor WordPress's.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The request's body failed.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The database failed after a rotation had begun.
    #[error("the database failed during a rotation")]
    Rotation(#[source] RotationError),
    /// A rotation was dropped without a result, which is a bug.
    #[error("the rotation ended without a result")]
    Dropped(#[from] RecvError),
}
