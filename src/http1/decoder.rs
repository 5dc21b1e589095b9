//! Finds the end of a body and its data (RFC 9112, 6 and 7).
//!
//! Chunks are parsed as strictly as by hyper: sizes are hexadecimal digits only, and every line
//! ends with CR LF. A lenient server sees another next request than its neighbour.

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::error::FramingError;
use super::frame::{Frame, Trailers};
use super::original::{self, Original};

/// The maximum length of all chunk extensions of a body together, in bytes: no client uses them,
/// and endless ones are an attack.
const MAX_EXTENSIONS: usize = 16 * 1024;

/// The maximum length of the trailers, in bytes.
const MAX_TRAILER_BYTES: usize = 16 * 1024;
const MAX_TRAILERS: usize = 100;

/// What was decoded.
pub enum Decoded {
    /// A part of the body, or its trailers.
    Frame(Frame),
    /// Its end.
    End,
    /// More bytes are needed.
    More,
}

/// The state of a body's decoding.
pub struct Decoder(State);

enum State {
    Done,
    Length(u64),
    UntilClose,
    Chunked { at: At, extensions: usize },
}

/// The position within the chunks.
#[derive(Clone, Copy)]
enum At {
    Size { size: u64, digits: bool },
    SpaceAfterSize { size: u64 },
    Extension { size: u64 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailers,
}

impl Decoder {
    /// No body.
    pub fn none() -> Self {
        Decoder(State::Done)
    }

    /// A body of `length` bytes.
    pub fn length(length: u64) -> Self {
        Decoder(if length == 0 { State::Done } else { State::Length(length) })
    }

    /// A chunked body.
    pub fn chunked() -> Self {
        Decoder(State::Chunked { at: At::Size { size: 0, digits: false }, extensions: 0 })
    }

    /// A body that ends with the connection.
    pub fn until_close() -> Self {
        Decoder(State::UntilClose)
    }

    /// Whether the body was read to its end.
    pub fn is_done(&self) -> bool {
        matches!(self.0, State::Done)
    }

    /// How many bytes are left, if known.
    pub fn left(&self) -> Option<u64> {
        match self.0 {
            State::Done => Some(0),
            State::Length(left) => Some(left),
            State::UntilClose | State::Chunked { .. } => None,
        }
    }

    /// Takes the body's next part from `buffer`.
    ///
    /// # Errors
    /// Invalid chunked framing. The connection must not be reused: where the next message starts is
    /// unknown.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, FramingError> {
        match &mut self.0 {
            State::Done => Ok(Decoded::End),
            _ if buffer.is_empty() => Ok(Decoded::More),
            State::Length(left) => {
                let data = take(buffer, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    self.0 = State::Done;
                }
                Ok(Decoded::Frame(Frame::data(data)))
            }
            State::UntilClose => Ok(Decoded::Frame(Frame::data(std::mem::take(buffer).freeze()))),
            State::Chunked { at, extensions } => {
                let decoded = decode_chunked(at, extensions, buffer)?;
                let is_end = match &decoded {
                    Decoded::End => true,
                    Decoded::Frame(frame) => frame.trailers_ref().is_some(),
                    Decoded::More => false,
                };
                if is_end {
                    self.0 = State::Done;
                }
                Ok(decoded)
            }
        }
    }

    /// The connection was closed.
    ///
    /// # Errors
    /// The body is not complete.
    pub fn close(&mut self) -> Result<(), FramingError> {
        match self.0 {
            State::Done | State::UntilClose => {
                self.0 = State::Done;
                Ok(())
            }
            State::Length(_) | State::Chunked { .. } => Err(FramingError::Cut),
        }
    }
}

/// Takes up to `left` bytes. If these are all of the buffer, its memory is handed over with them,
/// and is reused for the next read once they are dropped.
fn take(buffer: &mut BytesMut, left: u64) -> Bytes {
    match usize::try_from(left) {
        Ok(left) if left < buffer.len() => buffer.split_to(left).freeze(),
        _ => std::mem::take(buffer).freeze(),
    }
}

