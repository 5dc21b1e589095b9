//! Certificates with their keys, read from files, and which of them a client gets.
//!
//! A pair that browsers would refuse anyway (another's key, expired) is refused here, where the one who can mend it
//! sees it. Chains are not verified: whom clients trust is not known here.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::InconsistentKeys;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::config::CertificateFiles;

/// A chain has some kilobytes. A path such as /dev/zero must not fill the memory.
const LARGEST_FILE: u64 = 1024 * 1024;

/// All certificates, at least one.
#[derive(Debug)]
pub struct Certificates {
    all: Vec<Certificate>,
    /// Names in lower case, wildcards as they stand in the certificate (`*.example.com`).
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

#[derive(Debug)]
struct Certificate {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    not_after: SystemTime,
}

impl Certificates {
    /// Reads all pairs.
    ///
    /// # Errors
    /// Every pair that cannot be used, with a sentence that names the file.
    pub fn read(pairs: &[CertificateFiles]) -> Result<Self, Vec<(CertificateFiles, String)>> {
        let mut all = Vec::new();
        let mut problems = Vec::new();
        for files in pairs {
            match Certificate::read(files, SystemTime::now()) {
                Ok(certificate) => all.push(certificate),
                Err(problem) => problems.push((files.clone(), problem)),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut by_name = HashMap::new();
        for certificate in &all {
            for name in &certificate.names {
                by_name.entry(name.clone()).or_insert_with(|| Arc::clone(&certificate.key));
            }
        }
        Ok(Certificates { all, by_name })
    }

    /// The certificate for a client that asks for `name`: the one with that very name, else one with a wildcard for it,
    /// else the first. A wildcard stands for one label (RFC 6125, 6.4.3).
    pub fn of(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let wildcard = || name.split_once('.').and_then(|(_, rest)| self.by_name.get(&format!("*.{rest}")));
            self.by_name.get(&name).or_else(wildcard)
        });
        named.or(self.all.first().map(|first| &first.key)).cloned()
    }

    /// Each certificate's first name and its end.
    pub fn ends(&self) -> Vec<(String, SystemTime)> {
        let end =
            |certificate: &Certificate| (certificate.names.first().cloned().unwrap_or_default(), certificate.not_after);
        self.all.iter().map(end).collect()
    }

    /// Names and ends, for the log.
    pub fn describe(&self) -> String {
        let lines = self.all.iter().map(|certificate| {
            format!("{} until {}", certificate.names.join(", "), httpdate::fmt_http_date(certificate.not_after))
        });
        lines.collect::<Vec<_>>().join("; ")
    }
}

impl Certificate {
    fn read(files: &CertificateFiles, now: SystemTime) -> Result<Self, String> {
        let chain = chain(&files.chain)?;
        let key = key(&files.key)?;
        let first = chain.first().map(CertificateDer::as_ref).unwrap_or_default();
        let (names, not_before, not_after) =
            facts(first).map_err(|problem| format!("{}: {problem}", files.chain.display()))?;
        let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                format!("{} is not the key of the certificate in {}", files.key.display(), files.chain.display())
            }
            error => format!("{}: the key cannot be used: {error}", files.key.display()),
        })?;
        if now > not_after {
            let end = httpdate::fmt_http_date(not_after);
            return Err(format!("{}: the certificate is no longer valid since {end}", files.chain.display()));
        }
        if now < not_before {
            let begin = httpdate::fmt_http_date(not_before);
            return Err(format!("{}: the certificate is not valid before {begin}", files.chain.display()));
        }
        Ok(Certificate { key: Arc::new(key), names, not_after })
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{}: is not in PEM form: {error}", path.display()))?;
    match chain.is_empty() {
        true => Err(format!("{}: has no certificate in PEM form in it (-----BEGIN CERTIFICATE-----)", path.display())),
        false => Ok(chain),
    }
}

/// PKCS #8, PKCS #1 or SEC 1, as its PEM label says.
fn key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    // SECURITY: the PEM parser's own error could hold a piece of the file, which is a secret.
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| {
        format!(
            "{}: has no private key in PEM form in it (-----BEGIN PRIVATE KEY-----); an encrypted one must be decrypted",
            path.display()
        )
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes))
        .and_then(|length| match length as u64 > LARGEST_FILE {
            true => Err(io::Error::other("is larger than 1 MiB")),
            false => Ok(bytes),
        })
        .map_err(|error| format!("{}: cannot be read: {error}", path.display()))
}

