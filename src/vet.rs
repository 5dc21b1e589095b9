//! Refuses requests before anything reaches the upstream or the database.
//!
//! `http1::head` already rejects much (invalid chunk sizes, spaces before the colon, obs-fold,
//! differing lengths), and hyper does so for HTTP/2. Both accept what is listed here, and request
//! smuggling depends on two servers that read such a request differently. Nothing is repaired;
//! ambiguous requests are refused.

use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Request, Version, header};

use crate::http1::fields;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// CONNECT would make a tunnel of the connection (RFC 9110, 9.3.6).
    #[error("CONNECT is not for a reverse proxy")]
    Connect,
    /// TRACE returns the request's own fields, cookies among them (RFC 9110, 9.3.8); nginx refuses
    /// it too.
    #[error("TRACE is not answered")]
    Trace,
    /// `*` is for OPTIONS, `host:port` for CONNECT, and an absolute target names `http` or `https`
    /// (RFC 9112, 3.2).
    #[error("the target is not one for this method")]
    Target,
    /// HTTP/1.1 without Host (RFC 9112, 3.2).
    #[error("no Host field")]
    MissingHost,
    /// More than one Host line (RFC 9112, 3.2).
    #[error("more than one Host field")]
    SeveralHosts,
    /// A Host that is not `host[:port]`.
    #[error("invalid Host field")]
    InvalidHost,
    /// An absolute target whose authority is not the Host (RFC 9112, 3.2.2).
    #[error("the target names another host than the Host field")]
    TargetHostMismatch,
    /// A transfer coding other than a single `chunked` (RFC 9112, 6.1).
    #[error("unsupported Transfer-Encoding")]
    TransferEncoding,
    /// A Content-Length that is not a number, exceeds 2^63-1 or occurs twice (RFC 9112, 6.3). In
    /// HTTP/1 the parser already rejects it.
    #[error("invalid Content-Length")]
    ContentLength,
    /// `[server] max_header_fields` (RFC 6585, 5); found where fields are counted, not here.
    #[error("more fields than server.max_header_fields")]
    TooManyFields,
}

/// Checks a request's head. `Ok` means that the request may be routed.
///
/// # Errors
/// The first reason to refuse it.
pub fn vet<B>(request: &Request<B>) -> Result<(), Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    if request.method() == Method::TRACE {
        return Err(Refusal::Trace);
    }
    vet_target(request)?;
    vet_transfer_encoding(request.headers())?;
    if request.version() == Version::HTTP_2 {
        vet_content_length(request.headers())?;
    }
    vet_host(request)
}

// SECURITY: servers disagree about what such a target names, and so about the path that a filter
// sees.
fn vet_target<B>(request: &Request<B>) -> Result<(), Refusal> {
    let uri = request.uri();
    let is_valid = match (uri.scheme_str(), uri.authority()) {
        (None, None) => uri.path() != "*" || request.method() == Method::OPTIONS,
        (Some("http" | "https"), Some(_)) => true,
        _ => false,
    };
    if is_valid { Ok(()) } else { Err(Refusal::Target) }
}

// SECURITY: `gzip, chunked`, `chunked, chunked` or two lines are chunked to one server and not to
// the next (CL.TE, TE.TE).
fn vet_transfer_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(()),
        (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Refusal::TransferEncoding),
    }
}

// SECURITY: h2 reads an empty value as 0, and accepts several equal values and numbers that
// overflow signed integers. How the upstream reads them is unknown.
fn vet_content_length(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lines.next().map(HeaderValue::as_bytes), lines.next()) {
        (None, _) => Ok(()),
        (Some(value), None) if fields::digits(value).is_some() => Ok(()),
        _ => Err(Refusal::ContentLength),
    }
}

// SECURITY: without Host, or with several lines, the upstream might choose another host than a
// cache or filter in front of it.
fn vet_host<B>(request: &Request<B>) -> Result<(), Refusal> {
    let mut lines = request.headers().get_all(header::HOST).iter();
    let host = match (lines.next(), lines.next()) {
        (Some(_), Some(_)) => return Err(Refusal::SeveralHosts),
        (None, _) if request.version() >= Version::HTTP_11 => return Err(Refusal::MissingHost),
        (host, _) => host,
    };
    if let Some(host) = host
        && !is_host(host.as_bytes())
    {
        return Err(Refusal::InvalidHost);
    }
    match (request.uri().authority(), host) {
        (Some(target), Some(host)) if !is_same_host(request.uri().scheme(), target.as_str(), host.as_bytes()) => {
            Err(Refusal::TargetHostMismatch)
        }
        // HTTP/1.0 without Host: the target names the host.
        (Some(target), None) if !is_host(target.as_str().as_bytes()) => Err(Refusal::InvalidHost),
        _ => Ok(()),
    }
}

