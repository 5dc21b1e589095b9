//! The sidecar parses JSON like PHP: the same error number, the same token, on deliberately odd
//! texts.

use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use wp_jwt_sidecar::internals::refresh::json::{Body, Fault, Member, refresh_token};

/// Texts in one run of PHP.
const BATCH: usize = 40_000;

/// PHP's result for each text.
fn php(texts: &[Vec<u8>]) -> Vec<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/php/json_errors.php");
    let mut php =
        Command::new("php").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("PHP is installed");
    let mut input = php.stdin.take().unwrap();
    let lines: String = texts.iter().map(|text| STANDARD.encode(text) + "\n").collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = php.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The sidecar's result in the same form, or `None` if it leaves the text to PHP.
fn sidecar(text: &[u8]) -> Option<String> {
    Some(match refresh_token(text) {
        Err(Fault::Unsure) => return None,
        Err(Fault::Refused(error)) => format!("{} -", error.code()),
        Ok(Body::NotAnObject) => "0 -".to_owned(),
        Ok(Body::Object { refresh_token, .. }) => match refresh_token {
            Member::Absent => "0 -".to_owned(),
            Member::Null => "0 null".to_owned(),
            Member::Other => "0 other".to_owned(),
            Member::Text(text) => format!("0 s{}", STANDARD.encode(text)),
        },
    })
}

/// Pieces of JSON, whole and broken, and bytes that matter to a scanner.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    const KNOWN: &[&[u8]] = &[
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"",
        b" ",
        b"\n",
        b"\r\n",
        b"\t",
        b"\x0b",
        b"\x0c",
        b"\0",
        b"\x01",
        b"\x1f",
        b"\x7f",
        b"true",
        b"FALSE",
        b"nUll",
        b"tru",
        b"0",
        b"-0",
        b"01",
        b"-",
        b"1",
        b"1.",
        b".5",
        b"1.5",
        b"1e",
        b"1e5",
        b"1E+",
        b"1e-7",
        b"1e999",
        b"123456789012345678901234567890",
        b"\\",
        b"\\\"",
        b"\\u",
        b"\\u00",
        b"\\u0041",
        b"\\u0000",
        b"\\ud83d",
        b"\\uDE00",
        b"\\ud83d\\ude00",
        b"\\U0041",
        b"\\x",
        b"\\/",
        b"/",
        b"'",
        b"a",
        b"\"a\"",
        b"\"a\":",
        b"\"refresh_token\":",
        b"\"refresh\\u005ftoken\":",
        b"\"refresh_token\"",
        b"\"\\u0000a\":1",
        b"\"_x\":1",
        "é".as_bytes(),
        "\u{feff}".as_bytes(),
        "😀".as_bytes(),
        b"\x80",
        b"\xc0\x80",
        b"\xc2",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xef\xbf\xbf",
        b"\xf0\x8f\x80\x80",
        b"\xf0\x9f\x98",
        b"\xf4\x90\x80\x80",
        b"\xff",
    ];
    proptest::sample::select(KNOWN).prop_map(<[u8]>::to_vec)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        3 => piece(),
        1 => "\"[ -~é]{0,4}\"".prop_map(String::into_bytes),
        1 => "-?[0-9]{1,3}(\\.[0-9]{1,2})?([eE][+-]?[0-9])?".prop_map(String::into_bytes),
        1 => Just(b"null".to_vec()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let name = proptest::sample::select(vec!["a", "refresh_token", "refresh_token", "_b", ""]);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| [
                b"[",
                items.join(&b","[..]).as_slice(),
                b"]"
            ]
            .concat()),
            proptest::collection::vec((name, inner), 0..4).prop_map(|members| {
                let members: Vec<Vec<u8>> =
                    members.iter().map(|(name, value)| [format!("\"{name}\":").as_bytes(), value].concat()).collect();
                [b"{", members.join(&b","[..]).as_slice(), b"}"].concat()
            }),
        ]
    })
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let edited =
        (value(), any::<prop::sample::Index>(), piece(), 0..3_usize).prop_map(|(mut text, at, piece, removed)| {
            let at = at.index(text.len() + 1);
            let end = (at + removed).min(text.len());
            text.splice(at..end, piece);
            text
        });
    prop_oneof![
        3 => value(),
        3 => edited,
        2 => proptest::collection::vec(piece(), 0..8).prop_map(|pieces| pieces.concat()),
        2 => proptest::collection::vec(piece(), 0..6)
            .prop_map(|pieces| [b"\"", pieces.concat().as_slice(), b"\""].concat()),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
        1 => (505..520_usize, proptest::collection::vec(piece(), 0..3), 0..520_usize)
            .prop_map(|(open, middle, close)| {
                [b"[".repeat(open), middle.concat(), b"]".repeat(close)].concat()
            }),
    ]
}

#[test]
fn same_errors_and_same_tokens_as_php() {
    let mut runner = TestRunner::default();
    let texts: Vec<Vec<u8>> = std::iter::repeat_with(|| text().new_tree(&mut runner).unwrap())
        .map(|tree| tree.current())
        // WordPress does not parse these two.
        .filter(|text| !matches!(text.as_slice(), b"" | b"0"))
        .take(BATCH)
        .collect();
    let answers = php(&texts);
    assert_eq!(answers.len(), texts.len());
    let mut compared = std::collections::BTreeMap::<String, u32>::new();
    for (text, answer) in texts.iter().zip(&answers) {
        let shown = String::from_utf8_lossy(text);
        let kind = match sidecar(text) {
            Some(own) => {
                assert_eq!(&own, answer, "{shown:?} {text:?}");
                own.split('s').next().unwrap_or_default().to_owned()
            }
            // Texts left to PHP: error 2, literals in capitals, numbers out of range.
            None => {
                let lower = shown.to_ascii_lowercase();
                let in_capitals = |word: &str| lower.match_indices(word).any(|(at, _)| !shown[at..].starts_with(word));
                // PHP reads these as INF; serde_json refuses them.
                let is_infinite = |number: &str| number.parse::<f64>().is_ok_and(f64::is_infinite);
                let out_of_range = lower.split(|letter| !"0123456789.+-e".contains(letter)).any(is_infinite);
                let odd = out_of_range || ["true", "false", "null"].into_iter().any(in_capitals);
                assert!(answer.starts_with("2 ") || odd, "{shown:?} {answer}");
                "forwarded".to_owned()
            }
        };
        *compared.entry(kind).or_default() += 1;
    }
    // Every result occurred often enough for the comparison to be meaningful.
    for kind in ["0 -", "0 ", "0 null", "0 other", "1 -", "3 -", "4 -", "5 -", "10 -", "forwarded"] {
        let count = compared.get(kind).copied().unwrap_or_default();
        assert!(count >= 30, "only {count} of {kind:?} in {compared:?}");
    }
    let forwarded = compared.get("forwarded").copied().unwrap_or_default();
    assert!((forwarded as usize) < BATCH / 4, "{compared:?}");
}
