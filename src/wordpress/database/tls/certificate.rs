//! Describes what is wrong with a server's certificate, and the fix. Pure.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::CertificateError;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate, X509Name};

use super::DOCS;
use crate::printable::{self, Form};

/// The contents of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The names and addresses in its subject alternative name.
    pub names: Vec<String>,
    /// The subject's common name, which TLS libraries no longer use (RFC 9525, 6.3).
    pub common_name: Option<String>,
    /// The issuer that it names.
    pub issuer: String,
    /// Whether it names itself as the issuer.
    pub self_signed: bool,
    /// 1 to 3.
    pub version: u32,
    /// Whether it may sign others (CA:TRUE).
    pub is_authority: bool,
    /// The start of its validity.
    pub begin: SystemTime,
    /// The end of its validity.
    pub end: SystemTime,
}

impl Facts {
    /// Reads a certificate in DER form. `None` if it is invalid.
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let names = alternative.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(shown(name)),
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => None,
        });
        let validity = certificate.validity();
        Some(Facts {
            names: names.collect(),
            common_name: common_name(certificate.subject()),
            issuer: shown(&certificate.issuer().to_string()),
            self_signed: certificate.subject() == certificate.issuer(),
            version: certificate.version().0.saturating_add(1),
            is_authority: certificate.is_ca(),
            begin: time(validity.not_before.timestamp()),
            end: time(validity.not_after.timestamp()),
        })
    }

    /// The names that it is for.
    pub fn subject(&self) -> String {
        match (self.names.as_slice(), &self.common_name) {
            ([], Some(name)) => format!("{name} (no subject alternative name)"),
            ([], None) => "no name".to_owned(),
            (names, _) => listed(names),
        }
    }

    /// The issuer, for people.
    pub fn signer(&self) -> String {
        match self.self_signed {
            true => "itself".to_owned(),
            false => self.issuer.clone(),
        }
    }
}

/// Why a certificate is not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The issuer, if known.
    UnknownAuthority(Option<String>),
    SelfSigned,
    NoNames(Option<String>),
    WrongName {
        asked: String,
        names: Vec<String>,
    },
    /// It may sign others (CA:TRUE), so it is not accepted as a server's.
    Authority,
    Expired(String),
    NotYet(String),
    /// X.509 version 1 or 2.
    Version(u32),
    Other(String),
}

/// The faults that `error` reports, and those of the certificate that would be the next errors. The
/// first is the one of `error`.
pub(super) fn faults(error: &CertificateError, leaf: Option<&[u8]>, name: &str) -> Vec<Fault> {
    let facts = leaf.and_then(Facts::of);
    let mut faults = vec![cause(error, facts.as_ref(), name)];
    let (Some(leaf), Some(facts)) = (leaf, facts) else { return faults };
    if facts.version < 3 {
        faults.push(Fault::Version(facts.version));
    }
    if facts.is_authority {
        faults.push(Fault::Authority);
    }
    if !is_for(leaf, name) {
        faults.push(name_fault(&facts, name));
    }
    let mut once: Vec<Fault> = Vec::new();
    for fault in faults {
        if !once.contains(&fault) {
            once.push(fault);
        }
    }
    once
}

fn cause(error: &CertificateError, facts: Option<&Facts>, name: &str) -> Fault {
    match error {
        CertificateError::UnknownIssuer => match facts {
            Some(facts) if facts.self_signed => Fault::SelfSigned,
            facts => Fault::UnknownAuthority(facts.map(|facts| facts.issuer.clone())),
        },
        CertificateError::ExpiredContext { not_after, .. } => Fault::Expired(date(not_after.as_secs())),
        CertificateError::Expired => Fault::Expired("a date that is not known".to_owned()),
        CertificateError::NotValidYetContext { not_before, .. } => Fault::NotYet(date(not_before.as_secs())),
        CertificateError::NotValidForName => match facts {
            Some(facts) => name_fault(facts, name),
            None => Fault::NoNames(None),
        },
        CertificateError::NotValidForNameContext { presented, .. } => match facts {
            Some(facts) => name_fault(facts, name),
            None if presented.is_empty() => Fault::NoNames(None),
            None => {
                Fault::WrongName { asked: name.to_owned(), names: presented.iter().map(|name| shown(name)).collect() }
            }
        },
        // webpki's own errors: that crate is not a dependency, so only their names are available.
        CertificateError::Other(other) => match format!("{:?}", other.0).as_str() {
            "CaUsedAsEndEntity" => Fault::Authority,
            "UnsupportedCertVersion" => Fault::Version(facts.map_or(1, |facts| facts.version)),
            _ => Fault::Other(other.0.to_string()),
        },
        error => Fault::Other(error.to_string()),
    }
}

