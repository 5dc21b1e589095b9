//! Addresses: where the sidecar listens and what it connects to (TCP, unix sockets, sockets that
//! systemd passes, the upstream's URL), and the files of a certificate.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use url::Host;

use super::credential;
use super::value::{absolute_url, has_userinfo};

/// Where clients connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port; port 0 takes any free one.
    Tcp(SocketAddr),
    /// A unix socket, by its absolute path.
    Unix(PathBuf),
    /// The sockets, at least one, that systemd passes under this name.
    Systemd(String),
}

impl ListenAddress {
    /// Whether it is `[::]` without IPv4, because `all` contains an IPv4 address with its port. By
    /// default `[::]` accepts both (ipv6(7), IPV6_V6ONLY), and Linux would refuse to open the two.
    pub fn is_ipv6_only(&self, all: &[ListenAddress]) -> bool {
        let Self::Tcp(SocketAddr::V6(own)) = self else { return false };
        let is_twin = |other: &ListenAddress| matches!(other, Self::Tcp(other) if other.ip().to_canonical().is_ipv4() && other.port() == own.port());
        own.ip().is_unspecified() && own.port() != 0 && all.iter().any(is_twin)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
            Self::Systemd(name) => write!(f, "{SYSTEMD}{name}"),
        }
    }
}

/// Where requests are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamUrl {
    /// A host (a name or an IP address, without brackets) and a port (never 0), with plain HTTP.
    Http(String, u16),
    /// The same with HTTP over TLS.
    Https(String, u16),
    /// A unix socket by its absolute path, with plain HTTP.
    Unix(PathBuf),
}

