//! The faults of a configuration, all at once.
//!
//! An operator who fixes one line and is then shown the next has to start the program as often as
//! there are mistakes; so nothing here stops at the first. A fault never quotes a secret, and never
//! the value of an unknown key, since that may be a misspelt secret.

use std::fmt;
use std::io;
use std::path::Path;

use super::credential::CREDENTIAL;

/// `EACCES`
const PERMISSION_DENIED: i32 = 13;

/// One fault.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fault {
    /// The key in its dotted form (`upstream.url`), or the variable or file that is invalid as a
    /// whole.
    pub key: String,
    /// Where the value comes from: `config.toml:3`, `--upstream`, `WP_JWT_SIDECAR_UPSTREAM_URL`.
    /// `None` if there is no value, or if `key` is already that place.
    pub place: Option<String>,
    /// The value as written. `None` for secrets, unknown keys and missing values.
    pub value: Option<String>,
    /// What is wrong and what is accepted.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if let Some(place) = &self.place {
            write!(f, " ({place})")?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// All faults, in the order in which they were found. Displayed one per line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the configuration has a fault:")?,
            n => write!(f, "the configuration has {n} faults:")?,
        }
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl Faults {
    /// Whether the only faults are that the service's credentials cannot be opened. That happens in
    /// `ExecReload=`, where systemd 252 names their directory but denies access to it.
    pub fn are_hidden_credentials(&self, directory: &Path) -> bool {
        let is_hidden = |fault: &Fault| {
            let text = fault.to_string();
            let names_one = text.contains(CREDENTIAL) || text.contains(&*directory.to_string_lossy());
            names_one && text.contains(&io::Error::from_raw_os_error(PERMISSION_DENIED).to_string())
        };
        !self.0.is_empty() && self.0.iter().all(is_hidden)
    }

    /// All faults on one line, for the log.
    pub fn one_line(&self) -> String {
        self.0.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ")
    }
}

impl std::error::Error for Faults {}

/// The candidate that `word` was probably meant to be, if one is similar enough.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A file may contain a "key" of a megabyte; comparing that would take seconds.
    let length = word.chars().take(65).count();
    if length > 64 {
        return None;
    }
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= (length / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_reads_as_a_line() {
        let full = Fault {
            key: "upstream.url".into(),
            place: Some("config.toml:3".into()),
            value: Some("\"ftp://x\"".into()),
            problem: "must begin with http://".into(),
        };
        assert_eq!(full.to_string(), "upstream.url = \"ftp://x\" (config.toml:3): must begin with http://");
        let bare = Fault { key: "upstream.url".into(), problem: "is required".into(), ..Fault::default() };
        assert_eq!(
            Faults(vec![bare.clone()]).to_string(),
            "the configuration has a fault:\n  upstream.url: is required"
        );
        assert!(
            Faults(vec![bare, full]).to_string().starts_with("the configuration has 2 faults:\n  upstream.url: is")
        );
    }

    #[test]
    fn the_nearest_is_near() {
        let names = ["listen", "workers", "url"];
        assert_eq!(nearest("lisen", names.into_iter()), Some("listen"));
        assert_eq!(nearest("ulr", names.into_iter()), Some("url"));
        assert_eq!(nearest("certificate", names.into_iter()), None);
        assert_eq!(nearest(&"listen".repeat(100_000), names.into_iter()), None);
    }
}
