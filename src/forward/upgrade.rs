//! Which protocol switches (RFC 9110, 7.8) are forwarded: WebSocket and any other protocol that the
//! client asked for and the upstream accepts, except other versions of HTTP and TLS, with which a
//! client would bypass every rule here.
//!
//! A proxy may drop members of the list: it is the client's order of preference, and the server may
//! choose any or none of it. So the others of `h2c, websocket` pass.

use http::header::{self, GetAll, HeaderMap, HeaderValue};
use http::{Request, Version};
use hyper::body::Body as _;

use crate::body::RequestBody;
use crate::fields::hop_by_hop::tokens;

/// A client's wish to switch to another protocol.
pub struct Upgrade {
    /// The protocols asked for that may be passed on; at least one.
    pub protocols: Vec<String>,
    /// The value of `Upgrade` for the upstream: the client's own, unless something of it had to go.
    pub field: HeaderValue,
}

impl Upgrade {
    /// `None` if no protocol is asked for that may be passed on; `Upgrade` is then an ordinary
    /// hop-by-hop field.
    pub fn asked_for(request: &Request<RequestBody>) -> Option<Upgrade> {
        let protocols = protocols_asked_for(request)?;
        let field = field(request.headers().get_all(header::UPGRADE), &protocols)?;
        Some(Upgrade { protocols, field })
    }
}

fn protocols_asked_for(request: &Request<RequestBody>) -> Option<Vec<String>> {
    let headers = request.headers();
    // With a body it would be unclear where the new protocol begins.
    let can_switch = headers.contains_key(header::UPGRADE)
        && request.version() == Version::HTTP_11
        && request.body().is_end_stream()
        && names(headers, &header::CONNECTION, "upgrade");
    if !can_switch {
        return None;
    }
    let protocols: Vec<String> = tokens(headers.get_all(header::UPGRADE))
        .filter(|protocol| is_passed_on(protocol))
        .map(|protocol| String::from_utf8_lossy(protocol).into_owned())
        .collect();
    (!protocols.is_empty()).then_some(protocols)
}

/// Accepts `name` or `name/version`, both tokens, of a protocol that does not carry HTTP requests.
///
/// SECURITY: servers recognise `h2c` in different ways (some accept `h2c;q=1` or `"h2c"`), so
/// anything that does not match the grammar is not forwarded in any spelling. `TLS/1.0` is of RFC
/// 2817, `HTTP/2.0` is RFC 9110's own example, `h2-14` and the like were drafts.
fn is_passed_on(protocol: &[u8]) -> bool {
    let mut parts = protocol.split(|byte| *byte == b'/');
    let (Some(name), version, None) = (parts.next(), parts.next(), parts.next()) else { return false };
    let is_protocol = is_token(name) && version.is_none_or(is_token);
    let family = name.split(|byte| *byte == b'-').next().unwrap_or_default();
    is_protocol && !HTTP_ITSELF.iter().any(|http| family.eq_ignore_ascii_case(http))
}

const HTTP_ITSELF: [&[u8]; 8] = [b"h2c", b"h2", b"h3", b"http", b"https", b"spdy", b"ssl", b"tls"];

/// RFC 9110, 5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn field(lines: GetAll<'_, HeaderValue>, passed: &[String]) -> Option<HeaderValue> {
    let mut each = lines.iter();
    match (each.next(), each.next()) {
        (Some(only), None) if tokens(lines).count() == passed.len() => Some(only.clone()),
        _ => HeaderValue::from_str(&passed.join(", ")).ok(),
    }
}

/// Whether the upstream switches to what was asked for: it names at least one protocol, and each
/// one was asked for.
pub fn is_agreed(asked: &[String], answer: &HeaderMap) -> bool {
    let was_asked = |protocol: &[u8]| asked.iter().any(|asked| asked.as_bytes().eq_ignore_ascii_case(protocol));
    let mut named = tokens(answer.get_all(header::UPGRADE)).peekable();
    named.peek().is_some() && named.all(was_asked)
}

