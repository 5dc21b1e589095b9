//! Makes a client's request fit for the upstream: removes hop-by-hop fields, sets forwarding fields
//! and framing.

use std::cell::RefCell;
use std::net::IpAddr;

use http::header::{self, GetAll};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use hyper::body::Body as _;

use super::Hop;
use super::upgrade::Upgrade;
use crate::body::RequestBody;
use crate::client_addr::{Client, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REAL_IP};
use crate::config::ForwardedMode;
use crate::fields::{folded, hop_by_hop};
use crate::request_id::{self, RequestId, X_REQUEST_ID};

/// What the settings and the upstream add to a request.
pub struct Own<'a> {
    /// The upstream's `host:port`, for HTTP/1.0 clients that send no Host.
    pub authority: &'a HeaderValue,
    /// `[forwarded] mode`.
    pub mode: ForwardedMode,
    /// Whether the upstream gets the request's id.
    pub sets_request_id: bool,
}

/// Fields that follow those of the client. They are written directly: putting each into the map
/// first costs as much as everything else that is done to a usual head.
#[derive(Default)]
pub struct Added<'a> {
    /// The length of the body. Without it the body is sent in chunks.
    pub length: Option<u64>,
    /// Whether a length of zero must be sent.
    says_empty: bool,
    forwarded_for: Option<&'a HeaderValue>,
    forwarded_proto: Option<&'static str>,
    forwarded_host: Option<HeaderValue>,
    id: Option<&'a RequestId>,
}

impl Added<'_> {
    /// Must be called after the start of the body was read: an HTTP/2 client may end its stream by
    /// an empty DATA frame, and only that shows that there is no body.
    pub fn body_was_read(&mut self, request: &Request<RequestBody>) {
        if self.length.is_none() && request.version() == Version::HTTP_2 && request.body().is_end_stream() {
            self.length = Some(0);
            self.says_empty = needs_length(request.method(), request.version());
        }
    }

    /// Writes the fields as lines.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut line = |name: &[u8], value: &[u8]| {
            out.extend_from_slice(name);
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        };
        if self.says_empty {
            line(b"Content-Length: ", b"0");
        }
        if let Some(peer) = self.forwarded_for {
            line(b"X-Forwarded-For: ", peer.as_bytes());
        }
        if let Some(proto) = self.forwarded_proto {
            line(b"X-Forwarded-Proto: ", proto.as_bytes());
        }
        if let Some(host) = &self.forwarded_host {
            line(b"X-Forwarded-Host: ", host.as_bytes());
        }
        if let Some(RequestId::Own(id)) = self.id {
            line(b"X-Request-Id: ", &request_id::hex(*id));
        }
    }
}

/// Changes `request` in place, so that its extensions (the spelling of field names) are kept, and
/// returns the fields to add.
pub fn prepare<'a>(
    request: &mut Request<RequestBody>,
    hop: &Hop<'a>,
    own: &Own<'_>,
    upgrade: Option<&Upgrade>,
) -> Added<'a> {
    let named = to_origin_form(request.uri_mut());
    let needs_length = needs_length(request.method(), request.version());
    let length = if request.body().is_end_stream() { Some(0) } else { request.body().size_hint().exact() };
    let headers = request.headers_mut();
    let is_replaced = own.mode == ForwardedMode::Auto && !hop.client.peer_is_trusted;
    let twins = RefCell::default();
    hop_by_hop::remove(headers, upgrade.is_some(), |name| {
        (is_replaced && is_only_a_claim(name)) || is_twin(name, &twins)
    });
    folded::dropped(&twins.into_inner());
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, upgrade.field.clone());
    }
    let there = There::of(headers);
    if !there.host {
        let named = named.and_then(|named| HeaderValue::from_str(named.as_str()).ok());
        headers.insert(header::HOST, named.unwrap_or_else(|| own.authority.clone()));
    }
    let length = length.filter(|length| *length == 0 || there.content_length);
    let says_empty = length == Some(0) && !there.content_length && needs_length;
    let mut added = Added { length, says_empty, ..Added::default() };
    if own.mode == ForwardedMode::Auto {
        set_forwarding_fields(headers, hop, &there, &mut added);
    }
    // An id from a trusted peer is already among the fields.
    if let (id @ RequestId::Own(_), true) = (hop.id, own.sets_request_id) {
        match there.request_id {
            true => drop(headers.insert(X_REQUEST_ID, id.field())),
            false => added.id = Some(id),
        }
    }
    added
}

