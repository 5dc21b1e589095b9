//! Keeps each event on one line: text from outside cannot break the line or steer a terminal.

use std::borrow::Cow;
use std::io::{self, Write};

use super::outlet::Outlet;
use crate::printable::{self, Form};

/// The writer that tracing-subscriber passes each event to, in one piece.
pub struct OneLine {
    outlet: Outlet,
    form: Form,
    colours: bool,
}

impl OneLine {
    /// A writer of lines in `form`, which contain colours if `colours` is set.
    pub fn new(outlet: &Outlet, form: Form, colours: bool) -> Self {
        OneLine { outlet: outlet.clone(), form, colours }
    }
}

impl Write for OneLine {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.outlet.put(one_line(&String::from_utf8_lossy(event), self.form, self.colours).as_bytes());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The event with its control characters escaped: `\n`, `\r`, `\u{7}`, or as in JSON. Tabs stay,
/// and so does ESC with colours, since every colour begins with it.
// SECURITY: a name or an error from outside must not forge a line of the log or steer the reader's
// terminal. tracing-subscriber escapes messages only, not `%` fields; its JSON escapes what JSON
// requires, which leaves U+007F to U+009F.
pub fn one_line(event: &str, form: Form, colours: bool) -> Cow<'_, str> {
    let text = event.strip_suffix('\n').unwrap_or(event);
    match printable::escaped(text, form, |c| c == '\t' || colours && c == '\x1b') {
        Cow::Borrowed(_) => Cow::Borrowed(event),
        Cow::Owned(mut line) => {
            line.push('\n');
            Cow::Owned(line)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let text = |event, colours| one_line(event, Form::Text, colours);
        assert!(matches!(text("INFO ä\tb\n", false), Cow::Borrowed("INFO ä\tb\n")));
        assert_eq!(text("a\n2026 INFO forged\r\n\n", false), "a\\n2026 INFO forged\\r\\n\n");
        assert_eq!(text("\x1b[31m\x07\u{9b}\n", false), "\\u{1b}[31m\\u{7}\\u{9b}\n");
        assert_eq!(text("\x1b[31m\x07\n", true), "\x1b[31m\\u{7}\n");
        assert_eq!(one_line("{\"a\":\"\u{85}\"}\n", Form::Json, false), "{\"a\":\"\\u0085\"}\n");
    }
}
