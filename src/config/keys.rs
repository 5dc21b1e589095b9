//! The table of keys: the only place where keys are declared.
//!
//! Everything else is derived from it: what the file accepts, the names of environment variables
//! and flags, the "did you mean" of a misspelt key, `--help`, `check`'s listing and
//! `config.example.toml`. A new key needs one entry below `keys/table/`, one field in
//! [`super::Config`], and one line below `check/` that fills the field.
//!
//! Every default is a text in the form of a flag, and is parsed like one.

mod table;

use std::{marker::PhantomData, ops::RangeInclusive, sync::LazyLock, time::Duration};

use super::{
    Secret,
    kind::{FileName, Kind, Tables},
    names::Names,
};
pub(super) use table::*;
pub use table::{KEYS, SECTIONS};

/// The value of a key that is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// This value.
    Is(&'static str),
    /// The program does not start without the key.
    Required {
        /// A typical value, for the example file.
        example: &'static str,
    },
    /// The key has no value, which has a meaning of its own.
    Unset {
        /// What happens then, as text that follows "not set: ".
        means: &'static str,
        /// A typical value, for the example file.
        example: &'static str,
    },
}

/// One key of the configuration, with values of type `T`. `Key` alone is a key of any type, as in
/// [`KEYS`].
#[derive(Debug, PartialEq, Eq)]
pub struct Key<T = Any> {
    /// Section and key, `upstream.url`.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its default.
    pub default: Fallback,
    /// Its purpose, in one sentence.
    pub about: &'static str,
    /// When an operator would change it; may be empty.
    pub change: &'static str,
    /// The flag's name, if it is not section and key joined by a dash.
    short_flag: Option<&'static str>,
    values: PhantomData<T>,
}

/// Stands for the type of a key's values where it is not stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Any {}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl Key {
    /// Its section: `upstream`.
    pub fn section(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// Its name within the section: `url`.
    pub fn leaf(&self) -> &'static str {
        self.name.rsplit_once('.').map_or(self.name, |(_, leaf)| leaf)
    }

    /// Whether a change takes effect only at the next start, not on SIGHUP.
    pub fn takes_a_restart(&self) -> bool {
        !RELOADED.contains(&self.section()) || AT_START.contains(&self.name)
    }

    /// Its environment variable: `WP_JWT_SIDECAR_UPSTREAM_URL`.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// Its flag, without the dashes: `upstream-connect-timeout`, or a shorter one for frequent
    /// keys.
    pub fn flag(&'static self) -> &'static str {
        static LONG: LazyLock<Vec<String>> =
            LazyLock::new(|| KEYS.iter().map(|key| key.name.replace(['.', '_'], "-")).collect());
        self.short_flag.unwrap_or_else(|| {
            let place = KEYS.iter().position(|key| key.name == self.name);
            place.and_then(|place| LONG.get(place)).map_or(self.name, String::as_str)
        })
    }
}

/// The key of this dotted name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The sections whose parts a reload replaces completely.
const RELOADED: &[&str] = &[
    "server",
    "tls",
    "upstream",
    "forwarded",
    "wordpress",
    "jwt",
    "refresh",
    "cleanup",
    "rate_limit",
    "shutdown",
    "admin",
    "log",
];

/// The keys in them that a reload does not apply: threads, the admin listener and the log's format
/// are set up once.
const AT_START: &[&str] = &["server.workers", "admin.listen", "log.format"];

/// The prefix of the program's environment variables.
pub const VARIABLE_PREFIX: &str = "WP_JWT_SIDECAR_";

const fn text(name: &'static str, word: &'static str) -> Key<String> {
    Key::new(name, Kind::Text(word))
}

const fn list(name: &'static str, word: &'static str) -> Key<Vec<String>> {
    Key::new(name, Kind::List(word))
}

const fn secret(name: &'static str) -> Key<Secret> {
    Key::new(name, Kind::Secret)
}

const fn tables(name: &'static str, form: &'static str) -> Key<Tables> {
    Key::new(name, Kind::Tables(form))
}

const fn lifetime(name: &'static str) -> Key<Duration> {
    Key::new(name, Kind::Lifetime)
}

const fn path(name: &'static str) -> Key<FileName> {
    Key::new(name, Kind::Path)
}

const fn boolean(name: &'static str) -> Key<bool> {
    Key::new(name, Kind::Boolean)
}

const fn integer(name: &'static str, range: RangeInclusive<u64>, unit: &'static str) -> Key<usize> {
    Key::new(name, Kind::Integer { min: *range.start(), max: *range.end(), unit })
}

const fn duration(name: &'static str) -> Key<Duration> {
    Key::new(name, Kind::Duration { zero: false })
}

const fn one_of<T: Names>(name: &'static str) -> Key<T> {
    Key::new(name, Kind::OneOf(T::NAMES))
}

impl Key<Duration> {
    const fn or_zero(self) -> Self {
        Self { kind: Kind::Duration { zero: true }, ..self }
    }
}

impl<T> Key<T> {
    /// A list needs no default: it is then empty.
    const fn new(name: &'static str, kind: Kind) -> Self {
        let default = Fallback::Is("");
        Self { name, kind, default, about: "", change: "", short_flag: None, values: PhantomData }
    }

    const fn is(self, default: &'static str) -> Self {
        Self { default: Fallback::Is(default), ..self }
    }

    const fn required(self, example: &'static str) -> Key<Option<T>> {
        Self { default: Fallback::Required { example }, ..self }.of_type()
    }

    const fn unset(self, means: &'static str, example: &'static str) -> Key<Option<T>> {
        Self { default: Fallback::Unset { means, example }, ..self }.of_type()
    }

    const fn about(self, about: &'static str) -> Self {
        Self { about, ..self }
    }

    const fn change(self, change: &'static str) -> Self {
        Self { change, ..self }
    }

    const fn flag_as(self, flag: &'static str) -> Self {
        Self { short_flag: Some(flag), ..self }
    }

    const fn of_type<U>(self) -> Key<U> {
        let Key { name, kind, default, about, change, short_flag, values: _ } = self;
        Key { name, kind, default, about, change, short_flag, values: PhantomData }
    }
}
