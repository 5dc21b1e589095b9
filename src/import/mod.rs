//! `wp-jwt-sidecar import`: lets PHP run a site's `wp-config.php` up to the place where it loads
//! WordPress, and writes the definitions to the file that [`crate::wordpress::imported`] reads.
//!
//! SECURITY: the site's code runs as the site's user, never as root or the service (see [`user`]),
//! with limits (see [`sandbox`]). Its answer is untrusted: bounded, parsed strictly, and limited to
//! a list of constants.

mod answer;
mod environment;
mod place;
mod pool;
mod sandbox;
mod user;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use crate::cli::import::How;
use crate::config::{Faults, SiteFiles};
use crate::wordpress::imported::{CONSTANTS, Imported, MAY_VARY, Seen};
use crate::wordpress::wp_config::Scalar;
use answer::Answer;
use environment::Environment;
use place::Place;
use pool::Pool;
use sandbox::Sandbox;
use user::Runner;

/// A host that the site does not have: values that differ there depend on the request.
const OTHER_HOST: &str = "wp-jwt-sidecar-import.invalid";

/// The alternative if PHP cannot help.
const INSTEAD: &str =
    "set wordpress.database_url, wordpress.table_prefix, wordpress.auth_key, wordpress.auth_salt and jwt.secret";

/// The host if none is named.
const ANY_HOST: &str = "localhost";

/// The result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The file is unchanged.
    Unchanged,
    /// The file has changed, or with `--check` would change.
    Changed,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The site's location is unknown.
    #[error(transparent)]
    Configuration(#[from] Faults),
    /// A sentence with its fix.
    #[error("{0}")]
    Refused(String),
    /// Standard output is closed.
    #[error("cannot print: {0}")]
    Output(#[from] std::io::Error),
}

impl From<String> for ImportError {
    fn from(sentence: String) -> Self {
        Self::Refused(sentence)
    }
}

/// Runs the command.
///
/// # Errors
/// Everything that makes the values uncertain.
pub fn run(files: &SiteFiles, how: &How, out: &mut impl Write) -> Result<Outcome, ImportError> {
    let config = files.config.as_deref().ok_or_else(|| {
        "where is the site's wp-config.php? Set wordpress.config, or give --wp-config /PATH/wp-config.php".to_owned()
    })?;
    let place = Place::find(config, how.root.as_deref())?;
    let mut environment = Environment::given(&how.env_file, &how.env)?;
    let pool = how.fpm_pool.as_deref().map(|file| Pool::read(file, &environment)).transpose()?;
    environment.add(pool.iter().flat_map(|pool| &pool.environment));
    if let Some(file) = how.fpm_pool.as_deref()
        && pool.as_ref().is_some_and(|pool| pool.inherits)
        && how.env_file.is_empty()
    {
        return Err(
            about(file, "has clear_env = no, so that PHP gets FPM's own variables: give those by --env-file").into()
        );
    }
    let runner = Runner::choose(how.user.as_deref(), pool.as_ref(), &place.resolved)?;
    let settings = pool.as_ref().map_or(&[][..], |pool| &pool.settings);
    let sandbox = Sandbox::new(how.php.as_deref(), settings, &runner, &place, how.timeout)?;
    for lack in sandbox.lacks() {
        writeln!(out, "note: {lack}")?;
    }
    let visit = Visit { sandbox: &sandbox, place: &place, environment: &environment, runner: &runner };
    let host = how.host.as_deref().unwrap_or(ANY_HOST);
    let answer = visit.ask(host, Request::Usual)?;
    if !how.accept_cli {
        answer.needs_no_web_server()?;
    }
    answer.needs_no_process()?;
    if how.host.is_none() {
        answer.needs_no_host()?;
    }
    let varying = visit.varying(&answer, how.host.as_deref())?;
    let imported = imported(&answer, varying, &place, how.host.clone())?;
    if answer.overflow {
        writeln!(out, "note: more files were looked at than are watched (4000); `import --check` sees changes of all")?;
    }
    if how.print {
        print(&imported, &answer, &runner, out)?;
        return Ok(Outcome::Unchanged);
    }
    let target = write::Target { path: how.output.as_ref().unwrap_or(&files.import), group: &how.group };
    let outcome = if target.says(&imported) { Outcome::Unchanged } else { Outcome::Changed };
    let path = target.path.display();
    match (how.check, outcome) {
        (true, Outcome::Unchanged) => writeln!(out, "{path}: nothing would change")?,
        (true, Outcome::Changed) => writeln!(out, "{path}: would change; run `wp-jwt-sidecar import` without --check")?,
        (false, _) => {
            target.write(&imported.to_toml()?)?;
            let (constants, watched) = (imported.constants.len(), imported.files.len());
            writeln!(
                out,
                "{path}: written, {constants} constants as PHP {} has them for the user {}; made of {watched} files. The service \
                 takes it at its next start or reload (systemctl reload wp-jwt-sidecar)",
                answer.php, runner.name
            )?;
        }
    }
    Ok(outcome)
}

/// The request that PHP is run for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Request {
    /// With TLS, for the refresh route.
    Usual,
    /// As different from [`Request::Usual`] as possible.
    Other,
    /// The same with TLS: some files redirect requests without it.
    OtherByTls,
}

