//! The two body types of an exchange: what goes up to the upstream and what comes down to the client.
//!
//! Frames pass through one at a time, so backpressure is hyper's own: nothing here buffers, collects or limits the size.
//! What is limited is silence, which hyper does not (hyper#1628). The one kind of body that is held in memory is a
//! small one, and only [`RequestBody::Replayed`] can carry on what was read of it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;
use tracing::warn;

use crate::alarm::Alarm;
use crate::connection::watch::Exchange;
use crate::forward::request;
use crate::forward::upstream::Lease;

/// Why a body did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The side that sends it closed the connection, or framed it wrongly.
    #[error("the body broke off")]
    BrokeOff(#[source] hyper::Error),
    /// Nothing came for so long.
    #[error("nothing of the body came for {0:?}")]
    Silent(Duration),
}

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
    silence: Option<Silence>,
}

/// When a request body last moved. The wait for the upstream's answer counts from here, so that a long upload
/// is never mistaken for a silent upstream.
pub type Progress = Rc<Cell<Instant>>;

/// How long a body may be silent, and the timer for it.
struct Silence {
    limit: Duration,
    since: Option<Instant>,
    alarm: Alarm,
}

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

    /// Puts frames that were read back in front of what is still to come.
    pub fn put_back(&mut self, mut frames: VecDeque<Frame<Bytes>>) {
        *self = match std::mem::replace(self, RequestBody::Empty) {
            RequestBody::Empty if frames.is_empty() => RequestBody::Empty,
            RequestBody::Empty => RequestBody::Replayed(frames, None),
            RequestBody::Streamed(rest) if rest.incoming.is_end_stream() => RequestBody::Replayed(frames, None),
            RequestBody::Streamed(rest) => RequestBody::Replayed(frames, Some(rest)),
            RequestBody::Replayed(later, rest) => {
                frames.extend(later);
                RequestBody::Replayed(frames, rest)
            }
        };
    }

    /// From now on the client may be silent for `limit`, then the body fails with [`BodyError::Silent`].
    pub fn limit_silence(&mut self, limit: Duration) {
        match self {
            RequestBody::Empty | RequestBody::Replayed(_, None) => {}
            RequestBody::Streamed(streamed) | RequestBody::Replayed(_, Some(streamed)) => {
                streamed.silence = Some(Silence::new(limit));
            }
        }
    }
}

impl Streamed {
    fn new(incoming: Incoming) -> Self {
        Streamed { incoming, progress: Rc::new(Cell::new(Instant::now())), silence: None }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(mut frame) => {
                if let Some(Ok(frame)) = &mut frame
                    && let Some(trailers) = frame.trailers_mut()
                {
                    request::prepare_trailers(trailers);
                }
                self.progress.set(Instant::now());
                if let Some(silence) = &mut self.silence {
                    silence.is_broken();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::BrokeOff)))
            }
            Poll::Pending => match &mut self.silence {
                Some(silence) => silence.poll(cx).map(|error| Some(Err(error))),
                None => Poll::Pending,
            },
        }
    }
}

impl Silence {
    fn new(limit: Duration) -> Self {
        Silence { limit, since: None, alarm: Alarm::default() }
    }

    fn is_broken(&mut self) {
        self.since = None;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let since = *self.since.get_or_insert_with(Instant::now);
        ready!(self.alarm.poll_at(cx, since + self.limit));
        Poll::Ready(BodyError::Silent(self.limit))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
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
pub struct ResponseBody {
    content: Content,
    /// Dropped with the body, which hyper does when the last of it has been handed over for writing.
    exchange: Option<Exchange>,
}

enum Content {
    Whole(Option<Bytes>),
    Upstream(UpstreamBody),
}

impl ResponseBody {
    /// An answer that the sidecar makes itself, or the empty one of a switch of protocols.
    pub fn whole(bytes: Bytes) -> Self {
        let bytes = Some(bytes).filter(|bytes| !bytes.is_empty());
        ResponseBody { content: Content::Whole(bytes), exchange: None }
    }

    /// The upstream's body.
    pub fn upstream(body: UpstreamBody) -> Self {
        ResponseBody { content: Content::Upstream(body), exchange: None }
    }

    /// The exchange ends when this body does.
    pub fn ends(&mut self, exchange: Exchange) {
        self.exchange = Some(exchange);
    }
}

/// A body that is still arriving from the upstream. At its end the connection goes back to the pool; dropped
/// before its end, the connection is closed with it, since what is left unread on it cannot be told from the next answer.
pub struct UpstreamBody {
    incoming: Incoming,
    lease: Option<Lease>,
    silent_since: Option<Instant>,
}

impl UpstreamBody {
    /// `lease` is the connection that `incoming` is read from.
    pub fn new(incoming: Incoming, lease: Lease) -> Self {
        let mut body = UpstreamBody { incoming, lease: Some(lease), silent_since: None };
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

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(frame)) => frame.map_err(BodyError::BrokeOff),
            Poll::Ready(None) => {
                if let Some(lease) = self.lease.take() {
                    lease.give_back();
                }
                return Poll::Ready(None);
            }
            Poll::Pending => {
                let Some(lease) = &mut self.lease else { return Poll::Pending };
                let since = *self.silent_since.get_or_insert_with(Instant::now);
                Err(BodyError::Silent(ready!(lease.poll_silent(cx, since))))
            }
        };
        self.silent_since = None;
        match &frame {
            Ok(_) => self.give_back_at_end(),
            // The error passes on: a cut answer must stay visibly cut (the client's connection is aborted).
            Err(error) => {
                let source = std::error::Error::source(error).map(ToString::to_string);
                warn!(source, "the upstream's answer ended early: {error}");
                if let Some(lease) = self.lease.take() {
                    lease.cut(error);
                }
            }
        }
        Poll::Ready(Some(frame))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.content {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Upstream(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_none(),
            Content::Upstream(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Content::Upstream(body) => body.incoming.size_hint(),
        }
    }
}
