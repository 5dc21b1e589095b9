//! The blocks of the README, and who runs each.

use std::collections::BTreeMap;
use std::path::Path;

/// Blocks that a test of this module runs.
const RUN_HERE: &[&str] = &[
    "apache",
    "apache-modules",
    "config",
    "import",
    "load-balancer",
    "nginx",
    "nginx-refreshes-only",
    "out",
    "own-tls",
    "prometheus",
    "quick-start",
];

/// Blocks that `tests/package` runs, which takes them by these names.
const RUN_BY_PACKAGE: &[&str] = &[
    "check",
    "doctor",
    "install",
    "journal",
    "look",
    "reload",
    "remove",
    "socket",
    "socket-on",
    "try",
    "upgrade",
    "verify",
];

#[test]
fn every_block_has_its_test() {
    let blocks = blocks(&read("README.md"));
    let mut claimed: Vec<&str> = [RUN_HERE, RUN_BY_PACKAGE].concat();
    claimed.sort_unstable();
    assert_eq!(blocks.keys().collect::<Vec<_>>(), claimed.iter().collect::<Vec<_>>(), "in the README; who runs it");
    let package = read("tests/package");
    for name in RUN_BY_PACKAGE {
        assert!(package.contains(&format!("readme {name}")), "tests/package does not run {name}");
    }
}

#[test]
fn a_block_without_a_name_is_not_overlooked() {
    let found = std::panic::catch_unwind(|| blocks("```sh\nrm -rf /\n```\n"));
    assert!(found.is_err());
    let found = blocks("```text\na picture\n```\n\n```sh one\na\nb\n```\n");
    assert_eq!(found, BTreeMap::from([("one".to_owned(), "a\nb\n".to_owned())]));
}

/// The text of a block.
pub fn block(name: &str) -> String {
    assert!(RUN_HERE.contains(&name), "{name} is not among the blocks that are run here");
    blocks(&read("README.md")).remove(name).unwrap_or_else(|| panic!("the README has no block {name}"))
}

pub fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// All blocks by name, but pictures, which are `text`.
fn blocks(markdown: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix("```") else { continue };
        let text: String =
            lines.by_ref().take_while(|line| line.trim() != "```").flat_map(|line| [line, "\n"]).collect();
        match info.split_whitespace().collect::<Vec<_>>()[..] {
            ["text"] => {}
            [_, name] => assert!(found.insert(name.to_owned(), text).is_none(), "two blocks are called {name}"),
            _ => panic!("a block of the README has no name behind its language: {info:?} {text}"),
        }
    }
    found
}
