//! Encodes a body as its head has framed it.

use std::io::Write as _;

use super::error::TooShort;
use super::fields::may_be_trailer;
use super::frame::{Frame, Trailers};
use super::original;
use super::output::Output;

/// How a body is framed.
pub struct Encoder(State);

enum State {
    /// So many bytes are left.
    Length(u64),
    Chunked,
    UntilClose,
}

impl Encoder {
    /// No body.
    pub fn none() -> Self {
        Encoder(State::Length(0))
    }

    /// A body of `length` bytes.
    pub fn length(length: u64) -> Self {
        Encoder(State::Length(length))
    }

    /// A chunked body.
    pub fn chunked() -> Self {
        Encoder(State::Chunked)
    }

    /// A body that ends with the connection.
    pub fn until_close() -> Self {
        Encoder(State::UntilClose)
    }

    /// Whether the connection's end is the body's.
    pub fn is_until_close(&self) -> bool {
        matches!(self.0, State::UntilClose)
    }

    /// Whether no more of the body can follow.
    pub fn is_complete(&self) -> bool {
        matches!(self.0, State::Length(0))
    }

    /// Writes a part of the body. Only while `output` [has room](Output::has_room). Data beyond the
    /// length is cut off: it would be read as the next message.
    pub fn push(&mut self, frame: Frame, output: &mut Output) {
        let frame = match frame {
            Frame::Data(data) => data,
            Frame::Trailers(trailers) => return self.push_trailers(&trailers, output),
        };
        match &mut self.0 {
            State::Length(left) => {
                let fits = usize::try_from(*left).map_or(frame.len(), |left| left.min(frame.len()));
                *left -= fits as u64;
                output.push(frame.slice(..fits), b"");
            }
            State::Chunked if frame.is_empty() => {}
            State::Chunked => {
                let _ = write!(output.gathered(), "{:x}\r\n", frame.len());
                output.push(frame, b"\r\n");
            }
            State::UntilClose => output.push(frame, b""),
        }
    }

    /// Ends the body. Only while `output` has room.
    ///
    /// # Errors
    /// The body is shorter than its head announced: only closing the connection reports that.
    pub fn end(self, output: &mut Output) -> Result<(), TooShort> {
        match self.0 {
            State::Length(0) | State::UntilClose => Ok(()),
            State::Length(_) => Err(TooShort),
            State::Chunked => {
                output.gathered().extend_from_slice(b"0\r\n\r\n");
                Ok(())
            }
        }
    }

    /// Writes all trailers, announced or not: a recipient of chunks can read them, and may drop
    /// them (RFC 9112, 7.1.2).
    fn push_trailers(&mut self, trailers: &Trailers, output: &mut Output) {
        if !matches!(self.0, State::Chunked) {
            return;
        }
        output.gathered().extend_from_slice(b"0\r\n");
        original::write(output.gathered(), &trailers.headers, trailers.original.as_ref(), may_be_trailer);
        output.gathered().extend_from_slice(b"\r\n");
        self.0 = State::Length(0);
    }
}
