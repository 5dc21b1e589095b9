//! A file that PHP read, or looked for, and whether it has changed since.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Larger files, in bytes, are not hashed.
const HASHED: u64 = 8 << 20;

/// A file that PHP accessed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "was", rename_all = "lowercase", deny_unknown_fields)]
pub enum Seen {
    /// Its content was read.
    Read {
        /// With symbolic links resolved.
        path: PathBuf,
        /// In bytes.
        size: u64,
        /// In seconds since 1970.
        modified: i64,
        /// Of the whole content, in hexadecimal digits.
        sha256: String,
    },
    /// PHP only checked whether it exists.
    There {
        /// With symbolic links resolved.
        path: PathBuf,
    },
    /// PHP looked for it in vain.
    Missing {
        /// As PHP looked for it.
        path: PathBuf,
    },
}

impl Seen {
    pub fn path(&self) -> &Path {
        match self {
            Self::Read { path, .. } | Self::There { path } | Self::Missing { path } => path,
        }
    }

    /// For one line of output.
    pub fn describe(&self) -> String {
        let path = self.path().display();
        match self {
            Self::Read { .. } => format!("{path}"),
            Self::There { .. } => format!("{path}: is there, was not read"),
            Self::Missing { .. } => format!("{path}: is not there"),
        }
    }

    /// What has changed, in words. A file that must not be accessed counts as unchanged. `bytes` is
    /// how much may still be read.
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
                        // The service may see files that it must not read, and reads only a limited
                        // amount.
                        None => file.mtime() == *modified,
                    };
                (!is_same).then(|| format!("{path} has changed"))
            }
            _ => None,
        }
    }

    /// `None` if it cannot be read.
    fn hash_now(&self, now: &Metadata, bytes: &mut u64) -> Option<String> {
        if now.size() > HASHED || !now.is_file() {
            return None;
        }
        *bytes = bytes.checked_sub(now.size())?;
        // SECURITY: the site chooses the path, and its user may put a FIFO there at any moment.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = File::options().read(true).custom_flags(flags.bits()).open(self.path()).ok()?;
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut content = Vec::new();
        // The file may have grown since.
        file.take(now.size() + 1).read_to_end(&mut content).ok()?;
        Some(Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect())
    }
}
