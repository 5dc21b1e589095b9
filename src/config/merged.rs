//! Hands out the merged values as what they mean, and gathers what is wrong with each.
//!
//! A fault does not stop anything: the caller gets a placeholder or `None` and goes on, so that the
//! next fault is found too. That is safe since no `Config` is made where there are faults.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use super::{
    Fault, Secret, credential, file, keys,
    kind::Value,
    sources::{Assignment, Origin, wrong},
};

/// The values after the merge, and what is wrong with them.
pub(super) struct Merged {
    /// In the order of the table.
    pub said: Vec<Assignment>,
    pub faults: Vec<Fault>,
    pub warnings: Vec<String>,
    /// False where the file could not be read or parsed, so that "missing" would be a guess.
    pub complete: bool,
    /// Where systemd has put the service's credentials.
    pub credentials: Option<PathBuf>,
}

impl Merged {
    pub fn find(&self, name: &str) -> Option<&Assignment> {
        self.said.iter().find(|said| said.key.name == name)
    }

    pub fn fault(&mut self, name: &str, problem: impl Into<String>) {
        let fault = match self.find(name) {
            Some(said) => said.fault(problem),
            None => wrong(name, problem),
        };
        self.faults.push(fault);
    }

    pub fn is_faulty(&self, name: &str) -> bool {
        self.faults.iter().any(|fault| fault.key == name)
    }

    /// Whether nobody said it, as far as that can be known.
    pub fn is_missing(&self, name: &str) -> bool {
        self.complete && self.find(name).is_none() && !self.is_faulty(name)
    }

    /// Whether somebody said it, be it the default's own value.
    pub fn is_given(&self, name: &str) -> bool {
        self.find(name).is_some_and(|said| said.origin != Origin::Default)
    }

    /// The value of a key. A name that the table does not have is a slip in this file, and told as a fault.
    fn value(&mut self, name: &str) -> Option<Value> {
        if keys::find(name).is_none() {
            self.faults.push(wrong(name, "is not in the table of keys; this is a mistake in the program"));
        }
        self.find(name).map(|said| said.value.clone())
    }

    pub fn integer(&mut self, name: &str) -> usize {
        match self.value(name) {
            Some(Value::Integer(number)) => usize::try_from(number).unwrap_or(usize::MAX),
            _ => 1,
        }
    }

    /// A number whose key has no default.
    pub fn optional_integer(&mut self, name: &str) -> Option<usize> {
        self.value(name)?;
        Some(self.integer(name))
    }

    pub fn duration(&mut self, name: &str) -> Duration {
        match self.value(name) {
            Some(Value::Duration(duration)) => duration,
            _ => Duration::ZERO,
        }
    }

    pub fn boolean(&mut self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::Boolean(true)))
    }

    pub fn secret(&mut self, name: &str) -> Option<Secret> {
        match self.value(name) {
            Some(Value::Secret(secret)) => Some(secret),
            _ => None,
        }
    }

    fn text(&mut self, name: &str) -> Option<String> {
        match self.value(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub fn path(&mut self, name: &str) -> Option<PathBuf> {
        let text = self.text(name)?;
        let path = credential::resolve(&text, self.credentials.as_deref());
        path.map_err(|problem| self.fault(name, problem)).ok()
    }

    pub fn named<T: FromStr>(&mut self, name: &str) -> Option<T> {
        self.parsed(name, |text| text.parse().map_err(|_| "is not known".to_owned()))
    }

    pub fn parsed<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(name)?;
        parse(&text).map_err(|problem| self.fault(name, problem)).ok()
    }

    /// Reads every entry of a list; each bad one is a fault of its own.
    pub fn each<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some(Value::List(texts)) = self.value(name) else {
            return Vec::new();
        };
        let mut good = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            match parse(text) {
                Ok(value) => good.push(value),
                Err(problem) if texts.len() == 1 => self.fault(name, problem),
                Err(problem) => self.fault(name, format!("entry {}: {problem}", i + 1)),
            }
        }
        good
    }

    /// Whether a list has anything in it, right or wrong.
    pub fn has_entries(&self, name: &str) -> bool {
        self.find(name).is_some_and(|said| matches!(&said.value, Value::List(texts) if !texts.is_empty()))
    }

    pub fn checked_secret(&mut self, name: &str, check: impl Fn(&str) -> Result<(), String>) -> Option<Secret> {
        let secret = self.secret(name)?;
        check(secret.expose()).map_err(|problem| self.fault(name, problem)).ok()?;
        Some(secret)
    }

    /// The path of a file that can be opened.
    pub fn readable(&mut self, name: &str) -> Option<PathBuf> {
        let path = self.path(name)?;
        let opened = file::open(&path).and_then(|file| file.metadata());
        match opened {
            Ok(metadata) if metadata.is_dir() => self.fault(name, "is a directory; name the file in it"),
            Ok(_) => {}
            Err(error) => self.fault(name, format!("cannot be read: {error}")),
        }
        Some(path)
    }

    /// What is in the file that the key names, without the line break at its end.
    pub fn secret_file(&mut self, name: &str, content: &str) -> Option<Secret> {
        let path = self.path(name)?;
        match file::read(&path) {
            Ok(text) => {
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text);
                if text.is_empty() {
                    self.fault(name, format!("is empty; it should hold {content}"));
                    return None;
                }
                if is_open_to_all(&path) {
                    self.warnings.push(format!(
                        "{name}: {} can be read by every user of this machine; chmod o-r it",
                        path.display()
                    ));
                }
                Some(Secret::new(text))
            }
            Err(problem) => {
                let mut fault = self.find(name).map_or_else(|| wrong(name, ""), |said| said.fault(""));
                fault.problem = format!("{problem}; accepted: the path of a file that holds {content}");
                // SECURITY: people put the secret itself where its file should be named.
                if !path.starts_with("/") && !path.exists() {
                    fault.value = None;
                    fault.problem.push_str(" (the value is not shown, since it looks as if it were no path)");
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
