//! A value that is used but never shown: keys, salts, passwords, connection URLs.
//!
//! `secrecy` wipes the memory on drop; this type adds a short `Debug` text and has no other way to
//! print, so that a secret cannot reach a log through a derived `Debug`.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};

/// Text that no log, error or `Debug` output shows.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes ownership of the text; the memory is wiped when the last clone is dropped.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The text itself. The caller is responsible for where it goes.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

/// Used only to compare configurations at a reload, never with data of a client, so its timing
/// reveals nothing.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

// SECURITY: `Config` and everything that contains a secret derive `Debug`, which uses this.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_it() {
        let secret = Secret::new("correct horse battery staple");
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "Secret(…) Some(\n    Secret(…),\n)");
        assert_eq!(secret.expose(), "correct horse battery staple");
    }
}
