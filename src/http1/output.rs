//! Bytes to be written to a connection.
//!
//! Heads, chunk sizes and small frames are gathered in one buffer, so that a small response is one
//! plain write. A large frame is written from its own memory, by a vectored write with what
//! precedes and follows it.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// Up to this size, copying a frame costs less than a second part of a vectored write.
const SMALL: usize = 4 * 1024;

/// How much is gathered before it is written, in bytes.
const GATHERED: usize = 16 * 1024;

/// Most heads fit, together with a small body.
const USUAL: usize = 2 * 1024;

/// How many buffers are kept for later messages.
const MOST_SPARE: usize = 64;

thread_local! {
    /// Empty buffers of this worker's connections: hardly more are in use at once than messages are
    /// being written.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// What is to be written, in the order of these fields.
#[derive(Default)]
pub struct Output {
    gathered: Vec<u8>,
    written: usize,
    frame: Bytes,
    /// Whether the frame occupies no more memory than its own size.
    is_detached: bool,
    tail: &'static [u8],
    /// Bytes written since the last [`take_written`](Output::take_written).
    progress: usize,
}

impl Output {
    pub fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.frame.is_empty() && self.tail.is_empty()
    }

    /// Whether another frame can be pushed.
    pub fn has_room(&self) -> bool {
        self.frame.is_empty() && self.tail.is_empty() && self.gathered.len() < GATHERED
    }

    /// The gathering buffer, for writing in pieces. Only while there [is room](Self::has_room).
    pub fn gathered(&mut self) -> &mut Vec<u8> {
        if self.gathered.capacity() == 0 {
            self.gathered = SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(USUAL));
        }
        &mut self.gathered
    }

    /// Adds a frame and what follows it. Only while there [is room](Self::has_room).
    pub fn push(&mut self, frame: Bytes, tail: &'static [u8]) {
        if frame.len() <= SMALL {
            let gathered = self.gathered();
            gathered.extend_from_slice(&frame);
            gathered.extend_from_slice(tail);
        } else {
            self.frame = frame;
            self.is_detached = false;
            self.tail = tail;
        }
    }

    /// Writes until nothing is left.
    pub fn poll_flush<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let head = self.gathered.get(self.written..).unwrap_or_default();
            let written = if self.frame.is_empty() && self.tail.is_empty() {
                Pin::new(&mut *stream).poll_write(cx, head)
            } else {
                let parts = [IoSlice::new(head), IoSlice::new(&self.frame), IoSlice::new(self.tail)];
                Pin::new(&mut *stream).poll_write_vectored(cx, &parts)
            };
            match written? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(written) => self.advance(written),
                Poll::Pending => {
                    self.detach();
                    return Poll::Pending;
                }
            }
        }
        Pin::new(stream).poll_flush(cx)
    }

    /// How many bytes were written since the last call.
    pub fn take_written(&mut self) -> usize {
        std::mem::take(&mut self.progress)
    }

    /// Frees the memory if it is empty.
    pub fn release(&mut self) {
        if self.is_empty() && self.gathered.capacity() > 0 {
            let buffer = std::mem::take(&mut self.gathered);
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < MOST_SPARE && buffer.capacity() <= GATHERED {
                    spare.push(buffer);
                }
            });
        }
    }

    /// Copies a frame that cannot be written yet out of the read buffer, which all connections
    /// share.
    fn detach(&mut self) {
        if !self.frame.is_empty() && !std::mem::replace(&mut self.is_detached, true) {
            self.frame = Bytes::copy_from_slice(&self.frame);
        }
    }

    fn advance(&mut self, written: usize) {
        self.progress += written;
        let of_gathered = written.min(self.gathered.len() - self.written);
        self.written += of_gathered;
        if self.written == self.gathered.len() {
            self.gathered.clear();
            self.written = 0;
        }
        let of_frame = (written - of_gathered).min(self.frame.len());
        self.frame.advance(of_frame);
        let of_tail = written - of_gathered - of_frame;
        self.tail = self.tail.get(of_tail..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn everything_is_written_in_order_however_little_fits() {
        let large: Vec<u8> = (0..10_000).map(|at| (at % 251) as u8).collect();
        let mut output = Output::default();
        output.gathered().extend_from_slice(b"head");
        output.push(Bytes::from_static(b"small"), b"\r\n");
        assert!(output.has_room());
        output.push(Bytes::from(large.clone()), b"tail");
        assert!(!output.has_room());
        let (mut near, mut far) = tokio::io::duplex(7);
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            all
        });
        poll_fn(|cx| output.poll_flush(&mut near, cx)).await.unwrap();
        assert!(output.is_empty() && output.has_room());
        drop(near);
        assert_eq!(reading.await.unwrap(), [&b"headsmall\r\n"[..], &large, b"tail"].concat());
    }
}
