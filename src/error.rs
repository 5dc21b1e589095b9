//! What can go wrong in an exchange: whose fault it is, and in which phase. `respond.rs` turns each into an answer.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::body::BodyError;
use crate::forward::dial::DialError;
use crate::http1::client::AnswerError;
use crate::http1::head::HeadError;
use crate::pace::TooSlow;
use crate::vet::Refusal;

/// Whose fault a failed exchange was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The client's: the request was wrong or broke off.
    Client,
    /// The upstream's: unreachable, silent or not speaking HTTP.
    Upstream,
    /// The database's: a rotation had begun and could not be finished.
    Database,
}

/// Where exchanges in flight are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `[server] max_exchanges_per_connection`.
    Connection,
    /// `[server] max_exchanges_per_address`.
    Address,
    /// `[server] max_exchanges`.
    All,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Connection => "on the client's connection (server.max_exchanges_per_connection)",
            Scope::Address => "for the client's address (server.max_exchanges_per_address)",
            Scope::All => "in all (server.max_exchanges)",
        })
    }
}

/// Why an exchange ended without an answer of WordPress's or of the native refresh.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The request is not one that may be passed on.
    #[error("refused the request: {0}")]
    Refused(#[from] Refusal),
    /// The head of the request is not one.
    #[error("refused a request that is not valid HTTP")]
    RequestHead(#[from] HeadError),
    /// The head of the request did not arrive in time.
    #[error("the head of the request did not arrive within {0:?}")]
    RequestHeadTimeout(Duration),
    /// The request body broke off or was not valid HTTP.
    #[error("could not read the request body")]
    RequestBody(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The request body stood still or came too slowly.
    #[error("the request body did not arrive in time")]
    RequestBodyTooSlow(#[source] TooSlow),
    /// The request body is larger than `[server] max_request_body`, which this is.
    #[error("the request body is larger than server.max_request_body, {0} bytes")]
    RequestTooLarge(u64),
    /// As many exchanges as may be were in flight for so long.
    #[error("as many requests as may be were in flight {0} for {1:?}")]
    TooManyInFlight(Scope, Duration),
    /// All connections that may be made to the upstream were busy for so long.
    #[error("all connections to the upstream were busy for {0:?}")]
    UpstreamBusy(Duration),
    /// The upstream took no connection.
    #[error("could not connect to the upstream")]
    UpstreamConnect(#[source] io::Error),
    /// The upstream took no connection in time.
    #[error("the upstream took no connection within {0:?}")]
    UpstreamConnectTimeout(Duration),
    /// The upstream's certificate is not trusted, or it does not speak TLS.
    #[error("could not agree on TLS with the upstream")]
    UpstreamTls(#[source] io::Error),
    /// The upstream closed the connection or sent something that is no HTTP answer.
    #[error("the upstream broke off before its answer")]
    UpstreamResponse(#[from] AnswerError),
    /// The upstream sent no answer in time.
    #[error("the upstream sent no answer within {0:?}")]
    UpstreamTimeout(Duration),
    /// The upstream sent a 101 that nobody asked for, or for another protocol.
    #[error("the upstream switched protocols unasked")]
    UpstreamUnaskedUpgrade,
    /// The upstream's answer has a transfer coding that is not `chunked`.
    #[error("the upstream's answer has an unsupported Transfer-Encoding")]
    UpstreamTransferEncoding,
    /// A rotation had begun when the database failed.
    #[error("the database failed during a rotation")]
    Rotation(#[source] crate::refresh::waiting::RotationError),
    /// A rotation was dropped without a result: the program's own fault.
    #[error("the rotation ended without a result")]
    RotationDropped(#[source] tokio::sync::oneshot::error::RecvError),
}

impl ExchangeError {
    /// Whose fault it was.
    pub fn fault(&self) -> Fault {
        match self {
            ExchangeError::Refused(_)
            | ExchangeError::RequestHead(_)
            | ExchangeError::RequestHeadTimeout(_)
            | ExchangeError::RequestBody(_)
            | ExchangeError::RequestBodyTooSlow(_)
            | ExchangeError::RequestTooLarge(_)
            | ExchangeError::TooManyInFlight(Scope::Connection | Scope::Address, _) => Fault::Client,
            ExchangeError::TooManyInFlight(Scope::All, _)
            | ExchangeError::UpstreamBusy(_)
            | ExchangeError::UpstreamConnect(_)
            | ExchangeError::UpstreamConnectTimeout(_)
            | ExchangeError::UpstreamTls(_)
            | ExchangeError::UpstreamResponse(_)
            | ExchangeError::UpstreamTimeout(_)
            | ExchangeError::UpstreamUnaskedUpgrade
            | ExchangeError::UpstreamTransferEncoding => Fault::Upstream,
            ExchangeError::Rotation(_) | ExchangeError::RotationDropped(_) => Fault::Database,
        }
    }
}

impl From<BodyError> for ExchangeError {
    /// What failed is the request's body.
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::BrokeOff(error) => ExchangeError::RequestBody(error),
            BodyError::TooSlow(why) => ExchangeError::RequestBodyTooSlow(why),
            BodyError::TooLarge(limit) => ExchangeError::RequestTooLarge(limit),
            BodyError::TooShort => ExchangeError::RequestBody(error.into()),
        }
    }
}

impl From<DialError> for ExchangeError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Connect(error) => ExchangeError::UpstreamConnect(error),
            DialError::Tls(error) => ExchangeError::UpstreamTls(error),
            DialError::TimedOut(limit) => ExchangeError::UpstreamConnectTimeout(limit),
        }
    }
}
