//! One stream of an HTTP/2 connection, from the request until the client has read the whole
//! response.
//!
//! Each stream has its own window (RFC 9113, 5.2). A client that reads the connection but opens no
//! window for one response stalls that response only; neither hyper nor h2 has a time limit for it,
//! and the connection to the upstream would be held for as long as the client chooses.
//!
//! hyper asks for the next frame of a response when the last one is in h2, and ends the stream's
//! future with the last frame. Neither shows what the client has read. But h2 writes a frame by
//! advancing the buffer that it was given, by as much as the window and the connection accept:
//! [`Handed`] counts that.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_local;
use tokio::task_local;
use tokio::time::Instant;
use tracing::info;

use super::InFlight;
use crate::client_addr::Peer;
use crate::forward::error::CutError;
use crate::forward::response_body::ResponseBody;
use crate::time::pace::{Pace, Patience};

/// How many bytes of a response h2 may hold after its exchange has ended. A response with more left
/// waits for the client, so that one that stops reading is noticed, and can be reset.
const TAIL: usize = 16 * 1024;

/// How many bytes are passed on at last, once so few are left unread.
const LAST_PART: usize = TAIL / 2;

task_local! {
    /// The stream of the current task. hyper makes one future of a stream and its response's body,
    /// so the body can reach the stream's state through this.
    ///
    /// hyper does not document that. If another task polled the body, it would find no reader, no
    /// byte would be counted, and a stream that its client does not read would never be reset. In
    /// tests/sidecar,
    /// `http2::limits::a_stream_without_a_window_does_not_hold_its_upstream_connection` would fail.
    static READER: Rc<Reader>;
}

/// How the client reads the response of one stream.
struct Reader {
    patience: RefCell<Patience>,
    /// Bytes that were passed to h2 and not read yet.
    untaken: Cell<usize>,
    /// Bytes that were read, but not reported to `patience` yet.
    taken: Cell<usize>,
    last_taken: Cell<Instant>,
    /// The waker to wake when no more than so many bytes are unread.
    waiting: RefCell<Option<(usize, Waker)>>,
    peer: Cell<Option<Peer>>,
    /// Counts as activity until the last byte was read.
    in_flight: RefCell<Option<InFlight>>,
}

/// Runs the streams that hyper spawns on the worker's own thread, and ends those whose response is
/// not read.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    /// `[server] response_write_idle` and `min_rate`.
    pub pace: Pace,
}

impl<F: Future + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let reader = Rc::new(Reader {
            patience: RefCell::new(Patience::new(self.pace)),
            untaken: Cell::new(0),
            taken: Cell::new(0),
            last_taken: Cell::new(Instant::now()),
            waiting: RefCell::new(None),
            peer: Cell::new(None),
            in_flight: RefCell::new(None),
        });
        spawn_local(READER.scope(Rc::clone(&reader), async move {
            {
                let mut stream = pin!(stream);
                // Dropped before its end, the stream is reset by h2 (CANCEL).
                poll_fn(
                    |cx| if stream.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { reader.poll_given_up(cx) },
                )
                .await;
            }
            // The bytes of the response that h2 holds are in transit as long as they move.
            poll_fn(|cx| reader.poll_tail(cx)).await;
            // h2 may keep bytes that the client does not read, and the reader with them.
            reader.in_flight.take();
        }));
    }
}

impl Reader {
    fn poll_given_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.settle();
        if self.untaken.get() == 0 {
            return Poll::Pending;
        }
        self.patience.borrow_mut().poll_over(cx).map(|why| {
            let peer = self.peer.get().map(tracing::field::display);
            info!(peer, reason = %why, "reset an HTTP/2 stream: the client does not read its answer");
        })
    }

    /// Ready when everything was read, or the patience is over: such a stream only ends with the
    /// connection, which is closed as idle when nothing is in flight on it.
    fn poll_tail(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_taken_to(0, cx).is_ready() {
            return Poll::Ready(());
        }
        self.settle();
        self.patience.borrow_mut().poll_over(cx).map(drop)
    }

    /// Reports to the patience what was read since the last time.
    fn settle(&self) {
        let (bytes, at) = (self.taken.take(), self.last_taken.get());
        let mut patience = self.patience.borrow_mut();
        if self.untaken.get() == 0 {
            patience.moved(bytes, at);
        } else if bytes > 0 {
            patience.moved_on(bytes, at);
        }
    }

    /// Ready when at most `bytes` of what was passed on are unread.
    fn poll_taken_to(&self, bytes: usize, cx: &mut Context<'_>) -> Poll<()> {
        if self.untaken.get() <= bytes {
            return Poll::Ready(());
        }
        *self.waiting.borrow_mut() = Some((bytes, cx.waker().clone()));
        Poll::Pending
    }

    fn hand_over(self: &Rc<Self>, data: Bytes) -> Handed {
        // The client's earlier behaviour does not count here.
        self.settle();
        self.untaken.set(self.untaken.get() + data.len());
        Handed { data, reader: Some(Rc::clone(self)) }
    }

    fn leaves(&self, bytes: usize) {
        let untaken = self.untaken.get().saturating_sub(bytes);
        self.untaken.set(untaken);
        let waiting = self.waiting.borrow_mut().take_if(|(least, _)| untaken <= *least);
        if let Some((_, waker)) = waiting {
            waker.wake();
        }
    }
}

