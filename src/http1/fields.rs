//! The fields of a head, and what they say about its framing and the connection.

use std::cell::RefCell;

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Version, header};

use super::error::HeadError;
use super::original::Line;

/// The last transfer coding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// `chunked`.
    Chunked,
    /// Anything else.
    Other,
}

/// The value of `Content-Length`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Length {
    None,
    /// A length in bytes.
    Is(u64),
    /// The same number on several lines.
    Repeated(u64),
    /// The same number several times on one line.
    List(u64),
    /// Not a number, or several that differ.
    Invalid,
}

/// The fields of a head: those to pass on, and what the others say about the connection.
pub struct Fields {
    /// All fields that are not about this connection only.
    pub headers: HeaderMap,
    /// Empty; reused memory for the head's extensions.
    pub extensions: Extensions,
    /// Where each of `headers` is in the head.
    pub lines: Vec<Line>,
    /// `Transfer-Encoding`.
    pub codings: Option<Coding>,
    /// `Content-Length`.
    pub length: Length,
    closes: bool,
    keeps_alive: bool,
    /// `Expect: 100-continue`.
    pub awaits_continue: bool,
}

impl Fields {
    /// Reads the fields at `lines` of `head`.
    ///
    /// # Errors
    /// A field is invalid.
    pub fn read(head: &Bytes, lines: Vec<Line>) -> Result<Fields, HeadError> {
        let (headers, extensions) = spare(lines.len() + ADDED_FIELDS);
        let mut fields = Fields {
            headers,
            extensions,
            lines,
            codings: None,
            length: Length::None,
            closes: false,
            keeps_alive: false,
            awaits_continue: false,
        };
        let mut kept = 0;
        for at in 0..fields.lines.len() {
            let Some(line) = fields.lines.get(at).copied() else { break };
            let name = line.name.slice(head);
            let value = line.value.slice(head);
            if name.len() == CONNECTION.len() && fields.is_of_this_connection(name, value) {
                continue;
            }
            let name = HeaderName::from_bytes(name).map_err(|_| HeadError::Field)?;
            match name {
                header::TRANSFER_ENCODING => {
                    let is_chunked = value.rsplit(|byte| *byte == b',').next().is_some_and(is_chunked);
                    fields.codings = Some(if is_chunked { Coding::Chunked } else { Coding::Other });
                }
                header::CONTENT_LENGTH => {
                    let is_first = fields.length == Length::None;
                    fields.length = fields.length.and(value);
                    if !is_first {
                        continue;
                    }
                }
                header::EXPECT => fields.awaits_continue = value.eq_ignore_ascii_case(b"100-continue"),
                _ => {}
            }
            let value = HeaderValue::from_maybe_shared(line.value.bytes(head)).map_err(|_| HeadError::Field)?;
            fields.headers.append(name, value);
            if let Some(kept_line) = fields.lines.get_mut(kept) {
                *kept_line = line;
                kept += 1;
            }
        }
        fields.lines.truncate(kept);
        Ok(fields)
    }

    /// Whether the field is about this connection only: `Connection` with nothing but `close` and
    /// `keep-alive`, and `Keep-Alive`. Removed here, they need not be searched for and cut out of a
    /// map later.
    fn is_of_this_connection(&mut self, name: &[u8], value: &[u8]) -> bool {
        if name.eq_ignore_ascii_case(KEEP_ALIVE) {
            return true;
        }
        if !name.eq_ignore_ascii_case(CONNECTION) {
            return false;
        }
        let mut names_more = false;
        for token in tokens(value) {
            if token.eq_ignore_ascii_case(KEEP_ALIVE) {
                self.keeps_alive = true;
            } else if token.eq_ignore_ascii_case(b"close") {
                self.closes = true;
            } else {
                names_more = true;
            }
        }
        !names_more
    }

    /// Whether the connection can be kept after this message.
    pub fn keeps(&self, version: Version) -> bool {
        !self.closes && (version == Version::HTTP_11 || self.keeps_alive)
    }
}

