//! Flags, environment, file and defaults, merged: **flag > environment > file > default**, for
//! every key. Only this file implements that order.
//!
//! A value of the wrong type is a fault even if a stronger source overrides it: the mistake would
//! take effect on the day when the other is removed.

use std::{ffi::OsString, fmt, path::PathBuf};

use super::{
    Fault, credential,
    fault::nearest,
    file,
    keys::{Fallback, KEYS, Key, VARIABLE_PREFIX},
    kind::{Kind, Value},
    merged::Merged,
};

/// The sources of a configuration.
#[derive(Clone, Default)]
pub struct Sources {
    /// The flags of the command line, in order.
    pub flags: Vec<Flag>,
    /// The whole environment; variables without the prefix `WP_JWT_SIDECAR_` are ignored.
    pub environment: Vec<(OsString, OsString)>,
    /// The file of `--config`. It must exist.
    pub file: Option<PathBuf>,
    /// The file to read if neither `--config` nor `WP_JWT_SIDECAR_CONFIG` names one. It need not
    /// exist.
    pub default_file: Option<PathBuf>,
}

// SECURITY: the environment contains secrets, the sidecar's and others'.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flags, environment: _, file, default_file } = self;
        let mut sources = f.debug_struct("Sources");
        sources.field("flags", flags).field("file", file).field("default_file", default_file).finish_non_exhaustive()
    }
}

/// One flag of the command line. `Debug` shows no text, although secrets cannot occur here.
#[derive(Clone)]
pub struct Flag {
    /// The key that it sets.
    pub key: &'static Key,
    /// Its text; `None` for a secret key, whose flag is refused.
    pub text: Option<String>,
}

impl fmt::Debug for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{}", self.key.flag())
    }
}

/// Which source set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Flag(&'static str),
    Variable(String),
    File { path: PathBuf, line: usize },
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "--{flag}"),
            Self::Variable(name) => f.write_str(name),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A key with a value of its type. No `Debug`: the value may be a secret.
pub(super) struct Assignment {
    pub key: &'static Key,
    pub value: Value,
    /// The value as it would be written in the file; `None` for a secret.
    pub written: Option<String>,
    pub origin: Origin,
}

impl Assignment {
    /// The value, if it could be read as the key's type; otherwise the fault.
    pub fn new(key: &'static Key, origin: Origin, written: &str, value: Result<Value, String>) -> Result<Self, Fault> {
        let written = match &value {
            // For `[[jwt.claim]]` the file has no single text.
            Ok(Value::Tables(tables)) => Some(showable(key.kind, &tables.to_string())),
            _ => (!key.kind.is_secret()).then(|| showable(key.kind, written)),
        };
        match value {
            Ok(value) => Ok(Self { key, value, written, origin }),
            Err(problem) => {
                Err(Fault { key: key.name.into(), place: Some(origin.to_string()), value: written, problem })
            }
        }
    }

    fn from_text(key: &'static Key, origin: Origin, text: &str) -> Result<Self, Fault> {
        Self::new(key, origin, &key.kind.toml(text), key.kind.read_text(text))
    }

    /// A fault of this value.
    pub fn fault(&self, problem: impl Into<String>) -> Fault {
        let place = (self.origin != Origin::Default).then(|| self.origin.to_string());
        Fault { key: self.key.name.into(), place, value: self.written.clone(), problem: problem.into() }
    }
}

/// Reads all sources, and lets the stronger override the weaker.
pub(super) fn merge(sources: &Sources) -> Merged {
    let credentials = sources.environment.iter().find(|(name, _)| name.to_str() == Some(credential::DIRECTORY));
    let credentials = credentials.map(|(_, directory)| PathBuf::from(directory));
    let mut merged = Merged { said: Vec::new(), faults: Vec::new(), warnings: Vec::new(), complete: true, credentials };
    for key in KEYS {
        if let Fallback::Is(text) = key.default {
            merged.take(Assignment::from_text(key, Origin::Default, text));
        }
    }
    merged.take_file(sources);
    merged.take_environment(&sources.environment);
    merged.take_flags(&sources.flags);
    merged.said.sort_by_key(|said| KEYS.iter().position(|key| key.name == said.key.name));
    merged
}

impl Merged {
    /// Later calls override earlier ones.
    fn take(&mut self, result: Result<Assignment, Fault>) {
        match result {
            Ok(said) => {
                self.said.retain(|earlier| earlier.key.name != said.key.name);
                self.said.push(said);
            }
            Err(fault) => self.faults.push(fault),
        }
    }

    fn take_file(&mut self, sources: &Sources) {
        let variable = sources.environment.iter().find(|(name, _)| name.to_str() == Some(CONFIG_VARIABLE));
        let (path, place) = match (&sources.file, variable, &sources.default_file) {
            (Some(path), _, _) => (path.clone(), Some("--config")),
            (None, Some((_, path)), _) => (PathBuf::from(path), Some(CONFIG_VARIABLE)),
            // Only a missing file is ignored: an unreadable default file is a fault, since its
            // settings would have no effect.
            (None, None, Some(path)) if std::fs::exists(path).unwrap_or(true) => (path.clone(), None),
            _ => return,
        };
        match file::read(&path) {
            Ok(text) => {
                let contents = file::contents(&text, &path);
                self.complete = contents.parsed;
                self.faults.extend(contents.faults);
                contents.said.into_iter().for_each(|said| self.take(Ok(said)));
            }
            Err(problem) => {
                self.complete = false;
                self.faults
                    .push(Fault { place: place.map(str::to_owned), ..wrong(path.display().to_string(), problem) });
            }
        }
    }

