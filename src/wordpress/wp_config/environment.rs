//! The environment: `getenv()`, `$_ENV`, and the Docker image's `getenv_docker()`.
//!
//! PHP has two stores. `getenv()` asks the process; `$_ENV` is an array, filled once or, without an `E` in `variables_order` (as on
//! Debian), never. What a file changes of either is not followed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use tree_sitter::Node;

use super::expression::printable;
use super::value::{Scalar, Value};
use super::{Reader, text};

/// The two, as errors call them.
pub(super) const ARRAY: &str = "$_ENV";
pub(super) const PROCESS: &str = "getenv()";

/// What is taken for granted about PHP's environment. An operator can compare the two.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Variables that are not set here, so that the file's own default counts.
    defaults: BTreeSet<String>,
    /// Those that PHP has in `$_ENV` if it fills it.
    array: BTreeSet<String>,
}

impl Taken {
    /// In words, without values.
    pub(super) fn sentences(&self) -> Vec<String> {
        let listed = |names: &BTreeSet<String>| names.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ");
        let defaults = (!self.defaults.is_empty()).then(|| {
            format!(
                "the file's own defaults, since these are not in the sidecar's environment: {}",
                listed(&self.defaults)
            )
        });
        let array = (!self.array.is_empty()).then(|| {
            format!("that PHP fills $_ENV (an E in variables_order), of which are used: {}", listed(&self.array))
        });
        defaults.into_iter().chain(array).collect()
    }
}

/// `getenv_docker()` as the official Docker image declares it. Its texts of December 2020 to March 2021 differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DockerText {
    /// Line ends are cut off what a file holds.
    trims: bool,
    /// An empty variable, and `0`, is as good as none.
    needs_truth: bool,
}

impl DockerText {
    /// `None` if the declaration is another one, which is not followed.
    pub(super) fn of(declaration: Node<'_>, source: &[u8]) -> Option<Self> {
        // White space counts in strings alone. None of the texts has a quote within a string.
        let mut quote = None;
        let counts = |byte: &u8| {
            match (quote, byte) {
                (None, b'\'' | b'"') => quote = Some(*byte),
                (Some(open), byte) if open == *byte => quote = None,
                _ => {}
            }
            quote.is_some() || !byte.is_ascii_whitespace()
        };
        let words: Vec<u8> = text(declaration, source).iter().copied().filter(counts).collect();
        let all = [(true, false), (false, false), (false, true)];
        all.map(|(trims, needs_truth)| Self { trims, needs_truth }).into_iter().find(|it| it.words() == words)
    }

    fn words(self) -> Vec<u8> {
        let file =
            if self.trims { r#"rtrim(file_get_contents($fileEnv),"\r\n")"# } else { "file_get_contents($fileEnv)" };
        let is_set = if self.needs_truth { "$val=getenv($env)" } else { "($val=getenv($env))!==false" };
        format!("functiongetenv_docker($env,$default){{if($fileEnv=getenv($env.'_FILE')){{return{file};}}elseif({is_set}){{return$val;}}else{{return$default;}}}}").into_bytes()
    }
}

/// Whether FPM and mod_php answer for the variable from the request, whatever the process has (`sapi_getenv()`).
fn is_of_request(name: &str) -> bool {
    const NAMES: &str =
        "HTTPS DOCUMENT_ROOT DOCUMENT_URI QUERY_STRING PHP_SELF GATEWAY_INTERFACE AUTH_TYPE FCGI_ROLE UNIQUE_ID";
    const STARTS: &str = "HTTP_ SERVER_ REQUEST_ REMOTE_ SCRIPT_ PATH_ CONTENT_ CONTEXT_ REDIRECT_ PHP_AUTH_";
    NAMES.split(' ').any(|known| known == name) || STARTS.split(' ').any(|start| name.starts_with(start))
}

impl Reader<'_> {
    /// A variable of the environment, from `$_ENV` or from the process.
    pub(super) fn variable_of_environment(&mut self, node: Node<'_>, name: &str, in_array: bool) -> Value {
        let (shown, store) = (printable(name), if in_array { ARRAY } else { PROCESS });
        // What changes one of the two as a whole hides it as a variable of that name.
        match self.scope.variable(store) {
            Ok(None) => {}
            Ok(Some(hidden)) => return hidden.clone(),
            Err(doubt) => return Value::Unknown(doubt.clone()),
        }
        if is_of_request(name) {
            return self.unknown(node, format!("depends on {shown} from {store}, which the request may set"));
        }
        match ((self.surroundings.environment)(name).map(OsString::into_vec), in_array) {
            (Some(value), false) => Value::Known(Scalar::Text(value)),
            (Some(value), true) => {
                self.taken.array.insert(name.to_owned());
                let why = format!("decides by $_ENV['{shown}'], which PHP may leave empty (variables_order)");
                Value::InEnv(Scalar::Text(value), self.doubt(node, why))
            }
            (None, _) => {
                let why = format!("takes it from {store}, and the environment here has no {shown}");
                let absent = if in_array { Scalar::Null } else { Scalar::Boolean(false) };
                Value::Unset(absent, name.to_owned(), self.doubt(node, why))
            }
        }
    }

    pub(super) fn call_getenv(&mut self, node: Node<'_>, name: &Value) -> Value {
        match name.known_text() {
            Some(name) => self.variable_of_environment(node, name, false),
            None => self.unknown(node, "takes a variable from the environment whose name only PHP knows"),
        }
    }

    /// The file's default stands for a variable that is not set.
    pub(super) fn take_default(&mut self, variable: &str) {
        self.taken.defaults.insert(variable.to_owned());
    }

    /// `X_FILE` names a file with the value, else `X`, else the default.
    pub(super) fn call_getenv_docker(&mut self, node: Node<'_>, name: &Value, default: &Value) -> Value {
        let (Some(name), Some(docker)) = (name.known_text(), self.docker) else {
            return self.unknown(node, "takes a variable from the environment whose name only PHP knows");
        };
        match self.variable_of_environment(node, &format!("{name}_FILE"), false) {
            Value::Known(path) if path.is_true() => {
                let path = String::from_utf8_lossy(&path.to_bytes()).into_owned();
                return match self.small_file(Path::new(&path)) {
                    Ok(content) => {
                        let is_end = |byte: &u8| docker.trims && matches!(byte, b'\r' | b'\n');
                        let end = content.iter().rposition(|byte| !is_end(byte)).map_or(0, |last| last + 1);
                        Value::Known(Scalar::Text(content.get(..end).unwrap_or_default().to_vec()))
                    }
                    Err(error) => self
                        .unknown(node, format!("takes it from the file that {}_FILE names: {error}", printable(name))),
                };
            }
            Value::Known(_) | Value::Unset(..) => {}
            other => return other,
        }
        match self.variable_of_environment(node, name, false) {
            Value::Unset(..) => {
                self.take_default(name);
                default.clone()
            }
            Value::Known(value) if docker.needs_truth && !value.is_true() => default.clone(),
            value => value,
        }
    }

    /// SECURITY: a device named in the environment would block, and one below /proc holds what only this process has.
    fn small_file(&self, path: &Path) -> Result<Vec<u8>, String> {
        match (self.surroundings.read_file)(path) {
            Ok(content) if content.len() <= 64 * 1024 => Ok(content),
            Ok(_) => Err("it is larger than 64 KiB".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}
