//! What PHP said of a site's `wp-config.php`: the file that `wp-jwt-sidecar import` writes, and that stands in for reading
//! `wp-config.php` where that is not plain. The service needs to read nothing else of the site.

mod files;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use toml::{Table, Value};

use super::wp_config::{Doubt, Lookup, Scalar};
pub use files::{Noted, State};

/// The constants that are asked for: all that [`super::installation`] looks at.
pub const CONSTANTS: [&str; 33] = [
    "ABSPATH",
    "DB_NAME",
    "DB_USER",
    "DB_PASSWORD",
    "DB_HOST",
    "MYSQL_CLIENT_FLAGS",
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
    "JWT_AUTH_SECRET_KEY",
    "JWT_AUTH_CORS_ENABLE",
    "WP_HOME",
    "WP_SITEURL",
    "MULTISITE",
    "SUBDOMAIN_INSTALL",
    "VHOST",
    "SUNRISE",
    "DOMAIN_CURRENT_SITE",
    "PATH_CURRENT_SITE",
    "SITE_ID_CURRENT_SITE",
    "BLOG_ID_CURRENT_SITE",
    "CUSTOM_USER_TABLE",
    "WP_CONTENT_DIR",
    "WP_PLUGIN_DIR",
    "WPMU_PLUGIN_DIR",
    "WPLANG",
];

/// Those that may differ from request to request: WordPress is asked for its home URL then.
pub const HOMES: [&str; 2] = ["WP_HOME", "WP_SITEURL"];

/// Of the file's form. Another one is not read.
const FORMAT: i64 = 1;

/// A site with thousands of files has less.
const LARGEST: u64 = 8 << 20;

const HEAD: &str = "\
# Made by `wp-jwt-sidecar import`, which writes it again as a whole: change the site's own files, then run that.
# It holds the site's secrets.
";

/// The value of a constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Constant {
    /// The same at every request.
    Known(Scalar),
    /// What the request says decides it, its host for instance.
    ByRequest(Doubt),
}

impl Constant {
    /// One that a request decides.
    pub fn by_request() -> Self {
        Constant::ByRequest(Doubt::of_import("depends on the request"))
    }
}

/// An import.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// The `wp-config.php` that was named.
    pub config: PathBuf,
    /// The same with symbolic links resolved, as they were.
    pub resolved: PathBuf,
    /// As whom PHP ran.
    pub user: String,
    /// PHP's version and SAPI.
    pub php: String,
    /// `--host`.
    pub host: Option<String>,
    /// `$table_prefix`.
    pub table_prefix: Option<Constant>,
    /// By name.
    pub constants: BTreeMap<String, Constant>,
    /// What was read, and what was looked for.
    pub files: Vec<Noted>,
}

