//! TLS with clients: choosing a certificate, limiting handshakes, and renewing certificates without
//! losing a connection.
//!
//! rustls with the provider aws-lc-rs, TLS 1.2 and 1.3. Ciphers cannot be configured: rustls offers
//! those that Mozilla's "intermediate" configuration recommends. Clients are not asked for
//! certificates.

pub mod certificates;
pub mod pair;
mod reload;

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::{self, CertificateFiles, Fault, Faults};
use crate::metrics::Event;
use crate::net::stream::Stream;
use certificates::{Certificates, Warning};
use pair::Certificate;
pub use reload::reload_when_changed;
use reload::{Seen, look};

/// The protocols over TLS, in order of preference.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The certificates in effect and their files.
pub struct Tls {
    files: Vec<CertificateFiles>,
    /// The state of the files just before they were read.
    seen: Vec<Seen>,
    current: Arc<Current>,
    acceptor: Acceptor,
}

/// Makes TLS connections. Cheap to clone; always presents the certificates in effect.
#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
    limit: Duration,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client sent no TLS or offered nothing usable, or left.
    #[error("the TLS handshake failed")]
    Failed(#[source] io::Error),
    /// `[tls] handshake_timeout`.
    #[error("the TLS handshake took longer than {0:?}")]
    TimedOut(Duration),
}

impl HandshakeError {
    pub fn event(&self) -> Event {
        let error = match self {
            HandshakeError::TimedOut(_) => return Event::HandshakeTimeout,
            HandshakeError::Failed(error) => error,
        };
        match error.get_ref().and_then(|error| error.downcast_ref()) {
            Some(rustls::Error::InvalidMessage(_)) => Event::HandshakeNotTls,
            Some(rustls::Error::PeerIncompatible(_)) => Event::HandshakeIncompatible,
            Some(rustls::Error::AlertReceived(_)) => Event::HandshakeAlert,
            Some(_) => Event::HandshakeOther,
            // The connection ended without any other error.
            None => Event::HandshakeClosed,
        }
    }
}

impl Tls {
    /// Reads the certificates; missing ones are waited for. `None` if nothing listens with TLS.
    ///
    /// # Errors
    /// Every pair that can never be used, such as a key of another certificate.
    pub fn load(config: &config::Tls) -> Result<Option<Arc<Self>>, Faults> {
        if config.listen.is_empty() {
            return Ok(None);
        }
        let seen = look(&config.certificates);
        let certificates = Certificates::read(&config.certificates).map_err(|problems| {
            Faults(problems.into_iter().map(|(files, problem)| fault(Some(&files), problem)).collect())
        })?;
        let current = Arc::new(Current(RwLock::new(Arc::new(certificates))));
        let server = server_config(Arc::clone(&current))
            .map_err(|error| Faults(vec![fault(None, format!("TLS cannot be set up: {error}"))]))?;
        let acceptor = Acceptor { tls: TlsAcceptor::from(Arc::new(server)), limit: config.handshake_timeout };
        Ok(Some(Arc::new(Tls { files: config.certificates.clone(), seen, current, acceptor })))
    }

    /// For the listeners.
    pub fn acceptor(&self) -> Acceptor {
        self.acceptor.clone()
    }

    /// The certificates in effect, in the order of the configuration.
    pub fn certificates(&self) -> Vec<Arc<Certificate>> {
        self.current.get().usable().to_vec()
    }

    /// Whether there is a certificate: without one no handshake can succeed, so nothing should
    /// listen.
    pub fn is_usable(&self) -> bool {
        !self.current.get().usable().is_empty()
    }

    /// How many pairs are waited for.
    pub fn missing(&self) -> usize {
        self.current.get().missing().len()
    }

    /// What an operator should check.
    pub fn warnings(&self) -> Vec<Warning> {
        self.current.get().warnings(SystemTime::now())
    }

    /// The certificates in effect, in one line: the names, kind and end of each.
    pub fn describe(&self) -> String {
        self.certificates().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    /// Whether this may replace `before`. At boot a pair may be late, but in a reload a named pair
    /// that is missing is a mistake, and must not cost a certificate that was presented.
    ///
    /// # Errors
    /// Pairs that are missing and were not waited for before.
    pub fn can_replace(&self, before: Option<&Tls>) -> Result<(), Faults> {
        let (own, before) = (self.current.get(), before.map(|before| before.current.get()));
        let waited_for = before.iter().flat_map(|before| before.missing());
        let waited_for: Vec<&CertificateFiles> = waited_for.map(|missing| &missing.files).collect();
        let new = own.missing().iter().filter(|missing| !waited_for.contains(&&missing.files));
        let mut faults: Vec<Fault> = new.map(|missing| fault(Some(&missing.files), missing.problem.clone())).collect();
        let was_waiting = before.is_some_and(|before| before.usable().is_empty());
        if faults.is_empty() && own.usable().is_empty() && !was_waiting {
            faults.extend(own.missing().iter().map(|missing| fault(Some(&missing.files), missing.problem.clone())));
        }
        if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
    }
}

impl Acceptor {
    /// Makes the handshake, within `[tls] handshake_timeout`.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn accept(&self, stream: Stream) -> Result<TlsStream<Stream>, HandshakeError> {
        match timeout(self.limit, self.tls.accept(stream)).await {
            Ok(done) => done.map_err(HandshakeError::Failed),
            Err(_) => Err(HandshakeError::TimedOut(self.limit)),
        }
    }
}

/// Whether the client selected HTTP/2 in the handshake (RFC 7301; RFC 9113, 3.2).
pub fn chose_http2(stream: &TlsStream<Stream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}

/// The certificates that new handshakes get.
#[derive(Debug)]
struct Current(RwLock<Arc<Certificates>>);

impl Current {
    fn get(&self) -> Arc<Certificates> {
        // No holder of the lock can leave it half changed.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, certificates: Certificates) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certificates);
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get().of_client(hello.server_name(), hello.signature_schemes(), SystemTime::now())
    }
}

fn server_config(current: Arc<Current>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(current);
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    // Tickets let a returning client skip most of the handshake, without memory on this side.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(config)
}

fn fault(files: Option<&CertificateFiles>, problem: String) -> Fault {
    Fault { key: "tls.certificates".into(), place: None, value: files.map(|files| format!("\"{files}\"")), problem }
}