/// A part of a response held by h2, which advances it as it writes.
pub struct Handed {
    data: Bytes,
    /// `None` outside a stream's task.
    reader: Option<Rc<Reader>>,
}

impl Buf for Handed {
    fn remaining(&self) -> usize {
        self.data.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.data
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
        if let Some(reader) = &self.reader {
            reader.taken.set(reader.taken.get() + count);
            reader.last_taken.set(Instant::now());
            reader.leaves(count);
        }
    }
}

impl Drop for Handed {
    /// The rest of a stream that was reset.
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take()
            && !self.data.is_empty()
        {
            reader.leaves(self.data.len());
        }
    }
}

/// A response's body that counts as activity, and notices when the client reads it. When it fails,
/// the error is delayed by one turn: h2 drops what it has queued of a stream that is reset, but
/// what came before the failure should reach the client, above all the head.
pub struct Answer {
    body: ResponseBody,
    reader: Option<Rc<Reader>>,
    broke_off: Option<CutError>,
    end: Option<End>,
    /// Its permit among the exchanges of its connection.
    _place: Option<OwnedSemaphorePermit>,
}

/// The end of a response, delayed until the client has read nearly everything before it.
enum End {
    Data(Bytes),
    Trailers(HeaderMap),
    Nothing,
}

impl Answer {
    /// `body`, for `peer`.
    pub fn new(body: ResponseBody, in_flight: InFlight, place: Option<OwnedSemaphorePermit>, peer: Peer) -> Self {
        let reader = READER.try_with(Rc::clone).ok();
        if let Some(reader) = &reader {
            reader.peer.set(Some(peer));
            reader.in_flight.replace(Some(in_flight));
        }
        Answer { body, reader, broke_off: None, end: None, _place: place }
    }

    fn hand_over(&self, data: Bytes) -> Frame<Handed> {
        Frame::data(match &self.reader {
            Some(reader) => reader.hand_over(data),
            None => Handed { data, reader: None },
        })
    }

    fn untaken(&self) -> usize {
        self.reader.as_ref().map_or(0, |reader| reader.untaken.get())
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Handed>>> {
        if let Some(reader) = &self.reader {
            ready!(reader.poll_taken_to(LAST_PART, cx));
        }
        Poll::Ready(match self.end.take() {
            Some(End::Data(data)) => Some(self.hand_over(data)),
            Some(End::Trailers(trailers)) => Some(Frame::trailers(trailers)),
            Some(End::Nothing) | None => None,
        })
    }

    /// Ready with the part of a frame that can be passed on at once.
    fn poll_hold(&mut self, frame: Option<Frame<Bytes>>, cx: &mut Context<'_>) -> Poll<Option<Frame<Handed>>> {
        let too_much = |more: usize| self.untaken().saturating_add(more) > TAIL;
        let (now, end) = match frame.map(Frame::into_data) {
            Some(Ok(mut data)) if self.body.is_end_stream() && too_much(data.len()) => {
                let last = data.split_off(data.len().saturating_sub(LAST_PART));
                (Some(data).filter(|data| !data.is_empty()), End::Data(last))
            }
            Some(Ok(data)) => return Poll::Ready(Some(self.hand_over(data))),
            Some(Err(frame)) => match frame.into_trailers() {
                Ok(trailers) => (None, End::Trailers(trailers)),
                Err(_) => (None, End::Nothing),
            },
            None => (None, End::Nothing),
        };
        let waits = too_much(0) || now.is_some() || matches!(end, End::Data(_));
        self.end = Some(end);
        match now {
            Some(data) => Poll::Ready(Some(self.hand_over(data))),
            None if waits => self.poll_end(cx),
            None => Poll::Ready(match self.end.take() {
                Some(End::Trailers(trailers)) => Some(Frame::trailers(trailers)),
                _ => None,
            }),
        }
    }
}

impl Body for Answer {
    type Data = Handed;
    type Error = CutError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Handed>, CutError>>> {
        if let Some(error) = self.broke_off.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if self.end.is_some() {
            return self.poll_end(cx).map(|frame| frame.map(Ok));
        }
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Err(error)) => {
                self.broke_off = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Ok(frame)) => self.poll_hold(Some(frame), cx).map(|frame| frame.map(Ok)),
            None => self.poll_hold(None, cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.broke_off.is_none() && self.end.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
