//! What a client connection waits for, and since when, so that a silent or slow client does not keep it for ever.
//!
//! hyper has one limit for a head, which is also its limit for idle connections, allocates a timer for each request,
//! does not cover a client that never sends a byte in all cases, and has none for a client that does not read
//! (hyper#1628, #2457). Here the stream notes what happens to it and the exchanges note when they begin and end; the
//! connection's task looks at that and at one [`Alarm`](crate::alarm::Alarm).
//!
//! While an exchange waits for the upstream nothing is waited for here; bodies have limits of their own.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The limits of a client connection.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `[server] first_byte_timeout`.
    pub first_byte: Duration,
    /// `[server] request_header_timeout`.
    pub request_header: Duration,
    /// `[server] keepalive_idle`.
    pub keepalive_idle: Duration,
    /// `[server] response_write_idle`.
    pub response_write_idle: Duration,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The first byte of a new connection.
    FirstByte,
    /// The rest of a head.
    Head,
    /// The next request.
    NextRequest,
    /// Room for what is to be written.
    Reader,
}

/// What happened on one connection. Times are milliseconds since it was accepted, plus one; zero is never.
///
/// Atomics, because hyper wants a stream that could be sent across threads where upgrades are served. It never is, so
/// relaxed loads and stores do, which cost what plain ones do.
pub struct Watch {
    accepted: Instant,
    exchanges: AtomicU32,
    head_since: AtomicU64,
    idle_since: AtomicU64,
    blocked_since: AtomicU64,
}

impl Watch {
    /// A connection that was accepted just now.
    pub fn new() -> Arc<Self> {
        Arc::new(Watch {
            accepted: Instant::now(),
            exchanges: AtomicU32::new(0),
            head_since: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
        })
    }

    /// A request arrived. What is returned is dropped when its answer has been handed over for writing.
    pub fn exchange(self: &Arc<Self>) -> Exchange {
        self.exchanges.store(self.exchanges.load(Relaxed) + 1, Relaxed);
        self.head_since.store(0, Relaxed);
        Exchange(Arc::clone(self))
    }

    /// What the connection waits for, and until when it may.
    pub fn waits_for(&self, limits: &Limits) -> Option<(Wait, Instant)> {
        let at = |since: u64, limit: Duration| self.accepted + Duration::from_millis(since.saturating_sub(1)) + limit;
        let [blocked, head, idle] =
            [&self.blocked_since, &self.head_since, &self.idle_since].map(|since| since.load(Relaxed));
        if blocked != 0 {
            return Some((Wait::Reader, at(blocked, limits.response_write_idle)));
        }
        if self.exchanges.load(Relaxed) > 0 {
            return None;
        }
        Some(match (head, idle) {
            (0, 0) => (Wait::FirstByte, at(0, limits.first_byte)),
            (0, idle) => (Wait::NextRequest, at(idle, limits.keepalive_idle)),
            // The one total among the limits: a head is small, and a byte now and then is what slow attackers send.
            (head, _) => (Wait::Head, at(head, limits.request_header)),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn was_read(&self) {
        if self.exchanges.load(Relaxed) == 0 && self.head_since.load(Relaxed) == 0 {
            self.head_since.store(self.now(), Relaxed);
        }
    }

    fn was_written(&self) {
        if self.blocked_since.load(Relaxed) != 0 {
            self.blocked_since.store(0, Relaxed);
        }
    }

    fn is_blocked(&self) {
        if self.blocked_since.load(Relaxed) == 0 {
            self.blocked_since.store(self.now(), Relaxed);
        }
    }
}

/// A request whose answer is not written yet.
pub struct Exchange(Arc<Watch>);

impl Drop for Exchange {
    fn drop(&mut self) {
        let left = self.0.exchanges.load(Relaxed).saturating_sub(1);
        self.0.exchanges.store(left, Relaxed);
        if left == 0 {
            self.0.idle_since.store(self.0.now(), Relaxed);
        }
    }
}

/// A client's stream that tells a [`Watch`] what happens to it.
pub struct Watched<S> {
    stream: S,
    watch: Arc<Watch>,
}

impl<S> Watched<S> {
    /// `stream`, watched by `watch`.
    pub fn new(stream: S, watch: Arc<Watch>) -> Self {
        Watched { stream, watch }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() && buffer.filled().len() > before {
            self.watch.was_read();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    fn note<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &outcome {
            Poll::Ready(_) => self.watch.was_written(),
            Poll::Pending => self.watch.is_blocked(),
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.note(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.note(shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::advance;

    const LIMITS: Limits = Limits {
        first_byte: Duration::from_secs(10),
        request_header: Duration::from_secs(30),
        keepalive_idle: Duration::from_secs(75),
        response_write_idle: Duration::from_secs(60),
    };

    fn left(watch: &Watch) -> Option<(Wait, u64)> {
        let rounded = Duration::from_millis(500);
        watch.waits_for(&LIMITS).map(|(wait, until)| (wait, (until + rounded - Instant::now()).as_secs()))
    }

    #[tokio::test(start_paused = true)]
    async fn each_state_has_its_own_limit() {
        let (mut client, server) = tokio::io::duplex(16);
        let watch = Watch::new();
        let mut server = Watched::new(server, Arc::clone(&watch));
        advance(Duration::from_secs(4)).await;
        assert_eq!(left(&watch), Some((Wait::FirstByte, 6)));

        // A byte now and then does not move the end of a head.
        for _ in 0..3 {
            client.write_all(b"x").await.unwrap();
            server.read_u8().await.unwrap();
            advance(Duration::from_secs(5)).await;
        }
        assert_eq!(left(&watch), Some((Wait::Head, 15)));

        let exchange = watch.exchange();
        assert_eq!(left(&watch), None);
        let second = watch.exchange();
        drop(exchange);
        assert_eq!(left(&watch), None);
        drop(second);
        advance(Duration::from_secs(5)).await;
        assert_eq!(left(&watch), Some((Wait::NextRequest, 70)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_a_little_goes_on() {
        let (mut client, server) = tokio::io::duplex(4);
        let watch = Watch::new();
        let mut server = Watched::new(server, Arc::clone(&watch));
        let _exchange = watch.exchange();
        server.write_all(b"1234").await.unwrap();
        assert_eq!(left(&watch), None);
        let full = tokio::time::timeout(Duration::from_secs(20), server.write_all(b"5678")).await;
        assert!(full.is_err());
        assert_eq!(left(&watch), Some((Wait::Reader, 40)));
        client.read_exact(&mut [0; 4]).await.unwrap();
        server.write_all(b"5678").await.unwrap();
        assert_eq!(left(&watch), None);
    }
}
