//! Identifies the code that a site runs and the settings of that code, as far as the database shows
//! them: while it is unchanged, the site responds as before.

use sha2::{Digest as _, Sha256};

use super::rows::Rows;
use crate::wordpress::options;

/// Options that change a refresh, or the active code.
const OPTIONS: [&str; 10] = [
    "active_plugins",
    "template",
    "stylesheet",
    "jwt_auth_pro_settings",
    "jwt_auth_pro_version",
    "db_version",
    "home",
    "siteurl",
    "WPLANG",
    "permalink_structure",
];

/// The same of a network.
const NETWORK_OPTIONS: [&str; 2] = ["active_sitewide_plugins", "WPLANG"];

/// A site's code and settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Makeup {
    /// A digest of the fields below, the settings and the keys. Stable: it is kept across restarts.
    pub digest: [u8; 32],
    /// As `folder/file.php`, those of the network first.
    pub active_plugins: Vec<String>,
    /// The theme's directory.
    pub stylesheet: String,
    /// The parent theme's directory, or the same.
    pub template: String,
    /// The option `jwt_auth_pro_version`.
    pub plugin_version: String,
}

impl Makeup {
    /// `keys` is the fingerprint of the keys that tokens are signed and hashed with. With other
    /// keys, earlier rows prove nothing.
    pub(super) fn of(rows: &Rows, keys: [u8; 3]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(keys);
        let each = OPTIONS.iter().map(|name| rows.option(name));
        for value in each.chain(NETWORK_OPTIONS.iter().map(|name| rows.meta(name))) {
            // The length in front keeps the boundary between two values.
            hasher.update(value.map_or(u64::MAX, |value| value.len() as u64).to_le_bytes());
            hasher.update(value.unwrap_or_default());
        }
        let text = |name| rows.text(name).unwrap_or_default();
        Makeup {
            digest: hasher.finalize().into(),
            active_plugins: options::active_plugins(
                rows.option("active_plugins"),
                rows.meta("active_sitewide_plugins"),
            )
            .unwrap_or_default(),
            stylesheet: text("stylesheet"),
            template: text("template"),
            plugin_version: text("jwt_auth_pro_version"),
        }
    }

    /// A short form, for cheap comparisons.
    pub fn tag(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.digest[..8]);
        // 0 is not used for any site.
        u64::from_le_bytes(first) | 1
    }
}
