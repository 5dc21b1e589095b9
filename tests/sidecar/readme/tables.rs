//! Tables of the documents that must have a row for each thing that the program has.

use std::path::Path;

use wp_jwt_sidecar::internals::metrics::Event;

use super::blocks::read;

/// The text below this heading, up to the next one of its rank.
fn section(page: &str, heading: &str) -> String {
    let text = read(page);
    let (_, below) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{page}: no {heading}"));
    let rank = heading.split(' ').next().unwrap();
    below.split(&format!("\n{rank} ")).next().unwrap().to_owned()
}

#[test]
fn every_status_of_our_own_is_explained() {
    let rows = section("docs/forwarding.md", "## Status codes of the sidecar's own");
    let label = |event: &Event, name: &str| {
        event.series().labels.iter().find(|(label, _)| *label == name).map(|(_, value)| *value)
    };
    let errors = Event::ALL.iter().filter(|event| event.series().family == "errors");
    let mut found = 0;
    for event in errors {
        let (reason, status) = (label(event, "reason").unwrap(), label(event, "status").unwrap());
        let row = rows.lines().find(|line| line.contains(&format!("`{reason}`")));
        let row = row.unwrap_or_else(|| panic!("docs/forwarding.md explains no {reason} ({status})"));
        assert!(row.split('|').nth(1).unwrap().contains(status), "{reason} is {status}: {row}");
        found += 1;
    }
    assert!(found > 20, "{found}");
}

#[test]
fn every_reason_to_leave_a_refresh_is_explained() {
    let rows = section("docs/operating.md", "## Why a refresh was left to WordPress");
    let counters = read("src/refresh/counters.rs");
    let (_, family) = counters.split_once("\"refreshes_left\"").unwrap();
    let (family, _) = family.split_once("\n    }").unwrap();
    let reasons: Vec<&str> = family.split("reason = \"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(reasons.len() >= 5, "{reasons:?}");
    for reason in reasons {
        assert!(rows.contains(&format!("\n| `{reason}` |")), "docs/operating.md does not explain the reason {reason}");
    }
}

/// The last column of the table of attacks names tests: modules of `tests/sidecar`, of `src`, or programs.
#[test]
fn every_attack_names_tests_that_there_are() {
    let table = section("docs/security.md", "## What an attacker can try");
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 15, "{}", rows.len());
    for row in rows {
        let tests = row.rsplit('|').nth(1).unwrap();
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test: {row}");
        for name in names {
            let places = [format!("tests/sidecar/{name}.rs"), name.to_owned(), format!("src/fields/{name}.rs")];
            let of_refresh = format!("src/refresh/{name}.rs");
            assert!(places.iter().chain([&of_refresh]).any(|place| top.join(place).is_file()), "no test {name}: {row}");
        }
    }
}
