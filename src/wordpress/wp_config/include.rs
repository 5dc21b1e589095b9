//! `include`, `require`, and `eval` of a known text: code from elsewhere.

use std::io;
use std::path::{Component, Path, PathBuf};

use tree_sitter::Node;

use super::expression::{operand, printable};
use super::value::{Scalar, Value};
use super::{Flow, Reader, WpConfigError, line, text};

/// Included files within included files.
const INCLUDE_DEPTH_LIMIT: usize = 8;

/// Of a path for which that holds.
pub(super) const MAY_DIFFER: &str = "where PHP may see other files than the sidecar";

impl Reader<'_> {
    pub(super) fn include(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let Some(argument) = operand(node) else {
            return self.unknown(node, "includes nothing");
        };
        let value = self.evaluate(argument, source);
        if self.flow != Flow::On {
            return value;
        }
        if self.loads_wordpress(&value, text(argument, source)) {
            self.flow = Flow::Loaded;
            return self.unknown(node, "loads WordPress");
        }
        let path = match (value.known_text(), value.known()) {
            (Some(path), _) => match self.included_path(path) {
                Ok(path) => path,
                Err(why) => return self.lose_track(node, source, &format!("includes {}, {why}", printable(path))),
            },
            (None, Err(doubt)) => {
                let why = format!("includes a file by a path that {}", doubt.why);
                return self.lose_track(node, source, &why);
            }
            (None, Ok(_)) => return self.lose_track(node, source, "includes a file whose path only PHP knows"),
        };
        let shown = printable(&path.to_string_lossy());
        let resolved = (self.surroundings.canonicalize)(&path);
        if [Some(&path), resolved.as_ref().ok()].into_iter().flatten().any(|path| self.may_differ(path)) {
            return self.lose_track(node, source, &format!("includes {shown}, {MAY_DIFFER}"));
        }
        let path = match resolved {
            Ok(path) => path,
            // PHP warns and goes on. A `require` would end the request, so there must be more to it.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && node.kind().starts_with("include")
                    && !path.components().any(|part| part == Component::ParentDir) =>
            {
                return Value::boolean(false);
            }
            Err(_) => {
                return self.lose_track(node, source, &format!("includes {shown}, which is not there for this user"));
            }
        };
        if node.kind().ends_with("once_expression") && self.included.contains(&path) {
            return Value::boolean(true);
        }
        if self.files.len() > INCLUDE_DEPTH_LIMIT {
            return self.lose_track(node, source, &format!("includes {shown}, too many files deep"));
        }
        match (self.surroundings.read_file)(&path) {
            Ok(content) => self.run_code(node, source, &path, &content, &format!("includes {shown}")),
            Err(_) => self.lose_track(node, source, &format!("includes {shown}, which this user cannot read")),
        }
    }

    /// Whether PHP may see other files there than the sidecar: a service may have these directories to itself (systemd's
    /// `PrivateTmp=`, a container's). A site that lies there itself, the sidecar sees as PHP does.
    pub(super) fn may_differ(&self, path: &Path) -> bool {
        // What systemd hands over is a copy.
        let site = self.files.first().filter(|file| !file.starts_with("/run/credentials"));
        let is_below =
            |directory: &&str| path.starts_with(directory) && !site.is_some_and(|file| file.starts_with(directory));
        ["/tmp", "/var/tmp", "/proc", "/sys", "/dev", "/run", "/var/run"].iter().any(is_below)
    }

    /// wp-settings.php itself, and not one of that name elsewhere.
    fn loads_wordpress(&self, path: &Value, source: &[u8]) -> bool {
        match path.known_text() {
            Some(path) => {
                let path = Path::new(path);
                let is_elsewhere = (self.surroundings.canonicalize)(path).is_ok_and(|path| {
                    let version = path.with_file_name("wp-includes").join("version.php");
                    (self.surroundings.canonicalize)(&version).is_err()
                });
                path.file_name().is_some_and(|name| name == "wp-settings.php") && !is_elsewhere
            }
            None => {
                let source: Vec<u8> = source.iter().copied().filter(|b| !b" \t\r\n()\"'/".contains(b)).collect();
                source == b"ABSPATH.wp-settings.php"
            }
        }
    }

    /// `eval()` of a text that is known: with Docker's image, `WORDPRESS_CONFIG_EXTRA`.
    pub(super) fn evaluate_code(&mut self, node: Node<'_>, source: &[u8], code: &Value) -> Value {
        match code {
            Value::Known(scalar @ Scalar::Text(_)) if self.files.len() <= INCLUDE_DEPTH_LIMIT => {
                // What `__FILE__` is there; `__DIR__` stays the same.
                let path = self.files.last().map(|file| format!("{}({}) : eval()'d code", file.display(), line(node)));
                let path = PathBuf::from(path.unwrap_or_default());
                let content = [b"<?php ", scalar.to_bytes().as_slice()].concat();
                self.run_code(node, source, &path, &content, "runs code")
            }
            _ => self.lose_track(node, source, "runs code that only PHP knows"),
        }
    }

    fn run_code(&mut self, node: Node<'_>, source: &[u8], path: &Path, content: &[u8], what: &str) -> Value {
        match self.read_source(path, content) {
            Ok(Flow::On | Flow::Return) => self.unknown(node, "uses what an included file returns"),
            Ok(flow) => {
                self.flow = flow;
                self.unknown(node, "is not read any more")
            }
            // The size is a limit for all files together.
            Err(error @ WpConfigError::TooLarge) => {
                self.error = Some(error);
                self.unknown(node, what)
            }
            Err(error) => self.lose_track(node, source, &format!("{what}, of which {error}")),
        }
    }

    /// PHP looks for a bare name in its include path, which begins with the directory of index.php as a rule, and then
    /// beside the including file. Only where one of these places has such a file it is certain which is meant.
    fn included_path(&self, path: &str) -> Result<PathBuf, &'static str> {
        if path.starts_with('/') {
            return Ok(PathBuf::from(path));
        }
        if path.contains(':') {
            return Err("which is no plain path");
        }
        if path.starts_with('.') {
            return Err("which is relative to PHP's working directory");
        }
        let Some(root) = &self.root else {
            return Err("which PHP looks for in its include path first");
        };
        let is_there = |path: &PathBuf| (self.surroundings.canonicalize)(path).ok();
        // A site may have its index.php one level above WordPress.
        let places = [Some(root.as_path()), root.parent(), self.files.last().and_then(|file| file.parent())];
        let mut found: Vec<PathBuf> =
            places.into_iter().flatten().filter_map(|place| is_there(&place.join(path))).collect();
        found.sort();
        found.dedup();
        match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err("which is in none of the places that are known here"),
            _ => Err("of which there are several: write __DIR__ . '/…'"),
        }
    }
}
