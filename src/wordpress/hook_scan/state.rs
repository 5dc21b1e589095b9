//! Checks, without reading them, whether the files have changed through which a site changes its
//! behaviour.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::files::{DROP_INS, is_below};
use super::{Active, short_digest};

/// A digest of names, times and sizes of must-use plugins, drop-ins, and `functions.php` of the
/// theme and its parent. It is the same after a restart, so it may be stored. Blocks for a few
/// dozen stat calls.
pub fn files_state(what: &Active) -> [u8; 16] {
    let mut files: Vec<PathBuf> = Vec::new();
    if let Some(folder) = &what.mu_plugins {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        files.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "php")));
        files.sort();
    }
    if let Some(content) = &what.content {
        files.extend(DROP_INS.iter().map(|name| content.join(name)));
        let themes = [&what.stylesheet, &what.template].into_iter().filter(|theme| is_below(theme));
        files.extend(themes.map(|theme| content.join("themes").join(theme).join("functions.php")));
    }
    let digest = files.iter().fold(Sha256::new(), |digest, path| digest.chain_update(line(path)));
    short_digest(digest)
}

/// Links are followed: the code is at their target.
fn line(path: &Path) -> Vec<u8> {
    let mut line = path.as_os_str().as_encoded_bytes().to_vec();
    let stamp = |file: Metadata| format!("\0{}.{} {}\n", file.mtime(), file.mtime_nsec(), file.size());
    line.extend(path.metadata().map_or("\0-\n".to_owned(), stamp).bytes());
    line
}
