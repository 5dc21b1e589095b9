//! Probes a database's certificate: reads the greeting, asks for TLS, makes the handshake, and
//! closes before logging in.
//!
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html>
//!
//! SECURITY: the handshake is completed with any server, and nothing is sent over it. The result is
//! only shown to operators; each real connection has its own verifier.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::certificate::{self, Facts};

/// CLIENT_PROTOCOL_41, CLIENT_SSL, CLIENT_SECURE_CONNECTION, CLIENT_PLUGIN_AUTH.
const CAPABILITIES: u32 = 0x0008_8A00;
const CLIENT_SSL: u16 = 0x0800;

/// The longest greeting accepted, in bytes; a server's has a hundred.
const LONGEST_GREETING: usize = 4096;

/// What a server presented.
pub struct Presented {
    /// The TLS version and cipher suite, as rustls names them.
    pub agreed: String,
    /// Its certificate, and the others that it sends.
    pub chain: Vec<CertificateDer<'static>>,
    /// The certificate's contents.
    pub facts: Option<Facts>,
    /// Why it is not verified; `None` if it is.
    pub refused: Option<String>,
}

impl Presented {
    /// On one line.
    pub fn describe(&self) -> String {
        let certificate = match &self.facts {
            Some(facts) => {
                let end = httpdate::fmt_http_date(facts.end);
                format!("certificate for {}, signed by {}, until {end}", facts.subject(), facts.signer())
            }
            None => "a certificate that cannot be read".to_owned(),
        };
        let refused = self.refused.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
        format!("{}; {certificate}{refused}", self.agreed)
    }
}

/// Probes the server, and verifies its certificate for `name` against `roots`.
pub(super) async fn look(host: &str, port: u16, name: &str, roots: RootCertStore) -> Result<Presented, String> {
    let asked = ServerName::try_from(name).map_err(|_| format!("no certificate can be for {name:?}"))?.to_owned();
    let watcher = Arc::new(Watcher::new(roots)?);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&watcher) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let mut stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
    let greeting = packet(&mut stream).await.map_err(|error| error.to_string())?;
    if !offers_tls(&greeting) {
        return Err("the server offers no TLS".to_owned());
    }
    stream.write_all(&ssl_request()).await.map_err(|error| error.to_string())?;
    let shaken = TlsConnector::from(Arc::new(config)).connect(asked, stream).await;
    // Even if the server closes the connection after sending the certificate.
    let Some(Seen { chain, refused }) = watcher.seen.lock().unwrap_or_else(PoisonError::into_inner).take() else {
        return Err(shaken.err().map_or_else(|| "no certificate".to_owned(), |error| error.to_string()));
    };
    let agreed = match &shaken {
        Ok(stream) => {
            let (_, session) = stream.get_ref();
            let version = session.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default();
            let suite = session.negotiated_cipher_suite().map(|suite| format!(", {:?}", suite.suite()));
            format!("{version}{}", suite.unwrap_or_default())
        }
        Err(error) => format!("the handshake fails: {error}"),
    };
    let leaf = chain.first().map(|leaf| leaf.as_ref());
    let facts = leaf.and_then(Facts::of);
    let refused = refused.map(|error| match error {
        rustls::Error::InvalidCertificate(error) => {
            certificate::explain(&certificate::faults(&error, leaf, name), false)
        }
        error => error.to_string(),
    });
    Ok(Presented { agreed, facts, refused, chain })
}

/// One packet: three bytes of length, one of sequence, then the payload.
async fn packet(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let header = stream.read_u32_le().await?;
    let length = usize::try_from(header & 0x00FF_FFFF).unwrap_or(usize::MAX);
    if length > LONGEST_GREETING {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what answers is no MySQL or MariaDB"));
    }
    let mut content = vec![0; length];
    stream.read_exact(&mut content).await?;
    Ok(content)
}

/// Version 10 of the protocol, the server's version up to a zero, 4 bytes of the connection's
/// number, 8 of a nonce, a zero, and the lower half of the capabilities.
fn offers_tls(greeting: &[u8]) -> bool {
    let Some((10, behind)) = greeting.split_first().map(|(version, behind)| (*version, behind)) else { return false };
    let Some(end) = behind.iter().position(|byte| *byte == 0) else { return false };
    let capabilities = behind.get(end + 14..end + 16).and_then(|bytes| <[u8; 2]>::try_from(bytes).ok());
    capabilities.is_some_and(|bytes| u16::from_le_bytes(bytes) & CLIENT_SSL != 0)
}

/// Capabilities, the largest packet (16 MiB), the character set utf8mb4_general_ci, 23 zeros; the
/// second packet of the conversation.
fn ssl_request() -> Vec<u8> {
    let mut request = vec![32, 0, 0, 1];
    request.extend_from_slice(&CAPABILITIES.to_le_bytes());
    request.extend_from_slice(&0x0100_0000_u32.to_le_bytes());
    request.push(45);
    request.resize(36, 0);
    request
}

/// Accepts every certificate, and keeps the result of a real verification.
#[derive(Debug)]
struct Watcher {
    /// `None` if no authority is trusted.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    schemes: Vec<SignatureScheme>,
    seen: Mutex<Option<Seen>>,
}

#[derive(Debug)]
struct Seen {
    chain: Vec<CertificateDer<'static>>,
    refused: Option<rustls::Error>,
}

impl Watcher {
    fn new(roots: RootCertStore) -> Result<Self, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let schemes = provider.signature_verification_algorithms.supported_schemes();
        let verifier = match roots.is_empty() {
            true => None,
            false => Some(
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|error| error.to_string())?,
            ),
        };
        Ok(Watcher { verifier, schemes, seen: Mutex::default() })
    }
}

impl ServerCertVerifier for Watcher {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = match &self.verifier {
            Some(verifier) => {
                verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now).map(drop)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        let chain = std::iter::once(end_entity).chain(intermediates).map(|der| der.clone().into_owned()).collect();
        let seen = Seen { chain, refused: verified.err() };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A greeting of MariaDB 10.11, up to the capabilities.
    fn greeting(capabilities: u16) -> Vec<u8> {
        let mut greeting = b"\x0a10.11.19-MariaDB\0\x07\0\0\0ABCDEFGH\0".to_vec();
        greeting.extend_from_slice(&capabilities.to_le_bytes());
        greeting
    }

    #[test]
    fn which_servers_offer_tls() {
        assert!(offers_tls(&greeting(0xFFFE)));
        assert!(!offers_tls(&greeting(0xF7FE)));
        assert!(!offers_tls(b"\xff\x15\x04Host is blocked"));
        assert_eq!(ssl_request().len(), 36);
    }

    proptest! {
        #[test]
        fn what_a_stranger_sends_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            offers_tls(&bytes);
            offers_tls(&[&[10], bytes.as_slice()].concat());
            let facts = Facts::of(&bytes);
            prop_assert!(facts.is_none());
        }
    }
}
