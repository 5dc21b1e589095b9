//! Which fields end at this hop (RFC 9110, 7.6.1), and how they are removed.

use http::header::{self, GetAll};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::http1::fields::{self, may_be_trailer, remove_in_order};

/// Removes all fields that end at this hop, and those for which `also` holds. The others keep their
/// order.
///
/// `Transfer-Encoding` is removed too: framing belongs to a hop, and `http1::write` frames the
/// message again. `TE: trailers` stays, since the sidecar passes trailers on; the other members of
/// `TE` do not. With `switches`, `Connection` and `Upgrade` stay in place, for the caller to set.
pub fn remove(headers: &mut HeaderMap, switches: bool, also: impl Fn(&HeaderName) -> bool) {
    // Nearly always there is nothing to do.
    if headers.keys().all(|name| matches!(Fate::of(name), Fate::Passes) && !also(name)) {
        return;
    }
    let named = named_by_connection(headers);
    let accepts_trailers = headers.contains_key(header::TE) && accepts_trailers(headers);
    let ends_here = |name: &HeaderName| match Fate::of(name) {
        Fate::Switch => !switches,
        Fate::Trailers => !accepts_trailers,
        Fate::Ends => true,
        Fate::Passes => named.contains(name) || also(name),
    };
    remove_in_order(headers, ends_here);
    if accepts_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes from `trailers` what ends at this hop, what is not allowed there, and what `also` holds
/// for.
pub fn remove_from_trailers(trailers: &mut HeaderMap, also: impl Fn(&HeaderName) -> bool) {
    remove(trailers, false, |name| !may_be_trailer(name) || also(name));
    remove_in_order(trailers, |name| name == header::TE);
}

/// What happens to a field at this hop.
enum Fate {
    Switch,
    Trailers,
    Ends,
    Passes,
}

impl Fate {
    fn of(name: &HeaderName) -> Fate {
        match name.as_str() {
            "connection" | "upgrade" => Fate::Switch,
            "te" => Fate::Trailers,
            "transfer-encoding"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "http2-settings" => Fate::Ends,
            _ => Fate::Passes,
        }
    }
}

/// The members of a list field, over all its lines (RFC 9110, 5.6.1), without the empty ones.
pub fn tokens(lines: GetAll<'_, HeaderValue>) -> impl Iterator<Item = &[u8]> {
    lines.into_iter().flat_map(|line| fields::tokens(line.as_bytes()))
}

/// The fields that are present and named by any `Connection` line (there may be several).
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let is_option = |token: &&[u8]| {
        token.eq_ignore_ascii_case(b"keep-alive")
            || token.eq_ignore_ascii_case(b"close")
            || token.eq_ignore_ascii_case(b"upgrade")
    };
    let mut named = Vec::new();
    let tokens = tokens(headers.get_all(header::CONNECTION)).filter(|token| !is_option(token));
    for name in tokens.filter_map(|token| HeaderName::from_bytes(token).ok()).filter(may_be_named) {
        // SECURITY: a line of thirty thousand names must not be searched once per field.
        if headers.contains_key(&name) && !named.contains(&name) {
            named.push(name);
        }
    }
    named
}

// SECURITY: a client that names `Authorization`, `Cookie` or `X-Forwarded-For` in `Connection`
// could remove fields that a filter behind the sidecar relies on. Only names that are not defined
// as end-to-end may be named.
fn may_be_named(name: &HeaderName) -> bool {
    let text = name.as_str();
    let speaks_of_the_client = text.starts_with("x-forwarded-") || matches!(text, "forwarded" | "x-real-ip");
    !speaks_of_the_client && !PROTECTED.contains(name)
}

const PROTECTED: [HeaderName; 22] = [
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
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    HeaderName::from_static("x-wp-nonce"),
];