/// Whether a request without a body must send a length of zero (RFC 9110, 8.6): HTTP/2 clients end
/// the stream instead, and some servers refuse such a request in HTTP/1.1 without a length
/// (lighttpd: 411). Requests of HTTP/1 clients are passed on as they came.
fn needs_length(method: &Method, version: Version) -> bool {
    version == Version::HTTP_2 && matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Which of the fields that matter here the client sent. They are found in one pass, since each
/// lookup in the map costs more.
#[derive(Default)]
struct There {
    host: bool,
    content_length: bool,
    forwarded_for: bool,
    forwarded_proto: bool,
    forwarded_host: bool,
    real_ip: bool,
    forwarded: bool,
    request_id: bool,
}

impl There {
    fn of(headers: &HeaderMap) -> Self {
        let mut there = There::default();
        for name in headers.keys() {
            match name.as_str() {
                "host" => there.host = true,
                "content-length" => there.content_length = true,
                "x-forwarded-for" => there.forwarded_for = true,
                "x-forwarded-proto" => there.forwarded_proto = true,
                "x-forwarded-host" => there.forwarded_host = true,
                "x-real-ip" => there.real_ip = true,
                "forwarded" => there.forwarded = true,
                "x-request-id" => there.request_id = true,
                _ => {}
            }
        }
        there
    }
}

fn is_twin(name: &HeaderName, found: &RefCell<Vec<HeaderName>>) -> bool {
    let is_twin = folded::is_twin(name);
    if is_twin && !found.borrow().contains(name) {
        found.borrow_mut().push(name.clone());
    }
    is_twin
}

/// Leaves the bytes of path and query unchanged. An absolute-form target (RFC 9112, 3.2.2) loses
/// scheme and authority; the authority is returned as the host of a request without `Host`.
fn to_origin_form(uri: &mut Uri) -> Option<Authority> {
    let authority = uri.authority().cloned()?;
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *uri = Uri::from(path);
    Some(authority)
}

/// SECURITY: an untrusted peer's claims about its address and host must not reach a WordPress that
/// believes its proxy: they are replaced in place. A trusted peer's fields are kept, and its
/// address is appended to the chain.
fn set_forwarding_fields<'a>(headers: &mut HeaderMap, hop: &Hop<'a>, there: &There, added: &mut Added<'a>) {
    let (client, peer) = (hop.client, hop.peer_field);
    let said = client.peer_is_trusted;
    match (there.forwarded_for, said) {
        (false, _) => added.forwarded_for = Some(peer),
        (true, true) => drop(headers.insert(X_FORWARDED_FOR, forwarded_for(headers.get_all(&X_FORWARDED_FOR), peer))),
        (true, false) => drop(headers.insert(X_FORWARDED_FOR, peer.clone())),
    }
    match (there.forwarded_proto, said) {
        (false, _) => added.forwarded_proto = Some(client.scheme.name()),
        (true, true) => {}
        (true, false) => drop(headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(client.scheme.name()))),
    }
    match (there.forwarded_host, said, headers.get(header::HOST)) {
        (false, _, host) => added.forwarded_host = host.cloned(),
        (true, false, Some(host)) => drop(headers.insert(X_FORWARDED_HOST, host.clone())),
        (true, ..) => {}
    }
    if there.real_ip && !said {
        headers.insert(X_REAL_IP, address(client.address));
    }
    if there.forwarded {
        let before = said.then(|| headers.get_all(header::FORWARDED));
        let element = forwarded(before, client, headers.get(header::HOST));
        headers.insert(header::FORWARDED, element);
    }
}