fn decode_chunked(at: &mut At, extensions: &mut usize, buffer: &mut BytesMut) -> Result<Decoded, FramingError> {
    loop {
        match at {
            At::Data { left } => {
                if buffer.is_empty() {
                    return Ok(Decoded::More);
                }
                let data = take(buffer, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    *at = At::DataCr;
                }
                return Ok(Decoded::Frame(Frame::data(data)));
            }
            At::Trailers => return trailers(buffer),
            _ => {}
        }
        let Some(byte) = buffer.first().copied() else { return Ok(Decoded::More) };
        *at = step(*at, byte, extensions)?;
        buffer.advance(1);
    }
}

/// Parses one byte of the lines around the data.
fn step(at: At, byte: u8, extensions: &mut usize) -> Result<At, FramingError> {
    Ok(match (at, byte) {
        (At::Size { size, .. }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
            let digit = char::from(byte).to_digit(16).map(u64::from).ok_or(FramingError::ChunkSize)?;
            let size = size.checked_mul(16).and_then(|size| size.checked_add(digit)).ok_or(FramingError::ChunkSize)?;
            At::Size { size, digits: true }
        }
        (At::Size { size, digits: true } | At::SpaceAfterSize { size }, b' ' | b'\t') => At::SpaceAfterSize { size },
        (At::Size { size, digits: true } | At::SpaceAfterSize { size }, b';') => At::Extension { size },
        (At::Size { size, digits: true } | At::SpaceAfterSize { size } | At::Extension { size }, b'\r') => {
            At::SizeLf { size }
        }
        // SECURITY: a parser that looks for LF alone would start the chunk here (CVE-2025-22871).
        (At::Extension { .. }, b'\n') => return Err(FramingError::Extensions),
        (At::Extension { size }, _) => {
            *extensions += 1;
            if *extensions > MAX_EXTENSIONS {
                return Err(FramingError::Extensions);
            }
            At::Extension { size }
        }
        (At::SizeLf { size: 0 }, b'\n') => At::Trailers,
        (At::SizeLf { size }, b'\n') => At::Data { left: size },
        (At::DataCr, b'\r') => At::DataLf,
        (At::DataLf, b'\n') => At::Size { size: 0, digits: false },
        (At::DataCr | At::DataLf, _) => return Err(FramingError::ChunkEnd),
        _ => return Err(FramingError::ChunkSize),
    })
}