fn name_fault(facts: &Facts, name: &str) -> Fault {
    match facts.names.is_empty() {
        true => Fault::NoNames(facts.common_name.clone()),
        false => Fault::WrongName { asked: name.to_owned(), names: facts.names.clone() },
    }
}

/// Whether it is valid for `name`. One that cannot be parsed, as of version 1, is not.
fn is_for(leaf: &[u8], name: &str) -> bool {
    let der = CertificateDer::from(leaf);
    let (Ok(certificate), Ok(name)) = (ParsedCertificate::try_from(&der), ServerName::try_from(name)) else {
        // Reported as another fault.
        return true;
    };
    verify_server_name(&certificate, &name).is_ok()
}

/// All faults in one sentence, and the fixes in the next.
pub(super) fn explain(faults: &[Fault], encrypt_only: bool) -> String {
    let causes: Vec<String> = faults.iter().map(Fault::describe).collect();
    let causes = causes.join(", and ");
    if encrypt_only {
        // This happens only if the handshake cannot be completed.
        return format!(
            "the server's certificate cannot be used even without verification: {causes}. The server needs another \
             one: {DOCS}"
        );
    }
    let mut fixes = Vec::new();
    for fault in faults {
        let fix = match fault {
            Fault::UnknownAuthority(_) => {
                "put the certificate of that authority (the server's ssl_ca) into a PEM file and name it in \
                 wordpress.database_ca_file"
            }
            Fault::SelfSigned => "put it into a PEM file and name that in wordpress.database_ca_file",
            Fault::WrongName { .. } => "set wordpress.database_tls_name to a name that it has",
            Fault::NotYet(_) => "set this machine's clock, or the server's when it makes certificates",
            Fault::NoNames(_) | Fault::Authority | Fault::Expired(_) | Fault::Version(_) | Fault::Other(_) => continue,
        };
        fixes.push(fix.to_owned());
    }
    let needs_another = faults.iter().any(|fault| {
        matches!(fault, Fault::NoNames(_) | Fault::Authority | Fault::Expired(_) | Fault::Version(_) | Fault::Other(_))
    });
    if needs_another {
        fixes.insert(0, format!("make a certificate that verifies ({DOCS}, has the commands)"));
    }
    let without = match faults.iter().any(|fault| matches!(fault, Fault::Version(_))) {
        true => "wordpress.database_tls = \"encrypt_only\" does not help with one of that version",
        false => "or set wordpress.database_tls = \"encrypt_only\", which verifies nothing, as PHP does",
    };
    format!("the server's certificate is not verified: {causes}. Fix: {}; {without}", fixes.join("; "))
}

impl Fault {
    fn describe(&self) -> String {
        match self {
            Fault::UnknownAuthority(Some(issuer)) => {
                format!("it is signed by an authority that is not trusted here ({issuer})")
            }
            Fault::UnknownAuthority(None) => {
                "it is signed by itself or by an authority that is not trusted here".to_owned()
            }
            Fault::SelfSigned => "it is signed by itself, and not in wordpress.database_ca_file".to_owned(),
            Fault::NoNames(Some(name)) => format!(
                "it has no subject alternative name, only the common name \"{name}\", which is not looked at (MySQL makes \
                 such ones)"
            ),
            Fault::NoNames(None) => "it has no subject alternative name".to_owned(),
            Fault::WrongName { asked, names } => format!("it is not for {asked}, but for {}", listed(names)),
            Fault::Authority => {
                "it is that of an authority (CA:TRUE, as `openssl req -x509` makes it), which is not taken for a \
                 server's"
                    .to_owned()
            }
            Fault::Expired(end) => format!("it is expired since {end}"),
            Fault::NotYet(begin) => format!("it is not valid before {begin}"),
            Fault::Version(version) => format!("it is of X.509 version {version}; TLS needs version 3"),
            Fault::Other(text) => text.clone(),
        }
    }
}

