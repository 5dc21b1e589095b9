//! The body of a refresh, compared with serde_json and form_urlencoded: a token that the sidecar
//! reads is the one that they read.
//!
//! The comparison with PHP itself is in `tests/sidecar/json_parity.rs`.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;

use crate::refresh::json;
use crate::refresh::request::{BadRequest, Parsed, parse};
use crate::route::ForwardReason;

/// A JSON body.
pub fn json(body: &[u8], query: Option<&str>) {
    let parsed = read("application/json", query, body);
    // serde_json's `Value` refuses numbers that are too large and brackets that are nested too
    // deeply; PHP reads them.
    let Ok(serdes) = serde_json::from_slice::<Value>(body) else { return };
    assert_eq!(json::check(body), Ok(()), "serde_json is stricter than PHP, never laxer");
    let said = serdes.get("refresh_token");
    match parsed {
        Parsed::Token(token) if said.is_none() => assert_eq!(Some(token.as_str()), query),
        Parsed::Token(token) => assert_eq!(said.and_then(Value::as_str).map(trimmed), Some(token.as_str())),
        Parsed::Invalid(BadRequest::InvalidJson(error)) => panic!("{error:?} of JSON"),
        Parsed::Invalid(BadRequest::MissingToken) => assert!(query.is_none() && said.is_none_or(Value::is_null)),
        Parsed::Invalid(BadRequest::NotAString) => assert!(said.is_some_and(|it| !it.is_string() && !it.is_null())),
        Parsed::Forward(ForwardReason::SeveralTokens) => assert!(query.is_some() && said.is_some()),
        Parsed::Forward(_) => {}
    }
}

/// A form.
pub fn form(body: &[u8], query: Option<&str>) {
    let said: Vec<_> = form_urlencoded::parse(body).filter(|(name, _)| name == "refresh_token").collect();
    match read("application/x-www-form-urlencoded", query, body) {
        Parsed::Token(token) => match &said[..] {
            [] => assert_eq!(Some(token.as_str()), query),
            [(_, value)] => assert_eq!((trimmed(value), query), (token.as_str(), None)),
            _ => panic!("one of several"),
        },
        Parsed::Invalid(BadRequest::MissingToken) => assert!(query.is_none() && said.is_empty()),
        Parsed::Invalid(bad) => panic!("{bad:?} of a form"),
        Parsed::Forward(_) => {}
    }
}

fn read(content_type: &'static str, query: Option<&str>, body: &[u8]) -> Parsed {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    let parsed = parse(&headers, query, body);
    if let Parsed::Token(token) = &parsed {
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
    parsed
}

fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\r', '\n'])
}