/// Parses the lines after the last chunk, including the empty one.
fn trailers(buffer: &mut BytesMut) -> Result<Decoded, FramingError> {
    match &buffer[..] {
        [b'\r', b'\n', ..] => {
            buffer.advance(2);
            return Ok(Decoded::End);
        }
        [] | [b'\r'] => return Ok(Decoded::More),
        [b'\r' | b'\n', ..] => return Err(FramingError::Trailers),
        _ => {}
    }
    let Some(end) = buffer.windows(4).position(|end| end == b"\r\n\r\n") else {
        return if buffer.len() > MAX_TRAILER_BYTES { Err(FramingError::Trailers) } else { Ok(Decoded::More) };
    };
    let lines = buffer.split_to(end + 4).freeze();
    if lines.len() > MAX_TRAILER_BYTES {
        return Err(FramingError::Trailers);
    }
    // SECURITY: httparse accepts bare line feeds, at which another parser may have ended the
    // trailers.
    if lines.windows(2).any(|pair| matches!(pair, [before, b'\n'] if *before != b'\r')) {
        return Err(FramingError::Trailers);
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&lines, &mut fields) else {
        return Err(FramingError::Trailers);
    };
    let original = Original::of_trailers(original::lines(&lines, fields), lines.clone());
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in original.fields() {
        let name = HeaderName::from_bytes(name).map_err(|_| FramingError::Trailers)?;
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| FramingError::Trailers)?;
        headers.append(name, value);
    }
    Ok(Decoded::Frame(Frame::Trailers(Box::new(Trailers { headers, original: Some(original) }))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The body's bytes, the number of its trailers, and the bytes that follow it.
    type Found = (Vec<u8>, usize, Vec<u8>);

    /// `None` if the end does not arrive.
    fn decoded(mut decoder: Decoder, parts: &[&[u8]]) -> Result<Option<Found>, FramingError> {
        let (mut body, mut trailers, mut buffer) = (Vec::new(), 0, BytesMut::new());
        let mut parts = parts.iter();
        loop {
            match decoder.decode(&mut buffer)? {
                Decoded::Frame(frame) => match frame.into_data() {
                    Ok(data) => body.extend_from_slice(&data),
                    Err(frame) => trailers += frame.trailers_ref().map_or(0, HeaderMap::len),
                },
                Decoded::End => {
                    buffer.extend(parts.flat_map(|part| part.iter()));
                    return Ok(Some((body, trailers, buffer.to_vec())));
                }
                Decoded::More => match parts.next() {
                    Some(part) => buffer.extend_from_slice(part),
                    None => return Ok(None),
                },
            }
        }
    }

    fn chunked(bytes: &str) -> Result<Option<Found>, FramingError> {
        decoded(Decoder::chunked(), &[bytes.as_bytes()])
    }

    #[test]
    fn chunks_are_joined_and_what_follows_stays() {
        let found = chunked("3\r\nabc\r\n00A;x=\"y\"\r\n0123456789\r\n1 \t\r\nz\r\n0\r\n\r\nGET /");
        assert_eq!(found, Ok(Some((b"abc0123456789z".to_vec(), 0, b"GET /".to_vec()))));
        let found = chunked("0\r\nA: b\r\nC: d\r\n\r\nGET /");
        assert_eq!(found, Ok(Some((Vec::new(), 2, b"GET /".to_vec()))));
    }

    #[test]
    fn what_is_no_chunk_is_none() {
        for (bytes, error) in [
            ("zz\r\n", FramingError::ChunkSize),
            ("\r\n", FramingError::ChunkSize),
            (" 1\r\n", FramingError::ChunkSize),
            ("-1\r\n", FramingError::ChunkSize),
            ("0x1\r\n", FramingError::ChunkSize),
            ("1 1\r\n", FramingError::ChunkSize),
            ("1\n", FramingError::ChunkSize),
            ("1\r1", FramingError::ChunkSize),
            ("10000000000000000\r\n", FramingError::ChunkSize),
            ("1;a\nb\r\n", FramingError::Extensions),
            ("1\r\nab", FramingError::ChunkEnd),
            ("1\r\na\n", FramingError::ChunkEnd),
            ("1\r\na\rb", FramingError::ChunkEnd),
            ("0\r\n\rA", FramingError::Trailers),
            ("0\r\n\n", FramingError::Trailers),
            ("0\r\nA: b\n\nGET / HTTP/1.1\r\n\r\n", FramingError::Trailers),
            ("0\r\nA: b\nB: c\r\n\r\n", FramingError::Trailers),
            ("0\r\nA : b\r\n\r\n", FramingError::Trailers),
            ("0\r\nA\r\n\r\n", FramingError::Trailers),
        ] {
            assert_eq!(chunked(bytes), Err(error), "{bytes:?}");
        }
        assert_eq!(chunked(&format!("1;{}", "a".repeat(MAX_EXTENSIONS + 1))), Err(FramingError::Extensions));
        assert_eq!(chunked(&format!("0\r\nA: {}", "a".repeat(MAX_TRAILER_BYTES))), Err(FramingError::Trailers));
        assert_eq!(chunked(&format!("0\r\n{}\r\n", "A: b\r\n".repeat(MAX_TRAILERS + 1))), Err(FramingError::Trailers));
    }

    #[test]
    fn a_cut_body_is_no_whole_one() {
        for mut decoder in [Decoder::length(3), Decoder::chunked()] {
            assert_eq!(decoder.close(), Err(FramingError::Cut));
        }
        assert_eq!(Decoder::until_close().close(), Ok(()));
        assert_eq!(Decoder::none().close(), Ok(()));
    }

    #[test]
    fn a_length_is_kept() {
        let found = decoded(Decoder::length(5), &[b"ab", b"cdeGET", b" /"]);
        assert_eq!(found, Ok(Some((b"abcde".to_vec(), 0, b"GET /".to_vec()))));
    }

    proptest! {
        // The result does not depend on how the bytes are split.
        #[test]
        fn where_the_reads_are_cut_does_not_matter(
            bytes in prop_oneof![
                "([0-3]{1,2}(;[a-z]{0,3})?\r\n[a-z]{0,4}\r\n){0,4}0\r\n(A: b\r\n)?\r\n[A-Z]{0,3}",
                "[0-9a-f;\r\n A:]{0,24}",
            ],
            size in 1usize..6,
        ) {
            let whole = decoded(Decoder::chunked(), &[bytes.as_bytes()]);
            let parts: Vec<&[u8]> = bytes.as_bytes().chunks(size).collect();
            prop_assert_eq!(decoded(Decoder::chunked(), &parts), whole);
        }
    }
}
