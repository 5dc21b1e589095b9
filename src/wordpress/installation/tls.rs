//! TLS to the database: whether `[wordpress] database_tls`, `database_url` or `wp-config.php`
//! requires it, which authorities are trusted to sign the server's certificate, and which
//! certificate the sidecar presents.
//!
//! Files are read here, at the start and at a reload, so that connections depend on no file, and a
//! reload notices a changed file at the same path.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use mysql_async::{ClientIdentity, Opts, OptsBuilder, SslOpts};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;

use super::{Assembly, giver};
use crate::byte_order_mark;
use crate::config::{self, CertificateFiles, DatabaseTls};
use crate::wordpress::wp_config::{Lookup, Scalar};

const CA_FILE: &str = "wordpress.database_ca_file";
const CLIENT_CERTIFICATE: &str = "wordpress.database_client_certificate";
const TLS_NAME: &str = "wordpress.database_tls_name";

/// In bytes. A file of certificates has some kilobytes, a system's file of all authorities 200. A
/// path such as /dev/zero must not fill the memory.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// Without verification, the name only tells the server which host the client wants. This one is
/// used for a host that no certificate can be valid for.
const ANY_NAME: &str = "localhost";

/// What the site says about its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said {
    tls: bool,
    verified: bool,
    /// Whether the system's authorities are trusted.
    system: bool,
}

impl Said {
    const NOTHING: Said = Said { tls: false, verified: true, system: true };

    /// The settings of a `database_url`.
    pub(super) fn by_url(options: &Opts) -> Self {
        options.ssl_opts().map_or(Said::NOTHING, |tls| Said {
            tls: true,
            verified: !tls.accept_invalid_certs(),
            system: !tls.disable_built_in_roots(),
        })
    }
}

/// The TLS settings for every host.
pub(super) enum Tls {
    Off,
    On(Box<On>),
}

pub(super) struct On {
    verified: bool,
    /// In DER form.
    authorities: Vec<Vec<u8>>,
    identity: Option<ClientIdentity>,
    name: Option<String>,
}

impl Tls {
    /// The same host with TLS. A local socket has none: mysql_async does not support it, and the
    /// socket does not leave the machine.
    fn of(&self, options: Opts) -> Result<Opts, String> {
        let builder = OptsBuilder::from_opts(options.clone());
        let Tls::On(on) = self else { return Ok(builder.ssl_opts(None).into()) };
        if options.socket().is_some() {
            return Ok(builder.ssl_opts(None).into());
        }
        let name = match on.name.as_deref().unwrap_or(options.ip_or_hostname()) {
            name if ServerName::try_from(name).is_ok() => name.to_owned(),
            _ if !on.verified => ANY_NAME.to_owned(),
            name => return Err(format!("no certificate can be for {name:?}; set {TLS_NAME} to the name that it has")),
        };
        let ssl = SslOpts::default()
            .with_danger_accept_invalid_certs(!on.verified)
            // mysql_async's built-in authorities are Mozilla's as of its release; the system's are
            // kept up to date, and so are the operator's. Without verification they do not matter,
            // but rustls requires some.
            .with_disable_built_in_roots(on.verified)
            .with_root_certs(on.authorities.iter().map(|der| der.clone().into()).collect())
            .with_client_identity(on.identity.clone())
            .with_danger_tls_hostname_override(Some(name));
        Ok(builder.ssl_opts(ssl).into())
    }
}

