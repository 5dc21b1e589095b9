//! The receiving side of a client's connection: heads, bodies, and its end.
//!
//! It is shared by the connection and the body of its request, which reads from it on demand.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::response;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::decoder::{Decoded, Decoder};
use super::error::{HeadError, ReadError};
use super::frame::Frame;
use super::head::{self, HeadLimits, RequestHead};
use super::input::Input;
use super::rewound::Rewound;
use super::write;
use crate::net::stream::{self, ClientStream};
use crate::time::alarm::Alarm;

/// A client that is still sending when the sidecar closes gets a reset, and loses the last
/// response. So the sidecar reads on for a moment, as long as nginx does (lingering_timeout).
const LINGER: Duration = Duration::from_secs(5);

/// How often to check for a client that disconnected while the sidecar is not reading from it. A
/// disconnect is noticed within two intervals, that is, one second.
const LOOK: Duration = Duration::from_millis(500);

/// How many bytes of interim responses may wait for the client to read them.
const MOST_INTERIM: usize = 16 * 1024;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The receiving side of a connection.
pub struct Inbound {
    stream: ClientStream,
    input: Input,
    /// How many bytes of an incomplete head were already searched for its end.
    looked_at: usize,
    body: Decoder,
    /// Bytes of the body received since the last [`take_received`](Inbound::take_received).
    received: usize,
    awaits_continue: bool,
    /// What must be written before the response: `100 Continue` and other interim responses.
    interim: BytesMut,
    /// Whether the first of them is half written.
    has_interim_begun: bool,
    /// Whether the remaining bytes will never be read.
    is_cut_off: bool,
    /// Whether a task waits for the next part of the body, and so notices that the client leaves.
    is_awaited: bool,
    /// Whether any byte has moved in either direction since the last check for a disconnect.
    has_moved: bool,
    last_look: Option<Instant>,
    alarm: Alarm,
}

/// The [`Inbound`] of a connection, shared by the connection and the body of its request.
///
/// The connection polls the body of the response. That may poll the body of the request, which
/// borrows this: a borrow that still existed then would panic, and only for clients that upload
/// while they are answered. So no borrow leaves this type: it lasts for one call of
/// [`SharedInbound::with`], in which only the `Inbound` and its stream are polled.
#[derive(Clone)]
pub struct SharedInbound(Rc<RefCell<Inbound>>);

impl SharedInbound {
    /// A connection of which nothing was read yet.
    pub fn new(stream: ClientStream) -> Self {
        SharedInbound(Rc::new(RefCell::new(Inbound::new(stream))))
    }

    /// Runs `use_it` on the `Inbound`. `use_it` must not call this again.
    pub fn with<R>(&self, use_it: impl FnOnce(&mut Inbound) -> R) -> R {
        use_it(&mut self.0.borrow_mut())
    }

    /// The `Inbound` itself, unless a request's body still shares it.
    pub fn into_inner(self) -> Option<Inbound> {
        Rc::into_inner(self.0).map(RefCell::into_inner)
    }
}

impl Inbound {
    /// A connection of which nothing was read yet.
    pub fn new(stream: ClientStream) -> Self {
        Inbound {
            stream,
            input: Input::new(),
            looked_at: 0,
            body: Decoder::none(),
            received: 0,
            awaits_continue: false,
            interim: BytesMut::new(),
            has_interim_begun: false,
            is_cut_off: false,
            is_awaited: false,
            has_moved: false,
            last_look: None,
            alarm: Alarm::default(),
        }
    }

    /// The stream, for writing.
    pub fn stream(&mut self) -> &mut ClientStream {
        &mut self.stream
    }

    /// Bytes that were read and belong to no request yet.
    pub fn unread(&self) -> &[u8] {
        &self.input.buffer
    }

