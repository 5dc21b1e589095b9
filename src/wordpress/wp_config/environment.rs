//! The environment: `getenv()` and `putenv()`, `$_ENV`, and the Docker image's `getenv_docker()`.
//!
//! PHP has two stores. `getenv()` asks the process, and `putenv()` changes that alone; `$_ENV` is
//! an array, filled once or, without an `E` in `variables_order` (as on Debian), never.

use std::path::Path;

use tree_sitter::Node;

use super::expression::{printable, subscript, variable_name};
use super::scope::Kind;
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
    fn absent(self) -> Scalar {
        match self {
            Self::Process => Scalar::Boolean(false),
            Self::Array => Scalar::Null,
        }
    }

    fn key(self, name: &str) -> String {
        format!("{} {name}", self.shown())
    }
}

/// The function of the official Docker image, without white space.
const OFFICIAL_GETENV_DOCKER: &[u8] = br#"functiongetenv_docker($env,$default){if($fileEnv=getenv($env.'_FILE')){returnrtrim(file_get_contents($fileEnv),"\r\n");}elseif(($val=getenv($env))!==false){return$val;}else{return$default;}}"#;

/// Whether a declaration is that of the official Docker image, which is read as if it were PHP's own.
pub(super) fn is_official_getenv_docker(declaration: Node<'_>, source: &[u8]) -> bool {
    let words = text(declaration, source).iter().copied().filter(|byte| !byte.is_ascii_whitespace());
    words.eq(OFFICIAL_GETENV_DOCKER.iter().copied())
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
            (Some(base), _) => {
                let base = printable(base);
                self.unknown(node, format!("depends on ${base}[…], which only PHP knows"))
            }
            _ => self.unknown(node, "has a value that only PHP can compute"),
        }
    }

    pub(super) fn environment_value(&mut self, node: Node<'_>, store: Store, name: &str) -> Value {
        match self.scope.current(Kind::Environment, &store.key(name)) {
            Ok(Some(value)) => return value.clone(),
            Err(doubt) => return Value::Unknown(doubt.clone()),
            Ok(None) => {}
        }
        let shown = printable(name);
        match ((self.surroundings.environment)(name), store) {
            (Some(value), Store::Process) => Value::Known(Scalar::text(value)),
            (Some(value), Store::Array) => {
                self.assumptions.took_from_array(self.place(node), name);
                let why = format!("decides by $_ENV['{shown}'], which PHP may leave empty (variables_order)");
                Value::FromEnv(Scalar::text(value), self.doubt(node, why))
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

    pub(super) fn set_environment(&mut self, store: Store, name: &str, value: Value) {
        let value = self.assigned(value).settled();
        self.scope.bind(Kind::Environment, &store.key(name), value);
    }

    pub(super) fn call_getenv(&mut self, node: Node<'_>, name: &Value) -> Value {
        match name.known_text() {
            Some(name) => self.environment_value(node, Store::Process, name),
            None => self.unknown(node, "takes a variable from the environment whose name only PHP knows"),
        }
    }

    pub(super) fn call_putenv(&mut self, node: Node<'_>, assignment: &Value) -> Value {
        match assignment.known_text().map(|text| text.split_once('=').unwrap_or((text, ""))) {
            Some((name, value)) => {
                // Without `=` the variable is removed.
                let removed = !assignment.known_text().is_some_and(|text| text.contains('='));
                let value = if removed { Store::Process.absent() } else { Scalar::text(value) };
                self.set_environment(Store::Process, name, Value::Known(value));
            }
            None => {
                let doubt = self.doubt(node, "changes the environment in a way that only PHP knows");
                self.scope.forget(Kind::Environment, &doubt);
            }
        }
        Value::boolean(true)
    }

    /// `X_FILE` names a file with the value, else `X`, else the default.
    pub(super) fn call_getenv_docker(&mut self, node: Node<'_>, name: &Value, default: &Value) -> Value {
        let Some(name) = name.known_text() else {
            return self.unknown(node, "takes a variable from the environment whose name only PHP knows");
        };
        match self.environment_value(node, Store::Process, &format!("{name}_FILE")) {
            Value::Known(path) if path.is_true() => {
                let path = String::from_utf8_lossy(&path.to_bytes()).into_owned();
                return match (self.surroundings.read_file)(Path::new(&path)) {
                    Ok(content) => {
                        let end = content.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n'));
                        let end = end.map_or(0, |last| last + 1);
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
            Value::Known(Scalar::Boolean(false)) => default.clone(),
            value => value,
        }
    }
}
