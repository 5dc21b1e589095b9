//! One event, one line: nothing that comes from outside can break it or make a terminal do things.

use std::borrow::Cow;
use std::io::{self, Write};

use super::outlet::Outlet;

/// What tracing-subscriber gives each event to, in one piece.
pub struct OneLine {
    outlet: Outlet,
    colours: bool,
}

impl OneLine {
    /// `colours`: whether lines begin with them.
    pub fn new(outlet: &Outlet, colours: bool) -> Self {
        OneLine { outlet: outlet.clone(), colours }
    }
}

impl Write for OneLine {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.outlet.put(one_line(&String::from_utf8_lossy(event), self.colours).as_bytes());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The event with the control characters inside it written as `\n`, `\r`, `\u{7}`. Tabs stay, and so
/// does ESC where colours are on, since it begins each of them.
// SECURITY: a name or an error from outside must not be able to forge a line of the log, nor to steer
// the terminal of who reads it. tracing-subscriber does this for messages only, not for `%` fields.
pub fn one_line(event: &str, colours: bool) -> Cow<'_, str> {
    let text = event.strip_suffix('\n').unwrap_or(event);
    let is_bad = |c: char| c.is_control() && c != '\t' && !(colours && c == '\x1b');
    if !text.contains(is_bad) {
        return Cow::Borrowed(event);
    }
    let mut line = String::with_capacity(event.len() + 16);
    for c in text.chars() {
        match is_bad(c) {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line.push('\n');
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        assert!(matches!(one_line("INFO ä\tb\n", false), Cow::Borrowed("INFO ä\tb\n")));
        assert_eq!(one_line("a\n2026 INFO forged\r\n\n", false), "a\\n2026 INFO forged\\r\\n\n");
        assert_eq!(one_line("\x1b[31m\x07\u{9b}\n", false), "\\u{1b}[31m\\u{7}\\u{9b}\n");
        assert_eq!(one_line("\x1b[31m\x07\n", true), "\x1b[31m\\u{7}\n");
    }
}
