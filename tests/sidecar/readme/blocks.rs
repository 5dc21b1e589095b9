//! The blocks of the documents, and who runs each.

use std::collections::BTreeMap;
use std::path::Path;

/// Blocks that a test of this module runs, or holds beside what they are about.
const RUN_HERE: &[&str] = &[
    "apache",
    "apache-modules",
    "certbot",
    "certbot-hook",
    "certbot-tls",
    "config",
    "contribute",
    "credential",
    "credential-key",
    "database-certificate",
    "database-tls",
    "declared",
    "import",
    "import-elsewhere",
    "import-of-several",
    "load-balancer",
    "low-ports",
    "measure-hyper",
    "measure-memory",
    "measure-proxy",
    "measure-refresh",
    "measure-streams",
    "nginx",
    "nginx-refreshes-only",
    "out",
    "own-tls",
    "pictures",
    "prometheus",
    "quick-start",
    "upstream-certificate",
    "with-token",
];

/// Blocks that `tests/package` runs, which takes them by these names.
const RUN_BY_PACKAGE: &[&str] = &[
    "check",
    "doctor",
    "import-at-start",
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
    let blocks = blocks(&all());
    let mut claimed: Vec<&str> = [RUN_HERE, RUN_BY_PACKAGE].concat();
    claimed.sort_unstable();
    assert_eq!(blocks.keys().collect::<Vec<_>>(), claimed.iter().collect::<Vec<_>>(), "in the documents; who runs it");
    let package = read("tests/package");
    for name in RUN_BY_PACKAGE {
        assert!(package.contains(&format!("documented {name}")), "tests/package does not run {name}");
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
    blocks(&all()).remove(name).unwrap_or_else(|| panic!("no document has the block {name}"))
}

pub fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// The documents: the README, and the pages below `docs`.
pub fn pages() -> Vec<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let names = std::fs::read_dir(docs).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut pages: Vec<String> =
        names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
    pages.push("README.md".to_owned());
    pages.sort_unstable();
    pages
}

fn all() -> String {
    pages().iter().map(|page| read(page)).collect()
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
            ["text", ..] => {}
            [_, name] => assert!(found.insert(name.to_owned(), text).is_none(), "two blocks are called {name}"),
            _ => panic!("a block has no name behind its language: {info:?} {text}"),
        }
    }
    found
}
