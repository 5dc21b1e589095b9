//! Compares the fields of WordPress's response with those of the sidecar's. Pure.
//!
//! Fields that a web server, a cache or a network in front adds show nothing about WordPress. Many
//! are known by name; for the others, the web server's other responses are checked
//! ([`super::surroundings`]).

use std::collections::BTreeSet;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::words;

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub name: HeaderName,
    /// `+` if only WordPress's response has it, `-` if only the sidecar's does.
    sign: &'static str,
    /// Its values that the sidecar's response does not have.
    pub further: Vec<String>,
}

impl Change {
    /// Whether only the web server's other responses can decide.
    pub fn is_unsure(&self) -> bool {
        !self.further.is_empty() && !is_wordpress_own(&self.name)
    }

    fn shown(&self) -> String {
        format!("{}{}", self.sign, words::shown(self.name.as_str()))
    }
}

/// The changes as text.
pub fn listed<'a>(changes: impl IntoIterator<Item = &'a Change>) -> String {
    words::listed("header", &changes.into_iter().map(Change::shown).collect::<Vec<_>>())
}

/// The differences of `found` from `expected`. `ignored` are additional names that do not count.
pub fn compare(found: &HeaderMap, expected: &HeaderMap, ignored: &[String]) -> Vec<Change> {
    // Sorted, so that the order is the same in every comparison.
    let names: BTreeSet<&str> = found.keys().chain(expected.keys()).map(HeaderName::as_str).collect();
    let names = names.into_iter().filter(|name| !is_others(name) && !ignored.iter().any(|ignored| ignored == name));
    names.filter_map(|name| change(name, found, expected)).collect()
}

fn change(name: &str, found: &HeaderMap, expected: &HeaderMap) -> Option<Change> {
    let name = HeaderName::try_from(name).ok()?;
    let (found, expected) = (values(&name, found), values(&name, expected));
    if name.as_str().starts_with("x-ratelimit-") && found.is_empty() == expected.is_empty() {
        return None;
    }
    let (sign, further) = match (found.is_empty(), expected.is_empty()) {
        (true, true) => return None,
        (false, true) => ("+", found),
        (true, false) => ("-", BTreeSet::new()),
        (false, false) if found == expected => return None,
        (false, false) => ("", found.difference(&expected).cloned().collect()),
    };
    Some(Change { name, sign, further: further.into_iter().collect() })
}

/// The values of a field for the comparison: each once, since a web server may repeat what
/// WordPress has sent.
pub fn values(name: &HeaderName, headers: &HeaderMap) -> BTreeSet<String> {
    let lines = headers.get_all(name).iter().map(text);
    match *name {
        // The names that web servers add for compression do not count.
        header::VARY => tokens(lines).filter(|token| token != "accept-encoding" && token != "user-agent").collect(),
        // The sidecar's own `no-store` forbids as much. The times are those of PHP and WordPress
        // for "in the past".
        header::CACHE_CONTROL => tokens(lines).filter(|token| !FORBIDS_STORAGE.contains(&token.as_str())).collect(),
        header::PRAGMA => tokens(lines).filter(|token| token != "no-cache").collect(),
        header::EXPIRES => lines.filter(|time| !IN_THE_PAST.iter().any(|past| time.contains(past))).collect(),
        header::CONTENT_TYPE => lines.map(|value| value.replace(' ', "").to_ascii_lowercase()).collect(),
        _ => lines.collect(),
    }
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes().trim_ascii()).into_owned()
}

fn tokens(lines: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    let tokens = |line: String| line.split(',').map(|token| token.trim().to_ascii_lowercase()).collect::<Vec<_>>();
    lines.flat_map(tokens).filter(|token| !token.is_empty())
}

const FORBIDS_STORAGE: &[&str] =
    &["no-store", "no-cache", "private", "max-age=0", "must-revalidate", "proxy-revalidate", "s-maxage=0"];

const IN_THE_PAST: &[&str] = &["1970", "1981", "1984", "-1"];

/// Fields that a web server adds to WordPress's responses only in order to change them.
fn is_wordpress_own(name: &HeaderName) -> bool {
    matches!(*name, header::SET_COOKIE | header::CONTENT_TYPE | header::ALLOW | header::LINK | header::LOCATION)
        || ["access-control-", "x-ratelimit-", "x-wp-"].iter().any(|start| name.as_str().starts_with(start))
}

/// Fields of web servers, caches and networks, and of the transport.
fn is_others(name: &str) -> bool {
    OTHERS.contains(&name) || OTHERS_BEGIN.iter().any(|start| name.starts_with(start))
}

