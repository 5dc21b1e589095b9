//! Parses the heads of requests and responses. Nothing is repaired: what two servers could read
//! differently is refused.
//!
//! [`Original`] keeps what is passed on: the target's bytes, and the fields in their order and with
//! the spelling of their names. `HeaderMap` has the names in lower case, and some clients and sites
//! compare them case-sensitively.

use std::mem::{self, MaybeUninit};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, Version, header};
use httparse::{ParserConfig, Status};

use super::decoder::Decoder;
use super::error::HeadError;
use super::fields::{Coding, Fields, Length, remove_in_order};
use super::original::{Line, Original, Span, lines};
use super::target;

/// Room on the stack for the fields of nearly every head. Larger heads are parsed once more with
/// more room.
const USUAL_FIELDS: usize = 64;

/// The longest target, in bytes: what a [`Uri`] can hold.
const MAX_TARGET: usize = u16::MAX as usize - 1;

/// How large a head may be.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// `[server] max_header_bytes`.
    pub bytes: usize,
    /// `[server] max_header_fields`.
    pub fields: usize,
}

/// A request's head.
pub struct RequestHead {
    /// The request without its body. [`Original`] is in its extensions.
    pub request: Request<()>,
    /// How its body is framed.
    pub body: Decoder,
    /// Whether the client will send another request after this one.
    pub keeps: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub awaits_continue: bool,
}

/// A response's head.
pub struct AnswerHead {
    /// The response without its body. [`Original`] is in its extensions.
    pub answer: Response<()>,
    /// How its body is framed.
    pub body: Decoder,
    /// Whether the connection can carry another exchange after this one.
    pub keeps: bool,
}

/// Takes a request's head off `buffer`; `None` if it is not complete.
///
/// # Errors
/// It is not HTTP, not safe to forward, or too large. It then stays in `buffer`: the error response
/// depends on what its client accepts.
pub fn request(buffer: &mut BytesMut, limits: &HeadLimits) -> Result<Option<RequestHead>, HeadError> {
    let parsed = match parse(buffer, limits) {
        // httparse accepts any byte from `!` on in a target, as long as the whole is UTF-8.
        Err(HeadError::Target) => parse(&target::masked(buffer).ok_or(HeadError::Target)?, limits)?,
        parsed => parsed?,
    };
    let Some(parsed) = parsed else { return Ok(None) };
    let head = buffer.split_to(parsed.length).freeze();
    let whole = whole_request(&head, parsed);
    if whole.is_err() {
        let rest = mem::replace(buffer, BytesMut::from(&head[..]));
        buffer.unsplit(rest);
    }
    whole.map(Some)
}

/// A request's head as httparse parses it.
struct Parsed {
    length: usize,
    method: Method,
    target: Span,
    version: Version,
    lines: Vec<Line>,
}

fn parse(bytes: &[u8], limits: &HeadLimits) -> Result<Option<Parsed>, HeadError> {
    let max_fields = limits.fields;
    let mut usual = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let room = usual.get_mut(..max_fields.min(USUAL_FIELDS)).unwrap_or_default();
    let mut status = parsed.parse_with_uninit_headers(bytes, room);
    let mut more = Vec::new();
    if status == Err(httparse::Error::TooManyHeaders) && max_fields > USUAL_FIELDS {
        more.resize_with(max_fields, MaybeUninit::uninit);
        parsed = httparse::Request::new(&mut []);
        status = parsed.parse_with_uninit_headers(bytes, &mut more);
    }
    let length = match status {
        Ok(Status::Complete(length)) if length > limits.bytes => return Err(HeadError::TooLarge),
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        // Without a method so far the method is invalid, otherwise the target.
        Err(httparse::Error::Token) if parsed.method.is_none() => return Err(HeadError::Method),
        Err(httparse::Error::Token) => return Err(HeadError::Target),
        Err(error) => return Err(of_parser(error)),
    };
    let target = parsed.path.unwrap_or_default();
    if target.len() > MAX_TARGET {
        return Err(HeadError::TargetTooLong);
    }
    let method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes()).map_err(|_| HeadError::Method)?;
    let target = Span::of(target.as_bytes(), bytes);
    let (version, lines) = (version(parsed.version), lines(bytes, parsed.headers));
    Ok(Some(Parsed { length, method, target, version, lines }))
}

