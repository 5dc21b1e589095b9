//! A response body whose start was read before its head was passed on. The client still gets all of
//! it unchanged, including an early end.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::error::CutError;
use super::relay::Relay;
use crate::http1::frame::Frame;

/// How long an answer may take to be read before its head is passed on.
const PEEK_TIME: Duration = Duration::from_secs(10);

/// The frames that were read, and the rest.
pub struct Peeked {
    frames: VecDeque<Result<Frame, CutError>>,
    pub relay: Relay,
    /// Bytes left for the client, if the length was announced or all was read. A body that ended
    /// early must not look complete.
    left: Option<u64>,
}

impl Peeked {
    /// A body of which nothing was read yet.
    pub fn new(relay: Relay) -> Self {
        let left = relay.left();
        Peeked { frames: VecDeque::new(), relay, left }
    }

    /// Reads ahead. Returns the data if that is the whole body, at most `limit` bytes and without
    /// trailers. Dropping this future loses nothing.
    pub async fn read(&mut self, limit: usize) -> Option<Bytes> {
        let deadline = Instant::now() + PEEK_TIME;
        let (mut data, mut is_plain) = (BytesMut::new(), true);
        while data.len() <= limit && is_plain {
            let relay = &mut self.relay;
            let Some(frame) = timeout_at(deadline, poll_fn(|cx| relay.poll_frame(cx))).await.ok()? else { break };
            match frame.as_ref().ok().and_then(Frame::data_ref) {
                Some(part) => data.extend_from_slice(part),
                None => is_plain = false,
            }
            self.frames.push_back(frame);
            if self.relay.is_end() {
                break;
            }
        }
        if !self.relay.is_end() || !is_plain || data.len() > limit {
            return None;
        }
        let data = data.freeze();
        // Each frame keeps the buffer that it was read into.
        self.frames =
            Some(data.clone()).filter(|data| !data.is_empty()).map(|data| Ok(Frame::data(data))).into_iter().collect();
        self.left = Some(data.len() as u64);
        Some(data)
    }

    /// The next part of the response.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, CutError>>> {
        let Some(frame) = self.frames.pop_front() else { return self.relay.poll_frame(cx) };
        if let (Some(left), Ok(frame)) = (&mut self.left, &frame) {
            *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        Poll::Ready(Some(frame))
    }

    pub fn is_end(&self) -> bool {
        self.frames.is_empty() && self.relay.is_end()
    }

    /// How many bytes are left, if known.
    pub fn left(&self) -> Option<u64> {
        if self.frames.is_empty() { self.relay.left() } else { self.left }
    }
}
