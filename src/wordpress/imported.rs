//! What PHP itself found in a site's `wp-config.php`: the file that `wp-jwt-sidecar import` writes,
//! and that `serve` uses instead of reading `wp-config.php` itself.
//!
//! It contains the site's secrets. It also lists which files PHP read, and which it looked for in
//! vain, so that a change of them is noticed without PHP.

mod document;
mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::wp_config::{Doubt, Lookup, Scalar};
use crate::config;

pub use seen::Seen;

/// The constants that PHP is asked for: all that matter here.
pub const CONSTANTS: &[&str] = &[
    "ABSPATH",
    "AUTH_KEY",
    "AUTH_SALT",
    "BLOG_ID_CURRENT_SITE",
    "CUSTOM_USER_META_TABLE",
    "CUSTOM_USER_TABLE",
    "DB_CHARSET",
    "DB_COLLATE",
    "DB_HOST",
    "DB_NAME",
    "DB_PASSWORD",
    "DB_USER",
    "DOMAIN_CURRENT_SITE",
    "JWT_AUTH_CORS_ENABLE",
    "JWT_AUTH_SECRET_KEY",
    "LOGGED_IN_KEY",
    "LOGGED_IN_SALT",
    "MULTISITE",
    "MYSQL_CLIENT_FLAGS",
    "NONCE_KEY",
    "NONCE_SALT",
    "PATH_CURRENT_SITE",
    "SECRET_KEY",
    "SECRET_SALT",
    "SECURE_AUTH_KEY",
    "SECURE_AUTH_SALT",
    "SITE_ID_CURRENT_SITE",
    "SUBDOMAIN_INSTALL",
    "SUNRISE",
    "VHOST",
    "WPLANG",
    "WPMU_PLUGIN_DIR",
    "WP_CONTENT_DIR",
    "WP_HOME",
    "WP_LANG_DIR",
    "WP_PLUGIN_DIR",
    "WP_SITEURL",
];

/// Those that may depend on the request; WordPress is asked for the result instead. (The domain of a
/// network matters only if the network is at another path than `/`, and is unknown then.)
pub const MAY_VARY: &[&str] = &["DOMAIN_CURRENT_SITE", "WP_HOME", "WP_SITEURL"];

/// In bytes: far more than the names of 4,000 files need.
const SIZE_LIMIT: u64 = 4 << 20;

/// How many bytes of all files are read to see whether they have changed; the rest is judged by
/// size and time.
const HASHED_IN_ALL: u64 = 64 << 20;

/// The result of running PHP.
#[derive(Clone, PartialEq)]
pub struct Imported {
    /// The path of `wp-config.php` as given, absolute.
    pub config: PathBuf,
    /// The file that was run, with symbolic links resolved.
    pub resolved: PathBuf,
    /// The host that it was run for; `None` if none was given.
    pub host: Option<String>,
    /// `$table_prefix`; `None` if it is not set.
    pub table_prefix: Option<Scalar>,
    /// The constants that are defined.
    pub constants: BTreeMap<String, Scalar>,
    /// Those that are not.
    pub undefined: BTreeSet<String>,
    /// Constants whose value depends on the request.
    pub varying: BTreeSet<String>,
    /// The files that were read or looked for.
    pub files: Vec<Seen>,
}

impl Imported {
    /// Reads the file.
    ///
    /// # Errors
    /// A sentence that quotes nothing from the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let mut text = String::new();
        let file = config::open_file(path).map_err(|error| format!("cannot be read: {error}"))?;
        // SECURITY: an endless file must not fill the memory.
        let read = file.take(SIZE_LIMIT + 1).read_to_string(&mut text);
        read.map_err(|error| format!("cannot be read as a text: {error}"))?;
        if text.len() as u64 > SIZE_LIMIT {
            return Err("is larger than 4 MiB, so `wp-jwt-sidecar import` has not written it".to_owned());
        }
        document::parse(&text)
    }

    /// The file's text. Equal contents give equal texts.
    ///
    /// # Errors
    /// A path is not UTF-8.
    pub fn to_toml(&self) -> Result<String, String> {
        document::text(self)
    }

    /// The same, with the times of all files removed, so that only their contents count.
    pub fn without_times(mut self) -> Self {
        for file in &mut self.files {
            if let Seen::Read { modified, .. } = file {
                *modified = 0;
            }
        }
        self
    }

    /// Whether it was made from this `wp-config.php`; `found` is that path with links resolved.
    pub fn is_of(&self, config: &Path, found: &Path) -> bool {
        self.config == config || fs::canonicalize(found).is_ok_and(|found| found == self.resolved)
    }

    /// What has changed in the files that it was made from; `None` if nothing has, as far as this
    /// user may check.
    pub fn stale(&self) -> Option<String> {
        let moved = fs::canonicalize(&self.config).ok().filter(|now| *now != self.resolved);
        let moved = moved.map(|_| format!("{} is another file now", self.config.display()));
        let mut bytes = HASHED_IN_ALL;
        let mut changes = moved.into_iter().chain(self.files.iter().filter_map(|file| file.change(&mut bytes)));
        let first = changes.next()?;
        Some(match changes.count() {
            0 => first,
            more => format!("{first}, and {more} more have changed"),
        })
    }

    /// PHP's value of this constant.
    pub fn constant(&self, name: &str) -> Lookup<'_> {
        if self.varying.contains(name) {
            return Lookup::Unknown(Doubt::elsewhere("it depends on the request"));
        }
        match self.constants.get(name) {
            Some(scalar) => Lookup::Known(scalar, 0),
            None if self.undefined.contains(name) => Lookup::NotDefined,
            None => Lookup::Unknown(Doubt::elsewhere("PHP was not asked for it; run `wp-jwt-sidecar import` again")),
        }
    }

    /// PHP's value of `$table_prefix`.
    pub fn table_prefix(&self) -> Lookup<'_> {
        self.table_prefix.as_ref().map_or(Lookup::NotDefined, |prefix| Lookup::Known(prefix, 0))
    }
}

#[cfg(test)]
mod tests;
