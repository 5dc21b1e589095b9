//! Sends events to systemd's journal with their fields, so that `journalctl REQUEST_ID=…` finds
//! everything about one request.
//!
//! Uses the journal's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram per event.
//! The crate tracing-journald does so too, but leaves the fields out of the message, which is all
//! that `journalctl` shows.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::one_line::one_line;
use super::outlet::Outlet;
use crate::printable::Form;

pub const SOCKET: &str = "/run/systemd/journal/socket";

/// The program's name in the journal.
const IDENTIFIER: &str = "wp-jwt-sidecar";

/// Longer values are cut, in bytes: a datagram holds about 200 KB, and no event needs as much.
const LONGEST_VALUE: usize = 16 << 10;

/// The longest field name that journald accepts.
const LONGEST_NAME: usize = 64;

/// Whether standard error leads to the journal. systemd describes it in `$JOURNAL_STREAM`
/// (systemd.exec(5)), but it may have been redirected since, so the variable alone proves nothing.
pub fn is_our_stderr() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let stderr = io::stderr().as_fd().try_clone_to_owned().map(File::from).and_then(|file| file.metadata());
    stderr.is_ok_and(|stderr| is_named(&stream, stderr.dev(), stderr.ino()))
}

fn is_named(stream: &str, device: u64, inode: u64) -> bool {
    stream.split_once(':').is_some_and(|(named_device, named_inode)| {
        named_device.parse() == Ok(device) && named_inode.parse() == Ok(inode)
    })
}

/// A connection to journald.
///
/// # Errors
/// The journal does not run, or writing to it is not allowed.
pub fn open() -> io::Result<UnixDatagram> {
    at(Path::new(SOCKET))
}

fn at(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}

/// A layer that formats each event for journald.
#[derive(Debug)]
pub struct Journald(pub Outlet);

impl<S: Subscriber> Layer<S> for Journald {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.put(&datagram(event));
    }
}

fn datagram(event: &Event<'_>) -> Vec<u8> {
    let metadata = event.metadata();
    // syslog(3).
    let priority = match *metadata.level() {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    };
    let mut fields = Fields::default();
    event.record(&mut fields);
    let Fields { mut message, rest, mut datagram } = fields;
    message.push_str(&rest);
    put(&mut datagram, "MESSAGE", &message);
    put(&mut datagram, "PRIORITY", priority);
    put(&mut datagram, "SYSLOG_IDENTIFIER", IDENTIFIER);
    put(&mut datagram, "MODULE", metadata.target());
    if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
        put(&mut datagram, "CODE_FILE", file);
        put(&mut datagram, "CODE_LINE", &line.to_string());
    }
    datagram
}

/// An event that is being put into a datagram: the message, followed by the fields as text, and
/// each field by itself.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
    datagram: Vec<u8>,
}

impl Fields {
    fn add(&mut self, field: &Field, text: &str, value: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.rest, " {}={text}", field.name());
        put(&mut self.datagram, &name(field.name()), value);
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            _ => self.add(field, &format!("{value:?}"), value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            _ => self.add(field, &text, &text),
        }
    }
}

/// A field's name for journald: capitals, digits and `_`, not beginning with `_`.
fn name(field: &str) -> String {
    let name: String = field
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .skip_while(|c| *c == '_' || c.is_ascii_digit())
        .take(LONGEST_NAME)
        .collect();
    match name.as_str() {
        // These have a meaning in the journal.
        "MESSAGE" | "PRIORITY" | "SYSLOG_IDENTIFIER" | "MESSAGE_ID" | "ERRNO" | "" => format!("FIELD_{name}"),
        _ => name,
    }
}

/// Appends `NAME=value` and a line break. Line breaks within the value are escaped.
// SECURITY: a line break would start a field that an outsider chose; other control characters steer
// terminals, and make journalctl show "[12B blob data]" instead of the message.
fn put(datagram: &mut Vec<u8>, name: &str, value: &str) {
    let value = one_line(value, Form::Text, false);
    let value = value.strip_suffix('\n').unwrap_or(&value);
    let mut end = value.len().min(LONGEST_VALUE);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    datagram.extend_from_slice(name.as_bytes());
    datagram.push(b'=');
    datagram.extend_from_slice(value.get(..end).unwrap_or_default().as_bytes());
    datagram.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::outlet::Sink;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn an_event_arrives_with_its_fields() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let outlet = Outlet::start(Sink::Journal(at(&path).unwrap())).unwrap();
        let subscriber = tracing_subscriber::registry().with(Journald(outlet));
        let (id, agent) = ("5f-1", "me\nPRIORITY=0\x1b[31m");
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(request_id = %id, status = 502, agent, absent = None::<u64>, "could not {}", "connect");
        });
        let mut datagram = [0; 4096];
        let length = journal.recv(&mut datagram).unwrap();
        let text = std::str::from_utf8(&datagram[..length]).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for line in [
            "MESSAGE=could not connect request_id=5f-1 status=502 agent=\"me\\nPRIORITY=0\\u{1b}[31m\"",
            "PRIORITY=4",
            "SYSLOG_IDENTIFIER=wp-jwt-sidecar",
            "REQUEST_ID=5f-1",
            "STATUS=502",
            "AGENT=me\\nPRIORITY=0\\u{1b}[31m",
        ] {
            assert!(lines.contains(&line), "{line} is not in\n{text}");
        }
        assert_eq!(lines.iter().filter(|line| line.starts_with("PRIORITY")).count(), 1);
        assert!(!text.contains("ABSENT"), "{text}");
    }

    #[test]
    fn names_are_journalds() {
        for (field, expected) in
            [("request_id", "REQUEST_ID"), ("_1a.b", "A_B"), ("priority", "FIELD_PRIORITY"), ("é", "FIELD_")]
        {
            assert_eq!(name(field), expected);
        }
        let mut datagram = Vec::new();
        put(&mut datagram, "A", &"ä".repeat(LONGEST_VALUE));
        assert_eq!(datagram.len(), LONGEST_VALUE + 3);
    }

    #[test]
    fn only_the_stream_that_is_named_is_the_journals() {
        assert!(is_named("8:15", 8, 15));
        for stream in ["", "8", "8:16", "9:15", "8:15:1", "a:b"] {
            assert!(!is_named(stream, 8, 15), "{stream}");
        }
    }

    #[test]
    fn without_a_listener_it_is_an_error() {
        assert!(at(Path::new("/nonexistent/socket")).is_err());
    }
}
