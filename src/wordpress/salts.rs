//! `wp_salt('auth')`, the key of `wp_hash()`: ten constants and two options determine it
//! (wp-includes/pluggable.php).
//!
//! Two things are unknown here: the filter `salt`, and the placeholder in the site's language,
//! which WordPress also treats as "not set". A translated `wp-config-sample.php` has it in all
//! eight places, and values that several constants share are ignored anyway.

use std::collections::HashMap;

use crate::config::Secret;

/// The relevant constants, in the order in which WordPress reads them.
pub const SALT_CONSTANTS: [&str; 10] = [
    "AUTH_KEY",
    "AUTH_SALT",
    "SECURE_AUTH_KEY",
    "SECURE_AUTH_SALT",
    "LOGGED_IN_KEY",
    "LOGGED_IN_SALT",
    "NONCE_KEY",
    "NONCE_SALT",
    "SECRET_KEY",
    "SECRET_SALT",
];

/// The two halves of `wp_salt('auth')` by the constants.
#[derive(Debug, Clone, PartialEq)]
pub struct SaltConstants {
    /// `None`: the option `auth_key` decides.
    key: Option<Secret>,
    /// `None`: the option `auth_salt` decides.
    salt: Option<Secret>,
}

impl SaltConstants {
    /// Both halves from the configuration, whatever WordPress would do with the values.
    pub fn explicit(key: Secret, salt: Secret) -> Self {
        Self { key: Some(key), salt: Some(salt) }
    }

    /// From the defined constants, by name; see [`SALT_CONSTANTS`]. An explicit half overrides its
    /// constants.
    pub fn from_constants(
        defined: &HashMap<&str, Secret>,
        explicit_key: Option<Secret>,
        explicit_salt: Option<Secret>,
    ) -> Self {
        let usable = |name: &str| {
            let value = defined.get(name)?;
            // PHP treats `0` as false.
            let set = !matches!(value.expose(), "" | "0" | PLACEHOLDER);
            let shared = defined.values().filter(|other| other.expose() == value.expose()).count() > 1;
            (set && !shared).then(|| value.clone())
        };
        Self {
            key: explicit_key.or_else(|| usable("AUTH_KEY")).or_else(|| usable("SECRET_KEY")),
            salt: explicit_salt.or_else(|| usable("AUTH_SALT")).or_else(|| usable("SECRET_SALT")),
        }
    }

    /// Whether the constants, or the configuration, determine both halves, so that the options do
    /// not matter.
    pub fn are_complete(&self) -> bool {
        self.key.is_some() && self.salt.is_some()
    }

    /// `wp_salt('auth')`: the key followed by the salt. The options are those of the site, or of
    /// the network on a multisite. `None` if a needed option is missing or empty: WordPress then
    /// generates one and stores it, so the caller should leave that to it.
    pub fn auth_salt(&self, option_auth_key: Option<&str>, option_auth_salt: Option<&str>) -> Option<Secret> {
        let half = |constant: &Option<Secret>, option: Option<&str>| match constant {
            Some(constant) => Some(constant.clone()),
            None => option.filter(|option| !matches!(*option, "" | "0")).map(Secret::new),
        };
        let key = half(&self.key, option_auth_key)?;
        let salt = half(&self.salt, option_auth_salt)?;
        Some(Secret::new([key.expose(), salt.expose()].concat()))
    }
}

const PLACEHOLDER: &str = "put your unique phrase here";

#[cfg(test)]
mod tests {
    use super::*;

    fn constants(defined: &[(&'static str, &str)]) -> SaltConstants {
        let defined = defined.iter().map(|&(name, value)| (name, Secret::new(value))).collect();
        SaltConstants::from_constants(&defined, None, None)
    }

    fn salt(defined: &[(&'static str, &str)], options: (Option<&str>, Option<&str>)) -> Option<String> {
        constants(defined).auth_salt(options.0, options.1).map(|salt| salt.expose().to_owned())
    }

    const OPTIONS: (Option<&str>, Option<&str>) = (Some("ok"), Some("os"));

    #[test]
    fn the_auth_constants_come_first() {
        let defined = [("AUTH_KEY", "k"), ("AUTH_SALT", "s"), ("SECRET_KEY", "x"), ("SECRET_SALT", "y")];
        assert_eq!(salt(&defined, OPTIONS).as_deref(), Some("ks"));
    }

    #[test]
    fn then_the_secret_constants_then_the_options() {
        assert_eq!(salt(&[("SECRET_KEY", "x"), ("AUTH_SALT", "s")], OPTIONS).as_deref(), Some("xs"));
        assert_eq!(salt(&[("SECRET_SALT", "y")], OPTIONS).as_deref(), Some("oky"));
        assert_eq!(salt(&[], OPTIONS).as_deref(), Some("okos"));
    }

    #[test]
    fn what_is_empty_a_placeholder_or_shared_does_not_count() {
        for unusable in ["", "0", "put your unique phrase here"] {
            assert_eq!(
                salt(&[("AUTH_KEY", unusable), ("AUTH_SALT", "s")], OPTIONS).as_deref(),
                Some("oks"),
                "{unusable}"
            );
        }
        assert_eq!(
            salt(&[("AUTH_KEY", "same"), ("NONCE_SALT", "same"), ("AUTH_SALT", "s")], OPTIONS).as_deref(),
            Some("oks")
        );
        assert_eq!(
            salt(&[("AUTH_KEY", "same"), ("AUTH_SALT", "same"), ("SECRET_KEY", "x")], OPTIONS).as_deref(),
            Some("xos")
        );
        assert_eq!(
            salt(&[("SECRET_KEY", "same"), ("NONCE_KEY", "same"), ("AUTH_SALT", "s")], OPTIONS).as_deref(),
            Some("oks")
        );
    }

    #[test]
    fn without_an_option_wordpress_must_make_one() {
        assert_eq!(salt(&[("AUTH_KEY", "k")], (None, None)), None);
        assert_eq!(salt(&[("AUTH_KEY", "k")], (None, Some(""))), None);
        assert_eq!(salt(&[("AUTH_KEY", "k")], (None, Some("s"))).as_deref(), Some("ks"));
    }

    #[test]
    fn an_explicit_half_wins() {
        let defined = HashMap::from([("AUTH_KEY", Secret::new("k")), ("AUTH_SALT", Secret::new("s"))]);
        let mixed = SaltConstants::from_constants(&defined, Some(Secret::new("explicit")), None);
        assert_eq!(mixed.auth_salt(None, None).unwrap().expose(), "explicits");
        let both = SaltConstants::explicit(Secret::new("a"), Secret::new("b"));
        assert_eq!(both.auth_salt(None, None).unwrap().expose(), "ab");
        assert_eq!(format!("{both:?}"), "SaltConstants { key: Some(Secret(…)), salt: Some(Secret(…)) }");
    }
}
