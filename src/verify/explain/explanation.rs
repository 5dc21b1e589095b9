//! Describes an explanation: the configuration, and what it does not explain.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::candidates::USERS;
use super::secret::looks_secret;
use crate::declared::{Declared, RolesForm, Source, quoted};

/// Seconds of the longest lifetime that can be declared.
pub const LONGEST_LIFETIME: u64 = 3_650 * 86_400;

/// How many other sources are named beside the chosen one.
const MOST_OTHERS: usize = 3;

/// The beginning of the comment above a plain key.
const BELOW: &str = "# Below [";

/// The explanation of a difference. SECURITY: names, and constants of the site's code; no user's
/// values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The number of users whose responses were used.
    pub users: usize,
    /// Whether the configuration would explain everything that differs.
    pub is_complete: bool,
    /// The configuration to add, if it would change anything.
    pub toml: Option<String>,
    /// Whether a claim, a field or `refresh.omit` is already declared: the configuration includes
    /// the correct ones.
    pub is_declared: bool,
    /// What is not explained, and why.
    pub open: Vec<String>,
    /// Declarations that WordPress's responses contradict.
    pub wrong: Vec<String>,
}

/// A declared member as it is to be written.
pub struct Line {
    path: String,
    source: Source,
    others: Vec<Source>,
}

/// What would be declared.
pub struct Configuration {
    /// In seconds.
    pub lifetime: Option<u64>,
    pub claims: Vec<Line>,
    pub fields: Vec<Line>,
    pub omit: Vec<String>,
}

impl Line {
    pub fn of(place: &[String], source: Source, others: Vec<Source>) -> Self {
        Line { path: place.join("."), source, others }
    }

    fn write(&self, table: &str, named: &str, toml: &mut String) {
        let others: Vec<String> = self.others.iter().filter(|other| is_worth_saying(other)).map(name).collect();
        let _ = writeln!(toml, "[[{table}]]\n{named} = {}", quoted(&self.path));
        if !others.is_empty() {
            let listed = others.iter().take(MOST_OTHERS).map(String::as_str).collect::<Vec<_>>().join(" or ");
            let _ = writeln!(toml, "# The users seen do not tell it from {listed}.");
        }
        if is_hidden(&self.source) {
            let _ = writeln!(toml, "# As it is declared: it looks like a secret, and is not shown.");
        }
        let _ = writeln!(toml, "value = {}\n", printed(&self.source));
    }
}

impl Explanation {
    pub(super) fn new(
        users: usize,
        found: &Configuration,
        declared: &Declared,
        open: Vec<String>,
        wrong: Vec<String>,
    ) -> Self {
        let is_complete = users >= USERS && open.is_empty();
        let toml = found.toml();
        let toml = (users >= USERS && !toml.is_empty() && !found.is(declared)).then_some(toml);
        let is_declared = !declared.is_empty() || !declared.omit.is_empty();
        Explanation { users, is_complete: is_complete && toml.is_some(), toml, is_declared, open, wrong }
    }

    /// The heading above it.
    pub fn heading(&self) -> String {
        let Some(toml) = &self.toml else {
            return match self.users {
                users if users < USERS => {
                    format!("an explanation needs the answers to {USERS} users; so far there are those to {users}")
                }
                _ if self.open.is_empty() => "what is declared is not what WordPress answers".to_owned(),
                _ => "no configuration is known that would explain it".to_owned(),
            };
        };
        if !self.is_complete {
            return "this would explain a part of it, so that refreshes stay WordPress's:".to_owned();
        }
        let place = match self.is_declared {
            true => "in the place of the claims, the fields and refresh.omit that are declared",
            false => "into the configuration",
        };
        // A table's header may already exist, and TOML allows it only once.
        let keys = match toml.lines().any(|line| line.starts_with(BELOW)) {
            true => ", each plain key below the header that its comment names",
            false => "",
        };
        format!("this would explain it; put it {place}{keys}, and reload:")
    }

    /// The lines after it: what is wrong, and what is open.
    pub fn remarks(&self) -> impl Iterator<Item = &str> {
        let open: &[String] = if self.users < USERS { &[] } else { &self.open };
        self.wrong.iter().chain(open).map(String::as_str)
    }
}

impl Configuration {
    fn toml(&self) -> String {
        let Configuration { lifetime, claims, fields, omit } = self;
        let mut toml = String::new();
        // Without headers: a file that already has them could not have them twice.
        if let Some(seconds) = lifetime {
            let text = lifetime_text(*seconds);
            let _ = writeln!(toml, "{BELOW}jwt], in the place of a lifetime there:\nlifetime = \"{text}\"\n");
        }
        if !omit.is_empty() {
            let names: Vec<String> = omit.iter().map(|name| quoted(name)).collect();
            let names = names.join(", ");
            let _ = writeln!(toml, "{BELOW}refresh], in the place of an omit there:\nomit = [{names}]\n");
        }
        for claim in claims {
            claim.write("jwt.claim", "path", &mut toml);
        }
        for field in fields {
            field.write("refresh.field", "name", &mut toml);
        }
        toml.truncate(toml.trim_end().len());
        toml
    }

    /// Whether that is already declared.
    fn is(&self, declared: &Declared) -> bool {
        let Configuration { lifetime, claims, fields, omit } = self;
        let same = |lines: &[Line], members: &[crate::declared::Member]| {
            lines.len() == members.len()
                && members.iter().all(|member| {
                    lines.iter().any(|line| line.path == member.path.join(".") && line.source == member.value)
                })
        };
        lifetime.is_none()
            && same(claims, &declared.claims)
            && same(fields, &declared.fields)
            && omit.len() == declared.omit.len()
            && declared.omit.iter().all(|name| omit.contains(name))
    }
}

/// Sources that are not distinguished yet. SECURITY: a constant may turn out to be the users' own
/// value, and is not shown.
pub fn ambiguous(what: &str, sources: &[Source]) -> String {
    let mut names: Vec<String> = sources.iter().filter(|source| is_worth_saying(source)).map(name).collect();
    let beyond = names.len().saturating_sub(MOST_OTHERS + 1);
    names.truncate(MOST_OTHERS + 1);
    if beyond > 0 {
        names.push(format!("{beyond} more"));
    }
    format!(
        "{what} is {}: all users seen so far have the same value in each of them; a user with different values decides it",
        names.join(" or ")
    )
}

/// Of the ways to join roles, one represents all.
fn is_worth_saying(source: &Source) -> bool {
    !matches!(source, Source::Roles { form: RolesForm::Joined, separator } if separator != ",")
}

/// A source with its value, if that may be shown.
// SECURITY: a declared value may be the operator's secret. Without it the text is not TOML, so it
// cannot be declared by mistake.
pub fn printed(source: &Source) -> String {
    if is_hidden(source) { "{ constant = … }".to_owned() } else { source.to_string() }
}

fn is_hidden(source: &Source) -> bool {
    matches!(source, Source::Constant(value) if looks_secret(value))
}

fn name(source: &Source) -> String {
    match source {
        Source::Constant(_) => "a constant".to_owned(),
        other => other.to_string(),
    }
}

/// In the largest unit that divides it.
fn lifetime_text(seconds: u64) -> String {
    let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm')];
    match units.into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit)) {
        Some((unit, letter)) => format!("{}{letter}", seconds / unit),
        None => format!("{seconds}s"),
    }
}
