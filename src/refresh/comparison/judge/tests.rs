use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::{Algorithm, Secret};

const ISSUER: &str = "http://shop.example";

fn signer() -> Arc<Signer> {
    let secret = Secret::new("secret-key-0123456789-0123456789-0123456789".to_owned());
    Arc::new(Signer::new(Algorithm::HS256, Some(&secret), None).unwrap())
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(value) = value else { panic!("an object") };
    value
}

fn plain_head() -> HeaderMap {
    let fields = [("content-type", "application/json; charset=UTF-8"), ("allow", "POST")];
    fields.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap<_>>()
}

fn exchanged() -> Expected {
    let body = json!({"access_token": "", "expires_in": 0, "token_type": "Bearer", "refresh_token": ""});
    let token = Expectation::Exchanged {
        issuer: ISSUER.to_owned(),
        signer: signer(),
        user_id: 2,
        lifetime: 600,
        values: Values::default(),
    };
    Expected {
        status: StatusCode::OK,
        head: plain_head(),
        body: object(body),
        token,
        ignored: Arc::new([]),
        has_cookies: false,
        is_of_app: false,
    }
}

fn refused(is_certain: bool) -> Expected {
    let body = json!({"code": NOT_LIVE, "message": "Invalid refresh token.", "data": {"status": 403}});
    Expected {
        status: StatusCode::FORBIDDEN,
        body: object(body),
        token: Expectation::Refused { is_certain },
        ..exchanged()
    }
}

fn jwt() -> String {
    let claims = json!({"iss": ISSUER, "iat": 1_000, "nbf": 1_000, "exp": 1_600, "data": {"user": {"id": "2"}}});
    signer().sign_claims(claims.to_string().as_bytes())
}

fn plain() -> Map<String, Value> {
    let refresh_token = "0123456789abcdef0123456789abcdef";
    object(json!({"access_token": jwt(), "expires_in": 600, "token_type": "Bearer", "refresh_token": refresh_token}))
}

