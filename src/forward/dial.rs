//! Making a connection to the upstream: by TCP, by a unix socket, or by TLS over TCP.
//!
//! HTTP/2 is never offered: what is forwarded is HTTP/1.1, with its field names in the case that the client sent.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::config::{self, Fault, Faults, UpstreamProxyProtocol, UpstreamUrl};
use crate::proxy_protocol::introduction;
use crate::stream::Stream;

/// A connection to the upstream.
pub type UpstreamStream = Either<Stream, TlsStream<TcpStream>>;

/// Knows the way to the upstream. Shared by the workers and those who ask WordPress on the sidecar's own behalf.
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
    Tls { host: String, port: u16, name: ServerName<'static>, trust: Trust },
}

/// Whom an upstream's certificate may be signed by.
#[derive(Clone)]
struct Trust {
    roots: Arc<RootCertStore>,
    connector: TlsConnector,
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.roots.roots == other.roots.roots
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody there.
    #[error("could not connect to the upstream")]
    Connect(#[source] io::Error),
    /// A certificate that is not trusted, or nobody who speaks TLS.
    #[error("could not agree on TLS with the upstream")]
    Tls(#[source] io::Error),
    /// It took too long.
    #[error("the upstream took no connection within {0:?}")]
    TimedOut(Duration),
}

impl Dialer {
    /// Reads the certificates that an `https` upstream's is checked against. Connects to nobody.
    ///
    /// # Errors
    /// A host that no certificate can be for, or no certificates to check against.
    pub fn new(config: &config::Upstream) -> Result<Self, Faults> {
        let way = match &config.url {
            UpstreamUrl::Http(host, port) => Way::Tcp(host.clone(), *port),
            UpstreamUrl::Unix(path) => Way::Unix(path.as_path().into()),
            UpstreamUrl::Https(host, port) => Way::Tls {
                host: host.clone(),
                port: *port,
                name: ServerName::try_from(host.clone())
                    .map_err(|_| fault("upstream.url", "no certificate can be valid for this host name"))?,
                trust: Trust::read(config.ca_file.as_deref())?,
            },
        };
        let introduces = config.proxy_protocol == UpstreamProxyProtocol::V2;
        Ok(Dialer { way, introduces, limit: config.connect_timeout })
    }

    /// Connects, within `[upstream] connect_timeout` in all. `client` is whom the connection is for, `None` where it is for
    /// the sidecar itself; the upstream is told where `[upstream] proxy_protocol` says so.
    ///
    /// # Errors
    /// Nobody there, not in time, or a certificate that is not trusted.
    pub async fn dial(&self, client: Option<IpAddr>) -> Result<UpstreamStream, DialError> {
        timeout(self.limit, self.connect(client)).await.unwrap_or(Err(DialError::TimedOut(self.limit)))
    }

    /// Whether every connection is for one client only.
    pub fn introduces(&self) -> bool {
        self.introduces
    }

    async fn connect(&self, client: Option<IpAddr>) -> Result<UpstreamStream, DialError> {
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
            Way::Tls { host, port, name, trust } => {
                let mut stream = tcp(host, *port).await?;
                self.introduce(&mut stream, client).await?;
                let stream = trust.connector.connect(name.clone(), stream).await.map_err(DialError::Tls)?;
                Ok(Either::Right(stream))
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

impl Trust {
    fn read(ca_file: Option<&Path>) -> Result<Self, Faults> {
        let roots = match ca_file {
            Some(path) => roots_of(path).map_err(|problem| fault("upstream.ca_file", problem))?,
            None => system_roots().map_err(|problem| fault("upstream.url", problem))?,
        };
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| fault("upstream.url", format!("TLS cannot be set up: {error}")))?
            .with_root_certificates(Arc::clone(&roots))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Trust { roots, connector: TlsConnector::from(Arc::new(config)) })
    }
}

fn roots_of(path: &Path) -> Result<RootCertStore, String> {
    let pem = fs::read(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{}: is not in PEM form: {error}", path.display()))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    match roots.is_empty() {
        true => Err(format!("{}: has no certificate in PEM form in it (-----BEGIN CERTIFICATE-----)", path.display())),
        false => Ok(roots),
    }
}

/// Some systems have an old certificate that does not parse among a hundred good ones; only none at all is a fault.
fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    match (roots.is_empty(), found.errors.first()) {
        (false, _) => Ok(roots),
        (true, Some(error)) => Err(format!("the system's trusted certificates cannot be read: {error}")),
        (true, None) => Err("this system has no trusted certificates (package ca-certificates); install them, or \
                             name the upstream's authority with upstream.ca_file"
            .into()),
    }
}

fn fault(key: &str, problem: impl Into<String>) -> Faults {
    Faults(vec![Fault { key: key.to_owned(), problem: problem.into(), ..Fault::default() }])
}
