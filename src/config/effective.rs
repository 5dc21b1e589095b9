//! The configuration in effect, key by key, with the source of each value: the output of `check`.

use std::fmt;

use crate::printable;

use super::{
    keys::{self, Fallback, KEYS, Key},
    sources::{Assignment, Origin},
};

/// One line per key, in the order of the table: `key = value   (from …)`. Secrets are shown as
/// `(set)`.
#[derive(Debug, Clone)]
pub struct Effective(Vec<Line>);

#[derive(Debug, Clone)]
struct Line {
    name: &'static str,
    value: String,
    from: String,
}

impl Effective {
    pub(super) fn new(said: &[Assignment]) -> Self {
        let line = |key: &'static super::keys::Key| {
            let said = said.iter().find(|said| said.key.name == key.name);
            let (value, from) = match (said, key.default) {
                (Some(said), _) => (said.written.clone().unwrap_or_else(|| "(set)".into()), from(&said.origin)),
                (None, Fallback::Unset { means, .. }) => (format!("(not set: {means})"), "default".into()),
                (None, _) => ("(not set)".into(), "default".into()),
            };
            Line { name: key.name, value, from }
        };
        Self(KEYS.iter().map(line).collect())
    }

    /// What is in effect after a reload to this: keys that need a restart keep their values from
    /// the start.
    #[must_use]
    pub fn since(&self, started: &Effective) -> Self {
        let lines = self.0.iter().zip(&started.0).map(|(now, at_start)| {
            let stays = keys::find(now.name).is_some_and(Key::takes_a_restart);
            if stays { at_start.clone() } else { now.clone() }
        });
        Self(lines.collect())
    }

    /// Key, value and source of each line, for look-ups.
    pub fn lines(&self) -> impl Iterator<Item = (&'static str, &str, &str)> {
        self.0.iter().map(|line| (line.name, line.value.as_str(), line.from.as_str()))
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|line| line.name.len()).max().unwrap_or_default();
        self.0.iter().try_for_each(|Line { name, value, from }| {
            writeln!(f, "{name:width$} = {}   ({})", printable::one_line(value), printable::one_line(from))
        })
    }
}

fn from(origin: &Origin) -> String {
    match origin {
        Origin::Flag(_) => format!("from flag {origin}"),
        Origin::Variable(_) => format!("from environment {origin}"),
        Origin::File { .. } => format!("from file {origin}"),
        Origin::Default => "default".into(),
    }
}
