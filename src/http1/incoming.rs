//! The body of a request while it arrives. It reads from the request's connection on demand: what
//! is not read here stays in the client's queue.

use std::task::{Context, Poll, ready};

use hyper::body::SizeHint;

use super::error::ReadError;
use super::frame::Frame;
use super::inbound::SharedInbound;

/// A request's body, as far as it has not been read.
pub struct Incoming {
    inbound: SharedInbound,
}

impl Incoming {
    /// The body of the request that `inbound` has just returned.
    pub fn new(inbound: SharedInbound) -> Self {
        Incoming { inbound }
    }

    /// Its next part.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, ReadError>>> {
        let frame = ready!(self.inbound.with(|inbound| inbound.poll_body(cx)));
        Poll::Ready(frame.transpose())
    }

    /// Whether all of it was read.
    pub fn is_end_stream(&self) -> bool {
        self.inbound.with(|inbound| inbound.is_body_read())
    }

    /// How much is left.
    pub fn size_hint(&self) -> SizeHint {
        self.inbound.with(|inbound| inbound.body_left()).map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
