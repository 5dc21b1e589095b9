//! Drives one HTTP/1 connection of a client: one request after another, each answered before the
//! next is parsed.
//!
//! Bytes that arrive behind a request wait in the buffer. While a response is awaited or written,
//! the connection is read from, to notice a client that disconnects: its exchange ends then, unless
//! `[server] ignore_client_abort` lets it finish.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use hyper::body::Body as _;
use tokio::time::timeout;

use super::watch::{Wait, Watch};
use crate::body::RequestBody;
use crate::exchange::downstream::Downstream;
use crate::exchange::error::ExchangeError;
use crate::exchange::{self, respond};
use crate::forward::response_body::ResponseBody;
use crate::forward::tunnel::Tunnel;
use crate::http1::encoder::Encoder;
use crate::http1::fields;
use crate::http1::head::{HeadLimits, RequestHead};
use crate::http1::inbound::{Inbound, SharedInbound};
use crate::http1::incoming::Incoming;
use crate::http1::output::Output;
use crate::http1::write::{self, ResponseFraming};
use crate::metrics::Event;
use crate::net::stream::{self, ClientStream};

/// How many bytes of a body a connection writes before the worker's other connections get their
/// turn. Half a megabyte takes a fraction of a millisecond; without this limit a fast client and a
/// fast upstream would go on until the runtime's own limit, some megabytes.
const TURN: usize = 512 << 10;

/// How much of a response is read after its client has left. The responses of wp-cron.php and
/// similar scripts are nearly empty; beyond this, a page that a visitor has left is cut off without
/// harm.
const UNREAD: usize = 16 << 20;

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Reading or writing failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The client closed it within a request or a response.
    #[error("the client closed the connection")]
    Gone,
    /// A response could not be completed, and the client must see that.
    #[error("the answer was cut")]
    Cut,
    #[error("waited too long")]
    TooLong(Wait),
}

/// A connection, until it is closed or switches protocols.
pub struct Connection {
    downstream: Rc<Downstream>,
    inbound: SharedInbound,
    output: Output,
    watch: Watch,
    requests: usize,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(stream: ClientStream, downstream: Rc<Downstream>) -> Self {
        let watch = Watch::new(downstream.context.limits);
        let inbound = SharedInbound::new(stream);
        Connection { downstream, inbound, output: Output::default(), watch, requests: 0 }
    }

