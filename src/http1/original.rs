//! How a head was written, and writing it so again: line by line, in the order that it came in.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// A head as it came.
///
/// A `HeaderMap` has the names in lower case and the lines of one name together; it is what the program reads and changes. Which
/// of its fields are unchanged lines, and where each of the others belongs, is found here when it is written.
#[derive(Clone)]
pub struct Original {
    pub(super) head: Bytes,
    pub(super) lines: Vec<Line>,
    /// Of an answer.
    pub(super) reason: Span,
    /// Of a request: what of its target is sent on.
    pub(super) target: Span,
}

impl Original {
    /// Of fields behind a body, which stand at `lines` of `block`.
    pub fn of_trailers(lines: Vec<Line>, block: Bytes) -> Original {
        Original { head: block, lines, reason: Span::default(), target: Span::default() }
    }

    /// Name and value of each line.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], Bytes)> {
        self.lines.iter().map(|line| (line.name.slice(&self.head), line.value.bytes(&self.head)))
    }

    /// The bytes after an answer's status.
    pub fn reason(&self) -> &[u8] {
        self.reason.slice(&self.head)
    }

    /// A request's path and query, byte for byte; empty where an absolute target has none.
    pub fn target(&self) -> &[u8] {
        self.target.slice(&self.head)
    }

    /// The line that this field was read from; `next` is the one that it most often is. An empty value lies nowhere.
    ///
    /// A field is known by where its value lies, since comparing names costs as much as all else here. The one value that
    /// is ever put under a second name is Host's, and that name is longer.
    fn line_of(&self, next: usize, name: &HeaderName, value: &HeaderValue) -> Option<usize> {
        let offset = (value.as_bytes().as_ptr() as usize).wrapping_sub(self.head.as_ptr() as usize);
        let at = match self.lines.get(next) {
            Some(line) if line.value.start as usize == offset => next,
            // Lines stand in the order of their values.
            _ => self.lines.binary_search_by(|line| (line.value.start as usize).cmp(&offset)).ok()?,
        };
        let line = self.lines.get(at)?;
        let is_it = line.value.len() == value.len() && line.name.len() == name.as_str().len() && !value.is_empty();
        debug_assert!(!is_it || line.name.slice(&self.head).eq_ignore_ascii_case(name.as_str().as_bytes()));
        is_it.then_some(at)
    }

    /// The first line of `name` from the line at `from` on for whose value `fits` holds.
    fn named(&self, name: &HeaderName, from: usize, fits: impl Fn(Span) -> bool) -> Option<usize> {
        let name = name.as_str().as_bytes();
        let is_it = |line: &Line| line.name.slice(&self.head).eq_ignore_ascii_case(name) && fits(line.value);
        Some(from + self.lines.get(from..)?.iter().position(is_it)?)
    }

    /// All of the line at `at`, where it is written as we would write it.
    fn plain(&self, at: usize) -> Option<Span> {
        let Line { name, value } = *self.lines.get(at)?;
        let between = Span { start: name.end, end: value.start };
        let behind = Span { start: value.end, end: value.end + 2 };
        let is_plain = between.slice(&self.head) == b": " && behind.slice(&self.head) == b"\r\n";
        is_plain.then_some(Span { start: name.start, end: behind.end })
    }

    fn spelling(&self, at: usize) -> &[u8] {
        self.lines.get(at).map_or(&[], |line| line.name.slice(&self.head))
    }
}

/// Writes those of `headers` that are `wanted`, each in the place of the line that it was read from; in place of several lines
/// one stands where the first of them stood, and what is new stands behind all. Unchanged lines are written as they
/// came, all that follow each other at once.
pub fn write(
    out: &mut Vec<u8>,
    headers: &HeaderMap,
    original: Option<&Original>,
    wanted: impl Fn(&HeaderName) -> bool,
) {
    let Some(original) = original else {
        for (name, value) in headers.iter().filter(|(name, _)| wanted(name)) {
            title_case(out, name);
            write_value(out, value);
        }
        return;
    };
    // A map has the fields in the order of their first lines: nearly always in that of all of them.
    let (begin, mut last) = (out.len(), 0);
    let (mut finder, mut writer) = (Finder::new(original), Writer::new(original));
    let mut are_in_order = true;
    for (name, value) in headers {
        let place = finder.place(name, value);
        if !wanted(name) {
            continue;
        }
        let key = place.key(original);
        are_in_order = key >= last;
        if !are_in_order {
            break;
        }
        last = key;
        writer.write(out, name, value, place);
    }
    if !are_in_order {
        out.truncate(begin);
        writer = Writer::new(original);
        let mut finder = Finder::new(original);
        let all = headers.iter().map(|(name, value)| (finder.place(name, value), name, value));
        let mut all: Vec<_> = all.filter(|(_, name, _)| wanted(name)).collect();
        all.sort_by_key(|(place, ..)| place.key(original));
        all.into_iter().for_each(|(place, name, value)| writer.write(out, name, value, place));
    }
    writer.flush(out);
}

