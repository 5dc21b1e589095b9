//! Bytes that arrived on a connection and were not understood yet.
//!
//! An idle connection holds no buffer: ten thousand of them wait at no cost.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// What is read at once where a head is expected. Most heads are smaller, larger ones take several reads.
const HEAD_READ: usize = 16 * 1024;

/// What is read at once of an answer or a body. Twice as much makes no download faster, half of it makes them slower.
const READ: usize = 32 * 1024;

/// Up to this size what was read is copied to memory of its own size.
///
/// SECURITY: what is cut from the shared buffer keeps all of it, and a slow sender's small parts may be held for long.
const COPIED: usize = READ / 4;

thread_local! {
    /// Where everything is read to: one for all connections of a worker, which stays in the processor's cache. What a
    /// connection has to keep while its other side is slow, it takes [out of it](Input::detach).
    static SHARED: RefCell<BytesMut> = RefCell::default();
}

/// What was read and not taken yet.
#[derive(Default)]
pub struct Input {
    /// The bytes, in the order in which they came.
    pub buffer: BytesMut,
    /// Whether they lie in the buffer that all share.
    is_shared: bool,
}

impl Input {
    pub fn new() -> Self {
        Input::default()
    }

    /// Reads what there is, where a head is expected: its fields are held until the request is answered. Zero is the end.
    pub fn poll_read<S: AsyncRead + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_read_most(stream, cx, HEAD_READ, HEAD_READ)
    }

    /// Reads more of a message that is under way. Zero is the end.
    pub fn poll_read_on<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.poll_read_most(stream, cx, READ, COPIED)
    }

    /// Reads up to `most` bytes. If they are no more than `copied`, they get memory of their own at once.
    fn poll_read_most<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        most: usize,
        copied: usize,
    ) -> Poll<io::Result<usize>> {
        self.release();
        SHARED.with_borrow_mut(|shared| {
            // All of it, if nobody keeps a part of it any more; else another one.
            shared.reserve(READ);
            let read = ready!(poll_read_buf(Pin::new(stream), cx, &mut shared.limit(most)))?;
            if read > copied && self.buffer.is_empty() {
                self.buffer = shared.split();
                self.is_shared = true;
            } else {
                self.detach();
                self.buffer.extend_from_slice(shared);
                shared.clear();
            }
            Poll::Ready(Ok(read))
        })
    }

    /// Takes what was read out of the shared buffer, when it cannot be taken by whom it is for.
    pub fn detach(&mut self) {
        if std::mem::take(&mut self.is_shared) {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
    }

    /// Gives back the memory, if nothing is in it.
    pub fn release(&mut self) {
        if self.buffer.is_empty() {
            *self = Input::default();
        }
    }

    /// What is left, for the connection's next life.
    pub fn into_bytes(mut self) -> Bytes {
        self.detach();
        self.buffer.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

    const PART: usize = 20_000;

    async fn read(input: &mut Input, stream: &mut DuplexStream) -> usize {
        poll_fn(|cx| input.poll_read_on(stream, cx)).await.unwrap()
    }

    #[tokio::test]
    async fn one_buffer_serves_all_but_what_a_slow_side_keeps() {
        let (mut near, mut far) = duplex(READ);
        let (mut slow, mut next) = (Input::new(), Input::new());
        far.write_all(&[1; PART]).await.unwrap();
        assert_eq!(read(&mut slow, &mut near).await, PART);
        let shared = slow.buffer.as_ptr();
        slow.detach();
        for byte in [2, 3] {
            far.write_all(&[byte; PART]).await.unwrap();
            read(&mut next, &mut near).await;
            assert_eq!(next.buffer.as_ptr(), shared);
            assert_eq!(next.buffer.split().freeze(), [byte; PART][..]);
        }
        assert_eq!((slow.buffer.capacity(), &slow.buffer[..]), (PART, &[1; PART][..]));
    }

    #[tokio::test]
    async fn small_parts_hold_no_more_than_themselves() {
        let (mut near, mut far) = duplex(READ);
        let mut input = Input::new();
        far.write_all(&[1; COPIED]).await.unwrap();
        read(&mut input, &mut near).await;
        assert_eq!(input.buffer.capacity(), COPIED);
        // More of it is put behind.
        far.write_all(&[2; PART]).await.unwrap();
        read(&mut input, &mut near).await;
        assert_eq!((input.buffer.len(), input.buffer.last()), (COPIED + PART, Some(&2)));
    }
}
