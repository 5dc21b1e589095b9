//! A file that PHP read, or looked for, and whether it is still so.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What is larger has no hash.
const HASHED: u64 = 8 << 20;

/// A file that PHP looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "was", rename_all = "lowercase", deny_unknown_fields)]
pub enum Seen {
    /// Its content was read.
    Read {
        /// Symbolic links resolved.
        path: PathBuf,
        /// In bytes.
        size: u64,
        /// In seconds since 1970.
        modified: i64,
        /// Of all of it, in hexadecimal digits.
        sha256: String,
    },
    /// It was only asked whether it is there.
    There {
        /// Symbolic links resolved.
        path: PathBuf,
    },
    /// It was looked for in vain.
    Missing {
        /// As it was looked for.
        path: PathBuf,
    },
}

impl Seen {
    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Read { path, .. } | Self::There { path } | Self::Missing { path } => path,
        }
    }

    /// For a line.
    pub fn describe(&self) -> String {
        let path = self.path().display();
        match self {
            Self::Read { .. } => format!("{path}"),
            Self::There { .. } => format!("{path}: is there, was not read"),
            Self::Missing { .. } => format!("{path}: is not there"),
        }
    }

    /// What is no longer so, in words. What may not be looked at is taken to be as it was. `bytes` is what may still be read.
    pub(super) fn change(&self, bytes: &mut u64) -> Option<String> {
        let now = fs::metadata(self.path());
        let path = self.path().display();
        match (self, now) {
            (Self::Missing { .. }, Ok(file)) if file.is_file() => Some(format!("{path} is there now")),
            (Self::Read { .. } | Self::There { .. }, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                Some(format!("{path} is gone"))
            }
            (Self::Read { size, modified, sha256, .. }, Ok(file)) => {
                let is_same = file.size() == *size
                    && match self.hash_now(&file, bytes) {
                        Some(now) => now == *sha256,
                        // The service may look at files that it may not read, and reads no more than some.
                        None => file.mtime() == *modified,
                    };
                (!is_same).then(|| format!("{path} has changed"))
            }
            _ => None,
        }
    }

    /// `None` where it cannot be read.
    fn hash_now(&self, now: &Metadata, bytes: &mut u64) -> Option<String> {
        if now.size() > HASHED || !now.is_file() {
            return None;
        }
        *bytes = bytes.checked_sub(now.size())?;
        // SECURITY: the path is the site's word, and its user may put a FIFO there at any moment.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = File::options().read(true).custom_flags(flags.bits()).open(self.path()).ok()?;
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut content = Vec::new();
        // It may have grown since.
        file.take(now.size() + 1).read_to_end(&mut content).ok()?;
        Some(Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect())
    }
}
