//! The table of keys: the one place where a key is declared.
//!
//! From it follow what the file accepts, the names of environment variables and flags, the "did you
//! mean" of a misspelt key, `--help`, `check`'s listing and `config.example.toml`. To add a key: one
//! entry below `keys/table/`, one field in [`super::Config`], one line where that field is filled.
//!
//! Every default is a text as a flag would give it, and is read as one.

mod table;

use std::sync::LazyLock;

use super::kind::Kind;
pub use table::{KEYS, SECTIONS};

/// What holds when nobody says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// This value.
    Is(&'static str),
    /// The program does not start without the key.
    Required {
        /// A typical value, for the example file.
        example: &'static str,
    },
    /// The key has no value, which means something of its own.
    Unset {
        /// What then happens, in words that follow "not set: ".
        means: &'static str,
        /// A typical value, for the example file.
        example: &'static str,
    },
}

/// One key of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Section and key, `upstream.url`.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its default.
    pub default: Fallback,
    /// One sentence: what it is for.
    pub about: &'static str,
    /// When an operator would change it; may be empty.
    pub change: &'static str,
    /// The flag's name where it is not section and key joined by a dash.
    short_flag: Option<&'static str>,
}

impl Key {
    /// The section that it stands in: `upstream`.
    pub fn section(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// Its name within the section: `url`.
    pub fn leaf(&self) -> &'static str {
        self.name.rsplit_once('.').map_or(self.name, |(_, leaf)| leaf)
    }

    /// Whether a change takes effect only at the next start, and not on SIGHUP.
    pub fn takes_a_restart(&self) -> bool {
        !RELOADED.contains(&self.section()) || AT_START.contains(&self.name)
    }

    /// Its environment variable: `WP_JWT_SIDECAR_UPSTREAM_URL`.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// Its flag, without the dashes: `upstream-connect-timeout`, or a shorter one for the keys of every day.
    pub fn flag(&'static self) -> &'static str {
        static LONG: LazyLock<Vec<String>> =
            LazyLock::new(|| KEYS.iter().map(|key| key.name.replace(['.', '_'], "-")).collect());
        self.short_flag.unwrap_or_else(|| {
            let place = KEYS.iter().position(|key| key.name == self.name);
            place.and_then(|place| LONG.get(place)).map_or(self.name, String::as_str)
        })
    }

    const fn flag_as(self, flag: &'static str) -> Self {
        Self { short_flag: Some(flag), ..self }
    }

    const fn change(self, change: &'static str) -> Self {
        Self { change, ..self }
    }
}

/// The key of this dotted name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The sections of which a reload makes everything anew.
const RELOADED: &[&str] =
    &["server", "tls", "upstream", "forwarded", "wordpress", "jwt", "refresh", "cleanup", "shutdown", "admin", "log"];

/// The keys of those that it leaves as they are: threads, the operators' listener and the log's form are made once.
const AT_START: &[&str] = &["server.workers", "admin.listen", "log.format"];

/// What every environment variable of the program begins with.
pub const VARIABLE_PREFIX: &str = "WP_JWT_SIDECAR_";

const fn key(name: &'static str, kind: Kind, default: Fallback, about: &'static str) -> Key {
    Key { name, kind, default, about, change: "", short_flag: None }
}

const fn unset(means: &'static str, example: &'static str) -> Fallback {
    Fallback::Unset { means, example }
}