fn whole_request(head: &Bytes, parsed: Parsed) -> Result<RequestHead, HeadError> {
    let Parsed { method, target, version, lines, .. } = parsed;
    let (uri, target) = target::read(head, target)?;
    let mut fields = Fields::read(head, lines)?;
    let body = match (fields.codings, fields.length) {
        // SECURITY: several equal lengths are refused as well: some servers use the first, and
        // nginx refuses them (RFC 9112, 6.3).
        (_, Length::Invalid | Length::List(_) | Length::Repeated(_)) => return Err(HeadError::Length),
        (Some(_), _) if version < Version::HTTP_11 => return Err(HeadError::TransferEncoding),
        (Some(Coding::Chunked), _) => Decoder::chunked(),
        // SECURITY: the end cannot be determined (RFC 9112, 6.3).
        (Some(Coding::Other), _) => return Err(HeadError::TransferEncoding),
        (None, Length::Is(length)) => Decoder::length(length),
        (None, Length::None) => Decoder::none(),
    };
    // SECURITY: with both fields, a server in front may have seen another end of this request: the
    // coding wins, and the connection is closed after it (RFC 9112, 6.3).
    let is_doubtful = fields.codings.is_some() && fields.length != Length::None;
    if is_doubtful {
        remove_in_order(&mut fields.headers, |name| name == header::CONTENT_LENGTH);
    }
    let keeps = fields.keeps(version) && !is_doubtful;
    let awaits_continue = fields.awaits_continue && version == Version::HTTP_11;
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = version;
    *request.headers_mut() = fields.headers;
    *request.extensions_mut() = fields.extensions;
    let original = Original { head: head.clone(), lines: fields.lines, reason: Span::default(), target };
    request.extensions_mut().insert(original);
    Ok(RequestHead { request, body, keeps, awaits_continue })
}

/// Whether a response is interim, to be followed by the final one (RFC 9110, 15.2).
pub fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

/// Takes the head of the response to a request of `method` off `buffer`, which may be
/// [interim](is_interim); `None` if it is not complete.
///
/// # Errors
/// It is not HTTP, not safe to forward, or has more fields than `max_fields`.
pub fn answer(buffer: &mut BytesMut, method: &Method, max_fields: usize) -> Result<Option<AnswerHead>, HeadError> {
    if buffer.is_empty() {
        return Ok(None);
    }
    let config = ParserConfig::default();
    let mut usual = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let mut status = config.parse_response_with_uninit_headers(&mut parsed, buffer, &mut usual);
    let mut more = Vec::new();
    if status == Err(httparse::Error::TooManyHeaders) {
        more.resize_with(max_fields, MaybeUninit::uninit);
        parsed = httparse::Response::new(&mut []);
        status = config.parse_response_with_uninit_headers(&mut parsed, buffer, &mut more);
    }
    let length = match status {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(error) => return Err(of_parser(error)),
    };
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| HeadError::Status)?;
    let reason = reason(buffer);
    let version = version(parsed.version);
    let lines = lines(buffer, parsed.headers);

    let head = buffer.split_to(length).freeze();
    let mut fields = Fields::read(&head, lines)?;
    if let Length::List(length) = fields.length {
        fields.headers.insert(header::CONTENT_LENGTH, length.into());
    }
    let is_bodiless = method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let body = match (fields.codings, fields.length) {
        (_, Length::Invalid) => return Err(HeadError::Length),
        _ if is_bodiless => Decoder::none(),
        (Some(_), _) if version < Version::HTTP_11 => return Err(HeadError::TransferEncoding),
        (Some(Coding::Chunked), _) => Decoder::chunked(),
        (None, Length::Is(length) | Length::Repeated(length) | Length::List(length)) => Decoder::length(length),
        (Some(Coding::Other), _) | (None, Length::None) => Decoder::until_close(),
    };
    // SECURITY: with both fields, the upstream may have meant another end, and the bytes after it
    // would be the next client's response.
    let is_doubtful = fields.codings.is_some() && fields.length != Length::None;
    let keeps = fields.keeps(version) && !is_doubtful;
    let mut answer = Response::new(());
    *answer.status_mut() = status;
    *answer.version_mut() = version;
    *answer.headers_mut() = fields.headers;
    *answer.extensions_mut() = fields.extensions;
    answer.extensions_mut().insert(Original { head, lines: fields.lines, reason, target: Span::default() });
    Ok(Some(AnswerHead { answer, body, keeps }))
}

