//! The table again, with `wp-jwt-sidecar import`: it writes PHP's values, also where the reader
//! refuses; and where it refuses itself, its error names a solution that works.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use wp_jwt_sidecar::internals::config::{ImportFile, Jwt, Secret, WordPress};
use wp_jwt_sidecar::internals::wordpress::imported::CONSTANTS;
use wp_jwt_sidecar::internals::wordpress::installation::installation;

use super::cases::{self, Case, LaidOut};
use super::{by_php, hex};
use crate::import::{said, said_by, site_user};
use crate::support::sidecar::command;

/// The PHP that `import` looks for first, and the one that is installed everywhere.
const PROGRAMS: [&str; 2] = ["php-cgi", "php"];

/// Configurations that PHP runs but `import` does not accept, because the web server's PHP would
/// have other values.
const BY_KEYS: [&str; 7] = [
    "a number that is too large",
    "HTTPS from the environment",
    "a secret from /proc",
    "ini_get",
    "a variable of the request that putenv() changes",
    "an environment variable that is not UTF-8",
    "an environment variable that is not UTF-8 decides",
];

/// The result of a case.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Served,
    /// PHP cannot run the file either, or its values cannot be relied on: the solution is to set
    /// the keys, and that works.
    ByKeys,
}

#[test]
fn what_php_says_is_written_and_all_else_is_refused_with_a_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let directory = fs::canonicalize(directory.path()).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    let cases = cases::all();
    let places: Vec<LaidOut> =
        cases.iter().enumerate().map(|(number, case)| case.lay_out(&directory.join(number.to_string()))).collect();
    let answers = by_php(&directory, &cases, &places);
    for program in PROGRAMS.into_iter().filter(|program| is_installed(program)) {
        let outcomes = in_parallel(cases.len(), |at| {
            Visit { case: &cases[at], place: &places[at], answer: &answers[at], program }.compared()
        });
        let names = cases.iter().map(|case| &case.name);
        let wrong: Vec<String> = names
            .zip(&outcomes)
            .filter_map(|(name, outcome)| outcome.as_ref().err().map(|fault| format!("{name}: {fault}")))
            .collect();
        assert!(wrong.is_empty(), "{program}: {} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
        let served = outcomes.iter().flatten().filter(|outcome| **outcome == Outcome::Served).count();
        assert!(served > 230, "{program}: {served} of {} are served", cases.len());
    }
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// Most of the time of an import is the start of PHP.
fn in_parallel<T: Send>(count: usize, of: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let mut done: Vec<(usize, T)> = std::thread::scope(|scope| {
        let work = || {
            let numbers = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < count));
            numbers.map(|at| (at, of(at))).collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, of)| of).collect()
}

/// A case and the PHP that runs it.
struct Visit<'a> {
    case: &'a Case,
    place: &'a LaidOut,
    answer: &'a serde_json::Value,
    program: &'a str,
}

