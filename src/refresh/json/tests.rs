use super::*;
use proptest::prelude::*;

fn error(text: &str) -> Option<u8> {
    match check(text.as_bytes()) {
        Ok(()) => None,
        Err(Fault::Refused(error)) => Some(error.code()),
        // Not PHP's number: no result.
        Err(Fault::Unsure) => Some(2),
    }
}

// The results of PHP 8.2; `tests/sidecar/json_parity.rs` asks PHP itself about many more.
#[test]
fn faults_are_those_of_php() {
    for (text, code) in [
        ("{}", None),
        (" null\r\n", None),
        ("-0", None),
        ("1e999", None),
        (r#"{"\u0000a":1,"a":1}"#, None),
        ("\"\u{7f}\"", None),
        ("", Some(4)),
        (" ", Some(4)),
        ("\u{feff}{}", Some(4)),
        (r#"{"a":"#, Some(4)),
        (r#"{"a":]"#, Some(4)),
        ("[1,]", Some(4)),
        ("01", Some(4)),
        ("1.", Some(4)),
        ("nul", Some(4)),
        (r#"[1 "abc""#, Some(4)),
        (r#"[1 "abc"#, Some(3)),
        (r#""abc"#, Some(3)),
        ("\"a\nb\"", Some(3)),
        ("{}\0", Some(3)),
        (r#""\x""#, Some(4)),
        (r#""\u00""#, Some(4)),
        (r#""\ud800""#, Some(10)),
        (r#""\ud83d\ude00""#, None),
        (r#""\ud83d\u0041""#, Some(10)),
        (r#""\udc00\ud800""#, Some(10)),
        ("TRUE", Some(2)),
        ("TRU", Some(4)),
        ("[1}", Some(2)),
        ("{]", Some(2)),
    ] {
        assert_eq!(error(text), code, "{text:?}");
    }
    assert_eq!(check(b"1\xff"), Err(Fault::Refused(JsonError::Utf8)));
    assert_eq!(check(b"\"\xed\xa0\x80\""), Err(Fault::Refused(JsonError::Utf8)));
    assert_eq!(check(b"tru\xff"), Err(Fault::Refused(JsonError::Syntax)));
}

#[test]
fn depth_is_counted_when_a_bracket_opens() {
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    assert_eq!(error(&nested(511)), None);
    assert_eq!(error(&nested(512)), Some(1));
    assert_eq!(error(&("[".repeat(512) + "\u{1}")), Some(1));
    assert_eq!(error(&("[".repeat(511) + "\u{1}")), Some(3));
}

#[test]
fn members() {
    let token = |text: &str| match refresh_token(text.as_bytes()) {
        Ok(Body::Object { refresh_token, .. }) => Some(refresh_token),
        _ => None,
    };
    let text = |text: &str| Some(Member::Text(text.to_owned()));
    assert!(token("{}") == Some(Member::Absent));
    assert!(token(r#"{"refresh_token":"a"}"#) == text("a"));
    assert!(token(r#"{"refresh\u005ftoken":"\u0061"}"#) == text("a"));
    assert!(token(r#"{"refresh_token":1,"refresh_token":"a"}"#) == text("a"));
    assert!(token(r#"{"refresh_token":"a","refresh_token":null}"#) == Some(Member::Null));
    assert!(token(r#"{"refresh_token":[{"a":1}]}"#) == Some(Member::Other));
    assert!(token(r#"{"Refresh_token":"a"}"#) == Some(Member::Absent));
    assert!(token(r#"{"a":{"refresh_token":"a"},"b":1e999}"#) == Some(Member::Absent));
    for other in ["[]", "1", "null", "true", r#""refresh_token""#, r#"["refresh_token"]"#] {
        assert!(refresh_token(other.as_bytes()) == Ok(Body::NotAnObject), "{other}");
    }
    for other in [r#"{"a":TRUE}"#, r#"{"refresh_token":1e999}"#] {
        assert!(refresh_token(other.as_bytes()) == Err(Fault::Unsure), "{other}");
    }
    for (body, special) in
        [(r#"{"_fields":1}"#, true), (r#"{"a":1,"rest_route":"/"}"#, true), (r#"{"a":{"_b":1},"a_":2}"#, false)]
    {
        let read = refresh_token(body.as_bytes());
        assert!(matches!(read, Ok(Body::Object { has_special_name, .. }) if has_special_name == special));
    }
}

proptest! {
    #[test]
    fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = refresh_token(&text);
    }

    /// serde_json is stricter than PHP, never laxer.
    #[test]
    fn what_serde_reads_php_reads(text in r#"[\[\]{}:,"a-c0-2.eE+\- \\ut\n]{0,12}"#) {
        if serde_json::from_str::<serde_json::Value>(&text).is_ok() {
            prop_assert_eq!(check(text.as_bytes()), Ok(()));
        }
    }
}
