//! One connection to the upstream, which carries one exchange after another. It is driven by the
//! task that polls it, that of the client's connection, so that the same task reads a response and
//! writes it to the client.
//!
//! An upstream may respond before it has read the request's body, and stop reading then. So the
//! rest of the body is sent while the response is read, and a failed write does not hide a response
//! (hyper#2384).

use std::io;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Method, Response, request};

use tokio_util::either::Either;

use super::decoder::{Decoded, Decoder};
use super::encoder::Encoder;
use super::error::{AnswerError, HeadError, ReadError, TooShort};
use super::frame::Frame;
use super::head;
use super::input::Input;
use super::output::Output;
use super::write;
use crate::net::stream::UpstreamStream;

/// WordPress and its plugins may send many `Set-Cookie` and `Link` lines.
const MAX_FIELDS: usize = 1000;

/// The longest head of a response, in bytes.
const MAX_HEAD: usize = 128 * 1024;

/// The state of a request that is being sent.
pub enum Sending {
    /// Nothing is left to send.
    Over,
    /// The upstream has just stopped reading it.
    Refused,
}

pub struct Connection {
    stream: UpstreamStream,
    input: Input,
    output: Output,
    /// Decodes the response's body.
    decoder: Decoder,
    /// Encodes the request's body, until all of it is sent.
    encoder: Option<Encoder>,
    method: Method,
    head_looked_at: usize,
    has_answer_begun: bool,
    keeps: bool,
}

impl Connection {
    /// A connection without an exchange yet.
    pub fn new(stream: UpstreamStream) -> Self {
        Connection {
            stream,
            input: Input::new(),
            output: Output::default(),
            decoder: Decoder::none(),
            encoder: None,
            method: Method::GET,
            head_looked_at: 0,
            has_answer_begun: false,
            keeps: true,
        }
    }

    /// Whether an idle connection can be used: it is open, and no unrequested bytes have arrived.
    pub fn is_good(&mut self) -> bool {
        let mut byte = [0];
        let read = match &self.stream {
            Either::Left(Either::Left(stream)) => stream.try_read(&mut byte),
            Either::Left(Either::Right(stream)) => stream.try_read(&mut byte),
            // The bytes may belong to TLS itself.
            Either::Right(_) => {
                let mut nobody = Context::from_waker(Waker::noop());
                return self.input.poll_read(&mut self.stream, &mut nobody).is_pending();
            }
        };
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Begins an exchange; bytes are only written when the connection is polled. `length` and
    /// `extra` are those of [`write::request`].
    pub fn begin(&mut self, head: &request::Parts, length: Option<u64>, extra: impl FnOnce(&mut Vec<u8>)) {
        let encoder = write::request(self.output.gathered(), head, length, extra);
        self.encoder = Some(encoder);
        self.method = head.method.clone();
        self.head_looked_at = 0;
        self.has_answer_begun = false;
        self.keeps = true;
    }

    /// Sends the request as fast as the upstream reads it. `poll_next` yields the parts of its
    /// body.
    ///
    /// # Errors
    /// The body's: the client's fault.
    pub fn poll_send<E: From<TooShort>>(
        &mut self,
        cx: &mut Context<'_>,
        mut poll_next: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<Frame, E>>>,
    ) -> Poll<Result<Sending, E>> {
        while let Some(encoder) = &mut self.encoder {
            let mut waits_for_body = false;
            while !encoder.is_complete() && self.output.has_room() && !waits_for_body {
                match poll_next(cx) {
                    Poll::Ready(Some(Ok(frame))) => encoder.push(frame, &mut self.output),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(None) => match std::mem::replace(encoder, Encoder::none()).end(&mut self.output) {
                        Ok(()) => break,
                        Err(error) => return Poll::Ready(Err(error.into())),
                    },
                    Poll::Pending => waits_for_body = true,
                }
            }
            match self.output.poll_flush(&mut self.stream, cx) {
                Poll::Ready(Ok(())) if waits_for_body => return Poll::Pending,
                Poll::Ready(Ok(())) if encoder.is_complete() => {
                    self.encoder = None;
                    self.output.release();
                }
                Poll::Ready(Ok(())) => {}
                Poll::Pending => return Poll::Pending,
                // It may have responded before it stopped reading.
                Poll::Ready(Err(_)) => {
                    self.give_up_sending();
                    return Poll::Ready(Ok(Sending::Refused));
                }
            }
        }
        Poll::Ready(Ok(Sending::Over))
    }

    /// Sends no more of the request. Since it stays incomplete, no other request can follow it.
    pub fn give_up_sending(&mut self) {
        self.encoder = None;
        self.keeps = false;
    }

    /// Writes what is encoded of the request, without asking for more of its body.
    pub fn flush(&mut self, cx: &mut Context<'_>) {
        // If the connection has failed, reading the response reports it.
        let _ = self.output.poll_flush(&mut self.stream, cx);
    }

    /// Reads the next head: the response's, or that of an interim response (1xx).
    ///
    /// # Errors
    /// The connection ended without a response, or the response is invalid.
    pub fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, AnswerError>> {
        loop {
            let length = self.input.buffer.len();
            if self.head_looked_at == 0 || head::may_end(&self.input.buffer, self.head_looked_at) {
                if let Some(head) = head::answer(&mut self.input.buffer, &self.method, MAX_FIELDS)? {
                    if head::is_interim(head.answer.status()) {
                        self.head_looked_at = 0;
                        return Poll::Ready(Ok(head.answer));
                    }
                    self.decoder = head.body;
                    self.keeps &= head.keeps;
                    return Poll::Ready(Ok(head.answer));
                }
                self.head_looked_at = length;
            } else {
                self.head_looked_at = length;
            }
            if self.input.buffer.len() >= MAX_HEAD {
                return Poll::Ready(Err(HeadError::TooLarge.into()));
            }
            let closed = match ready!(self.input.poll_read_on(&mut self.stream, cx)) {
                Ok(0) => None,
                Ok(_) => {
                    self.has_answer_begun = true;
                    continue;
                }
                Err(error) => Some(error),
            };
            let has_begun = self.has_answer_begun;
            return Poll::Ready(Err(if has_begun { AnswerError::Cut(closed) } else { AnswerError::Closed(closed) }));
        }
    }

    /// The next part of the response's body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, ReadError>>> {
        loop {
            match self.decoder.decode(&mut self.input.buffer) {
                Ok(Decoded::Frame(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(Decoded::End) => {
                    self.input.release();
                    return Poll::Ready(None);
                }
                Ok(Decoded::More) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            match ready!(self.input.poll_read_on(&mut self.stream, cx)) {
                Ok(0) => {
                    self.keeps = false;
                    if let Err(error) = self.decoder.close() {
                        return Poll::Ready(Some(Err(error.into())));
                    }
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// The reader of the response is slow, so what was read moves into memory of its own.
    pub fn detach(&mut self) {
        self.input.detach();
    }

    /// Whether the response's body was read to its end.
    pub fn is_answered(&self) -> bool {
        self.decoder.is_done()
    }

    /// How much of the response's body is left, if known.
    pub fn left(&self) -> Option<u64> {
        self.decoder.left()
    }

    /// Whether the connection may carry another exchange.
    pub fn can_be_reused(&self) -> bool {
        // SECURITY: bytes behind a response would be read as the next response, which is another
        // client's.
        self.keeps && self.decoder.is_done() && self.encoder.is_none() && self.input.buffer.is_empty()
    }

    /// The stream, and the bytes that arrived behind the last head.
    pub fn into_stream(self) -> (UpstreamStream, Bytes) {
        (self.stream, self.input.into_bytes())
    }
}
