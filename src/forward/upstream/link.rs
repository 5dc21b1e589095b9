//! One connection to the upstream and the exchange on it. The only file that knows which protocol the upstream speaks.

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

/// A connection and what an exchange on it needs. Dropped, it is closed.
pub struct Link {
    connection: Connection,
    /// The name that its handshake was made by; `None` is the usual one.
    pub name: Option<ServerName<'static>>,
    pub sent: Instant,
    /// What is left to be sent of the request.
    upload: RequestBody,
    /// Whether the upstream has to ask for that first.
    is_held: bool,
    alarm: Alarm,
    held_alarm: Alarm,
    _open: Open,
}

impl Link {
    /// On `stream`, by the handshake's `name`. `open` counts it.
    pub fn new(stream: UpstreamStream, name: Option<ServerName<'static>>, open: Open) -> Self {
        let (connection, upload) = (Connection::new(stream), RequestBody::Empty);
        let (sent, alarm, held_alarm) = (Instant::now(), Alarm::default(), Alarm::default());
        Link { connection, name, sent, upload, is_held: false, alarm, held_alarm, _open: open }
    }

    /// Takes the body of the next request. `waits`: it flows when the upstream [asks for it](Link::go_on), or after
    /// [`CONTINUE_TIME`].
    pub fn carry(&mut self, body: RequestBody, waits: bool) {
        self.upload = body;
        self.is_held = waits;
    }

    /// The upstream asks for the body.
    pub fn go_on(&mut self) {
        self.is_held = false;
    }

    /// The upstream has answered. A body that it did not ask for is not sent: the upstream may take it for the next request, or
    /// wait for it (RFC 9110, 10.1.1), so nothing else is sent by this connection.
    pub fn was_answered(&mut self) {
        if std::mem::take(&mut self.is_held) {
            self.give_up_upload();
        }
    }

    /// Lets go of the request's body, which holds the client's connection.
    pub fn forget_upload(&mut self) {
        self.upload = RequestBody::Empty;
    }

    /// Writes the head of a request, which is sent with what is to follow of its body.
    pub fn begin(&mut self, head: &request::Parts, added: &Added<'_>) {
        self.sent = Instant::now();
        self.connection.begin(head, added.length, |out| added.write(out));
    }

    /// Sends what is left of the request's body. Ready when it was sent, or the upstream takes no more.
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

    /// The head of the response, or of one that only announces it.
    ///
    /// # Errors
    /// There is none, or it is invalid.
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

    /// What was read of the response cannot be taken yet: its reader is slow. It must not keep more memory than its own.
    pub fn detach(&mut self) {
        self.connection.detach();
    }

    /// Whether the response's body was read to its end.
    pub fn is_answered(&self) -> bool {
        self.connection.is_answered()
    }

    /// How much of the response's body is left, where that is known.
    pub fn left(&self) -> Option<u64> {
        self.connection.left()
    }

    pub fn can_be_reused(&self) -> bool {
        self.connection.can_be_reused()
    }

    /// Whether an idle connection is still open, and silent.
    pub fn is_good(&mut self) -> bool {
        self.connection.is_good()
    }

    /// What is behind a switch of protocols.
    pub fn into_stream(self) -> Rewound<UpstreamStream> {
        let (stream, read) = self.connection.into_stream();
        Rewound::new(stream, read)
    }
}
