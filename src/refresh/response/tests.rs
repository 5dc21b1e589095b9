use super::*;
use crate::refresh::request::{Parsed, parse};
use crate::route::{Permalinks, Route, RouteForms, decide};
use crate::wordpress::home::Home;
use http::{HeaderMap, Method, Uri};
use serde_json::Value;

fn pair(recorded: &Value) -> Pair {
    Pair {
        access_token: recorded["access_token"].as_str().unwrap().to_owned(),
        refresh_token: recorded["refresh_token"].as_str().unwrap().to_owned(),
        expires_in: recorded["expires_in"].as_u64().unwrap(),
        fields: Vec::new(),
        user: User {
            found: Vec::new(),
            id: 3,
            email: "ann@example.org".to_owned(),
            nicename: "ann".to_owned(),
            display_name: "Ann \"é\" </b>".to_owned(),
        },
    }
}

/// The reply to an exchange's request, by the route decision and the body's parsing.
fn reply(exchange: &Value, headers: &HeaderMap, token: &str) -> Option<Reply> {
    let request = &exchange["request"];
    let text = |name: &str| request[name].as_str().unwrap().replace("{T}", token);
    let method = Method::from_bytes(text("method").as_bytes()).unwrap();
    let target: Uri = text("path").parse().unwrap();
    let forms = RouteForms { home_path: String::new(), permalinks: Permalinks::Pretty };
    let Route::Refresh { query_token } = decide(&method, &target, headers, &forms) else {
        return None;
    };
    let known = exchange["token"].as_str().unwrap();
    Some(match parse(headers, query_token.as_deref(), text("body").as_bytes()) {
        Parsed::Forward(reason) => panic!("forwarded: {reason}"),
        Parsed::Invalid(bad) => Reply::BadRequest(bad),
        Parsed::Token(read) if known == "none" => {
            assert_ne!(read, token);
            Reply::InvalidToken
        }
        Parsed::Token(read) => {
            assert_eq!(read, token);
            match known {
                "live" => Reply::Pair(pair(&exchange["response"]["body"])),
                "orphan" => Reply::UserNotFound,
                "used" | "revoked" | "expired" => Reply::InvalidToken,
                other => panic!("{other}"),
            }
        }
    })
}

fn header_map(pairs: &Value) -> HeaderMap {
    let pairs = pairs.as_object().unwrap();
    pairs
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.as_str().unwrap()))
        .map(|(name, value)| (name, value.parse().unwrap()))
        .collect()
}

#[test]
fn recorded_exchanges() {
    let exchanges = include_str!("../../../tests/fixtures/recorded.json");
    let exchanges: Vec<Value> = serde_json::from_str(exchanges).unwrap();
    let home = Home::new("http://127.0.0.1:8099".to_owned(), true, Permalinks::Pretty);
    let mut native = 0;
    for exchange in &exchanges {
        let name = exchange["name"].as_str().unwrap();
        let headers = header_map(&exchange["request"]["headers"]);
        let token = "0a1b2c3d4e5f60718293a4b5c6d7e8f9";
        let Some(reply) = reply(exchange, &headers, token) else {
            assert!(["get", "options_preflight"].contains(&name), "{name}");
            continue;
        };
        native += 1;
        let recorded = &exchange["response"];
        let mut expected: Vec<(String, String)> = recorded["headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| (pair[0].as_str().unwrap().to_lowercase(), pair[1].as_str().unwrap().to_owned()))
            .collect();
        let reset = expected.iter().find(|(name, _)| name == "x-ratelimit-reset");
        let window = Window {
            limit: 60,
            remaining: 59,
            reset: reset.map_or(1, |(_, reset)| reset.parse().unwrap()),
            retry_after: None,
        };
        let response = response(
            &reply,
            &ReplyContext {
                api_link: home.api_link.as_ref(),
                cors: Cors::Own(headers.get(header::ORIGIN)),
                expose_rate_limit: false,
                window: Some(window),
                fields: ResponseFields::OAuth2,
                omit: &[],
            },
        );
        // The deliberate differences.
        expected.retain(|(name, _)| name != "retry-after");
        if matches!(reply, Reply::Pair(_)) {
            expected.push(("cache-control".to_owned(), "no-store".to_owned()));
        }
        let sent: Vec<(String, String)> = response
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        assert_eq!(sent, expected, "{name}");
        assert_eq!(u64::from(response.status().as_u16()), recorded["status"], "{name}");
        // As text, so that the order counts.
        assert_eq!(
            String::from_utf8_lossy(response.body()),
            serde_json::to_string(&recorded["body"]).unwrap(),
            "{name}"
        );
    }
    assert_eq!(native, exchanges.len() - 2);
}

fn context(fields: ResponseFields, window: Option<Window>) -> ReplyContext<'static> {
    ReplyContext { api_link: None, cors: Cors::Own(None), expose_rate_limit: true, window, fields, omit: &[] }
}

