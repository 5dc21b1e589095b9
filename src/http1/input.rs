//! Bytes of a connection that were received and not parsed yet.
//!
//! An idle connection holds no buffer: ten thousand of them cost no memory here.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// How much is read at once when a head is expected. Most heads are smaller; larger ones take
/// several reads.
const HEAD_READ: usize = 16 * 1024;

/// How much is read at once of a response or a body. Twice as much makes no download faster; half
/// as much makes them slower.
const READ: usize = 32 * 1024;

/// Up to this size, received data is copied to memory of its own size.
///
/// SECURITY: a slice of the shared buffer keeps the whole of it, and a slow sender's small parts
/// may be held for long.
const COPIED: usize = READ / 4;

thread_local! {
    /// The buffer for all connections of a worker, which stays in the processor's cache. Data that
    /// a connection must keep while its other side is slow is [copied out](Input::detach).
    static SHARED: RefCell<BytesMut> = RefCell::default();
}

/// Bytes that were received and not parsed.
#[derive(Default)]
pub struct Input {
    /// The bytes in the order in which they arrived.
    pub buffer: BytesMut,
    /// Whether they are in the shared buffer.
    is_shared: bool,
}

impl Input {
    pub fn new() -> Self {
        Input::default()
    }

    /// Reads when a head is expected, whose fields are held until the request is answered. Zero is
    /// the end.
    pub fn poll_read<S: AsyncRead + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_read_most(stream, cx, HEAD_READ, HEAD_READ)
    }

    /// Reads more of a message in transit. Zero is the end.
    pub fn poll_read_on<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.poll_read_most(stream, cx, READ, COPIED)
    }

    /// Reads up to `most` bytes. Up to `copied` bytes get their own memory at once.
    fn poll_read_most<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        most: usize,
        copied: usize,
    ) -> Poll<io::Result<usize>> {
        self.release();
        SHARED.with_borrow_mut(|shared| {
            // Reuses the buffer if no part of it is held any more, otherwise allocates another.
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

    /// Copies the data out of the shared buffer if its consumer cannot take it now.
    pub fn detach(&mut self) {
        if std::mem::take(&mut self.is_shared) {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
    }

    /// Frees the memory if it is empty.
    pub fn release(&mut self) {
        if self.buffer.is_empty() {
            *self = Input::default();
        }
    }

    /// The remaining bytes, for the protocol that follows.
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
