//! Decides which certificates an `https` upstream may present.
//!
//! A certificate signed by an authority is checked by webpki. One that is in `[upstream] ca_file`
//! byte for byte is trusted by identity, as curl and nginx do: webpki refuses what plain `openssl
//! req -x509` makes, a certificate that is its own authority (CA:TRUE) without subjectAltName.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio_rustls::TlsConnector;
use tracing::warn;
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate, X509Version};

use crate::byte_order_mark;
use crate::config::{Fault, Faults};

/// The trusted certificates, and the connector that checks them.
#[derive(Clone)]
pub struct Trust {
    listed: Arc<[CertificateDer<'static>]>,
    roots: Arc<RootCertStore>,
    pub connector: TlsConnector,
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.listed == other.listed && self.roots.roots == other.roots.roots
    }
}

impl Trust {
    /// The certificates of `ca_file`, or without one those that the system trusts.
    ///
    /// # Errors
    /// A file that is unreadable or without certificates; a system without authorities.
    pub fn read(ca_file: Option<&Path>) -> Result<Self, Faults> {
        let (listed, roots) = match ca_file {
            Some(path) => listed(path).map_err(|problem| fault("upstream.ca_file", problem))?,
            None => (Vec::new(), system_roots().map_err(|problem| fault("upstream.url", problem))?),
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (listed, roots): (Arc<[_]>, _) = (listed.into(), Arc::new(roots));
        let connector = connector(Arc::clone(&listed), Arc::clone(&roots), &provider)
            .map_err(|error| fault("upstream.url", format!("TLS cannot be set up: {error}")))?;
        Ok(Trust { listed, roots, connector })
    }
}

fn connector(
    listed: Arc<[CertificateDer<'static>]>,
    roots: Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<TlsConnector, Box<dyn std::error::Error>> {
    let web_pki = match roots.is_empty() {
        true => None,
        false => Some(WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).build()?),
    };
    let verifier = Verifier { listed, web_pki, algorithms: provider.signature_verification_algorithms };
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    // HTTP/2 is never offered: requests are forwarded as HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The certificates of a file, and those of them that may have signed others.
fn listed(path: &Path) -> Result<(Vec<CertificateDer<'static>>, RootCertStore), String> {
    let pem = std::fs::read(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&byte_order_mark::removed(pem))
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{}: is not in PEM form: {error}", path.display()))?;
    if certificates.is_empty() {
        let problem = "has no certificate in PEM form in it (-----BEGIN CERTIFICATE-----)";
        return Err(format!("{}: {problem}", path.display()));
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates.iter().filter(|certificate| may_sign(certificate)) {
        if let Err(error) = roots.add(certificate.clone()) {
            // An upstream that presents this very certificate can still be trusted.
            warn!(%error, path = %path.display(), "a certificate of upstream.ca_file cannot be an authority's");
        }
    }
    Ok((certificates, roots))
}

/// SECURITY: webpki accepts every root as an authority, whatever the certificate says, and the key
/// of a web server must not sign for other names. A certificate of version 3 must say that it is an
/// authority's (RFC 5280, 4.2.1.9); one of version 1, as of old authorities, cannot.
fn may_sign(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| match parsed.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.ca,
        Ok(None) => parsed.version() == X509Version::V1,
        Err(_) => false,
    })
}

/// Some systems have one certificate that does not parse among a hundred good ones; only a system
/// without any is a fault.
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

/// A fault of a key.
pub(super) fn fault(key: &str, problem: impl Into<String>) -> Faults {
    Faults(vec![Fault { key: key.to_owned(), problem: problem.into(), ..Fault::default() }])
}

struct Verifier {
    listed: Arc<[CertificateDer<'static>]>,
    /// `None` if no listed certificate is an authority's.
    web_pki: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("listed", &self.listed.len()).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // SECURITY: the handshake still proves that the server has the key; see the signatures
        // below.
        if self.listed.iter().any(|listed| listed == end_entity) {
            holds(end_entity, now)?;
            is_for(end_entity, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        match &self.web_pki {
            Some(web_pki) => web_pki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    Ok(X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?.1)
}

fn holds(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let certificate = parsed(certificate)?;
    let validity = certificate.validity();
    let (not_before, not_after) = (time(validity.not_before), time(validity.not_after));
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    Ok(())
}

/// Certificates may be valid from before 1970.
fn time(time: ASN1Time) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0)))
}

fn is_for(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let details = parsed(certificate)?;
    if details.subject_alternative_name().map_err(|_| CertificateError::BadEncoding)?.is_some() {
        return verify_server_name(&ParsedCertificate::try_from(certificate)?, name);
    }
    // The last is the most specific one (RFC 6125, 6.4.4).
    let common_name = details.subject().iter_common_name().last().and_then(|name| name.as_str().ok());
    match common_name {
        Some(common_name) if is_named(common_name, name) => Ok(()),
        common_name => Err(CertificateError::NotValidForNameContext {
            expected: name.to_owned(),
            presented: common_name.map(|name| format!("commonName {name:?}")).into_iter().collect(),
        }
        .into()),
    }
}

/// Whether `name` matches a common name. A wildcard stands for one label (RFC 6125, 6.4.3).
fn is_named(common_name: &str, name: &ServerName<'_>) -> bool {
    match name {
        ServerName::DnsName(name) => {
            let name = name.as_ref();
            let by_wildcard = || common_name.strip_prefix("*.").zip(name.split_once('.'));
            common_name.eq_ignore_ascii_case(name)
                || by_wildcard().is_some_and(|(rest, (_, domain))| rest.eq_ignore_ascii_case(domain))
        }
        ServerName::IpAddress(address) => {
            common_name.parse::<IpAddr>().is_ok_and(|common_name| common_name == IpAddr::from(*address))
        }
        _ => false,
    }
}

/// The error of a handshake, with advice if there is any.
pub fn explained(error: io::Error) -> io::Error {
    let advice = error.get_ref().and_then(|error| error.downcast_ref()).and_then(advice);
    match advice {
        Some(advice) => io::Error::new(error.kind(), format!("{error}; {advice}")),
        None => error,
    }
}

/// What to do about each cause.
fn advice(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer => {
                "put the certificate of its authority, or this very certificate, into upstream.ca_file"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "set upstream.tls_name to a name that the certificate has"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "renew it at the upstream, or correct this machine's clock"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "correct this machine's clock, or have the certificate made again"
            }
            // rustls has no variants for these two, and webpki's are not part of its interface.
            CertificateError::Other(other) => match format!("{other:?}") {
                text if text.contains("CaUsedAsEndEntity") => {
                    "it is made as an authority's (CA:TRUE): put this very certificate into upstream.ca_file"
                }
                text if text.contains("UnsupportedCertVersion") => X509_VERSION,
                _ => return None,
            },
            _ => return None,
        },
        Error::InvalidMessage(_) => "if the upstream speaks plain HTTP there, upstream.url begins with http://",
        Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "the upstream knows no such name: set upstream.tls_name to one of its names"
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the upstream demands a certificate of its clients, and the sidecar has none: have it demand none there"
        }
        Error::AlertReceived(AlertDescription::ProtocolVersion) | Error::PeerIncompatible(_) => {
            "the upstream has to speak TLS 1.2 or 1.3"
        }
        _ => return None,
    })
}

