//! A body on its way out, framed as its head says.

use std::io::Write as _;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use hyper::body::Frame;

use super::error::TooShort;
use super::fields::{may_be_trailer, tokens};
use super::original;
use super::output::Output;

/// How a body is framed.
pub struct Encoder(State);

enum State {
    /// So many bytes are still to come.
    Length(u64),
    /// The names that the head announces in `Trailer`: no others may follow the body.
    Chunked(Vec<HeaderName>),
    UntilClose,
}

impl Encoder {
    /// No body.
    pub fn none() -> Self {
        Encoder(State::Length(0))
    }

    /// So many bytes.
    pub fn length(length: u64) -> Self {
        Encoder(State::Length(length))
    }

    /// Chunks, with the trailers that `headers` announce, where the other side `accepts_trailers`.
    pub fn chunked(headers: &HeaderMap, accepts_trailers: bool) -> Self {
        let lines = headers.get_all(header::TRAILER).iter().filter(|_| accepts_trailers);
        let names = lines.flat_map(|line| tokens(line.as_bytes())).filter_map(|name| HeaderName::from_bytes(name).ok());
        Encoder(State::Chunked(names.filter(may_be_trailer).collect()))
    }

    /// Ended by the connection.
    pub fn until_close() -> Self {
        Encoder(State::UntilClose)
    }

    /// Whether the connection's end is the body's.
    pub fn is_until_close(&self) -> bool {
        matches!(self.0, State::UntilClose)
    }

    /// Whether nothing of the body can follow.
    pub fn is_complete(&self) -> bool {
        matches!(self.0, State::Length(0))
    }

    /// A part of the body. Only while `output` [has room](Output::has_room). What is more than the length is cut off: it
    /// would be read as the next message.
    pub fn push(&mut self, frame: Frame<Bytes>, output: &mut Output) {
        let frame = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.push_trailers(frame.into_trailers().unwrap_or_default(), output),
        };
        match &mut self.0 {
            State::Length(left) => {
                let fits = usize::try_from(*left).map_or(frame.len(), |left| left.min(frame.len()));
                *left -= fits as u64;
                output.push(frame.slice(..fits), b"");
            }
            State::Chunked(_) if frame.is_empty() => {}
            State::Chunked(_) => {
                let _ = write!(output.gathered(), "{:x}\r\n", frame.len());
                output.push(frame, b"\r\n");
            }
            State::UntilClose => output.push(frame, b""),
        }
    }

    /// The body is at its end. Only while `output` has room.
    ///
    /// # Errors
    /// It is shorter than its head said: only closing the connection tells so.
    pub fn end(self, output: &mut Output) -> Result<(), TooShort> {
        match self.0 {
            State::Length(0) | State::UntilClose => Ok(()),
            State::Length(_) => Err(TooShort),
            State::Chunked(_) => {
                output.gathered().extend_from_slice(b"0\r\n\r\n");
                Ok(())
            }
        }
    }

    fn push_trailers(&mut self, mut trailers: HeaderMap, output: &mut Output) {
        let State::Chunked(announced) = &self.0 else { return };
        let unannounced: Vec<HeaderName> = trailers.keys().filter(|name| !announced.contains(name)).cloned().collect();
        for name in unannounced {
            trailers.remove(name);
        }
        output.gathered().extend_from_slice(b"0\r\n");
        original::write(output.gathered(), &trailers, None, |_| true);
        output.gathered().extend_from_slice(b"\r\n");
        self.0 = State::Length(0);
    }
}
