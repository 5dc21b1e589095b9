//! Parses the driver's answer strictly, since it comes from the site's own code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::INSTEAD;
use super::place::Place;
use super::user::Runner;
use crate::printable;
use crate::wordpress::imported::{CONSTANTS, Seen};
use crate::wordpress::wp_config::Scalar;

/// The answer.
pub(super) struct Answer {
    end: End,
    /// PHP's name of its SAPI.
    pub(super) sapi: String,
    /// PHP's version.
    pub(super) php: String,
    error: Option<PhpError>,
    pub(super) constants: BTreeMap<String, Value>,
    pub(super) table_prefix: Option<Value>,
    pub(super) files: Vec<Seen>,
    /// Whether there were more files.
    pub(super) overflow: bool,
    /// Where code asks whether it runs on the command line.
    asks_for_cli: Option<String>,
    /// Where code asks for a web server's SAPI, or may do so.
    asks_for_server: Option<String>,
    /// Where code reads something that differs between processes.
    asks_for_process: Option<String>,
    /// A request variable that putenv() has changed.
    changed: Option<String>,
    /// Where code asks for the request's host.
    asks_for_host: Option<String>,
    /// A constant of the plugin's that is defined after WordPress is loaded.
    late: Option<String>,
}

/// A constant's value.
pub(super) struct Value {
    scalar: Result<Scalar, String>,
    /// The line that probably defines it.
    pub(super) place: Option<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum End {
    Loaded,
    Returned,
    Exit,
    Error,
}

struct PhpError {
    kind: String,
    what: String,
    place: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    end: End,
    sapi: String,
    php: String,
    error: Option<(String, String, String, u64)>,
    constants: BTreeMap<String, (String, String, String)>,
    table_prefix: Option<(String, String, String)>,
    files: Vec<(String, String, u64, i64, String)>,
    overflow: bool,
    asks: RawAsks,
    late: Option<(String, u64, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAsks {
    cli: Option<(String, u64, String)>,
    server: Option<(String, u64, String)>,
    process: Option<(String, u64, String)>,
    host: Option<(String, u64, String)>,
    request: Option<String>,
}

impl Answer {
    /// Parses the driver's line.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let raw: Raw = serde_json::from_slice(line).ok()?;
        if raw.constants.keys().any(|name| !CONSTANTS.contains(&name.as_str())) {
            return None;
        }
        let constants = raw.constants.into_iter().map(|(name, said)| Some((name, value(&said)?)));
        let error = match &raw.error {
            Some((kind, what, file, line)) => {
                let line = if *line == 0 { String::new() } else { format!(":{line}") };
                Some(PhpError { kind: words(kind)?, what: words(what)?, place: words(file)? + &line })
            }
            None => None,
        };
        let table_prefix = match &raw.table_prefix {
            Some(said) => Some(value(said)?),
            None => None,
        };
        let ask = |said: &Option<(String, u64, String)>, verb: &str| match said {
            Some((file, line, word)) => Some(Some(format!("{}:{line}{verb} {}", words(file)?, plain(word)))),
            None => Some(None),
        };
        Some(Self {
            end: raw.end,
            sapi: plain(&raw.sapi),
            php: plain(&raw.php),
            error,
            constants: constants.collect::<Option<_>>()?,
            table_prefix,
            files: raw.files.iter().map(seen).collect::<Option<_>>()?,
            overflow: raw.overflow,
            asks_for_cli: ask(&raw.asks.cli, " asks for")?,
            asks_for_server: ask(&raw.asks.server, " asks for")?,
            asks_for_process: ask(&raw.asks.process, " reads below")?,
            changed: match &raw.asks.request {
                Some(name) => Some(words(name)?),
                None => None,
            },
            asks_for_host: ask(&raw.asks.host, " asks for")?,
            late: ask(&raw.late, ":")?,
        })
    }

    /// Refuses a run that did not reach the place where WordPress is loaded.
    pub(super) fn must_be_whole(&self, place: &Place, runner: &Runner, host: &str) -> Result<(), String> {
        let file = place.resolved.display();
        match (self.end, &self.error) {
            (End::Loaded, _) => match &self.late {
                Some(late) => Err(format!(
                    "{late} comes after the line that loads wp-settings.php, where PHP is ended here, and may define what the plugin \
                     reads: move it before that line"
                )),
                None => Ok(()),
            },
            (End::Returned, _) => Err(format!(
                "{file}: it ends without loading wp-settings.php. Name WordPress's own directory, where wp-settings.php is, by \
                 --root; else this is not the site's wp-config.php. Without one, {INSTEAD}"
            )),
            (End::Exit, _) => Err(format!(
                "{file}: it ends the request (exit) before it loads WordPress. It may want a host that it knows (--host; this \
                 was {host}), or the web server's environment variables (--env-file, --fpm-pool). If nothing helps, {INSTEAD}"
            )),
            (End::Error, error) => {
                let error = error.as_ref().map(|error| error.sentence(runner)).unwrap_or_default();
                Err(format!("{file}: PHP {} refuses it: {error}. If nothing helps, {INSTEAD}", self.php))
            }
        }
    }

    /// Refuses a file that asks for the SAPI, since its answers may hold for this PHP only.
    pub(super) fn needs_no_web_server(&self) -> Result<(), String> {
        match (&self.asks_for_cli, &self.asks_for_server) {
            (Some(ask), None) if self.sapi == "cli" => Err(format!(
                "{ask}, so that the command line's answer may not be the web server's. Install php-cgi (Debian: apt install \
                 php-cgi), which is taken then, or name one by --php; or give --accept-cli if the answer does not depend on it"
            )),
            (_, Some(ask)) => Err(format!(
                "{ask}, so that the answer to {} may not be the web server's: give --accept-cli if the answer does not depend on it, \
                 else {INSTEAD}",
                self.sapi
            )),
            _ => Ok(()),
        }
    }

    /// Refuses a file whose answers may differ in the web server's PHP, whichever it is.
    pub(super) fn needs_no_process(&self) -> Result<(), String> {
        match (&self.asks_for_process, &self.changed) {
            (Some(ask), _) => Err(format!(
                "{ask} what differs between processes, so that the answer may not be the web server's: take that out, or {INSTEAD}"
            )),
            (None, Some(name)) => Err(format!(
                "putenv() changes {name}, but under a web server getenv() still takes it from the request: take that out, or \
                 {INSTEAD}"
            )),
            (None, None) => Ok(()),
        }
    }

    /// Refuses a file that asks for the host if none was named: a second invented host may get the
    /// same answer, and the site's own another.
    pub(super) fn needs_no_host(&self) -> Result<(), String> {
        match &self.asks_for_host {
            Some(ask) => Err(format!(
                "{ask}, so that what it defines may depend on the request's host: name the site's by --host"
            )),
            None => Ok(()),
        }
    }

    /// The names of constants that differ between the two.
    pub(super) fn differences(&self, other: &Self) -> BTreeSet<String> {
        let names: BTreeSet<&String> = self.constants.keys().chain(other.constants.keys()).collect();
        let is_same = |one: Option<&Value>, other: Option<&Value>| match (one, other) {
            (Some(one), Some(other)) => one.scalar == other.scalar,
            (None, None) => true,
            _ => false,
        };
        let differ = names.into_iter().filter(|name| !is_same(self.constants.get(*name), other.constants.get(*name)));
        let prefix = !is_same(self.table_prefix.as_ref(), other.table_prefix.as_ref());
        differ.cloned().chain(prefix.then(|| "$table_prefix".to_owned())).collect()
    }
}

impl Value {
    /// The constant as a value of the configuration.
    pub(super) fn scalar(&self, name: &str) -> Result<Scalar, String> {
        self.scalar.clone().map_err(|kind| {
            let place = self.place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
            format!("{name}{place} is {kind}: give it a text, a whole number or a boolean there, or {INSTEAD}")
        })
    }

