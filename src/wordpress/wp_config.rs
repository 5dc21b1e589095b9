//! Finds what `wp-config.php` defines without running it.
//!
//! The file is PHP, so it is parsed as PHP and evaluated statement by statement, as far as values
//! are plain: literals, concatenation, constants defined earlier, the environment, `if`s with a
//! known condition. Everything else makes the values unknown that it may change; nothing is
//! guessed: **a wrong secret is worse than an error.** Nothing is executed; what remains unknown is
//! left to PHP (`wp-jwt-sidecar import`).
//!
//! - The sidecar's environment stands for PHP's. A variable that is missing there has the default
//!   that the file itself gives it (`getenv('X') ?: 'd'`, `$_ENV['X'] ?? 'd'`, `getenv_docker('X',
//!   'd')`); without a default its value is unknown, and so is an `if` that depends on it.
//! - Files included by a known path are read as well. Once code has run that is not read (another
//!   file, a function or method of the site, or one of PHP's that may call them), constants defined
//!   afterwards and variables are unknown: that code may have defined them before, or may still
//!   change them.
//! - Code that may or may not run is skipped: what it names becomes unknown.
//! - Reading ends where `wp-settings.php` is loaded; only plugins see later definitions.

mod call;
mod code;
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

use code::Code;
use environment::{DockerText, Taken};
use scope::Scope;
use value::Value;
pub use value::{Doubt, Scalar};

/// Reads a configuration file. `path` is its path with symbolic links resolved, as in `__FILE__`;
/// `root` is WordPress's own directory, which contains `wp-load.php`, if known.
///
/// # Errors
/// The file is too large or too complex, or is not valid PHP up to the place where it loads
/// WordPress.
pub fn read(
    path: &Path,
    source: &[u8],
    root: Option<&Path>,
    surroundings: &Surroundings<'_>,
) -> Result<WpConfig, WpConfigError> {
    let mut reader = Reader::new(root, surroundings);
    reader.read_source(path, source)?;
    Ok(WpConfig { scope: reader.scope, late: reader.late, taken: reader.taken })
}

/// Access to the environment and to other files.
pub struct Surroundings<'a> {
    /// The bytes of an environment variable.
    pub environment: &'a dyn Fn(&str) -> Option<OsString>,
    /// The contents of a file.
    pub read_file: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// The path without symbolic links; an error if there is no such file.
    pub canonicalize: &'a dyn Fn(&Path) -> io::Result<PathBuf>,
}

/// The definitions of a configuration file.
pub struct WpConfig {
    scope: Scope,
    late: Scope,
    taken: Taken,
}

impl WpConfig {
    /// The constant's value at the end; its name is case-sensitive, as in PHP 8.
    pub fn constant(&self, name: &str) -> Lookup<'_> {
        if let Some((value, line)) = self.scope.constant(name).or_else(|| self.late.constant(name)) {
            return Lookup::of(value, *line);
        }
        // The plugin reads its constants when it serves a request.
        let doubt = self.late.lost.as_ref().filter(|_| name.starts_with("JWT_AUTH_") && self.scope.lost.is_none());
        doubt.cloned().map_or(Lookup::NotDefined, Lookup::Unknown)
    }

    /// `$table_prefix`
    pub fn table_prefix(&self) -> Lookup<'_> {
        match (&self.scope.lost, self.scope.variables.get("table_prefix")) {
            (Some(doubt), _) => Lookup::Unknown(doubt.clone()),
            (None, value) => value.map_or(Lookup::NotDefined, |value| Lookup::of(value, 0)),
        }
    }

    /// Assumptions about PHP's environment, in sentences without values.
    pub fn assumed(&self) -> Vec<String> {
        self.taken.sentences()
    }

    /// Why a constant that is not defined may still be: a file that was not read, for instance.
    /// `None` if everything is known.
    pub fn incomplete(&self) -> Option<&Doubt> {
        self.scope.lost.as_ref()
    }
}

/// What is known of a constant.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// Nothing that was read defines it.
    NotDefined,
    /// Its value, and the line that defines it (0 for a variable, and for what WordPress itself
    /// defines).
    Known(&'a Scalar, usize),
    /// It may have a value, which only PHP can compute.
    Unknown(Doubt),
}

impl<'a> Lookup<'a> {
    fn of(value: &'a Value, line: usize) -> Self {
        match value {
            Value::Known(scalar) | Value::InEnv(scalar, _) => Self::Known(scalar, line),
            Value::Unset(_, _, doubt) | Value::Unknown(doubt) => Self::Unknown(doubt.clone()),
        }
    }
}

/// Why a configuration file cannot be read at all. The fault is the file's, or this parser's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WpConfigError {
    /// It is not valid PHP, or the parser does not know the syntax.
    #[error("line {line} is not understood as PHP")]
    Syntax {
        /// The first such line, from 1.
        line: usize,
    },
    /// More than [`SIZE_LIMIT`] in all files.
    #[error("it is larger than {} KiB, with the files it includes", SIZE_LIMIT / 1024)]
    TooLarge,
    /// Nested more deeply than any reasonable file.
    #[error("line {line} is nested too deeply")]
    TooDeep {
        /// The line, from 1.
        line: usize,
    },
    #[error("it takes too long to parse")]
    TooSlow,
}