    fn take_environment(&mut self, environment: &[(OsString, OsString)]) {
        let mut ours: Vec<_> = environment
            .iter()
            .filter_map(|(name, text)| Some((name.to_str()?, text)))
            .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX) && *name != CONFIG_VARIABLE && !is_service_link(name))
            .collect();
        // An environment has no meaningful order; the faults should have the same order at each
        // start.
        ours.sort();
        for (name, text) in ours {
            let Some(key) = KEYS.iter().find(|key| key.variable() == name) else {
                self.faults.push(unknown_variable(name));
                continue;
            };
            let origin = Origin::Variable(name.to_owned());
            self.take(match text.to_str() {
                Some(text) => Assignment::from_text(key, origin, text),
                None => Assignment::new(key, origin, "(not UTF-8)", Err("is not UTF-8 text".into())),
            });
        }
    }

    fn take_flags(&mut self, flags: &[Flag]) {
        for key in KEYS {
            let origin = Origin::Flag(key.flag());
            let texts: Vec<&Flag> = flags.iter().filter(|flag| flag.key.name == key.name).collect();
            match (texts.last(), key.kind) {
                (None, _) => {}
                // SECURITY: every user of the machine can read a command line (ps), and shells keep
                // it.
                (Some(_), Kind::Secret) => {
                    let problem = format!(
                        "not taken from the command line, which others can read; use {} or the file",
                        key.variable()
                    );
                    self.take(Assignment::new(key, origin, "", Err(problem)));
                }
                (Some(_), Kind::List(_)) => {
                    let all: Vec<&str> = texts.iter().filter_map(|flag| flag.text.as_deref()).collect();
                    self.take(Assignment::from_text(key, origin, &all.join(",")));
                }
                (Some(last), _) => {
                    self.take(Assignment::from_text(key, origin, last.text.as_deref().unwrap_or_default()))
                }
            }
        }
    }
}

/// The variable that names the configuration file if `--config` does not.
pub const CONFIG_VARIABLE: &str = "WP_JWT_SIDECAR_CONFIG";

/// A fault without place and value.
pub(super) fn wrong(key: impl Into<String>, problem: impl Into<String>) -> Fault {
    Fault { key: key.into(), problem: problem.into(), ..Fault::default() }
}

// SECURITY: the text is not quoted, since it may be a secret under a misspelt name.
fn unknown_variable(name: &str) -> Fault {
    let variables: Vec<String> = KEYS.iter().map(Key::variable).chain([CONFIG_VARIABLE.to_owned()]).collect();
    let problem = match nearest(name, variables.iter().map(String::as_str)) {
        Some(variable) => format!("no such variable; perhaps {variable}"),
        None => format!(
            "no such variable; they are {VARIABLE_PREFIX}SECTION_KEY, by the sections and keys of config.example.toml"
        ),
    };
    wrong(name.escape_debug().to_string(), problem)
}

/// Kubernetes gives every pod variables about each service of its namespace (`NAME_SERVICE_HOST`,
/// `NAME_PORT_80_TCP_ADDR`, …); a service called wp-jwt-sidecar must not keep the program from
/// starting.
fn is_service_link(name: &str) -> bool {
    match name.strip_prefix(VARIABLE_PREFIX) {
        Some("SERVICE_HOST" | "SERVICE_PORT" | "PORT") => true,
        Some(rest) => {
            let port = rest.strip_prefix("PORT_").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            port || rest.starts_with("SERVICE_PORT_")
        }
        None => false,
    }
}

/// A value as it may be shown: on one line, shortened, and without the user name and password of a
/// URL.
fn showable(kind: Kind, written: &str) -> String {
    let mut text = written.to_owned();
    // SECURITY: a key that is not secret refuses credentials in a URL, but the fault quotes the
    // URL.
    if let (Kind::Text(_) | Kind::List(_), Some(at)) = (kind, written.rfind('@')) {
        let start = written.find("://").map(|scheme| scheme + 3).filter(|start| *start < at).unwrap_or(0);
        text = format!("{}…{}", written.get(..start).unwrap_or_default(), written.get(at..).unwrap_or_default());
    }
    if text.chars().any(char::is_control) {
        let spaced: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        text = spaced.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    match text.char_indices().nth(200) {
        Some((cut, _)) => format!("{}…", text.get(..cut).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_looks_like_a_service_link() {
        for key in KEYS {
            assert!(!is_service_link(&key.variable()), "{}", key.name);
        }
        for name in ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR"] {
            assert!(is_service_link(&format!("{VARIABLE_PREFIX}{name}")), "{name}");
        }
        assert!(!is_service_link("WP_JWT_SIDECAR_PORTS"));
    }

    #[test]
    fn what_is_shown_is_short_and_without_credentials() {
        let text = Kind::Text("URL");
        assert_eq!(showable(text, "\"http://u:hunter2@h/x\""), "\"http://…@h/x\"");
        assert_eq!(showable(text, "\"u:hunter2@h\""), "…@h\"");
        assert_eq!(showable(text, "u@h://x"), "…@h://x");
        assert_eq!(showable(Kind::List("X"), "[\n  \"a\",\n  \"b\",\n]"), "[ \"a\", \"b\", ]");
        assert_eq!(showable(Kind::Path, "\"/a@b\""), "\"/a@b\"");
        assert_eq!(showable(text, &"ä".repeat(1000)).chars().count(), 201);
    }
}
