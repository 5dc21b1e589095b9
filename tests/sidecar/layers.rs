//! Imports only point down: the layers of `src`, and which modules each may import.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// From top to bottom. A module imports only modules of the lines below its own.
const LAYERS: &[&[&str]] = &[
    &["program"],
    &["serve"],
    &["admin"],
    &["listen"],
    &["worker"],
    &["connection", "doctor"],
    &["exchange", "assemble"],
    &["forward", "refresh"],
    &["body"],
    &["fields", "import", "index", "verify", "vet"],
    &["http1", "tls", "wordpress"],
    &["cli", "net", "shared_store", "telemetry"],
    &["access_log", "admission", "config"],
    &[
        "byte_order_mark",
        "client_addr",
        "declared",
        "drain",
        "finding",
        "last_seen",
        "metrics",
        "panics",
        "printable",
        "request_id",
        "route",
        "share",
        "time",
        "version",
    ],
];

/// Modules that import less than their layer allows.
const ONLY: &[(&str, &[&str])] = &[("http1", &["net", "time"])];

#[test]
fn imports_only_point_down() {
    let mut modules = BTreeSet::new();
    let mut faults = Vec::new();
    for file in sources(Path::new("src")) {
        let inner = file.strip_prefix("src").unwrap();
        let module = module_of(inner);
        if matches!(&*module, "main" | "lib") {
            continue;
        }
        let text = without_comments(&fs::read_to_string(&file).unwrap());
        for imported in imports(&text, depth_of(inner)).into_iter().filter(|imported| *imported != module) {
            if let Err(fault) = may_know(&module, &imported) {
                faults.push(format!("{}: {fault}", file.display()));
            }
        }
        modules.insert(module);
    }
    let known: BTreeSet<String> = LAYERS.concat().into_iter().map(str::to_owned).collect();
    assert_eq!(modules, known, "every module of src is in one layer");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The list of docs/architecture.md is this one.
#[test]
fn the_layers_are_documented() {
    let text = fs::read_to_string("docs/architecture.md").unwrap();
    let (_, list) = text.split_once("```text layers\n").unwrap();
    let (list, _) = list.split_once("```").unwrap();
    // Behind the names, in columns of their own, is what each is.
    let names = |line: &str| line.split("  ").next().unwrap().split(", ").map(str::to_owned).collect();
    let documented: Vec<Vec<String>> = list.lines().map(names).collect();
    assert_eq!(documented, LAYERS);
}

fn may_know(module: &str, imported: &str) -> Result<(), String> {
    let layer = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    let (Some(of), Some(to)) = (layer(module), layer(imported)) else {
        return Err(format!("`{module}` or `{imported}` is in no layer"));
    };
    let only = ONLY.iter().find(|(name, _)| *name == module);
    if to <= of || only.is_some_and(|(_, only)| !only.contains(&imported)) {
        return Err(format!("`{module}` may not know `{imported}`"));
    }
    Ok(())
}

fn module_of(inner: &Path) -> String {
    let first = inner.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// How many `super` lead from this file to the root. A file of tests may belong to a file beside
/// it, one level deeper.
fn depth_of(inner: &Path) -> usize {
    inner.components().count() - usize::from(inner.ends_with("mod.rs")) + usize::from(inner.ends_with("tests.rs"))
}

/// The modules of the root that occur in `text`.
fn imports(text: &str, depth: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let to_root = format!("\nuse {}", "super::".repeat(depth));
    for root in ["crate::", &to_root] {
        for (at, _) in text.match_indices(root) {
            let rest = &text[at + root.len()..];
            if rest.starts_with("super::") || text[..at].ends_with(|letter: char| letter.is_alphanumeric()) {
                continue;
            }
            found.extend(match rest.strip_prefix('{') {
                Some(group) => heads(group),
                None => vec![name(rest)],
            });
        }
    }
    found.remove("");
    found
}

/// The first names of a group, up to its closing brace.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut found, mut starts) = (0, Vec::new(), true);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => starts = true,
            _ if starts && letter.is_alphabetic() => {
                found.push(name(&group[at..]));
                starts = false;
            }
            _ => {}
        }
    }
    found
}

fn name(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

fn without_comments(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.fold(String::from("\n"), |text, line| text + line + "\n")
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

#[test]
fn what_is_read_of_a_file() {
    let text =
        "use crate::vet;\nuse crate::{a::{b, c}, d};\nlet x = crate::e::f();\nuse super::super::g;\nuse super::h;\n";
    let text = without_comments(&format!("{text}// crate::comment\n    use super::super::inner;\n"));
    let expected = ["vet", "a", "d", "e", "g"].map(str::to_owned).into();
    assert_eq!(imports(&text, 2), expected);
    assert!(may_know("metrics", "refresh").is_err() && may_know("http1", "config").is_err());
    assert!(may_know("forward", "refresh").is_err() && may_know("forward", "nowhere").is_err());
    assert!(may_know("exchange", "forward").is_ok());
}