const OTHERS: &[&str] = &[
    // RFC 9110 and 9112: the origin server's clock, framing and connection.
    "accept-ranges",
    "age",
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "proxy-connection",
    "server",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    // The plugin sends it with a success, and the sidecar deliberately does not.
    "retry-after",
    // Browser security fields, which web servers and plugins add to all responses. Apps ignore
    // them.
    "content-security-policy",
    "content-security-policy-report-only",
    "expect-ct",
    "feature-policy",
    "nel",
    "origin-agent-cluster",
    "p3p",
    "permissions-policy",
    "referrer-policy",
    "report-to",
    "reporting-endpoints",
    "strict-transport-security",
    "x-dns-prefetch-control",
    "x-download-options",
    "x-frame-options",
    "x-permitted-cross-domain-policies",
    "x-ua-compatible",
    "x-xss-protection",
    // Networks, caches and hosting providers.
    "akamai-grn",
    "alt-svc",
    "host-header",
    "panel",
    "platform",
    "server-timing",
    "surrogate-control",
    "surrogate-key",
    "timing-allow-origin",
    "x-ac",
    "x-backend",
    "x-backend-server",
    "x-bypass-cache",
    "x-cacheable",
    "x-cdn",
    "x-correlation-id",
    "x-edge-location",
    "x-fastcgi-cache",
    "x-generator",
    "x-hacker",
    "x-nginx-cache",
    "x-pass-why",
    "x-powered-by",
    "x-proxy-cache",
    "x-proxy-cache-info",
    "x-request-id",
    "x-runtime",
    "x-served-by",
    "x-server",
    "x-timer",
    "x-trace-id",
    "x-turbo-charged-by",
    "x-varnish",
];

const OTHERS_BEGIN: &[&str] = &[
    "cdn-",
    "cf-",
    "cross-origin-",
    "fly-",
    "ki-",
    "sg-",
    "wpe-",
    "x-amz-",
    "x-azure-",
    "x-b3-",
    "x-cache",
    "x-kinsta-",
    "x-litespeed-",
    "x-ls-",
    "x-sucuri-",
    "x-vercel-",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    fn said(found: &[(&'static str, &'static str)], expected: &[(&'static str, &'static str)]) -> String {
        let ignored = ["x-ours".to_owned()];
        listed(&compare(&map(found), &map(expected), &ignored))
    }

    const PLAIN: &[(&str, &str)] = &[("content-type", "application/json; charset=UTF-8"), ("allow", "POST")];

    #[test]
    fn what_differs() {
        let found = |more: &[(&'static str, &'static str)]| said(&[PLAIN, more].concat(), PLAIN);
        assert_eq!(found(&[]), "header ");
        for (more, words) in [
            (("set-cookie", "a=b"), "header +set-cookie"),
            (("x-session-user", "2"), "header +x-session-user"),
            (("allow", "GET"), "header allow"),
            (("vary", "Accept-Encoding, Origin"), "header +vary"),
            (("cache-control", "public, max-age=60"), "header +cache-control"),
            (("access-control-allow-origin", "*"), "header +access-control-allow-origin"),
            (("x-ratelimit-limit", "60"), "header +x-ratelimit-limit"),
            (("expires", "Sat, 28 Nov 2026 17:30:00 GMT"), "header +expires"),
        ] {
            assert_eq!(found(&[more]), words);
        }
        for more in [
            ("set-cookie2", ""),
            ("date", "today"),
            ("retry-after", "60"),
            ("cf-ray", "1"),
            ("x-cache-status", "MISS"),
            ("x-ours", "1"),
            ("vary", "Accept-Encoding"),
            ("cache-control", "no-cache, must-revalidate, max-age=0, no-store, private"),
            ("expires", "Wed, 11 Jan 1984 05:00:00 GMT"),
            ("pragma", "no-cache"),
            ("allow", "POST"),
            ("content-type", "application/json;charset=utf-8"),
        ] {
            let expected = if more.0 == "set-cookie2" { "header +set-cookie2" } else { "header " };
            assert_eq!(found(&[more]), expected, "{more:?}");
        }
        assert_eq!(said(&PLAIN[..1], PLAIN), "header -allow");
    }

    #[test]
    fn counters_are_compared_by_name() {
        let window = [("x-ratelimit-limit", "60"), ("x-ratelimit-remaining", "59")];
        assert_eq!(said(&[("x-ratelimit-limit", "5"), ("x-ratelimit-remaining", "1")], &window), "header ");
        assert_eq!(said(&[], &window), "header -x-ratelimit-limit, -x-ratelimit-remaining");
    }

    #[test]
    fn only_what_a_web_server_may_add_is_unsure() {
        fn unsure(found: &[(&'static str, &'static str)], expected: &[(&'static str, &'static str)]) -> Vec<bool> {
            compare(&map(found), &map(expected), &[]).iter().map(Change::is_unsure).collect()
        }
        assert_eq!(unsure(&[("x-new", "1")], &[]), [true]);
        assert_eq!(unsure(&[("x-robots-tag", "noindex, nofollow")], &[("x-robots-tag", "noindex")]), [true]);
        assert_eq!(unsure(&[], &[("x-robots-tag", "noindex")]), [false]);
        for name in ["set-cookie", "access-control-max-age", "link", "x-ratelimit-limit"] {
            assert_eq!(unsure(&[(name, "1")], &[]), [false], "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_head_can_be_compared(fields in proptest::collection::vec(("[a-zA-Z0-9-]{1,20}", any::<Vec<u8>>()), 0..20)) {
            let mut head = HeaderMap::new();
            for (name, value) in fields {
                if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(&value)) {
                    head.append(name, value);
                }
            }
            prop_assert!(compare(&head, &head, &[]).is_empty());
            let _ = listed(&compare(&head, &map(PLAIN), &[]));
            let _ = listed(&compare(&map(PLAIN), &head, &[]));
        }
    }
}
