//! Connects to the upstream: by TCP, by a unix socket, or by TLS over TCP.
//!
//! HTTP/2 is never offered: requests are forwarded as HTTP/1.1, with field names in the case that
//! the client sent.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::either::Either;

use super::proxy_protocol::introduction;
use super::stream::UpstreamStream;
use super::trust::{self, Trust, fault};
use crate::config::{self, Faults, TlsName, UpstreamProxyProtocol, UpstreamUrl};

/// How the upstream is reached. Shared by the workers and the sidecar's own requests to WordPress.
#[derive(Clone, PartialEq)]
pub struct Dialer {
    way: Way,
    introduces: bool,
    limit: Duration,
}

#[derive(Clone, PartialEq)]
enum Way {
    Tcp(String, u16),
    Unix(Arc<Path>),
    Tls {
        host: String,
        port: u16,
        /// The server name if a request does not choose another.
        usual: ServerName<'static>,
        /// The hosts whose requests use their own server name; `None` if all use the usual one.
        hosts: Option<Arc<[Own]>>,
        trust: Trust,
    },
}

/// One of the site's hosts, prepared once: each request is compared with it.
#[derive(PartialEq)]
struct Own {
    /// In the form of certificates.
    host: String,
    name: Option<ServerName<'static>>,
}

impl Own {
    fn new(host: &str) -> Self {
        let host = host_name(host).to_ascii_lowercase();
        let name = ServerName::try_from(host.clone()).ok();
        Own { host, name }
    }
}

/// Why connecting failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nothing accepts connections there.
    #[error("could not connect to the upstream")]
    Connect(#[source] io::Error),
    /// The certificate is not trusted, or the upstream does not speak TLS.
    #[error("could not agree on TLS with the upstream")]
    Tls(#[source] io::Error),
    #[error("the upstream took no connection within {0:?}")]
    TimedOut(Duration),
}

impl Dialer {
    /// Reads the trusted certificates for an `https` upstream. Does not connect.
    ///
    /// # Errors
    /// A host that no certificate can be valid for, or no trusted certificates.
    pub fn new(config: &config::Upstream) -> Result<Self, Faults> {
        let way = match &config.url {
            UpstreamUrl::Http(host, port) => Way::Tcp(host.clone(), *port),
            UpstreamUrl::Unix(path) => Way::Unix(path.as_path().into()),
            UpstreamUrl::Https(host, port) => Way::Tls {
                host: host.clone(),
                port: *port,
                usual: usual_name(host, &config.tls_name)?,
                hosts: match &config.tls_name {
                    TlsName::OfHost(hosts) => Some(hosts.iter().map(|host| Own::new(host)).collect()),
                    TlsName::OfUrl | TlsName::Is(_) => None,
                },
                trust: Trust::read(config.ca_file.as_deref())?,
            },
        };
        let introduces = config.proxy_protocol == UpstreamProxyProtocol::V2;
        Ok(Dialer { way, introduces, limit: config.connect_timeout })
    }

    /// Connects within `[upstream] connect_timeout` in all. `name` is that of [`Dialer::name_for`];
    /// `None` is the usual one. `client` is the client that the connection is for, or `None` for
    /// the sidecar itself; with `[upstream] proxy_protocol` the upstream is informed.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial_as(
        &self,
        client: Option<IpAddr>,
        name: Option<&ServerName<'static>>,
    ) -> Result<UpstreamStream, DialError> {
        timeout(self.limit, self.connect(client, name)).await.unwrap_or(Err(DialError::TimedOut(self.limit)))
    }

    /// Like [`Dialer::dial_as`], for the sidecar's own requests to the site. `home` is the host of
    /// its home URL; while that is unknown, the site's first host stands in for it.
    ///
    /// # Errors
    /// See [`Dialer::dial_as`].
    pub async fn dial_home(&self, client: Option<IpAddr>, home: Option<&str>) -> Result<UpstreamStream, DialError> {
        let first = || match &self.way {
            Way::Tls { hosts: Some(hosts), .. } => hosts.first().map(|own| own.host.as_str()),
            _ => None,
        };
        let home = home.or_else(first);
        let name = self.name_for(home.map(str::as_bytes), || home.map(str::to_owned));
        self.dial_as(client, name.as_ref()).await
    }

    /// Whether connections use the name of the request's host.
    pub fn goes_by_hosts(&self) -> bool {
        matches!(self.way, Way::Tls { hosts: Some(_), .. })
    }

    /// The server name, in SNI and certificate, for a request with this `Host` to an `https`
    /// upstream; `None` is the usual one. `home` is the host of the site's home URL, if known.
    // SECURITY: clients can choose only among the site's own names. With any others they could fill
    // the pool with a connection per name, and have certificates checked for names that the site
    // does not have.
    pub fn name_for(&self, host: Option<&[u8]>, home: impl FnOnce() -> Option<String>) -> Option<ServerName<'static>> {
        let Way::Tls { hosts: Some(hosts), .. } = &self.way else { return None };
        let host = host_name(std::str::from_utf8(host?).ok()?);
        if let Some(own) = hosts.iter().find(|own| own.host.eq_ignore_ascii_case(host)) {
            return own.name.clone();
        }
        let is_home = home().is_some_and(|home| host_name(&home).eq_ignore_ascii_case(host));
        is_home.then(|| ServerName::try_from(host.to_ascii_lowercase()).ok()).flatten()
    }

    /// Whether every connection is introduced as one client's.
    pub fn introduces(&self) -> bool {
        self.introduces
    }

    async fn connect(
        &self,
        client: Option<IpAddr>,
        name: Option<&ServerName<'static>>,
    ) -> Result<UpstreamStream, DialError> {
        match &self.way {
            Way::Tcp(host, port) => {
                let mut stream = tcp(host, *port).await?;
                self.introduce(&mut stream, client).await?;
                Ok(Either::Left(Either::Left(stream)))
            }
            Way::Unix(path) => {
                let mut stream = UnixStream::connect(path).await.map_err(DialError::Connect)?;
                self.introduce(&mut stream, client).await?;
                Ok(Either::Left(Either::Right(stream)))
            }
            Way::Tls { host, port, usual, trust, .. } => {
                let mut stream = tcp(host, *port).await?;
                self.introduce(&mut stream, client).await?;
                let name = name.unwrap_or(usual).clone();
                let stream = trust.connector.connect(name, stream).await;
                Ok(Either::Right(stream.map_err(|error| DialError::Tls(trust::explained(error)))?))
            }
        }
    }
}

