//! The target of a request: its original bytes, and the `Uri` that the program uses.
//!
//! A `Uri` cannot hold everything that clients send and servers accept: bytes that are not UTF-8,
//! `<` and `>`, a backtick, `"` in a query. Routing, vetting and logging use the `Uri`; the
//! original bytes are sent on.

use bytes::{Bytes, BytesMut};
use http::{Request, Uri};

use super::error::HeadError;
use super::original::{Original, Span};

/// Reads the target at `target` of `head`: the `Uri` for the program, and which part of the target
/// is sent on.
///
/// # Errors
/// It has a `#`, or none of the forms of RFC 9112, 3.2.
pub fn read(head: &Bytes, target: Span) -> Result<(Uri, Span), HeadError> {
    let bytes = target.slice(head);
    // SECURITY: no target contains one (RFC 9112, 3.2). `Uri` would cut it off with everything
    // after it, so that a filter in front would see another target than the one routed here.
    if bytes.contains(&b'#') {
        return Err(HeadError::Target);
    }
    let begin = if bytes.starts_with(b"/") { 0 } else { after_authority(bytes) };
    let uri = match (Uri::from_maybe_shared(target.bytes(head)), begin) {
        (Ok(uri), _) => uri,
        // SECURITY: never the refresh route, which is plain ASCII: the meaning of such a target is
        // left to WordPress.
        (Err(_), 0) if bytes.starts_with(b"/") => Uri::default(),
        // A `Uri` can hold every authority that a request may name.
        (Err(_), 1..) => Uri::try_from(bytes.get(..begin).unwrap_or_default()).map_err(|_| HeadError::Target)?,
        (Err(_), 0) => return Err(HeadError::Target),
    };
    Ok((uri, target.skip(begin)))
}

/// The part of a request's target that is sent on: the original bytes, or in HTTP/2 those of its
/// `Uri`.
pub fn sent<'a>(uri: &'a Uri, original: Option<&'a Original>) -> &'a [u8] {
    let original = original.map(Original::target).filter(|target| !target.is_empty());
    original.unwrap_or_else(|| uri.path_and_query().map_or(b"/", |target| target.as_str().as_bytes()))
}

/// The path of the target of `request`, with invalid UTF-8 replaced: for logs.
pub fn path<B>(request: &Request<B>) -> String {
    let target = sent(request.uri(), request.extensions().get());
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    String::from_utf8_lossy(path).into_owned()
}

/// The head at the start of `bytes`, with each byte of its target that is not ASCII replaced by
/// `x`; `None` if all are ASCII. Positions do not change.
pub fn masked(bytes: &[u8]) -> Option<BytesMut> {
    let begin = 1 + bytes.iter().position(|byte| *byte == b' ')?;
    let mut masked = BytesMut::from(bytes);
    let mut has_changed = false;
    for byte in masked.iter_mut().skip(begin).take_while(|byte| !matches!(byte, b' ' | b'\r' | b'\n')) {
        if !byte.is_ascii() {
            *byte = b'x';
            has_changed = true;
        }
    }
    has_changed.then_some(masked)
}

/// The length of the scheme and authority of an absolute target (`http://host/path`); zero for
/// other forms.
fn after_authority(target: &[u8]) -> usize {
    let Some(scheme) = target.windows(3).position(|part| part == b"://") else { return 0 };
    let authority = target.iter().skip(scheme + 3).take_while(|byte| !matches!(byte, b'/' | b'?'));
    scheme + 3 + authority.count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    use crate::http1::head::{self, HeadLimits};

    /// The target that the program uses, and the one that is sent on.
    fn read_as(target: &[u8]) -> Result<(String, Vec<u8>), HeadError> {
        let mut head = BytesMut::from(&[b"POST ", target, b" HTTP/1.1\r\nX-\xc3\xa4: b\r\n\r\n"].concat()[..]);
        head.truncate(head.len() - b"X-\xc3\xa4: b\r\n\r\n".len());
        head.extend_from_slice(b"Host: \xe4\r\n\r\nrest");
        let limits = HeadLimits { bytes: 1024, fields: 10 };
        let read = head::request(&mut head, &limits)?.unwrap();
        assert_eq!((&head[..], read.request.method()), (&b"rest"[..], &Method::POST));
        assert_eq!(read.request.headers().get("host").unwrap().as_bytes(), b"\xe4");
        Ok((read.request.uri().to_string(), sent(read.request.uri(), read.request.extensions().get()).to_vec()))
    }

    #[test]
    fn every_byte_that_is_no_space_and_no_control_character_is_sent_on() {
        for byte in (b'!'..=b'~').chain(0x80..=0xff).filter(|byte| *byte != b'#') {
            for before in [&b"/"[..], b"/a?", b"//", b"/wp-json/jwt-auth/v1/token/refresh?refresh_token="] {
                let target = [before, &[byte], b"x"].concat();
                let (uri, sent) = read_as(&target).unwrap();
                assert_eq!(sent, target);
                // The `Uri` holds all of the target, or nothing of it.
                assert!(uri == "/" || uri.as_bytes() == target, "{uri}");
            }
        }
        for byte in (0..=b' ').chain([b'#', 0x7f]) {
            assert!(read_as(&[b"/a", &[byte][..], b"x"].concat()).is_err(), "{byte}");
            assert!(read_as(&[b"/\xff", &[byte][..], b"x"].concat()).is_err(), "{byte}");
        }
    }

    #[test]
    fn an_absolute_target_is_sent_on_from_its_path() {
        for (target, uri, sent) in [
            (&b"http://a/b?c"[..], "http://a/b?c", &b"/b?c"[..]),
            (b"http://a/<\xff>?\"", "http://a/", b"/<\xff>?\""),
            (b"HTTP://a:80?`<", "http://a:80/", b"?`<"),
            (b"http://a/b://c", "http://a/b://c", b"/b://c"),
            (b"http://a", "http://a/", b"/"),
            (b"*", "*", b"*"),
        ] {
            assert_eq!(read_as(target), Ok((uri.to_owned(), sent.to_vec())), "{}", String::from_utf8_lossy(target));
        }
        for target in [&b"http://a\"/"[..], b"ht<tp://a/", b"<", b"a/b", b"\xff", b"x?y=http://a/", b"http:///x"] {
            assert_eq!(read_as(target), Err(HeadError::Target), "{}", String::from_utf8_lossy(target));
        }
    }
}
