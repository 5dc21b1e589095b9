//! Whether WordPress's own messages are in English: the result of `get_locale()`, and whether there
//! is a language pack for it.
//!
//! WordPress translates by files (`load_default_textdomain()`). A site in another language whose
//! pack is not installed answers in English. The contents of a pack are not read: if there is one,
//! WordPress answers.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

/// In bytes. WordPress's own has less than 1 KiB.
const VERSION_LIMIT: u64 = 64 << 10;

/// The constant `WPLANG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LanguageConstant {
    NotDefined,
    Known(String),
    /// Only PHP knows.
    Unknown,
}

/// The locale by the database and `wp-config.php`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locale {
    Known(String),
    /// Not set: it is that of the package that WordPress was installed from.
    OfPackage,
    Unknown,
}

/// Where language packs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packs {
    /// `ABSPATH`.
    pub root: PathBuf,
    /// `WP_CONTENT_DIR`.
    pub content: PathBuf,
    /// `WP_LANG_DIR`, if it is defined.
    pub folder: Option<PathBuf>,
    /// Whether it is a network of sites, which has further packs.
    pub is_network: bool,
}

impl Locale {
    /// Like `get_locale()`: the site's option overrides the network's, which overrides the
    /// constant, each even when empty.
    pub fn of(site: Option<String>, network: Option<String>, constant: &LanguageConstant) -> Self {
        match (site.or(network), constant) {
            (Some(option), _) => Locale::Known(option),
            (None, LanguageConstant::Known(constant)) => Locale::Known(constant.clone()),
            (None, LanguageConstant::NotDefined) => Locale::OfPackage,
            (None, LanguageConstant::Unknown) => Locale::Unknown,
        }
    }

    /// Whether WordPress's messages are in English; reads the file system. `packs` is `None` if
    /// they are unknown.
    pub fn is_english(&self, packs: Option<&Packs>) -> bool {
        match (self, packs) {
            (Locale::Unknown, _) => false,
            (Locale::Known(locale), None) => is_english_locale(locale),
            (Locale::Known(locale), Some(packs)) => is_english_locale(locale) || packs.lack(locale),
            // Nearly all sites have the English package: installing another one stores the option.
            (Locale::OfPackage, None) => true,
            (Locale::OfPackage, Some(packs)) => match packs.of_package() {
                Ok(None) => true,
                Ok(Some(locale)) => is_english_locale(&locale) || packs.lack(&locale),
                Err(_) => false,
            },
        }
    }
}

impl Packs {
    /// Whether WordPress finds no file to translate its messages with.
    fn lack(&self, locale: &str) -> bool {
        // SECURITY: the locale comes from the database, and becomes part of a path.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-@".contains(&byte);
        if locale.is_empty() || !locale.bytes().all(is_plain) {
            return false;
        }
        self.look(locale).is_ok_and(|is_there| !is_there)
    }

    /// Whether there is a file that WordPress would load.
    fn look(&self, locale: &str) -> io::Result<bool> {
        // If the site were elsewhere, no file would be found.
        File::open(self.version_file())?;
        let folder = self.folder()?;
        // The last one is code (`wp-settings.php`).
        let mut names = vec![format!("{locale}.mo"), format!("{locale}.l10n.php"), format!("{locale}.php")];
        if self.is_network {
            names.extend(["mo", "l10n.php"].map(|suffix| format!("ms-{locale}.{suffix}")));
        }
        for name in names {
            if exists(&folder.join(name))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Like `wp_set_lang_dir()`.
    fn folder(&self) -> io::Result<PathBuf> {
        if let Some(folder) = &self.folder {
            return Ok(folder.clone());
        }
        if !is_folder(&self.content)? {
            return Err(ErrorKind::NotFound.into());
        }
        let (of_content, of_core) = (self.content.join("languages"), self.root.join("wp-includes/languages"));
        Ok(if !is_folder(&of_content)? && is_folder(&of_core)? { of_core } else { of_content })
    }

    /// `$wp_local_package`, if it is set.
    fn of_package(&self) -> io::Result<Option<String>> {
        let mut text = String::new();
        File::open(self.version_file())?.take(VERSION_LIMIT).read_to_string(&mut text)?;
        local_package(&text).map_err(|()| ErrorKind::InvalidData.into())
    }

    fn version_file(&self) -> PathBuf {
        self.root.join("wp-includes/version.php")
    }
}

/// PHP's `empty()`: the default of WordPress, `en_US`.
fn is_english_locale(locale: &str) -> bool {
    matches!(locale, "" | "0" | "en") || locale.starts_with("en_")
}

/// The value of `$wp_local_package` in `version.php`; an error if it is set differently than in
/// WordPress's builds.
fn local_package(text: &str) -> Result<Option<String>, ()> {
    let set = text.lines().map(str::trim_start).find_map(|line| line.strip_prefix("$wp_local_package"));
    let Some(set) = set else {
        // Comments mention it.
        return if text.contains("$wp_local_package =") { Err(()) } else { Ok(None) };
    };
    let value = set.trim().strip_prefix('=').ok_or(())?.trim().strip_suffix(';').ok_or(())?.trim();
    let quoted = ['\'', '"'].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote)).ok_or(())?;
    let is_plain = quoted.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if is_plain { Ok(Some(quoted.to_owned())) } else { Err(()) }
}

