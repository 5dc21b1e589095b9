//! The environment variables that the web server passes to PHP.
//!
//! The files that contain them have several formats (systemd's, a shell's, Docker's), which agree
//! only on plain values. Values that they would read differently are refused.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::about;
use crate::config::Secret;

pub(super) struct Environment(BTreeMap<String, Secret>);

impl Environment {
    /// The variables of the options; a later one overrides an earlier one.
    pub(super) fn given(files: &[PathBuf], single: &[Secret]) -> Result<Self, String> {
        let mut all = Self(BTreeMap::new());
        for file in files {
            let text = crate::import::read_text(file, "--env-file")?;
            for (at, line) in text.lines().enumerate() {
                let pair = pair_of(line).map_err(|problem| about(file, format!("line {}: {problem}", at + 1)))?;
                all.0.extend(pair);
            }
        }
        for given in single {
            let pair = given.expose().split_once('=').filter(|(name, _)| is_name(name));
            let (name, value) =
                pair.ok_or_else(|| "--env: accepted: NAME=VALUE, with a name of letters, digits and _".to_owned())?;
            all.0.insert(name.to_owned(), Secret::new(value));
        }
        Ok(all)
    }

    /// Adds variables that are not yet defined.
    pub(super) fn add<'a>(&mut self, more: impl Iterator<Item = &'a (String, Secret)>) {
        for (name, value) in more {
            self.0.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.expose()))
    }
}

/// The variable of a line; `None` if it is empty or a comment. SECURITY: nothing of a value is
/// quoted.
fn pair_of(line: &str) -> Result<Option<(String, Secret)>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with(['#', ';']) {
        return Ok(None);
    }
    let line = line.strip_prefix("export ").map_or(line, str::trim_start);
    let (name, value) = line.split_once('=').ok_or("accepted: NAME=VALUE, empty lines and comments")?;
    if !is_name(name) {
        return Err("the name is not of letters, digits and _".to_owned());
    }
    Ok(Some((name.to_owned(), Secret::new(plain(value.trim())?))))
}

/// The value, if all formats agree on it.
fn plain(value: &str) -> Result<String, String> {
    let refused =
        || "it is read differently by different programs; put it into single quotes, or give it by --env".to_owned();
    if let Some(inner) = value.strip_prefix('\'') {
        let inner = inner.strip_suffix('\'').ok_or_else(refused)?;
        return if inner.contains('\'') { Err(refused()) } else { Ok(inner.to_owned()) };
    }
    let inner = match value.strip_prefix('"') {
        Some(inner) => inner.strip_suffix('"').ok_or_else(refused)?,
        None if value.contains([' ', '\t', '\'', ';', '&', '|', '<', '>', '(', ')']) || value.contains(" #") => {
            return Err(refused());
        }
        None => value,
    };
    if inner.contains(['"', '\\', '$', '`']) { Err(refused()) } else { Ok(inner.to_owned()) }
}

pub(super) fn is_name(name: &str) -> bool {
    let mut letters = name.bytes();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_are_taken_and_others_refused() {
        let of = |line: &str| pair_of(line).map(|pair| pair.map(|(name, value)| (name, value.expose().to_owned())));
        let is = |name: &str, value: &str| Ok(Some((name.to_owned(), value.to_owned())));
        assert_eq!(of("A=b"), is("A", "b"));
        assert_eq!(of(" export A_1='b $c \\d' "), is("A_1", "b $c \\d"));
        assert_eq!(of("A=\"b c\""), is("A", "b c"));
        assert_eq!(of("URL=mysql://u:p@h/d?x=1"), is("URL", "mysql://u:p@h/d?x=1"));
        assert_eq!(of("A="), is("A", ""));
        for nothing in ["", "  ", "# A=b", "; A=b"] {
            assert_eq!(of(nothing), Ok(None));
        }
        for refused in
            ["A", "1A=b", "A B=c", "A=b c", "A=$b", "A=\"$b\"", "A=b\\c", "A='b", "A='b'c'", "A=\"b", "A=`b`"]
        {
            let problem = of(refused).unwrap_err();
            assert!(!problem.contains('$'), "{problem}");
        }
    }
}