/// The most bytes of PHP that are read, including those of included files.
pub const SIZE_LIMIT: usize = 1 << 20;
/// Nested statements and expressions; each costs stack.
const DEPTH_LIMIT: usize = 150;

/// How evaluation continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// With the next statement.
    On,
    /// This file ends here.
    Return,
    /// WordPress is loaded: only plugins see later definitions.
    Loaded,
    /// The request ends here (`exit`, `throw`).
    Gone,
    /// This file cannot be read.
    Failed(WpConfigError),
}

/// Evaluates the files.
struct Reader<'a> {
    surroundings: &'a Surroundings<'a>,
    flow: Flow,
    scope: Scope,
    /// What code after wp-settings.php may change.
    late: Scope,
    depth: usize,
    bytes_left: usize,
    /// The resolved paths of the current files, innermost last.
    files: Vec<PathBuf>,
    /// Resolved paths of the files that were read.
    included: BTreeSet<PathBuf>,
    /// Functions that the files declare, in lower case: their code is not evaluated.
    functions: HashSet<String>,
    /// `getenv_docker()`, if a file declares it.
    docker: Option<DockerText>,
    taken: Taken,
    /// WordPress's directory.
    root: Option<PathBuf>,
}

impl<'a> Reader<'a> {
    fn new(root: Option<&Path>, surroundings: &'a Surroundings<'a>) -> Self {
        // wp-load.php defines it, from its own directory, before it includes wp-config.php.
        let abspath = match root.and_then(Path::to_str) {
            Some(root) => Value::Known(Scalar::text(format!("{}/", root.trim_end_matches('/')))),
            None => Value::Unknown(Doubt::elsewhere(
                "leaves ABSPATH open: there is no wp-load.php beside the file; give the path of wp-config.php below \
                 WordPress's root",
            )),
        };
        let mut scope = Scope::default();
        scope.define("ABSPATH", abspath, 0);
        Self {
            surroundings,
            flow: Flow::On,
            scope,
            late: Scope::default(),
            depth: 0,
            bytes_left: SIZE_LIMIT,
            files: Vec::new(),
            included: BTreeSet::new(),
            functions: HashSet::new(),
            docker: None,
            taken: Taken::default(),
            root: root.map(Path::to_owned),
        }
    }

    /// Parses and evaluates one file. Its constants and variables are put into the scope.
    fn read_source(&mut self, path: &Path, source: &[u8]) -> Result<(), WpConfigError> {
        self.bytes_left = self.bytes_left.checked_sub(source.len()).ok_or(WpConfigError::TooLarge)?;
        let tree = code::parse(source)?;
        self.files.push(path.to_owned());
        self.included.insert(path.to_owned());
        self.run_program(Code::of(&tree, source));
        self.files.pop();
        match self.flow {
            Flow::Failed(error) => {
                self.flow = Flow::On;
                return Err(error);
            }
            Flow::Return => self.flow = Flow::On,
            Flow::On | Flow::Loaded | Flow::Gone => {}
        }
        Ok(())
    }

    /// SECURITY: evaluation is recursive; this limits the depth, whatever the file contains.
    fn nested<T>(&mut self, code: Code<'_>, otherwise: T, walk: impl FnOnce(&mut Self) -> T) -> T {
        if self.depth >= DEPTH_LIMIT {
            self.flow = Flow::Failed(WpConfigError::TooDeep { line: code.line() });
        }
        if let Flow::Failed(_) = self.flow {
            return otherwise;
        }
        self.depth += 1;
        let result = walk(self);
        self.depth -= 1;
        result
    }

    fn doubt(&self, code: Code<'_>, why: &str) -> Doubt {
        let file = self.files.last().filter(|_| self.files.len() > 1).and_then(|file| file.file_name());
        let file = file.map(|name| format!(" of {}", name.to_string_lossy())).unwrap_or_default();
        Doubt::at(&format!("line {}{file}", code.line()), why)
    }

    fn unknown(&self, code: Code<'_>, why: &str) -> Value {
        Value::Unknown(self.doubt(code, why))
    }

    /// Unknown, and so is everything that the code may change.
    fn not_read(&mut self, code: Code<'_>, why: &str) -> Value {
        let doubt = self.doubt(code, why);
        self.touch(code, &doubt);
        Value::Unknown(doubt)
    }

    /// Unknown, and so is everything from here on: code that is not read has run, or may have.
    fn lose(&mut self, code: Code<'_>, why: &str) -> Value {
        let doubt = self.doubt(code, why);
        self.touch(code, &doubt);
        self.scope.lose(&doubt);
        Value::Unknown(doubt)
    }
}

#[cfg(test)]
mod tests;
