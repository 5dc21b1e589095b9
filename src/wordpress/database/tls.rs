//! TLS to the database: what the server presents, why it is not accepted, and what operators are
//! shown.
//!
//! mysql_async makes TLS connections itself, without a hook for another verifier. So the reason why
//! a certificate is rejected is found by [`probe`], on a connection of its own that does not log
//! in, and described by [`certificate`].

mod certificate;
mod probe;

use std::error::Error as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::{DriverError, Error, IoError, Opts, Row};
use rustls::{AlertDescription, RootCertStore};
use tokio::time::timeout;

use super::{CONNECT_LIMIT, Conn, Database, DatabaseError, column, hosts};
#[cfg(test)]
pub use certificate::Facts;
pub use probe::Presented;

/// How long a probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// How often a server's certificate is probed at most, however many connections fail: the server
/// counts each probe as an aborted connection (`max_connect_errors`).
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Where the commands for making a certificate are.
pub const DOCS: &str = "docs/database.md, \"TLS to the database\"";

/// How connections to a host are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// A local socket, which does not leave the machine.
    Socket,
    /// Not at all.
    Off,
    /// Encrypted, and the server is verified.
    Verified,
    /// Encrypted, but the server is not verified.
    EncryptOnly,
}

impl Protection {
    /// What is configured for this host.
    pub fn of(opts: &Opts) -> Self {
        match opts.ssl_opts() {
            _ if opts.socket().is_some() => Protection::Socket,
            None => Protection::Off,
            Some(ssl) if ssl.accept_invalid_certs() => Protection::EncryptOnly,
            Some(_) => Protection::Verified,
        }
    }

    /// A short description.
    pub fn describe(self) -> &'static str {
        match self {
            Protection::Socket => "none, by a local socket",
            Protection::Off => "off",
            Protection::Verified => "on, certificate verified",
            Protection::EncryptOnly => "on, certificate not verified",
        }
    }
}

/// What is known of the database's TLS.
#[derive(Default)]
pub(super) struct Known(Mutex<State>);

#[derive(Default)]
struct State {
    /// The server that was asked, and its answer.
    described: Option<(Arc<str>, String)>,
    /// For each host: its index, when it was probed, and the result.
    refused: Vec<(usize, Instant, Refused)>,
}

/// A failure and the description of its cause.
#[derive(Clone)]
struct Refused {
    error: rustls::Error,
    text: String,
}

impl Known {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Database {
    /// How connections to the host in use are protected, with the details once one has been made.
    pub fn tls(&self) -> Option<String> {
        let opts = self.hosts.get(self.at().place)?;
        let protection = Protection::of(opts).describe();
        let state = self.tls.state();
        Some(match &state.described {
            Some((_, described)) if opts.ssl_opts().is_some() => format!("{protection}: {described}"),
            _ => protection.to_owned(),
        })
    }

    /// Asks each server once for the details of its TLS. If it has none, it is not asked again.
    pub(super) async fn note_tls(&self, conn: &mut Conn, server: &Arc<str>) -> Result<(), DatabaseError> {
        let has_tls = conn.has_tls();
        let is_known = self.tls.state().described.as_ref().is_some_and(|(known, _)| known == server);
        if has_tls && !is_known {
            let described = timeout(CONNECT_LIMIT, session(conn)).await.unwrap_or(Err(DatabaseError::NoConnection))?;
            self.tls.state().described = Some((Arc::clone(server), described));
        }
        Ok(())
    }

    /// Why a connection to the host at `place` cannot be made.
    pub(super) async fn connect_error(&self, place: usize, error: &Error) -> DatabaseError {
        let Some(opts) = self.hosts.get(place) else { return DatabaseError::NoConnection };
        let error = match error {
            Error::Driver(DriverError::NoClientSslFlagFromServer) => return DatabaseError::Tls(NO_TLS.to_owned()),
            error => match tls_error(error) {
                Some(tls) => tls,
                None => return DatabaseError::connecting(error),
            },
        };
        let known = self.tls.state().refused.iter().find(|(host, ..)| *host == place).cloned();
        if let Some((_, when, refused)) = known
            && refused.error == *error
            && when.elapsed() < LOOK_AGAIN
        {
            return DatabaseError::Tls(refused.text);
        }
        let name = name(opts);
        // Only if the certificate can explain more.
        let leaf = match error {
            rustls::Error::InvalidCertificate(_) => {
                probe(opts).await.ok().and_then(|presented| presented.chain.into_iter().next())
            }
            _ => None,
        };
        let text = explain(error, leaf.as_ref().map(AsRef::as_ref), name, Protection::of(opts));
        let mut state = self.tls.state();
        state.refused.retain(|(host, ..)| *host != place);
        state.refused.push((place, Instant::now(), Refused { error: error.clone(), text: text.clone() }));
        DatabaseError::Tls(text)
    }

