//! Makes foreign text safe to show: clients, databases, files and servers may put any characters
//! into the names and messages that the log and the commands print.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// How an unsafe character is escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people: `\n`, `\u{85}`.
    Text,
    /// Inside JSON strings, whose only form is `\u0085` (RFC 8259, section 7).
    Json,
}

/// Whether `c` is unsafe to show. Control characters steer terminals and end lines; the two
/// separators end lines for some readers; the others reverse the text after them.
pub fn is_harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` with its unsafe characters escaped in `form`, except those that `stays` accepts.
pub fn escaped(text: &str, form: Form, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_bad = |c: char| is_harmful(c) && !stays(c);
    if !text.contains(is_bad) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match (is_bad(c), form) {
            (false, _) => line.push(c),
            (true, Form::Text) => line.extend(c.escape_default()),
            // None of them is above U+FFFF. Writing to a string cannot fail.
            (true, Form::Json) => drop(write!(line, "\\u{:04x}", u32::from(c))),
        }
    }
    Cow::Owned(line)
}

/// `text` on one line.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, Form::Text, |c| c == '\t')
}

/// `text` with its line breaks kept.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, Form::Text, |c| matches!(c, '\t' | '\n'))
}

/// The output of a command. Each write must be a whole text, as those of `write!` are.
#[derive(Debug)]
pub struct Printer<W> {
    out: W,
    form: Form,
}

impl<W: Write> Printer<W> {
    /// Prints to `out` in `form`.
    pub fn new(out: W, form: Form) -> Self {
        Printer { out, form }
    }
}

impl<W: Write> Write for Printer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.out.write_all(escaped(&text, self.form, |c| matches!(c, '\t' | '\n')).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NASTY: &str = "a\x1b[2J\u{9b}31m\r\u{7f}\u{85}\u{202e}b\u{2028}\tä";

    #[test]
    fn each_form_has_its_escapes() {
        assert_eq!(one_line(NASTY), "a\\u{1b}[2J\\u{9b}31m\\r\\u{7f}\\u{85}\\u{202e}b\\u{2028}\tä");
        assert_eq!((one_line("a\nb"), lines("a\nb\r")), ("a\\nb".into(), "a\nb\\r".into()));
        let json = escaped("\"\u{85}\u{7f}\u{2028}ä\"", Form::Json, |_| false).into_owned();
        assert_eq!(json, "\"\\u0085\\u007f\\u2028ä\"");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), "\u{85}\u{7f}\u{2028}ä");
    }

    #[test]
    fn a_printer_keeps_the_lines() {
        let mut out = Vec::new();
        writeln!(Printer::new(&mut out, Form::Text), "x: {NASTY}").unwrap();
        let expected = format!("x: {}\n", one_line(NASTY));
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn json_stays_the_same_json(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            let printed = escaped(&json, Form::Json, |_| false);
            prop_assert!(!printed.contains(is_harmful));
            prop_assert_eq!(serde_json::from_str::<String>(&printed).unwrap(), text);
        }
    }
}