/// Fields that an untrusted peer may not send and that the sidecar does not replace.
fn is_only_a_claim(name: &HeaderName) -> bool {
    name.as_str().strip_prefix("x-forwarded-").is_some_and(|rest| !matches!(rest, "for" | "proto" | "host"))
}

/// An address as the value of a field.
pub fn address(address: IpAddr) -> HeaderValue {
    field(address.to_string().into_bytes())
}

/// The bytes come from valid fields, an address and our own ASCII, so they form a valid value.
fn field(bytes: Vec<u8>) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes::Bytes::from(bytes)).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

fn list<'a>(lines: impl IntoIterator<Item = &'a HeaderValue>) -> Vec<u8> {
    let mut list = Vec::new();
    for line in lines {
        // Empty elements at either end are ignored by recipients, and must not be sent (RFC 9110,
        // 5.6.1.1).
        let line = trimmed(line.as_bytes());
        if !line.is_empty() {
            list.extend_from_slice(line);
            list.extend_from_slice(b", ");
        }
    }
    list
}

fn trimmed(mut list: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b',', rest @ ..] | [rest @ .., b' ' | b'\t' | b','] = list {
        list = rest;
    }
    list
}

/// RFC 7239. An IPv6 address is quoted and in brackets, and so is a host that is more than a token
/// (section 4).
fn forwarded(before: Option<GetAll<'_, HeaderValue>>, client: &Client, host: Option<&HeaderValue>) -> HeaderValue {
    let mut bytes = before.map(list).unwrap_or_default();
    match client.peer {
        IpAddr::V4(peer) => bytes.extend_from_slice(format!("for={peer}").as_bytes()),
        IpAddr::V6(peer) => bytes.extend_from_slice(format!("for=\"[{peer}]\"").as_bytes()),
    }
    if !client.peer_is_trusted {
        if let Some(host) = host {
            // A Host that passed `vet` contains neither quotes nor backslashes.
            bytes.extend_from_slice(b";host=\"");
            bytes.extend_from_slice(host.as_bytes());
            bytes.extend_from_slice(b"\"");
        }
        bytes.extend_from_slice(format!(";proto={}", client.scheme.name()).as_bytes());
    }
    field(bytes)
}