fn accepts_trailers(headers: &HeaderMap) -> bool {
    tokens(headers.get_all(header::TE)).any(|member| member.eq_ignore_ascii_case(b"trailers"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(fields: &[(String, String)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn left(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned: Vec<_> = fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let mut headers = map(&owned);
        remove(&mut headers, false, |_| false);
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
        let at_the_end = [("host", "a"), ("accept", "b"), ("keep-alive", "5"), ("connection", "c"), ("upgrade", "d")];
        assert_eq!(names(&at_the_end), ["host", "accept"]);
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
    fn no_trailer_says_what_must_be_known_before_the_body() {
        let mut trailers = map(&[
            ("x-sum".into(), "1".into()),
            ("cookie".into(), "a=1".into()),
            ("authorization".into(), "b".into()),
            ("host".into(), "c".into()),
            ("content-length".into(), "1".into()),
            ("transfer-encoding".into(), "chunked".into()),
            ("te".into(), "trailers".into()),
            ("content-type".into(), "d".into()),
            ("set-cookie".into(), "e".into()),
            ("x-wp-nonce".into(), "f".into()),
            ("server-timing".into(), "g".into()),
            ("x-mine".into(), "h".into()),
        ]);
        remove_from_trailers(&mut trailers, |name| name == "x-mine");
        let left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["x-sum", "server-timing"]);
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

    #[test]
    fn a_switch_keeps_its_two_fields_in_place() {
        let mut headers = map(&[
            ("connection".into(), "keep-alive, Upgrade, x-a".into()),
            ("x-a".into(), "1".into()),
            ("upgrade".into(), "websocket".into()),
            ("accept".into(), "b".into()),
        ]);
        remove(&mut headers, true, |_| false);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["connection", "upgrade", "accept"]);
    }

    #[test]
    fn a_field_is_named_once_however_often_it_is_named() {
        let mut headers = map(&[("x-a".into(), "1".into()), ("x-b".into(), "2".into())]);
        headers.append("connection", "x-a,x-b,x-c,".repeat(1000).parse().unwrap());
        assert_eq!(named_by_connection(&headers).len(), 2);
    }

    fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
        let name = prop_oneof![
            "(connection|keep-alive|te|upgrade|transfer-encoding|proxy-[a-z]{1,4}|http2-settings)",
            "(host|cookie|authorization|set-cookie|content-length|x-forwarded-for|accept|x-[abc])",
        ];
        let value = "[a-z, ]{0,6}(, )?(x-a|X-B|cookie|authorization|trailers|close|upgrade)?[,; ]{0,2}";
        prop::collection::vec((name, value), 0..12)
    }

    proptest! {
        // An independent model without the code that keeps the order: what must go is gone, what
        // must stay is unchanged.
        #[test]
        fn what_ends_here_goes_and_the_rest_stays_as_it_was(fields in fields(), switches: bool) {
            let before = map(&fields);
            let mut after = before.clone();
            remove(&mut after, switches, |name| name == "x-c");
            let list = before.get_all("connection").iter().map(|v| v.to_str().unwrap().to_lowercase());
            let options: Vec<String> = list.flat_map(|line| line.split(',').map(|t| t.trim().to_owned()).collect::<Vec<_>>()).collect();
            let may_go = |name: &str| matches!(name, "x-a" | "x-b" | "accept");
            let expected: Vec<(&str, Vec<u8>)> = before.keys().filter(|name| match name.as_str() {
                "connection" | "upgrade" => switches,
                "transfer-encoding" | "keep-alive" | "http2-settings" | "proxy-connection" | "x-c" => false,
                "te" => before.get_all("te").iter().any(|v| v.to_str().unwrap().split(',').any(|t| t.trim() == "trailers")),
                name => !(may_go(name) && options.iter().any(|option| option == name)),
            }).flat_map(|name| {
                let values: Vec<_> = match name.as_str() {
                    "te" => vec![b"trailers".to_vec()],
                    _ => before.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect(),
                };
                values.into_iter().map(|value| (name.as_str(), value)).collect::<Vec<_>>()
            }).collect();
            let found: Vec<(&str, Vec<u8>)> = after.iter().map(|(name, value)| (name.as_str(), value.as_bytes().to_vec())).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn no_value_of_connection_panics_or_takes_a_protected_field(value in prop::collection::vec(any::<u8>(), 0..40)) {
            let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
            let mut headers = map(&[("host".into(), "a".into()), ("cookie".into(), "b".into())]);
            headers.append("connection", value);
            remove(&mut headers, false, |_| false);
            prop_assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["host", "cookie"]);
        }
    }
}
