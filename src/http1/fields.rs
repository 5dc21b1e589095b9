//! The fields of a head: what they say of its framing and of the connection, and how their names were written.

use std::cell::RefCell;

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Version, header};

use super::head::{HeadError, tokens};

/// A head as it came: how its names were written, and the reason phrase.
#[derive(Clone)]
pub struct Original {
    pub(super) head: Bytes,
    pub(super) lines: Vec<Line>,
    pub(super) reason: Place,
}

impl Original {
    /// The bytes after an answer's status.
    pub fn reason(&self) -> &[u8] {
        slice(&self.head, self.reason)
    }

    /// Finds the next line of `name` from the line at `from` on: where it is, and the name as it was written.
    pub fn find(&self, name: &HeaderName, from: usize) -> Option<(usize, &[u8])> {
        let name = name.as_str().as_bytes();
        let spelling = |line: &Line| slice(&self.head, line.name);
        let rest = self.lines.get(from..)?;
        let at = rest.iter().position(|line| spelling(line).eq_ignore_ascii_case(name))?;
        Some((from + at, spelling(rest.get(at)?)))
    }

    /// Where the line at `at` is in the head, if it is the one that this field was read from and is written as we would
    /// write it.
    ///
    /// A field is known by where its value lies, since comparing names costs as much as all else here. The one value that
    /// is ever put under a second name is Host's, and that name is longer.
    pub fn untouched(&self, at: usize, field: &HeaderName, value: &HeaderValue) -> Option<Place> {
        let Line { name, value: place } = *self.lines.get(at)?;
        let (value, before) = (value.as_bytes(), place.0 as usize);
        let is_it = value.as_ptr() as usize == self.head.as_ptr() as usize + before
            && value.len() == (place.1 - place.0) as usize
            && !value.is_empty()
            && field.as_str().len() == (name.1 - name.0) as usize;
        debug_assert!(!is_it || slice(&self.head, name).eq_ignore_ascii_case(field.as_str().as_bytes()));
        let is_plain = is_it
            && slice(&self.head, (name.1, place.0)) == b": "
            && slice(&self.head, (place.1, place.1 + 2)) == b"\r\n";
        is_plain.then_some((name.0, place.1 + 2))
    }

    /// The bytes at a place.
    pub fn bytes(&self, place: Place) -> &[u8] {
        slice(&self.head, place)
    }
}

/// The last transfer coding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// `chunked`.
    Chunked,
    /// Anything else.
    Other,
}

/// What `Content-Length` says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// It is not there.
    None,
    /// So many bytes.
    Is(u64),
    /// The same number on several lines.
    Repeated(u64),
    /// The same number several times on one line.
    List(u64),
    /// No number, or several that differ.
    Invalid,
}

/// What the fields of a head say, and what of it concerns the connection that it came by.
pub struct Fields {
    /// All that is not of this connection only.
    pub headers: HeaderMap,
    /// Empty, for what belongs to the head besides.
    pub extensions: Extensions,
    /// Where all that is in `headers` stands.
    pub lines: Vec<Line>,
    /// `Transfer-Encoding`.
    pub codings: Option<Coding>,
    /// `Content-Length`.
    pub length: Length,
    closes: bool,
    keeps_alive: bool,
    /// `Expect: 100-continue`.
    pub awaits_continue: bool,
    /// `TE: trailers`.
    pub accepts_trailers: bool,
}

impl Fields {
    /// Reads the fields at `lines` of `head`.
    ///
    /// # Errors
    /// One of them is not valid.
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
            accepts_trailers: false,
        };
        let mut kept = 0;
        for at in 0..fields.lines.len() {
            let Some(line) = fields.lines.get(at).copied() else { break };
            let name = slice(head, line.name);
            let value = slice(head, line.value);
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
                header::TE => fields.accepts_trailers |= tokens(value).any(is_trailers),
                header::EXPECT => fields.awaits_continue = value.eq_ignore_ascii_case(b"100-continue"),
                _ => {}
            }
            let value = HeaderValue::from_maybe_shared(part(head, line.value)).map_err(|_| HeadError::Field)?;
            fields.headers.append(name, value);
            if let Some(place) = fields.lines.get_mut(kept) {
                *place = line;
                kept += 1;
            }
        }
        fields.lines.truncate(kept);
        Ok(fields)
    }

    /// `Connection` with nothing but `close` and `keep-alive` speaks of this connection and of nothing else, and so does
    /// `Keep-Alive`: taken off here, they need not be searched for and cut out of a map later.
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

    /// Whether the connection may go on after this message.
    pub fn keeps(&self, version: Version) -> bool {
        !self.closes && (version == Version::HTTP_11 || self.keeps_alive)
    }
}

impl Length {
    /// With another `Content-Length` line, of one number or a list of them (RFC 9110, 8.6).
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

/// A length as both HTTP versions take it. Only digits: `u64::from_str` takes a sign.
pub fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let number = text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })?;
    // SECURITY: most servers count in signed numbers (off_t), and one that overflows sees another end.
    i64::try_from(number).is_ok().then_some(number)
}

fn is_chunked(coding: &[u8]) -> bool {
    coding.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

fn is_trailers(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"trailers")
}

const CONNECTION: &[u8] = b"connection";
const KEEP_ALIVE: &[u8] = b"keep-alive";

/// Room for what a proxy adds to a head.
const ADDED_FIELDS: usize = 3;

/// Keeps the memory of a head that was written for the next one that is read: two maps, which are a good part of what a
/// small exchange allocates.
pub fn recycle(mut headers: HeaderMap, mut extensions: Extensions) {
    if headers.capacity() > MOST_SPARE_FIELDS {
        return;
    }
    // SECURITY: nothing of one exchange may be seen in another.
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

/// How many heads are kept, of how many fields at most: hardly more are used at once than messages are under way.
const MOST_SPARE: usize = 64;
const MOST_SPARE_FIELDS: usize = 64;

/// Where a part of a head begins and ends.
pub type Place = (u32, u32);

/// Where a line's name and value are in a head.
#[derive(Clone, Copy)]
pub struct Line {
    name: Place,
    value: Place,
}

/// Where the parser found `fields` in `head`.
pub fn lines(head: &[u8], fields: &[httparse::Header<'_>]) -> Vec<Line> {
    fields
        .iter()
        .map(|field| Line { name: range(head, field.name.as_bytes()), value: range(head, field.value) })
        .collect()
}

/// Where `part` is in `whole`, which it was cut from. A head's length fits: buffers are limited.
pub fn range(whole: &[u8], part: &[u8]) -> Place {
    if part.is_empty() {
        // It may be from elsewhere.
        return (0, 0);
    }
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize) as u32;
    (start, start + part.len() as u32)
}

fn slice(head: &Bytes, (start, end): Place) -> &[u8] {
    head.get(start as usize..end as usize).unwrap_or_default()
}

/// The bytes at a place.
pub fn part(head: &Bytes, (start, end): Place) -> Bytes {
    head.slice(start as usize..end as usize)
}