/// Where a field belongs.
#[derive(Clone, Copy)]
enum Place {
    /// It is the line there.
    Untouched(usize),
    /// It has another value than the first line of its name had, which stood there.
    Instead(usize),
    /// It is new.
    Behind,
}

impl Place {
    fn key(self, original: &Original) -> usize {
        match self {
            Place::Untouched(at) | Place::Instead(at) => at,
            Place::Behind => original.lines.len(),
        }
    }
}

/// Finds the places of the fields of a map, one after the other.
struct Finder<'a> {
    original: &'a Original,
    previous: Option<&'a HeaderName>,
    /// Behind the line of the last one.
    next: usize,
}

impl<'a> Finder<'a> {
    fn new(original: &'a Original) -> Self {
        Finder { original, previous: None, next: 0 }
    }

    fn place(&mut self, name: &'a HeaderName, value: &HeaderValue) -> Place {
        let previous = self.previous.replace(name);
        let place = match self.original.line_of(self.next, name, value) {
            Some(at) => Place::Untouched(at),
            None => self.place_of_other(name, value, previous == Some(name)),
        };
        if let Place::Untouched(at) | Place::Instead(at) = place {
            self.next = at + 1;
        }
        place
    }

    fn place_of_other(&self, name: &HeaderName, value: &HeaderValue, is_repeated: bool) -> Place {
        if value.is_empty() {
            let from = if is_repeated { self.next } else { 0 };
            let at = self.original.named(name, from, |value| value.len() == 0);
            return at.map_or(Place::Behind, Place::Untouched);
        }
        match is_repeated {
            true => Place::Behind,
            false => self.original.named(name, 0, |_| true).map_or(Place::Behind, Place::Instead),
        }
    }
}

/// Writes fields, and lines that follow each other in the original and were not touched in one piece.
struct Writer<'a> {
    original: &'a Original,
    untouched: Span,
}

impl<'a> Writer<'a> {
    fn new(original: &'a Original) -> Self {
        Writer { original, untouched: Span::default() }
    }

    fn write(&mut self, out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue, place: Place) {
        let at = match place {
            Place::Untouched(at) => match self.original.plain(at) {
                Some(line) => return self.take(out, line),
                None => Some(at),
            },
            Place::Instead(at) => Some(at),
            Place::Behind => None,
        };
        self.flush(out);
        match at {
            Some(at) => out.extend_from_slice(self.original.spelling(at)),
            None => title_case(out, name),
        }
        write_value(out, value);
    }

    fn take(&mut self, out: &mut Vec<u8>, next: Span) {
        if next.start != self.untouched.end {
            self.flush(out);
            self.untouched.start = next.start;
        }
        self.untouched.end = next.end;
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        let span = std::mem::take(&mut self.untouched);
        out.extend_from_slice(span.slice(&self.original.head));
    }
}

fn write_value(out: &mut Vec<u8>, value: &HeaderValue) {
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
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

    /// Without its first `count` bytes.
    pub fn skip(self, count: usize) -> Span {
        Span { start: self.end.min(self.start + count as u32), end: self.end }
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
    let line = |field: &httparse::Header<'_>| {
        let (name, value) = (Span::of(field.name.as_bytes(), head), Span::of(field.value, head));
        // An empty value stands behind the colon, for all values to stand in the order of their lines.
        let behind = Span { start: name.end + 1, end: name.end + 1 };
        Line { name, value: if value.len() == 0 { behind } else { value } }
    };
    fields.iter().map(line).collect()
}