impl Imported {
    /// Reads an import. The error is a sentence, without anything of what the file holds.
    ///
    /// # Errors
    /// It cannot be read, or is no import.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = read_limited(path).map_err(|error| format!("cannot be read: {error}"))?;
        Self::parse(&text).map_err(|problem| format!("is not understood: {problem}; run `wp-jwt-sidecar import` again"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        // SECURITY: the parser's own error quotes the line, which may hold a secret.
        let whole: Whole = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            format!("line {} is no TOML of its form", before.lines().count().max(1))
        })?;
        if whole.format != FORMAT {
            return Err(format!("it has format {}, not {FORMAT}", whole.format));
        }
        let mut constants = BTreeMap::new();
        for (name, value) in whole.constants {
            let constant = constant(&value).ok_or_else(|| format!("the value of {name} is of no known form"))?;
            constants.insert(name, constant);
        }
        let table_prefix = match &whole.table_prefix {
            Some(value) => Some(constant(value).ok_or("table_prefix is of no known form")?),
            None => None,
        };
        let files = whole.files.into_iter().map(Noted::try_from).collect::<Result<_, _>>()?;
        let Whole { config, resolved, user, php, host, .. } = whole;
        Ok(Imported { config, resolved, user, php, host, table_prefix, constants, files })
    }

    /// The file's text.
    ///
    /// # Errors
    /// A path is not UTF-8.
    pub fn to_text(&self) -> Result<String, String> {
        let mut whole = Table::new();
        let text = |path: &Path| {
            path.to_str().map(|text| Value::String(text.to_owned())).ok_or(format!("the path {} is not UTF-8", path.display()))
        };
        whole.insert("format".to_owned(), Value::Integer(FORMAT));
        whole.insert("config".to_owned(), text(&self.config)?);
        whole.insert("resolved".to_owned(), text(&self.resolved)?);
        whole.insert("user".to_owned(), Value::String(self.user.clone()));
        whole.insert("php".to_owned(), Value::String(self.php.clone()));
        if let Some(host) = &self.host {
            whole.insert("host".to_owned(), Value::String(host.clone()));
        }
        if let Some(prefix) = &self.table_prefix {
            whole.insert("table_prefix".to_owned(), value(prefix));
        }
        let constants = self.constants.iter().map(|(name, constant)| (name.clone(), value(constant))).collect();
        whole.insert("constants".to_owned(), Value::Table(constants));
        let files = self.files.iter().map(|noted| Ok(Value::Table(noted.to_table(text(&noted.path)?))));
        whole.insert("files".to_owned(), Value::Array(files.collect::<Result<_, String>>()?));
        let body = toml::to_string(&whole).map_err(|_| "the import cannot be written as TOML".to_owned())?;
        Ok(format!("{HEAD}\n{body}"))
    }

    /// The constant's value.
    pub fn constant(&self, name: &str) -> Lookup<'_> {
        lookup(self.constants.get(name))
    }

    /// `$table_prefix`
    pub fn table_prefix(&self) -> Lookup<'_> {
        lookup(self.table_prefix.as_ref())
    }

    /// What is no longer as it was when PHP ran, each as a few words. Empty: nothing, as far as the caller may look.
    pub fn changes(&self) -> Vec<String> {
        let is_elsewhere = std::fs::canonicalize(&self.config).is_ok_and(|resolved| resolved != self.resolved);
        let moved = is_elsewhere.then(|| format!("{} leads to another file", self.config.display()));
        moved.into_iter().chain(self.files.iter().filter_map(Noted::change)).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    format: i64,
    config: PathBuf,
    resolved: PathBuf,
    user: String,
    php: String,
    host: Option<String>,
    table_prefix: Option<Value>,
    constants: BTreeMap<String, Value>,
    files: Vec<files::Written>,
}

fn lookup(constant: Option<&Constant>) -> Lookup<'_> {
    match constant {
        None => Lookup::NotDefined,
        Some(Constant::Known(scalar)) => Lookup::Known(scalar, 0),
        Some(Constant::ByRequest(doubt)) => Lookup::Unknown(doubt.clone()),
    }
}

fn constant(value: &Value) -> Option<Constant> {
    Some(match value {
        Value::String(text) => Constant::Known(Scalar::Text(text.clone().into_bytes())),
        Value::Integer(number) => Constant::Known(Scalar::Integer(*number)),
        Value::Boolean(boolean) => Constant::Known(Scalar::Boolean(*boolean)),
        Value::Table(table) if table.len() == 1 => match table.iter().next()? {
            (key, Value::String(text)) if key == "base64" => Constant::Known(Scalar::Text(STANDARD.decode(text).ok()?)),
            (key, Value::Boolean(true)) if key == "null" => Constant::Known(Scalar::Null),
            (key, Value::Boolean(true)) if key == "by_request" => Constant::by_request(),
            _ => return None,
        },
        _ => return None,
    })
}

fn value(constant: &Constant) -> Value {
    let table = |key: &str, value| Value::Table(Table::from_iter([(key.to_owned(), value)]));
    match constant {
        Constant::ByRequest(_) => table("by_request", Value::Boolean(true)),
        Constant::Known(Scalar::Null) => table("null", Value::Boolean(true)),
        Constant::Known(Scalar::Integer(number)) => Value::Integer(*number),
        Constant::Known(Scalar::Boolean(boolean)) => Value::Boolean(*boolean),
        Constant::Known(Scalar::Text(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => table("base64", Value::String(STANDARD.encode(bytes))),
        },
    }
}

/// SECURITY: a FIFO or a device would block or never end.
fn read_limited(path: &Path) -> io::Result<String> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    let length = File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    match length as u64 > LARGEST {
        true => Err(io::Error::other(format!("it is larger than {} MiB", LARGEST >> 20))),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests;
