//! The two body types of an exchange: what goes up to the upstream and what comes down to the client.
//!
//! Frames pass through one at a time and are read when they are asked for: nothing here buffers or collects. What is
//! limited is silence and, where it is configured, the size of requests. The one kind of body that is held in memory is a
//! small one, and only [`RequestBody::Replayed`] can carry on what was read of it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::error::ExchangeError;
use crate::exchange::places::Places;
use crate::exchange::record::Access;
use crate::fields::hop_by_hop;
use crate::forward::request;
use crate::forward::tunnel::Tunnel;
use crate::forward::upstream::Lease;
use crate::http1;
use crate::http1::error::TooShort;
use crate::request_id::RequestId;
use crate::time::pace::{Pace, Patience, TooSlow};

/// Why a body did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The side that sends it closed the connection, or framed it wrongly.
    #[error("the body broke off")]
    BrokeOff(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It stood still, or came too slowly.
    #[error("the body did not come in time: {0}")]
    TooSlow(TooSlow),
    /// It is larger than `[server] max_request_body`, which this is.
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    /// It ended before its announced length.
    #[error("the body is shorter than its Content-Length")]
    TooShort,
}

impl From<TooShort> for BodyError {
    fn from(TooShort: TooShort) -> Self {
        BodyError::TooShort
    }
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
    progress: Instant,
    allowance: Option<Box<Allowance>>,
}