impl Length {
    /// Combined with another `Content-Length` line, of one number or a list of them (RFC 9110,
    /// 8.6).
    fn and(self, value: &[u8]) -> Length {
        let mut numbers = value.split(|byte| *byte == b',').map(|number| digits(number.trim_ascii()));
        let Some(number) = numbers.next().flatten() else { return Length::Invalid };
        let mut is_list = matches!(self, Length::List(_));
        for other in numbers {
            if other != Some(number) {
                return Length::Invalid;
            }
            is_list = true;
        }
        match self {
            Length::Is(before) | Length::Repeated(before) | Length::List(before) if before != number => Length::Invalid,
            Length::Invalid => Length::Invalid,
            _ if is_list => Length::List(number),
            Length::None => Length::Is(number),
            _ => Length::Repeated(number),
        }
    }
}

/// A length as both HTTP versions accept it. Only digits: `u64::from_str` accepts a sign.
pub fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let number = text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })?;
    // SECURITY: most servers count in signed numbers (off_t), and a server whose number overflows
    // sees another end.
    i64::try_from(number).is_ok().then_some(number)
}

/// The members of a list (RFC 9110, 5.6.1), without the empty ones.
pub fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Whether a field may be a trailer.
///
/// SECURITY: fields for framing, routing, authorization or content selection must precede the body
/// (RFC 9110, 6.5.1). Servers that merge trailers into the header (Apache's `MergeTrailers`) would
/// accept a second cookie or host from there.
pub fn may_be_trailer(name: &HeaderName) -> bool {
    !NEVER_TRAILERS.contains(name)
}

/// RFC 9110, 6.5.1, lists kinds of fields; these are the ones in use of each kind.
const NEVER_TRAILERS: [HeaderName; 36] = [
    // Framing and routing.
    header::CONTENT_LENGTH,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    // Request modifiers: controls and conditions.
    header::CACHE_CONTROL,
    header::EXPECT,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::MAX_FORWARDS,
    header::ORIGIN,
    header::PRAGMA,
    header::RANGE,
    header::REFERER,
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-request-id"),
    // Authentication.
    header::AUTHORIZATION,
    header::COOKIE,
    header::SET_COOKIE,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("x-wp-nonce"),
    // How the content is to be interpreted.
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    // Response control data.
    header::AGE,
    header::DATE,
    header::EXPIRES,
    header::LOCATION,
    header::RETRY_AFTER,
    header::VARY,
    header::CONTENT_SECURITY_POLICY,
    header::STRICT_TRANSPORT_SECURITY,
];

/// Removes every field for which `is_unwanted` holds and keeps the order of the others.
/// `HeaderMap::remove` moves the last field into the gap: that is fine for fields at the end;
/// otherwise the remaining fields are inserted again.
pub fn remove_in_order(headers: &mut HeaderMap, is_unwanted: impl Fn(&HeaderName) -> bool) {
    let Some(first) = headers.keys().position(&is_unwanted) else { return };
    if headers.keys().skip(first).all(&is_unwanted) {
        let last: Vec<HeaderName> = headers.keys().skip(first).cloned().collect();
        for name in last.iter().rev() {
            headers.remove(name);
        }
        return;
    }
    // Draining keeps the map's memory.
    let fields: Vec<_> = headers.drain().collect();
    let mut current = None;
    for (name, value) in fields {
        if let Some(name) = name {
            current = (!is_unwanted(&name)).then_some(name);
        }
        if let Some(name) = &current {
            headers.append(name, value);
        }
    }
}

fn is_chunked(coding: &[u8]) -> bool {
    coding.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

const CONNECTION: &[u8] = b"connection";
const KEEP_ALIVE: &[u8] = b"keep-alive";

/// Room for the fields that a proxy adds to a head.
const ADDED_FIELDS: usize = 3;

/// Keeps the maps of a head that was written for the next head that is read: they are a good part
/// of what a small exchange allocates.
pub fn recycle(mut headers: HeaderMap, mut extensions: Extensions) {
    if headers.capacity() > MOST_SPARE_FIELDS {
        return;
    }
    // SECURITY: no data of one exchange may appear in another.
    headers.clear();
    extensions.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MOST_SPARE {
            spare.push((headers, extensions));
        }
    });
}

fn spare(fields: usize) -> (HeaderMap, Extensions) {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| (HeaderMap::with_capacity(fields), Extensions::new()))
}

thread_local! {
    /// This worker's empty heads.
    static SPARE: RefCell<Vec<(HeaderMap, Extensions)>> = const { RefCell::new(Vec::new()) };
}

/// How many heads are kept, and of how many fields at most: hardly more heads are in use at once
/// than messages are in transit.
const MOST_SPARE: usize = 64;
const MOST_SPARE_FIELDS: usize = 64;