impl Request {
    /// The entries of `$_SERVER` that depend on it.
    fn server(self) -> Vec<(&'static str, &'static str)> {
        let scheme: &[(&str, &str)] = match self {
            Request::Usual | Request::OtherByTls => &[
                ("HTTPS", "on"),
                ("HTTP_X_FORWARDED_PROTO", "https"),
                ("REQUEST_SCHEME", "https"),
                ("SERVER_PORT", "443"),
            ],
            Request::Other => &[("HTTP_X_FORWARDED_PROTO", "http"), ("REQUEST_SCHEME", "http"), ("SERVER_PORT", "80")],
        };
        let other: &[(&str, &str)] = match self {
            Request::Usual => &[
                ("REQUEST_METHOD", "POST"),
                ("REQUEST_URI", "/wp-json/jwt-auth/v1/token/refresh"),
                ("REMOTE_ADDR", "127.0.0.1"),
                ("SERVER_ADDR", "127.0.0.1"),
                ("SERVER_SOFTWARE", "nginx/1.22.1"),
            ],
            Request::Other | Request::OtherByTls => &[
                ("REQUEST_METHOD", "GET"),
                ("REQUEST_URI", "/"),
                ("REMOTE_ADDR", "192.0.2.1"),
                ("SERVER_ADDR", "192.0.2.2"),
                ("SERVER_SOFTWARE", "Apache/2.4.62"),
            ],
        };
        scheme.iter().chain(other).copied().collect()
    }
}

/// A site that PHP can be run for.
struct Visit<'a> {
    sandbox: &'a Sandbox,
    place: &'a Place,
    environment: &'a Environment,
    runner: &'a Runner,
}

impl Visit<'_> {
    /// Runs PHP for `request` to `host`.
    fn ask(&self, host: &str, request: Request) -> Result<Answer, String> {
        let hosts = [("HTTP_HOST", host), ("SERVER_NAME", host.split(':').next().unwrap_or(host))];
        let always = [("SERVER_PROTOCOL", "HTTP/1.1"), ("QUERY_STRING", ""), ("GATEWAY_INTERFACE", "CGI/1.1")];
        let server: BTreeMap<&str, &str> = always.into_iter().chain(request.server()).chain(hosts).collect();
        // The second run has other limits: a value made from them differs between the runs and is
        // refused.
        let more = u64::from(request != Request::Usual);
        let answer = self.sandbox.run(self.place, self.environment, &server, more)?;
        answer.must_be_whole(self.place, self.runner, host)?;
        Ok(answer)
    }

    fn other(&self, host: &str) -> Result<Answer, String> {
        self.ask(host, Request::Other).or_else(|_| self.ask(host, Request::OtherByTls))
    }

    /// The constants that depend on the request. Only [`MAY_VARY`] may, and others only on the host
    /// if it was named.
    fn varying(&self, answer: &Answer, host: Option<&str>) -> Result<BTreeSet<String>, String> {
        let may_vary = |name: &String| MAY_VARY.contains(&name.as_str());
        let other = self.other(OTHER_HOST);
        let varying = match (&other, host) {
            (Ok(other), _) => answer.differences(other),
            // The file refuses the other host, so what depends on the host remains unknown.
            (Err(_), Some(_)) => MAY_VARY.iter().map(|name| (*name).to_owned()).collect(),
            (Err(_), None) => {
                return Err(
                    "wp-config.php depends on the request's host, and refuses hosts that it does not know: name \
                            the site's by --host"
                        .to_owned(),
                );
            }
        };
        let fixed: Vec<&String> = varying.iter().filter(|name| !may_vary(name)).collect();
        match host {
            None if !fixed.is_empty() => Err(format!(
                "what depends on the request (its host, scheme or path), or is another each time: {}. Name the site's host by \
                 --host; if it depends on more than that, {INSTEAD}",
                listed(&fixed)
            )),
            None => Ok(varying),
            Some(host) => {
                let again = answer.differences(&self.other(host)?);
                let fixed: Vec<&String> = again.iter().filter(|name| !may_vary(name)).collect();
                match fixed.is_empty() {
                    true => Ok(varying.union(&again).filter(|name| may_vary(name)).cloned().collect()),
                    false => Err(format!(
                        "what is not the same in two requests for {host}: {}. Give it a plain value in wp-config.php, or {INSTEAD}",
                        listed(&fixed)
                    )),
                }
            }
        }
    }
}

