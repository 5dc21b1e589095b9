//! `wp-config.php`, with PHP as the reference: a table of small configurations is evaluated by PHP
//! and by the reader. A value that the reader returns equals PHP's; what it cannot evaluate is
//! refused with a reason and a solution.

mod cases;
mod imported;

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use wp_jwt_sidecar::internals::config;
use wp_jwt_sidecar::internals::wordpress::imported::CONSTANTS;
use wp_jwt_sidecar::internals::wordpress::installation::installation;
use wp_jwt_sidecar::internals::wordpress::wp_config::{self, Lookup, Surroundings};

use crate::php_parity::configuration::described;
use crate::php_parity::{hex, php};
use cases::{Case, Expected, LaidOut};

#[test]
fn what_is_read_is_what_php_has_and_all_else_is_refused_with_a_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let directory = std::fs::canonicalize(directory.path()).unwrap();
    let cases = cases::all();
    assert!(cases.len() >= 120, "{} cases", cases.len());
    let places: Vec<LaidOut> =
        cases.iter().enumerate().map(|(number, case)| case.lay_out(&directory.join(number.to_string()))).collect();
    let answers = by_php(&directory, &cases, &places);
    let mut wrong = Vec::new();
    let mut served = 0;
    for ((case, place), answer) in cases.iter().zip(&places).zip(&answers) {
        if let Err(fault) = compared(case, place, answer) {
            wrong.push(format!("{}: {fault}", case.name));
        }
        served += usize::from(matches!(case.expected, Expected::Served));
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(served > 50 && cases.len() - served > 60, "{served} of {} are served", cases.len());
}

fn by_php(directory: &std::path::Path, cases: &[Case], places: &[LaidOut]) -> Vec<serde_json::Value> {
    let request: Vec<serde_json::Value> = cases
        .iter()
        .zip(places)
        .map(|(case, place)| {
            let environment: HashMap<&str, String> =
                case.environment(place).into_iter().map(|(name, value)| (name, hex(&value))).collect();
            serde_json::json!({"root": place.root, "entry": place.entry, "host": case.host, "environment": environment})
        })
        .collect();
    let answers = php("wp_config_cases.php", &[directory.to_str().unwrap()], &serde_json::to_vec(&request).unwrap());
    let answers: Vec<serde_json::Value> = serde_json::from_slice(&answers).unwrap();
    assert_eq!(answers.len(), cases.len());
    answers
}

fn compared(case: &Case, place: &LaidOut, answer: &serde_json::Value) -> Result<(), String> {
    let variables = case.environment(place);
    let environment = |name: &str| {
        let value = variables.iter().find(|(known, _)| *known == name);
        value.map(|(_, value)| OsString::from_vec(value.clone()))
    };
    let settings = config::WordPress { config: Some(place.given.clone()), ..config::WordPress::default() };
    let jwt = config::Jwt::default();
    match (&case.expected, installation(&settings, &jwt, &environment)) {
        (Expected::Served, Err(faults)) => return Err(format!("is refused: {faults}")),
        (Expected::Refused(part), Ok(_)) => return Err(format!("is served, not refused with {part}")),
        (Expected::Refused(part), Err(faults)) => {
            let said = faults.to_string();
            if !said.contains(part.as_str()) {
                return Err(format!("is refused, but not with {part:?}: {said}"));
            }
            // PHP does not know a missing value either.
            let has_way_out = ["`wp-jwt-sidecar import`", "; set ", "letters, digits", "move it before that"]
                .iter()
                .any(|way| said.contains(way));
            if !has_way_out || said.contains('\u{1b}') {
                return Err(format!("has no way out: {said}"));
            }
        }
        (Expected::Served, Ok(site)) => {
            let loaded = &answer["loaded"];
            if loaded.is_null() {
                return Err("is served, but PHP does not load WordPress".into());
            }
            let text = |name: &str| loaded["constants"][name][1].as_str().unwrap_or_default().to_owned();
            let secret = site.jwt_secret.as_ref().map(|secret| hex(secret.expose().as_bytes())).unwrap_or_default();
            let prefix = hex(site.table_prefix.as_bytes());
            let database = site.database.opts()[0].clone();
            let ours = [database.db_name(), database.user(), database.pass()].map(|text| hex(text.unwrap().as_bytes()));
            if ours != ["DB_NAME", "DB_USER", "DB_PASSWORD"].map(text)
                || secret != text("JWT_AUTH_SECRET_KEY")
                || loaded["prefix"][1] != prefix
            {
                return Err(format!("{ours:?}, {prefix}, {secret} is not what PHP has: {loaded}"));
            }
            if !site.multisite && loaded["constants"]["MULTISITE"][1] == hex(b"1") {
                return Err("is taken for a single site".into());
            }
        }
    }
    each_value(place, &environment, answer)
}

/// The values that the reader returns, also where it cannot evaluate everything.
fn each_value(
    place: &LaidOut,
    environment: &dyn Fn(&str) -> Option<OsString>,
    answer: &serde_json::Value,
) -> Result<(), String> {
    let surroundings = Surroundings {
        environment,
        read_file: &|path| match std::fs::canonicalize(path)?.starts_with("/proc") {
            true => Err(std::io::ErrorKind::InvalidInput.into()),
            false => std::fs::read(path),
        },
        canonicalize: &|path| std::fs::canonicalize(path),
    };
    let root = place.given.parent().filter(|root| root.join("wp-load.php").exists());
    let source = std::fs::read(&place.entry).unwrap();
    let Ok(config) = wp_config::read(&place.entry, &source, root, &surroundings) else { return Ok(()) };
    let at_load = if answer["loaded"].is_null() { &answer["end"] } else { &answer["loaded"] };
    for name in CONSTANTS {
        // The plugin reads its constants when it handles a request.
        let theirs = if name.starts_with("JWT_AUTH_") { &answer["end"] } else { at_load };
        let theirs = &theirs["constants"][name];
        let ours = match config.constant(name) {
            Lookup::Unknown(_) => continue,
            Lookup::NotDefined if config.incomplete().is_some() => continue,
            Lookup::NotDefined => serde_json::Value::Null,
            Lookup::Known(scalar, _) => described(scalar),
        };
        if ours != *theirs {
            return Err(format!("{name} is {theirs} in PHP, not {ours}"));
        }
    }
    match config.table_prefix() {
        Lookup::Known(scalar, _) if described(scalar) != at_load["prefix"] => {
            Err(format!("$table_prefix is {} in PHP, not {}", at_load["prefix"], described(scalar)))
        }
        _ => Ok(()),
    }
}