/// Where the reason phrase is in a head with a valid status line. httparse omits one that is not
/// ASCII.
fn reason(head: &[u8]) -> Span {
    let begin = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or_default();
    let line = head[begin..].split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // "HTTP/1.1 200 ".
    Span::of(line.get(13..).unwrap_or_default(), head)
}

/// Whether the end of a head may be in `bytes` after `from`. Avoids parsing a slow head again with
/// each of its bytes.
pub fn may_end(bytes: &[u8], from: usize) -> bool {
    let new = bytes.get(from.saturating_sub(3)..).unwrap_or_default();
    new.windows(2).any(|pair| pair == b"\n\n") || new.windows(3).any(|end| end == b"\n\r\n")
}

fn of_parser(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooLarge,
        httparse::Error::Version => HeadError::Version,
        httparse::Error::Status => HeadError::Status,
        error => HeadError::Line(error),
    }
}

/// httparse accepts no others.
fn version(minor: Option<u8>) -> Version {
    if minor == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;
    use proptest::prelude::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 4096, fields: 100 };

    fn read(bytes: &str) -> Result<Option<RequestHead>, HeadError> {
        request(&mut BytesMut::from(bytes), &LIMITS)
    }

    fn framing(fields: &str) -> Result<(Option<u64>, bool), HeadError> {
        let head = read(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))?.unwrap();
        Ok((head.body.left(), head.keeps))
    }

    fn answered(method: Method, head: &str) -> Result<(Option<u64>, bool), HeadError> {
        let mut buffer = BytesMut::from(head);
        loop {
            let head = answer(&mut buffer, &method, 200)?.unwrap();
            if !is_interim(head.answer.status()) {
                return Ok((head.body.left(), head.keeps));
            }
        }
    }

    #[test]
    fn a_request_is_taken_off_and_what_follows_stays() {
        let mut buffer = BytesMut::from("\r\nGET /a?b HTTP/1.1\r\nhOst: a\r\nX-\u{e9}: b\r\n\r\nGET /");
        assert_eq!(request(&mut buffer, &LIMITS).err(), Some(HeadError::Line(httparse::Error::HeaderName)));
        let mut buffer = BytesMut::from("\r\nGET /a?b HTTP/1.1\r\nhOst: \u{e9} \r\nX: b\r\n\r\nGET /");
        let head = request(&mut buffer, &LIMITS).unwrap().unwrap();
        assert_eq!((head.request.method(), head.request.uri().to_string().as_str()), (&Method::GET, "/a?b"));
        assert_eq!(head.request.headers().get("host").unwrap().as_bytes(), "\u{e9}".as_bytes());
        let original = head.request.extensions().get::<Original>().unwrap();
        assert_eq!(original.target(), b"/a?b");
        assert_eq!((&buffer[..], head.body.left(), head.keeps), (&b"GET /"[..], Some(0), true));
    }

    #[test]
    fn half_a_head_is_none_and_too_much_is_too_large() {
        let whole = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).unwrap().is_none(), "{length}");
        }
        let fields = |count: usize| (1..count).map(|_| "a: b\r\n").collect::<String>();
        for (count, fits) in [(100, true), (101, false)] {
            let found = read(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(count)));
            assert_eq!(found.err(), (!fits).then_some(HeadError::TooLarge));
        }
        assert_eq!(read(&format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(4096))).err(), Some(HeadError::TooLarge));
    }

    #[test]
    fn a_body_is_framed_in_one_way_only() {
        assert_eq!(framing(""), Ok((Some(0), true)));
        assert_eq!(framing("Content-Length: 5\r\n"), Ok((Some(5), true)));
        assert_eq!(framing("Content-Length: 5\r\nContent-Length: 05\r\n"), Err(HeadError::Length));
        assert_eq!(framing("Transfer-Encoding: gzip, Chunked\r\n"), Ok((None, true)));
        assert_eq!(framing("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), Ok((None, false)));
        for length in [
            "",
            "+5",
            "-5",
            "0x5",
            "5 5",
            "5,5",
            "5,6",
            "9223372036854775808",
            "18446744073709551616",
            "5\r\nContent-Length: 6",
            "5,5\r\nTransfer-Encoding: chunked",
        ] {
            assert_eq!(framing(&format!("Content-Length: {length}\r\n")), Err(HeadError::Length), "{length:?}");
        }
        for coding in ["", "gzip", "chunked, gzip", "chunked;a=b", "xchunked", "identity"] {
            let found = framing(&format!("Transfer-Encoding: {coding}\r\n"));
            assert_eq!(found, Err(HeadError::TransferEncoding), "{coding:?}");
        }
    }

    #[test]
    fn a_length_beside_a_coding_goes_and_the_order_stays() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX: b\r\nTransfer-Encoding: chunked\r\n\r\n";
        let head = read(head).unwrap().unwrap();
        let names: Vec<&str> = head.request.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["host", "x", "transfer-encoding"]);
    }

    #[test]
    fn who_closes_says_so() {
        for (version, connection, keeps) in [
            ("1.1", "", true),
            ("1.1", "Connection: Close\r\n", false),
            ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
            ("1.1", "Connection: close, keep-alive\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
        ] {
            let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}Keep-Alive: 5\r\nX: y\r\n\r\n");
            let head = read(&head).unwrap().unwrap();
            assert_eq!(head.keeps, keeps, "{version} {connection}");
            assert_eq!(head.request.headers().len(), 2, "fields about this connection only are removed");
        }
        let head = "GET / HTTP/1.1\r\nConnection: keep-alive, X-Hop\r\nHost: a\r\n\r\n";
        assert!(read(head).unwrap().unwrap().request.headers().contains_key("connection"), "one of others is not");
    }

    #[test]
    fn an_answer_ends_where_its_head_and_request_say() {
        let ok = "HTTP/1.1 200 OK\r\n";
        let get = Method::GET;
        assert_eq!(answered(get.clone(), &format!("{ok}Content-Length: 5\r\n\r\n")), Ok((Some(5), true)));
        assert_eq!(answered(get.clone(), &format!("{ok}Content-Length: 5, 5\r\n\r\n")), Ok((Some(5), true)));
        assert_eq!(answered(get.clone(), &format!("{ok}\r\n")), Ok((None, true)));
        assert_eq!(answered(Method::HEAD, &format!("{ok}Content-Length: 5\r\n\r\n")), Ok((Some(0), true)));
        assert_eq!(
            answered(get.clone(), "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
            Ok((Some(0), true))
        );
        assert_eq!(answered(get.clone(), "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n"), Ok((Some(5), false)));
        let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n";
        assert_eq!(answered(get.clone(), &format!("{early}{ok}Content-Length: 5\r\n\r\n")), Ok((Some(5), true)));
        let mut buffer = BytesMut::from(early);
        for status in [Some(100), Some(103), None] {
            let head = answer(&mut buffer, &get, 200).unwrap();
            assert_eq!(head.map(|head| head.answer.status().as_u16()), status);
        }
        for (head, error) in [
            (format!("{ok}Content-Length: 5\r\nContent-Length: 6\r\n\r\n"), HeadError::Length),
            (format!("{ok}Content-Length: a\r\n\r\n"), HeadError::Length),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(), HeadError::TransferEncoding),
            (format!("{ok}{}\r\n", "a: b\r\n".repeat(201)), HeadError::TooLarge),
        ] {
            assert_eq!(answered(get.clone(), &head), Err(error), "{head}");
        }
    }

    proptest! {
        // A slow head is parsed again only when its end may have arrived.
        #[test]
        fn the_end_of_a_head_is_seen(lines in "(([a-z]: [a-z]{0,3}\r?\n){0,3}\r?\n)?[a-z]{0,4}", cut in 0usize..20) {
            let bytes = format!("GET / HTTP/1.1\r\nhost: a\r\n{lines}");
            let from = bytes.len().saturating_sub(cut);
            let ends_in_new = read(&bytes).unwrap().is_some() && read(&bytes[..from]).unwrap().is_none();
            prop_assert!(!ends_in_new || may_end(bytes.as_bytes(), from));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), spoilt in 0usize..60, by: u8) {
            let _ = request(&mut BytesMut::from(&bytes[..]), &LIMITS);
            let _ = answer(&mut BytesMut::from(&bytes[..]), &Method::GET, 10);
            let mut head = b"POST /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX: y\r\n\r\n".to_vec();
            if let Some(byte) = head.get_mut(spoilt) {
                *byte = by;
            }
            let _ = request(&mut BytesMut::from(&head[..]), &LIMITS);
        }
    }
}
