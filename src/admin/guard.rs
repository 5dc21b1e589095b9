//! Decides by a request's head whether it may be answered.
//!
//! The listener is on the loopback address by default, which is no protection: any web page that an
//! operator has open can send requests there. The protection consists of this module and of the
//! fields of every response (see [`super::answer`]).

use std::net::Ipv6Addr;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The listener allows no changes.
    Method,
    /// There is no `Host`, several, or an invalid one.
    NoHost,
    /// The name is not in `[admin] hosts`.
    UnknownHost,
}

impl Denial {
    pub fn status(self) -> StatusCode {
        match self {
            Denial::Method => StatusCode::METHOD_NOT_ALLOWED,
            Denial::NoHost => StatusCode::BAD_REQUEST,
            Denial::UnknownHost => StatusCode::MISDIRECTED_REQUEST,
        }
    }

    /// For the client.
    pub fn explanation(self) -> &'static str {
        match self {
            Denial::Method => "Only GET and HEAD: nothing can be changed here.\n",
            Denial::NoHost => "The request does not name one valid host.\n",
            Denial::UnknownHost => {
                "This name is not known here. Use an IP address or \"localhost\", or add the name to the key hosts in the \
                 section [admin] of the configuration.\n"
            }
        }
    }
}

/// Whether a request may be answered. `hosts` is `[admin] hosts`; `by_unix_socket` says whether it
/// came on a unix socket.
///
/// # Errors
/// Why not.
pub fn admit(method: &Method, headers: &HeaderMap, hosts: &[String], by_unix_socket: bool) -> Result<(), Denial> {
    if method != Method::GET && method != Method::HEAD {
        return Err(Denial::Method);
    }
    let mut named = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else { return Err(Denial::NoHost) };
    // SECURITY: a browser cannot be directed to a unix socket; a proxy in front of one is
    // responsible for the names that it serves.
    if by_unix_socket || is_known(host, hosts)? {
        return Ok(());
    }
    Err(Denial::UnknownHost)
}

/// SECURITY: protects against DNS rebinding. A web page can have its own name resolve to 127.0.0.1
/// and then read the responses as its own origin; but the browser still sends that name. Addresses
/// and `localhost` cannot belong to such a page.
fn is_known(host: &HeaderValue, hosts: &[String]) -> Result<bool, Denial> {
    let authority: http::uri::Authority =
        host.to_str().ok().and_then(|text| text.parse().ok()).ok_or(Denial::NoHost)?;
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(Denial::NoHost);
    }
    let name = authority.host();
    let is_ipv6 = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_address =
        name.parse::<std::net::Ipv4Addr>().is_ok() || is_ipv6.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    let configured =
        hosts.iter().any(|known| known.eq_ignore_ascii_case(name) || known.eq_ignore_ascii_case(authority.as_str()));
    Ok(is_address || name.eq_ignore_ascii_case("localhost") || configured)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method, hosts: &[&str], by_unix_socket: bool) -> Result<(), Denial> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
        }
        let known = ["status.example".to_owned(), "other.example:8443".to_owned()];
        admit(&method, &headers, &known, by_unix_socket)
    }

    #[test]
    fn addresses_localhost_and_known_names() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9151",
            "[::1]:9151",
            "[::1]",
            "192.0.2.7:1",
            "localhost",
            "LOCALHOST:9151",
            "status.example",
            "Status.Example:9151",
            "other.example:8443",
        ] {
            assert_eq!(asked(Method::GET, &[host], false), Ok(()), "{host}");
        }
    }

    #[test]
    fn names_of_others() {
        for host in [
            "evil.example",
            "evil.example:9151",
            "other.example",
            "other.example:1",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "a.localhost",
            "127.1",
            "2130706433",
        ] {
            assert_eq!(asked(Method::GET, &[host], false), Err(Denial::UnknownHost), "{host}");
            assert_eq!(asked(Method::GET, &[host], true), Ok(()), "{host}");
        }
    }

    #[test]
    fn no_host_or_none_that_is_one() {
        for hosts in
            [&[][..], &[""][..], &["a b"][..], &["a@127.0.0.1"][..], &["\u{e4}"][..], &["127.0.0.1", "127.0.0.1"][..]]
        {
            assert_eq!(asked(Method::GET, hosts, false), Err(Denial::NoHost), "{hosts:?}");
        }
    }

    #[test]
    fn nothing_can_be_changed() {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH] {
            assert_eq!(asked(method, &["127.0.0.1"], true), Err(Denial::Method));
        }
        assert_eq!(asked(Method::HEAD, &["127.0.0.1"], false), Ok(()));
    }
}
