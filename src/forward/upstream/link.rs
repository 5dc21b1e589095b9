//! One connection to the upstream and the exchange on it. This is the only file that knows which
//! protocol the upstream speaks.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Response, request};
use rustls::pki_types::ServerName;
use tokio::time::Instant;

use crate::body::{BodyError, RequestBody};
use crate::forward::early::CONTINUE_TIME;
use crate::forward::error::CutError;
use crate::forward::request::Added;
use crate::http1::client::{Connection, Sending};
use crate::http1::error::AnswerError;
use crate::http1::frame::Frame;
use crate::http1::rewound::Rewound;
use crate::metrics::Open;
use crate::net::stream::UpstreamStream;
use crate::time::alarm::Alarm;

/// A connection and the state of its exchange, closed on drop.
pub struct Link {
    connection: Connection,
    /// The server name of its handshake; `None` is the configured one.
    pub name: Option<ServerName<'static>>,
    pub sent: Instant,
    /// The part of the request's body that is not sent yet.
    upload: RequestBody,
    /// Whether the upstream has to ask for it first.
    is_held: bool,
    alarm: Alarm,
    held_alarm: Alarm,
    _open: Open,
}

impl Link {
    /// A link on `stream`, whose handshake used `name`. `open` counts it.
    pub fn new(stream: UpstreamStream, name: Option<ServerName<'static>>, open: Open) -> Self {
        let (connection, upload) = (Connection::new(stream), RequestBody::Empty);
        let (sent, alarm, held_alarm) = (Instant::now(), Alarm::default(), Alarm::default());
        Link { connection, name, sent, upload, is_held: false, alarm, held_alarm, _open: open }
    }

    /// Takes the body of the next request. With `waits`, it flows when the upstream [asks for
    /// it](Link::go_on), or after [`CONTINUE_TIME`].
    pub fn carry(&mut self, body: RequestBody, waits: bool) {
        self.upload = body;
        self.is_held = waits;
    }

    /// The upstream asks for the body.
    pub fn go_on(&mut self) {
        self.is_held = false;
    }

    /// The upstream has responded. A body that it did not ask for is not sent: the upstream may
    /// read it as the next request, or wait for it (RFC 9110, 10.1.1). So nothing else is sent on
    /// this connection.
    pub fn was_answered(&mut self) {
        if std::mem::take(&mut self.is_held) {
            self.give_up_upload();
        }
    }

    /// Drops the request's body, which holds the client's connection.
    pub fn forget_upload(&mut self) {
        self.upload = RequestBody::Empty;
    }

    /// Writes the head of a request. It is sent together with the start of its body.
    pub fn begin(&mut self, head: &request::Parts, added: &Added<'_>) {
        self.sent = Instant::now();
        self.connection.begin(head, added.length, |out| added.write(out));
    }

    /// Sends the rest of the request's body. Ready when it was sent, or the upstream reads no more.
    ///
    /// # Errors
    /// The body's: the client's fault.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if self.is_held {
            self.connection.flush(cx);
            ready!(self.held_alarm.poll_at(cx, self.sent + CONTINUE_TIME));
            self.is_held = false;
        }
        if let Sending::Refused = ready!(self.connection.poll_send(cx, |cx| self.upload.poll_next(cx)))? {
            self.forget_upload();
        }
        Poll::Ready(Ok(()))
    }

    /// The rest of the request's body will never come.
    pub fn give_up_upload(&mut self) {
        self.connection.give_up_sending();
        self.forget_upload();
    }

    /// The next head: the response's, or that of an interim response.
    ///
    /// # Errors
    /// It is missing or invalid.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, AnswerError>> {
        self.connection.poll_answer(cx)
    }

    /// The next part of the response's body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, CutError>>> {
        let frame = ready!(self.connection.poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(|error| CutError::BrokeOff(error.into()))))
    }

    /// Ready when `limit` has passed since `since`, and since the request's body last moved.
    pub fn poll_quiet(&mut self, cx: &mut Context<'_>, since: Instant, limit: Duration) -> Poll<()> {
        let since = self.upload.progress().map_or(since, |progress| progress.max(since));
        self.alarm.poll_at(cx, since + limit)
    }

    /// The reader of the response is slow. What was read ahead must occupy no more memory than its
    /// own size.
    pub fn detach(&mut self) {
        self.connection.detach();
    }

    /// Whether the response's body was read to its end.
    pub fn is_answered(&self) -> bool {
        self.connection.is_answered()
    }

    /// How much of the response's body is left, if known.
    pub fn left(&self) -> Option<u64> {
        self.connection.left()
    }

    pub fn can_be_reused(&self) -> bool {
        self.connection.can_be_reused()
    }

    /// Whether an idle connection is still open and has sent nothing.
    pub fn is_good(&mut self) -> bool {
        self.connection.is_good()
    }

    /// The stream after a switch of protocols.
    pub fn into_stream(self) -> Rewound<UpstreamStream> {
        let (stream, read) = self.connection.into_stream();
        Rewound::new(stream, read)
    }
}
