//! `include`, `require`, and `eval` of a known text.

use std::io;
use std::path::{Path, PathBuf};

use super::code::Code;
use super::value::{Scalar, Value};
use super::{Flow, Reader, WpConfigError};

/// How deeply included files may be nested.
const INCLUDE_DEPTH_LIMIT: usize = 8;

/// For a file that exists.
const UNREADABLE: &str = "which this user cannot read";

impl Reader<'_> {
    pub(super) fn include(&mut self, code: Code<'_>) -> Value {
        let Some(argument) = code.operand() else {
            return self.lose(code, "includes nothing");
        };
        let value = self.evaluate(argument);
        if self.flow != Flow::On {
            return value;
        }
        if self.loads_wordpress(&value, argument) {
            self.flow = Flow::Loaded;
            return self.unknown(code, "loads WordPress");
        }
        let path = match (value.known_text(), value.known()) {
            (Some(path), _) => path,
            (None, Err(doubt)) => return self.lose(code, &format!("includes a file by a path that {}", doubt.why)),
            (None, Ok(_)) => return self.lose(code, "includes a file whose path only PHP knows"),
        };
        // PHP removes `..` before it looks for the file: the directories in between need not exist.
        let is_optional = code.kind().starts_with("include") && !path.split('/').any(|part| part == "..");
        let content = match self.included_path(path).and_then(|path| self.resolved(&path)) {
            // PHP warns and continues. A missing `require` would end the request, so PHP must see
            // more than the sidecar.
            Ok(None) if is_optional => return Value::boolean(false),
            Ok(None) => Err("which is not there for this user"),
            Ok(Some(file)) if code.kind().ends_with("once_expression") && self.included.contains(&file) => {
                return Value::boolean(true);
            }
            Ok(Some(file)) => match (self.surroundings.read_file)(&file) {
                Ok(content) => Ok((file, content)),
                Err(_) => Err(UNREADABLE),
            },
            Err(why) => Err(why),
        };
        match content {
            Ok((file, content)) => self.run_code(code, &file, &content, &format!("includes {path}")),
            Err(why) => self.lose(code, &format!("includes {path}, {why}")),
        }
    }

    /// Whether it is wp-settings.php itself, not a file of that name elsewhere.
    fn loads_wordpress(&self, path: &Value, argument: Code<'_>) -> bool {
        match path.known_text().map(Path::new) {
            Some(path) => {
                let is_elsewhere = (self.surroundings.canonicalize)(path).is_ok_and(|path| {
                    let version = path.with_file_name("wp-includes").join("version.php");
                    (self.surroundings.canonicalize)(&version).is_err()
                });
                path.file_name().is_some_and(|name| name == "wp-settings.php") && !is_elsewhere
            }
            None => argument.text().replace(|c: char| " \t\r\n()\"'/".contains(c), "") == "ABSPATH.wp-settings.php",
        }
    }

    /// The file at a path with links resolved, or `None` if there is none; an error if PHP may see
    /// another file.
    pub(super) fn resolved(&self, path: &Path) -> Result<Option<PathBuf>, &'static str> {
        let resolved = (self.surroundings.canonicalize)(path);
        if [Some(path), resolved.as_deref().ok()].into_iter().flatten().any(|path| self.may_differ(path)) {
            return Err("where PHP may see other files than the sidecar");
        }
        match resolved {
            Ok(path) => Ok(Some(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(_) => Err(UNREADABLE),
        }
    }

    /// Whether PHP may see other files there than the sidecar: these directories may be private to
    /// a service (systemd's `PrivateTmp=`, a container's). If the site itself is there, the sidecar
    /// sees the same as PHP.
    fn may_differ(&self, path: &Path) -> bool {
        // systemd passes a copy.
        let site = self.files.first().filter(|file| !file.starts_with("/run/credentials"));
        let is_below =
            |directory: &&str| path.starts_with(directory) && !site.is_some_and(|file| file.starts_with(directory));
        ["/tmp", "/var/tmp", "/proc", "/sys", "/dev", "/run", "/var/run"].iter().any(is_below)
    }

    /// `eval()` of a known text: with Docker's image, `WORDPRESS_CONFIG_EXTRA`.
    pub(super) fn run_text(&mut self, code: Code<'_>, text: &Value) -> Value {
        match (text, self.files.last()) {
            (Value::Known(scalar @ Scalar::Text(_)), Some(file)) => {
                // The value of `__FILE__` there; `__DIR__` stays the same.
                let path = PathBuf::from(format!("{}({}) : eval()'d code", file.display(), code.line()));
                let content = [b"<?php ", scalar.to_bytes().as_slice()].concat();
                self.run_code(code, &path, &content, "runs code")
            }
            _ => self.lose(code, "runs code that only PHP knows"),
        }
    }

    fn run_code(&mut self, code: Code<'_>, path: &Path, content: &[u8], what: &str) -> Value {
        if self.files.len() > INCLUDE_DEPTH_LIMIT {
            return self.lose(code, &format!("{what}, too many files deep"));
        }
        match self.read_source(path, content) {
            Ok(()) => self.unknown(code, "uses what an included file returns"),
            Err(error @ (WpConfigError::TooLarge | WpConfigError::TooSlow)) => {
                self.lose(code, &format!("{what}: {error}"))
            }
            Err(error) => self.lose(code, &format!("{what}, of which {error}")),
        }
    }

    /// PHP looks for a bare name in its include path, which usually begins with the directory of
    /// index.php, and then beside the including file. The file is certain only if exactly one of
    /// these places has it.
    fn included_path(&self, path: &str) -> Result<PathBuf, &'static str> {
        if path.starts_with('/') {
            return Ok(PathBuf::from(path));
        }
        if path.contains(':') {
            return Err("which is not a plain path");
        }
        if path.starts_with('.') {
            return Err("which is relative to PHP's working directory");
        }
        let root = self.root.as_deref().ok_or("which PHP looks for in its include path first")?;
        // A site may have its index.php one level above WordPress.
        let places = [Some(root), root.parent(), self.files.last().and_then(|file| file.parent())];
        let there = |place: &Path| (self.surroundings.canonicalize)(&place.join(path)).ok();
        let mut found: Vec<PathBuf> = places.into_iter().flatten().filter_map(there).collect();
        found.sort();
        found.dedup();
        match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err("which is in none of the places that are known here"),
            _ => Err("of which there are several: write __DIR__ . '/…'"),
        }
    }
}