/// The host names that a certificate is for, and from when to when it holds.
fn facts(certificate: &[u8]) -> Result<(Vec<String>, SystemTime, SystemTime), String> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let alternative = parsed
        .subject_alternative_name()
        .map_err(|error| format!("the certificate's names cannot be read: {error}"))?;
    let names = alternative.iter().flat_map(|names| &names.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    let validity = parsed.validity();
    Ok((names.collect(), time(validity.not_before.timestamp()), time(validity.not_after.timestamp())))
}

/// Certificates may be valid from before 1970 (then it does not matter) until 9999.
fn time(timestamp: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pair in files, made anew.
    fn pair(directory: &Path, names: &[&str], from: i32, to: i32) -> CertificateFiles {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = rcgen::CertificateParams::new(names.clone()).unwrap();
        parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(to, 1, 1);
        let certificate = parameters.self_signed(&key).unwrap();
        let path = |kind: &str| directory.join(format!("{}-{from}.{kind}", names.first().unwrap().replace('*', "_")));
        std::fs::write(path("pem"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        CertificateFiles { chain: path("pem"), key: path("key") }
    }

    #[test]
    fn exact_names_before_wildcards_before_the_first() {
        let directory = tempfile::TempDir::new().unwrap();
        let new = |names: &[&str]| pair(directory.path(), names, 2020, 2090);
        let pairs = [
            new(&["first.example"]),
            new(&["*.shop.example", "shop.example"]),
            new(&["www.shop.example", "B.example"]),
        ];
        let certificates = Certificates::read(&pairs).unwrap();
        let of = |name: Option<&str>| {
            let key = certificates.of(name).unwrap();
            certificates.all.iter().position(|certificate| Arc::ptr_eq(&certificate.key, &key)).unwrap()
        };
        for (name, expected) in [
            (None, 0),
            (Some("first.example"), 0),
            (Some("shop.example"), 1),
            (Some("a.shop.example"), 1),
            (Some("A.SHOP.example"), 1),
            (Some("www.shop.example"), 2),
            (Some("b.EXAMPLE"), 2),
            (Some("a.b.shop.example"), 0),
            (Some("example"), 0),
            (Some(""), 0),
        ] {
            assert_eq!(of(name), expected, "{name:?}");
        }
        assert!(certificates.describe().contains("*.shop.example, shop.example until Sun, 01 Jan 2090"));
    }

    #[test]
    fn every_pair_that_cannot_be_used_is_told() {
        let directory = tempfile::TempDir::new().unwrap();
        let good = pair(directory.path(), &["good.example"], 2020, 2090);
        let old = pair(directory.path(), &["old.example"], 2019, 2020);
        let early = pair(directory.path(), &["early.example"], 2089, 2090);
        let garbage = directory.path().join("garbage");
        std::fs::write(&garbage, "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n").unwrap();
        let absent = directory.path().join("absent");
        let with = |chain: &Path, key: &Path| CertificateFiles { chain: chain.into(), key: key.into() };
        let cases = [
            (with(&good.chain, &old.key), "old.example-2019.key is not the key of the certificate in "),
            (old.clone(), "old.example-2019.pem: the certificate is no longer valid since Wed, 01 Jan 2020"),
            (early, "early.example-2089.pem: the certificate is not valid before Sat, 01 Jan 2089"),
            (with(&absent, &good.key), "absent: cannot be read: No such file"),
            (with(&good.chain, &absent), "absent: cannot be read: No such file"),
            (with(&good.key, &good.key), "good.example-2020.key: has no certificate in PEM form in it"),
            (with(&good.chain, &good.chain), "good.example-2020.pem: has no private key in PEM form in it"),
            (with(&good.chain, &garbage), "garbage: the key cannot be used"),
            (with(Path::new("/dev/zero"), &good.key), "/dev/zero: cannot be read: is larger than 1 MiB"),
        ];
        let pairs: Vec<CertificateFiles> = cases.iter().map(|(files, _)| files.clone()).chain([good]).collect();
        let problems = Certificates::read(&pairs).unwrap_err();
        assert_eq!(problems.len(), cases.len(), "{problems:#?}");
        for ((files, problem), (expected_files, expected)) in problems.iter().zip(&cases) {
            assert_eq!(files, expected_files);
            assert!(problem.contains(expected) && !problem.contains("hunter2"), "{problem}");
        }
    }
}
