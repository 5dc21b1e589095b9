//! Finds the source of the values in WordPress's responses at one place.

use std::collections::BTreeSet;

use serde_json::Value;

use super::facts::Facts;
use super::passing::looks_passing;
use super::secret::looks_secret;
use crate::declared::{Cast, Column, Gravatar, GravatarHash, RolesForm, Source, is_plain};
use crate::verify::difference::shown;

/// How many users must confirm a source.
pub const USERS: usize = 3;

/// The same if a coincidence is likely: a boolean of a meta value whose key is not the member's
/// name.
const USERS_OF_BOOLEAN: usize = 8;

/// How many sources are kept for one place.
const MOST: usize = 64;

const SEPARATORS: [&str; 4] = [",", ", ", " ", "|"];

const CASTS: [Cast; 3] = [Cast::String, Cast::Integer, Cast::Boolean];

/// The result for one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// One source explains it. The others do so, too, for these users, but with more assumptions.
    Explained(Source, Vec<Source>),
    /// The users seen do not distinguish these.
    Ambiguous(Vec<Source>),
    /// There are too few users to distinguish the sources.
    Waiting,
    Nothing,
    /// It is a constant that looks like a secret.
    Hidden,
    /// It is the same for all users seen, but looks as if it will change.
    Passing,
}

/// The value for one user.
pub type Seen<'a> = (&'a Facts, &'a Value);