fn listed(names: &[&String]) -> String {
    names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}

fn imported(
    answer: &Answer,
    varying: BTreeSet<String>,
    place: &Place,
    host: Option<String>,
) -> Result<Imported, String> {
    let mut constants = BTreeMap::new();
    for (name, value) in &answer.constants {
        let fixed = !varying.contains(name);
        if fixed {
            constants.insert(name.clone(), value.scalar(name)?);
        }
    }
    let is_undefined = |name: &&&str| !answer.constants.contains_key(**name) && !varying.contains(**name);
    // SECURITY: a file may ask whether a secret is the name of a file that contains it.
    let secrets: Vec<&str> =
        constants.iter().filter(|(name, _)| is_secret(name)).filter_map(|(_, value)| text(value)).collect();
    let mut files = answer.files.clone();
    files.retain(|file| {
        let path = file.path().to_string_lossy();
        !matches!(file, Seen::Missing { .. }) || !secrets.iter().any(|secret| path.contains(secret))
    });
    files.sort_by(|one, other| one.path().cmp(other.path()));
    Ok(Imported {
        config: place.named.clone(),
        resolved: place.resolved.clone(),
        host,
        table_prefix: answer.table_prefix.as_ref().map(|prefix| prefix.scalar("$table_prefix")).transpose()?,
        undefined: CONSTANTS.iter().filter(is_undefined).map(|name| (*name).to_owned()).collect(),
        constants,
        varying,
        files,
    })
}

fn is_secret(constant: &str) -> bool {
    constant == "DB_PASSWORD" || constant.ends_with("_KEY") || constant.ends_with("_SALT")
}

/// A text that is long enough not to be part of a usual path.
fn text(value: &Scalar) -> Option<&str> {
    match value {
        Scalar::Text(bytes) => str::from_utf8(bytes).ok().filter(|text| text.len() >= 6),
        _ => None,
    }
}

/// Prints names and places, but no values.
fn print(imported: &Imported, answer: &Answer, runner: &Runner, out: &mut impl Write) -> Result<(), ImportError> {
    let host = imported.host.as_deref().map(|host| format!(" for the host {host}")).unwrap_or_default();
    writeln!(
        out,
        "{} as PHP {} ({}) has it for the user {}{host}:",
        imported.resolved.display(),
        answer.php,
        answer.sapi,
        runner.name
    )?;
    let prefix = answer.table_prefix.iter().map(|value| ("$table_prefix", value));
    for (name, value) in answer.constants.iter().map(|(name, value)| (name.as_str(), value)).chain(prefix) {
        let mut line = format!("  {name}: {}", value.kind());
        if imported.varying.contains(name) {
            line.push_str(", depends on the request: WordPress is asked");
        }
        if let Some(place) = &value.place {
            let _ = write!(line, ", {place}");
        }
        writeln!(out, "{line}")?;
    }
    let missing: Vec<&str> = imported.undefined.iter().map(String::as_str).collect();
    writeln!(out, "not defined: {}\nfiles that were read or looked for:", missing.join(", "))?;
    for file in &imported.files {
        writeln!(out, "  {}", file.describe())?;
    }
    Ok(())
}

/// The beginning of a sentence about a file.
fn about(path: &Path, problem: impl std::fmt::Display) -> String {
    format!("{}: {problem}", path.display())
}

/// Finds a program in the system's directories. SECURITY: not in `$PATH`, which the caller of
/// root's shell may have set.
fn program(name: &str) -> Option<PathBuf> {
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|directory| PathBuf::from(directory).join(name))
        .find(|path| path.is_file())
}

/// Reads a small text file that an option names.
fn read_text(file: &Path, option: &str) -> Result<String, String> {
    const LIMIT: u64 = 1 << 20;
    let mut text = String::new();
    let opened = crate::config::open_file(file).and_then(|opened| opened.take(LIMIT + 1).read_to_string(&mut text));
    match opened {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Err(about(
            file,
            format!("is not UTF-8 ({option}): take out what is not, and if wp-config.php needs that, {INSTEAD}"),
        )),
        Err(error) => Err(about(file, format!("cannot be read: {error} ({option})"))),
        Ok(_) if text.len() as u64 > LIMIT => Err(about(file, format!("is larger than 1 MiB ({option})"))),
        Ok(_) => Ok(text),
    }
}