impl Assembly<'_> {
    /// The hosts with TLS as the keys require, or else as the site does. `said` is only called if
    /// the site decides.
    pub(super) fn with_tls(
        &mut self,
        config: &config::WordPress,
        hosts: Vec<Opts>,
        said: Option<Said>,
    ) -> Option<Vec<Opts>> {
        let said = match said {
            Some(said) => said,
            None if config.database_tls == DatabaseTls::Auto && config.database_url.is_none() => self.client_flags()?,
            None => Said::NOTHING,
        };
        let tls = self.tls(config, said)?;
        let by_tcp = hosts.iter().any(|host| host.socket().is_none());
        if !hosts.is_empty() && (matches!(tls, Tls::Off) || !by_tcp) {
            self.refuse_useless(config, by_tcp);
        }
        let mut with_tls = Vec::new();
        for host in hosts {
            match tls.of(host) {
                Ok(host) => with_tls.push(host),
                Err(problem) => self.fault(TLS_NAME, problem),
            }
        }
        Some(with_tls)
    }

    fn tls(&mut self, config: &config::WordPress, said: Said) -> Option<Tls> {
        let verified = match config.database_tls {
            DatabaseTls::Off => return Some(Tls::Off),
            DatabaseTls::Auto if !said.tls => return Some(Tls::Off),
            DatabaseTls::Auto => said.verified,
            DatabaseTls::Verify => true,
            DatabaseTls::EncryptOnly => false,
        };
        let before = self.faults.len();
        let mut authorities = Vec::new();
        if let Some(path) = &config.database_ca_file {
            match authorities_of(path) {
                Ok(own) => authorities.extend(own),
                Err(problem) => self.fault(CA_FILE, problem),
            }
        }
        if said.system {
            authorities.extend(system_authorities());
        }
        if authorities.is_empty() && verified && self.faults.len() == before {
            let problem = "is needed: the database's certificate is to be verified, and no authority is trusted \
                           (package ca-certificates has those of the web); or set wordpress.database_tls = \"encrypt_only\"";
            self.fault(CA_FILE, problem.to_owned());
        }
        let identity = match config.database_client_certificate.as_ref().map(identity) {
            Some(Err(problem)) => {
                self.fault(CLIENT_CERTIFICATE, problem);
                None
            }
            Some(Ok(identity)) => Some(identity),
            None => None,
        };
        let authorities = authorities.into_iter().map(|der| der.to_vec()).collect();
        let name = config.database_tls_name.clone();
        (self.faults.len() == before).then(|| Tls::On(Box::new(On { verified, authorities, identity, name })))
    }

    /// SECURITY: an operator who names an authority or a certificate wants TLS; without it, the
    /// password and all rows would be readable on the network.
    fn refuse_useless(&mut self, config: &config::WordPress, by_tcp: bool) {
        let given = [
            (CA_FILE, config.database_ca_file.is_some()),
            (CLIENT_CERTIFICATE, config.database_client_certificate.is_some()),
            (TLS_NAME, config.database_tls_name.is_some()),
        ];
        let problem = match (by_tcp, config.database_tls) {
            (false, _) => "has no use: the database is reached by a local socket, which has no TLS",
            (true, DatabaseTls::Off) => "contradicts wordpress.database_tls = \"off\"",
            (true, _) => {
                "has no use: connections to the database have no TLS, since neither database_url (?require_ssl=true) \
                 nor MYSQL_CLIENT_FLAGS in wp-config.php asks for it; set wordpress.database_tls = \"verify\""
            }
        };
        for (key, _) in given.into_iter().filter(|(_, given)| *given) {
            self.fault(key, problem.to_owned());
        }
    }

    /// `MYSQL_CLIENT_FLAGS`, which wpdb passes to mysqli_real_connect(). mysqlnd encrypts with
    /// MYSQLI_CLIENT_SSL and verifies nothing, since WordPress never calls mysqli_ssl_set():
    /// `enable_ssl` of mysqlnd_vio.c verifies by default only if a key, a certificate or an
    /// authority is set. The sidecar verifies all the same, unless the other flag disables it.
    /// `None` if it cannot be known.
    fn client_flags(&mut self) -> Option<Said> {
        const SSL: i64 = 2048;
        const DONT_VERIFY: i64 = 64;
        let flags = match self.constant("MYSQL_CLIENT_FLAGS") {
            Lookup::NotDefined => 0,
            Lookup::Known(Scalar::Integer(flags), _) => *flags,
            Lookup::Known(_, line) => {
                self.constant_fault(
                    "MYSQL_CLIENT_FLAGS",
                    INSTEAD_OF_FLAGS,
                    &format!("{} gives it a value that is not a number", giver(line)),
                );
                return None;
            }
            Lookup::Unknown(doubt) => {
                self.doubtful("MYSQL_CLIENT_FLAGS", INSTEAD_OF_FLAGS, &doubt);
                return None;
            }
        };
        Some(Said { tls: flags & SSL != 0, verified: flags & DONT_VERIFY == 0, system: true })
    }
}

const INSTEAD_OF_FLAGS: &str = "wordpress.database_tls";

/// Some systems have one certificate that does not parse among a hundred good ones, which would
/// make mysql_async refuse all of them.
fn system_authorities() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs.into_iter().filter(|der| is_authority(der).is_ok()).collect()
}

fn is_authority(der: &CertificateDer<'_>) -> Result<(), rustls::Error> {
    RootCertStore::empty().add(der.clone().into_owned())
}

/// The operator's own authorities are all needed, so an unusable one is an error.
fn authorities_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = certificates_of(path)?;
    for (i, der) in certificates.iter().enumerate() {
        is_authority(der).map_err(|error| {
            format!("{}: certificate {} of {} cannot be used: {error}", path.display(), i + 1, certificates.len())
        })?;
    }
    Ok(certificates)
}

/// Read once to check that key and certificate belong together; mysql_async reads the same bytes
/// again.
fn identity(files: &CertificateFiles) -> Result<ClientIdentity, String> {
    let chain = certificates_of(&files.chain)?;
    let key = read_pem(&files.key)?;
    // SECURITY: the PEM parser's own error could contain a part of the file, which is secret.
    let parsed = PrivateKeyDer::from_pem_slice(&key).map_err(|_| {
        format!(
            "{}: has no private key in PEM form in it (-----BEGIN PRIVATE KEY-----); an encrypted one must be \
             decrypted",
            files.key.display()
        )
    })?;
    CertifiedKey::from_der(chain, parsed, &aws_lc_rs::default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            format!("{} is not the key of the certificate in {}", files.key.display(), files.chain.display())
        }
        error => format!("{}: the key cannot be used: {error}", files.key.display()),
    })?;
    Ok(ClientIdentity::new(read_pem(&files.chain)?.into(), key.into()))
}

fn certificates_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read_pem(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{}: is not in PEM form: {error}", path.display()))?;
    match certificates.is_empty() {
        true if pem.starts_with(&DER_SEQUENCE) => Err(format!(
            "{}: is in DER form; make it PEM: openssl x509 -inform der -in {0} -out NEW.pem",
            path.display()
        )),
        true => Err(format!("{}: has no certificate in PEM form in it (-----BEGIN CERTIFICATE-----)", path.display())),
        false => Ok(certificates),
    }
}

/// A SEQUENCE with a length of two bytes (X.690, 8.1): the beginning of a certificate in DER form,
/// as Windows and Java write it.
const DER_SEQUENCE: [u8; 2] = [0x30, 0x82];

/// The contents of a file, without byte order marks if it is text.
fn read_pem(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes))
        .and_then(|length| match length as u64 > LARGEST_FILE {
            true => Err(io::Error::other("is larger than 4 MiB")),
            false => Ok(()),
        })
        .map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    // In DER form, these bytes may be part of the data.
    Ok(if bytes.starts_with(&DER_SEQUENCE) { bytes } else { byte_order_mark::removed(bytes) })
}