/// Joined to one line: some applications read only the first of several.
fn forwarded_for(before: GetAll<'_, HeaderValue>, peer: &HeaderValue) -> HeaderValue {
    let mut chain = list(before);
    chain.extend_from_slice(peer.as_bytes());
    field(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_addr::{Peer, Scheme};
    use proptest::prelude::*;

    /// Prepares with these settings.
    fn prepare_as<'a>(
        request: &mut Request<RequestBody>,
        client: &'a Client,
        id: &'a RequestId,
        peer_field: &'a HeaderValue,
        own: (ForwardedMode, bool),
    ) -> Added<'a> {
        let peer = Peer::new((client.peer, 0).into(), client.scheme);
        let authority = HeaderValue::from_static("127.0.0.1:8081");
        let own = Own { authority: &authority, mode: own.0, sets_request_id: own.1 };
        prepare(request, &Hop { client, peer, peer_field, id, announced: None, early_bodies: None }, &own, None)
    }

    fn prepared(target: &str, fields: &[(&str, &str)], trusted: bool) -> Request<RequestBody> {
        prepared_in(ForwardedMode::Auto, target, fields, trusted)
    }

    fn prepared_in(mode: ForwardedMode, target: &str, fields: &[(&str, &str)], trusted: bool) -> Request<RequestBody> {
        let mut request = Request::builder().uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut request = request.body(RequestBody::Empty).unwrap();
        let peer = "198.51.100.7".parse().unwrap();
        let client = Client { peer, address: peer, peer_is_trusted: trusted, scheme: Scheme::Http };
        let peer = address(client.peer);
        prepare_as(&mut request, &client, &RequestId::Own(1), &peer, (mode, false)).put_into(&mut request);
        request
    }

    impl Added<'_> {
        /// Applies the additions, as the upstream sees them.
        fn put_into(&self, request: &mut Request<RequestBody>) {
            let mut lines = Vec::new();
            self.write(&mut lines);
            for line in String::from_utf8(lines).unwrap().lines() {
                let (name, value) = line.split_once(": ").unwrap();
                let name = name.to_ascii_lowercase().parse::<HeaderName>().unwrap();
                request.headers_mut().append(name, value.parse().unwrap());
            }
        }
    }

    fn field(request: &Request<RequestBody>, name: &str) -> Vec<String> {
        request.headers().get_all(name).iter().map(|value| value.to_str().unwrap().to_string()).collect()
    }

    #[test]
    fn an_untrusted_peer_cannot_say_who_it_is() {
        let fields = [
            ("host", "shop.example"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("forwarded", "for=1.1.1.1"),
            ("x-real-ip", "1.1.1.1"),
        ];
        let request = prepared("/", &fields, false);
        assert_eq!(field(&request, "x-forwarded-for"), ["198.51.100.7"]);
        assert_eq!(field(&request, "x-forwarded-proto"), ["http"]);
        assert_eq!(field(&request, "x-forwarded-host"), ["shop.example"]);
        assert_eq!(field(&request, "x-real-ip"), ["198.51.100.7"]);
        assert_eq!(field(&request, "forwarded"), ["for=198.51.100.7;host=\"shop.example\";proto=http"]);
        assert!(field(&request, "x-forwarded-port").is_empty());
        let plain = prepared("/", &[("host", "a")], false);
        assert!(field(&plain, "x-real-ip").is_empty() && field(&plain, "forwarded").is_empty());
    }

    #[test]
    fn what_is_replaced_stays_where_it_was() {
        let fields = [("x-real-ip", "1.1.1.1"), ("x-forwarded-for", "1.1.1.1"), ("host", "a"), ("x-last", "b")];
        let request = prepared("/", &fields, false);
        let names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names[..4], ["x-real-ip", "x-forwarded-for", "host", "x-last"]);
    }

    #[test]
    fn preserve_adds_and_replaces_nothing() {
        let fields = [("host", "a"), ("x-forwarded-for", "1.1.1.1"), ("x-forwarded-port", "1"), ("forwarded", "for=b")];
        let request = prepared_in(ForwardedMode::Preserve, "/", &fields, false);
        let found: Vec<_> = request.headers().iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(found, fields);
    }

    #[test]
    fn a_name_of_ours_takes_the_place_of_a_strangers() {
        let fields = [("host", "a"), ("x-request-id", "1"), ("x-request-id", "2"), ("x-last", "b")];
        let named = |id: Option<&RequestId>| {
            let mut request = Request::builder().uri("/");
            for (name, value) in fields {
                request = request.header(name, value);
            }
            let mut request = request.body(RequestBody::Empty).unwrap();
            let peer = "198.51.100.7".parse().unwrap();
            let client = Client { peer, address: peer, peer_is_trusted: false, scheme: Scheme::Http };
            let (peer, own) = (address(peer), (ForwardedMode::Preserve, id.is_some()));
            prepare_as(&mut request, &client, id.unwrap_or(&RequestId::Own(1)), &peer, own);
            let names: Vec<String> = request.headers().keys().map(ToString::to_string).collect();
            assert_eq!(names, ["host", "x-request-id", "x-last"]);
            field(&request, "x-request-id")
        };
        assert_eq!(named(Some(&RequestId::Own(255))), ["00000000000000ff"]);
        assert_eq!(named(Some(&RequestId::Given(HeaderValue::from_static("x")))), ["1", "2"]);
        assert_eq!(named(None), ["1", "2"]);
    }

    #[test]
    fn an_empty_body_of_http_2_is_said_to_be_empty_where_a_length_is_expected() {
        let sent = |method: Method, version: Version| {
            let mut request = Request::builder().method(method).uri("/").version(version).header("host", "a");
            if version == Version::HTTP_10 {
                request = request.header("content-length", "0");
            }
            let mut request = request.body(RequestBody::Empty).unwrap();
            let peer = "198.51.100.7".parse().unwrap();
            let client = Client { peer, address: peer, peer_is_trusted: false, scheme: Scheme::Http };
            let mut lines = Vec::new();
            let (peer, own) = (address(peer), (ForwardedMode::Preserve, false));
            prepare_as(&mut request, &client, &RequestId::Own(1), &peer, own).write(&mut lines);
            String::from_utf8(lines).unwrap()
        };
        for method in [Method::POST, Method::PUT, Method::PATCH] {
            assert_eq!(sent(method.clone(), Version::HTTP_2), "Content-Length: 0\r\n");
            assert_eq!(sent(method.clone(), Version::HTTP_11), "");
            assert_eq!(sent(method, Version::HTTP_10), "");
        }
        for method in [Method::GET, Method::HEAD, Method::DELETE, Method::OPTIONS] {
            assert_eq!(sent(method, Version::HTTP_2), "");
        }
    }

    #[test]
    fn twins_of_our_fields_are_dropped() {
        let fields = [("host", "a"), ("x_forwarded_for", "1.1.1.1"), ("x.real.ip", "1"), ("x_other", "2")];
        for trusted in [false, true] {
            let request = prepared("/", &fields, trusted);
            assert!(field(&request, "x_forwarded_for").is_empty() && field(&request, "x.real.ip").is_empty());
            assert_eq!(field(&request, "x_other"), ["2"]);
        }
    }

    #[test]
    fn a_trusted_peer_is_appended_to_in_one_line() {
        let fields = [
            ("host", "shop.example"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "www.example"),
            ("forwarded", "for=1.1.1.1"),
            ("x-real-ip", "1.1.1.1"),
        ];
        let request = prepared("/", &fields, true);
        assert_eq!(field(&request, "forwarded"), ["for=1.1.1.1, for=198.51.100.7"]);
        assert_eq!(field(&request, "x-real-ip"), ["1.1.1.1"]);
        assert_eq!(field(&request, "x-forwarded-for"), ["1.1.1.1, 2.2.2.2, 198.51.100.7"]);
        assert_eq!(field(&request, "x-forwarded-proto"), ["https"]);
        assert_eq!(field(&request, "x-forwarded-host"), ["www.example"]);
    }

    proptest! {
        // Whatever the client sent, the upstream gets one line that ends with the peer, preceded by
        // nothing from an untrusted peer.
        #[test]
        fn the_chain_ends_with_the_peer(
            lines in prop::collection::vec("[ -~\\t]{0,30}", 0..4),
            trusted: bool,
        ) {
            let fields: Vec<(&str, &str)> = lines.iter().map(|line| ("x-forwarded-for", line.as_str())).collect();
            let request = prepared("/", &fields, trusted);
            let found = field(&request, "x-forwarded-for");
            prop_assert_eq!(found.len(), 1);
            let ends = |c: char| c == ',' || c.is_whitespace();
            let said: Vec<&str> = lines.iter().map(|line| line.trim_matches(ends)).filter(|line| !line.is_empty()).collect();
            match trusted {
                true => prop_assert_eq!(&found[0], &[&said[..], &["198.51.100.7"]].concat().join(", ")),
                false => prop_assert_eq!(&found[0], "198.51.100.7"),
            }
        }
    }

    #[test]
    fn target_bytes_stay() {
        for target in ["//a//b", "/a/../b", "/%2f?x=%zz&&", "/?", "/{a}|^"] {
            assert_eq!(prepared(target, &[("host", "a")], false).uri().to_string(), target);
        }
        assert_eq!(prepared("http://a/b?c", &[("host", "a")], false).uri().to_string(), "/b?c");
    }

    #[test]
    fn a_missing_host_becomes_the_upstream() {
        assert_eq!(field(&prepared("/", &[], false), "host"), ["127.0.0.1:8081"]);
    }
}
