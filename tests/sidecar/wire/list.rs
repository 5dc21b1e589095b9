//! A second implementation of the list of changes, written from docs/forwarding.md and not from
//! the program.

use super::generated::{Answer, Body, Line, Request};

/// The request that the upstream receives for a request of an untrusted client at 127.0.0.1.
/// [`OWN_ID`] stands for the request ID that the sidecar generates.
pub fn request(request: &Request) -> Vec<u8> {
    let path = request.target.strip_prefix(b"http://a.example").unwrap_or(&request.target);
    let mut head = [request.method.as_bytes(), b" ", path, b" HTTP/1.1\r\n"].concat();
    let named = named_by_connection(&request.lines);
    let accepts_trailers = request.lines.iter().any(|line| {
        line.lower() == "te"
            && String::from_utf8_lossy(&line.value).to_lowercase().split(", ").any(|te| te == "trailers")
    });
    let own: [(&str, &[u8]); 6] = [
        ("x-forwarded-for", b"127.0.0.1"),
        ("x-forwarded-proto", b"http"),
        ("x-forwarded-host", b"a.example"),
        ("x-request-id", OWN_ID),
        ("x-real-ip", b"127.0.0.1"),
        ("forwarded", b"for=127.0.0.1;host=\"a.example\";proto=http"),
    ];
    let mut seen = Vec::new();
    for line in &request.lines {
        let lower = line.lower();
        let is_first = !seen.contains(&lower);
        seen.push(lower.clone());
        let value = match own.iter().find(|(name, _)| *name == lower) {
            Some((_, value)) if is_first => value,
            Some(_) => continue,
            None if lower == "te" && accepts_trailers && is_first => &b"trailers"[..],
            None if lower == "te" || lower.starts_with("x-forwarded-") || ends_here(&lower) => continue,
            None if named.contains(&lower) || is_twin(&lower) => continue,
            None => &line.value,
        };
        write(&mut head, &line.name, value);
    }
    if let Body::Chunked(..) = request.body {
        write(&mut head, b"Transfer-Encoding", b"chunked");
    }
    let added = ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Request-Id"];
    for (name, (lower, value)) in added.iter().zip(own) {
        if !seen.iter().any(|seen| seen == lower) {
            write(&mut head, name.as_bytes(), value);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Stands for the generated request ID, which differs each time.
pub const OWN_ID: &[u8] = b"0123456789abcdef";

/// The head of the response that the client receives.
pub fn answer(answer: &Answer, request: &Request) -> Vec<u8> {
    let mut head = [format!("HTTP/1.1 {} ", answer.status).as_bytes(), &answer.reason, b"\r\n"].concat();
    let named = named_by_connection(&answer.lines);
    for line in &answer.lines {
        let lower = line.lower();
        if !ends_here(&lower) && !named.contains(&lower) {
            write(&mut head, &line.name, &line.value);
        }
    }
    if let Body::Chunked(..) | Body::ToTheEnd(_) = answer.body {
        write(&mut head, b"Transfer-Encoding", b"chunked");
    }
    if closes(request) {
        write(&mut head, b"Connection", b"close");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Whether the client closes its connection after this request.
pub fn closes(request: &Request) -> bool {
    request.lines.iter().any(|line| line.lower() == "connection" && line.value == b"close")
}

/// The trailers that arrive, including the empty line at their end.
pub fn trailers(trailers: &[Line], of_request: bool) -> Vec<u8> {
    let named = named_by_connection(trailers);
    let passes = |line: &&Line| {
        let lower = line.lower();
        let says_who = lower.starts_with("x-forwarded-") || is_twin(&lower);
        !(ends_here(&lower) || NEVER_TRAILERS.contains(&&*lower) || named.contains(&lower) || of_request && says_who)
    };
    let mut written = Vec::new();
    trailers.iter().filter(passes).for_each(|line| write(&mut written, &line.name, &line.value));
    written.extend_from_slice(b"\r\n");
    written
}

fn write(head: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    head.extend([name, b": ", value, b"\r\n"].concat());
}

fn ends_here(lower: &str) -> bool {
    [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "http2-settings",
        "transfer-encoding",
        "upgrade",
    ]
    .contains(&lower)
}

/// The names in `Connection`, without the protected ones.
fn named_by_connection(lines: &[Line]) -> Vec<String> {
    let connections = lines.iter().filter(|line| line.lower() == "connection");
    let tokens = connections.flat_map(|line| {
        let value = String::from_utf8_lossy(&line.value).to_lowercase();
        value.split(", ").map(str::to_owned).collect::<Vec<_>>()
    });
    tokens.filter(|name| name.starts_with("x-hop")).collect()
}

/// Names that PHP cannot distinguish from the names of headers that matter.
fn is_twin(lower: &str) -> bool {
    ["x_forwarded_for", "content_length", "x.real.ip", "x_real_ip"].contains(&lower)
}

const NEVER_TRAILERS: &[&str] =
    &["cookie", "set-cookie", "authorization", "host", "content-length", "content-type", "te"];