impl Dialer {
    async fn introduce(&self, stream: &mut (impl AsyncWrite + Unpin), client: Option<IpAddr>) -> Result<(), DialError> {
        match self.introduces {
            true => stream.write_all(&introduction(client)).await.map_err(DialError::Connect),
            false => Ok(()),
        }
    }
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let stream = TcpStream::connect((host, port)).await.map_err(DialError::Connect)?;
    stream.set_nodelay(true).map_err(DialError::Connect)?;
    Ok(stream)
}

/// A host in the form of certificates: without port, brackets and trailing dot.
fn host_name(host: &str) -> &str {
    let name = match host.strip_prefix('[') {
        Some(address) => address.split(']').next(),
        None => host.split(':').next(),
    };
    name.unwrap_or(host).trim_end_matches('.')
}

fn usual_name(host: &str, configured: &TlsName) -> Result<ServerName<'static>, Faults> {
    let (key, name) = match configured {
        TlsName::Is(name) => ("upstream.tls_name", name.as_str()),
        TlsName::OfUrl | TlsName::OfHost(_) => ("upstream.url", host),
    };
    ServerName::try_from(name.to_owned()).map_err(|_| fault(key, "no certificate can be valid for this host name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EarlyBodies, Upstream};

    fn dialer(tls_name: TlsName) -> Dialer {
        let directory = tempfile::TempDir::new().unwrap();
        let ca_file = directory.path().join("ca.pem");
        std::fs::write(&ca_file, rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem()).unwrap();
        let second = Duration::from_secs(1);
        let upstream = Upstream {
            url: UpstreamUrl::Https("127.0.0.1".into(), 443),
            ca_file: Some(ca_file),
            tls_name,
            proxy_protocol: UpstreamProxyProtocol::Off,
            early_bodies: EarlyBodies::Never,
            connect_timeout: second,
            response_header_timeout: second,
            response_body_idle: second,
            max_connections: 0,
            keepalive_idle: second,
            keepalive_max_idle: 1,
        };
        Dialer::new(&upstream).map_err(|faults| faults.to_string()).unwrap()
    }

    #[test]
    fn a_host_of_the_site_is_asked_for_by_its_name_and_no_other_is() {
        let listed = vec!["www.shop.example".to_owned(), "b.example:8443".to_owned()];
        let home = || Some("Shop.Example:8443".to_owned());
        let dialer_of_hosts = dialer(TlsName::OfHost(listed));
        for (host, expected) in [
            (Some("shop.example"), Some("shop.example")),
            (Some("SHOP.example.:8443"), Some("shop.example")),
            (Some("www.shop.example:80"), Some("www.shop.example")),
            (Some("b.example"), Some("b.example")),
            (Some("shop.example.evil.test"), None),
            (Some("a.shop.example"), None),
            (Some("[::1]:80"), None),
            (Some(""), None),
            (None, None),
        ] {
            let name = dialer_of_hosts.name_for(host.map(str::as_bytes), home);
            assert_eq!(name.map(|name| name.to_str().into_owned()).as_deref(), expected, "{host:?}");
        }
        assert!(dialer_of_hosts.name_for(Some(b"shop.example"), || None).is_none());
        for other in [TlsName::OfUrl, TlsName::Is("shop.example".into())] {
            assert!(dialer(other).name_for(Some(b"shop.example"), home).is_none());
        }
    }
}
