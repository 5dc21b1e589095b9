//! The environment: `getenv()` and `putenv()`, `$_ENV`, and the Docker image's `getenv_docker()`.
//!
//! PHP has two stores. `getenv()` asks the process, and `putenv()` changes that alone; `$_ENV` is
//! an array, filled once or, without an `E` in `variables_order` (as on Debian), never.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use tree_sitter::Node;

use super::expression::{printable, subscript, variable_name};
use super::value::{Assumed, Scalar, Value};
use super::{Reader, text};

/// Where PHP looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Store {
    /// `getenv()`
    Process,
    /// `$_ENV`
    Array,
}

impl Store {
    fn shown(self) -> &'static str {
        match self {
            Self::Process => "getenv()",
            Self::Array => "$_ENV",
        }
    }

    /// What PHP makes of a variable that is not set.
    pub(super) fn absent(self) -> Scalar {
        match self {
            Self::Process => Scalar::Boolean(false),
            Self::Array => Scalar::Null,
        }
    }

    pub(super) fn key(self, name: &str) -> String {
        format!("{} {name}", self.shown())
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
        let all = [(true, false), (false, false), (false, true), (true, true)];
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
    const NAMES: [&str; 9] = [
        "HTTPS",
        "DOCUMENT_ROOT",
        "DOCUMENT_URI",
        "QUERY_STRING",
        "PHP_SELF",
        "GATEWAY_INTERFACE",
        "AUTH_TYPE",
        "FCGI_ROLE",
        "UNIQUE_ID",
    ];
    const STARTS: [&str; 10] = [
        "HTTP_",
        "SERVER_",
        "REQUEST_",
        "REMOTE_",
        "SCRIPT_",
        "PATH_",
        "CONTENT_",
        "CONTEXT_",
        "REDIRECT_",
        "PHP_AUTH_",
    ];
    NAMES.contains(&name) || STARTS.iter().any(|start| name.starts_with(start))
}

impl Reader<'_> {
    pub(super) fn evaluate_subscript(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let (base, key) = subscript(node);
        let name = base.filter(|base| base.kind() == "variable_name").and_then(|base| variable_name(base, source));
        if let (None, Some(base)) = (&name, base) {
            self.evaluate(base, source);
        }
        let key = key.map(|key| self.evaluate(key, source));
        match (name.as_deref(), key.as_ref().and_then(Value::known_text)) {
            (Some("_ENV"), Some(name)) => self.environment_value(node, Store::Array, name),
            (Some(base), key) => {
                let base = printable(base);
                let key = key.map_or_else(|| "…".to_owned(), |key| format!("'{}'", printable(key)));
                self.unknown(node, format!("depends on ${base}[{key}], which only PHP knows"))
            }
            _ => self.unknown(node, "has a value that only PHP can compute"),
        }
    }

    pub(super) fn environment_value(&mut self, node: Node<'_>, store: Store, name: &str) -> Value {
        let shown = printable(name);
        let of_request = is_of_request(name).then(|| {
            self.unknown(node, format!("depends on {shown} from {}, which the request may set", store.shown()))
        });
        match (self.scope.environment(&store.key(name)), store, of_request) {
            (Err(doubt), ..) => return Value::Unknown(doubt.clone()),
            // putenv() does not change these: getenv() asks the server first.
            (_, Store::Process, Some(unknown)) => return unknown,
            (Ok(Some(value)), ..) => return value.clone(),
            (Ok(None), _, Some(unknown)) => return unknown,
            (Ok(None), _, None) => {}
        }
        match ((self.surroundings.environment)(name).map(OsString::into_vec), store) {
            (Some(value), Store::Process) => Value::Known(Scalar::Text(value)),
            (Some(value), Store::Array) => {
                self.assumptions.took_from_array(self.place(node), name);
                let why = format!("decides by $_ENV['{shown}'], which PHP may leave empty (variables_order)");
                Value::FromEnv(Scalar::Text(value), self.doubt(node, why))
            }
            (None, _) => Value::Assumed(Assumed {
                scalar: store.absent(),
                variable: name.to_owned(),
                itself: true,
                doubt: self
                    .doubt(node, format!("takes it from {}, and the environment here has no {shown}", store.shown())),
            }),
        }
    }

    pub(super) fn call_getenv(&mut self, node: Node<'_>, name: &Value) -> Value {
        match name.known_text() {
            Some(name) => self.environment_value(node, Store::Process, name),
            None => self.unknown(node, "takes a variable from the environment whose name only PHP knows"),
        }
    }

    /// `X_FILE` names a file with the value, else `X`, else the default.
    pub(super) fn call_getenv_docker(&mut self, node: Node<'_>, name: &Value, default: &Value) -> Value {
        let (Some(name), Some(docker)) = (name.known_text(), self.docker) else {
            return self.unknown(node, "takes a variable from the environment whose name only PHP knows");
        };
        match self.environment_value(node, Store::Process, &format!("{name}_FILE")) {
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
            Value::Known(_) | Value::Assumed(_) => {}
            Value::FromEnv(_, doubt) | Value::Unknown(doubt) => return Value::Unknown(doubt),
        }
        match self.environment_value(node, Store::Process, name) {
            Value::Assumed(_) => {
                self.assumptions.took_default(self.place(node), name);
                default.clone()
            }
            Value::Known(value) if value == Scalar::Boolean(false) || docker.needs_truth && !value.is_true() => {
                default.clone()
            }
            value => value,
        }
    }

    /// SECURITY: a device named in the environment would block, and one below /proc holds what only this process has.
    pub(super) fn small_file(&self, path: &Path) -> Result<Vec<u8>, String> {
        match (self.surroundings.read_file)(path) {
            Ok(content) if content.len() <= 64 * 1024 => Ok(content),
            Ok(_) => Err("it is larger than 64 KiB".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}