    /// Its type, for people.
    pub(super) fn kind(&self) -> &str {
        match &self.scalar {
            Ok(Scalar::Text(_)) => "a text",
            Ok(Scalar::Integer(_)) => "a whole number",
            Ok(Scalar::Boolean(_)) => "a boolean",
            Ok(Scalar::Null) => "null",
            Err(kind) => kind,
        }
    }
}

impl PhpError {
    fn sentence(&self, runner: &Runner) -> String {
        let Self { kind, what, place } = self;
        let fix = match what.as_str() {
            "" if kind == "the time limit" => "--timeout gives it longer",
            "" if kind == "a syntax error" => "--php names a PHP of another version; else correct the file",
            "" => {
                "the web server's environment variables may be missing (--env-file, --fpm-pool), or the host (--host)"
            }
            what if what.starts_with("it cannot open") => {
                return format!(
                    "{what} as the user {} ({kind} in {place}): is it there, and may that user read it? Else name the one that \
                     PHP runs as (--user, --fpm-pool), or WordPress's own directory (--root)",
                    runner.name
                );
            }
            _ => "the command line's PHP may miss an extension that the web server's has; --php names another",
        };
        let what = if what.is_empty() { String::new() } else { format!(": {what}") };
        format!("{kind} in {place}{what}; {fix}")
    }
}

fn value((kind, content, place): &(String, String, String)) -> Option<Value> {
    let scalar = match kind.as_str() {
        "text" => Ok(Scalar::Text(STANDARD.decode(content).ok()?)),
        "integer" => Ok(Scalar::Integer(content.parse().ok()?)),
        "boolean" => Ok(Scalar::Boolean(!content.is_empty())),
        "null" => Ok(Scalar::Null),
        kind => Err(format!("of the type {}", plain(kind))),
    };
    Some(Value { scalar, place: Some(words(place)?).filter(|place| !place.is_empty()) })
}

fn seen((path, was, size, modified, sha256): &(String, String, u64, i64, String)) -> Option<Seen> {
    let path = PathBuf::from(text(path)?);
    let is_hash = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    match was.as_str() {
        "read" if is_hash => Some(Seen::Read { path, size: *size, modified: *modified, sha256: sha256.clone() }),
        "there" => Some(Seen::There { path }),
        "missing" => Some(Seen::Missing { path }),
        _ => None,
    }
}

/// File names may contain any bytes.
fn text(base64: &str) -> Option<String> {
    Some(String::from_utf8_lossy(&STANDARD.decode(base64).ok()?).into_owned())
}

/// SECURITY: the site's code can answer anything; only a short text on one line is shown.
fn words(base64: &str) -> Option<String> {
    let text: String = text(base64)?.chars().take(300).collect();
    Some(printable::one_line(&text).into_owned())
}

/// A short word of PHP's.
fn plain(word: &str) -> String {
    word.chars().filter(|letter| letter.is_ascii_alphanumeric() || "._-+ ".contains(*letter)).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(constants: &str, error: &str) -> String {
        format!(
            r#"{{"end":"error","sapi":"cli\n","php":"8.2","error":{error},"constants":{{{constants}}},"table_prefix":null,"files":[],"overflow":false,"asks":{{}},"late":null}}"#
        )
    }

    #[test]
    fn only_what_is_asked_for_is_taken() {
        let parse = |text: &str| Answer::parse(text.as_bytes());
        let good = answer(r#""DB_NAME":["text","eA==",""],"MULTISITE":["boolean","1",""]"#, "null");
        let read = parse(&good).unwrap();
        assert!(read.constants["DB_NAME"].scalar("DB_NAME") == Ok(Scalar::Text(b"x".to_vec())));
        assert!(read.constants["MULTISITE"].scalar("MULTISITE") == Ok(Scalar::Boolean(true)));
        assert_eq!(read.sapi, "cli");
        for constants in [
            r#""OTHER":["text","eA==",""]"#,
            r#""DB_NAME":["text","!",""]"#,
            r#""DB_NAME":["integer","x",""]"#,
            r#""DB_NAME":["text","eA=="]"#,
            r#""DB_NAME":"x""#,
        ] {
            assert!(parse(&answer(constants, "null")).is_none(), "{constants}");
        }
        assert!(parse(&good.replace("\"asks\"", "\"more\":1,\"asks\"")).is_none());
        assert!(parse("").is_none() && parse("[]").is_none());
    }

    #[test]
    fn who_is_asked_for_decides_which_php_can_answer() {
        let asks = |sapi: &str, kinds: &[&str]| {
            let asked: Vec<String> = kinds.iter().map(|kind| format!(r#""{kind}":["Lw==",7,"PHP_SAPI"]"#)).collect();
            let text = answer("", "null").replace(r#""asks":{}"#, &format!(r#""asks":{{{}}}"#, asked.join(",")));
            Answer::parse(text.replace("cli\\n", sapi).as_bytes()).unwrap().needs_no_web_server()
        };
        assert!(asks("cli", &[]).is_ok() && asks("cgi-fcgi", &["cli"]).is_ok());
        assert!(asks("cli", &["cli"]).unwrap_err().contains("php-cgi"));
        for sapi in ["cli", "cgi-fcgi"] {
            assert!(asks(sapi, &["cli", "server"]).unwrap_err().contains("--accept-cli"), "{sapi}");
        }
    }

    #[test]
    fn what_is_shown_of_an_error_is_one_line() {
        let forged = STANDARD.encode("a\nb\u{1b}[2J");
        let read = Answer::parse(answer("", &format!(r#"["{forged}","{forged}","{forged}",1]"#)).as_bytes()).unwrap();
        let error = read.error.unwrap();
        for text in [&error.kind, &error.what, &error.place] {
            assert!(!text.contains(printable::is_harmful), "{text:?}");
        }
    }
}
