//! The pairs of `[tls] certificates`: their contents, and which one a client gets.
//!
//! A pair that cannot work (another's key, not PEM) is a fault. One that clients refuse (not valid
//! yet, expired) is presented all the same, since clients decide that. A missing one is waited for.
//! Neither may stop a program that other listeners and names need. Chains are not verified: which
//! authorities clients trust is unknown here.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;

use super::pair::{Certificate, Problem};
use crate::config::CertificateFiles;

/// All pairs.
#[derive(Debug, Default)]
pub struct Certificates {
    /// The pairs that can be presented, in the order of the configuration.
    all: Vec<Arc<Certificate>>,
    /// By name in lower case, with wildcards as in the certificate (`*.example.com`): indices into
    /// `all`.
    by_name: HashMap<String, Vec<usize>>,
    missing: Vec<Missing>,
}

/// A pair that is waited for.
#[derive(Debug, Clone)]
pub struct Missing {
    pub files: CertificateFiles,
    /// Why it cannot be presented yet: a sentence that names the file.
    pub problem: String,
}

/// A problem that an operator should look at, though everything works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub kind: WarningKind,
    /// A sentence that names the file.
    pub text: String,
}

/// What a [`Warning`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WarningKind {
    /// The pair is missing.
    Missing,
    /// Not valid yet.
    Early,
    /// No longer valid.
    Ended,
    /// It is valid for no name that a client could ask for.
    Nameless,
    /// Another certificate is always chosen instead.
    Unused,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The result of reading the pairs again.
#[derive(Debug)]
pub struct Renewed {
    /// The certificates to present from now on. An unusable pair is represented by its previous
    /// certificate.
    pub certificates: Certificates,
    /// Whether any of them has changed.
    pub differs: bool,
    /// New problems, each a sentence that names the file.
    pub problems: Vec<String>,
}

impl Certificates {
    /// Reads all pairs. Missing ones are waited for.
    ///
    /// # Errors
    /// Every pair that can never be used, with a sentence that names the file.
    pub fn read(pairs: &[CertificateFiles]) -> Result<Self, Vec<(CertificateFiles, String)>> {
        let (mut all, mut missing, mut faults) = (Vec::new(), Vec::new(), Vec::new());
        for files in pairs {
            match Certificate::read(files) {
                Ok(certificate) => all.push(Arc::new(certificate)),
                Err(Problem::Missing(problem)) => missing.push(Missing { files: files.clone(), problem }),
                Err(Problem::Fault(problem)) => faults.push((files.clone(), problem)),
            }
        }
        if faults.is_empty() { Ok(Certificates::of(all, missing)) } else { Err(faults) }
    }

