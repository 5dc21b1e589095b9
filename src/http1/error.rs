//! What can be wrong with HTTP/1.x as it comes by a connection.

use std::io;

/// Why a head is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Longer or of more fields than is allowed.
    #[error("the head is too large: over server.max_header_bytes or max_header_fields")]
    TooLarge,
    /// A method that is no token.
    #[error("invalid method")]
    Method,
    /// A target with a control character, a space or `#`, or none of the forms that a target has (RFC 9112, 3.2).
    #[error("invalid URI")]
    Target,
    /// A target of 64 KiB and more.
    #[error("the URI is too long")]
    TargetTooLong,
    /// Neither HTTP/1.1 nor HTTP/1.0.
    #[error("invalid HTTP version")]
    Version,
    /// A status that is none.
    #[error("invalid status")]
    Status,
    /// A line that is no field, or anything else that is not HTTP.
    #[error("invalid line: {0}")]
    Line(httparse::Error),
    /// A field whose name or value is not valid.
    #[error("invalid field")]
    Field,
    /// No number, or more than one (of an answer: that differ).
    #[error("invalid Content-Length")]
    Length,
    /// Not `chunked` at last, or in HTTP/1.0.
    #[error("invalid Transfer-Encoding")]
    TransferEncoding,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Closed before the first byte of an answer.
    #[error("the connection was closed before an answer")]
    Closed(#[source] Option<io::Error>),
    /// Closed in its head.
    #[error("the connection was closed in the head of the answer")]
    Cut(#[source] Option<io::Error>),
    /// What came is not HTTP.
    #[error("what came is no HTTP answer")]
    Head(#[from] HeadError),
}

/// What is wrong with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// The connection was closed before its end.
    #[error("the connection was closed before the end of the body")]
    Cut,
    /// A chunk's size is none, or too large.
    #[error("invalid chunk size")]
    ChunkSize,
    /// More extensions than anybody needs.
    #[error("too many chunk extensions")]
    Extensions,
    /// A chunk that does not end where its size says.
    #[error("invalid end of a chunk")]
    ChunkEnd,
    /// Trailers that are no fields, or too many.
    #[error("invalid trailers")]
    Trailers,
}

/// Why a body did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// It was closed early, or its chunks are none.
    #[error(transparent)]
    Framing(#[from] FramingError),
}

/// The body was shorter than its head said.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the body is shorter than its Content-Length")]
pub struct TooShort;
