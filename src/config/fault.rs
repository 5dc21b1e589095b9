//! What is wrong with a configuration, all of it at once.
//!
//! An operator who fixes one line and is told of the next has to start the program as often as there
//! are mistakes; so nothing here stops at the first. A fault never quotes a secret, and never the
//! value of a key that is not known, since that may be a misspelt secret.

use std::fmt;
use std::io;
use std::path::Path;

use super::credential::CREDENTIAL;

/// `EACCES`
const PERMISSION_DENIED: i32 = 13;

/// One thing that is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fault {
    /// The key in its dotted form (`upstream.url`), or the variable or file that is wrong as a whole.
    pub key: String,
    /// Where it was said: `config.toml:3`, `--upstream`, `WP_JWT_SIDECAR_UPSTREAM_URL`. `None` where
    /// nothing was said, or where `key` is that place already.
    pub place: Option<String>,
    /// The value as it was written. `None` for secrets, unknown keys and absent values.
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

/// Everything that is wrong, in the order in which it was found. Displayed one to a line.
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
    /// Whether nothing is wrong but that the credentials of the service cannot be opened. So it is in `ExecReload=`, where
    /// systemd 252 says where they are and lets nobody in.
    pub fn are_hidden_credentials(&self, directory: &Path) -> bool {
        let is_hidden = |fault: &Fault| {
            let text = fault.to_string();
            let names_one = text.contains(CREDENTIAL) || text.contains(&*directory.to_string_lossy());
            names_one && text.contains(&io::Error::from_raw_os_error(PERMISSION_DENIED).to_string())
        };
        !self.0.is_empty() && self.0.iter().all(is_hidden)
    }

    /// All of them for one line of the log.
    pub fn one_line(&self) -> String {
        self.0.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ")
    }
}

impl std::error::Error for Faults {}

/// The candidate that `word` was probably meant to be, if there is one near enough.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A file may hold a "key" of a megabyte; comparing that with anything would take seconds.
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
