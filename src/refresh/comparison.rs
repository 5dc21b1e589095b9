//! One call that WordPress answers, and whose answer is compared with what the sidecar would have given.

use bytes::Bytes;
use http::response::Parts;

use super::Call;
use crate::verify::Ticket;

/// A comparison under way. Dropped, it found nothing out.
pub struct Comparison {
    _ticket: Ticket,
}

/// What the client is to get beside WordPress's own answer, where that is what the sidecar would have given.
#[derive(Default)]
pub struct Addition {
    /// The body, with the members that `[refresh] response_fields` promises.
    pub body: Option<Bytes>,
    pub no_store: bool,
}

impl Comparison {
    /// What is to be expected of a call with `token`; `None` where that cannot be said now.
    pub(super) async fn begin(_call: &Call<'_>, _token: &str, ticket: Ticket) -> Option<Box<Self>> {
        Some(Box::new(Comparison { _ticket: ticket }))
    }

    /// WordPress has answered; `body` is all of it, or `None` where that is too long. What follows goes on behind the answer.
    pub fn answered(self, _head: &Parts, _body: Option<&Bytes>) -> Addition {
        Addition::default()
    }
}