/// A file that cannot be checked is an error: PHP may be able to read it.
fn exists(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_folder(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.is_dir()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    const VERSION: &str = "<?php\n/**\n * @global string $wp_local_package Locale\n */\n$wp_version = '6.8';\n";

    fn site() -> (TempDir, Packs) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        let content = root.join("wp-content");
        fs::create_dir_all(root.join("wp-includes")).unwrap();
        fs::create_dir_all(&content).unwrap();
        fs::write(root.join("wp-includes/version.php"), VERSION).unwrap();
        (directory, Packs { root, content, folder: None, is_network: false })
    }

    fn german() -> Locale {
        Locale::Known("de_DE".to_owned())
    }

    fn put(packs: &Packs, file: &str) -> PathBuf {
        let file = packs.root.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "").unwrap();
        file
    }

    #[test]
    fn options_win_over_the_constant_even_when_they_are_empty() {
        let of = |site: Option<&str>, network: Option<&str>, constant: Option<&str>| {
            let constant =
                constant.map_or(LanguageConstant::NotDefined, |text| LanguageConstant::Known(text.to_owned()));
            Locale::of(site.map(str::to_owned), network.map(str::to_owned), &constant)
        };
        let known = |text: &str| Locale::Known(text.to_owned());
        assert_eq!(of(Some(""), Some("de_DE"), Some("fr_FR")), known(""));
        assert_eq!(of(None, Some("de_DE"), Some("fr_FR")), known("de_DE"));
        assert_eq!(of(None, None, Some("fr_FR")), known("fr_FR"));
        assert_eq!(of(None, None, None), Locale::OfPackage);
        assert_eq!(Locale::of(None, None, &LanguageConstant::Unknown), Locale::Unknown);
        assert_eq!(Locale::of(Some("de_DE".into()), None, &LanguageConstant::Unknown), german());
    }

    #[test]
    fn without_a_pack_it_is_english() {
        let (_directory, packs) = site();
        assert!(german().is_english(Some(&packs)) && !german().is_english(None));
        for name in ["de_DE.mo", "de_DE.l10n.php", "de_DE.php"] {
            let file = put(&packs, &format!("wp-content/languages/{name}"));
            assert!(!german().is_english(Some(&packs)), "{name}");
            fs::remove_file(file).unwrap();
            assert!(german().is_english(Some(&packs)), "{name}");
        }
        // Files that are not loaded for a refresh, or are for another language.
        for name in ["admin-de_DE.mo", "plugins/jwt-de_DE.mo", "de_AT.mo", "ms-de_DE.mo"] {
            put(&packs, &format!("wp-content/languages/{name}"));
        }
        assert!(german().is_english(Some(&packs)));
        assert!(!german().is_english(Some(&Packs { is_network: true, ..packs })));
    }

    #[test]
    fn the_folder_is_that_of_wordpress() {
        let (directory, packs) = site();
        // Core's own directory only counts if the other does not exist.
        put(&packs, "wp-includes/languages/de_DE.mo");
        assert!(!german().is_english(Some(&packs)));
        fs::create_dir(packs.content.join("languages")).unwrap();
        assert!(german().is_english(Some(&packs)));
        let named = Packs { folder: Some(directory.path().join("packs")), ..packs };
        assert!(german().is_english(Some(&named)));
        put(&named, "packs/de_DE.mo");
        assert!(!german().is_english(Some(&named)));
    }

    #[test]
    fn what_cannot_be_looked_at_may_be_there() {
        let (_directory, packs) = site();
        // A link to itself: it fails for every user, even root.
        symlink("languages", packs.content.join("languages")).unwrap();
        assert!(!german().is_english(Some(&packs)));
        let elsewhere = Packs { root: packs.root.join("elsewhere"), ..packs.clone() };
        assert!(!german().is_english(Some(&elsewhere)));
        for locale in ["../de_DE", "de/DE", "de\0DE", "ä"] {
            assert!(!Locale::Known(locale.to_owned()).is_english(Some(&packs)), "{locale}");
        }
        for locale in ["", "0", "en", "en_US", "en_GB"] {
            assert!(Locale::Known(locale.to_owned()).is_english(None), "{locale}");
        }
        assert!(!Locale::Unknown.is_english(Some(&packs)));
    }

    #[test]
    fn a_package_has_a_language() {
        let (_directory, packs) = site();
        assert!(Locale::OfPackage.is_english(Some(&packs)) && Locale::OfPackage.is_english(None));
        put(&packs, "wp-content/languages/de_DE.mo");
        let version = packs.root.join("wp-includes/version.php");
        fs::write(&version, format!("{VERSION}$wp_local_package = 'de_DE';\n")).unwrap();
        assert!(!Locale::OfPackage.is_english(Some(&packs)));
        fs::write(&version, format!("{VERSION}$wp_local_package = 'fr_FR';\n")).unwrap();
        assert!(Locale::OfPackage.is_english(Some(&packs)), "there is no pack for it");
        for odd in ["$wp_local_package = x();", "$wp_local_package .= 'de';", "if (1) $wp_local_package = 'de_DE';"] {
            assert_eq!(local_package(&format!("{VERSION}{odd}\n")), Err(()), "{odd}");
        }
        fs::remove_file(&version).unwrap();
        assert!(!Locale::OfPackage.is_english(Some(&packs)));
    }
}
