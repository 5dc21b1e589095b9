//! Gathers what h2 writes for many streams into few writes.
//!
//! h2 flushes after each DATA frame of 256 bytes or more (0.4.20, `FramedWrite::flush`): 20,000
//! responses took 20,040 calls of writev, and as many TLS records. Here a flush does nothing. The
//! gathered bytes are written after h2's turn, and before that whenever there are [`MOST`] of them.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Two TLS records (RFC 8446, 5.1).
const MOST: usize = 32 * 1024;

thread_local! {
    /// The buffer of the last connection that was written completely, for the next one: connections
    /// waiting for their clients have none.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A client's stream. All clones share it.
pub struct Gathered<I>(Rc<RefCell<Inner<I>>>);

struct Inner<I> {
    io: I,
    bytes: Vec<u8>,
    /// How many of the gathered bytes are written.
    written: usize,
    /// Whether TLS may still hold written bytes.
    is_kept: bool,
    /// The error of the last turn's write.
    error: Option<io::Error>,
}

impl<I> Clone for Gathered<I> {
    fn clone(&self) -> Self {
        Gathered(Rc::clone(&self.0))
    }
}

impl<I: AsyncWrite + Unpin> Gathered<I> {
    pub fn new(io: I) -> Self {
        Gathered(Rc::new(RefCell::new(Inner { io, bytes: Vec::new(), written: 0, is_kept: false, error: None })))
    }

    /// Writes as many of the gathered bytes as the client reads; the rest when it reads more, which
    /// wakes `cx`. A failure is returned by h2's next write.
    pub fn write_out(&self, cx: &mut Context<'_>) {
        let mut inner = self.0.borrow_mut();
        if let Poll::Ready(Err(error)) = inner.poll_out(cx) {
            inner.error = Some(error);
            // The connection's next turn finds the error.
            cx.waker().wake_by_ref();
        }
    }
}

impl<I: AsyncWrite + Unpin> Inner<I> {
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(left @ [_, ..]) = self.bytes.get(self.written..) {
            match ready!(Pin::new(&mut self.io).poll_write(cx, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => {
                    self.written += written;
                    self.is_kept = true;
                }
            }
        }
        if !self.bytes.is_empty() {
            self.written = 0;
            self.bytes.clear();
            SPARE.replace(std::mem::take(&mut self.bytes));
        }
        if self.is_kept {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.is_kept = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when there is room for more.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Err(error));
        }
        if self.bytes.len() >= MOST {
            ready!(self.poll_out(cx))?;
        }
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.take();
        }
        Poll::Ready(Ok(()))
    }

    /// Takes as much of `data` as there is room for.
    fn gather(&mut self, data: &[u8]) -> usize {
        let fits = data.len().min(MOST.saturating_sub(self.bytes.len()));
        self.bytes.extend_from_slice(data.get(..fits).unwrap_or_default());
        fits
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Gathered<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Gathered<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_room(cx))?;
        Poll::Ready(Ok(inner.gather(data)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_room(cx))?;
        Poll::Ready(Ok(parts.iter().map(|part| inner.gather(part)).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.borrow_mut().error.take().map_or(Ok(()), Err))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_out(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    async fn write_out(gathered: &Gathered<DuplexStream>) {
        poll_fn(|cx| {
            gathered.write_out(cx);
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn nothing_is_written_before_the_turn_ends() {
        let (near, mut far) = duplex(2 * MOST);
        let mut gathered = Gathered::new(near);
        gathered.write_all(b"one").await.unwrap();
        gathered.flush().await.unwrap();
        let parts = [IoSlice::new(b"two"), IoSlice::new(b"three")];
        assert_eq!(poll_fn(|cx| Pin::new(&mut gathered).poll_write_vectored(cx, &parts)).await.unwrap(), 8);
        let mut byte = [0];
        let nothing = tokio::time::timeout(std::time::Duration::from_millis(20), far.read(&mut byte)).await;
        assert!(nothing.is_err());
        write_out(&gathered).await;
        let mut all = [0; 11];
        far.read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"onetwothree");
        gathered.write_all(b"last").await.unwrap();
        gathered.shutdown().await.unwrap();
        let mut rest = String::new();
        far.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "last");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_holds_a_bounded_amount() {
        let (near, mut far) = duplex(10);
        let mut gathered = Gathered::new(near);
        let data = vec![b'x'; 3 * MOST];
        let taken = poll_fn(|cx| Pin::new(&mut gathered).poll_write(cx, &data)).await.unwrap();
        assert_eq!(taken, MOST);
        let more = poll_fn(|cx| Poll::Ready(Pin::new(&mut gathered).poll_write(cx, &data).is_pending())).await;
        assert!(more, "it is full");
        let writer = async {
            gathered.write_all(&data).await.unwrap();
            gathered.shutdown().await.unwrap();
        };
        let mut all = Vec::new();
        let (_, read) = tokio::join!(writer, far.read_to_end(&mut all));
        assert_eq!((read.unwrap(), all.len()), (4 * MOST, 4 * MOST));
    }

    /// A stream that keeps its input until it is flushed, like TLS.
    struct Keeping {
        kept: Vec<u8>,
        out: DuplexStream,
    }

    impl AsyncWrite for Keeping {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            self.kept.extend_from_slice(data);
            Poll::Ready(Ok(data.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            while !self.kept.is_empty() {
                let kept = self.kept.clone();
                let written = ready!(Pin::new(&mut self.out).poll_write(cx, &kept))?;
                self.kept.drain(..written);
            }
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.out).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn what_the_stream_keeps_is_flushed_when_the_client_takes_more() {
        let (out, mut far) = duplex(10);
        let mut gathered = Gathered::new(Keeping { kept: Vec::new(), out });
        gathered.write_all(&[b'x'; 25]).await.unwrap();
        let turns = poll_fn(|cx| {
            gathered.write_out(cx);
            Poll::<()>::Pending
        });
        let mut all = [0; 25];
        tokio::select! {
            () = turns => {}
            read = far.read_exact(&mut all) => assert_eq!(read.unwrap(), 25),
        }
    }

    #[tokio::test]
    async fn a_failure_is_of_the_next_write() {
        let (near, far) = duplex(10);
        let mut gathered = Gathered::new(near);
        gathered.write_all(b"a").await.unwrap();
        drop(far);
        write_out(&gathered).await;
        assert_eq!(gathered.write(b"b").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
