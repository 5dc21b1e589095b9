//! The documents as pages: short, linked, and true about the files, keys and commands that they name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use wp_jwt_sidecar::internals::config::keys::{KEYS, SECTIONS};

use super::blocks::{pages, read};
use crate::support::sidecar::command;

/// The README is read by those who have no time.
const LONGEST_README: usize = 250;

/// Lines of a page: what one person reads at once.
const LONGEST_PAGE: usize = 299;

/// Characters of a line, but in tables and blocks, which cannot be wrapped.
const LONGEST_LINE: usize = 160;

/// Names of what `doctor` finds that look like keys.
const FINDINGS: &[&str] = &["upstream.authorization"];

#[test]
fn pages_are_short() {
    for page in pages() {
        let text = read(&page);
        let (lines, most) = (text.lines().count(), if page == "README.md" { LONGEST_README } else { LONGEST_PAGE });
        assert!(
            lines <= most,
            "{page} has {lines} lines, and {most} is the most: a subject of its own gets a page of its own"
        );
        for line in prose(&text).lines().filter(|line| !line.starts_with('|')) {
            assert!(
                line.chars().count() <= LONGEST_LINE,
                "{page}: a line of more than {LONGEST_LINE} characters: {line}"
            );
        }
    }
}

#[test]
fn links_lead_somewhere() {
    let texts: BTreeMap<String, String> = pages().into_iter().map(|page| (page.clone(), read(&page))).collect();
    let (mut checked, mut linked) = (0, BTreeSet::new());
    for (page, text) in &texts {
        for target in links(&prose(text)) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
            let path = if file.is_empty() { page.clone() } else { resolved(page, file) };
            assert!(
                Path::new(env!("CARGO_MANIFEST_DIR")).join(&path).is_file(),
                "{page}: there is no {path} ({target})"
            );
            if let Some(anchor) = anchor {
                let there = texts.get(&path).unwrap_or_else(|| panic!("{page}: an anchor in no document: {target}"));
                assert!(anchors(there).contains(anchor), "{page}: no heading of {path} makes the anchor #{anchor}");
            }
            if page == "README.md" {
                linked.insert(path);
            }
            checked += 1;
        }
    }
    assert!(checked > 60, "only {checked} links were found: does this test still read the documents?");
    for page in texts.keys().filter(|page| *page != "README.md") {
        assert!(linked.contains(page), "{page} is not linked from the README: how is it found?");
    }
}

/// The targets of `[text](target)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// A path from the top, as this page names it.
fn resolved(page: &str, target: &str) -> String {
    let mut path = PathBuf::from(page);
    path.pop();
    for part in Path::new(target).components() {
        match part {
            std::path::Component::ParentDir => assert!(path.pop(), "{page}: {target} leads out"),
            part => path.push(part),
        }
    }
    path.to_str().unwrap().to_owned()
}

/// The anchors of headings, as the forges make them: lower case, without punctuation, spaces as dashes.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in prose(text).lines() {
        let Some((marks, heading)) = line.split_once(' ') else { continue };
        if marks.is_empty() || marks.chars().any(|mark| mark != '#') {
            continue;
        }
        let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
        let anchor: String = kept.map(|letter| if letter == ' ' { '-' } else { letter.to_ascii_lowercase() }).collect();
        let again = (1..).map(|number| format!("{anchor}-{number}"));
        let free = std::iter::once(anchor.clone()).chain(again).find(|anchor| !found.contains(anchor));
        found.extend(free);
    }
    found
}