fn head(status: u16, fields: &[(&str, &str)]) -> Parts {
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    *response.headers_mut() = plain_head();
    for (name, value) in fields {
        response.headers_mut().append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    response.into_parts().0
}

fn found(finding: &Finding) -> String {
    match finding {
        Finding::Differs(difference) => format!("{}: {difference}", difference.kind.name()),
        Finding::Suspicious(difference) => format!("{}? {difference}", difference.kind.name()),
        Finding::Void => "void".to_owned(),
    }
}

fn said(head: &Parts, body: Option<&[u8]>, expected: &Expected) -> String {
    let body = body.map(Bytes::copy_from_slice);
    let further = |access_token: &str, _: &str| object(json!({"token": access_token, "user_id": 2}));
    match judge(head, body.as_ref(), expected, 998..=1_003, further) {
        Judged::Agrees(received, unsure) => {
            let pair = received.map_or("", |_| " with a pair");
            format!("agrees{pair} {}", unsure.iter().map(|change| change.name.as_str()).collect::<String>())
        }
        Judged::Found(finding) => found(&finding),
        Judged::Session { ended, kept } => format!("{} | {}", found(&ended), found(&kept)),
    }
}

fn success(change: impl Fn(&mut Map<String, Value>)) -> String {
    let mut body = plain();
    change(&mut body);
    said(&head(200, &[]), Some(&serde_json::to_vec(&body).unwrap()), &exchanged())
}

#[test]
fn the_body_of_a_success() {
    let set = |name: &'static str, value: Value| success(|body| drop(body.insert(name.to_owned(), value.clone())));
    assert_eq!(success(|_| ()), "agrees with a pair ");
    for (said, words) in [
        (set("roles", json!(["subscriber"])), "body: body +roles (array of string)"),
        (set("access_token", Value::Null), "body: body access_token (null)"),
        (set("expires_in", json!("600")), "body: body expires_in (string)"),
        (set("expires_in", json!(900)), "lifetime: expires_in 900 s, the setting says 600 s"),
        (set("token_type", json!("bearer")), "body: body token_type (not Bearer)"),
        (set("refresh_token", json!("0123")), "body: body refresh_token (not 32 hex digits)"),
        (set("access_token", json!("a.b.c")), "claim: claim access token that is not a JWT"),
        (success(|body| drop(body.shift_remove("token_type"))), "body: body -token_type"),
        // A member that the sidecar sends, too.
        (set("token", json!(jwt())), "agrees with a pair "),
        (set("user_id", json!(2)), "agrees with a pair "),
        (set("user_id", json!(3)), "body: body +user_id (integer)"),
        (set("expires_in", json!(598)), "agrees with a pair "),
    ] {
        assert_eq!(said, words);
    }
    let replaced = success(|body| *body = object(json!({"success": true, "data": {"token": "secret"}})));
    assert_eq!(
        replaced,
        "body: body +success (boolean), +data (object), -access_token, -expires_in, -token_type, -refresh_token | \
         body? body +success (boolean), +data (object), -access_token, -expires_in, -token_type, -refresh_token"
    );
}

#[test]
fn what_is_no_answer_of_the_plugins() {
    for (status, body, words) in [
        (200, "<html>", "body? body that is not JSON"),
        (200, "[1]", "body: body (array of integer)"),
        (201, "{}", "body: status 201, the plugin answers 200"),
        (204, "", "void"),
        (302, "", "void"),
        (429, r#"{"code":"jwt_auth_rate_limited"}"#, "void"),
        (500, "<html>", "session? status 500, and the token is revoked | void"),
        (503, r#"{"code":"busy"}"#, "void"),
        (403, "<html>", "void"),
        (403, r#"{"message":"x"}"#, "void"),
        (413, r#"{"code":"x"}"#, "void"),
        (
            401,
            r#"{"code":"rest_forbidden"}"#,
            "refusal: status 401, code rest_forbidden, and the token is revoked | refusal? status 401, code rest_forbidden, \
             the plugin answers 200",
        ),
        (
            403,
            r#"{"code":"jwt_auth_invalid_refresh_token"}"#,
            "void | refusal? status 403, code jwt_auth_invalid_refresh_token, the plugin answers 200",
        ),
        (
            403,
            r#"{"code":"alice@example.org"}"#,
            "refusal: status 403, code …, and the token is revoked | refusal? status 403, code …, the plugin answers 200",
        ),
    ] {
        assert_eq!(said(&head(status, &[]), Some(body.as_bytes()), &exchanged()), words, "{status} {body}");
    }
    assert_eq!(said(&head(200, &[]), None, &exchanged()), "void");
    let mut page = head(200, &[]);
    page.headers.insert(header::CONTENT_TYPE, "text/html".parse().unwrap());
    assert_eq!(said(&page, Some(b"<html>"), &exchanged()), "void");
}

#[test]
fn fields_of_a_success() {
    let body = serde_json::to_vec(&plain()).unwrap();
    let with = |fields: &[(&str, &str)], expected: &Expected| said(&head(200, fields), Some(&body), expected);
    assert_eq!(with(&[("set-cookie", "a=b"), ("x-new", "1")], &exchanged()), "header: header +set-cookie");
    assert_eq!(with(&[("x-new", "1")], &exchanged()), "agrees with a pair x-new");
    assert_eq!(with(&[("content-encoding", "gzip")], &exchanged()), "void");
    // The site may have sent it because the client sent a cookie.
    let with_cookies = Expected { has_cookies: true, ..exchanged() };
    assert_eq!(with(&[("set-cookie", "a=b")], &with_cookies), "header? header +set-cookie");
    let ignoring = Expected { ignored: Arc::new(["set-cookie".to_owned()]), ..exchanged() };
    assert_eq!(with(&[("set-cookie", "a=b")], &ignoring), "agrees with a pair ");
    // The fields for an app's origin are compared with those of the earlier response.
    let cors = [("access-control-allow-origin", "*"), ("vary", "Origin")];
    assert_eq!(with(&cors, &exchanged()), "header: header +access-control-allow-origin");
    let of_app = Expected { is_of_app: true, ..exchanged() };
    assert_eq!(with(&cors, &of_app), "agrees with a pair ");
    assert_eq!(with(&[&cors[..], &[("set-cookie", "a=b")]].concat(), &of_app), "header: header +set-cookie");
}

#[test]
fn refusals() {
    let said = |status, change: fn(&mut Map<String, Value>)| {
        let expected = refused(true);
        let mut body = expected.body.clone();
        change(&mut body);
        said(&head(status, &[]), Some(&serde_json::to_vec(&body).unwrap()), &expected)
    };
    assert_eq!(said(403, |_| ()), "agrees ");
    assert_eq!(said(401, |_| ()), "refusal: status 401, the plugin answers 403");
    let text = said(403, |body| drop(body.insert("message".to_owned(), json!("Nein."))));
    assert_eq!(text, "refusal: the text of jwt_auth_invalid_refresh_token");
    let more = said(403, |body| drop(body.insert("help".to_owned(), json!("url"))));
    assert_eq!(more, "refusal: body of a refusal +help (string)");
    let other = said(401, |body| drop(body.insert("code".to_owned(), json!("rest_not_logged_in"))));
    assert_eq!(other, "refusal? status 401, code rest_not_logged_in, the plugin answers 403");
    for status in [429, 500, 503] {
        assert_eq!(said(status, |_| ()), "void");
    }
    let body = serde_json::to_vec(&plain()).unwrap();
    let served = |is_certain| super::tests::said(&head(200, &[]), Some(&body), &refused(is_certain));
    assert_eq!(served(true), "refusal: status 200, the plugin answers 403");
    assert_eq!(served(false), "void");
}

/// Any JSON.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        Just(Value::from(jwt())),
    ];
    let name = prop_oneof![
        Just("access_token".to_owned()),
        Just("refresh_token".to_owned()),
        Just("expires_in".to_owned()),
        Just("token_type".to_owned()),
        Just("code".to_owned()),
        Just("data".to_owned()),
        ".{0,10}",
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((name.clone(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_answer_can_be_judged(status in 200_u16..600, value in any_json(), certain in any::<bool>()) {
        let body = value.to_string();
        let _ = said(&head(status, &[]), Some(body.as_bytes()), &exchanged());
        let _ = said(&head(status, &[("set-cookie", "x")]), Some(body.as_bytes()), &refused(certain));
    }

    #[test]
    fn no_value_is_said(secret in "[g-z]{12,20}", name in "[a-f]{1,8}") {
        let mut body = plain();
        body.insert(name, json!([{ "a": secret }, secret]));
        body.insert("token_type".to_owned(), json!(secret));
        let bytes = serde_json::to_vec(&body).unwrap();
        prop_assert!(!said(&head(200, &[("set-cookie", &secret)]), Some(&bytes), &exchanged()).contains(&secret));
    }

    #[test]
    fn any_bytes_can_be_judged(status in 200_u16..600, body in any::<Vec<u8>>()) {
        let _ = said(&head(status, &[]), Some(&body), &exchanged());
        let _ = said(&head(status, &[]), Some(&body), &refused(true));
    }
}
