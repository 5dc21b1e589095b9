//! What this program does instead of PHP and WordPress is what they do: the same generated inputs
//! go through PHP itself (command line, Debian's WordPress) and through this program.
//!
//! Each PHP process takes a batch, since starting one costs more than hundreds of inputs. The seeds
//! are fixed, so every run is the same; `PHP_PARITY_CASES` sets another number of inputs.

pub(crate) mod configuration;
mod generated;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use wp_jwt_sidecar::internals::wordpress::text;

const BATCH: usize = 500;

#[test]
fn text_functions_are_wordpress_own() {
    let mut runner = runner(1);
    let texts = nasty_text();
    for _ in 0..cases().div_ceil(BATCH) {
        let inputs: Vec<Vec<u8>> = (0..BATCH).map(|_| sample(&mut runner, &texts)).collect();
        let encoded: Vec<String> = inputs.iter().map(|input| hex(input)).collect();
        let answer = php("wordpress_text.php", &[&wordpress_dir()], &serde_json::to_vec(&encoded).unwrap());
        let answers: Vec<Vec<String>> = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answers.len(), inputs.len());
        for (input, answer) in inputs.iter().zip(&answers) {
            let [sanitized, slashed, json, url] = answer.as_slice() else { panic!("{answer:?}") };
            let shown = String::from_utf8_lossy(input);
            assert_eq!(text::sanitize_text_field(input), unhex(sanitized), "sanitize_text_field({shown:?})");
            let Ok(input) = std::str::from_utf8(input) else { continue };
            assert_eq!(text::wp_slash(input), unhex(slashed), "wp_slash({shown:?})");
            assert_eq!(text::json_ascii(&text::wp_slash(input)), unhex(json), "json_ascii({shown:?})");
            // Inputs that are not paths, and `//` with a bracket, are outside the function's
            // promise.
            let trimmed = input.trim_start_matches([' ', '\t', '\n', '\r', '\0', '\u{b}']);
            if trimmed.starts_with('/') && !(trimmed.contains(['[', ']']) && unhex(url).starts_with("//")) {
                assert_eq!(text::esc_url_raw(input), unhex(url), "esc_url_raw({shown:?})");
            }
        }
    }
}

/// Short runs of what the functions treat in a special way.
fn nasty_text() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        6 => proptest::sample::select(vec![
            "<", ">", "<", "<!", "<!-", "<!--", "-->", "--", "-", "<?", "<?php ", "?>", "<?xml ", "<?XML", "<!DOCTYPE ", "<!doctype", "doctype", "DOCTYPE>", "?xml", "xml", "<?a", "<?xm",
            "<script>", "</script>", "<SCRIPT a='>'>", "</SCRIPT>", "<style", "</style>", "<b>", "</b>", "<b", "< b", "\"", "'", "\\", "(", ")",
            "&", "&amp;", "&lt;", "&apos;", "&nbsp;", "&frac12;", "&bogus;", "&#0;", "&#00;", "&#38;", "&#0000038;", "&#x0;", "&#x26;", "&#X0026;",
            "&#xD800;", "&#1114112;", "&#12345678;", "&#x110000;", "#38;", "amp;", ";", ";//", "#",
            "%", "%4", "%41", "41", "%0", "%0d", "%0A", "d", "a", "%%", "%c3%a9", " ", "  ", "\t", "\n", "\r", "\r\n", "\u{b}", "\u{c}", "\0",
            "/", "//", ":", "[", "]", "?", "=", "{", "}", "|", "^", "`", "~", "é", "😀", "\u{feff}", "\u{2028}", "\u{7f}", "\u{1}", "-", "x", "l", "e", "E", "0", "<\n", "<\n>",
        ]).prop_map(|fragment| fragment.as_bytes().to_vec()),
        2 => "[ -~]{1,6}".prop_map(String::into_bytes),
        1 => any::<char>().prop_map(|character| character.to_string().into_bytes()),
    ];
    let text = proptest::collection::vec(fragment, 0..14).prop_map(|fragments| fragments.concat());
    (text, 0..20_u8, any::<u8>()).prop_map(|(text, kind, byte)| match kind {
        0 => [text.as_slice(), &[byte]].concat(),
        1..=7 => [b"/", text.as_slice()].concat(),
        _ => text,
    })
}

/// The output of a script in `tests/php` for this input. PHP's warnings are failures.
pub(crate) fn php(script: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("php")
        .args(["-d", "display_errors=stderr", "-d", "error_reporting=-1"])
        .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/php").join(script))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the php command line interpreter");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn wordpress_dir() -> String {
    std::env::var("WORDPRESS_DIR").unwrap_or_else(|_| "/usr/share/wordpress".to_owned())
}

fn cases() -> usize {
    std::env::var("PHP_PARITY_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(BATCH)
}

fn runner(seed: u8) -> TestRunner {
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]))
}

fn sample<S: Strategy>(runner: &mut TestRunner, strategy: &S) -> S::Value {
    strategy.new_tree(runner).unwrap().current()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// PHP's results are UTF-8 whenever ours must be; an `Err` would differ from every text.
fn unhex(hex: &str) -> String {
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    String::from_utf8(bytes).unwrap_or_else(|error| format!("no UTF-8: {:?}", error.as_bytes()))
}
