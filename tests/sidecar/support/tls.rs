//! Certificates made for a test, and TLS clients that record what they were given.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion,
};
use tempfile::TempDir;

use super::secrets;
use super::sidecar::{PATIENCE, Sidecar};

/// A certificate authority for a test, and a directory for what it issues.
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
    /// For `[tls] certificates`.
    pub fn argument(&self) -> String {
        format!("{}:{}", self.chain.display(), self.key.display())
    }

    /// The certificate as it is sent.
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
        // With the same name for two authorities, one would only seem to have a wrong signature.
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

    /// Issues a certificate for `names` in the files `NAME.pem` and `NAME.key`, which are replaced.
    pub fn issue(&self, file: &str, names: &[&str]) -> Pair {
        self.issue_until(file, names, 2090)
    }

    /// Like [`Authority::issue`], valid until a year begins.
    pub fn issue_until(&self, file: &str, names: &[&str], year: i32) -> Pair {
        self.issue_of(file, names, &rcgen::PKCS_ECDSA_P256_SHA256, (1975, year))
    }

    /// Like [`Authority::issue`], with a key of this kind, valid from the beginning of one year to
    /// that of another.
    pub fn issue_of(
        &self,
        file: &str,
        names: &[&str],
        kind: &'static rcgen::SignatureAlgorithm,
        (from, until): (i32, i32),
    ) -> Pair {
        let key = KeyPair::generate_for(kind).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.not_before = date_time_ymd(from, 1, 1);
        parameters.not_after = date_time_ymd(until, 1, 1);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.directory.path().join(format!("{file}.{kind}"));
        std::fs::write(path("pem"), certificate.pem()).unwrap();
        for line in key.serialize_pem().lines().filter(|line| !line.starts_with('-')) {
            secrets::register(line);
        }
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        Pair { chain: path("pem"), key: path("key") }
    }

    /// A client that trusts only this authority, and offers `protocols` over TLS.
    pub fn client(&self, protocols: &[&str]) -> ClientConfig {
        self.client_of(rustls::ALL_VERSIONS, protocols)
    }

    /// Like [`Authority::client`], with these versions of TLS.
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

/// Runs the program `openssl`.
pub fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().expect("openssl is there");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The default of `openssl req -x509`: its own authority, with its name only in the subject.
pub fn self_signed(directory: &Path, name: &str) -> Pair {
    let pair = Pair { chain: directory.join(format!("{name}.pem")), key: directory.join(format!("{name}.key")) };
    let (chain, key) = (pair.chain.to_str().unwrap(), pair.key.to_str().unwrap());
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key];
    openssl(&[&["req", "-x509", "-subj", &format!("/CN={name}"), "-days", "30", "-out", chain][..], &new_key].concat());
    pair
}

/// An upstream that speaks TLS, and the requests that it received.
pub struct TlsUpstream {
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// A request to it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The connection that it came on, from 0.
    pub connection: usize,
    /// The name in the handshake.
    pub name: Option<String>,
    /// The negotiated protocol.
    pub protocol: Option<Vec<u8>>,
    pub head: String,
}

impl Asked {
    /// The value of `Host`.
    pub fn host(&self) -> &str {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, host)| host).unwrap_or_default()
    }
}

impl TlsUpstream {
    /// Presents the pair for the requested name, otherwise the first, and answers every request
    /// with `ok`.
    pub fn start(pairs: &[(&str, &Pair)], protocols: &[&str]) -> TlsUpstream {
        TlsUpstream::answering(pairs, protocols, |_| "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into())
    }

    /// Like [`TlsUpstream::start`], with other responses.
    pub fn answering(
        pairs: &[(&str, &Pair)],
        protocols: &[&str],
        answer: impl Fn(&Asked) -> String + Send + Sync + 'static,
    ) -> TlsUpstream {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let keys = pairs.iter().map(|(name, pair)| {
            let chain = vec![CertificateDer::from_pem_file(&pair.chain).unwrap()];
            let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
            ((*name).to_owned(), Arc::new(CertifiedKey::from_der(chain, key, &provider).unwrap()))
        });
        let keys = Arc::new(ByName(keys.collect()));
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_no_client_auth().with_cert_resolver(keys);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let (config, answer) = (Arc::new(config), Arc::new(answer));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let seen = Arc::clone(&asked);
        std::thread::spawn(move || {
            for (connection, socket) in listener.incoming().map_while(Result::ok).enumerate() {
                let (config, seen, answer) = (Arc::clone(&config), Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
                    let mut read = Vec::new();
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = stream.read(&mut buffer) {
                        read.extend_from_slice(&buffer[..count]);
                        if read.ends_with(b"\r\n\r\n") {
                            let name = stream.conn.server_name().map(str::to_owned);
                            let head = String::from_utf8(std::mem::take(&mut read)).unwrap();
                            let protocol = stream.conn.alpn_protocol().map(<[u8]>::to_vec);
                            let asked = Asked { connection, name, protocol, head };
                            let answer = answer(&asked);
                            seen.lock().unwrap().push(asked);
                            stream.write_all(answer.as_bytes()).unwrap();
                        }
                    }
                });
            }
        });
        TlsUpstream { port, asked }
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

#[derive(Debug)]
struct ByName(Vec<(String, Arc<CertifiedKey>)>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = self.0.iter().find(|(name, _)| Some(name.as_str()) == hello.server_name());
        named.or(self.0.first()).map(|(_, key)| Arc::clone(key))
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

    /// Like [`TlsConnection::to`], on an open connection.
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

    /// Sends a request and reads until the response ends with `end`.
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