    /// Reads more bytes. Zero is the end.
    ///
    /// # Errors
    /// The connection failed.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.poll_read(&mut self.stream, cx)
    }

    /// The head of the next request, if it is complete.
    ///
    /// # Errors
    /// The bytes are not a head, or it is too large.
    pub fn head(&mut self, limits: &HeadLimits) -> Result<Option<RequestHead>, HeadError> {
        let buffer = &mut self.input.buffer;
        // Some clients send an extra empty line after a request (RFC 9112, 2.2); it does not start
        // another one. SECURITY: kept in the buffer, endless empty lines would be parsed again with
        // each that arrives.
        while let [b'\n', ..] | [b'\r', b'\n', ..] = buffer[..] {
            let length = if buffer.starts_with(b"\n") { 1 } else { 2 };
            buffer.advance(length);
            self.looked_at = 0;
        }
        if buffer.is_empty() {
            self.input.release();
            return Ok(None);
        }
        let may_be_whole = self.looked_at == 0 || head::may_end(buffer, self.looked_at);
        if may_be_whole && let Some(head) = head::request(buffer, limits)? {
            self.looked_at = 0;
            self.has_moved = true;
            self.input.release();
            return Ok(Some(head));
        }
        self.looked_at = buffer.len();
        if buffer.len() >= limits.bytes { Err(HeadError::TooLarge) } else { Ok(None) }
    }

    /// The head is followed by `body`.
    pub fn begin_body(&mut self, body: Decoder, awaits_continue: bool) {
        self.body = body;
        self.awaits_continue = awaits_continue;
    }

    /// The next part of the request's body. The first call allows a waiting client to send it.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, ReadError>> {
        if std::mem::take(&mut self.awaits_continue) {
            self.interim.extend_from_slice(CONTINUE);
        }
        ready!(self.poll_interim(cx))?;
        loop {
            // SECURITY: with invalid chunked framing, where the next request starts is unknown.
            match self.body.decode(&mut self.input.buffer).inspect_err(|_| self.is_cut_off = true)? {
                Decoded::Frame(frame) => {
                    self.has_moved = true;
                    self.received += frame.data_ref().map_or(0, Bytes::len);
                    return Poll::Ready(Ok(Some(frame)));
                }
                Decoded::End => {
                    self.input.release();
                    return Poll::Ready(Ok(None));
                }
                Decoded::More => {}
            }
            let read = self.input.poll_read_on(&mut self.stream, cx);
            self.is_awaited = read.is_pending();
            if ready!(read)? == 0 {
                self.is_cut_off = true;
                self.body.close()?;
            }
        }
    }

    /// Reads and drops the rest of the request's body: a client may send all of it before it reads
    /// its response.
    pub fn discard_body(&mut self, cx: &mut Context<'_>) {
        while !self.is_cut_off && matches!(self.poll_body(cx), Poll::Ready(Ok(Some(_)))) {}
    }

    /// How much of the request's body was received since the last call.
    pub fn take_received(&mut self) -> usize {
        std::mem::take(&mut self.received)
    }

    /// Whether the whole body was read.
    pub fn is_body_read(&self) -> bool {
        self.body.is_done()
    }

    /// How much of the request's body is left, if known.
    pub fn body_left(&self) -> Option<u64> {
        self.body.left()
    }

    /// Queues an interim response, unless the client has not read those before it. Returns whether
    /// it was queued.
    ///
    /// SECURITY: an upstream may send them endlessly to a client that reads nothing.
    pub fn announce(&mut self, head: &response::Parts) -> bool {
        let has_room = self.interim.len() < MOST_INTERIM;
        if has_room {
            let mut written = Vec::new();
            write::interim(&mut written, head);
            self.interim.extend_from_slice(&written);
        }
        has_room
    }

    /// Writes what must precede the response.
    ///
    /// # Errors
    /// The connection failed.
    pub fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.interim))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim.advance(written);
            self.has_interim_begun = !self.interim.is_empty();
            // What TLS still holds is sent with the response at the latest.
            let _ = Pin::new(&mut self.stream).poll_flush(cx)?;
        }
        Poll::Ready(Ok(()))
    }

    /// A response begins: what must precede it is still written, but `100 Continue` is dropped
    /// unless it is half written. Returns whether the client still waits for that: it may send its
    /// body all the same, or leave it out.
    pub fn end_interim(&mut self, out: &mut Vec<u8>) -> bool {
        self.is_awaited = false;
        let rest = std::mem::take(&mut self.interim);
        let has_begun = std::mem::take(&mut self.has_interim_begun);
        let is_untold = !has_begun && rest == CONTINUE;
        if !is_untold {
            out.extend_from_slice(&rest);
        }
        std::mem::take(&mut self.awaits_continue) || is_untold
    }

    /// Notes that the client read something, or may have.
    pub fn note_progress(&mut self) {
        self.has_moved = true;
    }

    /// Ready when the client has disconnected. What it sends ahead is kept, up to the size of one
    /// read.
    ///
    /// A client that shuts down its sending side counts as disconnected, as in nginx: TCP does not
    /// say whether it still reads.
    ///
    /// # Errors
    /// The connection failed.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.is_awaited) {
            return Poll::Pending;
        }
        if self.body.is_done() && self.input.buffer.is_empty() {
            if ready!(self.poll_read(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
            self.has_moved = true;
        }
        // A read does not reach the end while unread bytes precede it: those of an upload that the
        // upstream does not read, or of the next request.
        loop {
            let last_look = *self.last_look.get_or_insert_with(Instant::now);
            ready!(self.alarm.poll_at(cx, last_look + LOOK));
            self.last_look = None;
            let closed = stream::closed(stream::below(&self.stream));
            let has_moved = std::mem::take(&mut self.has_moved);
            // A client that half-closed after a complete request is served as long as its bytes
            // keep moving.
            if closed.is_write_closed() || closed.is_read_closed() && !has_moved {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Whether the next bytes belong to a request. The unread rest of a body is dropped if it has
    /// already arrived.
    pub fn is_at_next_request(&mut self) -> bool {
        let mut has_read = self.body.is_done();
        loop {
            match self.body.decode(&mut self.input.buffer) {
                Ok(Decoded::Frame(_)) => {}
                Ok(Decoded::End) => break,
                Ok(Decoded::More) if has_read => return false,
                Ok(Decoded::More) => {
                    has_read = true;
                    let mut nobody = Context::from_waker(Waker::noop());
                    let read = self.input.poll_read_on(&mut self.stream, &mut nobody);
                    if !matches!(read, Poll::Ready(Ok(1..))) {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
        self.input.release();
        !self.is_cut_off
    }

    /// The remaining bytes will never be read.
    pub fn cut_off(&mut self) {
        self.is_cut_off = true;
    }

    /// The stream, with the bytes behind the last head put back.
    pub fn into_stream(self) -> Rewound<ClientStream> {
        Rewound::new(self.stream, self.input.into_bytes())
    }

    /// Closes the connection so that everything written arrives.
    ///
    /// # Errors
    /// It failed before.
    pub async fn close(mut self) -> io::Result<()> {
        let may_send_more = self.is_cut_off || !self.body.is_done() || !self.input.buffer.is_empty();
        let goodbye = async {
            self.stream.shutdown().await?;
            let mut ignored = [0; 1024];
            while may_send_more && self.stream.read(&mut ignored).await? > 0 {}
            Ok(())
        };
        timeout(LINGER, goodbye).await.unwrap_or(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::FramingError;
    use super::*;
    use http::Response;
    use std::future::poll_fn;
    use std::net::Shutdown;
    use tokio::net::UnixStream;
    use tokio::time::sleep;
    use tokio_util::either::Either;

    const PART: usize = 100;

    /// One end of a pair; the other end sends `parts` of an endless body.
    async fn of_parts(parts: usize) -> (Inbound, std::os::unix::net::UnixStream) {
        let (mut far, near) = UnixStream::pair().unwrap();
        let mut inbound = Inbound::new(Either::Left(Either::Right(near)));
        inbound.begin_body(Decoder::chunked(), false);
        for _ in 0..parts {
            let part = format!("{PART:x}\r\n{}\r\n", "x".repeat(PART));
            far.write_all(part.as_bytes()).await.unwrap();
        }
        (inbound, far.into_std().unwrap())
    }

    async fn is_gone_after(inbound: &mut Inbound, wait: Duration) -> bool {
        let first = poll_fn(|cx| Poll::Ready(inbound.poll_gone(cx).is_ready())).await;
        sleep(wait).await;
        first || poll_fn(|cx| Poll::Ready(inbound.poll_gone(cx).is_ready())).await
    }

    async fn takes_a_part(inbound: &mut Inbound) {
        let frame = poll_fn(|cx| inbound.poll_body(cx)).await.unwrap().unwrap();
        assert_eq!(frame.data_ref().map(Bytes::len), Some(PART));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_sent_everything_may_leave_as_long_as_it_gets_on() {
        let (mut inbound, far) = of_parts(9).await;
        far.shutdown(Shutdown::Write).unwrap();
        for _ in 0..8 {
            takes_a_part(&mut inbound).await;
            assert!(!is_gone_after(&mut inbound, LOOK).await);
        }
        assert!(is_gone_after(&mut inbound, LOOK).await);
    }

    /// The client reads nothing, and the socket buffers hold little.
    #[tokio::test]
    async fn announcements_without_an_end_take_no_more_than_their_room() {
        let (mut inbound, _far) = of_parts(0).await;
        let hints = Response::builder().status(103).header("link", "x".repeat(1000)).body(()).unwrap().into_parts().0;
        for _ in 0..1000 {
            inbound.announce(&hints);
            let _ = poll_fn(|cx| Poll::Ready(inbound.poll_interim(cx).is_ready())).await;
        }
        assert!((MOST_INTERIM..MOST_INTERIM + 1100).contains(&inbound.interim.len()), "{}", inbound.interim.len());
        let (mut out, left) = (Vec::new(), inbound.interim.clone());
        assert!(!inbound.end_interim(&mut out));
        assert_eq!(out, left, "the answer stands behind it");
    }

    #[tokio::test]
    async fn who_was_not_told_to_go_on_is_not_told_with_the_answer() {
        let (mut inbound, _far) = of_parts(0).await;
        inbound.begin_body(Decoder::length(3), true);
        let mut out = Vec::new();
        assert!(inbound.end_interim(&mut out) && out.is_empty());
        assert!(!inbound.end_interim(&mut out), "nor was it waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_closed_both_sides_is_gone() {
        let (mut inbound, far) = of_parts(9).await;
        takes_a_part(&mut inbound).await;
        assert!(!is_gone_after(&mut inbound, LOOK * 20).await);
        takes_a_part(&mut inbound).await;
        drop(far);
        assert!(is_gone_after(&mut inbound, LOOK).await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_body_is_the_one_to_see_its_end() {
        let (mut inbound, far) = of_parts(0).await;
        assert!(!is_gone_after(&mut inbound, LOOK * 2).await);
        assert!(poll_fn(|cx| Poll::Ready(inbound.poll_body(cx).is_pending())).await);
        drop(far);
        sleep(LOOK * 2).await;
        assert!(poll_fn(|cx| Poll::Ready(inbound.poll_gone(cx).is_pending())).await);
        let ended = poll_fn(|cx| inbound.poll_body(cx)).await;
        assert!(matches!(ended, Err(ReadError::Framing(FramingError::Cut))));
    }
}