/// The text without its blocks.
fn prose(text: &str) -> String {
    let mut inside = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn what_is_read_of_a_page() {
    let text = "# A `b`: c --d\n## A\n### A\n```sh x\n# no heading\n[no](link)\n```\n[one](a.md#b) and [two](../c)\n";
    assert_eq!(anchors(text), ["a-b-c---d", "a", "a-1"].map(str::to_owned).into());
    assert_eq!(links(&prose(text)).collect::<Vec<_>>(), ["a.md#b", "../c"]);
    assert_eq!(resolved("docs/a.md", "../src/b.rs"), "src/b.rs");
}

/// Source files that the text and its pictures name are there: `route.rs`, `http1/head.rs`, `tests/fuzz`.
#[test]
fn named_files_are_there() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for directory in ["src", "tests", "packaging"] {
        collect(&top.join(directory), &mut sources);
    }
    let mut checked = 0;
    for page in pages() {
        let text = read(&page);
        let words = text.split(|letter: char| !(letter.is_alphanumeric() || "_./-".contains(letter)));
        for word in words.map(|word| word.trim_end_matches('.')) {
            let is_named = word.ends_with(".rs") && !word.starts_with('.')
                || ["src/", "tests/", "packaging/", "systemd/"].iter().any(|start| word.starts_with(start));
            if !is_named {
                continue;
            }
            let ends = |path: &PathBuf| path.ends_with(word.trim_end_matches('/'));
            let module = format!("{}.rs", word.trim_end_matches('/'));
            let is_there = top.join(word).exists() || top.join(module).exists() || sources.iter().any(ends);
            assert!(is_there, "{page}: there is no {word}");
            checked += 1;
        }
    }
    assert!(checked > 80, "only {checked} files were found: does this test still read the documents?");
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for path in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            collect(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Keys, flags and commands that the text names in passing exist.
#[test]
fn the_text_names_what_there_is() {
    let help = String::from_utf8(command().arg("--help").output().unwrap().stdout).unwrap();
    let flags = String::from_utf8(command().args(["completions", "bash"]).output().unwrap().stdout).unwrap();
    let flags: BTreeSet<&str> = flags.split_whitespace().filter_map(|word| word.strip_prefix("--")).collect();
    let mut seen = BTreeSet::new();
    for page in pages() {
        let text = prose(&read(&page));
        for span in text.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ")) {
            let span = span.as_str();
            if let Some(arguments) = span.strip_prefix("wp-jwt-sidecar ") {
                let name = arguments.split(' ').next().unwrap();
                let known = help.lines().any(|line| line.trim_start().starts_with(&format!("{name} ")));
                assert!(known || name.starts_with(['…', '-']), "{page}: no command {name}: `{span}`");
                seen.insert("command");
            }
            let words = span.split([' ', '=', ',']);
            for flag in words.filter_map(|word| word.strip_prefix("--")).filter(|_| span.contains("wp-jwt-sidecar")) {
                assert!(flags.contains(flag) || flag == "version", "{page}: no flag --{flag}: `{span}`");
                seen.insert("flag");
            }
            if let Some(section) = span.strip_prefix('[').and_then(|rest| rest.split(']').next())
                && section.chars().all(|letter| letter.is_ascii_lowercase())
            {
                assert!(SECTIONS.iter().any(|(name, _)| *name == section), "{page}: no section [{section}]: `{span}`");
                seen.insert("section");
                let keys = span.split("] ").nth(1).and_then(|rest| rest.split(" = ").next());
                if let Some(key) = keys {
                    let key = format!("{section}.{key}");
                    assert!(KEYS.iter().any(|known| known.name == key), "{page}: no key {key}: `{span}`");
                    seen.insert("key of a section");
                }
            }
            let dotted = span.split([' ', '=', ':']).next().unwrap();
            let section = dotted.split('.').next().unwrap();
            if dotted.contains('.') && SECTIONS.iter().any(|(name, _)| *name == section) {
                let is_file = ["rs", "toml", "md", "pem"].iter().any(|ending| dotted.ends_with(&format!(".{ending}")));
                assert!(
                    is_file || FINDINGS.contains(&dotted) || KEYS.iter().any(|key| key.name == dotted),
                    "{page}: no key {dotted}: `{span}`"
                );
                seen.insert("dotted key");
            }
        }
    }
    assert_eq!(seen.len(), 5, "only {seen:?} was found: does this test still read the documents?");
}
