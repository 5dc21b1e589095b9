//! What was taken for granted about PHP's environment, and what follows from it: the defaults of
//! the file that stand for variables the sidecar lacks, and what `$_ENV` holds. An operator can
//! compare the two environments.

use std::collections::{BTreeMap, BTreeSet};

use super::value::SourcePos;

/// A constant or variable that follows from more is told with these alone.
const MOST_FOR_ONE: usize = 8;

/// Something taken for granted about a variable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Taken {
    place: SourcePos,
    variable: String,
    /// From `$_ENV`, and not its default.
    value: bool,
}

/// What was taken for granted so far.
#[derive(Debug, Default)]
pub(super) struct Assumptions {
    /// By the statement that is being read.
    pending: BTreeSet<Taken>,
    /// By name of the constant, or of the variable with its `$`.
    by_name: BTreeMap<String, BTreeSet<Taken>>,
}

impl Assumptions {
    pub(super) fn begin(&mut self) {
        self.pending.clear();
    }

    pub(super) fn took_default(&mut self, place: SourcePos, variable: &str) {
        self.pending.insert(Taken { place, variable: variable.to_owned(), value: false });
    }

    pub(super) fn took_from_array(&mut self, place: SourcePos, variable: &str) {
        self.pending.insert(Taken { place, variable: variable.to_owned(), value: true });
    }

    /// A constant or variable is used.
    pub(super) fn uses(&mut self, name: &str) {
        if let Some(taken) = self.by_name.get(name) {
            self.pending.extend(taken.iter().cloned());
        }
    }

    /// The constant or variable gets a value that follows from what was used.
    pub(super) fn bind(&mut self, name: &str) {
        if self.pending.is_empty() {
            return;
        }
        let taken = self.by_name.entry(name.to_owned()).or_default();
        let room = MOST_FOR_ONE.saturating_sub(taken.len());
        taken.extend(self.pending.iter().take(room).cloned());
    }

    /// A condition was decided by what was used.
    pub(super) fn decide(&mut self) {
        self.bind("");
    }

    /// Sentences about what a constant (`NAME`) or variable (`$name`) is taken to be, and about the
    /// conditions of the file (an empty name).
    pub(super) fn sentences<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> + 'a {
        self.by_name.get(name).into_iter().flatten().map(move |taken| {
            let subject = if name.is_empty() { "a condition" } else { name };
            let variable = super::expression::printable(&taken.variable);
            match taken.value {
                false => format!(
                    "{subject}: the default in {}, since {variable} is not in the sidecar's environment",
                    taken.place
                ),
                true => format!(
                    "{subject}: $_ENV['{variable}'] in {}, which PHP has only with an E in variables_order",
                    taken.place
                ),
            }
        })
    }
}
