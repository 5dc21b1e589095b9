//! Writes heads, and decides how the bodies after them are framed.

use std::cell::Cell;
use std::io::Write as _;

use http::{HeaderName, HeaderValue, StatusCode, Version, header, request, response};

use super::encoder::Encoder;
use super::fields::tokens;
use super::original::{self, Original};
use super::target;

/// What the framing of a response depends on in its request and connection.
#[derive(Debug, Clone, Copy)]
pub struct ResponseFraming {
    /// The response to HEAD has no body.
    pub is_head: bool,
    /// HTTP/1.0 does not support chunks.
    pub version: Version,
    /// Whether the connection may be kept after the response.
    pub keeps: bool,
}

impl ResponseFraming {
    /// The framing for an invalid request: the response is framed as any other, and then the
    /// connection closes.
    pub fn unknown() -> Self {
        ResponseFraming { is_head: false, version: Version::HTTP_11, keeps: false }
    }
}

/// Writes the head of a request to the upstream, with the fields that `extra` writes after its own.
/// Returns how the body is to be framed: by its `length`, or without one in chunks.
pub fn request(
    out: &mut Vec<u8>,
    head: &request::Parts,
    length: Option<u64>,
    extra: impl FnOnce(&mut Vec<u8>),
) -> Encoder {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    let original = head.extensions.get();
    let target = target::sent(&head.uri, original);
    if !matches!(target, [b'/' | b'*', ..]) {
        // `http://host?query` has no path.
        out.push(b'/');
    }
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    // SECURITY: with both fields, the upstream might see another end of this request.
    let is_chunked = length.is_none();
    original::write(out, &head.headers, original, |name| !(is_chunked && *name == header::CONTENT_LENGTH));
    if is_chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    extra(out);
    out.extend_from_slice(b"\r\n");
    length.map_or_else(Encoder::chunked, Encoder::length)
}

