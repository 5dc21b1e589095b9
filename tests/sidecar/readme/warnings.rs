//! What the program warns of is explained in docs/warnings.md.

use std::path::{Path, PathBuf};

use super::blocks::read;

#[test]
fn every_warning_is_explained() {
    let table = read("docs/warnings.md");
    let mut found = 0;
    for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let text = std::fs::read_to_string(&file).unwrap();
        let (text, _) = text.split_once("#[cfg(test)]\nmod tests {").unwrap_or((&text, ""));
        for warning in warnings(text).into_iter().chain(errors(&file, text)) {
            // The text after a value is not known beforehand.
            let words = warning.split(['{', ';']).next().unwrap().trim_end_matches([' ', ':', '"']);
            assert!(table.contains(words), "{}: a row of docs/warnings.md should explain: {warning}", file.display());
            found += usize::from(!words.is_empty());
        }
    }
    assert!(found > 25, "only {found} warnings were found: does this test still read the sources?");
}

/// The messages of `warn!` and `error!`: the last text that stands in each.
fn warnings(text: &str) -> Vec<String> {
    let starts = ["warn!(", "error!("]
        .into_iter()
        .flat_map(|name| text.match_indices(name).map(move |(at, _)| (at, at + name.len())));
    starts
        .filter(|(at, _)| !text[..*at].ends_with(|letter: char| letter.is_ascii_alphanumeric() || letter == '_'))
        .filter_map(|(_, from)| texts(&text[from..]).pop())
        .collect()
}

/// The errors of requests that are the site's or our own fault, which are logged as warnings.
fn errors(file: &Path, text: &str) -> Vec<String> {
    let of_exchanges = ["exchange/error.rs", "forward/error.rs", "refresh/error.rs", "dial.rs"];
    if !of_exchanges.iter().any(|of_exchanges| file.ends_with(of_exchanges)) {
        return Vec::new();
    }
    let all = text.split("#[error(").skip(1).filter_map(|rest| texts(rest).into_iter().next());
    all.filter(|message| ["upstream", "database", "task"].iter().any(|word| message.contains(word))).collect()
}

/// The string literals up to the parenthesis that closes what is open here.
fn texts(rest: &str) -> Vec<String> {
    let (mut found, mut depth, mut letters) = (Vec::new(), 1, rest.chars());
    while let Some(letter) = letters.next() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            '"' => {
                let mut text = String::new();
                while let Some(letter) = letters.next().filter(|letter| *letter != '"') {
                    match letter {
                        '\\' => text.push(letters.next().unwrap_or('\\')),
                        _ => text.push(letter),
                    }
                }
                // A line that goes on in the next one: its backslash is gone, its break and indent
                // are not.
                found.push(text.split_whitespace().collect::<Vec<_>>().join(" "));
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs"))
        .collect()
}
