//! Parses the configuration file: TOML in, values with their lines out.
//!
//! serde stops at its first error and does not know a value's position, so the document is walked
//! by hand over the parser's own tree, which keeps positions. Unknown keys are refused: a misspelt
//! key that is silently ignored is a setting without effect.

use std::os::unix::fs::FileTypeExt as _;
use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use toml::de::{DeTable, DeValue};

use super::{
    Fault,
    fault::nearest,
    keys::{self, Key},
    sources::{Assignment, Origin, wrong},
};
use crate::byte_order_mark;

/// Reads a small text file. The error is a sentence for people.
pub(super) fn read(path: &Path) -> Result<String, String> {
    // A path such as /dev/zero must not fill the memory.
    const LIMIT: u64 = 1024 * 1024;
    let mut bytes = Vec::new();
    let read = open(path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > LIMIT {
        return Err("is larger than 1 MiB".into());
    }
    String::from_utf8(byte_order_mark::removed(bytes)).map_err(|error| {
        let line = error.as_bytes().iter().take(error.utf8_error().valid_up_to()).filter(|b| **b == b'\n').count() + 1;
        format!("is not UTF-8 text (line {line})")
    })
}

/// SECURITY: opening a FIFO without a writer would wait for ever, so that is checked first.
pub(crate) fn open(path: &Path) -> io::Result<fs::File> {
    if fs::metadata(path)?.file_type().is_fifo() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a FIFO, not a file"));
    }
    fs::File::open(path)
}

/// The values of a file, and its faults.
pub(super) struct Contents {
    pub said: Vec<Assignment>,
    pub faults: Vec<Fault>,
    /// `false` if the text is not TOML: then its values are unknown.
    pub parsed: bool,
}

/// Parses the text of the file at `path`.
pub(super) fn contents(text: &str, path: &Path) -> Contents {
    let file = File { text, path };
    match DeTable::parse(text) {
        Ok(document) => {
            let mut found = Vec::new();
            file.walk("", document.get_ref(), &mut found);
            // The parser's tables are sorted by name; people read from top to bottom.
            found.sort_by_key(|(offset, _)| *offset);
            let mut contents = Contents { said: Vec::new(), faults: Vec::new(), parsed: true };
            for (_, result) in found {
                match result {
                    Ok(said) => contents.said.push(said),
                    Err(fault) => contents.faults.push(fault),
                }
            }
            contents
        }
        Err(error) => Contents { said: Vec::new(), faults: vec![file.syntax(&error)], parsed: false },
    }
}

struct File<'a> {
    text: &'a str,
    path: &'a Path,
}

type Found = Vec<(usize, Result<Assignment, Fault>)>;

impl File<'_> {
    fn walk(&self, section: &str, table: &DeTable<'_>, found: &mut Found) {
        for (name, value) in table {
            let path = match section {
                "" => name.get_ref().to_string(),
                section => format!("{section}.{}", name.get_ref()),
            };
            let offset = name.span().start;
            if let Some(key) = keys::find(&path) {
                let result = self.value(key, value.get_ref(), value.span());
                found.push((offset, result));
            } else if let DeValue::Table(table) = value.get_ref() {
                match !table.is_empty() || is_section(&path) {
                    true => self.walk(&path, table, found),
                    false => found.push((offset, Err(self.unknown(&path, offset)))),
                }
            } else {
                found.push((offset, Err(self.unknown(&path, offset))));
            }
        }
    }

    fn value(&self, key: &'static Key, value: &DeValue<'_>, span: std::ops::Range<usize>) -> Result<Assignment, Fault> {
        let origin = Origin::File { path: self.path.to_owned(), line: self.position(span.start).0 };
        let written = self.text.get(span).unwrap_or_default();
        Assignment::new(key, origin, written, key.kind.read_toml(value))
    }

    // SECURITY: the value is not quoted: it may belong to a misspelt secret key.
    fn unknown(&self, path: &str, offset: usize) -> Fault {
        let problem = match is_section(path) {
            true => format!("is a section; write [{path}] and its keys below"),
            false => match nearest_key(path) {
                Some(key) => format!("no such key; perhaps {} of [{}]", key.leaf(), key.section()),
                None => "no such key; config.example.toml has all of them".into(),
            },
        };
        let place = format!("{}:{}", self.path.display(), self.position(offset).0);
        Fault { place: Some(place), ..wrong(path.escape_debug().to_string(), problem) }
    }

    // SECURITY: only the parser's message and the position, never the line itself, which may
    // contain a secret.
    fn syntax(&self, error: &toml::de::Error) -> Fault {
        let (line, column) = self.position(error.span().map_or(0, |span| span.start));
        let key = format!("{}:{line}:{column}", self.path.display());
        wrong(key, format!("not TOML: {}", error.message().replace('\n', ", ")))
    }

    /// The line and column (in characters) of a byte offset, both counted from 1.
    fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (line, column)
    }
}

