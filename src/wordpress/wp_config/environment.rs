//! The environment: `getenv()`, `$_ENV`, and the Docker image's `getenv_docker()`.
//!
//! PHP has two stores. `getenv()` reads the process's environment; `$_ENV` is an array that is
//! filled once, or never without an `E` in `variables_order` (as on Debian). Changes that a file
//! makes to either are not followed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use super::Reader;
use super::code::Code;
use super::value::{Doubt, Scalar, Value};

/// The process's store. Code that changes one of the two as a whole shadows it as a variable of
/// this name.
pub(super) const PROCESS: &str = "getenv()";

/// Assumptions about PHP's environment, which an operator can check.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Variables that are not set here, so that the file's own default is used.
    pub(super) defaults: BTreeSet<String>,
    /// Variables that PHP has in `$_ENV` if it fills it.
    array: BTreeSet<String>,
}

impl Taken {
    /// As sentences, without values.
    pub(super) fn sentences(&self) -> Vec<String> {
        let kinds = [
            ("the file's own defaults, since these are not in the sidecar's environment", &self.defaults),
            ("that PHP fills $_ENV (an E in variables_order), of which are used", &self.array),
        ];
        let used = kinds.into_iter().filter(|(_, names)| !names.is_empty());
        used.map(|(what, names)| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            Doubt::elsewhere(&format!("{what}: {}", names.join(", "))).to_string()
        })
        .collect()
    }
}

/// `getenv_docker()` as the official Docker image declares it. Its versions from December 2020 to
/// March 2021 differ.
#[derive(Debug, Clone, Copy)]
pub(super) struct DockerText {
    /// Whether line ends are removed from a file's contents.
    trims: bool,
    /// Whether an empty variable, and `0`, counts as missing.
    needs_truth: bool,
}

impl DockerText {
    /// `None` if the declaration is a different one, which is not evaluated.
    pub(super) fn of(declaration: Code<'_>) -> Option<Self> {
        let text = declaration.text();
        let words: String = text.split_ascii_whitespace().collect();
        let all = [(true, false), (false, false), (false, true)];
        let it =
            all.map(|(trims, needs_truth)| Self { trims, needs_truth }).into_iter().find(|it| it.words() == words)?;
        // White space matters within strings.
        (text.contains("'_FILE'") && (!it.trims || text.contains(r#""\r\n""#))).then_some(it)
    }

    fn words(self) -> String {
        let file =
            if self.trims { r#"rtrim(file_get_contents($fileEnv),"\r\n")"# } else { "file_get_contents($fileEnv)" };
        let is_set = if self.needs_truth { "$val=getenv($env)" } else { "($val=getenv($env))!==false" };
        format!(
            "functiongetenv_docker($env,$default){{if($fileEnv=getenv($env.'_FILE')){{return{file};}}\
             elseif({is_set}){{return$val;}}else{{return$default;}}}}"
        )
    }
}

/// Whether FPM and mod_php read the variable from the request rather than the process
/// (`sapi_getenv()`).
fn is_of_request(name: &str) -> bool {
    const NAMES: &str =
        "HTTPS DOCUMENT_ROOT DOCUMENT_URI QUERY_STRING PHP_SELF GATEWAY_INTERFACE AUTH_TYPE FCGI_ROLE UNIQUE_ID";
    const STARTS: &str = "HTTP_ SERVER_ REQUEST_ REMOTE_ SCRIPT_ PATH_ CONTENT_ CONTEXT_ REDIRECT_ PHP_AUTH_";
    NAMES.split(' ').any(|known| known == name) || STARTS.split(' ').any(|start| name.starts_with(start))
}

impl Reader<'_> {
    /// An environment variable, from `$_ENV` or from the process.
    pub(super) fn variable_of_environment(&mut self, code: Code<'_>, name: &str, in_array: bool) -> Value {
        let (store, variable) = if in_array { ("$_ENV", "_ENV") } else { (PROCESS, PROCESS) };
        if let Some(hidden) = self.scope.variable(variable) {
            return hidden;
        }
        if is_of_request(name) {
            return self.unknown(code, &format!("depends on {name} from {store}, which the request may set"));
        }
        match ((self.surroundings.environment)(name).map(OsString::into_vec), in_array) {
            (Some(value), false) => Value::Known(Scalar::Text(value)),
            (Some(value), true) => {
                self.taken.array.insert(name.to_owned());
                let why = format!("decides by $_ENV['{name}'], which PHP may leave empty (variables_order)");
                Value::InEnv(Scalar::Text(value), self.doubt(code, &why))
            }
            (None, _) => {
                let why = format!("takes it from {store}, and the environment here has no {name}");
                let absent = if in_array { Scalar::Null } else { Scalar::Boolean(false) };
                Value::Unset(absent, name.to_owned(), self.doubt(code, &why))
            }
        }
    }

    pub(super) fn call_getenv(&mut self, code: Code<'_>, name: &Value) -> Value {
        match name.known_text() {
            Some(name) => self.variable_of_environment(code, name, false),
            None => self.unknown(code, "takes a variable from the environment whose name only PHP knows"),
        }
    }

    /// `X_FILE` names a file with the value, otherwise `X` is the value, otherwise the default.
    pub(super) fn call_getenv_docker(&mut self, code: Code<'_>, name: &Value, default: &Value) -> Value {
        let (Some(name), Some(docker)) = (name.known_text(), self.docker) else {
            return self.unknown(code, "takes a variable from the environment whose name only PHP knows");
        };
        match self.variable_of_environment(code, &format!("{name}_FILE"), false) {
            Value::Known(path) if path.is_true() => return self.secret_in_file(code, name, &path, docker),
            Value::Known(_) | Value::Unset(..) => {}
            other => return other,
        }
        match self.variable_of_environment(code, name, false) {
            Value::Unset(..) => {
                self.taken.defaults.insert(name.to_owned());
                default.clone()
            }
            Value::Known(value) if docker.needs_truth && !value.is_true() => default.clone(),
            value => value,
        }
    }

    /// SECURITY: `read_file` refuses devices, which would block, and the files below /proc that are
    /// specific to this process.
    fn secret_in_file(&self, code: Code<'_>, name: &str, path: &Scalar, docker: DockerText) -> Value {
        let path = String::from_utf8_lossy(&path.to_bytes()).into_owned();
        match (self.surroundings.read_file)(Path::new(&path)) {
            Ok(mut content) => {
                while docker.trims && content.pop_if(|byte| matches!(byte, b'\r' | b'\n')).is_some() {}
                self.limited(code, content)
            }
            Err(error) => self.unknown(code, &format!("takes it from the file that {name}_FILE names: {error}")),
        }
    }
}
