//! Which files are active, and the walk through them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use super::Active;
use crate::printable::one_line;

/// Code that belongs together: a plugin, a theme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Its name for operators.
    pub name: String,
    /// Files and directories, each with how it is shown.
    pub starts: Vec<(PathBuf, String)>,
    /// Whether WordPress works without it if it is missing.
    pub is_optional: bool,
}

impl Part {
    pub(super) fn is_there(&self) -> bool {
        !self.is_optional || self.starts.iter().any(|(path, _)| !is_absent(path))
    }
}

/// All active code except the plugin itself, and whether the directories are not the site's.
pub(super) fn parts(what: &Active) -> (Vec<Part>, bool) {
    let mut parts = Vec::new();
    let mut add = |name: &str, starts: Vec<(PathBuf, String)>, is_optional| {
        let part = Part { name: one_line(name).into_owned(), starts, is_optional };
        if !parts.contains(&part) {
            parts.push(part);
        }
    };
    if let Some(file) = &what.config_file {
        add("wp-config.php", vec![(file.clone(), "wp-config.php".to_owned())], true);
    }
    if let Some(mu_plugins) = &what.mu_plugins {
        add("mu-plugins", vec![(mu_plugins.clone(), "mu-plugins".to_owned())], true);
    }
    if let Some(content) = &what.content {
        let drop_ins = DROP_INS.iter().map(|name| (content.join(name), format!("wp-content/{name}"))).collect();
        add("drop-ins", drop_ins, true);
        add("snippets", vec![(content.join(FLUENT), format!("wp-content/{FLUENT}"))], true);
        for theme in [&what.stylesheet, &what.template].into_iter().filter(|theme| is_below(theme)) {
            add(theme, vec![(content.join("themes").join(theme), format!("themes/{theme}"))], false);
        }
    }
    let own = what.own_plugin.split('/').next().unwrap_or_default();
    let mut is_elsewhere = what.content.is_none() || what.mu_plugins.is_none();
    match &what.plugins_dir {
        Some(folder) => {
            is_elsewhere |= is_absent(&folder.join(&what.own_plugin));
            for plugin in what.plugins.iter().filter(|plugin| is_below(plugin)) {
                // WordPress uses the part before the last slash; files anywhere below the first
                // directory may be included.
                match plugin.split_once('/') {
                    Some((first, _)) if first == own => {}
                    Some((first, _)) => add(first, vec![(folder.join(first), first.to_owned())], true),
                    None => add(plugin, vec![(folder.join(plugin), plugin.clone())], true),
                }
            }
        }
        None => is_elsewhere = true,
    }
    (parts, is_elsewhere)
}

/// The directories that links may lead to, with links in their own paths resolved.
pub(super) fn roots(what: &Active) -> Vec<PathBuf> {
    let folders = [&what.content, &what.plugins_dir, &what.mu_plugins];
    folders.into_iter().flatten().filter_map(|folder| fs::canonicalize(folder).ok()).collect()
}

/// Walks through the files of one part after the other.
pub(super) struct Walker {
    roots: Vec<PathBuf>,
    /// Visited directories: links may form circles.
    been: HashSet<(u64, u64)>,
    left: Vec<(PathBuf, String, usize)>,
    is_optional: bool,
    /// Links that leave the allowed directories.
    pub links: usize,
}

impl Walker {
    pub(super) fn new(roots: Vec<PathBuf>) -> Self {
        Walker { roots, been: HashSet::new(), left: Vec::new(), is_optional: true, links: 0 }
    }

    /// Starts with a part.
    pub(super) fn begin(&mut self, part: &Part) {
        self.is_optional = part.is_optional;
        self.left = part.starts.iter().map(|(path, place)| (path.clone(), place.clone(), 0)).collect();
    }

    /// The next PHP file and how it is shown; an error if something cannot be read.
    pub(super) fn next_file(&mut self) -> Option<io::Result<(PathBuf, String)>> {
        while let Some((path, place, depth)) = self.left.pop() {
            match self.look(&path, &place, depth) {
                Ok(true) => return Some(Ok((path, place))),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound && (depth > 0 || self.is_optional) => {}
                // A theme's directory may be missing because a plugin has registered another place
                // for themes.
                Err(error) => return Some(Err(io::Error::other(error))),
            }
        }
        None
    }

    /// Whether it is a PHP file. The contents of a directory are visited later.
    fn look(&mut self, path: &Path, place: &str, depth: usize) -> io::Result<bool> {
        let link = path.symlink_metadata()?.is_symlink();
        let metadata = path.metadata()?;
        if !metadata.is_dir() && !(metadata.is_file() && (depth == 0 || is_php(path))) {
            return Ok(false);
        }
        // Only `wp-config.php` is outside these directories; the reader of that file has resolved links in
        // its path.
        if link && !self.is_inside(path)? {
            self.links += 1;
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        if metadata.is_file() {
            return Ok(true);
        }
        if depth > DEEPEST || !self.been.insert((metadata.dev(), metadata.ino())) {
            return Ok(false);
        }
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name();
            let shown = name.to_string_lossy();
            if !is_left_out(place, &shown) {
                self.left.push((entry.path(), format!("{place}/{}", one_line(&shown)), depth + 1));
            }
        }
        Ok(false)
    }

    fn is_inside(&self, link: &Path) -> io::Result<bool> {
        let target = fs::canonicalize(link)?;
        Ok(self.roots.iter().any(|root| target.starts_with(root)))
    }
}

/// Files in `wp-content` that WordPress loads by name (`_get_dropins()`).
pub(super) const DROP_INS: [&str; 10] = [
    "advanced-cache.php",
    "db.php",
    "fatal-error-handler.php",
    "maintenance.php",
    "object-cache.php",
    "php-error.php",
    "sunrise.php",
    "blog-deleted.php",
    "blog-inactive.php",
    "blog-suspended.php",
];

/// Where the plugin FluentSnippets keeps its snippets as files.
const FLUENT: &str = "fluent-snippet-storage";

/// No site has deeper directories.
const DEEPEST: usize = 64;

/// Skips files without code that PHP runs; Composer's class and file maps contain only paths.
fn is_left_out(folder: &str, name: &str) -> bool {
    matches!(name, "node_modules" | ".git" | ".svn")
        || (folder.ends_with("vendor/composer") && name.starts_with("autoload_"))
}

fn is_php(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    matches!(extension.to_str(), Some("php" | "inc" | "phtml" | "php5" | "php7" | "php8"))
}

/// Like `validate_file()`: WordPress accepts no other path of a plugin or theme.
pub(super) fn is_below(entry: &str) -> bool {
    !entry.is_empty() && Path::new(entry).components().all(|part| matches!(part, Component::Normal(_)))
}

fn is_absent(path: &Path) -> bool {
    path.metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}
