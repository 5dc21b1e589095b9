//! The id of each request: shown to the client in errors, sent to the site, and written to every
//! log line about the request.

use std::cell::Cell;
use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// `X-Request-Id`, the name that nginx, HAProxy, Envoy and most load balancers use.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is accepted from a proxy. A UUID has 36 characters; the longest in use about
/// 100.
const LONGEST: usize = 128;

/// The id of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestId {
    /// The sidecar's own; costs nothing until it is shown.
    Own(u64),
    /// A trusted proxy's: visible ASCII that needs no escaping anywhere.
    Given(HeaderValue),
}

/// One worker's source of ids. The upper half is random per worker and start, the lower half is a
/// counter: unique enough to be found in a log.
pub struct RequestIds {
    next: Cell<u64>,
}

impl RequestIds {
    /// A new source. Without random bytes from the system, two workers may use the same ids.
    pub fn new() -> Self {
        let start = getrandom::u32().unwrap_or_default();
        RequestIds { next: Cell::new(u64::from(start) << 32) }
    }

    /// The next id of the sidecar's own.
    pub fn next(&self) -> RequestId {
        let id = self.next.get();
        self.next.set(id.wrapping_add(1));
        RequestId::Own(id)
    }

    /// The id of a request with these fields: its peer's, if that is trusted and sent exactly one,
    /// otherwise the next of the sidecar's own.
    // SECURITY: an untrusted client could use one id, or another's, for many requests, and so hide
    // among them.
    pub fn of(&self, headers: &HeaderMap, peer_is_trusted: bool) -> RequestId {
        match peer_is_trusted.then(|| given(headers)).flatten() {
            Some(given) => RequestId::Given(given),
            None => self.next(),
        }
    }
}

impl Default for RequestIds {
    fn default() -> Self {
        RequestIds::new()
    }
}

impl RequestId {
    /// The id as a field's value.
    pub fn field(&self) -> HeaderValue {
        match self {
            RequestId::Given(value) => value.clone(),
            // Hex digits are valid in a field.
            RequestId::Own(id) => {
                HeaderValue::from_bytes(&hex(*id)).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
            }
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestId::Own(id) => write!(f, "{id:016x}"),
            RequestId::Given(value) => f.write_str(value.to_str().unwrap_or("unknown")),
        }
    }
}

fn given(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(&X_REQUEST_ID).iter();
    let (Some(value), None) = (lines.next(), lines.next()) else { return None };
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:=+/@".contains(byte);
    let is_sane = (1..=LONGEST).contains(&value.len()) && value.as_bytes().iter().all(is_plain);
    is_sane.then(|| value.clone())
}

/// Formats an own id without the formatting machinery: every forwarded request needs it.
pub fn hex(id: u64) -> [u8; 16] {
    std::array::from_fn(|place| match (id >> (60 - 4 * place)) as u8 & 15 {
        digit @ 0..10 => b'0' + digit,
        digit => b'a' + digit - 10,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_one_length_and_differ() {
        let ids = RequestIds::new();
        let (first, second) = (ids.next(), ids.next());
        assert_ne!(first, second);
        assert_eq!(first.to_string().len(), 16);
        for id in [first, second, RequestId::Own(u64::MAX), RequestId::Own(0x0123_4567_89ab_cdef)] {
            assert_eq!(id.field().to_str().unwrap(), id.to_string());
        }
    }

    #[test]
    fn only_a_trusted_peers_sane_name_is_taken() {
        let headers = |lines: &[&str]| -> HeaderMap {
            lines.iter().map(|line| (X_REQUEST_ID, HeaderValue::from_bytes(line.as_bytes()).unwrap())).collect()
        };
        let (ids, longest) = (RequestIds::new(), "a".repeat(LONGEST));
        for name in ["a", "5f3c-1:2.3_4=+/@", &longest] {
            let headers = headers(&[name]);
            assert_eq!(ids.of(&headers, true).to_string(), name);
            assert!(matches!(ids.of(&headers, false), RequestId::Own(_)), "{name}");
        }
        let too_long = format!("{longest}a");
        for lines in
            [&[""][..], &["a b"], &["a\""], &["<a>"], &["ä"], &["a,b"], &[&too_long], &["a", "b"], &["a", "a"], &[]]
        {
            assert!(matches!(ids.of(&headers(lines), true), RequestId::Own(_)), "{lines:?}");
        }
    }
}
