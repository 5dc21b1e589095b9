//! `include`, `require`, and `eval` of a known text: code from elsewhere.

use std::io;
use std::path::{Path, PathBuf};

use tree_sitter::Node;

use super::expression::{operand, printable};
use super::scope::Kind;
use super::value::{Scalar, Value};
use super::{Flow, Reader, WpConfigError, line, text};

/// Included files within included files.
const INCLUDE_DEPTH_LIMIT: usize = 8;

impl Reader<'_> {
    pub(super) fn include(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let Some(argument) = operand(node) else {
            return self.unknown(node, "includes nothing");
        };
        let value = self.evaluate(argument, source);
        if self.flow != Flow::On {
            return value;
        }
        let loads_wordpress = match value.known_text() {
            Some(path) => path.ends_with("wp-settings.php"),
            None => ends_with_settings(text(argument, source)),
        };
        if loads_wordpress {
            self.flow = Flow::Loaded;
            return self.unknown(node, "loads WordPress");
        }
        self.assumptions.decide();
        let Some(path) = value.known_text().and_then(|path| self.included_path(path)) else {
            return self.lose_track(node, "includes a file whose path only PHP knows");
        };
        let shown = printable(&path.to_string_lossy());
        let path = match (self.surroundings.canonicalize)(&path) {
            Ok(path) => path,
            // PHP warns and goes on. A `require` would end the request, so there must be more to it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && node.kind().starts_with("include") => {
                return Value::boolean(false);
            }
            Err(_) => return self.lose_track(node, &format!("includes {shown}, which is not there for this user")),
        };
        if node.kind().ends_with("once_expression") {
            match self.scope.last(Kind::Files, &path.to_string_lossy()) {
                Some(Value::Known(_)) => return Value::boolean(true),
                Some(_) => return self.lose_track(node, &format!("includes {shown}, unless it was included before")),
                None => {}
            }
        }
        if self.files.len() > INCLUDE_DEPTH_LIMIT {
            return self.lose_track(node, &format!("includes {shown}, too many files deep"));
        }
        let Ok(content) = (self.surroundings.read_file)(&path) else {
            return self.lose_track(node, &format!("includes {shown}, which this user cannot read"));
        };
        self.run_code(node, &path, &content, &format!("includes {shown}"))
    }

    /// `eval()` of a text that is known: with Docker's image, `WORDPRESS_CONFIG_EXTRA`.
    pub(super) fn evaluate_code(&mut self, node: Node<'_>, code: &Value) -> Value {
        self.assumptions.decide();
        match code {
            Value::Known(scalar @ Scalar::Text(_)) if self.files.len() <= INCLUDE_DEPTH_LIMIT => {
                // What `__FILE__` is there; `__DIR__` stays the same.
                let path = self.files.last().map(|file| format!("{}({}) : eval()'d code", file.display(), line(node)));
                let path = PathBuf::from(path.unwrap_or_default());
                let content = [b"<?php ", scalar.to_bytes().as_slice()].concat();
                self.run_code(node, &path, &content, "runs code")
            }
            _ => self.lose_track(node, "runs code that only PHP knows"),
        }
    }

    fn run_code(&mut self, node: Node<'_>, path: &Path, content: &[u8], what: &str) -> Value {
        // PHP compiles a file as a whole before it runs any of it: with a fault, nothing is defined.
        self.scope.enter_branch();
        let result = self.read_source(path, content);
        let layer = self.scope.leave_branch();
        match result {
            Ok(flow) => {
                self.scope.apply(&layer);
                if !matches!(flow, Flow::On | Flow::Return) {
                    self.flow = flow;
                }
            }
            // The size is a limit for all files together.
            Err(error @ WpConfigError::TooLarge) => self.error = Some(error),
            Err(error) => return self.lose_track(node, &format!("{what}, of which {error}")),
        }
        self.unknown(node, "uses what an included file returns")
    }

    /// PHP looks for a bare name in its include path and then beside the including file.
    fn included_path(&self, path: &str) -> Option<PathBuf> {
        let path = Path::new(path);
        if path.is_absolute() {
            return Some(path.to_owned());
        }
        if path.starts_with(".") || path.starts_with("..") {
            return None; // relative to the working directory of PHP
        }
        Some(self.files.last()?.parent()?.join(path))
    }
}

/// Whether the source of a path ends in a literal `…wp-settings.php`, whatever comes before it.
fn ends_with_settings(source: &[u8]) -> bool {
    let mut source = source;
    while let [rest @ .., b')' | b' ' | b'\t' | b'\r' | b'\n'] = source {
        source = rest;
    }
    source.ends_with(b"wp-settings.php'") || source.ends_with(b"wp-settings.php\"")
}
