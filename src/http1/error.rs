//! Errors of HTTP/1.x messages and connections.

use std::io;

/// Why a message head was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It is longer or has more fields than allowed.
    #[error("the head is too large: over server.max_header_bytes or max_header_fields")]
    TooLarge,
    /// The method is not a token.
    #[error("invalid method")]
    Method,
    /// The target contains a control character, a space or `#`, or has none of the forms of RFC
    /// 9112, 3.2.
    #[error("invalid URI")]
    Target,
    /// The target has 64 KiB or more.
    #[error("the URI is too long")]
    TargetTooLong,
    /// Neither HTTP/1.1 nor HTTP/1.0.
    #[error("invalid HTTP version")]
    Version,
    /// An invalid status code.
    #[error("invalid status")]
    Status,
    /// A line that is not a field, or bytes that are not HTTP.
    #[error("invalid line: {0}")]
    Line(httparse::Error),
    /// A field with an invalid name or value.
    #[error("invalid field")]
    Field,
    /// Not a number, or several (in a response: several that differ).
    #[error("invalid Content-Length")]
    Length,
    /// `chunked` is not the last coding, or the message is HTTP/1.0.
    #[error("invalid Transfer-Encoding")]
    TransferEncoding,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Closed before the first byte of a response.
    #[error("the connection was closed before an answer")]
    Closed(#[source] Option<io::Error>),
    /// Closed within the head.
    #[error("the connection was closed in the head of the answer")]
    Cut(#[source] Option<io::Error>),
    /// The bytes are not HTTP.
    #[error("the upstream's response is not valid HTTP")]
    Head(#[from] HeadError),
}

/// Why a body was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// The connection was closed before its end.
    #[error("the connection was closed before the end of the body")]
    Cut,
    /// A chunk's size is invalid or too large.
    #[error("invalid chunk size")]
    ChunkSize,
    /// More extensions than any client needs.
    #[error("too many chunk extensions")]
    Extensions,
    /// A chunk does not end where its size says.
    #[error("invalid end of a chunk")]
    ChunkEnd,
    /// Trailers that are not valid fields, or too many.
    #[error("invalid trailers")]
    Trailers,
}

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// It ended early, or its chunked framing is invalid.
    #[error(transparent)]
    Framing(#[from] FramingError),
}

/// The body was shorter than its head announced.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the body is shorter than its Content-Length")]
pub struct TooShort;
