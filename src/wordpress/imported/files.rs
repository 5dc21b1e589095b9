//! The files that a site's configuration was made of: as they were, and whether they still are.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use toml::{Table, Value};

/// A file is not read further than this to see whether it has changed; the driver notes no digest of a larger one.
const LARGEST: u64 = 16 << 20;

/// A file that was read or looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// As PHP was given it.
    pub path: PathBuf,
    /// What it was like.
    pub state: State,
}

/// What a file was like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It was looked for in vain.
    Missing,
    /// It was there, and not read.
    There,
    /// It was read.
    Read {
        /// SHA-256 in hexadecimal digits; `None` of a file that is too large.
        sha256: Option<String>,
        /// In bytes.
        size: u64,
        /// Seconds since 1970.
        mtime: i64,
    },
}

impl Noted {
    /// How it differs from what it was. `None`: it does not, or the caller may not look.
    pub(super) fn change(&self) -> Option<String> {
        let now = match (fs::metadata(&self.path), &self.state) {
            (Err(error), _) if is_not_allowed(&error) => return None,
            (Err(_), State::Missing) => return None,
            (Err(_), _) => "is gone",
            (Ok(_), State::Missing) => "is there now",
            (Ok(_), State::There) => return None,
            (Ok(metadata), State::Read { sha256, size, mtime }) => {
                let looks_the_same = metadata.len() == *size && metadata.mtime() == *mtime;
                let digest = if metadata.is_file() && metadata.len() == *size { digest(&self.path) } else { Ok(None) };
                match (digest, sha256) {
                    (Ok(Some(now)), Some(before)) if now == *before => return None,
                    // A file that may not be read, or was never: its size and time have to do.
                    (Err(_), _) | (Ok(_), None) if looks_the_same => return None,
                    _ => "has changed",
                }
            }
        };
        Some(format!("{} {now}", self.path.display()))
    }

    pub(super) fn to_table(&self, path: Value) -> Table {
        let mut table = Table::from_iter([("path".to_owned(), path)]);
        match &self.state {
            State::Missing => drop(table.insert("missing".to_owned(), Value::Boolean(true))),
            State::There => drop(table.insert("there".to_owned(), Value::Boolean(true))),
            State::Read { sha256, size, mtime } => {
                if let Some(sha256) = sha256 {
                    table.insert("sha256".to_owned(), Value::String(sha256.clone()));
                }
                table.insert("size".to_owned(), Value::Integer(i64::try_from(*size).unwrap_or(i64::MAX)));
                table.insert("mtime".to_owned(), Value::Integer(*mtime));
            }
        }
        table
    }
}

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    path: PathBuf,
    #[serde(default)]
    missing: bool,
    #[serde(default)]
    there: bool,
    sha256: Option<String>,
    size: Option<u64>,
    mtime: Option<i64>,
}

impl TryFrom<Written> for Noted {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let state = match (written.missing, written.there, written.size, written.mtime) {
            (true, false, None, None) => State::Missing,
            (false, true, None, None) => State::There,
            (false, false, Some(size), Some(mtime)) => State::Read { sha256: written.sha256, size, mtime },
            _ => return Err(format!("what it says of {} is of no known form", written.path.display())),
        };
        Ok(Noted { path: written.path, state })
    }
}

fn is_not_allowed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// SECURITY: the path is the site's word, and the caller may be root: what is no regular file any more is not waited for.
fn digest(path: &Path) -> io::Result<Option<String>> {
    let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    if file.take(LARGEST + 1).read_to_end(&mut bytes)? as u64 > LARGEST {
        return Ok(None);
    }
    Ok(Some(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect()))
}
