//! The two body types of an exchange: what goes up to the upstream and what comes down to the client.
//!
//! Frames pass through one at a time, so backpressure is hyper's own: nothing here buffers, collects or limits.
//! The one body that is held in memory is the small one of a refresh call, and only [`RequestBody::Replayed`]
//! can carry it on when the call turns out to be WordPress's business.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::forward::upstream::Lease;

/// What is sent to the upstream.
pub enum RequestBody {
    /// No body: the request ends with its head.
    Empty,
    /// The client's body, frame by frame as it arrives.
    Streamed(Streamed),
    /// Frames that were already read while the call was looked at, then the rest of the client's body, if any.
    Replayed(VecDeque<Frame<Bytes>>, Option<Streamed>),
}

/// A body that is still arriving, and the time of its last frame.
pub struct Streamed {
    incoming: Incoming,
    progress: Progress,
}

/// When a request body last moved. The wait for the upstream's answer counts from here, so that a long upload
/// is never mistaken for a silent upstream.
pub type Progress = Rc<Cell<Instant>>;

impl RequestBody {
    /// The client's body as it arrives.
    pub fn streamed(incoming: Incoming) -> Self {
        if incoming.is_end_stream() {
            return RequestBody::Empty;
        }
        RequestBody::Streamed(Streamed::new(incoming))
    }

    /// Frames already read, then the rest. `rest` is `None` when the body was read to its end.
    pub fn replayed(frames: VecDeque<Frame<Bytes>>, rest: Option<Incoming>) -> Self {
        if frames.is_empty() && rest.is_none() {
            return RequestBody::Empty;
        }
        RequestBody::Replayed(frames, rest.map(Streamed::new))
    }

    /// The clock of this body's progress; `None` when nothing of it is still to come from the client.
    pub fn progress(&self) -> Option<Progress> {
        match self {
            RequestBody::Empty | RequestBody::Replayed(_, None) => None,
            RequestBody::Streamed(streamed) | RequestBody::Replayed(_, Some(streamed)) => {
                Some(Rc::clone(&streamed.progress))
            }
        }
    }
}

impl Streamed {
    fn new(incoming: Incoming) -> Self {
        Streamed { incoming, progress: Rc::new(Cell::new(Instant::now())) }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.incoming).poll_frame(cx);
        if frame.is_ready() {
            self.progress.set(Instant::now());
        }
        frame
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Streamed(streamed) => streamed.poll_frame(cx),
            RequestBody::Replayed(frames, rest) => match (frames.pop_front(), rest) {
                (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
                (None, Some(streamed)) => streamed.poll_frame(cx),
                (None, None) => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Streamed(streamed) => streamed.incoming.is_end_stream(),
            RequestBody::Replayed(frames, rest) => {
                frames.is_empty() && rest.as_ref().is_none_or(|rest| rest.incoming.is_end_stream())
            }
        }
    }

    // Without an exact hint hyper would turn a body of known length into a chunked one.
    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Streamed(streamed) => streamed.incoming.size_hint(),
            RequestBody::Replayed(frames, rest) => {
                let read: u64 = frames.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
                let rest = rest.as_ref().map_or(Some(0), |rest| rest.incoming.size_hint().exact());
                rest.map_or_else(SizeHint::new, |rest| SizeHint::with_exact(read + rest))
            }
        }
    }
}

/// What is sent to the client.
pub enum ResponseBody {
    /// An answer that the sidecar makes itself.
    Whole(Option<Bytes>),
    /// The upstream's body, and the connection that it comes by.
    Upstream(UpstreamBody),
}

/// A body that is still arriving from the upstream. At its end the connection goes back to the pool; dropped
/// before its end, the connection is closed with it, since what is left unread on it cannot be told from the next answer.
pub struct UpstreamBody {
    incoming: Incoming,
    lease: Option<Lease>,
}

impl UpstreamBody {
    /// `lease` is the connection that `incoming` is read from.
    pub fn new(incoming: Incoming, lease: Lease) -> Self {
        let mut body = UpstreamBody { incoming, lease: Some(lease) };
        body.give_back_at_end();
        body
    }

    fn give_back_at_end(&mut self) {
        if self.incoming.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            ResponseBody::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            ResponseBody::Upstream(body) => {
                let frame = Pin::new(&mut body.incoming).poll_frame(cx);
                match &frame {
                    // An error passes on as it is: a cut answer must stay visibly cut (the client's connection is aborted).
                    Poll::Ready(Some(Err(_))) => body.lease = None,
                    Poll::Ready(None) => {
                        if let Some(lease) = body.lease.take() {
                            lease.give_back();
                        }
                    }
                    Poll::Ready(Some(Ok(_))) => body.give_back_at_end(),
                    Poll::Pending => {}
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Whole(bytes) => bytes.is_none(),
            ResponseBody::Upstream(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            ResponseBody::Upstream(body) => body.incoming.size_hint(),
        }
    }
}