    /// Serves requests until the last one, or until all connections are to end.
    ///
    /// # Errors
    /// The connection failed or had to be cut. An invalid request is answered, and is no error
    /// here.
    pub async fn serve(mut self) -> Result<(), ConnectionError> {
        let ending = Rc::clone(&self.downstream.context.ending);
        let mut notified = pin!(ending.notified());
        // Registered once: it wakes this task only.
        poll_fn(|cx| Poll::Ready(notified.as_mut().poll(cx).is_ready())).await;
        loop {
            let head = poll_fn(|cx| self.poll_head(cx));
            let (request, framing) = match head.await? {
                Next::Closed => return self.close().await,
                Next::Refused(error) => return self.refuse(&error).await,
                Next::Request(head) => self.accept(*head),
            };
            let answer = {
                let hints = self.downstream.context.config.server.early_hints && framing.version == Version::HTTP_11;
                let announced = hints.then_some(&self.inbound);
                let mut answering = pin!(exchange::answer(&self.downstream, request, announced));
                let answer = poll_fn(|cx| match answering.as_mut().poll(cx) {
                    Poll::Ready(answer) => Poll::Ready(Ok(answer)),
                    Poll::Pending => self.poll_gone(cx).map(Err),
                });
                answer.await?
            };
            let framing = ResponseFraming { keeps: framing.keeps && ending.begun().is_none(), ..framing };
            let (closes, tunnel) = self.write(answer, &framing).await?;
            if let Some(tunnel) = tunnel {
                let Some(inbound) = self.inbound.into_inner() else { return Err(ConnectionError::Gone) };
                tunnel.join(inbound.into_stream(), self.downstream);
                return Ok(());
            }
            if closes || !self.inbound.with(Inbound::is_at_next_request) {
                return self.close().await;
            }
            self.watch.answered();
            self.output.release();
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, ConnectionError>> {
        if let Some(changed) = self.downstream.changed() {
            self.watch.change(changed.context.limits);
            self.downstream = changed;
        }
        let context = &self.downstream.context;
        let (next, has_begun) = self.inbound.with(|inbound| {
            let next = poll_next(inbound, &context.head_limits, cx);
            (next, !inbound.unread().is_empty())
        });
        if next.is_ready() {
            return next;
        }
        if has_begun {
            self.watch.head_began();
        } else if let Some(begun) = context.ending.begun()
            && self.watch.poll_last_request(cx, begun).is_ready()
        {
            return Poll::Ready(Ok(Next::Closed));
        }
        match ready!(self.watch.poll_head(cx)) {
            Wait::Head => {
                let limit = context.limits.request_header;
                Poll::Ready(Ok(Next::Refused(ExchangeError::HeadTimeout(limit))))
            }
            wait => Poll::Ready(Err(ConnectionError::TooLong(wait))),
        }
    }

    fn accept(&mut self, head: RequestHead) -> (Request<RequestBody>, ResponseFraming) {
        let RequestHead { request, body, keeps, awaits_continue } = head;
        self.watch.head_ended();
        self.requests = self.requests.saturating_add(1);
        let framing = ResponseFraming {
            is_head: request.method() == Method::HEAD,
            version: request.version(),
            keeps: keeps && self.requests != self.downstream.context.config.server.max_requests_per_connection,
        };
        let body = if body.is_done() {
            RequestBody::Empty
        } else {
            self.inbound.with(|inbound| inbound.begin_body(body, awaits_continue));
            RequestBody::http1(Incoming::new(self.inbound.clone()))
        };
        (request.map(|()| body), framing)
    }

    /// Writes a response to its end. Returns whether the connection ends with it, or what it
    /// becomes instead.
    async fn write(
        &mut self,
        answer: Response<ResponseBody>,
        framing: &ResponseFraming,
    ) -> Result<(bool, Option<Tunnel>), ConnectionError> {
        let is_body_open = self.inbound.with(|inbound| inbound.end_interim(self.output.gathered()));
        let framing = ResponseFraming { keeps: framing.keeps && !is_body_open, ..*framing };
        let (head, body) = answer.into_parts();
        let (encoder, closes) = write::answer(self.output.gathered(), &head, body.size_hint().exact(), &framing);
        fields::recycle(head.headers, head.extensions);
        // SECURITY: the orderly close is the client's only sign that such a response is complete.
        // Until it is, whatever ends this connection resets it.
        let ends_with_close = encoder.is_until_close();
        if ends_with_close {
            self.inbound.with(|inbound| stream::reset_at_close(inbound.stream(), true));
        }
        let mut encoder = Some(encoder);
        let mut body = Some(body);
        let mut tunnel = None;
        let written = poll_fn(|cx| {
            let mut turn = 0;
            loop {
                let waits = self.encode(&mut encoder, &mut body, &mut tunnel, cx)?;
                if self.poll_flush(cx)?.is_pending() {
                    return self.poll_reader(body.as_mut(), cx).map(Err);
                }
                self.watch.was_flushed();
                let written = self.output.take_written();
                turn += written;
                if encoder.is_none() {
                    return Poll::Ready(Ok(()));
                }
                if written > 0 {
                    self.inbound.with(Inbound::note_progress);
                }
                if waits {
                    return self.poll_gone(cx).map(Err);
                }
                if turn > TURN {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        })
        .await;
        if let (Err(ConnectionError::Gone | ConnectionError::Io(_)), Some(body)) = (&written, body)
            && self.goes_on_alone()
        {
            self.read_on(body).await;
        }
        written?;
        if ends_with_close {
            self.inbound.with(|inbound| stream::reset_at_close(inbound.stream(), false));
        }
        Ok((closes, tunnel))
    }

    /// Waits for a client that reads no more of its response. It may have to send its whole request
    /// before it reads, so the upload continues meanwhile, to the upstream or into the void.
    fn poll_reader(&mut self, mut body: Option<&mut ResponseBody>, cx: &mut Context<'_>) -> Poll<ConnectionError> {
        if let Some(body) = &mut body {
            body.detach();
        }
        let is_unwanted = body.is_none_or(|body| body.poll_upload(cx).is_ready());
        let received = self.inbound.with(|inbound| {
            if is_unwanted {
                inbound.discard_body(cx);
            }
            // A client that has really gone, and not only closed its sending side, answers the
            // bytes in flight by a reset.
            inbound.note_progress();
            inbound.take_received()
        });
        match self.output.take_written() + received {
            0 => {}
            bytes => self.watch.moved(bytes),
        }
        if let Poll::Ready(gone) = self.poll_gone(cx) {
            return Poll::Ready(gone);
        }
        self.watch.poll_reader(cx).map(ConnectionError::TooLong)
    }

    /// Ready when the client has disconnected and its exchange is to end with it. A request that
    /// goes on without its client still fails if a part of its body is missing; the body reports
    /// that.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<ConnectionError> {
        if self.goes_on_alone() {
            return Poll::Pending;
        }
        let gone = ready!(self.inbound.with(|inbound| inbound.poll_gone(cx)));
        Poll::Ready(gone.err().map_or(ConnectionError::Gone, ConnectionError::Io))
    }

    /// Whether a request is completed without its client. Disconnects are not looked for then: a
    /// client that only closed its sending side gets its response, and one that has gone shows when
    /// the response is written.
    fn goes_on_alone(&self) -> bool {
        self.downstream.context.config.server.ignore_client_abort
    }

    /// Reads the rest of a response whose client has left. Closing the upstream connection early
    /// would end the script that writes it: PHP ends a script that writes to a closed connection.
    ///
    /// SECURITY: a response may be endless, and holds a connection to the upstream; clients that
    /// come and leave would take them all. So this is limited by [`UNREAD`].
    async fn read_on(&self, body: ResponseBody) {
        let context = &self.downstream.context;
        let draining = context.ending.notified();
        if context.ending.begun().is_some() {
            return;
        }
        tokio::select! {
            _ = timeout(context.limits.response.silence, take(body, UNREAD)) => {}
            () = draining => {}
        }
    }

    /// Encodes what the body has ready; returns `true` if the rest must be waited for. At its end
    /// the body is dropped, so that its resources are free for others while its last bytes are
    /// sent.
    fn encode(
        &mut self,
        encoding: &mut Option<Encoder>,
        body: &mut Option<ResponseBody>,
        tunnel: &mut Option<Tunnel>,
        cx: &mut Context<'_>,
    ) -> Result<bool, ConnectionError> {
        while let (Some(encoder), Some(rest)) = (encoding.as_mut(), body.as_mut()) {
            if encoder.is_complete() {
                *tunnel = body.take().and_then(ResponseBody::into_tunnel);
                *encoding = None;
                break;
            }
            if !self.output.has_room() {
                return Ok(false);
            }
            match rest.poll_next(cx) {
                Poll::Ready(Some(Ok(frame))) => encoder.push(frame, &mut self.output),
                Poll::Ready(None) => {
                    let ended = encoding.take().map_or(Ok(()), |encoder| encoder.end(&mut self.output));
                    *body = None;
                    ended.map_err(|_| self.cut(cx))?;
                }
                Poll::Ready(Some(Err(_))) => return Err(self.cut(cx)),
                Poll::Pending => return Ok(true),
            }
        }
        Ok(false)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inbound.with(|inbound| self.output.poll_flush(inbound.stream(), cx))
    }

    /// Sends what has arrived of a cut response.
    fn cut(&mut self, cx: &mut Context<'_>) -> ConnectionError {
        let _ = self.poll_flush(cx);
        ConnectionError::Cut
    }

    /// Answers an invalid request. The bytes that follow on the connection cannot be trusted
    /// either.
    async fn refuse(mut self, error: &ExchangeError) -> Result<(), ConnectionError> {
        let id = self.downstream.context.request_ids.next();
        let context = self.inbound.with(|inbound| respond::ErrorContext::of_head(id, inbound.unread()));
        let (peer, metrics) = (self.downstream.peer, &self.downstream.context.metrics);
        // It was rejected before it counted as begun.
        metrics.add(Event::Begun);
        exchange::tell(error, &context, peer.address.ip(), peer, metrics);
        self.write(respond::failure(error, &context), &ResponseFraming::unknown()).await?;
        self.inbound.with(Inbound::cut_off);
        self.close().await
    }

    async fn close(self) -> Result<(), ConnectionError> {
        let Some(inbound) = self.inbound.into_inner() else { return Ok(()) };
        Ok(inbound.close().await?)
    }
}

/// The next request, or the reason why the connection has no further one.
fn poll_next(inbound: &mut Inbound, limits: &HeadLimits, cx: &mut Context<'_>) -> Poll<Result<Next, ConnectionError>> {
    loop {
        match inbound.head(limits) {
            Ok(Some(head)) => return Poll::Ready(Ok(Next::Request(Box::new(head)))),
            Ok(None) => {}
            Err(error) => return Poll::Ready(Ok(Next::Refused(error.into()))),
        }
        match ready!(inbound.poll_read(cx))? {
            0 if inbound.unread().is_empty() => return Poll::Ready(Ok(Next::Closed)),
            0 => return Poll::Ready(Err(ConnectionError::Gone)),
            _ => {}
        }
    }
}

/// Reads up to `left` bytes of a body, or all of it.
async fn take(mut body: ResponseBody, mut left: usize) {
    while let Some(Ok(frame)) = poll_fn(|cx| body.poll_next(cx)).await {
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
        left = rest;
    }
}

enum Next {
    Request(Box<RequestHead>),
    Refused(ExchangeError),
    Closed,
}