#[test]
fn members_of_a_success() {
    let recorded = serde_json::json!(
        {"access_token": "j.w.t", "refresh_token": "0123", "expires_in": 604_800}
    );
    let reply = Reply::Pair(pair(&recorded));
    let body = |fields| -> Value { serde_json::from_slice(response(&reply, &context(fields, None)).body()).unwrap() };
    let documented = serde_json::json!({
        "token": "j.w.t", "user_id": 3, "user_email": "ann@example.org",
        "user_nicename": "ann", "user_display_name": "Ann \"é\" </b>", "refresh_token": "0123",
    });
    let oauth2 = serde_json::json!({
        "access_token": "j.w.t", "expires_in": 604_800, "token_type": "Bearer",
        "refresh_token": "0123",
    });
    let mut all = documented.clone();
    for (name, value) in oauth2.as_object().unwrap() {
        all[name] = value.clone();
    }
    assert_eq!(body(ResponseFields::Documented), documented);
    assert_eq!(body(ResponseFields::OAuth2), oauth2);
    assert_eq!(body(ResponseFields::All), all);
}

#[test]
fn rate_limited() {
    let window = Window { limit: 60, remaining: 0, reset: 1_795_379_859, retry_after: Some(42) };
    let response = response(&Reply::RateLimited, &context(ResponseFields::All, Some(window)));
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "42");
    assert_eq!(response.headers()["x-ratelimit-remaining"], "0");
    assert_eq!(response.headers()["x-ratelimit-reset"], "1795379859");
    assert_eq!(
        response.headers()["access-control-expose-headers"],
        "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After"
    );
    assert_eq!(
        String::from_utf8_lossy(response.body()),
        r#"{"code":"jwt_auth_rate_limited","message":"Rate limit exceeded","data":{"status":429,"retry_after":42}}"#
    );
}

#[test]
fn without_a_limit_there_are_no_such_headers() {
    let response = response(&Reply::InvalidToken, &context(ResponseFields::All, None));
    assert!(response.headers().keys().all(|name| !name.as_str().contains("ratelimit")));
    assert!(!response.headers().contains_key("retry-after"));
}

#[test]
fn an_app_gets_the_fields_that_wordpress_sends_it_and_no_others() {
    let seen = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("capacitor://localhost")),
        (header::VARY, HeaderValue::from_static("Origin")),
    ];
    let context = ReplyContext { cors: Cors::Seen(&seen), ..context(ResponseFields::All, None) };
    let bad = || Reply::BadRequest(BadRequest::MissingToken);
    for reply in [Reply::InvalidToken, Reply::UserNotFound, Reply::RateLimited, bad()] {
        let response = response(&reply, &context);
        let of_origin = |name: &&HeaderName| name.as_str().starts_with("access-control-") || **name == header::VARY;
        let sent: Vec<_> = response.headers().keys().filter(of_origin).collect();
        assert_eq!(sent, [header::ACCESS_CONTROL_ALLOW_ORIGIN, header::VARY]);
        assert_eq!(response.headers()["access-control-allow-origin"], "capacitor://localhost");
    }
}
