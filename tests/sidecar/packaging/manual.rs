//! The manual page, checked by the programs that show it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use wp_jwt_sidecar::internals::config::keys::KEYS;

use crate::support::sidecar::command;

#[test]
fn the_manual_has_every_command_and_key_and_no_fault() {
    let page = page();
    let text = shown(&page);
    for name in ["serve", "check", "doctor", "verify", "index", "completions", "man"] {
        assert!(text.contains(&format!("\n       {name} ")), "no command {name}:\n{text}");
    }
    // man breaks long words at the end of a line; without spaces and dashes they are whole.
    let whole: String = text.chars().filter(|letter| !letter.is_whitespace() && *letter != '-').collect();
    for key in KEYS {
        assert!(whole.contains(&key.variable().replace('-', "")), "no {}", key.variable());
        let flag = whole.contains(&format!("{}<", key.flag().replace('-', "")));
        assert_eq!(flag, !key.kind.is_secret(), "--{}", key.flag());
    }
    for heading in ["NAME", "SYNOPSIS", "SERVER", "SECRETS", "EXAMPLE", "CONFIGURATION", "EXIT CODES"] {
        assert!(text.contains(&format!("\n{heading}\n")), "no section {heading}:\n{text}");
    }
}

#[test]
fn man_and_mandoc_find_no_fault() {
    let page = page();
    let (said, faults) = fed(Command::new("man").args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", "-"]), &page);
    assert!(!said.is_empty() && faults.is_empty(), "{faults}");
    let (lint, faults) = fed(Command::new("mandoc").args(["-T", "lint", "-W", "warning"]), &page);
    // A date would make each build different.
    let wrong: Vec<&str> = lint.lines().filter(|line| !line.contains("missing date, using \"\": TH")).collect();
    assert!(wrong.is_empty() && faults.is_empty(), "{wrong:#?} {faults}");
    // What apropos(1) and whatis(1) find.
    let file = tempfile::Builder::new().suffix(".1").tempfile().unwrap();
    std::fs::write(file.path(), &page).unwrap();
    let (name, _) = fed(Command::new("lexgrog").arg(file.path()), b"");
    assert!(name.contains("wp-jwt-sidecar - "), "{name}");
}

fn page() -> Vec<u8> {
    let output = command().arg("man").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// As a reader sees it, without overstrikes.
fn shown(page: &[u8]) -> String {
    fed(Command::new("mandoc").args(["-T", "utf8", "-O", "width=200"]), page).0.replace("\u{2010}", "-").chars().fold(
        String::new(),
        |mut text, letter| {
            match letter {
                '\u{8}' => drop(text.pop()),
                _ => text.push(letter),
            }
            text
        },
    )
}

/// The output of a program for this input, on standard output and standard error.
fn fed(command: &mut Command, input: &[u8]) -> (String, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run installs it"));
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let [said, faults] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (said, faults)
}