const X509_VERSION: &str = "it is of X.509 version 1: make one of version 3 (openssl req -x509 -addext \
                            subjectAltName=DNS:NAME), and put it into upstream.ca_file";

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(change: impl FnOnce(&mut rcgen::CertificateParams)) -> CertificateDer<'static> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        change(&mut parameters);
        parameters.self_signed(&key).unwrap().der().clone()
    }

    fn named(names: &[&str], common_names: &[&str]) -> CertificateDer<'static> {
        certificate(|parameters| {
            let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            parameters.subject_alt_names = rcgen::CertificateParams::new(names).unwrap().subject_alt_names;
            parameters.distinguished_name = rcgen::DistinguishedName::new();
            for name in common_names {
                parameters.distinguished_name.push(rcgen::DnType::CommonName, *name);
            }
        })
    }

    #[test]
    fn the_common_name_counts_only_without_alternative_names() {
        for (certificate, good, bad) in [
            (named(&[], &["Shop.Example"]), &["shop.example"][..], &["www.shop.example", "127.0.0.1"][..]),
            (named(&[], &["*.shop.example"]), &["a.shop.example"], &["shop.example", "a.b.shop.example"]),
            (named(&[], &["127.0.0.1"]), &["127.0.0.1"], &["127.0.0.2", "localhost"]),
            (named(&[], &[]), &[], &["shop.example"]),
            (named(&["a.example", "10.0.0.1"], &["b.example"]), &["a.example", "10.0.0.1"], &["b.example"]),
        ] {
            let of = |name: &&str| is_for(&certificate, &ServerName::try_from((*name).to_owned()).unwrap());
            assert!(good.iter().all(|name| of(name).is_ok()), "{good:?}");
            for name in bad {
                let error = of(name).unwrap_err();
                assert!(advice(&error).unwrap().contains("upstream.tls_name"), "{error}");
            }
        }
    }

    #[test]
    fn a_certificate_that_is_no_authority_signs_no_other() {
        let constraints = |is_ca: rcgen::IsCa| certificate(|parameters| parameters.is_ca = is_ca);
        assert!(!may_sign(&constraints(rcgen::IsCa::ExplicitNoCa)));
        // Without the extension it does not say so.
        assert!(!may_sign(&constraints(rcgen::IsCa::NoCa)));
        assert!(may_sign(&constraints(rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained))));
    }
}