/// How slowly a body may come, and how much of it.
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

    /// When this body last moved; `None` when nothing of it is still to come from the client. The wait for the upstream's
    /// answer counts from here, so that a long upload is never mistaken for a silent upstream.
    pub fn progress(&self) -> Option<Instant> {
        match self {
            RequestBody::Empty | RequestBody::Replayed(_, None) => None,
            RequestBody::Streamed(streamed) | RequestBody::Replayed(_, Some(streamed)) => Some(streamed.progress),
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

    /// From now on the body fails when the client falls behind `pace`, or when more than `size` bytes of it come.
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
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match self {
            Incoming::Http1(incoming) => ready!(incoming.poll_frame(cx)).map(|frame| frame.map_err(Into::into)),
            Incoming::Http2(incoming) => {
                ready!(Pin::new(incoming).poll_frame(cx)).map(|frame| frame.map_err(Into::into))
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
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.incoming.poll_frame(cx) {
            Poll::Ready(mut frame) => {
                let mut bytes = 0;
                if let Some(Ok(frame)) = &mut frame {
                    if let Some(trailers) = frame.trailers_mut() {
                        request::prepare_trailers(trailers);
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

    // Without an exact hint a body of known length would be sent in chunks.
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
    /// The line of the log that this answer becomes, where there is to be one.
    access: Option<Box<Access>>,
    /// What the exchange holds until all of this was sent.
    places: Places,
}

enum Content {
    Whole(Option<Bytes>),
    Upstream(UpstreamBody),
    Switch(Tunnel),
}

impl ResponseBody {
    /// An answer that the sidecar makes itself.
    pub fn whole(bytes: Bytes) -> Self {
        ResponseBody::from(Content::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }

    /// The upstream's body.
    pub fn upstream(body: UpstreamBody) -> Self {
        ResponseBody::from(Content::Upstream(body))
    }

    /// No body: behind this answer the connection becomes another.
    pub fn switch(tunnel: Tunnel) -> Self {
        ResponseBody::from(Content::Switch(tunnel))
    }

    /// What the connection becomes behind this answer.
    pub fn into_tunnel(self) -> Option<Tunnel> {
        match self.content {
            Content::Switch(tunnel) => Some(tunnel.holding(self.places)),
            Content::Whole(_) | Content::Upstream(_) => None,
        }
    }

    /// The client takes no more for now. What was read ahead for it must not keep more memory than its own.
    pub fn settle(&mut self) {
        if let Content::Upstream(UpstreamBody { lease: Some(lease), .. }) = &mut self.content {
            lease.settle();
        }
    }

    /// Sends on what is left of the request's body while nothing of this one can be taken. Ready when that was sent, or is
    /// wanted by nobody.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.content {
            Content::Upstream(body) => body.poll_upload(cx),
            Content::Whole(_) | Content::Switch(_) => Poll::Ready(()),
        }
    }

    /// Keeps these until it was sent.
    pub fn holding(mut self, places: Places) -> Self {
        self.places = places;
        self
    }

    /// The log gets its line when this body ends.
    pub fn accompany(&mut self, mut access: Access) {
        access.sent.is_complete = self.is_end_stream();
        self.access = Some(Box::new(access));
    }

    fn sent(&mut self, frame: Option<&Result<Frame<Bytes>, BodyError>>) {
        let is_complete = !matches!(frame, Some(Err(_))) && self.is_end_stream();
        let Some(Access { sent, .. }) = self.access.as_deref_mut() else { return };
        sent.is_complete = is_complete;
        if let Some(Ok(frame)) = frame {
            sent.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
    }
}

impl From<Content> for ResponseBody {
    fn from(content: Content) -> Self {
        ResponseBody { content, access: None, places: Places::default() }
    }
}

/// A body that is still arriving from the upstream. At its end the connection goes back to the pool; dropped
/// before its end, the connection is closed with it, since what is left unread on it cannot be told from the next answer.
pub struct UpstreamBody {
    /// `None` once the body was read.
    lease: Option<Lease>,
    silent_since: Option<Instant>,
    /// Whether the rest of the request's body will never come.
    is_upload_broken: bool,
    client: IpAddr,
    id: RequestId,
}

impl UpstreamBody {
    /// The body that comes by `lease`, for the request `id` of `client`.
    pub fn new(lease: Lease, client: IpAddr, id: RequestId) -> Self {
        let mut body = UpstreamBody { lease: Some(lease), silent_since: None, is_upload_broken: false, client, id };
        body.give_back_at_end();
        body
    }

    fn give_back_at_end(&mut self) {
        if let Some(lease) = self.lease.take_if(|lease| lease.is_answered()) {
            lease.give_back();
        }
    }

    /// An upload that breaks after the answer began takes nothing from the answer: it may be whole without, as a 413 is.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(lease) = &mut self.lease else { return Poll::Ready(()) };
        if let Err(error) = ready!(lease.poll_upload(cx)) {
            let error = ExchangeError::from(error);
            lease.give_up_upload(&error);
            self.is_upload_broken = true;
            self.silent_since = None;
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let (client, request_id) = (self.client, &self.id);
            info!(%client, %request_id, source, "{error}, and its answer had begun");
        }
        Poll::Ready(())
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let _ = self.poll_upload(cx);
        let Some(lease) = &mut self.lease else { return Poll::Ready(None) };
        let frame = match lease.poll_frame(cx) {
            Poll::Ready(Some(frame)) => frame,
            Poll::Ready(None) => {
                self.give_back_at_end();
                return Poll::Ready(None);
            }
            Poll::Pending => {
                let since = *self.silent_since.get_or_insert_with(Instant::now);
                let silent = match self.is_upload_broken {
                    true => lease.poll_silent_without_upload(cx, since),
                    false => lease.poll_silent(cx, since),
                };
                Err(BodyError::TooSlow(TooSlow::Silent(ready!(silent))))
            }
        };
        self.silent_since = None;
        match &frame {
            Ok(_) => self.give_back_at_end(),
            // The error passes on: a cut answer must stay visibly cut (the client's connection is aborted).
            Err(error) => {
                let lease = self.lease.take();
                // Else the client's fault was told.
                if !self.is_upload_broken {
                    let source = std::error::Error::source(error).map(ToString::to_string);
                    let (client, request_id) = (self.client, &self.id);
                    warn!(%client, %request_id, source, "the upstream's answer ended early: {error}");
                    if let Some(lease) = lease {
                        lease.cut(error);
                    }
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
        let mut frame = match &mut self.content {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Upstream(body) => body.poll_frame(cx),
            Content::Switch(_) => Poll::Ready(None),
        };
        if let Poll::Ready(Some(Ok(part))) = &mut frame
            && let Some(trailers) = part.trailers_mut()
        {
            hop_by_hop::remove_from_trailers(trailers, |_| false);
        }
        if self.access.is_some()
            && let Poll::Ready(frame) = &frame
        {
            self.sent(frame.as_ref());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_none(),
            Content::Upstream(body) => body.lease.is_none(),
            Content::Switch(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let length = match &self.content {
            Content::Whole(bytes) => Some(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Content::Upstream(body) => body.lease.as_ref().map_or(Some(0), Lease::left),
            Content::Switch(_) => Some(0),
        };
        length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
