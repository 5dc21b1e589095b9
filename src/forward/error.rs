//! Why the upstream's response is missing, or ended early.

use std::time::Duration;

use crate::body::BodyError;
use crate::http1::error::AnswerError;
use crate::metrics::Event;
use crate::net::dial::DialError;
use crate::time::pace::TooSlow;

/// Why there is no response to forward.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The request's body failed.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// No connection to the upstream became free within this time.
    #[error("all connections to the upstream were busy for {0:?}")]
    Busy(Duration),
    /// Connecting failed.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The upstream closed the connection or sent something that is not HTTP.
    #[error("the upstream broke off before its answer")]
    Response(#[from] AnswerError),
    /// The upstream sent no response in time.
    #[error("the upstream sent no answer within {0:?}")]
    Timeout(Duration),
    /// The upstream sent an unrequested 101, or one for another protocol.
    #[error("the upstream switched protocols unasked")]
    UnaskedUpgrade,
    /// The upstream's response has a transfer coding that is not `chunked`.
    #[error("the upstream's answer has an unsupported Transfer-Encoding")]
    TransferEncoding,
}

/// Why a response ended early.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// The upstream closed the connection, or sent invalid framing.
    #[error("the body broke off")]
    BrokeOff(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The upstream was silent.
    #[error("the body did not come in time: {0}")]
    Silent(TooSlow),
}

impl CutError {
    pub fn event(&self) -> Event {
        match self {
            CutError::BrokeOff(_) => Event::AnswerBrokeOff,
            CutError::Silent(_) => Event::AnswerSilent,
        }
    }
}