    /// Reads all pairs again, each by itself: an unusable one does not keep the others from being
    /// renewed.
    pub fn renewed(&self, pairs: &[CertificateFiles]) -> Renewed {
        let (mut all, mut missing, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        let mut differs = false;
        for files in pairs {
            let before = self.all.iter().find(|before| before.files == *files);
            match (Certificate::read(files), before) {
                (Ok(certificate), before) => {
                    differs |= before.is_none_or(|before| before.key.cert != certificate.key.cert);
                    all.push(Arc::new(certificate));
                }
                (Err(problem), Some(before)) => {
                    all.push(Arc::clone(before));
                    problems.push(problem.into_text());
                }
                (Err(Problem::Missing(problem)), None) => missing.push(Missing { files: files.clone(), problem }),
                (Err(Problem::Fault(problem)), None) => {
                    missing.push(Missing { files: files.clone(), problem: problem.clone() });
                    problems.push(problem);
                }
            }
        }
        Renewed { certificates: Certificates::of(all, missing), differs, problems }
    }

    fn of(all: Vec<Arc<Certificate>>, missing: Vec<Missing>) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, certificate) in all.iter().enumerate() {
            for name in &certificate.names {
                by_name.entry(name.clone()).or_default().push(place);
            }
        }
        Certificates { all, by_name, missing }
    }

    /// Chooses the certificate for a client that asks for `name` and supports `schemes`. Among
    /// those for the name that the client can use, a valid one comes before an expired one, the
    /// exact name before a wildcard, and a small and fast key before RSA. Without one for the name,
    /// it is the first in the list that the client can use. A wildcard stands for one label (RFC
    /// 6125, 6.4.3).
    pub fn of_client(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
        now: SystemTime,
    ) -> Option<Arc<CertifiedKey>> {
        let name = name.map(str::to_ascii_lowercase).unwrap_or_default();
        let exact = self.places(&name);
        let wildcard = name.split_once('.').map(|(_, rest)| self.places(&format!("*.{rest}"))).unwrap_or_default();
        let named: Vec<&Certificate> = exact.iter().chain(wildcard).filter_map(|place| self.at(*place)).collect();
        let is_usable = |certificate: &&Certificate| certificate.key.key.choose_scheme(schemes).is_some();
        // Of equal ones, `min_by_key` returns the first.
        let best = named.iter().copied().enumerate().filter(|(_, certificate)| is_usable(certificate));
        let best = best
            .min_by_key(|(nth, certificate)| (!certificate.holds(now), *nth >= exact.len(), certificate.kind.rank()));
        let any = || self.all.iter().map(Arc::as_ref).filter(is_usable).min_by_key(|one| !one.holds(now));
        // If the client can use none, one is presented all the same, so that the handshake fails
        // with the right alert.
        let chosen = match (best, named.first()) {
            (Some((_, best)), _) => Some(best),
            (None, Some(unusable)) => Some(*unusable),
            (None, None) => any().or(self.at(0)),
        };
        chosen.map(|certificate| Arc::clone(&certificate.key))
    }

    fn places(&self, name: &str) -> &[usize] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    fn at(&self, place: usize) -> Option<&Certificate> {
        self.all.get(place).map(Arc::as_ref)
    }

    /// The certificates that can be presented, in the order of the configuration.
    pub fn usable(&self) -> &[Arc<Certificate>] {
        &self.all
    }

    /// The pairs that are waited for.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// What an operator should check.
    pub fn warnings(&self, now: SystemTime) -> Vec<Warning> {
        let missing = self.missing.iter().map(|missing| {
            let text = format!("{}; the pair is taken as soon as it can be read", missing.problem);
            Warning { kind: WarningKind::Missing, text }
        });
        let of_certificates = self.all.iter().enumerate().flat_map(|(place, certificate)| {
            let validity = validity(certificate, now);
            let use_ = self.nameless(certificate).or_else(|| self.unused(place, certificate));
            validity.into_iter().chain(use_)
        });
        missing.chain(of_certificates).collect()
    }

    fn nameless(&self, certificate: &Certificate) -> Option<Warning> {
        let chain = certificate.files.chain.display();
        let text = format!("{chain}: the certificate has no name (subjectAltName), and clients refuse one without");
        certificate.has_no_name().then_some(Warning { kind: WarningKind::Nameless, text })
    }

    /// Warns if another certificate is always chosen, for each of its names and for unknown names:
    /// an earlier one of the same kind, which every client that can use this one can use too.
    fn unused(&self, place: usize, certificate: &Certificate) -> Option<Warning> {
        let earlier = |places: &mut dyn Iterator<Item = usize>| {
            let mut places = places.take_while(|earlier| *earlier < place);
            places.find(|earlier| self.at(*earlier).is_some_and(|earlier| earlier.kind.is_like(&certificate.kind)))
        };
        let for_any = earlier(&mut (0..place))?;
        let mut by = certificate.names.iter().map(|name| earlier(&mut self.places(name).iter().copied()));
        let taken = by.try_fold(for_any, |_, other| other)?;
        let (chain, other) = (certificate.files.chain.display(), self.at(taken)?.files.chain.display());
        let text = format!(
            "{chain}: the certificate is presented to no client while the one in {other} is valid, which comes before it in \
             tls.certificates and has the same names and the same kind of key"
        );
        Some(Warning { kind: WarningKind::Unused, text })
    }
}

fn validity(certificate: &Certificate, now: SystemTime) -> Option<Warning> {
    let chain = certificate.files.chain.display();
    let date = httpdate::fmt_http_date;
    if now > certificate.not_after {
        let end = date(certificate.not_after);
        let text = format!("{chain}: the certificate is no longer valid since {end}, and clients refuse it; renew it");
        return Some(Warning { kind: WarningKind::Ended, text });
    }
    (now < certificate.not_before).then(|| {
        let begin = date(certificate.not_before);
        let text = format!(
            "{chain}: the certificate is not valid before {begin}, and clients refuse it until then; is this machine's clock \
             right?"
        );
        Warning { kind: WarningKind::Early, text }
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
