//! The body of a request, on its way to the upstream or to the native refresh.
//!
//! Frames are read when they are asked for and passed on one at a time; nothing here collects them.
//! Limits apply to silence and, if configured, to the size. Only the start of a body is ever held
//! in memory: [`RequestBody::Replayed`] carries on what [`peek`](RequestBody::peek) has read.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::body::{self, Body, SizeHint};
use tokio::time::Instant;

use crate::fields;
use crate::http1;
use crate::http1::error::TooShort;
use crate::http1::frame::Frame;
use crate::metrics::Event;
use crate::time::pace::{Pace, Patience, TooSlow};

/// Why a request's body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client closed the connection, sent invalid framing, or ended the body before its
    /// announced length.
    #[error("could not read the request body")]
    BrokeOff(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It stalled, or came too slowly.
    #[error("the request body did not arrive in time")]
    TooSlow(#[source] TooSlow),
    /// It is larger than `[server] max_request_body`, which this is, in bytes.
    #[error("the request body is larger than server.max_request_body, {0} bytes")]
    TooLarge(u64),
}

impl BodyError {
    pub fn event(&self) -> Event {
        match self {
            BodyError::BrokeOff(_) => Event::InvalidRequestBody,
            BodyError::TooSlow(_) => Event::RequestBodyTimeout,
            BodyError::TooLarge(_) => Event::RequestTooLarge,
        }
    }
}

impl From<TooShort> for BodyError {
    fn from(error: TooShort) -> Self {
        BodyError::BrokeOff(error.into())
    }
}

/// The body sent to the upstream.
pub enum RequestBody {
    /// No body: the request ends with its head.
    Empty,
    /// The client's body, frame by frame as it arrives.
    Streamed(Streamed),
    /// Frames that were already read while the call was looked at, then the rest of the client's
    /// body, if any.
    Replayed(VecDeque<Frame>, Option<Streamed>),
}

/// A body that is still arriving, and when its last frame came.
pub struct Streamed {
    incoming: Incoming,
    progress: Instant,
    allowance: Option<Box<Allowance>>,
}

/// The slowest pace and the largest size that a body may have.
struct Allowance {
    patience: Patience,
    size: u64,
    left: u64,
}

enum Incoming {
    Http1(http1::incoming::Incoming),
    Http2(hyper::body::Incoming),
}

impl RequestBody {
    /// The body of an HTTP/1.x request as it arrives.
    pub fn http1(incoming: http1::incoming::Incoming) -> Self {
        RequestBody::streamed(Incoming::Http1(incoming))
    }

    /// The body of an HTTP/2 request as it arrives.
    pub fn http2(incoming: hyper::body::Incoming) -> Self {
        RequestBody::streamed(Incoming::Http2(incoming))
    }

    fn streamed(incoming: Incoming) -> Self {
        if incoming.is_end_stream() {
            return RequestBody::Empty;
        }
        RequestBody::Streamed(Streamed { incoming, progress: Instant::now(), allowance: None })
    }

    /// When this body last moved; `None` if no more of it will come from the client. The wait for
    /// the upstream's response counts from here, so that a long upload is never mistaken for a
    /// silent upstream.
    pub fn progress(&self) -> Option<Instant> {
        match self {
            RequestBody::Empty | RequestBody::Replayed(_, None) => None,
            RequestBody::Streamed(streamed) | RequestBody::Replayed(_, Some(streamed)) => Some(streamed.progress),
        }
    }

    /// Reads the start of the body and puts it back: all of it, or at least `limit` bytes. Returns
    /// the data if that is the whole body and less than `limit`.
    ///
    /// # Errors
    /// The client's: the body ended early, was invalid, too slow or too large.
    pub async fn peek(&mut self, limit: usize) -> Result<Option<Bytes>, BodyError> {
        let (mut frames, mut joined, mut length) = (VecDeque::new(), BytesMut::new(), 0);
        let mut data = Bytes::new();
        while length < limit && !self.is_end_stream() {
            let Some(frame) = poll_fn(|cx| self.poll_next(cx)).await.transpose()? else { break };
            match frame.into_data() {
                Ok(part) => {
                    length += part.len();
                    if joined.is_empty() && self.is_end_stream() {
                        data = part;
                    } else {
                        // SECURITY: each frame keeps the buffer that it was read into, and a client
                        // may send a body byte by byte: 64 KiB of it would hold half a gigabyte.
                        joined.extend_from_slice(&part);
                    }
                }
                Err(trailers) => frames.push_back(trailers),
            }
        }
        if !joined.is_empty() {
            data = joined.freeze();
        }
        let is_whole = length < limit && self.is_end_stream();
        if !data.is_empty() {
            frames.push_front(Frame::data(data.clone()));
        }
        self.put_back(frames);
        Ok(is_whole.then_some(data))
    }

    /// Its next part.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Streamed(streamed) => streamed.poll_frame(cx),
            RequestBody::Replayed(frames, rest) => match (frames.pop_front(), rest) {
                (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
                (None, Some(streamed)) => streamed.poll_frame(cx),
                (None, None) => Poll::Ready(None),
            },
        }
    }

    /// Puts frames back in front of those still to come.
    fn put_back(&mut self, mut frames: VecDeque<Frame>) {
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

    /// From now on the body fails if the client falls behind `pace` or sends more than `size`
    /// bytes.
    pub fn limit(&mut self, pace: Pace, size: u64) {
        match self {
            RequestBody::Empty | RequestBody::Replayed(_, None) => {}
            RequestBody::Streamed(streamed) | RequestBody::Replayed(_, Some(streamed)) => {
                streamed.allowance = Some(Box::new(Allowance { patience: Patience::new(pace), size, left: size }));
            }
        }
    }
}

impl Incoming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let frame = match self {
            Incoming::Http1(incoming) => ready!(incoming.poll_frame(cx)).map(|frame| frame.map_err(Into::into)),
            Incoming::Http2(incoming) => {
                ready!(Pin::new(incoming).poll_frame(cx)).map(|frame| frame.map(Frame::from).map_err(Into::into))
            }
        };
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::BrokeOff)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Incoming::Http1(incoming) => incoming.is_end_stream(),
            Incoming::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Incoming::Http1(incoming) => incoming.size_hint(),
            Incoming::Http2(incoming) => incoming.size_hint(),
        }
    }
}

impl Streamed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self.incoming.poll_frame(cx) {
            Poll::Ready(mut frame) => {
                let mut bytes = 0;
                if let Some(Ok(frame)) = &mut frame {
                    if let Some(trailers) = frame.trailers_mut() {
                        fields::prepare_request_trailers(trailers);
                    }
                    bytes = frame.data_ref().map_or(0, Bytes::len);
                }
                self.progress = Instant::now();
                if let Some(allowance) = &mut self.allowance
                    && let Err(error) = allowance.take(bytes, self.progress)
                {
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(frame)
            }
            Poll::Pending => match &mut self.allowance {
                Some(allowance) => allowance.patience.poll_over(cx).map(|why| Some(Err(BodyError::TooSlow(why)))),
                None => Poll::Pending,
            },
        }
    }
}

impl Allowance {
    fn take(&mut self, bytes: usize, now: Instant) -> Result<(), BodyError> {
        self.patience.moved(bytes, now);
        self.left = self.left.checked_sub(bytes as u64).ok_or(BodyError::TooLarge(self.size))?;
        Ok(())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<body::Frame<Bytes>, BodyError>>> {
        self.poll_next(cx).map_ok(Into::into)
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

    // Without an exact hint, a body of known length would be sent in chunks.
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
