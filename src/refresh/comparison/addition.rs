//! What the client gets in addition to WordPress's own response: the members that `[refresh]
//! response_fields` promises, and `no-store`.
//!
//! A client that reads `token` must not fail once in a thousand times. Nothing that WordPress sends
//! is changed.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use serde_json::{Map, Value};

/// For a response that equals the sidecar's.
#[derive(Default)]
pub struct Addition {
    /// The body with the missing members; `None` if none is missing.
    pub body: Option<Bytes>,
    pub no_store: bool,
}

/// Header fields that rule out changing the body.
const OF_THE_BODY: [&str; 6] = ["content-digest", "content-encoding", "content-md5", "digest", "etag", "repr-digest"];

impl Addition {
    /// The addition to a response with `headers` and `body`, a JSON object; clients rely on
    /// `promised`.
    pub fn of(headers: &HeaderMap, body: &Bytes, promised: &Map<String, Value>) -> Self {
        let is_bound = OF_THE_BODY.iter().any(|name| headers.contains_key(HeaderName::from_static(name)));
        let says_no_store = headers
            .get_all(header::CACHE_CONTROL)
            .iter()
            .any(|value| value.as_bytes().windows(8).any(|part| part.eq_ignore_ascii_case(b"no-store")));
        Addition { body: if is_bound { None } else { with(body, promised) }, no_store: !says_no_store }
    }
}

fn with(body: &Bytes, promised: &Map<String, Value>) -> Option<Bytes> {
    let said: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let mut lacks = promised.iter().filter(|(name, _)| !said.contains_key(*name)).peekable();
    lacks.peek()?;
    let open = body.trim_ascii_end().strip_suffix(b"}")?.trim_ascii_end();
    let mut whole = open.to_vec();
    for (place, (name, value)) in lacks.enumerate() {
        if place > 0 || !said.is_empty() {
            whole.push(b',');
        }
        serde_json::to_writer(&mut whole, name).ok()?;
        whole.push(b':');
        serde_json::to_writer(&mut whole, value).ok()?;
    }
    whole.push(b'}');
    Some(whole.into())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn added(body: &str, promised: &Value) -> Option<String> {
        let Value::Object(promised) = promised else { panic!("an object") };
        with(&Bytes::copy_from_slice(body.as_bytes()), promised).map(|body| String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn what_is_absent_comes_behind_the_rest() {
        let promised = json!({"token": "a", "user_id": 2, "access_token": "b"});
        for (body, whole) in [
            (r#"{"access_token":"x\/y"}"#, Some(r#"{"access_token":"x\/y","token":"a","user_id":2}"#)),
            ("{}\n", Some(r#"{"token":"a","user_id":2,"access_token":"b"}"#)),
            ("{ \"token\": null }", Some(r#"{ "token": null,"user_id":2,"access_token":"b"}"#)),
            (r#"{"access_token":1,"user_id":1,"token":1}"#, None),
            ("[]", None),
            ("{", None),
            ("", None),
        ] {
            assert_eq!(added(body, &promised).as_deref(), whole, "{body}");
        }
    }

    #[test]
    fn a_body_that_a_field_describes_stays() {
        let promised = json!({"token": "a"});
        let Value::Object(promised) = promised else { panic!("an object") };
        let body = Bytes::from_static(b"{}");
        let mut headers = HeaderMap::new();
        let addition = Addition::of(&headers, &body, &promised);
        assert!(addition.body.is_some() && addition.no_store);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, No-Store"));
        headers.insert(header::ETAG, HeaderValue::from_static("\"1\""));
        let addition = Addition::of(&headers, &body, &promised);
        assert!(addition.body.is_none() && !addition.no_store);
    }

    proptest! {
        #[test]
        fn nothing_is_overwritten(members in proptest::collection::btree_map("[a-z]{0,3}", any::<i32>(), 0..5), spaces in "[ \n]{0,3}") {
            let body = format!("{}{spaces}", json!(members));
            let promised = json!({"a": "ours", "token": "ours"});
            let whole = added(&body, &promised).unwrap_or(body);
            let whole: Map<String, Value> = serde_json::from_str(&whole).unwrap();
            for (name, value) in &members {
                prop_assert_eq!(whole.get(name), Some(&json!(value)));
            }
            prop_assert!(whole.contains_key("token") && whole.contains_key("a"));
        }
    }
}
