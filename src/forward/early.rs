//! When the body of a request begins to flow (`[upstream] early_bodies`).
//!
//! Its start is read first, as a rule: who sends slowly holds none of the upstream's workers. A client that waits to be told to send
//! (RFC 9110, 10.1.1) would wait for that in vain where the upstream refuses the request, and send for nothing: of such a
//! request the upstream gets the head at once. Who speaks with the site while it answers, by a body without a length, cannot be
//! served at all by a rule that waits for the start of that.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Version, header};
use hyper::body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::body::RequestBody;
use crate::config::EarlyBodies;
use crate::metrics::Event;

/// How long a body waits for the upstream to ask for it, then it flows: some servers never do. So long waits curl; who wrote a
/// client of HTTP/1.0 knows of no such wait at all.
pub const CONTINUE_TIME: Duration = Duration::from_secs(1);

/// When a body begins to flow. The place is among those of its client's address, until its exchange is over.
pub enum Begin {
    /// When its start is there.
    WithStart,
    /// The same, because its client's address has no place left.
    WithoutPlace,
    /// When the upstream asks for it.
    WhenAsked(Option<OwnedSemaphorePermit>),
    /// At once.
    AtOnce(Option<OwnedSemaphorePermit>),
}

impl Begin {
    /// Whether the upstream is waited for, and the place.
    pub fn into_parts(self) -> (bool, Option<OwnedSemaphorePermit>) {
        match self {
            Begin::WithStart | Begin::WithoutPlace => (false, None),
            Begin::WhenAsked(place) => (true, place),
            Begin::AtOnce(place) => (false, place),
        }
    }

    /// Whether the start of the body is read before the upstream is asked.
    pub fn reads_start(&self) -> bool {
        matches!(self, Begin::WithStart | Begin::WithoutPlace)
    }

    /// What is counted of it.
    pub fn event(&self) -> Option<Event> {
        match self {
            Begin::WithStart => None,
            Begin::WithoutPlace => Some(Event::BodyWithoutPlace),
            Begin::WhenAsked(_) => Some(Event::BodyWhenAsked),
            Begin::AtOnce(_) => Some(Event::BodyAtOnce),
        }
    }
}

/// When the body of `request` does. `places` are the free ones of the client's address.
///
/// SECURITY: of a client that has no place left it does with its start, as if the key were `never`: one address must not hold all
/// of the upstream's workers by bodies that it sends a byte at a time.
pub fn begin(request: &Request<RequestBody>, rule: EarlyBodies, places: Option<&Arc<Semaphore>>) -> Begin {
    let body = request.body();
    if rule == EarlyBodies::Never || !matches!(body, RequestBody::Streamed(_)) {
        return Begin::WithStart;
    }
    let is_asked_for = awaits_continue(request);
    if !is_asked_for && (rule == EarlyBodies::Expect || body.size_hint().exact().is_some()) {
        return Begin::WithStart;
    }
    let place = match places.map(|places| Arc::clone(places).try_acquire_owned()) {
        None => None,
        Some(Ok(place)) => Some(place),
        Some(Err(_)) => return Begin::WithoutPlace,
    };
    if is_asked_for { Begin::WhenAsked(place) } else { Begin::AtOnce(place) }
}

/// HTTP/1.0 knows no such wait (RFC 9110, 10.1.1), and the library has no way to tell a client of HTTP/2 to go on.
fn awaits_continue(request: &Request<RequestBody>) -> bool {
    let expects = request.headers().get(header::EXPECT);
    request.version() == Version::HTTP_11
        && expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
