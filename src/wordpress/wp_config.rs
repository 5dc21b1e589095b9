//! What `wp-config.php` defines, found without running it.
//!
//! The file is PHP, so it is parsed as PHP, and walked statement by statement with the values that are plain to see:
//! literals, concatenation, constants defined before, the environment, `if`s whose condition is known. All else makes
//! unknown what it may touch, never a guess: **a wrong secret is worse than an error.** Nothing is executed, and PHP is
//! there for the rest (`wp-jwt-sidecar import`).
//!
//! - The sidecar's environment stands for PHP's. A variable that is not in it has the default that
//!   the file itself gives it (`getenv('X') ?: 'd'`, `$_ENV['X'] ?? 'd'`, `getenv_docker('X', 'd')`); without one
//!   the value is unknown, and so is which way an `if` goes that looks at it.
//! - Files that are included by a path that can be known are read as well. Once code has run that is not read (another
//!   file, a function or method of the site, one of PHP's that may call them), no constant that is defined afterwards
//!   is believed, and no variable: that code may have been first, or may still come.
//! - Code that may or may not run is not run: what it names becomes unknown.
//! - Reading ends where `wp-settings.php` is loaded; what is defined after that only plugins see.

mod call;
mod constant;
mod environment;
mod expression;
mod include;
mod literal;
mod operator;
mod scope;
mod statement;
mod touched;
mod value;

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tree_sitter::{Node, ParseOptions, Parser, Tree};

use environment::{DockerText, Taken};
use expression::printable;
use scope::Scope;
pub use value::{Doubt, Scalar};
use value::{SourcePos, Value};

/// Reads a configuration file. `path` is where it is, symbolic links resolved, as in `__FILE__`;
/// `root` is WordPress's own directory, where `wp-load.php` is, if that is known.
///
/// # Errors
/// If the file is too large or too tangled, or is no PHP up to the place where it loads WordPress.
pub fn read(
    path: &Path,
    source: &[u8],
    root: Option<&Path>,
    surroundings: &Surroundings<'_>,
) -> Result<WpConfig, WpConfigError> {
    let mut reader = Reader::new(surroundings);
    reader.preset(root);
    reader.read_source(path, source)?;
    Ok(WpConfig { scope: reader.scope, late: reader.late, taken: reader.taken })
}

/// The world outside of the file, as far as it may be looked at.
pub struct Surroundings<'a> {
    /// The bytes of an environment variable.
    pub environment: &'a dyn Fn(&str) -> Option<OsString>,
    /// The content of a file.
    pub read_file: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// The path without symbolic links; an error where there is no such file.
    pub canonicalize: &'a dyn Fn(&Path) -> io::Result<PathBuf>,
}

/// What a configuration file defines.
pub struct WpConfig {
    scope: Scope,
    late: Option<Doubt>,
    taken: Taken,
}

impl WpConfig {
    /// The constant's value at the end; its name is case-sensitive, as in PHP 8.
    pub fn constant(&self, name: &str) -> Lookup<'_> {
        match (self.scope.constant(name), &self.late) {
            (Some(slot), _) => lookup(slot.place.line, &slot.value),
            // The plugin reads its constants when it serves a request.
            (None, Some(doubt)) if name.starts_with("JWT_AUTH_") => Lookup::Unknown(doubt.clone()),
            (None, _) => Lookup::NotDefined,
        }
    }

    /// `$table_prefix`
    pub fn table_prefix(&self) -> Lookup<'_> {
        match self.scope.variable("table_prefix") {
            Ok(Some(value)) => lookup(0, value),
            Ok(None) => Lookup::NotDefined,
            Err(doubt) => Lookup::Unknown(doubt.clone()),
        }
    }

    /// What was taken for granted about PHP's environment, in sentences without values.
    pub fn assumed(&self) -> Vec<String> {
        self.taken.sentences()
    }

    /// Why a constant that is not defined may be defined all the same: a file that was not read,
    /// for instance. `None` where all is known.
    pub fn incomplete(&self) -> Option<&Doubt> {
        self.scope.lost.as_ref()
    }
}

/// What is known of a constant.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// Nothing defines it, in what was read.
    NotDefined,
    /// Its value, and the line that defines it (0 for a variable, and for what WordPress defines itself).
    Known(&'a Scalar, usize),
    /// It may have a value, which only PHP can compute.
    Unknown(Doubt),
}

/// Why a configuration file cannot be read at all. The fault is the file's, or our parser's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WpConfigError {
    /// PHP would refuse it, or the parser does not know the syntax.
    #[error("line {line} is not understood as PHP")]
    Syntax {
        /// The first line that is not understood, from 1.
        line: usize,
    },
    /// More than [`SIZE_LIMIT`] in all files.
    #[error("it is larger than {} KiB, with the files it includes", SIZE_LIMIT / 1024)]
    TooLarge,
    /// Nested deeper than any sane file.
    #[error("line {line} is nested too deeply")]
    TooDeep {
        /// Where it went too deep, from 1.
        line: usize,
    },
    /// `goto`: the order of statements is not that of the lines.
    #[error("line {line} uses goto")]
    Goto {
        /// Where, from 1.
        line: usize,
    },
    /// The parser did not come to an end.
    #[error("it takes too long to parse")]
    TooSlow,
}

/// Bytes of PHP that are read at most, included files counted in.
pub const SIZE_LIMIT: usize = 1 << 20;
/// Nested statements and expressions; each costs stack.
const DEPTH_LIMIT: usize = 150;
const PARSE_TIME_LIMIT: Duration = Duration::from_secs(20);

