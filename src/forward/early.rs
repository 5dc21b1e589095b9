//! When the body of a request starts to flow (`[upstream] early_bodies`).
//!
//! As a rule its start is read first, so that a slow client holds none of the upstream's workers.
//! Two kinds of requests need another rule. A client that sends `Expect: 100-continue` (RFC 9110,
//! 10.1.1) must learn before its upload that the upstream refuses the request, so the upstream gets
//! the head at once. And a client that holds a conversation with the site by a body without a
//! length cannot wait until its start is complete.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Version, header};
use hyper::body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::body::RequestBody;
use crate::config::EarlyBodies;
use crate::metrics::Event;

/// How long a body waits for the upstream to ask for it before it is sent anyway: some servers
/// never ask. curl waits as long.
pub const CONTINUE_TIME: Duration = Duration::from_secs(1);

/// When a body starts to flow. The permit is one of its client's address, held until the exchange
/// ends.
pub enum Begin {
    /// When its start has been read.
    WithStart,
    /// When its start has been read, because the client's address has no permit left.
    WithoutPlace,
    /// When the upstream asks for it.
    WhenAsked(Option<OwnedSemaphorePermit>),
    /// At once.
    AtOnce(Option<OwnedSemaphorePermit>),
}

impl Begin {
    /// Whether the upstream must ask first, and the permit.
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

    /// The event to count for a body that could start early.
    pub fn event(&self) -> Option<Event> {
        match self {
            Begin::WithStart => None,
            Begin::WithoutPlace => Some(Event::BodyWithoutPlace),
            Begin::WhenAsked(_) => Some(Event::BodyWhenAsked),
            Begin::AtOnce(_) => Some(Event::BodyAtOnce),
        }
    }
}

/// When the body of `request` starts to flow. `places` are the free permits of the client's
/// address.
///
/// SECURITY: without a free permit the start is read first, as if the key were `never`: one address
/// must not hold all of the upstream's workers with bodies sent a byte at a time.
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

/// HTTP/1.0 has no such expectation (RFC 9110, 10.1.1), and hyper has no way to send 100 to an
/// HTTP/2 client.
fn awaits_continue(request: &Request<RequestBody>) -> bool {
    let expects = request.headers().get(header::EXPECT);
    request.version() == Version::HTTP_11
        && expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
