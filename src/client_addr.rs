//! Finds the client of a request: the connection's peer, or the client that a trusted proxy names.
//!
//! The rate limit, the token rows, the forwarding fields and the log all use this result.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::{IpNet, Ipv4Net};

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The scheme with which the client reached the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    /// HTTP over TLS, terminated here or by a trusted proxy in front.
    Https,
}

impl Scheme {
    /// As in URLs.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// The other end of a connection, as the connection itself shows it. Displayed as its IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The peer's address; never an IPv4 address in IPv6 form.
    pub address: SocketAddr,
    /// Whether it uses TLS to the sidecar.
    pub scheme: Scheme,
    /// Whether the connection began with a PROXY header without a client's address. `address` is
    /// then the proxy's, and the client is unknown.
    is_unnamed: bool,
}

impl Peer {
    /// The peer at `address`.
    pub fn new(address: SocketAddr, scheme: Scheme) -> Self {
        Peer { address: SocketAddr::new(address.ip().to_canonical(), address.port()), scheme, is_unnamed: false }
    }

    /// An unknown client behind the proxy at `address`.
    pub fn unnamed(address: SocketAddr, scheme: Scheme) -> Self {
        Peer { is_unnamed: true, ..Peer::new(address, scheme) }
    }

    /// Whether its fields about the client are believed: it is in `trusted`, and the proxy itself
    /// writes them.
    ///
    /// SECURITY: after a PROXY header come the client's own bytes. If the header names no client,
    /// believing their fields would let the client choose its address.
    pub fn is_trusted(&self, trusted: &[IpNet]) -> bool {
        !self.is_unnamed && is_trusted(self.address.ip(), trusted)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.ip().fmt(f)
    }
}

/// The client of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The address of the connection.
    pub peer: IpAddr,
    /// The client's address: `peer`, or the one that a trusted proxy names.
    pub address: IpAddr,
    /// Whether `peer` [is believed](Peer::is_trusted).
    pub peer_is_trusted: bool,
    /// How the client reached the site.
    pub scheme: Scheme,
}

/// Finds the client of a request on a connection from `peer`.
///
/// SECURITY: fields from an untrusted peer are ignored; otherwise a client could choose its address
/// and evade the rate limit. From a trusted peer, `X-Forwarded-For` is read from the right, past
/// further trusted proxies: the part left of the first untrusted address was written by that client
/// itself. Empty elements are ignored (RFC 9110, 5.6.1).
pub fn client(peer: Peer, headers: &HeaderMap, trusted: &[IpNet]) -> Client {
    let (is_believed, scheme, peer) = (peer.is_trusted(trusted), peer.scheme, peer.address.ip());
    if !is_believed {
        return Client { peer, address: peer, peer_is_trusted: false, scheme };
    }
    let mut address = peer;
    for entry in entries_from_the_right(headers) {
        let Some(parsed) = parse_entry(entry) else { break };
        address = parsed;
        if !is_trusted(address, trusted) {
            break;
        }
    }
    Client { peer, address, peer_is_trusted: true, scheme: forwarded_scheme(headers).unwrap_or(scheme) }
}

/// Whether `address` is in `[forwarded] trusted_proxies`. Both are canonical.
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// The network without host bits, and in IPv4 form if it contains IPv4 addresses in IPv6 form
/// (`::ffff:10.0.0.0/104`).
///
/// Addresses of peers and fields are made canonical before they are compared, so a network of the
/// other form would never match. A wider one (`::/0`) stays IPv6 only: it does not include IPv4.
pub fn canonical_network(network: IpNet) -> IpNet {
    let network = network.trunc();
    let IpNet::V6(v6) = network else { return network };
    let of_v4 = v6.network().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    of_v4.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok()).map_or(network, IpNet::V4)
}

fn entries_from_the_right(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(&X_FORWARDED_FOR).iter().rev().flat_map(|line| entries(line).rev())
}

