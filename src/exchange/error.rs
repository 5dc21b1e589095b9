//! Why an exchange has neither WordPress's response nor the native refresh's, and what that means
//! for the client, the log and the metrics: one table.

use std::time::Duration;

use http::StatusCode;

use crate::admission::places::{NoPlace, Scope};
use crate::body::BodyError;
use crate::forward::error::ForwardError;
use crate::http1::error::HeadError;
use crate::metrics::Event;
use crate::net::dial::DialError;
use crate::refresh::error::RefreshError;
use crate::vet::Refusal;

/// Why the sidecar sends an error response of its own.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The request must not be forwarded.
    #[error("refused the request: {0}")]
    Refused(#[from] Refusal),
    /// The head of the request is invalid.
    #[error("refused a request that is not valid HTTP")]
    Head(#[from] HeadError),
    /// The head of the request did not arrive in time.
    #[error("the head of the request did not arrive within {0:?}")]
    HeadTimeout(Duration),
    /// As many exchanges as allowed were in flight.
    #[error(transparent)]
    TooManyInFlight(#[from] NoPlace),
    /// The request's body failed, on its way to the upstream or to the native refresh.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The upstream failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The database failed.
    #[error(transparent)]
    Refresh(#[from] RefreshError),
}

/// Whose fault a failed exchange was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The client's: the request was invalid or ended early.
    Client,
    /// The upstream's: unreachable, silent or not speaking HTTP.
    Upstream,
    /// The database's: a rotation had begun and could not be completed.
    Database,
}

/// What an error means to the client, the log and the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    pub status: StatusCode,
    /// Stable, for programs.
    pub reason: &'static str,
    /// For people. Needs no escaping in HTML and JSON.
    pub message: &'static str,
    pub fault: Fault,
    pub event: Event,
}

impl ExchangeError {
    pub fn describe(&self) -> Description {
        use Fault::{Client, Database, Upstream};
        let (status, reason, message, fault, event) = match self {
            ExchangeError::Refused(Refusal::Connect | Refusal::Trace) => {
                (405, "method_refused", "This method is not allowed here.", Client, Event::MethodRefused)
            }
            ExchangeError::Refused(Refusal::Target) => {
                (400, "invalid_target", "The target of the request is not valid.", Client, Event::InvalidTarget)
            }
            ExchangeError::Refused(
                Refusal::MissingHost | Refusal::SeveralHosts | Refusal::InvalidHost | Refusal::TargetHostMismatch,
            ) => (400, "invalid_host", "The request does not name one valid host.", Client, Event::InvalidHost),
            ExchangeError::Refused(Refusal::TransferEncoding) => (
                501,
                "unsupported_transfer_encoding",
                "The transfer encoding of the request is not supported.",
                Client,
                Event::UnsupportedTransferEncoding,
            ),
            ExchangeError::Refused(Refusal::TooManyFields) | ExchangeError::Head(HeadError::TooLarge) => (
                431,
                "request_head_too_large",
                "The head of the request is too large. Perhaps this site has set too many cookies.",
                Client,
                Event::HeadTooLarge,
            ),
            ExchangeError::Head(HeadError::TargetTooLong) => {
                (414, "target_too_long", "The target of the request is too long.", Client, Event::UriTooLong)
            }
            ExchangeError::Refused(Refusal::ContentLength) | ExchangeError::Head(_) => {
                (400, "invalid_request", "The request is not valid HTTP.", Client, Event::Malformed)
            }
            ExchangeError::HeadTimeout(_) => {
                (408, "request_head_timeout", "The request did not arrive in time.", Client, Event::RequestHeadTimeout)
            }
            ExchangeError::TooManyInFlight(NoPlace { scope, .. }) => (
                503,
                "too_many_in_flight",
                "Too many requests are in progress at the moment.",
                if *scope == Scope::All { Upstream } else { Client },
                Event::TooManyInFlight,
            ),
            ExchangeError::Body(error)
            | ExchangeError::Forward(ForwardError::Body(error))
            | ExchangeError::Refresh(RefreshError::Body(error)) => {
                let (status, reason, message) = match error {
                    BodyError::BrokeOff(_) => {
                        (400, "invalid_request_body", "The body of the request broke off or was not valid.")
                    }
                    BodyError::TooSlow(_) => {
                        (408, "request_body_timeout", "The body of the request did not arrive in time.")
                    }
                    BodyError::TooLarge(_) => {
                        (413, "request_too_large", "The body of the request is larger than allowed.")
                    }
                };
                (status, reason, message, Client, error.event())
            }
            ExchangeError::Forward(ForwardError::Busy(_)) => {
                (503, "upstream_busy", "The site has too much to do at the moment.", Upstream, Event::UpstreamBusy)
            }
            ExchangeError::Forward(ForwardError::Dial(DialError::Connect(_))) => {
                (502, "upstream_unreachable", UNREACHABLE, Upstream, Event::UpstreamUnreachable)
            }
            ExchangeError::Forward(ForwardError::Dial(DialError::TimedOut(_))) => {
                (504, "upstream_connect_timeout", UNREACHABLE, Upstream, Event::UpstreamConnectTimeout)
            }
            ExchangeError::Forward(ForwardError::Dial(DialError::Tls(_))) => (
                502,
                "upstream_tls",
                "No secure connection to the site is possible at the moment.",
                Upstream,
                Event::UpstreamTls,
            ),
            ExchangeError::Forward(ForwardError::Response(_)) => (
                502,
                "upstream_broke_off",
                "The site closed the connection before it responded.",
                Upstream,
                Event::UpstreamBrokeOff,
            ),
            ExchangeError::Forward(ForwardError::Timeout(_)) => {
                (504, "upstream_timeout", "The site did not answer in time.", Upstream, Event::UpstreamTimeout)
            }
            ExchangeError::Forward(ForwardError::UnaskedUpgrade) => (
                502,
                "upstream_unasked_upgrade",
                "The site switched protocols unasked.",
                Upstream,
                Event::UpstreamUnaskedUpgrade,
            ),
            ExchangeError::Forward(ForwardError::TransferEncoding) => (
                502,
                "upstream_transfer_encoding",
                "The site's response could not be read.",
                Upstream,
                Event::UpstreamTransferEncoding,
            ),
            ExchangeError::Refresh(RefreshError::Rotation(_) | RefreshError::Dropped(_)) => (
                503,
                "database_unavailable",
                "The database cannot be reached at the moment.",
                Database,
                Event::DatabaseUnavailable,
            ),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Description { status, reason, message, fault, event }
    }
}

/// For people.
const UNREACHABLE: &str = "The site cannot be reached at the moment.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::error::AnswerError;
    use crate::time::pace::TooSlow;

    #[test]
    fn the_status_is_the_one_that_the_metrics_name() {
        let late = NoPlace { scope: Scope::All, waited: Duration::ZERO };
        for error in [
            Refusal::Connect.into(),
            Refusal::Target.into(),
            Refusal::MissingHost.into(),
            Refusal::TransferEncoding.into(),
            Refusal::TooManyFields.into(),
            Refusal::ContentLength.into(),
            HeadError::TargetTooLong.into(),
            ExchangeError::HeadTimeout(Duration::ZERO),
            late.into(),
            BodyError::BrokeOff("".into()).into(),
            BodyError::TooSlow(TooSlow::Unfinished(Duration::ZERO)).into(),
            BodyError::TooLarge(1).into(),
            ForwardError::Busy(Duration::ZERO).into(),
            ForwardError::Dial(DialError::Connect(std::io::ErrorKind::NotFound.into())).into(),
            ForwardError::Dial(DialError::TimedOut(Duration::ZERO)).into(),
            ForwardError::Dial(DialError::Tls(std::io::ErrorKind::NotFound.into())).into(),
            ForwardError::Response(AnswerError::Closed(None)).into(),
            ForwardError::Timeout(Duration::ZERO).into(),
            ForwardError::UnaskedUpgrade.into(),
            ForwardError::TransferEncoding.into(),
        ] {
            let error: ExchangeError = error;
            let Description { status, event, .. } = error.describe();
            assert!(event.series().labels.contains(&("status", status.as_str())), "{error:?}: {status}, {event:?}");
        }
    }
}