/// The source of the values `seen` at a place whose innermost name is `name`. `now` in Unix
/// seconds.
pub fn find(name: &str, seen: &[Seen<'_>], now: u64) -> Found {
    if seen.len() < USERS {
        return Found::Waiting;
    }
    let constant = constant(seen);
    let mut left: Vec<(Source, usize)> = dependent(seen)
        .into_iter()
        .filter_map(|source| confirmed_by(&source, seen).map(|users| (source, users)))
        .filter(|(source, _)| is_named(source, name) || is_telling(source, seen))
        .filter(|(source, _)| constant.is_none() || !is_coincidence(source, seen) || is_named(source, name))
        .take(MOST)
        .collect();
    left.sort_by_key(|(source, _)| rank(source, name));
    match constant {
        Some(constant) if left.is_empty() && looks_secret(&constant) => return Found::Hidden,
        Some(constant) if left.is_empty() && looks_passing(&constant, now) => return Found::Passing,
        Some(constant) if left.is_empty() => return Found::Explained(Source::Constant(constant), Vec::new()),
        Some(constant) => {
            let others = left.into_iter().map(|(source, _)| source);
            return Found::Ambiguous(std::iter::once(Source::Constant(constant)).chain(others).collect());
        }
        None => {}
    }
    let is_enough = |(source, users): &(Source, usize)| {
        let is_boolean = matches!(source, Source::Meta { cast: Cast::Boolean, .. });
        *users >= if is_boolean && !is_named(source, name) { USERS_OF_BOOLEAN } else { USERS }
    };
    let Some((best, _)) = left.iter().find(|candidate| is_enough(candidate)).cloned() else {
        return if left.is_empty() { Found::Nothing } else { Found::Waiting };
    };
    let is_tie = |other: &Source| *other != best && rank(other, name) == rank(&best, name);
    if left.iter().any(|(other, _)| is_tie(other)) {
        return Found::Ambiguous(left.into_iter().map(|(source, _)| source).collect());
    }
    let others = left.into_iter().map(|(source, _)| source).filter(|other| *other != best).collect();
    Found::Explained(best, others)
}

/// For how many of the users seen `source` has this value; `None` if it has another one for a user.
pub fn confirmed_by(source: &Source, seen: &[Seen<'_>]) -> Option<usize> {
    let mut users = 0;
    for (facts, value) in seen {
        match facts.value(source) {
            Some(given) if given == **value => users += 1,
            Some(_) => return None,
            // That user's calls would be left to WordPress.
            None => {}
        }
    }
    (users > 0).then_some(users)
}

/// Whether there is more evidence than a missing meta value: many keys are empty, or missing for
/// all users.
fn is_telling(source: &Source, seen: &[Seen<'_>]) -> bool {
    let Source::Meta { key, .. } = source else { return true };
    seen.iter().any(|(facts, value)| facts.has(key) && facts.value(source).as_ref() == Some(*value))
}

fn constant(seen: &[Seen<'_>]) -> Option<Value> {
    let (_, first) = seen.first()?;
    (is_plain(first) && seen.iter().all(|(_, value)| value == first)).then(|| (*first).clone())
}

/// All sources that depend on the user.
fn dependent(seen: &[Seen<'_>]) -> Vec<Source> {
    let columns = Column::ALL
        .into_iter()
        .flat_map(|column| [Cast::String, Cast::Integer].map(|cast| Source::Column(column, cast)));
    let role = |form, separator: &str| Source::Roles { form, separator: separator.to_owned() };
    let roles = [role(RolesForm::First, ","), role(RolesForm::List, ",")];
    let joined = SEPARATORS.map(|separator| role(RolesForm::Joined, separator));
    let mut avatars: Vec<Gravatar> = Vec::new();
    for avatar in seen.iter().filter_map(|(_, value)| avatar(value)) {
        if !avatars.contains(&avatar) {
            avatars.push(avatar);
        }
    }
    let keys: BTreeSet<&String> = seen.iter().flat_map(|(facts, _)| facts.meta.keys()).collect();
    let metas = keys
        .into_iter()
        // SECURITY: a key may contain a value, such as another user's id.
        .filter(|key| shown(key) == *key)
        .flat_map(|key| CASTS.map(|cast| Source::Meta { key: key.clone(), cast }));
    columns.chain(roles).chain(joined).chain(avatars.into_iter().map(Source::Gravatar)).chain(metas).collect()
}

/// Parses an avatar's URL.
fn avatar(value: &Value) -> Option<Gravatar> {
    let (_, rest) = value.as_str()?.split_once("gravatar.com/avatar/")?;
    let (digits, query) = rest.split_once('?')?;
    let hash = match digits.len() {
        64 => GravatarHash::Sha256,
        32 => GravatarHash::Md5,
        _ => return None,
    };
    let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let (size, default, rating) = (parameter("s")?, parameter("d")?, parameter("r")?);
    Some(Gravatar { hash, size: size.parse().ok()?, default: default.to_owned(), rating: rating.to_owned() })
}

/// Whether so many values are equal that one more proves nothing: `"0"`, `""`, a boolean.
fn is_coincidence(source: &Source, seen: &[Seen<'_>]) -> bool {
    let is_common = |value: &Value| match value {
        Value::Bool(_) => true,
        Value::Number(number) => matches!(number.as_i64(), Some(0 | 1)),
        Value::String(text) => matches!(&**text, "" | "0" | "1" | "true" | "false"),
        _ => false,
    };
    let may_be_one = matches!(source, Source::Meta { .. } | Source::Column(..));
    may_be_one && seen.first().is_some_and(|(_, value)| is_common(value))
}

/// Fewer assumptions rank lower.
fn rank(source: &Source, name: &str) -> u8 {
    match source {
        _ if is_named(source, name) => 0,
        Source::Constant(_) => 1,
        Source::Column(..) => 2,
        Source::Roles { form: RolesForm::First | RolesForm::List, .. } => 3,
        Source::Roles { .. } => 4,
        Source::Gravatar(_) => 5,
        Source::Meta { .. } => 6,
    }
}

/// Whether the member's name is the source's.
fn is_named(source: &Source, name: &str) -> bool {
    let plain = |text: &str| {
        let text = text.to_ascii_lowercase().replace(['_', '-'], "");
        text.strip_prefix("user").filter(|rest| !rest.is_empty()).map_or(text.clone(), str::to_owned)
    };
    match source {
        Source::Column(column, _) => plain(column.name()) == plain(name),
        Source::Meta { key, .. } => plain(key) == plain(name),
        Source::Constant(_) | Source::Roles { .. } | Source::Gravatar(_) => false,
    }
}
