//! One stream of an HTTP/2 connection, from the request until the last of its answer was taken.
//!
//! Each stream has a window of its own (RFC 9113, 5.2). A client that goes on reading the connection but opens no window
//! for one answer stops that answer only; neither hyper nor h2 has a time limit for it, and its connection to the
//! upstream would be held for as long as the client likes.
//!
//! hyper asks for the next frame of an answer when the last one lies in h2, and ends the stream's future when the last
//! frame does. Neither says what the client took. h2 however writes a frame by advancing the buffer that it was given, by
//! as much as the window and the connection take: [`Handed`] counts that.

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

/// What h2 may keep of an answer whose exchange is over. An answer with more left waits for the client, so that one that
/// stops reading is noticed, and can be reset.
const TAIL: usize = 16 * 1024;

/// How much is handed over at last, when as little as this is left to be taken.
const LAST_PART: usize = TAIL / 2;

task_local! {
    /// The stream whose task this is. hyper makes one future of a stream and its answer's body, so what the body tells
    /// here, whoever runs that future finds.
    ///
    /// hyper does not document that. If another task polled the body, it would find no reader, no byte would be counted, and
    /// a stream that its client does not read would never be reset. In tests/sidecar,
    /// `http2::limits::a_stream_without_a_window_does_not_hold_its_upstream_connection` would fail.
    static READER: Rc<Reader>;
}

/// How the client takes the answer of one stream.
struct Reader {
    patience: RefCell<Patience>,
    /// Bytes that were handed over and not taken yet.
    untaken: Cell<usize>,
    /// Bytes that were taken and are not yet known to `patience`.
    taken: Cell<usize>,
    last_taken: Cell<Instant>,
    /// Whom to wake when no more than so many bytes are untaken.
    waiting: RefCell<Option<(usize, Waker)>>,
    peer: Cell<Option<Peer>>,
    /// It counts as activity until the last byte was taken.
    in_flight: RefCell<Option<InFlight>>,
}

/// Runs the streams that hyper spawns on the worker's own thread, and ends those whose answer is not read.
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
                // Dropped before its end, h2 resets the stream (CANCEL).
                poll_fn(
                    |cx| if stream.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { reader.poll_given_up(cx) },
                )
                .await;
            }
            // What h2 has of the answer is on its way for as long as it moves.
            poll_fn(|cx| reader.poll_tail(cx)).await;
            // h2 may keep what the client does not take, and with it the reader.
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

    /// Ready when all was taken, or when the patience is over: nothing but the end of the connection ends such a stream, and
    /// one that nothing is in flight on is ended as idle.
    fn poll_tail(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_taken_to(0, cx).is_ready() {
            return Poll::Ready(());
        }
        self.settle();
        self.patience.borrow_mut().poll_over(cx).map(drop)
    }

    /// Reports to the patience what was taken since the last time.
    fn settle(&self) {
        let (bytes, at) = (self.taken.take(), self.last_taken.get());
        let mut patience = self.patience.borrow_mut();
        if self.untaken.get() == 0 {
            patience.moved(bytes, at);
        } else if bytes > 0 {
            patience.moved_on(bytes, at);
        }
    }

    /// Ready when at most `bytes` of what was handed over are untaken.
    fn poll_taken_to(&self, bytes: usize, cx: &mut Context<'_>) -> Poll<()> {
        if self.untaken.get() <= bytes {
            return Poll::Ready(());
        }
        *self.waiting.borrow_mut() = Some((bytes, cx.waker().clone()));
        Poll::Pending
    }

    fn hand_over(self: &Rc<Self>, data: Bytes) -> Handed {
        // What the client did before says nothing about this.
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

/// A part of an answer in the hands of h2, which advances it as it writes.
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
    /// A stream that was reset leaves the rest.
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take()
            && !self.data.is_empty()
        {
            reader.leaves(self.data.len());
        }
    }
}

/// An answer's body that counts as activity, and tells when the client takes it. When it breaks off, that is held back for
/// one turn: h2 throws away what it has queued of a stream that is reset, and what came before the break should reach
/// the client, the head above all.
pub struct Answer {
    body: ResponseBody,
    reader: Option<Rc<Reader>>,
    broke_off: Option<CutError>,
    end: Option<End>,
    /// Its place among the exchanges of its connection.
    _place: Option<OwnedSemaphorePermit>,
}

/// How an answer ends, held back until the client has taken nearly all that is before it.
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

    /// Ready with what can be handed over at once of a frame of the body.
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