fn names(headers: &HeaderMap, field: &header::HeaderName, option: &str) -> bool {
    tokens(headers.get_all(field)).any(|token| token.eq_ignore_ascii_case(option.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(fields: &[(&str, &str)]) -> Option<(Vec<String>, String)> {
        let mut request = Request::builder().uri("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let upgrade = Upgrade::asked_for(&request.body(RequestBody::Empty).unwrap())?;
        Some((upgrade.protocols, upgrade.field.to_str().unwrap().to_owned()))
    }

    #[test]
    fn a_websocket_is_asked_for_in_many_spellings() {
        for (connection, upgrade) in [("Upgrade", "websocket"), ("keep-alive, UPGRADE", "WebSocket")] {
            let found = asked(&[("connection", connection), ("upgrade", upgrade)]);
            assert_eq!(found, Some((vec![upgrade.to_owned()], upgrade.to_owned())));
        }
        let two_lines = [("connection", "keep-alive"), ("connection", "upgrade"), ("upgrade", "a/1"), ("upgrade", "b")];
        assert_eq!(asked(&two_lines), Some((vec!["a/1".into(), "b".into()], "a/1, b".into())));
    }

    #[test]
    fn http_itself_and_half_a_wish_are_nothing() {
        assert_eq!(asked(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")]), None);
        assert_eq!(asked(&[("connection", "Upgrade"), ("upgrade", "H2C")]), None);
        assert_eq!(asked(&[("connection", "close"), ("upgrade", "websocket")]), None);
        assert_eq!(asked(&[("upgrade", "websocket")]), None);
        assert_eq!(asked(&[("connection", "upgrade")]), None);
        let mixed = [("connection", "upgrade"), ("upgrade", "h2c, websocket")];
        assert_eq!(asked(&mixed), Some((vec!["websocket".into()], "websocket".into())));
    }

    #[test]
    fn no_spelling_of_http_or_tls_passes() {
        for refused in [
            "h2c",
            "H2C",
            "h2c;q=1",
            "h2c ; q=1",
            "h2c;",
            "\"h2c\"",
            "\"h2c",
            "h2c\"",
            "h2c/1",
            "h2c/",
            "/h2c",
            "h2c/1/2",
            "h2c h2c",
            "h2c\tx",
            "h2c-14",
            "h2",
            "h2-14",
            "h3",
            "HTTP/2.0",
            "http/2",
            "HTTP",
            "TLS/1.0",
            "tls/1.3",
            "SSL",
            "spdy/3.1",
            "(h2c)",
            "h2c=1",
            "websocket;h2c",
            "web socket",
            "websocket/",
            "\u{e9}",
        ] {
            assert!(!is_passed_on(refused.as_bytes()), "{refused}");
            assert_eq!(asked(&[("connection", "upgrade"), ("upgrade", refused)]), None, "{refused}");
            let mixed = format!("{refused}, websocket");
            let expected = Some((vec!["websocket".to_owned()], "websocket".to_owned()));
            assert_eq!(asked(&[("connection", "upgrade"), ("upgrade", &mixed)]), expected, "{mixed}");
        }
        for passed in ["websocket", "WebSocket", "foo/2", "IRC/6.9", "RTA/x11", "h2x", "httpx", "x-h2c", "SHTTP/1.3"] {
            assert!(is_passed_on(passed.as_bytes()), "{passed}");
        }
        // A comma in quotes separates all the same.
        assert_eq!(asked(&[("connection", "upgrade"), ("upgrade", "\"a, h2c, b\"")]), None);
    }

    #[test]
    fn only_what_was_asked_for_is_agreed() {
        let asked = ["WebSocket".to_owned(), "x".to_owned()];
        for (named, agreed) in
            [("websocket", true), ("X, WEBSOCKET", true), ("y", false), ("x, y", false), ("", false), (",", false)]
        {
            let mut answer = HeaderMap::new();
            answer.insert(header::UPGRADE, named.parse().unwrap());
            assert_eq!(is_agreed(&asked, &answer), agreed, "{named}");
        }
        assert!(!is_agreed(&asked, &HeaderMap::new()));
    }
}
