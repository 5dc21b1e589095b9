//! Keeps how a head was written, and writes it the same way again: line by line, in its original
//! order.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// A head as it arrived.
///
/// A `HeaderMap` has the names in lower case and groups the lines of one name; the program reads
/// and changes that map. When it is written, this type finds which of its fields are unchanged
/// lines, and where the others belong.
#[derive(Clone)]
pub struct Original {
    pub(super) head: Bytes,
    pub(super) lines: Vec<Line>,
    /// A response's reason phrase.
    pub(super) reason: Span,
    /// The part of a request's target that is sent on.
    pub(super) target: Span,
}

impl Original {
    /// Trailers, at `lines` of `block`.
    pub fn of_trailers(lines: Vec<Line>, block: Bytes) -> Original {
        Original { head: block, lines, reason: Span::default(), target: Span::default() }
    }

    /// Name and value of each line.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], Bytes)> {
        self.lines.iter().map(|line| (line.name.slice(&self.head), line.value.bytes(&self.head)))
    }

    /// The bytes after a response's status code.
    pub fn reason(&self) -> &[u8] {
        self.reason.slice(&self.head)
    }

    /// A request's path and query, byte for byte; empty if an absolute target has none.
    pub fn target(&self) -> &[u8] {
        self.target.slice(&self.head)
    }

    /// The line that this field was read from; `next` is the most likely one. An empty value has no
    /// address.
    ///
    /// A field is recognised by the address of its value, since comparing names costs as much as
    /// everything else here. Only Host's value is ever stored under a second name, and that name is
    /// longer.
    fn line_of(&self, next: usize, name: &HeaderName, value: &HeaderValue) -> Option<usize> {
        let offset = (value.as_bytes().as_ptr() as usize).wrapping_sub(self.head.as_ptr() as usize);
        let at = match self.lines.get(next) {
            Some(line) if line.value.start as usize == offset => next,
            // Lines are sorted by the addresses of their values.
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

    /// The whole line at `at`, if it is spelled as this program would write it.
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

/// Writes the `wanted` fields of `headers`, each in the place of the line that it was read from. A
/// field that replaces several lines is written in place of the first; new fields follow at the
/// end. Unchanged consecutive lines are copied in one piece.
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
    // A map keeps fields in the order of their first lines, which is nearly always the order of all
    // lines.
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
    /// Unchanged: it is the line there.
    Untouched(usize),
    /// Changed: it replaces the first line of its name.
    Instead(usize),
    /// New: it follows at the end.
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

/// Finds the places of a map's fields one after the other.
struct Finder<'a> {
    original: &'a Original,
    previous: Option<&'a HeaderName>,
    /// The line after the previous field's.
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

/// Writes fields; unchanged consecutive lines of the original are written in one piece.
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
    /// The position of `part` in `whole`, which it was cut from. Positions in a head fit: buffers
    /// are limited.
    pub fn of(part: &[u8], whole: &[u8]) -> Span {
        if part.is_empty() {
            // The part may not come from `whole`.
            return Span::default();
        }
        let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize) as u32;
        Span { start, end: start + part.len() as u32 }
    }

    pub fn slice(self, head: &Bytes) -> &[u8] {
        head.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// The bytes there; they keep the head's memory.
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
    /// The value, without surrounding space.
    pub value: Span,
}

/// Where the parser found `fields` in `head`.
pub fn lines(head: &[u8], fields: &[httparse::Header<'_>]) -> Vec<Line> {
    let line = |field: &httparse::Header<'_>| {
        let (name, value) = (Span::of(field.name.as_bytes(), head), Span::of(field.value, head));
        // An empty value is placed after the colon, so that all values are sorted like their lines.
        let behind = Span { start: name.end + 1, end: name.end + 1 };
        Line { name, value: if value.len() == 0 { behind } else { value } }
    };
    fields.iter().map(line).collect()
}
