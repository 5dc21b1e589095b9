//! Where the site is: its `wp-config.php`, and WordPress's own directory.

use std::fs;
use std::path::{Path, PathBuf};

use super::about;
use crate::wordpress::installation;

/// A site's directories.
pub(super) struct Place {
    /// The path of `wp-config.php` as given, absolute.
    pub(super) named: PathBuf,
    /// The file to run, with symbolic links resolved.
    pub(super) resolved: PathBuf,
    /// The directory of `wp-load.php`, with symbolic links resolved. `None` if it was not found:
    /// then the file must define `ABSPATH`.
    pub(super) root: Option<PathBuf>,
    /// PHP's working directory under the web server: that of `index.php`.
    pub(super) directory: PathBuf,
}

impl Place {
    /// Finds the directories by the rules of `wp-load.php` in reverse.
    pub(super) fn find(named: &Path, root: Option<&Path>) -> Result<Self, String> {
        let named = std::path::absolute(named).map_err(|error| about(named, error))?;
        let named = if named.is_dir() { named.join("wp-config.php") } else { named };
        let resolved = fs::canonicalize(installation::found(&named))
            .map_err(|error| about(&named, format!("{error}; name the site's wp-config.php by --wp-config")))?;
        if !resolved.is_file() {
            return Err(about(&resolved, "is not a file; name the site's wp-config.php by --wp-config"));
        }
        let directory = resolved.parent().unwrap_or(Path::new("/")).to_owned();
        let beside = named.parent().and_then(|parent| fs::canonicalize(parent).ok());
        let root = match root {
            Some(root) => Some(given(root)?),
            None => beside.iter().chain([&directory]).find(|directory| has_wordpress(directory)).cloned(),
        };
        let root = match root {
            Some(root) => Some(root),
            None => below(&directory)?,
        };
        let has_index = |directory: &&PathBuf| directory.join("index.php").is_file();
        let candidates = [beside.as_ref(), Some(&directory), root.as_ref()];
        let directory =
            candidates.into_iter().flatten().find(has_index).or(root.as_ref()).unwrap_or(&directory).clone();
        Ok(Self { named, resolved, root, directory })
    }
}

fn given(root: &Path) -> Result<PathBuf, String> {
    let resolved = fs::canonicalize(root).map_err(|error| about(root, format!("{error} (--root)")))?;
    match has_wordpress(&resolved) {
        true => Ok(resolved),
        false => Err(about(root, "there is no wp-load.php in it; --root is WordPress's own directory")),
    }
}

/// A directory directly below that contains a WordPress without its own `wp-config.php`.
fn below(directory: &Path) -> Result<Option<PathBuf>, String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut roots: Vec<PathBuf> =
        entries.filter(|path| has_wordpress(path) && !path.join("wp-config.php").exists()).collect();
    roots.sort();
    match roots.as_slice() {
        [] => Ok(None),
        [root] => fs::canonicalize(root).map(Some).map_err(|error| about(root, error)),
        [one, other, ..] => Err(about(
            directory,
            format!("{} and {} are both WordPress; name the site's by --root", one.display(), other.display()),
        )),
    }
}

fn has_wordpress(directory: &Path) -> bool {
    directory.join("wp-load.php").is_file()
}
