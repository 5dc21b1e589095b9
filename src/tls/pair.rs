//! A certificate and its private key, read from files.

use std::fmt;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::InconsistentKeys;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::byte_order_mark;
use crate::config::{self, CertificateFiles};

/// A chain has some kilobytes. A path such as /dev/zero must not fill the memory.
const LARGEST_FILE: u64 = 1024 * 1024;

/// A pair that can be presented.
#[derive(Debug)]
pub struct Certificate {
    pub files: CertificateFiles,
    pub key: Arc<CertifiedKey>,
    /// The DNS names, in lower case.
    pub names: Vec<String>,
    /// The IP addresses. No client asks for them: a handshake names no address (RFC 6066, section
    /// 3).
    pub addresses: Vec<IpAddr>,
    pub kind: Kind,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// The kind of a certificate's key, which decides which clients can use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// ECDSA with a curve of so many bits.
    Ecdsa(usize),
    Ed25519,
    /// RSA with a modulus of so many bits.
    Rsa(usize),
}

impl Kind {
    /// Smaller is better: signing with ECDSA takes a tenth of RSA's time, and its certificates are
    /// smaller.
    pub fn rank(self) -> u8 {
        match self {
            Kind::Ecdsa(_) => 0,
            Kind::Ed25519 => 1,
            Kind::Rsa(_) => 2,
        }
    }

    /// Whether every client that can use the one can use the other.
    pub fn is_like(self, other: &Kind) -> bool {
        self == *other || matches!((self, other), (Kind::Rsa(_), Kind::Rsa(_)))
    }

    fn of(certificate: &X509Certificate<'_>) -> Self {
        match certificate.public_key().parsed() {
            Ok(PublicKey::RSA(key)) => Kind::Rsa(key.key_size()),
            // P-521 has 66 bytes per coordinate.
            Ok(PublicKey::EC(point)) => Kind::Ecdsa(if point.key_size() == 528 { 521 } else { point.key_size() }),
            // The only other kind that rustls accepts.
            _ => Kind::Ed25519,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Ecdsa(bits) => write!(f, "ECDSA P-{bits}"),
            Kind::Ed25519 => f.write_str("Ed25519"),
            Kind::Rsa(bits) => write!(f, "RSA {bits}"),
        }
    }
}

/// Why a pair cannot be presented: a sentence that names the file.
#[derive(Debug)]
pub enum Problem {
    /// It is missing or unreadable. At boot, disks and certificate clients may be late, and
    /// permissions are set after a file is written.
    Missing(String),
    /// It is invalid, and waiting does not change that.
    Fault(String),
}

impl Problem {
    /// The sentence.
    pub fn into_text(self) -> String {
        match self {
            Problem::Missing(text) | Problem::Fault(text) => text,
        }
    }
}

impl Certificate {
    /// Reads a pair.
    ///
    /// # Errors
    /// See [`Problem`].
    pub fn read(files: &CertificateFiles) -> Result<Self, Problem> {
        // A missing file is reported first: while one file is missing, the other may still belong
        // to the previous pair.
        let (chain_file, key_file) = (read(&files.chain)?, read(&files.key)?);
        let chain = chain(&files.chain, &chain_file)?;
        let key = key(&files.key, &key_file)?;
        let first = chain.first().map(CertificateDer::as_ref).unwrap_or_default().to_vec();
        let unreadable = |problem: &dyn fmt::Display| {
            Problem::Fault(format!("{}: the certificate cannot be read: {problem}", files.chain.display()))
        };
        let (_, parsed) = X509Certificate::from_der(&first).map_err(|error| unreadable(&error))?;
        let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Problem::Fault(format!(
                "{} is not the key of the certificate in {}",
                files.key.display(),
                files.chain.display()
            )),
            error => Problem::Fault(format!("{}: the key cannot be used: {error}", files.key.display())),
        })?;
        let alternative = parsed.subject_alternative_name().map_err(|error| unreadable(&error))?;
        let (mut names, mut addresses) = (Vec::new(), Vec::new());
        for name in alternative.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                _ => {}
            }
        }
        let validity = parsed.validity();
        Ok(Certificate {
            files: files.clone(),
            key: Arc::new(key),
            names,
            addresses,
            kind: Kind::of(&parsed),
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
        })
    }

    /// Whether it is valid at `now`.
    pub fn holds(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whether it is valid for no name and no address.
    pub fn has_no_name(&self) -> bool {
        self.names.is_empty() && self.addresses.is_empty()
    }

    /// Its first name or address; empty if it has none.
    pub fn first_name(&self) -> String {
        let address = || self.addresses.first().map(ToString::to_string);
        self.names.first().cloned().or_else(address).unwrap_or_default()
    }
}

impl fmt::Display for Certificate {
    /// Names, kind and end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = self.addresses.iter().map(ToString::to_string);
        let names = self.names.iter().cloned().chain(addresses).collect::<Vec<_>>().join(", ");
        let names = if names.is_empty() { "(no name)" } else { &names };
        write!(f, "{names} ({}) until {}", self.kind, httpdate::fmt_http_date(self.not_after))
    }
}

fn chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| Problem::Fault(format!("{}: is not in PEM form: {error}", path.display())))?;
    match chain.is_empty() {
        true => Err(Problem::Fault(format!(
            "{}: has no certificate in PEM form in it (-----BEGIN CERTIFICATE-----)",
            path.display()
        ))),
        false => Ok(chain),
    }
}

/// Accepts PKCS #8, PKCS #1 and SEC 1, by the PEM label.
fn key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, Problem> {
    // SECURITY: the PEM parser's own error could contain a part of the file, which is secret.
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        Problem::Fault(format!(
            "{}: has no private key in PEM form in it (-----BEGIN PRIVATE KEY-----); an encrypted one must be decrypted",
            path.display()
        ))
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    config::open_file(path)
        .and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes))
        .and_then(|length| match length as u64 > LARGEST_FILE {
            true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "is larger than 1 MiB")),
            false => Ok(byte_order_mark::removed(bytes)),
        })
        .map_err(|error| {
            let text = format!("{}: cannot be read: {error}", path.display());
            match error.kind() {
                io::ErrorKind::FileTooLarge | io::ErrorKind::IsADirectory | io::ErrorKind::InvalidInput => {
                    Problem::Fault(text)
                }
                _ => Problem::Missing(text),
            }
        })
}

/// Four or sixteen bytes (RFC 5280, 4.2.1.6).
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let of_v4 = <[u8; 4]>::try_from(bytes).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes)));
    of_v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)))).ok()
}

/// Certificates may be valid from before 1970 (the exact time does not matter then) until 9999.
fn time(timestamp: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or(0))
}