/// Writes an interim response (1xx).
pub fn interim(out: &mut Vec<u8>, head: &response::Parts) {
    status_line(out, head, Version::HTTP_11);
    let frames = |name: &HeaderName| matches!(*name, header::CONTENT_LENGTH | header::TRANSFER_ENCODING);
    original::write(out, &head.headers, head.extensions.get(), |name| !frames(name));
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut Vec<u8>, head: &response::Parts, version: Version) {
    out.extend_from_slice(if version < Version::HTTP_11 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.push(b' ');
    match head.extensions.get::<Original>() {
        Some(original) => out.extend_from_slice(original.reason()),
        None => out.extend_from_slice(head.status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of a response, whose body has this `length` if it is known. Returns how the body
/// is to be framed and whether the connection ends with it.
pub fn answer(
    out: &mut Vec<u8>,
    head: &response::Parts,
    length: Option<u64>,
    framing: &ResponseFraming,
) -> (Encoder, bool) {
    let status = head.status;
    let is_switch = status == StatusCode::SWITCHING_PROTOCOLS;
    // 204 and 304 have no body, whatever their fields say (RFC 9110, 15.3.5 and 15.4.5). A 304 may
    // state the length of the full response; 1xx and 204 have none (RFC 9110, 8.6).
    let never_has_length = status.is_informational() || status == StatusCode::NO_CONTENT;
    let never_has_body = never_has_length || status == StatusCode::NOT_MODIFIED;
    let ends_with_close = length.is_none() && !never_has_body && !framing.is_head && framing.version < Version::HTTP_11;

    status_line(out, head, framing.version);
    let (has_length, says_close) = (Cell::new(false), Cell::new(false));
    original::write(out, &head.headers, head.extensions.get(), |name| match *name {
        header::CONTENT_LENGTH => {
            has_length.set(true);
            !never_has_length
        }
        header::CONNECTION => {
            says_close.set(head.headers.get(header::CONNECTION).is_some_and(is_close));
            true
        }
        header::TRANSFER_ENCODING => false,
        _ => true,
    });
    let (has_length, says_close) = (has_length.get(), says_close.get());
    let closes = !is_switch && (!framing.keeps || says_close || ends_with_close);
    match length {
        Some(length) if !has_length && !never_has_body && (length > 0 || !framing.is_head) => {
            let _ = write!(out, "Content-Length: {length}\r\n");
        }
        None if !ends_with_close && !never_has_body && !framing.is_head => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        _ => {}
    }
    if closes && !says_close && framing.version == Version::HTTP_11 {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if !closes && !is_switch && framing.version < Version::HTTP_11 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");

    let encoder = match length {
        _ if never_has_body || framing.is_head => Encoder::none(),
        Some(length) => Encoder::length(length),
        None if ends_with_close => Encoder::until_close(),
        None => Encoder::chunked(),
    };
    (encoder, closes)
}

fn is_close(value: &HeaderValue) -> bool {
    tokens(value.as_bytes()).any(|token| token.eq_ignore_ascii_case(b"close"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::head::{self, HeadLimits};
    use bytes::{Bytes, BytesMut};
    use http::Response;

    fn answered(response: Response<Bytes>, framing: &ResponseFraming) -> (String, bool) {
        let (head, body) = response.into_parts();
        let mut out = Vec::new();
        let (_, closes) = answer(&mut out, &head, Some(body.len() as u64), framing);
        (String::from_utf8(out).unwrap(), closes)
    }

    fn plain() -> ResponseFraming {
        ResponseFraming { keeps: true, ..ResponseFraming::unknown() }
    }

    #[test]
    fn an_answer_of_ours_is_framed() {
        let response =
            || Response::builder().status(404).header("x-a-bc", "d").body(Bytes::from_static(b"ab")).unwrap();
        let head = "404 Not Found\r\nX-A-Bc: d\r\nContent-Length: 2\r\n";
        let keeps = (format!("HTTP/1.1 {head}\r\n"), false);
        assert_eq!(answered(response(), &plain()), keeps);
        assert_eq!(answered(response(), &ResponseFraming { is_head: true, ..plain() }), keeps);
        let closes = format!("HTTP/1.1 {head}Connection: close\r\n\r\n");
        assert_eq!(answered(response(), &ResponseFraming::unknown()), (closes, true));
        let old = ResponseFraming { version: Version::HTTP_10, ..plain() };
        assert_eq!(answered(response(), &old), (format!("HTTP/1.0 {head}Connection: keep-alive\r\n\r\n"), false));
        assert_eq!(
            answered(response(), &ResponseFraming { keeps: false, ..old }),
            (format!("HTTP/1.0 {head}\r\n"), true)
        );
    }

    #[test]
    fn what_cannot_have_a_body_has_no_framing() {
        for (status, length) in [(204, ""), (304, "Content-Length: 5\r\n")] {
            let response = Response::builder().status(status).header("content-length", "5").body(Bytes::new()).unwrap();
            let (head, closes) = answered(response, &plain());
            let (_, fields) = head.split_once("\r\n").unwrap();
            assert_eq!((fields, closes), (format!("{length}\r\n").as_str(), false));
        }
    }

    #[test]
    fn an_answer_that_announces_one_has_neither_framing_nor_end() {
        let response = Response::builder().status(103).header("link", "a").header("content-length", "5");
        let (head, ()) = response.body(()).unwrap().into_parts();
        let mut out = Vec::new();
        interim(&mut out, &head);
        assert_eq!(out, b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n");
    }

    #[test]
    fn fields_stand_where_they_came_and_as_they_were_spelt() {
        let head =
            "GET / HTTP/1.1\r\nhOST: a\r\nX-a: 1\r\nX-B: 2\r\nx-A: 3\r\nX-b: 4\r\nX-E:\r\nX-C:5 \r\nx-e:  \r\n\r\n";
        let limits = HeadLimits { bytes: 1024, fields: 100 };
        let head = head::request(&mut BytesMut::from(head), &limits).unwrap().unwrap();
        let (mut head, ()) = head.request.into_parts();
        let written = |head: &request::Parts| {
            let mut out = Vec::new();
            request(&mut out, head, Some(0), |_| {});
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            written(&head),
            "GET / HTTP/1.1\r\nhOST: a\r\nX-a: 1\r\nX-B: 2\r\nx-A: 3\r\nX-b: 4\r\nX-E: \r\nX-C: 5\r\nx-e: \r\n\r\n"
        );
        // Moves the last field into the gap.
        head.headers.remove(header::HOST);
        head.headers.insert("x-forwarded-for", HeaderValue::from_static("6"));
        head.headers.append("x-c", HeaderValue::from_static("7"));
        head.headers.insert("x-b", HeaderValue::from_static("8"));
        assert_eq!(
            written(&head),
            "GET / HTTP/1.1\r\nX-a: 1\r\nX-B: 8\r\nx-A: 3\r\nX-E: \r\nX-C: 5\r\nx-e: \r\nX-C: 7\r\nX-Forwarded-For: 6\r\n\r\n"
        );
    }

    #[test]
    fn a_target_without_a_path_gets_one() {
        for (target, line) in [("http://a?b", "GET /?b HTTP"), ("*", "GET * HTTP"), ("/?", "GET /? HTTP")] {
            let (mut head, ()) = http::Request::builder().uri(target).body(()).unwrap().into_parts();
            head.uri = head.uri.path_and_query().cloned().unwrap().into();
            let mut out = Vec::new();
            request(&mut out, &head, Some(0), |_| {});
            assert!(out.starts_with(line.as_bytes()), "{}", String::from_utf8_lossy(&out));
        }
    }
}
