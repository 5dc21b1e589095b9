//! What the documents tell those who change or measure the program: the programs are there and know what they are called with.

use super::block;
use super::blocks::read;

/// The programs that measure take minutes and a machine that does nothing else; their texts say which flags they know.
#[test]
fn programs_that_measure_know_their_flags() {
    for name in ["measure-proxy", "measure-refresh", "measure-memory", "measure-streams", "measure-hyper"] {
        let text = block(name);
        let calls: Vec<&str> = text.lines().map(str::trim).filter(|line| line.starts_with("tests/")).collect();
        assert!(!calls.is_empty(), "{name}: {text}");
        for call in calls {
            let mut words = call.split(' ');
            let program = read(words.next().unwrap());
            for flag in words.filter(|word| word.starts_with("--")) {
                assert!(program.contains(&format!("[{flag} ")), "{call}: the program says nothing of {flag}");
            }
        }
    }
}

/// What is asked of a change is what `.ci/run` asks.
#[test]
fn a_change_is_tried_as_ci_does() {
    let ci = read(".ci/run");
    for line in block("contribute").lines() {
        let held = ci.lines().any(|asked| line.split(' ').all(|word| asked.split(' ').any(|other| other == word)));
        assert!(held, ".ci/run does not run {line}");
    }
}

/// The command draws what `pictures` holds.
#[test]
fn the_pictures_are_drawn_by_their_command() {
    let (text, pictures) = (block("pictures"), read("tests/sidecar/readme/pictures.rs"));
    assert_eq!(text.trim(), "UPDATE_PICTURES=1 cargo test --test sidecar readme::pictures");
    assert!(pictures.contains("\"UPDATE_PICTURES\"") && module_path!().starts_with("sidecar::readme"));
}