/// Whether the authority of a target and a `Host` name the same host: the scheme's default port may
/// be written or not (RFC 9110, 4.2.3), and so may a colon without a port (RFC 3986, 6.2.3).
pub fn is_same_host(scheme: Option<&Scheme>, authority: &str, host: &[u8]) -> bool {
    let default: &[u8] = match scheme.map(Scheme::as_str) {
        Some("http") => b":80",
        Some("https") => b":443",
        _ => b":",
    };
    let plain = |place: &[u8]| {
        let place = place.strip_suffix(default).or_else(|| place.strip_suffix(b":")).unwrap_or(place);
        place.to_ascii_lowercase()
    };
    plain(authority.as_bytes()) == plain(host)
}

/// `host[:port]` of RFC 3986, 3.2.2, without userinfo. An empty value is allowed by RFC 9112, 3.2,
/// but names no site: refused.
fn is_host(value: &[u8]) -> bool {
    let (host, port) = match value {
        [b'[', rest @ ..] => match rest.iter().position(|byte| *byte == b']') {
            Some(end) => {
                let inside = &rest[..end];
                let is_address = !inside.is_empty()
                    && inside.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
                match (&rest[end + 1..], is_address) {
                    ([], true) => return true,
                    ([b':', port @ ..], true) => return port.iter().all(u8::is_ascii_digit),
                    _ => return false,
                }
            }
            None => return false,
        },
        _ => match value.iter().position(|byte| *byte == b':') {
            Some(colon) => (&value[..colon], &value[colon + 1..]),
            None => (value, &[][..]),
        },
    };
    // No `%`: one server decodes it, another does not, and no site has such a name.
    let is_name_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte);
    !host.is_empty() && host.iter().all(is_name_byte) && port.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(method: &str, target: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn one_valid_host_passes() {
        for host in ["example.com", "example.com:8080", "127.0.0.1", "[::1]", "[::1]:80", "a_b.example", "example.com:"]
        {
            assert_eq!(vet(&request("GET", "/", &[("host", host)])), Ok(()), "{host}");
        }
    }

    #[test]
    fn doubtful_hosts_are_refused() {
        for host in
            ["", "a b", "a@b", "a/b", "[::1", "[]", "[::1]x", "example.com:80a", ":80", "%", "a%41", "exämple.com"]
        {
            assert_eq!(vet(&request("GET", "/", &[("host", host)])), Err(Refusal::InvalidHost), "{host}");
        }
        assert_eq!(vet(&request("GET", "/", &[])), Err(Refusal::MissingHost));
        assert_eq!(vet(&request("GET", "/", &[("host", "a"), ("host", "a")])), Err(Refusal::SeveralHosts));
    }

    #[test]
    fn http_1_0_needs_no_host() {
        let mut old = request("GET", "/", &[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(vet(&old), Ok(()));
    }

    #[test]
    fn an_absolute_target_must_name_the_host() {
        assert_eq!(vet(&request("GET", "http://a/x", &[("host", "A")])), Ok(()));
        assert_eq!(vet(&request("GET", "http://a/x", &[("host", "b")])), Err(Refusal::TargetHostMismatch));
        for (target, host, agrees) in [
            ("http://a/x", "a:80", true),
            ("http://a:80/x", "A", true),
            ("http://a:/x", "a", true),
            ("http://a/x", "a:", true),
            ("http://[::1]/x", "[::1]:80", true),
            ("https://a/x", "a:443", true),
            ("http://a:443/x", "a", false),
            ("https://a:80/x", "a", false),
            ("http://a:8080/x", "a", false),
            ("http://a:080/x", "a", false),
            ("http://a./x", "a", false),
            ("http://[::1]/x", "[::1]:8", false),
        ] {
            let expected = if agrees { Ok(()) } else { Err(Refusal::TargetHostMismatch) };
            assert_eq!(vet(&request("GET", target, &[("host", host)])), expected, "{target} {host}");
        }
        assert_eq!(vet(&request("GET", "http://u@a/x", &[("host", "a")])), Err(Refusal::TargetHostMismatch));
    }

    #[test]
    fn only_a_single_chunked_is_a_transfer_coding() {
        let host = ("host", "a");
        let te = "transfer-encoding";
        assert_eq!(vet(&request("POST", "/", &[host, (te, "Chunked")])), Ok(()));
        for value in ["gzip, chunked", "chunked, chunked", ",chunked", "identity", "xchunked", "chunked;a=b", ""] {
            assert_eq!(vet(&request("POST", "/", &[host, (te, value)])), Err(Refusal::TransferEncoding), "{value}");
        }
        let twice = request("POST", "/", &[host, (te, "chunked"), (te, "chunked")]);
        assert_eq!(vet(&twice), Err(Refusal::TransferEncoding));
    }

    #[test]
    fn a_target_fits_its_method() {
        let host = [("host", "a:80")];
        assert_eq!(vet(&request("OPTIONS", "*", &host)), Ok(()));
        for (method, target) in [("GET", "*"), ("GET", "a:80"), ("GET", "ftp://a:80/"), ("OPTIONS", "a:80")] {
            assert_eq!(vet(&request(method, target, &host)), Err(Refusal::Target), "{method} {target}");
        }
    }

    proptest! {
        // Whatever passes names one host and is framed in one way, for every reader.
        #[test]
        fn what_passes_is_plain(
            target in prop_oneof![Just("/".to_owned()), "(http://)?[a-c@:0-9]{1,6}(/x)?", "[!-~]{1,12}"],
            hosts in prop::collection::vec("[a-c.:0-9@/ ]{0,6}|[ -~]{0,8}|\\[[:a-f0-9.]{0,6}\\](:[0-9]{0,3})?", 0..3),
            codings in prop::collection::vec("(chunked|Chunked|gzip|identity|,| )?(, ?chunked|;a|\t)?", 0..3),
            old: bool,
        ) {
            let mut request = Request::builder().uri(target.as_str());
            for host in &hosts {
                request = request.header("host", host);
            }
            for coding in &codings {
                request = request.header("transfer-encoding", coding);
            }
            if old {
                request = request.version(Version::HTTP_10);
            }
            let Ok(request) = request.body(()) else { return Ok(()) };
            if vet(&request).is_ok() {
                prop_assert!(hosts.len() == 1 || old && hosts.is_empty());
                prop_assert!(codings.is_empty() || codings.len() == 1 && codings[0].trim().eq_ignore_ascii_case("chunked"));
                for host in &hosts {
                    let is_host = host.parse::<http::uri::Authority>();
                    prop_assert!(is_host.is_ok_and(|host| !host.as_str().contains('@') && !host.host().is_empty()), "{host}");
                }
                if let (Some(authority), [host]) = (request.uri().authority(), &hosts[..]) {
                    let plain = |place: &str| place.to_lowercase().trim_end_matches(":80").trim_end_matches(':').to_owned();
                    prop_assert_eq!(plain(authority.as_str()), plain(host));
                }
                prop_assert!(request.uri().path().starts_with('/'));
            }
        }
    }

    #[test]
    fn a_length_of_http_2_is_one_number_that_fits_63_bits() {
        let with = |lengths: &[&str]| {
            let fields: Vec<(&str, &str)> = lengths.iter().map(|length| ("content-length", *length)).collect();
            let mut request = request("POST", "/", &[&[("host", "a")], &fields[..]].concat());
            *request.version_mut() = Version::HTTP_2;
            vet(&request)
        };
        for length in ["0", "05", "9223372036854775807"] {
            assert_eq!(with(&[length]), Ok(()), "{length}");
        }
        for length in ["", "+5", "-5", "0x5", "5, 5", "5,6", "5 5", "9223372036854775808", "18446744073709551616"] {
            assert_eq!(with(&[length]), Err(Refusal::ContentLength), "{length}");
        }
        assert_eq!(with(&["5", "5"]), Err(Refusal::ContentLength));
    }

    #[test]
    fn connect_and_trace_are_refused() {
        assert_eq!(vet(&request("CONNECT", "a:443", &[("host", "a:443")])), Err(Refusal::Connect));
        assert_eq!(vet(&request("TRACE", "/", &[("host", "a")])), Err(Refusal::Trace));
    }
}
