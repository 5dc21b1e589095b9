//! Converts the merged values to their meanings, and collects their faults.
//!
//! A fault stops nothing: the caller gets `None` or fewer entries and continues, so that the next
//! fault is found too. That is safe, since there is no `Config` if there are faults.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    Fault, Secret, credential, file,
    keys::Key,
    kind::{FileName, FromValue},
    sources::{Assignment, Origin, wrong},
};

/// The values after the merge, and their faults.
pub(super) struct Merged {
    /// In the order of the table.
    pub said: Vec<Assignment>,
    pub faults: Vec<Fault>,
    pub warnings: Vec<String>,
    /// `false` if the file could not be read or parsed, so that nothing can be called missing.
    pub complete: bool,
    /// systemd's directory of the service's credentials.
    pub credentials: Option<PathBuf>,
}

impl Merged {
    pub fn find<T>(&self, key: Key<T>) -> Option<&Assignment> {
        self.said.iter().find(|said| said.key.name == key.name)
    }

    pub fn fault<T>(&mut self, key: Key<T>, problem: impl Into<String>) {
        let fault = match self.find(key) {
            Some(said) => said.fault(problem),
            None => wrong(key.name, problem),
        };
        self.faults.push(fault);
    }

    pub fn is_faulty<T>(&self, key: Key<T>) -> bool {
        self.faults.iter().any(|fault| fault.key == key.name)
    }

    /// Whether no source sets it, as far as that can be known.
    pub fn is_missing<T>(&self, key: Key<T>) -> bool {
        self.complete && self.find(key).is_none() && !self.is_faulty(key)
    }

    /// Whether any source sets it, even to the default value.
    pub fn is_given<T>(&self, key: Key<T>) -> bool {
        self.find(key).is_some_and(|said| said.origin != Origin::Default)
    }

    /// The value of a key; `None` if it is not set and has no default.
    pub fn get<T: FromValue + Default>(&self, key: Key<T>) -> T {
        // A key with a default always has a value, and its values always have the key's type.
        self.find(key).and_then(|said| T::from_value(&said.value)).unwrap_or_default()
    }

    pub fn path(&mut self, key: Key<Option<FileName>>) -> Option<PathBuf> {
        let FileName(text) = self.get(key)?;
        let path = credential::resolve(&text, self.credentials.as_deref());
        path.map_err(|problem| self.fault(key, problem)).ok()
    }

    /// The parsed text of a key, with or without a default.
    pub fn parsed<K: FromValue + Default + Into<Option<String>>, T>(
        &mut self,
        key: Key<K>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.get(key).into()?;
        parse(&text).map_err(|problem| self.fault(key, problem)).ok()
    }

    /// Parses every entry of a list; each invalid one is a fault of its own.
    pub fn each<T>(&mut self, key: Key<Vec<String>>, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let texts = self.get(key);
        let mut good = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            match parse(text) {
                Ok(value) => good.push(value),
                Err(problem) if texts.len() == 1 => self.fault(key, problem),
                Err(problem) => self.fault(key, format!("entry {}: {problem}", i + 1)),
            }
        }
        good
    }

    pub fn checked_secret(
        &mut self,
        key: Key<Option<Secret>>,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Secret> {
        let secret = self.get(key)?;
        check(secret.expose()).map_err(|problem| self.fault(key, problem)).ok()?;
        Some(secret)
    }

    /// The path of a file that can be opened.
    pub fn readable(&mut self, key: Key<Option<FileName>>) -> Option<PathBuf> {
        let path = self.path(key)?;
        let opened = file::open(&path).and_then(|file| file.metadata());
        match opened {
            Ok(metadata) if metadata.is_dir() => self.fault(key, "is a directory; name the file in it"),
            Ok(_) => {}
            Err(error) => self.fault(key, format!("cannot be read: {error}")),
        }
        Some(path)
    }

    /// The contents of the file that the key names, without the final line break.
    pub fn secret_file(&mut self, key: Key<Option<FileName>>, content: &str) -> Option<Secret> {
        let path = self.path(key)?;
        match file::read(&path) {
            Ok(text) => {
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text);
                if text.is_empty() {
                    self.fault(key, format!("is empty; it should hold {content}"));
                    return None;
                }
                if is_open_to_all(&path) {
                    self.warnings.push(format!(
                        "{}: {} can be read by every user of this machine; chmod o-r it",
                        key.name,
                        path.display()
                    ));
                }
                Some(Secret::new(text))
            }
            Err(problem) => {
                let mut fault = self.find(key).map_or_else(|| wrong(key.name, ""), |said| said.fault(""));
                fault.problem = format!("{problem}; accepted: the path of a file that holds {content}");
                // SECURITY: people write the secret itself where its file should be named.
                if !path.starts_with("/") && !path.exists() {
                    fault.value = None;
                    fault.problem.push_str(" (the value is not shown, since it does not look like a path)");
                }
                self.faults.push(fault);
                None
            }
        }
    }

    pub fn warn_of_open_files(&mut self) {
        let secret = self.said.iter().filter(|said| said.key.kind.is_secret());
        let file = secret.filter_map(|said| match &said.origin {
            Origin::File { path, .. } => Some((said.key.name, path)),
            _ => None,
        });
        let warnings: Vec<String> = file
            .filter(|(_, path)| is_open_to_all(path))
            .map(|(name, path)| {
                format!(
                    "{name}: it stands in {}, which every user of this machine can read; chmod o-r it",
                    path.display()
                )
            })
            .collect();
        self.warnings.extend(warnings);
    }
}

/// Whether users other than the owner and the group can read the file.
fn is_open_to_all(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o004 != 0)
}
