//! What is needed and not known of `wp-config.php`: one fault for each cause, however many constants it is the cause of.

use super::Assembly;
use crate::config::Fault;
use crate::wordpress::wp_config::Doubt;

/// A constant that is needed and not known.
pub(super) struct Unknown {
    name: String,
    /// The keys that say it in its place; empty where none does.
    instead: String,
    cause: Cause,
}

/// Why.
#[derive(Clone, PartialEq)]
enum Cause {
    /// Its value is PHP's to compute.
    Computed(Doubt),
    /// It is not seen there, and what is not followed may define it.
    Elsewhere(Doubt),
    /// It is not there.
    NotThere,
}

impl Assembly<'_> {
    /// A value that only PHP can compute.
    pub(super) fn doubtful(&mut self, name: &str, instead: &str, doubt: &Doubt) {
        self.note(name, instead, Cause::Computed(doubt.clone()));
    }

    /// What is not defined, as far as was read.
    pub(super) fn not_there(&mut self, name: &str, instead: &str) {
        let cause = self.incomplete().map_or(Cause::NotThere, Cause::Elsewhere);
        self.note(name, instead, cause);
    }

    fn note(&mut self, name: &str, instead: &str, cause: Cause) {
        self.unknown.push(Unknown { name: name.to_owned(), instead: instead.to_owned(), cause });
    }

    /// How much is wrong so far.
    pub(super) fn wrong(&self) -> usize {
        self.faults.len() + self.unknown.len()
    }

    /// All that is wrong.
    pub(super) fn all_faults(mut self) -> Vec<Fault> {
        let mut unknown = std::mem::take(&mut self.unknown);
        // After what is not followed nothing is certain: whatever else is not seen has the same ways out.
        let first = unknown.iter().map(|one| &one.cause).find(|cause| matches!(cause, Cause::Elsewhere(_))).cloned();
        if let Some(first) = first {
            unknown.iter_mut().for_each(|one| one.cause = first.clone());
        }
        let mut causes: Vec<(Cause, Vec<Unknown>)> = Vec::new();
        for one in unknown {
            match causes.iter_mut().find(|(cause, _)| *cause == one.cause) {
                Some((_, same)) => same.push(one),
                None => causes.push((one.cause.clone(), vec![one])),
            }
        }
        let is_imported = self.file.is_some_and(|file| file.import.is_some());
        for (cause, same) in causes {
            self.fault("wordpress.config", sentence(&cause, &same, is_imported));
        }
        self.faults
    }
}

fn sentence(cause: &Cause, same: &[Unknown], is_imported: bool) -> String {
    let names: Vec<&str> = same.iter().map(|one| one.name.as_str()).collect();
    let mut keys: Vec<&str> = Vec::new();
    for one in same {
        if !one.instead.is_empty() && !keys.contains(&one.instead.as_str()) {
            keys.push(&one.instead);
        }
    }
    let (names, keys) = (listed(&names), listed(&keys));
    let is_one = same.len() == 1;
    let why = match cause {
        Cause::Computed(doubt) => format!("{names} cannot be known: {doubt}"),
        Cause::Elsewhere(doubt) => format!("{doubt}, and so {names} cannot be known"),
        Cause::NotThere => format!("{names} {} not defined there", if is_one { "is" } else { "are" }),
    };
    // PHP knows no more than it has said, and what is not there it does not know either.
    let import = match cause {
        Cause::NotThere => "",
        _ if is_imported => "",
        _ => "run `wp-jwt-sidecar import`, which has PHP say it",
    };
    match (import, keys.as_str()) {
        ("", "") => format!("{why}; define it there"),
        ("", keys) => format!("{why}; set {keys}"),
        (import, "") => format!("{why}; {import}"),
        (import, keys) => format!("{why}; {import}, or set {keys}"),
    }
}

/// `A`, `A and B`, `A, B and C`
fn listed(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
    }
}
