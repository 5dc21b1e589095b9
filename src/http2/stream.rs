//! One stream of an HTTP/2 connection, from the request until the last of its answer was taken.
//!
//! Each stream has a window of its own (RFC 9113, 5.2). A client that goes on reading the connection but opens no window
//! for one answer stops that answer only; neither hyper nor h2 has a time limit for it, and its connection to the
//! upstream would be held for as long as the client likes.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::task::spawn_local;
use tokio::task_local;
use tokio::time::Instant;
use tracing::info;

use super::InFlight;
use crate::body::{BodyError, ResponseBody};
use crate::client_addr::Peer;
use crate::pace::{Pace, Patience};

task_local! {
    /// The stream whose task this is. hyper makes one future of a stream and its answer's body, so what the body tells
    /// here, whoever runs that future finds.
    static READER: Reader;
}

/// How the client takes the answer of one stream.
struct Reader {
    patience: RefCell<Patience>,
    /// What was handed over and has not been asked to be followed by more: it waits for the client's window.
    untaken: Cell<Option<usize>>,
    peer: Cell<Option<Peer>>,
}

/// Runs the streams that hyper spawns on the worker's own thread, and ends those whose answer is not read.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    /// `[server] response_write_idle` and `min_rate`.
    pub pace: Pace,
}

impl<F: Future + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let patience = RefCell::new(Patience::new(self.pace));
        let reader = Reader { patience, untaken: Cell::new(None), peer: Cell::new(None) };
        spawn_local(READER.scope(reader, async move {
            let mut stream = pin!(stream);
            // Dropped before its end, h2 resets the stream (CANCEL).
            poll_fn(|cx| if stream.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { poll_given_up(cx) }).await;
        }));
    }
}

fn poll_given_up(cx: &mut Context<'_>) -> Poll<()> {
    READER.with(|reader| {
        if reader.untaken.get().is_none() {
            return Poll::Pending;
        }
        reader.patience.borrow_mut().poll_over(cx).map(|why| {
            let peer = reader.peer.get().map(tracing::field::display);
            info!(peer, reason = %why, "reset an HTTP/2 stream: the client does not read its answer");
        })
    })
}

/// An answer's body that counts as activity, and tells when the client takes it. When it breaks off, that is held back for
/// one turn: h2 throws away what it has queued of a stream that is reset, and what came before the break should reach
/// the client, the head above all.
pub struct Answer {
    body: ResponseBody,
    broke_off: Option<BodyError>,
    _in_flight: InFlight,
}

impl Answer {
    /// `body`, for `peer`.
    pub fn new(body: ResponseBody, in_flight: InFlight, peer: Peer) -> Self {
        let _ = READER.try_with(|reader| reader.peer.set(Some(peer)));
        Answer { body, broke_off: None, _in_flight: in_flight }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    /// hyper asks for the next frame when the window has taken something of the last one.
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let _ = READER.try_with(|reader| {
            if let Some(bytes) = reader.untaken.take() {
                reader.patience.borrow_mut().moved(bytes, Instant::now());
            }
        });
        if let Some(error) = self.broke_off.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let _ = READER.try_with(|reader| reader.untaken.set(Some(data.len())));
                }
            }
            Some(Err(_)) => {
                self.broke_off = frame.and_then(Result::err);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.broke_off.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
