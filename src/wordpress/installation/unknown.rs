//! What `wp-config.php` leaves unknown and is needed: one fault for each cause, even if it affects
//! several constants.

use super::Assembly;
use crate::config::Fault;
use crate::wordpress::wp_config::Doubt;

/// A constant that is needed and unknown.
pub(super) struct Unknown {
    name: String,
    /// The keys that can replace it; empty if there are none.
    instead: String,
    cause: Cause,
}

/// Why.
#[derive(Clone, PartialEq)]
enum Cause {
    /// Only PHP can compute its value.
    Computed(Doubt),
    /// It is not defined there, but code that is not read may define it.
    Elsewhere(Doubt),
    /// It is not defined.
    NotThere,
}

impl Assembly<'_> {
    /// A value that only PHP can compute.
    pub(super) fn doubtful(&mut self, name: &str, instead: &str, doubt: &Doubt) {
        self.note(name, instead, Cause::Computed(doubt.clone()));
    }

    /// A constant that is not defined in what was read.
    pub(super) fn not_there(&mut self, name: &str, instead: &str) {
        let cause = self.incomplete().map_or(Cause::NotThere, Cause::Elsewhere);
        self.note(name, instead, cause);
    }

    fn note(&mut self, name: &str, instead: &str, cause: Cause) {
        self.unknown.push(Unknown { name: name.to_owned(), instead: instead.to_owned(), cause });
    }

    /// How many faults there are so far.
    pub(super) fn wrong(&self) -> usize {
        self.faults.len() + self.unknown.len()
    }

    /// All faults.
    pub(super) fn all_faults(mut self) -> Vec<Fault> {
        let mut unknown = std::mem::take(&mut self.unknown);
        // After code that is not read, nothing is certain: all other missing constants have the
        // same fixes.
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
    // PHP has already reported everything, so it cannot help with a missing constant.
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
