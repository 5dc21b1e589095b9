//! How the fields of a head were written, and writing them so again.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// A head as it came: how its names were written, and the reason phrase.
#[derive(Clone)]
pub struct Original {
    pub(super) head: Bytes,
    pub(super) lines: Vec<Line>,
    pub(super) reason: Span,
}

impl Original {
    /// The bytes after an answer's status.
    pub fn reason(&self) -> &[u8] {
        self.reason.slice(&self.head)
    }

    /// Finds the next line of `name` from the line at `from` on: where it is, and the name as it was written.
    pub fn find(&self, name: &HeaderName, from: usize) -> Option<(usize, &[u8])> {
        let name = name.as_str().as_bytes();
        let spelling = |line: &Line| line.name.slice(&self.head);
        let rest = self.lines.get(from..)?;
        let at = rest.iter().position(|line| spelling(line).eq_ignore_ascii_case(name))?;
        Some((from + at, spelling(rest.get(at)?)))
    }

    /// Where the line at `at` is in the head, if it is the one that this field was read from and is written as we would
    /// write it.
    ///
    /// A field is known by where its value lies, since comparing names costs as much as all else here. The one value that
    /// is ever put under a second name is Host's, and that name is longer.
    pub fn untouched(&self, at: usize, field: &HeaderName, value: &HeaderValue) -> Option<Span> {
        let Line { name, value: span } = *self.lines.get(at)?;
        let (value, before) = (value.as_bytes(), span.start as usize);
        let is_it = value.as_ptr() as usize == self.head.as_ptr() as usize + before
            && value.len() == span.len()
            && !value.is_empty()
            && field.as_str().len() == name.len();
        debug_assert!(!is_it || name.slice(&self.head).eq_ignore_ascii_case(field.as_str().as_bytes()));
        let (between, behind) =
            (Span { start: name.end, end: span.start }, Span { start: span.end, end: span.end + 2 });
        let is_plain = is_it && between.slice(&self.head) == b": " && behind.slice(&self.head) == b"\r\n";
        is_plain.then_some(Span { start: name.start, end: behind.end })
    }

    /// The bytes of a part of it.
    pub fn bytes(&self, span: Span) -> &[u8] {
        span.slice(&self.head)
    }
}

/// Writes those of `headers` that are `wanted`. Lines that nobody has touched are written as they came, all that follow
/// each other at once.
pub fn write(
    out: &mut Vec<u8>,
    headers: &HeaderMap,
    original: Option<&Original>,
    wanted: impl Fn(&HeaderName) -> bool,
) {
    let mut names = Names { original, first: 0, last: 0 };
    let mut untouched = Untouched { original, span: Span::default() };
    let mut previous = None;
    for (name, value) in headers {
        let is_repeated = previous == Some(name);
        previous = Some(name);
        if !wanted(name) {
            continue;
        }
        if let Some(span) = names.untouched(name, value, is_repeated) {
            untouched.take(out, span);
            continue;
        }
        untouched.write(out);
        match names.spelling(name, is_repeated) {
            Some(spelling) => out.extend_from_slice(spelling),
            None => title_case(out, name),
        }
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    untouched.write(out);
}

/// Finds the lines of fields. A map has them in the order of their first lines, with all lines of one name together,
/// so the next is nearly always right behind the last.
struct Names<'a> {
    original: Option<&'a Original>,
    /// Behind the first line of the last name, and behind its last one so far.
    first: usize,
    last: usize,
}

impl<'a> Names<'a> {
    /// Where the next line is, if this field is the one that was read from it.
    fn untouched(&mut self, name: &HeaderName, value: &HeaderValue, is_repeated: bool) -> Option<Span> {
        let at = if is_repeated { self.last } else { self.first };
        let span = self.original?.untouched(at, name, value)?;
        self.found(at, is_repeated);
        Some(span)
    }

    /// How a name was written on its next line.
    fn spelling(&mut self, name: &HeaderName, is_repeated: bool) -> Option<&'a [u8]> {
        let original = self.original?;
        let (at, spelling) = match is_repeated {
            true => original.find(name, self.last)?,
            // What was put in again later may have stood before.
            false => original.find(name, self.first).or_else(|| original.find(name, 0))?,
        };
        self.found(at, is_repeated);
        Some(spelling)
    }

    fn found(&mut self, at: usize, is_repeated: bool) {
        self.last = at + 1;
        if !is_repeated {
            self.first = at + 1;
        }
    }
}

/// Lines that follow each other in the original and were not written yet.
struct Untouched<'a> {
    original: Option<&'a Original>,
    span: Span,
}

impl Untouched<'_> {
    fn take(&mut self, out: &mut Vec<u8>, next: Span) {
        if next.start != self.span.end {
            self.write(out);
            self.span.start = next.start;
        }
        self.span.end = next.end;
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        let span = std::mem::take(&mut self.span);
        if let Some(original) = self.original {
            out.extend_from_slice(original.bytes(span));
        }
    }
}

fn title_case(out: &mut Vec<u8>, name: &HeaderName) {
    let mut starts_word = true;
    out.extend(name.as_str().bytes().map(|byte| {
        let starts = std::mem::replace(&mut starts_word, byte == b'-');
        if starts { byte.to_ascii_uppercase() } else { byte }
    }));
}

/// Where a part of a head begins and ends.
#[derive(Clone, Copy, Default)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Where `part` is in `whole`, which it was cut from. A head's length fits: buffers are limited.
    pub fn of(part: &[u8], whole: &[u8]) -> Span {
        if part.is_empty() {
            // It may be from elsewhere.
            return Span::default();
        }
        let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize) as u32;
        Span { start, end: start + part.len() as u32 }
    }

    pub fn slice(self, head: &Bytes) -> &[u8] {
        head.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// The bytes there, with a hold on the head.
    pub fn bytes(self, head: &Bytes) -> Bytes {
        head.slice(self.start as usize..self.end as usize)
    }

    fn len(self) -> usize {
        (self.end - self.start) as usize
    }
}

/// Where a line's name and value are in a head.
#[derive(Clone, Copy)]
pub struct Line {
    pub name: Span,
    /// Its value, without the space around it.
    pub value: Span,
}

/// Where the parser found `fields` in `head`.
pub fn lines(head: &[u8], fields: &[httparse::Header<'_>]) -> Vec<Line> {
    fields
        .iter()
        .map(|field| Line { name: Span::of(field.name.as_bytes(), head), value: Span::of(field.value, head) })
        .collect()
}