impl Visit<'_> {
    /// Tries the solutions that the errors name, each once, until one works.
    fn compared(&self) -> Result<Outcome, String> {
        let root = self.place.root.to_str().unwrap();
        let ways: [(&str, &[&str]); 5] = [
            ("or give it by --env", &["--env"]),
            ("--host", &["--host", "example.com"]),
            ("--accept-cli", &["--accept-cli"]),
            ("--root", &["--root", root]),
            ("move it before that line", &["move"]),
        ];
        let mut gone: Vec<&[&str]> = Vec::new();
        loop {
            let output = self.import(&gone);
            let said = said(&output);
            if output.status.success() {
                return self.written().map(|()| Outcome::Served);
            }
            if output.status.code() != Some(2) || said.contains('\u{1b}') {
                return Err(format!("ends by {}: {said}", output.status));
            }
            match ways.iter().find(|(named, way)| said.contains(named) && !gone.contains(way)) {
                Some((_, way)) => gone.push(way),
                None => return self.by_keys(&said),
            }
        }
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.place.root.parent().unwrap().join(format!("{name}-{}", self.program))
    }

    fn import(&self, ways: &[&[&str]]) -> Output {
        let (pool, variables) = (self.beside("pool.conf"), self.beside("variables"));
        // Like the table's PHP: it fills `$_ENV`.
        let text = format!("[www]\nuser = {}\nphp_admin_value[variables_order] = EGPCS\n", site_user());
        fs::write(&pool, text).unwrap();
        let mut command = command();
        command.arg("import").arg("--wp-config").arg(&self.place.given).arg("--output").arg(self.beside("site.toml"));
        command.args(["--php", self.program, "--group", &said_by("id", &["-gn"])]).arg("--fpm-pool").arg(pool);
        let environment = self.case.environment(self.place);
        if ways.contains(&&["--env"][..]) {
            for (name, value) in &environment {
                command.arg("--env").arg(format!("{name}={}", str::from_utf8(value).unwrap()));
            }
        } else {
            let lines = environment.iter().map(|(name, value)| [name.as_bytes(), b"='", value, b"'\n"].concat());
            fs::write(&variables, lines.collect::<Vec<_>>().concat()).unwrap();
            command.arg("--env-file").arg(variables);
        }
        let source = fs::read(&self.place.entry).unwrap();
        let is_moved = ways.contains(&&["move"][..]);
        if is_moved {
            fs::write(&self.place.entry, moved(&source)).unwrap();
        }
        command.args(ways.iter().filter(|way| way[0] != "--env" && way[0] != "move").copied().flatten());
        let output = command.output().unwrap();
        if is_moved {
            fs::write(&self.place.entry, source).unwrap();
        }
        output
    }

    /// The written values equal PHP's.
    fn written(&self) -> Result<(), String> {
        let text = fs::read_to_string(self.beside("site.toml")).unwrap();
        let written: toml::Table = text.parse().unwrap();
        let at_load = &self.answer["loaded"];
        if at_load.is_null() {
            return Err("is written, but PHP does not load WordPress".into());
        }
        let varying: BTreeSet<&str> =
            written["varying"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        for name in CONSTANTS.iter().filter(|name| !varying.contains(**name)) {
            // The plugin reads its constants when it handles a request.
            let theirs = if name.starts_with("JWT_AUTH_") { &self.answer["end"] } else { at_load };
            let (theirs, ours) = (&theirs["constants"][*name], described(written["constants"].get(*name)));
            if ours != *theirs {
                return Err(format!("{name} is {theirs} in PHP, not {ours}"));
            }
        }
        let (theirs, ours) = (&at_load["prefix"], described(written.get("table_prefix")));
        if ours != *theirs {
            return Err(format!("$table_prefix is {theirs} in PHP, not {ours}"));
        }
        self.taken()
    }

    /// `serve` accepts the written configuration, or names what is missing.
    fn taken(&self) -> Result<(), String> {
        let import = ImportFile { path: self.beside("site.toml"), is_named: true };
        let settings =
            WordPress { config: Some(self.place.given.clone()), import: Some(import), ..WordPress::default() };
        match installation(&settings, &Jwt::default(), &|_| None) {
            Ok(site) => {
                let secret = site.jwt_secret.as_ref().map(|secret| hex(secret.expose().as_bytes()));
                let name = site.database.opts()[0].db_name().map(|name| hex(name.as_bytes()));
                let theirs = |at: &str, name: &str| self.answer[at]["constants"][name][1].as_str().map(str::to_owned);
                match (name, secret) == (theirs("loaded", "DB_NAME"), theirs("end", "JWT_AUTH_SECRET_KEY")) {
                    true => Ok(()),
                    false => Err("is another site by what is written".into()),
                }
            }
            Err(faults) => {
                let said = faults.to_string();
                let is_missing = ["not defined there", "it is empty", "not UTF-8", "letters, digits and underscores"];
                let has_way_out = said.contains("; set ") || said.contains("letters, digits");
                match is_missing.iter().any(|reason| said.contains(reason)) && has_way_out {
                    true => self.with_keys(),
                    false => Err(format!("is written, but not taken: {said}")),
                }
            }
        }
    }

    /// The error names no other solution: this one must work, and the error must name it.
    fn by_keys(&self, said: &str) -> Result<Outcome, String> {
        if !KEYS.iter().all(|key| said.contains(key)) {
            return Err(format!("has no way out: {said}"));
        }
        let runs = !self.answer["loaded"].is_null();
        if runs && !BY_KEYS.contains(&self.case.name.as_str()) {
            return Err(format!("is refused, and PHP runs it: {said}"));
        }
        self.with_keys().map(|()| Outcome::ByKeys)
    }

    fn with_keys(&self) -> Result<(), String> {
        let secret = |text: &str| Some(Secret::new(text));
        let settings = WordPress {
            database_url: secret("mysql://user:p@db:3307/site"),
            table_prefix: Some("wp_".to_owned()),
            auth_key: secret("k1"),
            auth_salt: secret("s1"),
            ..WordPress::default()
        };
        let jwt = Jwt { secret: secret("signing"), ..Jwt::default() };
        installation(&settings, &jwt, &|_| None)
            .map(|_| ())
            .map_err(|faults| format!("is not served by keys: {faults}"))
    }
}

const KEYS: [&str; 5] =
    ["wordpress.database_url", "wordpress.table_prefix", "wordpress.auth_key", "wordpress.auth_salt", "jwt.secret"];

/// The source with everything after the line that loads WordPress moved before it.
fn moved(source: &[u8]) -> String {
    let source = str::from_utf8(source).unwrap();
    let (before, after) = source.split_once(cases::S).unwrap();
    format!("{before}{after}\n{}", cases::S)
}

/// In the form of the reference's results.
fn described(written: Option<&toml::Value>) -> serde_json::Value {
    let of = |kind: &str, text: &[u8]| serde_json::json!([kind, hex(text)]);
    match written {
        None => serde_json::Value::Null,
        Some(toml::Value::String(text)) => of("string", text.as_bytes()),
        Some(toml::Value::Integer(number)) => of("int", number.to_string().as_bytes()),
        Some(toml::Value::Boolean(boolean)) => of("bool", if *boolean { b"1" } else { b"" }),
        Some(toml::Value::Table(table)) => match table.get("base64").and_then(|text| text.as_str()) {
            Some(text) => of("string", &decoded(text)),
            None => of("null", b""),
        },
        Some(other) => panic!("{other}"),
    }
}

fn decoded(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}