/// How a statement ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// The next one follows.
    On,
    /// This file ends here.
    Return,
    /// WordPress is loaded: nothing after this counts.
    Loaded,
    /// The request ends here (`exit`, `throw`).
    Gone,
}

/// The walk through the files.
struct Reader<'a> {
    surroundings: &'a Surroundings<'a>,
    scope: Scope,
    depth: usize,
    bytes_left: usize,
    /// Resolved paths of the files we are in, innermost last.
    files: Vec<PathBuf>,
    /// Functions that the files declare, in lower case: what they do is not followed.
    functions: HashSet<String>,
    taken: Taken,
    /// Set by an expression that ends the statement it is in.
    flow: Flow,
    /// WordPress's directory.
    root: Option<PathBuf>,
    /// Resolved paths of the files that were read.
    included: BTreeSet<PathBuf>,
    /// `getenv_docker()`, if a file declares it.
    docker: Option<DockerText>,
    /// Whether wp-settings.php has been loaded.
    is_late: bool,
    /// Code after wp-settings.php that may define any constant.
    late: Option<Doubt>,
    error: Option<WpConfigError>,
}

impl<'a> Reader<'a> {
    fn new(surroundings: &'a Surroundings<'a>) -> Self {
        Self {
            surroundings,
            scope: Scope::default(),
            depth: 0,
            bytes_left: SIZE_LIMIT,
            files: Vec::new(),
            functions: HashSet::new(),
            taken: Taken::default(),
            flow: Flow::On,
            root: None,
            included: BTreeSet::new(),
            docker: None,
            is_late: false,
            late: None,
            error: None,
        }
    }

    /// wp-load.php defines `ABSPATH`, from its own directory, before it includes wp-config.php.
    fn preset(&mut self, root: Option<&Path>) {
        self.root = root.map(Path::to_owned);
        let place = SourcePos { line: 0, file: None };
        let value = match root.and_then(Path::to_str) {
            Some(root) => Value::Known(Scalar::text(format!("{}/", root.trim_end_matches('/')))),
            None => Value::Unknown(Doubt {
                place: place.clone(),
                why: "leaves ABSPATH open: there is no wp-load.php beside the file; give the path of wp-config.php below \
                      WordPress's root"
                    .to_owned(),
            }),
        };
        self.scope.define("ABSPATH", value, place);
    }

    /// Parses and walks one file. Its constants and variables end up in the scope.
    fn read_source(&mut self, path: &Path, source: &[u8]) -> Result<Flow, WpConfigError> {
        self.bytes_left = self.bytes_left.checked_sub(source.len()).ok_or(WpConfigError::TooLarge)?;
        let tree = parse(source)?;
        self.files.push(path.to_owned());
        self.included.insert(path.to_owned());
        let flow = self.run_program(tree.root_node(), source);
        self.files.pop();
        self.error.take().map_or(Ok(flow), Err)
    }

    /// SECURITY: the walk recurses; this bounds it, whatever the file holds.
    fn nested<T>(&mut self, node: Node<'_>, otherwise: T, walk: impl FnOnce(&mut Self) -> T) -> T {
        if self.error.is_some() {
            return otherwise;
        }
        if self.depth >= DEPTH_LIMIT {
            self.error = Some(WpConfigError::TooDeep { line: line(node) });
            return otherwise;
        }
        self.depth += 1;
        let result = walk(self);
        self.depth -= 1;
        result
    }

    fn place(&self, node: Node<'_>) -> SourcePos {
        let file = if self.files.len() > 1 { self.files.last().and_then(|path| path.file_name()) } else { None };
        SourcePos { line: line(node), file: file.map(|name| printable(&name.to_string_lossy())) }
    }

    fn doubt(&self, node: Node<'_>, why: impl Into<String>) -> Doubt {
        Doubt { place: self.place(node), why: why.into() }
    }

    fn unknown(&self, node: Node<'_>, why: impl Into<String>) -> Value {
        Value::Unknown(self.doubt(node, why))
    }
}

fn parse(source: &[u8]) -> Result<Tree, WpConfigError> {
    let mut parser = Parser::new();
    // The only way to fail is a grammar of another ABI version than the library: a fault of the build.
    parser.set_language(&tree_sitter_php::LANGUAGE_PHP.into()).map_err(|_| WpConfigError::TooSlow)?;
    let start = Instant::now();
    let mut too_slow = |_: &tree_sitter::ParseState| match start.elapsed() > PARSE_TIME_LIMIT {
        true => std::ops::ControlFlow::Break(()),
        false => std::ops::ControlFlow::Continue(()),
    };
    let options = ParseOptions::new().progress_callback(&mut too_slow);
    let mut input = |offset: usize, _| source.get(offset..).unwrap_or_default();
    parser.parse_with_options(&mut input, None, Some(options)).ok_or(WpConfigError::TooSlow)
}

/// Counted from 1.
fn line(node: Node<'_>) -> usize {
    node.start_position().row + 1
}

fn text<'s>(node: Node<'_>, source: &'s [u8]) -> &'s [u8] {
    source.get(node.byte_range()).unwrap_or_default()
}

fn lookup(line: usize, value: &Value) -> Lookup<'_> {
    match value {
        Value::Known(scalar) | Value::InEnv(scalar, _) => Lookup::Known(scalar, line),
        Value::Unset(_, _, doubt) | Value::Unknown(doubt) => Lookup::Unknown(doubt.clone()),
    }
}

#[cfg(test)]
mod tests;
