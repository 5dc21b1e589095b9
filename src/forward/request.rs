//! A client's request made fit for the upstream: hop-by-hop fields out, forwarding fields in, framing of its own.

use std::net::IpAddr;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, Version, header};
use hyper::body::Body as _;

use super::hop_by_hop;
use crate::body::RequestBody;
use crate::client_addr::{Client, Scheme, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};

/// Changes `request` in place, so that what travels in its extensions (the case of field names) goes along.
/// `authority` is the upstream's `host:port`, for HTTP/1.0 clients that sent no Host.
pub fn prepare(request: &mut Request<RequestBody>, client: &Client, authority: &HeaderValue) {
    to_origin_form(request.uri_mut());
    let was_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    hop_by_hop::remove(request.headers_mut());
    if was_chunked && !request.body().is_end_stream() {
        // hyper's client drops the body of a GET or HEAD that has neither length nor coding (hyper#1925).
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if !request.headers().contains_key(header::HOST) {
        request.headers_mut().insert(header::HOST, authority.clone());
    }
    set_forwarding_fields(request.headers_mut(), client);
    // A copied HTTP/1.0 would leave hyper's client no way to frame a body or to keep the connection.
    *request.version_mut() = Version::HTTP_11;
}

/// The bytes of the path and query stay as they are; only an absolute-form target (RFC 9112, 3.2.2) loses scheme and authority.
fn to_origin_form(uri: &mut Uri) {
    if uri.authority().is_none() {
        return;
    }
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *uri = Uri::from(path);
}

/// SECURITY: what an untrusted peer says about who and where it is must not reach a WordPress that believes its proxy.
/// A trusted peer's word is kept, and its address is added to the end of the one `X-Forwarded-For` line.
fn set_forwarding_fields(headers: &mut HeaderMap, client: &Client) {
    if !client.peer_is_trusted && headers.keys().any(speaks_of_the_client) {
        hop_by_hop::remove_in_order(headers, speaks_of_the_client);
    }
    let chain = forwarded_for(headers, client.peer);
    headers.insert(X_FORWARDED_FOR, chain);
    if !headers.contains_key(&X_FORWARDED_PROTO) {
        let proto = match client.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    }
    if !headers.contains_key(&X_FORWARDED_HOST)
        && let Some(host) = headers.get(header::HOST).cloned()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
}

fn speaks_of_the_client(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("x-forwarded-") || name == "forwarded" || name == "x-real-ip"
}

/// One line: some applications read only the first of several.
fn forwarded_for(headers: &HeaderMap, peer: IpAddr) -> HeaderValue {
    let mut chain = Vec::new();
    for line in headers.get_all(&X_FORWARDED_FOR) {
        let line = line.as_bytes().trim_ascii();
        if !line.is_empty() {
            chain.extend_from_slice(line);
            chain.extend_from_slice(b", ");
        }
    }
    chain.extend_from_slice(peer.to_string().as_bytes());
    // Bytes that were valid in a field are valid in a field; an address is ASCII.
    HeaderValue::from_maybe_shared(bytes::Bytes::from(chain)).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(target: &str, fields: &[(&str, &str)], trusted: bool) -> Request<RequestBody> {
        let mut request = Request::builder().uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut request = request.body(RequestBody::Empty).unwrap();
        let peer = "198.51.100.7".parse().unwrap();
        let client = Client { peer, address: peer, peer_is_trusted: trusted, scheme: Scheme::Http };
        prepare(&mut request, &client, &HeaderValue::from_static("127.0.0.1:8081"));
        request
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
        for gone in ["x-forwarded-port", "forwarded", "x-real-ip"] {
            assert!(field(&request, gone).is_empty(), "{gone}");
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
        ];
        let request = prepared("/", &fields, true);
        assert_eq!(field(&request, "x-forwarded-for"), ["1.1.1.1, 2.2.2.2, 198.51.100.7"]);
        assert_eq!(field(&request, "x-forwarded-proto"), ["https"]);
        assert_eq!(field(&request, "x-forwarded-host"), ["www.example"]);
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
