//! The directories of the site's code.

use std::path::{Path, PathBuf};

use super::Assembly;
use crate::wordpress::language::Packs;
use crate::wordpress::wp_config::Lookup;

impl Assembly<'_> {
    pub(super) fn plugins_dir(&self) -> Option<PathBuf> {
        let below_content = self.content_dirs().into_iter().map(|content| Some(content?.join("plugins")));
        std::iter::once(self.constant_path("WP_PLUGIN_DIR")).chain(below_content).flatten().find(|path| is_folder(path))
    }

    pub(super) fn content_dir(&self) -> Option<PathBuf> {
        self.content_dirs().into_iter().flatten().find(|path| is_folder(path))
    }

    /// Like `wp_initial_constants()`.
    pub(super) fn mu_plugins_dir(&self) -> Option<PathBuf> {
        match self.constant("WPMU_PLUGIN_DIR") {
            Lookup::NotDefined => self.content_dir().map(|content| content.join("mu-plugins")),
            Lookup::Known(..) | Lookup::Unknown(_) => {
                self.constant_path("WPMU_PLUGIN_DIR").filter(|path| path.is_absolute())
            }
        }
    }

    /// Where WordPress looks for language packs; `None` if only PHP knows, or if WordPress is
    /// elsewhere from the sidecar's view.
    pub(super) fn packs(&self) -> Option<Packs> {
        let beside = self.file.and_then(|file| file.path.parent()).map(Path::to_owned);
        let roots = [self.constant_path("ABSPATH"), beside].into_iter().flatten();
        let root =
            roots.into_iter().find(|root| root.is_absolute() && root.join("wp-includes/version.php").is_file())?;
        let content = self.certain_path("WP_CONTENT_DIR")?.unwrap_or_else(|| root.join("wp-content"));
        let folder = self.certain_path("WP_LANG_DIR")?;
        let is_absolute = content.is_absolute() && folder.as_ref().is_none_or(|folder| folder.is_absolute());
        is_absolute.then(|| Packs { root, content, folder, is_network: self.multisite() })
    }

    /// The constant's path, or `Some(None)` if it is certainly not defined.
    fn certain_path(&self, name: &str) -> Option<Option<PathBuf>> {
        match self.constant(name) {
            Lookup::Known(scalar, _) => String::from_utf8(scalar.to_bytes()).ok().map(|path| Some(PathBuf::from(path))),
            Lookup::NotDefined if self.incomplete().is_none() => Some(None),
            Lookup::NotDefined | Lookup::Unknown(_) => None,
        }
    }

    /// The candidates for `wp-content`, the best first.
    fn content_dirs(&self) -> [Option<PathBuf>; 3] {
        [
            self.constant_path("WP_CONTENT_DIR"),
            self.constant_path("ABSPATH").map(|root| root.join("wp-content")),
            self.file.and_then(|file| file.path.parent()).map(|directory| directory.join("wp-content")),
        ]
    }

    fn constant_path(&self, name: &str) -> Option<PathBuf> {
        match self.constant(name) {
            Lookup::Known(scalar, _) => String::from_utf8(scalar.to_bytes()).ok().map(PathBuf::from),
            Lookup::NotDefined | Lookup::Unknown(_) => None,
        }
    }
}

fn is_folder(path: &Path) -> bool {
    path.is_absolute() && path.is_dir()
}