fn entries(line: &HeaderValue) -> impl DoubleEndedIterator<Item = &[u8]> {
    line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty())
}

/// An entry is an address. Some proxies add a port, some put IPv6 in brackets.
fn parse_entry(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?.trim();
    let address = match entry.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?.parse().ok()?,
        None => match entry.parse::<IpAddr>() {
            Ok(address) => address,
            Err(_) => entry.parse::<std::net::SocketAddrV4>().ok().map(|socket| IpAddr::V4(*socket.ip()))?,
        },
    };
    Some(address.to_canonical())
}

fn forwarded_scheme(headers: &HeaderMap) -> Option<Scheme> {
    let first = headers.get_all(&X_FORWARDED_PROTO).iter().flat_map(entries).next()?;
    Some(if first.eq_ignore_ascii_case(b"https") { Scheme::Https } else { Scheme::Http })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn find(peer: &str, forwarded: &[&str], proto: Option<&str>, trusted: &[&str]) -> Client {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(X_FORWARDED_FOR, line.parse().unwrap());
        }
        if let Some(proto) = proto {
            headers.append(X_FORWARDED_PROTO, proto.parse().unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        let address = SocketAddr::new(peer.parse().unwrap(), 4711);
        client(Peer::new(address, Scheme::Http), &headers, &trusted)
    }

    fn address(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        find(peer, forwarded, None, trusted).address.to_string()
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        let client = find("198.51.100.7", &["203.0.113.9"], Some("https"), &["10.0.0.0/8"]);
        assert_eq!(client.address.to_string(), "198.51.100.7");
        assert_eq!(client.scheme, Scheme::Http);
        assert!(!client.peer_is_trusted);
    }

    #[test]
    fn a_trusted_peer_names_the_client() {
        let trusted = &["10.0.0.0/8", "fd00::/8"];
        assert_eq!(address("10.0.0.1", &["203.0.113.9"], trusted), "203.0.113.9");
        assert_eq!(address("10.0.0.1", &["1.2.3.4, 203.0.113.9"], trusted), "203.0.113.9");
        assert_eq!(address("10.0.0.1", &["1.2.3.4, 203.0.113.9, 10.2.2.2"], trusted), "203.0.113.9");
        assert_eq!(address("10.0.0.1", &["203.0.113.9", "10.2.2.2"], trusted), "203.0.113.9");
        assert_eq!(address("10.0.0.1", &["203.0.113.9:4711"], trusted), "203.0.113.9");
        assert_eq!(address("fd00::1", &["[2001:db8::9]:4711"], trusted), "2001:db8::9");
        assert_eq!(address("::ffff:10.0.0.1", &["203.0.113.9"], trusted), "203.0.113.9");
    }

    #[test]
    fn an_entry_that_is_no_address_ends_the_search() {
        let trusted = &["10.0.0.0/8"];
        assert_eq!(address("10.0.0.1", &["203.0.113.9, unknown, 10.2.2.2"], trusted), "10.2.2.2");
        assert_eq!(address("10.0.0.1", &["unknown"], trusted), "10.0.0.1");
        assert_eq!(address("10.0.0.1", &[""], trusted), "10.0.0.1");
    }

    #[test]
    fn empty_entries_are_none() {
        let trusted = &["10.0.0.0/8"];
        for lines in
            [&["203.0.113.9,"][..], &["203.0.113.9, , ,"], &["203.0.113.9", ""], &["203.0.113.9,\t,10.2.2.2, "]]
        {
            assert_eq!(address("10.0.0.1", lines, trusted), "203.0.113.9", "{lines:?}");
        }
        assert_eq!(address("10.0.0.1", &[", ,"], trusted), "10.0.0.1");
        assert_eq!(find("10.0.0.1", &[], Some(", https"), trusted).scheme, Scheme::Https);
    }

    #[test]
    fn a_peer_that_a_proxy_does_not_name_is_not_believed() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let headers =
            [(X_FORWARDED_FOR, "203.0.113.9".parse().unwrap()), (X_FORWARDED_PROTO, "https".parse().unwrap())];
        let proxy = "10.0.0.1:4711".parse().unwrap();
        let found = client(Peer::unnamed(proxy, Scheme::Http), &headers.into_iter().collect(), &trusted);
        assert_eq!((found.address, found.peer_is_trusted, found.scheme), (proxy.ip(), false, Scheme::Http));
    }

    #[test]
    fn networks_are_made_canonical_as_addresses_are() {
        for (written, canonical) in [
            ("::ffff:127.0.0.1/128", "127.0.0.1/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::/0", "::/0"),
            ("::1/128", "::1/128"),
        ] {
            let found = canonical_network(written.parse().unwrap());
            assert_eq!(found.to_string(), canonical, "{written}");
        }
        assert!(is_trusted("10.9.9.9".parse().unwrap(), &[canonical_network("::ffff:10.0.0.0/104".parse().unwrap())]));
    }

    proptest! {
        // Whatever a client sends, if each proxy appends the address that it sees, the result is
        // that client.
        #[test]
        fn what_a_client_writes_does_not_choose_its_address(
            lies in prop::collection::vec("[ -~]{0,30}|([0-9]{1,3}\\.){3}[0-9]{1,3}(:[0-9]{1,5})?|10\\.0\\.0\\.[0-9]", 0..4),
            client in any::<[u8; 4]>().prop_map(IpAddr::from).prop_filter("not a proxy", |a| !a.to_string().starts_with("10.")),
            proxies in 0u8..3,
        ) {
            let mut written = lies.clone();
            written.push(client.to_string());
            written.extend((0..proxies).map(|i| format!("10.1.1.{i}")));
            // On one line and on several.
            let joined = [written.join(", ")];
            for lines in [&written[..], &joined[..]] {
                let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                prop_assert_eq!(find("10.9.9.9", &lines, None, &["10.0.0.0/8"]).address, client);
                let direct = client.to_string();
                prop_assert_eq!(find(&direct, &lines, None, &["10.0.0.0/8"]).address, client);
            }
        }

        #[test]
        fn no_bytes_panic(value in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = http::HeaderValue::from_bytes(&value) {
                headers.append(X_FORWARDED_FOR, value.clone());
                headers.append(X_FORWARDED_PROTO, value);
            }
            let trusted = ["0.0.0.0/0".parse().unwrap()];
            client(Peer::new("10.0.0.1:1".parse().unwrap(), Scheme::Http), &headers, &trusted);
        }
    }

    #[test]
    fn the_scheme_comes_from_a_trusted_peer() {
        assert_eq!(find("10.0.0.1", &[], Some("HTTPS"), &["10.0.0.1/32"]).scheme, Scheme::Https);
        assert_eq!(find("10.0.0.1", &[], Some("http"), &["10.0.0.1/32"]).scheme, Scheme::Http);
        assert_eq!(find("10.0.0.1", &[], None, &["10.0.0.1/32"]).scheme, Scheme::Http);
    }

    #[test]
    fn tls_of_our_own_is_https_unless_a_trusted_peer_says_otherwise() {
        let scheme = |proto: Option<&'static str>, trusted: &str| {
            let headers = proto.map(|proto| (X_FORWARDED_PROTO, http::HeaderValue::from_static(proto)));
            let peer = Peer::new("10.0.0.1:4711".parse().unwrap(), Scheme::Https);
            client(peer, &headers.into_iter().collect(), &[trusted.parse().unwrap()]).scheme
        };
        assert_eq!(scheme(None, "10.0.0.1/32"), Scheme::Https);
        assert_eq!(scheme(Some("http"), "10.0.0.1/32"), Scheme::Http);
        assert_eq!(scheme(Some("http"), "10.0.0.2/32"), Scheme::Https);
    }
}
