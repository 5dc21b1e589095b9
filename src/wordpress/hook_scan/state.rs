//! Checks, without reading them, whether the files have changed through which a site changes its
//! behaviour.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::files::{DROP_INS, is_below};
use super::{Active, short_digest};

/// What is known of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilesState {
    /// A digest of names, times and sizes. It is the same after a restart, so it may be stored.
    pub here: [u8; 16],
    /// A digest of names without folders, and sizes: the same on all machines with the same code.
    pub anywhere: [u8; 16],
}

/// Of must-use plugins, drop-ins, and `functions.php` of the theme and its parent. Blocks for a few
/// dozen stat calls.
pub fn files_state(what: &Active) -> FilesState {
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
    let (mut here, mut anywhere) = (Sha256::new(), Sha256::new());
    for path in files {
        // Links are followed: the code is at their target.
        let file = path.metadata().ok();
        here.update(path.as_os_str().as_encoded_bytes());
        here.update(file.as_ref().map_or("\0-\n".to_owned(), stamp));
        anywhere.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        anywhere.update(file.map_or("\0-\n".to_owned(), |file| format!("\0{}\n", file.size())));
    }
    FilesState { here: short_digest(here), anywhere: short_digest(anywhere) }
}

fn stamp(file: &Metadata) -> String {
    format!("\0{}.{} {}\n", file.mtime(), file.mtime_nsec(), file.size())
}
