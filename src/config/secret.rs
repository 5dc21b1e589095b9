//! A value that is used but never shown: keys, salts, passwords, connection URLs.
//!
//! `secrecy` wipes the memory on drop; this type adds a short `Debug` text of our own and offers
//! nothing else that prints, so that a secret cannot reach a log by way of a derived `Debug`.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};

/// Text that no log, error or `Debug` output shows.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes the text over; the memory is wiped when the last holder drops it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The text itself. Whoever calls this answers for where it goes.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

/// Whether a reload brings another one; never asked about what a client sent, so the time it takes tells nothing.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

// SECURITY: `Config` and everything that holds one derive `Debug`; this is what they print.
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