fn is_section(path: &str) -> bool {
    keys::SECTIONS.iter().any(|(section, _)| *section == path)
}

/// The key that `path` was probably meant to be: one of that name in another section, otherwise a
/// similar one with its section, otherwise a similar one without.
fn nearest_key(path: &str) -> Option<&'static Key> {
    let leaf = path.rsplit_once('.').map_or(path, |(_, leaf)| leaf);
    let mut same_leaf = keys::KEYS.iter().filter(|key| key.leaf() == leaf);
    match (same_leaf.next(), same_leaf.next()) {
        (Some(key), None) => Some(key),
        _ => {
            let leaves = || nearest(leaf, keys::KEYS.iter().map(Key::leaf));
            let by_leaf = || keys::KEYS.iter().find(|key| Some(key.leaf()) == leaves());
            nearest(path, keys::KEYS.iter().map(|key| key.name)).and_then(keys::find).or_else(by_leaf)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        contents(text, Path::new("c.toml")).faults.iter().map(Fault::to_string).collect()
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        assert_eq!(
            faults("[server]\nlisten = []\nworker = 2\n[upstram]\nurl = \"x\"\n[log]\ncolour = 1"),
            [
                "server.worker (c.toml:3): no such key; perhaps workers of [server]",
                "upstram.url (c.toml:5): no such key; perhaps url of [upstream]",
                "log.colour (c.toml:7): no such key; config.example.toml has all of them",
            ]
        );
        assert_eq!(faults("listen = []"), ["listen (c.toml:1): no such key; perhaps listen of [server]"]);
        assert_eq!(faults("lisen = []"), ["lisen (c.toml:1): no such key; perhaps listen of [server]"]);
        assert_eq!(faults("server = 1"), ["server (c.toml:1): is a section; write [server] and its keys below"]);
        assert_eq!(
            faults("[[server]]\nworkers = 1"),
            ["server (c.toml:1): is a section; write [server] and its keys below"]
        );
        assert_eq!(faults("[empty]"), ["empty (c.toml:1): no such key; config.example.toml has all of them"]);
        assert_eq!(faults("[server]\n[log]"), Vec::<String>::new());
    }

    #[test]
    fn wrong_types_say_what_was_found() {
        assert_eq!(
            faults("[server]\nlisten = \"a:1\"\nworkers = \"2\"\nrequest_header_timeout = 30\nmax_connections = 1.5\n"),
            [
                "server.listen = \"a:1\" (c.toml:2): is a text; accepted: a list of texts, such as [\"a\", \"b\"] (put it in brackets)",
                "server.workers = \"2\" (c.toml:3): is a text; accepted: a whole number of threads from 0 to 1024 (without quotes)",
                "server.request_header_timeout = 30 (c.toml:4): is a whole number; accepted: a duration from \"1ms\" to \"24h\", with ms, s, m or h (\"30s\"?)",
                "server.max_connections = 1.5 (c.toml:5): is a number with a fraction; accepted: a whole number of connections from 1 to 1000000",
            ]
        );
    }

    #[test]
    fn syntax_errors_have_a_place_and_quote_nothing() {
        let faults = faults("[jwt]\nsecret = hunter2\n");
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("c.toml:2:10: not TOML: "), "{faults:?}");
        assert!(!faults[0].contains("hunter2"), "{faults:?}");
    }

    #[test]
    fn a_file_without_end_is_refused() {
        assert_eq!(read(Path::new("/dev/zero")), Err("is larger than 1 MiB".into()));
        assert!(read(Path::new("/")).unwrap_err().starts_with("cannot be read: "));
    }

    #[test]
    fn a_fifo_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert_eq!(read(&fifo), Err("cannot be read: it is a FIFO, not a file".into()));
    }
}
