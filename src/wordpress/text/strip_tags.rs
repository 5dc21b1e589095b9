//! PHP's `strip_tags()` without allowed tags, state for state (`php_strip_tags_impl`,
//! ext/standard/string.c, PHP 8.2). It is not an HTML parser: what it leaves of broken markup
//! depends only on its states, so they are copied unchanged.

/// The result of `strip_tags($text)`. What is removed begins and ends with ASCII bytes, so valid
/// UTF-8 stays valid.
pub(super) fn strip_tags(text: &[u8]) -> Vec<u8> {
    let mut scan =
        Scan { text, at: 0, out: Vec::with_capacity(text.len()), depth: 0, quote: 0, last: 0, parens: 0, xml: false };
    let mut state = State::Html;
    while let Some(&byte) = text.get(scan.at) {
        state = match state {
            State::Html => scan.html(byte),
            State::Tag => scan.tag(byte),
            State::Php => scan.php(byte),
            State::Declaration => scan.declaration(byte),
            State::Comment => scan.comment(byte),
        };
        scan.at += 1;
    }
    scan.out
}

/// PHP's states 0 to 4.
#[derive(Clone, Copy)]
enum State {
    Html,
    Tag,
    Php,
    Declaration,
    Comment,
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    out: Vec<u8>,
    depth: usize,
    /// The current quote character, or 0 (`in_q`).
    quote: u8,
    /// The last significant character (`lc`).
    last: u8,
    /// Open parentheses in a PHP tag (`br`).
    parens: i64,
    xml: bool,
}

impl Scan<'_> {
    fn html(&mut self, byte: u8) -> State {
        match byte {
            0 => {}
            b'<' if self.quote != 0 => {}
            b'<' if self.space_follows() => self.out.push(byte),
            b'<' => {
                self.last = b'<';
                return State::Tag;
            }
            b'>' if self.depth > 0 => self.depth -= 1,
            b'>' if self.quote != 0 => {}
            _ => self.out.push(byte),
        }
        State::Html
    }

    fn tag(&mut self, byte: u8) -> State {
        match byte {
            b'<' if self.quote == 0 && !self.space_follows() => self.depth += 1,
            b'>' if self.depth > 0 => self.depth -= 1,
            b'>' if self.quote == 0 => {
                self.last = b'>';
                if !(self.xml && self.back(1) == Some(b'-')) {
                    self.quote = 0;
                    self.xml = false;
                    return State::Html;
                }
            }
            b'"' | b'\'' => self.toggle_quote(byte),
            b'!' if self.back(1) == Some(b'<') => {
                self.last = byte;
                return State::Declaration;
            }
            b'?' if self.back(1) == Some(b'<') => {
                self.parens = 0;
                return State::Php;
            }
            _ => {}
        }
        State::Tag
    }

    fn php(&mut self, byte: u8) -> State {
        let quoted = self.last == b'"' || self.last == b'\'';
        match byte {
            b'(' if !quoted => {
                self.last = byte;
                self.parens += 1;
            }
            b')' if !quoted => {
                self.last = byte;
                self.parens -= 1;
            }
            b'>' if self.depth > 0 => self.depth -= 1,
            b'>' if self.quote == 0 && self.parens == 0 && self.last != b'"' && self.back(1) == Some(b'?') => {
                self.quote = 0;
                return State::Html;
            }
            b'"' | b'\'' if self.back(1) != Some(b'\\') => {
                if self.last == byte {
                    self.last = 0;
                } else if self.last != b'\\' {
                    self.last = byte;
                }
                self.toggle_quote(byte);
            }
            b'l' | b'L' if self.at > 4 && self.preceded_by(b"<?xm") => {
                self.xml = true;
                return State::Tag;
            }
            _ => {}
        }
        State::Php
    }

    fn declaration(&mut self, byte: u8) -> State {
        match byte {
            b'>' if self.depth > 0 => self.depth -= 1,
            b'>' if self.quote == 0 => return State::Html,
            b'"' | b'\'' if self.back(1) != Some(b'\\') => self.toggle_quote(byte),
            b'-' if self.preceded_by(b"!-") => return State::Comment,
            b'E' | b'e' if self.preceded_by(b"doctyp") => return State::Tag,
            _ => {}
        }
        State::Declaration
    }

    fn comment(&mut self, byte: u8) -> State {
        if byte == b'>' && self.quote == 0 && self.preceded_by(b"--") {
            return State::Html;
        }
        State::Comment
    }

    fn toggle_quote(&mut self, byte: u8) {
        if self.quote == 0 {
            self.quote = byte;
        } else if self.quote == byte {
            self.quote = 0;
        }
    }

    /// C's `isspace()` on the next byte; PHP reads its terminating NUL at the end.
    fn space_follows(&self) -> bool {
        matches!(self.text.get(self.at + 1), Some(b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r'))
    }

    fn back(&self, distance: usize) -> Option<u8> {
        self.text.get(self.at.checked_sub(distance)?).copied()
    }

    fn preceded_by(&self, lower: &[u8]) -> bool {
        let start = self.at.checked_sub(lower.len());
        start.and_then(|start| self.text.get(start..self.at)).is_some_and(|before| before.eq_ignore_ascii_case(lower))
    }
}

#[cfg(test)]
mod tests {
    use super::strip_tags;

    fn stripped(text: &str) -> String {
        String::from_utf8(strip_tags(text.as_bytes())).unwrap()
    }

    #[test]
    fn tags_comments_and_php_go() {
        assert_eq!(stripped("a<b>c</b>d"), "acd");
        assert_eq!(stripped("a<!-- > -->b"), "ab");
        assert_eq!(stripped("a<?php echo '?>'; ?>b"), "ab");
        assert_eq!(stripped("1 < 2 > 1"), "1 < 2 > 1");
        assert_eq!(stripped("a<b title=\">\">c"), "ac");
        assert_eq!(stripped("a\0b"), "ab");
    }
}