/// SECURITY: an attacker in the server's place writes the texts of a certificate, and logs,
/// commands and the status page show them. So they are shortened, on one line, and few.
fn shown(text: &str) -> String {
    const LONGEST: usize = 200;
    let short: String = text.chars().take(LONGEST).collect();
    printable::escaped(&short, Form::Text, |_| false).into_owned()
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let more = names.len().saturating_sub(SHOWN);
    match more {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn common_name(subject: &X509Name<'_>) -> Option<String> {
    Some(shown(subject.iter_common_name().next()?.as_str().ok()?))
}

/// An address of 4 or 16 bytes (RFC 5280, 4.2.1.6).
fn address(bytes: &[u8]) -> Option<String> {
    let v4 = || <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4().or_else(|_| v6()).ok().map(|address| address.to_string())
}

fn date(seconds: u64) -> String {
    httpdate::fmt_http_date(time(i64::try_from(seconds).unwrap_or(0)))
}

/// Certificates may be valid from before 1970 (the exact time does not matter then) until 9999.
fn time(timestamp: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(names: &[&str], is_authority: bool) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = rcgen::CertificateParams::new(names).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "db");
        if is_authority {
            parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let good = leaf(&["db.example", "10.0.0.1"], false);
        let facts = Facts::of(&good).unwrap();
        assert_eq!((facts.names.as_slice(), facts.version), (&["db.example".to_owned(), "10.0.0.1".to_owned()][..], 3));
        assert_eq!(faults(&CertificateError::UnknownIssuer, Some(&good), "db.example"), [Fault::SelfSigned]);
        assert_eq!(faults(&CertificateError::UnknownIssuer, Some(&good), "10.0.0.1"), [Fault::SelfSigned]);
        let wrong = faults(&CertificateError::UnknownIssuer, Some(&good), "10.0.0.2");
        assert!(matches!(&wrong[..], [Fault::SelfSigned, Fault::WrongName { .. }]), "{wrong:?}");
        let text = explain(&wrong, false);
        for part in ["it is not for 10.0.0.2, but for db.example, 10.0.0.1", "database_ca_file", "database_tls_name"] {
            assert!(text.contains(part), "{text}");
        }
        let bare = faults(&CertificateError::UnknownIssuer, Some(&leaf(&[], true)), "db");
        assert_eq!(bare, [Fault::SelfSigned, Fault::Authority, Fault::NoNames(Some("db".to_owned()))]);
        assert!(explain(&bare, false).contains("make a certificate that verifies"));
        assert_eq!(faults(&CertificateError::UnknownIssuer, None, "db"), [Fault::UnknownAuthority(None)]);
        assert_eq!(faults(&CertificateError::UnknownIssuer, Some(b"rubbish"), "db"), [Fault::UnknownAuthority(None)]);
    }

    #[test]
    fn texts_of_a_stranger_are_short_and_on_one_line() {
        let mut parameters =
            rcgen::CertificateParams::new((0..300).map(|i| format!("{i}.example")).collect::<Vec<_>>()).unwrap();
        let name = format!("db\n\u{1b}[2J{}", "x".repeat(500));
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        let stranger = parameters.self_signed(&key).unwrap().der().to_vec();
        let facts = Facts::of(&stranger).unwrap();
        for text in [&facts.issuer, facts.common_name.as_ref().unwrap()] {
            assert!(text.contains("\\n\\u{1b}[2Jx") && text.len() < 250, "{text}");
        }
        let text = explain(&faults(&CertificateError::UnknownIssuer, Some(&stranger), "db"), false);
        assert!(text.len() < 1_000 && !text.contains(char::is_control) && text.contains("and 295 more"), "{text}");
    }
}
