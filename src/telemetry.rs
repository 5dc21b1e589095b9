//! Logging: events to standard error, as text for people or as JSON lines for machines.
//!
//! Rotation, shipping and storage are the business of whoever started the program (systemd, a
//! container runtime). What an event may say is decided where it is written; nothing is filtered here,
//! but one event is always one line.

use std::{
    borrow::Cow,
    io::{self, IsTerminal as _, Write},
};

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt as _};

use crate::config;

/// Why logging could not be started; the program's own fault in both cases.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level was checked with the configuration, so this is a `Log` made by hand.
    #[error("log.level is not a list of log directives")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// Something in the process started logging before.
    #[error("logging was started twice")]
    Started(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts logging for the whole process.
///
/// # Errors
/// [`TelemetryError`]: a level that cannot be read, or logging that runs already.
pub fn start(log: &config::Log) -> Result<(), TelemetryError> {
    let filter = EnvFilter::builder().parse(&log.level)?;
    // A line that cannot be written is dropped: complaining about it on the same closed stream would panic.
    let colours = log.format == config::LogFormat::Text && colours();
    let writer = move || OneLine { stderr: io::stderr(), colours };
    let lines = fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
    match log.format {
        config::LogFormat::Text => lines.with_ansi(colours).finish().try_init()?,
        config::LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).finish().try_init()?,
    }
    Ok(())
}

/// Colours are for terminals, and not where NO_COLOR is set and not empty (no-color.org).
fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Standard error, to which tracing-subscriber gives each event in one piece.
struct OneLine {
    stderr: io::Stderr,
    colours: bool,
}

impl Write for OneLine {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.stderr.write_all(one_line(&String::from_utf8_lossy(event), self.colours).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stderr.flush()
    }
}

/// The event with the control characters inside it written as `\n`, `\r`, `\u{7}`. Tabs stay, and so
/// does ESC where colours are on, since it begins each of them.
// SECURITY: a name or an error from outside must not be able to forge a line of the log, nor to steer
// the terminal of who reads it. tracing-subscriber does this for messages only, not for `%` fields.
fn one_line(event: &str, colours: bool) -> Cow<'_, str> {
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
    use crate::config::{Log, LogFormat};

    #[test]
    fn an_event_is_one_line() {
        assert!(matches!(one_line("INFO ä\tb\n", false), Cow::Borrowed("INFO ä\tb\n")));
        assert_eq!(one_line("a\n2026 INFO forged\r\n\n", false), "a\\n2026 INFO forged\\r\\n\n");
        assert_eq!(one_line("\x1b[31m\x07\u{9b}\n", false), "\\u{1b}[31m\\u{7}\\u{9b}\n");
        assert_eq!(one_line("\x1b[31m\x07\n", true), "\x1b[31m\\u{7}\n");
    }

    #[test]
    fn a_second_start_and_a_bad_level_are_errors() {
        let log = |level: &str| Log { format: LogFormat::Json, level: level.into() };
        assert!(matches!(start(&log("x[")), Err(TelemetryError::Level(_))));
        assert!(start(&log("off")).is_ok());
        assert!(matches!(start(&log("off")), Err(TelemetryError::Started(_))));
    }
}
