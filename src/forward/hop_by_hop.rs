//! Which fields end at this hop (RFC 9110, 7.6.1), and how they are taken out.

use http::{HeaderMap, HeaderName, HeaderValue, header};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Takes out all fields that end at this hop. The others keep their order.
///
/// `Transfer-Encoding` goes too: framing belongs to a hop, and the caller (or hyper) frames anew.
/// `TE: trailers` stays: it is the one member of `TE` that is meant for the whole way here, since we pass trailers on.
pub fn remove(headers: &mut HeaderMap) {
    let named = named_by_connection(headers);
    let ends_here = |name: &HeaderName| is_hop_by_hop(name) || named.contains(name);
    if !headers.keys().any(ends_here) {
        return;
    }
    let accepts_trailers = accepts_trailers(headers);
    remove_in_order(headers, ends_here);
    if accepts_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Takes out every field for which `is_unwanted` holds and keeps the order of the others. (`HeaderMap::remove` swaps
/// the last field into the gap.)
pub fn remove_in_order(headers: &mut HeaderMap, is_unwanted: impl Fn(&HeaderName) -> bool) {
    let old = std::mem::take(headers);
    headers.reserve(old.keys_len());
    let mut current = None;
    for (name, value) in old {
        if let Some(name) = name {
            current = (!is_unwanted(&name)).then_some(name);
        }
        if let Some(name) = &current {
            headers.append(name.clone(), value);
        }
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    [
        header::CONNECTION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        HTTP2_SETTINGS,
    ]
    .contains(name)
}

/// The fields named by any of the `Connection` lines (there may be several).
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(may_be_named)
        .collect()
}

// SECURITY: a client that names `Authorization`, `Cookie` or `X-Forwarded-For` in `Connection` could have fields removed
// that a filter behind us relies on. Only names that are not defined as end-to-end may be named.
fn may_be_named(name: &HeaderName) -> bool {
    let text = name.as_str();
    let is_option_of_the_connection = matches!(text, "close" | "keep-alive");
    let speaks_of_the_client = text.starts_with("x-forwarded-") || matches!(text, "forwarded" | "x-real-ip");
    !is_option_of_the_connection && !speaks_of_the_client && !PROTECTED.contains(name)
}

const PROTECTED: [HeaderName; 20] = [
    header::HOST,
    header::AUTHORIZATION,
    header::COOKIE,
    header::SET_COOKIE,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::TRAILER,
    header::ORIGIN,
    header::REFERER,
    header::LOCATION,
    header::DATE,
    header::CACHE_CONTROL,
    header::EXPECT,
    header::RANGE,
    header::VARY,
    header::WWW_AUTHENTICATE,
    header::STRICT_TRANSPORT_SECURITY,
    header::CONTENT_SECURITY_POLICY,
];

fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::TE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .any(|member| member.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        remove(&mut headers);
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_string())).collect()
    }

    fn names(fields: &[(&str, &str)]) -> Vec<String> {
        left(fields).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn the_rest_keeps_its_order() {
        let fields = [
            ("host", "a"),
            ("connection", "keep-alive"),
            ("accept", "b"),
            ("keep-alive", "5"),
            ("cookie", "c"),
            ("x-last", "d"),
        ];
        assert_eq!(names(&fields), ["host", "accept", "cookie", "x-last"]);
    }

    #[test]
    fn every_connection_line_counts() {
        let fields = [("connection", "x-a"), ("x-a", "1"), ("x-b", "2"), ("connection", "close, X-B"), ("x-c", "3")];
        assert_eq!(names(&fields), ["x-c"]);
    }

    #[test]
    fn end_to_end_fields_cannot_be_named_away() {
        let fields = [
            ("connection", "authorization, cookie, host, x-forwarded-for, content-length"),
            ("host", "a"),
            ("authorization", "b"),
            ("cookie", "c"),
            ("x-forwarded-for", "d"),
            ("content-length", "0"),
        ];
        assert_eq!(names(&fields), ["host", "authorization", "cookie", "x-forwarded-for", "content-length"]);
    }

    #[test]
    fn te_trailers_stays_and_other_codings_go() {
        assert_eq!(left(&[("te", "gzip;q=0.5, Trailers")]), [("te".to_string(), "trailers".to_string())]);
        assert!(left(&[("te", "gzip")]).is_empty());
    }

    #[test]
    fn repeated_fields_stay_repeated() {
        let fields = [("set-cookie", "a"), ("connection", "close"), ("set-cookie", "b")];
        assert_eq!(left(&fields).len(), 2);
    }
}