    /// Each host with its TLS, for people: the certificate, its issuer, and whether it is verified.
    /// Probes each host.
    pub async fn examine_tls(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for opts in &self.hosts {
            let protection = Protection::of(opts);
            let presented = match protection {
                Protection::Socket | Protection::Off => String::new(),
                Protection::Verified | Protection::EncryptOnly => match probe(opts).await {
                    Ok(presented) => format!("; {}", presented.describe()),
                    Err(error) => format!("; what the server presents cannot be seen: {error}"),
                },
            };
            lines.push(format!("{}: {}{presented}", hosts::label(opts), protection.describe()));
        }
        lines
    }
}

/// The name that the certificate must be valid for.
fn name(opts: &Opts) -> &str {
    opts.ssl_opts().and_then(|ssl| ssl.tls_hostname_override()).unwrap_or_else(|| opts.ip_or_hostname())
}

/// Probes the server, with the authorities of its connections.
///
/// # Errors
/// It cannot be reached in time, or offers no TLS.
pub async fn probe(opts: &Opts) -> Result<Presented, String> {
    let mut roots = RootCertStore::empty();
    for der in opts.ssl_opts().map(|ssl| ssl.root_certs()).unwrap_or_default() {
        if let Ok(der) = der.read().await {
            roots.add_parsable_certificates([der.into_owned().into()]);
        }
    }
    let host = opts.ip_or_hostname();
    let looked = probe::look(host, opts.tcp_port(), name(opts), roots);
    timeout(PROBE_LIMIT, looked).await.unwrap_or_else(|_| Err(format!("no answer within {PROBE_LIMIT:?}")))
}

const NO_TLS: &str = "the server offers none, but the connection is to have it (MYSQL_CLIENT_FLAGS in wp-config.php, \
                      ?require_ssl in database_url, or wordpress.database_tls); give the server a certificate \
                      (ssl_cert, ssl_key), or, on a network that cannot be tapped, set wordpress.database_tls = \"off\"";

/// rustls's own error, if that ended the connection.
fn tls_error(error: &Error) -> Option<&rustls::Error> {
    match error {
        Error::Io(IoError::Tls(error)) => error.source()?.downcast_ref(),
        Error::Io(IoError::Io(error)) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

/// The cause and the fix. Pure.
fn explain(error: &rustls::Error, leaf: Option<&[u8]>, name: &str, protection: Protection) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => {
            let faults = certificate::faults(error, leaf, name);
            certificate::explain(&faults, protection == Protection::EncryptOnly)
        }
        // In response to the client certificate, or to its absence.
        rustls::Error::AlertReceived(
            alert @ (AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied),
        ) => format!(
            "the server does not accept the sidecar's own certificate, or misses it (alert {alert:?}); \
             wordpress.database_client_certificate must be one that an authority in the server's ssl_ca has signed"
        ),
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure)
        | rustls::Error::PeerIncompatible(_) => format!(
            "no agreement on a version or a cipher ({error}): the sidecar speaks TLS 1.2 and 1.3 (the server: tls_version)"
        ),
        error => error.to_string(),
    }
}

/// The session's own status. Some proxies do not know these variables.
async fn session(conn: &mut Conn) -> Result<String, DatabaseError> {
    let asked = "SHOW SESSION STATUS WHERE Variable_name IN ('Ssl_version', 'Ssl_cipher', 'Ssl_server_not_after')";
    let rows: Vec<Row> = match conn.query(asked).await {
        Err(Error::Server(_)) => Vec::new(),
        rows => rows?,
    };
    let mut values = [None, None, None];
    for mut row in rows {
        let (Ok(variable), Ok(value)) = (column::<String>(&mut row, 0, "name"), column::<String>(&mut row, 1, "value"))
        else {
            continue;
        };
        let place = ["ssl_version", "ssl_cipher", "ssl_server_not_after"]
            .iter()
            .position(|name| variable.eq_ignore_ascii_case(name));
        if let Some(slot) = place.and_then(|place| values.get_mut(place)) {
            *slot = Some(value).filter(|value| !value.is_empty());
        }
    }
    let [version, cipher, not_after] = values;
    let Some(version) = version else { return Ok("the server does not report it".to_owned()) };
    let cipher = cipher.map(|cipher| format!(", {cipher}")).unwrap_or_default();
    let not_after = not_after.map(|end| format!(", certificate until {end}")).unwrap_or_default();
    Ok(format!("{version}{cipher}{not_after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mysql_async::OptsBuilder;
    use rustls::CertificateError;

    #[test]
    fn how_hosts_are_protected() {
        let of = |url: &str| Protection::of(&Opts::from_url(url).unwrap());
        assert_eq!(of("mysql://u@h/d"), Protection::Off);
        assert_eq!(of("mysql://u@h/d?require_ssl=true"), Protection::Verified);
        assert_eq!(of("mysql://u@h/d?require_ssl=true&verify_ca=false"), Protection::EncryptOnly);
        assert_eq!(of("mysql://u@h/d?socket=%2Fa&require_ssl=true"), Protection::Socket);
    }

    #[tokio::test]
    async fn each_failure_says_what_to_do() {
        let database = Database::new(OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(1));
        let said = async |error: Error| database.connect_error(0, &error).await.to_string();
        let tls = |error: rustls::Error| Error::Io(IoError::Io(std::io::Error::other(error)));
        for (error, expected) in [
            (Error::Driver(DriverError::NoClientSslFlagFromServer), "wordpress.database_tls = \"off\""),
            (tls(rustls::Error::AlertReceived(AlertDescription::UnknownCA)), "wordpress.database_client_certificate"),
            (tls(rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)), "speaks TLS 1.2 and 1.3"),
            (tls(CertificateError::UnknownIssuer.into()), "wordpress.database_ca_file"),
            (rustls::Error::from(CertificateError::UnknownIssuer).into(), "wordpress.database_ca_file"),
        ] {
            let said = said(error).await;
            assert!(said.starts_with("cannot connect to the database by TLS: ") && said.contains(expected), "{said}");
        }
        let refused =
            mysql_async::ServerError { code: 1045, message: "Access denied".to_owned(), state: "28000".to_owned() };
        assert!(said(Error::Server(refused)).await.contains("ERROR 1045 "), "the doctor looks for the number");
    }
}
