//! How the fields of a head were written, and writing them so again.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

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

/// Writes those of `headers` that are `wanted`. Lines that nobody has touched are written as they came, all that follow
/// each other at once.
pub fn write(
    out: &mut Vec<u8>,
    headers: &HeaderMap,
    original: Option<&Original>,
    wanted: impl Fn(&HeaderName) -> bool,
) {
    let mut names = Names { original, first: 0, last: 0 };
    let mut untouched = Untouched { original, place: (0, 0) };
    let mut previous = None;
    for (name, value) in headers {
        let is_repeated = previous == Some(name);
        previous = Some(name);
        if !wanted(name) {
            continue;
        }
        if let Some(place) = names.untouched(name, value, is_repeated) {
            untouched.take(out, place);
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
    fn untouched(&mut self, name: &HeaderName, value: &HeaderValue, is_repeated: bool) -> Option<Place> {
        let at = if is_repeated { self.last } else { self.first };
        let place = self.original?.untouched(at, name, value)?;
        self.found(at, is_repeated);
        Some(place)
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
    place: Place,
}

impl Untouched<'_> {
    fn take(&mut self, out: &mut Vec<u8>, (start, end): Place) {
        if start != self.place.1 {
            self.write(out);
            self.place.0 = start;
        }
        self.place.1 = end;
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        let place = std::mem::take(&mut self.place);
        if let Some(original) = self.original {
            out.extend_from_slice(original.bytes(place));
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
pub type Place = (u32, u32);

/// Where a line's name and value are in a head.
#[derive(Clone, Copy)]
pub struct Line {
    /// Its name.
    pub name: Place,
    /// Its value, without the space around it.
    pub value: Place,
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

/// The bytes at a place.
pub fn slice(head: &Bytes, (start, end): Place) -> &[u8] {
    head.get(start as usize..end as usize).unwrap_or_default()
}

/// The bytes at a place.
pub fn part(head: &Bytes, (start, end): Place) -> Bytes {
    head.slice(start as usize..end as usize)
}
