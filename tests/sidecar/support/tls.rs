//! Certificates made for a test, and TLS clients that show what they were given.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use tempfile::TempDir;

use super::secrets;
use super::sidecar::{PATIENCE, Sidecar};

/// An authority of the test's own, and a directory for what it issues.
pub struct Authority {
    pub directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate in files.
pub struct Pair {
    pub chain: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    /// As `[tls] certificates` has it.
    pub fn argument(&self) -> String {
        format!("{}:{}", self.chain.display(), self.key.display())
    }

    /// The certificate as it goes over the wire.
    pub fn der(&self) -> Vec<u8> {
        CertificateDer::from_pem_file(&self.chain).unwrap().to_vec()
    }
}

impl Authority {
    pub fn new() -> Authority {
        let directory = TempDir::new().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Two authorities of one name would be one whose signature is wrong.
        let name = directory.path().display().to_string();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = parameters.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Authority { directory, issuer: Issuer::new(parameters, key) }
    }

    /// Its own certificate.
    pub fn file(&self) -> String {
        self.directory.path().join("ca.pem").to_str().unwrap().to_owned()
    }

    /// A certificate for `names` in the files `NAME.pem` and `NAME.key`, over what was there.
    pub fn issue(&self, file: &str, names: &[&str]) -> Pair {
        self.issue_until(file, names, 2090)
    }

    /// As [`Authority::issue`], valid until a year begins.
    pub fn issue_until(&self, file: &str, names: &[&str], year: i32) -> Pair {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.not_after = date_time_ymd(year, 1, 1);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.directory.path().join(format!("{file}.{kind}"));
        std::fs::write(path("pem"), certificate.pem()).unwrap();
        for line in key.serialize_pem().lines().filter(|line| !line.starts_with('-')) {
            secrets::register(line);
        }
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        Pair { chain: path("pem"), key: path("key") }
    }

    /// A client that trusts this authority only, and speaks `protocols` above TLS.
    pub fn client(&self, protocols: &[&str]) -> ClientConfig {
        self.client_of(rustls::ALL_VERSIONS, protocols)
    }

    /// As [`Authority::client`], with these versions of TLS.
    pub fn client_of(&self, versions: &[&'static SupportedProtocolVersion], protocols: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file()).unwrap()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }
}

/// The address that `sidecar` listens on with TLS.
pub fn tls_address(sidecar: &Sidecar) -> SocketAddr {
    let line = sidecar.wait_for_log("\"tls\":true");
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let address = line.pointer("/address").and_then(|address| address.as_str()).expect("an address");
    address.parse().expect("an address")
}

/// A TLS connection after its handshake.
pub struct TlsConnection {
    pub stream: StreamOwned<ClientConnection, TcpStream>,
}

impl TlsConnection {
    /// Connects and asks for `name`.
    ///
    /// # Errors
    /// The handshake's.
    pub fn to(address: SocketAddr, name: &str, config: ClientConfig) -> std::io::Result<TlsConnection> {
        TlsConnection::over(TcpStream::connect(address)?, name, config)
    }

    /// As [`TlsConnection::to`], over an open connection.
    ///
    /// # Errors
    /// The handshake's.
    pub fn over(mut socket: TcpStream, name: &str, config: ClientConfig) -> std::io::Result<TlsConnection> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut connection = ClientConnection::new(Arc::new(config), name).expect("a client");
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(TlsConnection { stream: StreamOwned::new(connection, socket) })
    }

    /// The certificate that the server presented.
    pub fn certificate(&self) -> Vec<u8> {
        self.stream.conn.peer_certificates().and_then(<[_]>::first).expect("a certificate").to_vec()
    }

    /// Sends a request and reads until the answer ends with `end`.
    pub fn exchange(&mut self, request: &str, end: &str) -> String {
        self.stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while !answer.ends_with(end.as_bytes()) {
            let count = self.stream.read(&mut buffer).unwrap();
            assert!(count > 0, "it ended early: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8(answer).unwrap()
    }
}