impl UpstreamUrl {
    /// `host:port`, as in a `Host` field. A unix socket has no name; like nginx, the sidecar uses
    /// `localhost`.
    pub fn authority(&self) -> String {
        match self {
            Self::Http(host, port) | Self::Https(host, port) if host.contains(':') => format!("[{host}]:{port}"),
            Self::Http(host, port) | Self::Https(host, port) => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(..) => write!(f, "http://{}", self.authority()),
            Self::Https(..) => write!(f, "https://{}", self.authority()),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// The two files of a certificate, in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, followed by those of the authorities between it and one that clients trust.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl fmt::Display for CertificateFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.chain.display(), self.key.display())
    }
}

const UNIX: &str = "unix:";
const SYSTEMD: &str = "systemd:";

/// `sun_path` of `unix(7)` has 108 bytes, the last of them a zero.
const LONGEST_SOCKET_PATH: usize = 107;

/// Parses an address to listen on: `IP:port`, `unix:/path` or `systemd:name`. A host name is
/// refused, since its address can change between two starts.
pub fn listen_address(text: &str) -> Result<ListenAddress, String> {
    let accepted = "an IP address with a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\", or \"unix:/PATH\", or \"systemd:NAME\"";
    if let Ok(address) = text.parse() {
        return Ok(ListenAddress::Tcp(address));
    }
    if let Some(path) = socket_path(text) {
        return path.map(ListenAddress::Unix);
    }
    if let Some(name) = text.strip_prefix(SYSTEMD) {
        return socket_name(name).map(ListenAddress::Systemd);
    }
    if text.contains("://") {
        return Err(format!("is a URL; accepted: {accepted}"));
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Err(format!("the port is missing; write \"{}\"", SocketAddr::new(ip, 8080)));
    }
    if let Ok(port) = text.parse::<u16>() {
        return Err(format!(
            "the address is missing; write \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for every interface"
        ));
    }
    match text.rsplit_once(':') {
        Some(("" | "*", port)) if port.parse::<u16>().is_ok() => {
            Err(format!("for every interface write \"0.0.0.0:{port}\" or \"[::]:{port}\""))
        }
        Some(("localhost", port)) if port.parse::<u16>().is_ok() => {
            Err(format!("is a name; write \"127.0.0.1:{port}\" or \"[::1]:{port}\""))
        }
        Some((_, port)) if port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_err() => {
            Err("the port must be a number from 0 to 65535 (0: any free port)".into())
        }
        _ => Err(format!("not an address; accepted: {accepted}")),
    }
}

/// Like [`listen_address`], or `off`, which is `None`.
pub fn optional_listen_address(text: &str) -> Result<Option<ListenAddress>, String> {
    match text {
        "off" => Ok(None),
        text => listen_address(text).map(Some).map_err(|problem| format!("{problem}; or \"off\"")),
    }
}

/// Parses the upstream: `http://host`, `https://host`, each with or without a port, or
/// `unix:/path`.
pub fn upstream_url(text: &str) -> Result<UpstreamUrl, String> {
    let accepted = "http://HOST, http://HOST:PORT, the same with https, or unix:/PATH";
    if let Some(path) = socket_path(text) {
        return path.map(UpstreamUrl::Unix);
    }
    let url = match absolute_url(text) {
        Ok(url) => url,
        Err(_) if !text.contains("://") && absolute_url(&format!("http://{text}")).is_ok() => {
            return Err(format!("the scheme is missing; accepted: {accepted}"));
        }
        Err(problem) => return Err(format!("{problem}; accepted: {accepted}")),
    };
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("not an http or https URL; accepted: {accepted}"));
    }
    if has_userinfo(&url) {
        return Err(format!("a user name or password has no use here, requests carry their own; accepted: {accepted}"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(format!(
            "has a path or query, but every request keeps the path that the client sent, so it would never be used; accepted: {accepted}"
        ));
    }
    let host = match url.host() {
        Some(Host::Ipv6(ip)) => ip.to_string(),
        Some(host) => host.to_string(),
        None => return Err(format!("the host is missing; accepted: {accepted}")),
    };
    match url.port_or_known_default() {
        Some(0) | None => Err("port 0 cannot be connected to; accepted: 1 to 65535".into()),
        Some(port) if url.scheme() == "https" => Ok(UpstreamUrl::Https(host, port)),
        Some(port) => Ok(UpstreamUrl::Http(host, port)),
    }
}

/// In `upstream.tls_name`: use the name of each request's host.
pub const HOST: &str = "host";

/// Parses the name of an https upstream: `host`, a host name or an IP address.
pub fn tls_name(text: &str) -> Result<String, String> {
    let name = text.trim_start_matches('[').trim_end_matches(']');
    match rustls::pki_types::ServerName::try_from(name) {
        Ok(_) => Ok(name.to_ascii_lowercase()),
        Err(_) => Err(format!(
            "no certificate can be valid for that; accepted: a host's name without scheme and port, such as \
             \"www.example.com\", an IP address, or \"{HOST}\""
        )),
    }
}

/// Parses `CHAIN:KEY`, or one file with both; with `credential:` in front, the names of credentials
/// in `credentials`.
pub fn certificate(text: &str, credentials: Option<&Path>) -> Result<CertificateFiles, String> {
    if let Some(names) = text.strip_prefix(credential::CREDENTIAL) {
        let (chain, key) = names.split_once(':').unwrap_or((names, names));
        let [chain, key] = [chain, key].map(|name| credential::of_name(name, credentials));
        return Ok(CertificateFiles { chain: chain?, key: key? });
    }
    let (chain, key) = text.split_once(':').unwrap_or((text, text));
    match chain.is_empty() || key.is_empty() || key.contains(':') {
        true => Err("not two files; accepted: CHAIN:KEY, such as \"/etc/ssl/shop.pem:/etc/ssl/shop.key\"".into()),
        false => Ok(CertificateFiles { chain: PathBuf::from(chain), key: PathBuf::from(key) }),
    }
}

/// The path of `unix:/path`; `None` if the text is not a unix socket.
fn socket_path(text: &str) -> Option<Result<PathBuf, String>> {
    if text.starts_with('/') {
        return Some(Err(format!("the path of a unix socket is written \"{UNIX}{text}\"")));
    }
    let path = text.strip_prefix(UNIX)?;
    Some(match path.len() {
        _ if path.starts_with("//") || !path.starts_with('/') => {
            Err(format!("a unix socket has an absolute path, such as \"{UNIX}/run/wp-jwt-sidecar/http.sock\""))
        }
        _ if path.ends_with('/') || path.contains('\0') => Err("is not the path of a socket".into()),
        length if length > LONGEST_SOCKET_PATH => {
            Err(format!("the path of a unix socket has at most {LONGEST_SOCKET_PATH} bytes"))
        }
        _ => Ok(PathBuf::from(path)),
    })
}

/// A `FileDescriptorName=` by systemd's rules (systemd.socket(5)): no colon, printable ASCII, at
/// most 255 bytes.
fn socket_name(name: &str) -> Result<String, String> {
    let is_good = |b: u8| (b.is_ascii_graphic() || b == b' ') && b != b':';
    match !name.is_empty() && name.len() <= 255 && name.bytes().all(is_good) {
        true => Ok(name.to_owned()),
        false => {
            Err("behind systemd: stands what FileDescriptorName= of the socket unit says, such as \"systemd:http\""
                .into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_twin_takes_ipv4() {
        let of = |text: &str| listen_address(text).unwrap();
        for (own, others, expected) in [
            ("[::]:80", &["0.0.0.0:80", "[::]:80"][..], true),
            ("[::]:80", &["[::]:80", "127.0.0.1:80"], true),
            ("[::]:80", &["[::ffff:127.0.0.1]:80"], true),
            ("[::]:80", &["[::]:80", "0.0.0.0:81", "[::1]:80", "unix:/a", "systemd:a"], false),
            ("[::1]:80", &["0.0.0.0:80"], false),
            ("0.0.0.0:80", &["0.0.0.0:80", "[::]:80"], false),
            ("[::]:0", &["0.0.0.0:0"], false),
            ("systemd:a", &["0.0.0.0:80"], false),
        ] {
            let others: Vec<ListenAddress> = others.iter().map(|text| of(text)).collect();
            assert_eq!(of(own).is_ipv6_only(&others), expected, "{own} {others:?}");
        }
    }

    #[test]
    fn listen_addresses() {
        for text in ["[::1]:0", "127.0.0.1:80", "unix:/run/a b.sock", "systemd:http"] {
            assert_eq!(listen_address(text).unwrap().to_string(), text);
        }
        let too_long = format!("unix:/{}", "x".repeat(107));
        for (text, hint) in [
            ("127.0.0.1", "the port is missing; write \"127.0.0.1:8080\""),
            ("::1", "the port is missing; write \"[::1]:8080\""),
            ("[::]", "the port is missing; write \"[::]:8080\""),
            ("8080", "the address is missing; write \"127.0.0.1:8080\""),
            (":80", "for every interface write \"0.0.0.0:80\""),
            ("*:80", "for every interface write \"0.0.0.0:80\""),
            ("localhost:80", "is a name; write \"127.0.0.1:80\""),
            ("127.0.0.1:65536", "the port must be a number from 0 to 65535"),
            ("http://127.0.0.1:80", "is a URL; accepted: an IP address with a port"),
            ("/run/x.sock", "the path of a unix socket is written \"unix:/run/x.sock\""),
            ("unix:x.sock", "a unix socket has an absolute path"),
            ("unix:///run/x.sock", "a unix socket has an absolute path"),
            ("unix:/run/", "is not the path of a socket"),
            (&too_long, "the path of a unix socket has at most 107 bytes"),
            ("systemd:", "behind systemd: stands what FileDescriptorName="),
            ("systemd:http:80", "behind systemd: stands what FileDescriptorName="),
            ("example.com:80", "not an address; accepted:"),
            ("", "not an address; accepted:"),
        ] {
            assert!(listen_address(text).unwrap_err().starts_with(hint), "{text}: {:?}", listen_address(text));
        }
    }

    #[test]
    fn upstream_urls() {
        for (text, display, authority) in [
            ("http://127.0.0.1:8081", "http://127.0.0.1:8081", "127.0.0.1:8081"),
            ("http://wordpress", "http://wordpress:80", "wordpress:80"),
            ("HTTP://WordPress:80/", "http://wordpress:80", "wordpress:80"),
            ("http://[::1]:8081", "http://[::1]:8081", "[::1]:8081"),
            ("https://wordpress", "https://wordpress:443", "wordpress:443"),
            ("unix:/run/php/web.sock", "unix:/run/php/web.sock", "localhost"),
        ] {
            let url = upstream_url(text).unwrap();
            assert_eq!((url.to_string().as_str(), url.authority().as_str()), (display, authority));
        }
        assert_eq!(upstream_url("http://[::1]"), Ok(UpstreamUrl::Http("::1".into(), 80)));
        for (text, hint) in [
            ("127.0.0.1:8081", "the scheme is missing"),
            ("wordpress", "the scheme is missing"),
            ("ftp://x", "not an http or https URL"),
            ("http://x/blog", "has a path or query"),
            ("http://x?a", "has a path or query"),
            ("http://x/#a", "has a path or query"),
            ("http://user:pass@x", "a user name or password has no use here"),
            ("http://x:0", "port 0 cannot be connected to"),
            ("http://x:99999", "not a URL"),
            ("http:///x", "not a URL"),
            ("http://", "not a URL"),
            ("http://a b", "has white space in it"),
            (" http://a", "has white space in it"),
            ("http:\\\\a", "has a backslash in it"),
            ("unix:run/x.sock", "a unix socket has an absolute path"),
        ] {
            assert!(upstream_url(text).unwrap_err().starts_with(hint), "{text}: {:?}", upstream_url(text));
        }
    }

    #[test]
    fn certificates() {
        let certificate = |text| certificate(text, Some(Path::new("/c")));
        assert_eq!(certificate("/a.pem:/a.key").unwrap().to_string(), "/a.pem:/a.key");
        assert_eq!(certificate("both.pem").unwrap().to_string(), "both.pem:both.pem");
        assert_eq!(certificate("credential:a.pem:a.key").unwrap().to_string(), "/c/a.pem:/c/a.key");
        assert_eq!(certificate("credential:both.pem").unwrap().to_string(), "/c/both.pem:/c/both.pem");
        for text in ["", ":", "a:", ":a", "a:b:c", "credential:", "credential:a:b:c", "credential:a:/b"] {
            assert!(certificate(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_can_be_written_back(text in ".{0,40}|(https?://|unix:)?[a-z0-9.:/@\\[\\]=,?-]{0,40}") {
            if let Ok(url) = upstream_url(&text) {
                prop_assert_eq!(upstream_url(&url.to_string()), Ok(url));
            }
            if let Ok(address) = listen_address(&text) {
                prop_assert_eq!(listen_address(&address.to_string()), Ok(address));
            }
        }
    }
}
