//! Bytes that arrived on a connection and were not understood yet.
//!
//! An idle connection holds no buffer: ten thousand of them wait at no cost.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

/// What is read at once where a head is expected. Most heads are smaller, larger ones take several reads.
const HEAD_READ: usize = 16 * 1024;

/// What is read at once of an answer or a body, at first and at most. More than this at once makes no download
/// faster and is memory for nothing with hundreds of them.
const LEAST_READ: usize = 8 * 1024;
const MOST_READ: usize = 128 * 1024;

thread_local! {
    /// Where heads are read to, before it is known how long they are: one for all connections of a worker.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; HEAD_READ]);
}

/// What was read and not taken yet.
pub struct Input {
    /// The bytes, in the order in which they came.
    pub buffer: BytesMut,
    next: usize,
}

impl Input {
    /// Nothing yet.
    pub fn new() -> Self {
        Input { buffer: BytesMut::new(), next: LEAST_READ }
    }

    /// Reads what there is, for a connection that may wait long for its next byte: without a buffer of its own until
    /// something comes. Zero is the end.
    pub fn poll_read<S: AsyncRead + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch);
            ready!(Pin::new(stream).poll_read(cx, &mut read))?;
            let read = read.filled();
            if self.buffer.is_empty() {
                self.buffer = BytesMut::from(read);
            } else {
                self.buffer.extend_from_slice(read);
            }
            Poll::Ready(Ok(read.len()))
        })
    }

    /// Reads more of a message that is under way, in portions that grow while the sender fills them. Zero is the end.
    pub fn poll_read_on<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.buffer.reserve(self.next);
        let room = self.buffer.capacity() - self.buffer.len();
        let read = ready!(poll_read_buf(Pin::new(stream), cx, &mut self.buffer))?;
        if read == room {
            self.next = (self.next * 2).min(MOST_READ);
        } else if read < self.next / 4 {
            self.next = (self.next / 2).max(LEAST_READ);
        }
        Poll::Ready(Ok(read))
    }

    /// Gives back the memory, if nothing is in it.
    pub fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }
}

impl Default for Input {
    fn default() -> Self {
        Input::new()
    }
}
