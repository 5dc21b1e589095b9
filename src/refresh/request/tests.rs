use super::*;
use http::HeaderValue;
use proptest::prelude::*;

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

fn read(content_type: &str, query: Option<&str>, body: &str) -> Parsed {
    let mut headers = HeaderMap::new();
    if !content_type.is_empty() {
        headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
    }
    parse(&headers, query, body.as_bytes())
}

fn native(token: &str) -> Parsed {
    Parsed::Token(token.to_owned())
}

const MISSING: Parsed = Parsed::Invalid(BadRequest::MissingToken);
const NOT_A_STRING: Parsed = Parsed::Invalid(BadRequest::NotAString);

fn forward(reason: ForwardReason) -> Parsed {
    Parsed::Forward(reason)
}

#[test]
fn json_bodies() {
    let bad = |error| Parsed::Invalid(BadRequest::InvalidJson(error));
    for (body, expected) in [
        (r#"{"refresh_token":"0aZ"}"#, native("0aZ")),
        (r#"{"refresh_token":"  0aZ\n"}"#, native("0aZ")),
        (r#"{"refresh_token":"0aZ","device":"x","n":1}"#, native("0aZ")),
        (r#"{"refresh_token":""}"#, native("")),
        (r#"{"refresh_token":" \t\r\n "}"#, native("")),
        ("", MISSING),
        ("0", MISSING),
        ("{}", MISSING),
        ("null", MISSING),
        (r#"["refresh_token"]"#, MISSING),
        (r#"{"refresh_token":null}"#, MISSING),
        ("refresh_token=0aZ", bad(JsonError::Syntax)),
        (r#"{"refresh_token":"#, bad(JsonError::Syntax)),
        (r#"{"refresh_token":"a"#, bad(JsonError::ControlCharacter)),
        (r#"{"refresh_token":12345}"#, NOT_A_STRING),
        (r#"{"refresh_token":false}"#, NOT_A_STRING),
        (r#"{"refresh_token":["a"]}"#, NOT_A_STRING),
        (r#"{"refresh_token":{}}"#, NOT_A_STRING),
        (r#"{"refresh_token":"a b"}"#, forward(ForwardReason::Token)),
        (r#"{"refresh_token":"a%20"}"#, forward(ForwardReason::Token)),
        (r#"{"refresh_token":"<b>a"}"#, forward(ForwardReason::Token)),
        (r#"{"refresh_token":"é"}"#, forward(ForwardReason::Token)),
        (r#"{"refresh_token":"\u0000a"}"#, forward(ForwardReason::Token)),
        (r#"{"refresh_token":"a","_fields":"x"}"#, forward(ForwardReason::BodyParameter)),
        (r#"{"refresh_token":"a","rest_route":1}"#, forward(ForwardReason::BodyParameter)),
        (r#"{"refresh_token":"a","b":True}"#, forward(ForwardReason::Json)),
    ] {
        assert_eq!(read(JSON, None, body), expected, "{body}");
    }
    assert_eq!(read(JSON, Some("q"), ""), native("q"));
    assert_eq!(read(JSON, Some("q"), "{}"), native("q"));
    assert_eq!(read(JSON, Some("q"), "{"), bad(JsonError::Syntax));
    assert_eq!(read(JSON, Some("q"), "[]"), forward(ForwardReason::Json));
    for token in [r#""a""#, "null", "1"] {
        let body = format!(r#"{{"refresh_token":{token}}}"#);
        assert_eq!(read(JSON, Some("q"), &body), forward(ForwardReason::SeveralTokens));
    }
}

#[test]
fn forms() {
    for (body, expected) in [
        ("refresh_token=0aZ", native("0aZ")),
        ("refresh_token=+0aZ%0a", native("0aZ")),
        ("refresh_token=%61", native("a")),
        ("refresh_token=", native("")),
        ("grant_type=refresh_token&refresh_token=a&client_id=x%20y&client_secret=&scope=", native("a")),
        ("grant_type=refresh_token", MISSING),
        ("", MISSING),
        ("refresh_token", forward(ForwardReason::BodyParameter)),
        ("refresh_token=a&", forward(ForwardReason::BodyParameter)),
        ("refresh_token=a&b=1", forward(ForwardReason::BodyParameter)),
        ("refresh_token=a&wp_customize=on", forward(ForwardReason::BodyParameter)),
        ("refresh_token=a&rest_route=/", forward(ForwardReason::BodyParameter)),
        ("refresh.token=a", forward(ForwardReason::BodyParameter)),
        ("refresh_token[]=a", forward(ForwardReason::BodyParameter)),
        ("refresh%5Ftoken=a", forward(ForwardReason::BodyParameter)),
        ("refresh_token=a&refresh_token=a", forward(ForwardReason::SeveralTokens)),
        ("refresh_token=a%", forward(ForwardReason::Token)),
        ("refresh_token=a;b=c", forward(ForwardReason::Token)),
        (r#"{"refresh_token":"a"}"#, forward(ForwardReason::BodyParameter)),
    ] {
        assert_eq!(read(FORM, None, body), expected, "{body}");
    }
    assert_eq!(read(FORM, Some("q"), ""), native("q"));
    assert_eq!(read(FORM, Some("q"), "scope=a"), native("q"));
    assert_eq!(read(FORM, Some("q"), "refresh_token=a"), forward(ForwardReason::SeveralTokens));
    let many = "scope=a&".repeat(FORM_FIELD_LIMIT - 1) + "refresh_token=a";
    assert_eq!(read(FORM, None, &many), native("a"));
    let more = "scope=a&".repeat(FORM_FIELD_LIMIT) + "refresh_token=a";
    assert_eq!(read(FORM, None, &more), forward(ForwardReason::BodyParameter));
}

#[test]
fn content_types() {
    let body = r#"{"refresh_token":"a"}"#;
    for json in [
        JSON,
        "Application/JSON",
        "application/json;charset=utf-8",
        "application/json ; charset=utf-8",
        "application/vnd.api+json",
        "application/json; a=\"b, application/x-www-form-urlencoded\"",
    ] {
        assert_eq!(read(json, None, body), native("a"), "{json}");
    }
    for form in [FORM, "application/X-WWW-form-urlencoded; charset=UTF-8"] {
        assert_eq!(read(form, None, "refresh_token=a"), native("a"), "{form}");
    }
    for ignored in ["", "text/plain", "text/plain;charset=UTF-8", "application/octet-stream"] {
        assert_eq!(read(ignored, None, body), MISSING, "{ignored}");
        assert_eq!(read(ignored, Some("q"), body), native("q"), "{ignored}");
    }
    for odd in [
        "json",
        " ",
        ";application/json",
        "text/json",
        "application/json+oembed",
        "application/+json",
        "application/json, text/plain",
        "text/plain, application/json",
        "application/x-www-form-urlencoded,application/json",
        "application /json",
        "application/",
    ] {
        assert_eq!(read(odd, None, body), forward(ForwardReason::ContentType), "{odd}");
    }
    assert_eq!(read("multipart/form-data; boundary=x", None, body), forward(ForwardReason::Multipart));
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_bytes(b"application/j\xffson").unwrap());
    assert_eq!(parse(&headers, None, b"{}"), forward(ForwardReason::ContentType));
}

#[test]
fn a_large_body_is_forwarded() {
    let body = " ".repeat(BODY_LIMIT + 1);
    assert_eq!(read(JSON, None, &body), forward(ForwardReason::BodyTooLarge));
}

#[test]
fn debug_hides_the_token() {
    assert_eq!(format!("{:?}", native("0123")), "Token(…)");
}

proptest! {
    #[test]
    fn never_panics_and_tokens_are_plain(
        content_type in prop_oneof![Just(JSON), Just(FORM), Just("text/plain")],
        query in proptest::option::of("[0-9A-Za-z]{0,8}"),
        body in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            "(refresh_token|scope|a)=[ -~]{0,9}(&refresh_token=[%+a-f0-9]{0,6})?"
                .prop_map(String::into_bytes),
            r#"\{"refresh_token":"[ -~]{0,9}"\}"#.prop_map(String::into_bytes),
        ],
    ) {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Parsed::Token(token) = parse(&headers, query.as_deref(), &body) {
            prop_assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
    }
}
