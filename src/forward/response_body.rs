//! The body sent to a client: that of one of the sidecar's own responses, the upstream's as it
//! arrives, or the switch to a tunnel.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{self, Body, SizeHint};

use super::error::CutError;
use super::peeked::Peeked;
use super::relay::Relay;
use super::tunnel::Tunnel;
use crate::access_log::Access;
use crate::admission::places::Places;
use crate::fields::hop_by_hop;
use crate::http1::frame::Frame;

/// The body of a response.
pub struct ResponseBody {
    content: Content,
    /// The access log's line, if one is wanted.
    access: Option<Box<Access>>,
    /// The permits that the exchange holds until the body was sent.
    places: Places,
}

enum Content {
    Whole(Option<Bytes>),
    Relayed(Relay),
    Peeked(Box<Peeked>),
    Switch(Tunnel),
}

impl ResponseBody {
    /// The body of one of the sidecar's own responses.
    pub fn whole(bytes: Bytes) -> Self {
        ResponseBody::of(Content::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }

    pub fn relayed(relay: Relay) -> Self {
        ResponseBody::of(Content::Relayed(relay))
    }

    /// No body: after this response the connection becomes a tunnel.
    pub fn switch(tunnel: Tunnel) -> Self {
        ResponseBody::of(Content::Switch(tunnel))
    }

    fn of(content: Content) -> Self {
        ResponseBody { content, access: None, places: Places::default() }
    }

    /// What the connection becomes after this response.
    pub fn into_tunnel(self) -> Option<Tunnel> {
        match self.content {
            Content::Switch(tunnel) => Some(tunnel.holding(self.places)),
            Content::Whole(_) | Content::Relayed(_) | Content::Peeked(_) => None,
        }
    }

    /// Reads the start of a relayed body and puts it back, so that the client gets it unchanged.
    /// Returns the data if that is the whole body, at most `limit` bytes and without trailers.
    pub async fn peek(&mut self, limit: usize) -> Option<Bytes> {
        self.content = match std::mem::replace(&mut self.content, Content::Whole(None)) {
            Content::Relayed(relay) => Content::Peeked(Box::new(Peeked::new(relay))),
            other => other,
        };
        match &mut self.content {
            Content::Peeked(peeked) => peeked.read(limit).await,
            Content::Whole(_) | Content::Relayed(_) | Content::Switch(_) => None,
        }
    }

    /// The client reads no more for now. What was read ahead for it must occupy no more memory than
    /// its own size.
    pub fn detach(&mut self) {
        match &mut self.content {
            Content::Relayed(relay) => relay.detach(),
            Content::Peeked(peeked) => peeked.relay.detach(),
            Content::Whole(_) | Content::Switch(_) => {}
        }
    }

    /// Continues the request's upload while the client reads nothing of this response. Ready when
    /// it was sent, or the upstream does not want it.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.content {
            Content::Relayed(relay) => relay.poll_upload(cx),
            Content::Peeked(peeked) => peeked.relay.poll_upload(cx),
            Content::Whole(_) | Content::Switch(_) => Poll::Ready(()),
        }
    }

    /// Holds these permits until the body was sent.
    pub fn holding(mut self, places: Places) -> Self {
        self.places = places;
        self
    }

    /// Writes the access log's line when this body ends.
    pub fn log_at_end(&mut self, mut access: Access) {
        access.is_complete = self.is_end_stream();
        self.access = Some(Box::new(access));
    }

    /// Its next part.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, CutError>>> {
        let mut frame = match &mut self.content {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Relayed(relay) => relay.poll_frame(cx),
            Content::Peeked(peeked) => peeked.poll_frame(cx),
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
            self.note_for_log(frame.as_ref());
        }
        frame
    }

    fn note_for_log(&mut self, frame: Option<&Result<Frame, CutError>>) {
        let is_complete = !matches!(frame, Some(Err(_))) && self.is_end_stream();
        let Some(access) = self.access.as_deref_mut() else { return };
        access.is_complete = is_complete;
        if let Some(Ok(frame)) = frame {
            access.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = CutError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<body::Frame<Bytes>, CutError>>> {
        self.poll_next(cx).map_ok(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_none(),
            Content::Relayed(relay) => relay.is_end(),
            Content::Peeked(peeked) => peeked.is_end(),
            Content::Switch(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let length = match &self.content {
            Content::Whole(bytes) => Some(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Content::Relayed(relay) => relay.left(),
            Content::Peeked(peeked) => peeked.left(),
            Content::Switch(_) => Some(0),
        };
        length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
