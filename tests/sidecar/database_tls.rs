//! TLS to the database, with a real MariaDB: which certificates are accepted in which mode, and
//! what is reported about the others. The account requires TLS, so every login uses it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mysql_async::prelude::Queryable as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, PublicKeyData as _, SigningKey as _, date_time_ymd,
};
use wp_jwt_sidecar::internals::config::{CertificateFiles, DatabaseTls, Jwt, Kind, Secret, WordPress, keys};
use wp_jwt_sidecar::internals::wordpress::database::Database as Pool;
use wp_jwt_sidecar::internals::wordpress::installation::installation;

use crate::admin;
use crate::readme::blocks::block;
use crate::support::mariadb::{Database, PASSWORD, PASSWORD_IN_URL, TestDatabase, TokenState};
use crate::support::port::Port;
use crate::support::rig::{self, refresh_at};
use crate::support::sidecar::command;
use crate::support::tls::Authority;

const FOR_EVER: i32 = 2090;

/// A server whose certificate can be changed, and which trusts clients of `authority`.
struct Server {
    server: Database,
    database: TestDatabase,
    authority: Authority,
    port: Port,
}

impl Server {
    async fn start() -> Server {
        let authority = Authority::new();
        // The server runs as www-data if the tests run as root.
        std::fs::set_permissions(authority.directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        authority.issue("server", &["127.0.0.1"]);
        let (port, at) = (Port::reserve(), |name: &str| authority.directory.path().join(name).display().to_string());
        let server = Database::private_with(&[
            "--skip-networking=0",
            "--bind-address=127.0.0.1",
            &format!("--port={}", port.number()),
            &format!("--ssl-ca={}", at("ca.pem")),
            &format!("--ssl-cert={}", at("server.pem")),
            &format!("--ssl-key={}", at("server.key")),
        ]);
        let database = rig::site(&server).await;
        let mut root = server.root().await;
        for statement in [
            format!("CREATE USER tls@'127.0.0.1' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL"),
            "GRANT ALL ON *.* TO tls@'127.0.0.1'".to_owned(),
        ] {
            root.query_drop(statement).await.unwrap();
        }
        Server { server, database, authority, port }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.authority.directory.path().join(name)
    }

    /// A file with this content.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// From now on new connections get the certificate in the files `server.pem` and `server.key`.
    async fn present(&self) {
        self.server.root().await.query_drop("FLUSH SSL").await.unwrap();
    }

    async fn present_self_signed(&self, parameters: CertificateParams) -> PathBuf {
        let key = KeyPair::generate().unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem();
        self.file("server.key", key.serialize_pem());
        let file = self.file("server.pem", pem);
        self.present().await;
        file
    }

    /// Presents what the commands in docs/database.md make.
    async fn present_documented(&self) -> PathBuf {
        let commands = block("database-certificate");
        let made =
            Command::new("bash").args(["-e", "-c", &commands]).current_dir(self.authority.directory.path()).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{made:?}");
        // openssl makes it readable by its owner only, but the test's server has another user.
        std::fs::set_permissions(self.path("server.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
        self.present().await;
        self.path("server.pem")
    }

    fn url(&self) -> String {
        let (_, behind) = self.database.url().split_once("localhost/").unwrap();
        let (name, _) = behind.split_once('?').unwrap();
        format!("mysql://tls:{PASSWORD_IN_URL}@127.0.0.1:{}/{name}?require_ssl=true", self.port.number())
    }

    fn config(&self) -> WordPress {
        of_url(self.url())
    }

    /// `config` with this authority.
    fn trusting(&self, ca_file: &Path) -> WordPress {
        WordPress { database_ca_file: Some(ca_file.to_owned()), ..self.config() }
    }

    fn encrypting(&self) -> WordPress {
        WordPress { database_tls: DatabaseTls::EncryptOnly, ..self.config() }
    }
}

fn of_url(url: String) -> WordPress {
    WordPress {
        database_url: Some(Secret::new(url)),
        table_prefix: Some("wp_".to_owned()),
        auth_key: Some(Secret::new("k")),
        auth_salt: Some(Secret::new("s")),
        ..WordPress::default()
    }
}

/// The TLS details of a connection, or why connecting failed.
async fn connect(config: WordPress) -> Result<String, String> {
    let jwt = Jwt { secret: Some(Secret::new("j")), ..Jwt::default() };
    let installation = installation(&config, &jwt, &|_| None).map_err(|faults| faults.to_string())?;
    let pool = Pool::new(installation.database);
    let mut session = pool.session().await.map_err(|error| error.to_string())?;
    let one = session.conn().query_first("SELECT 1").await.unwrap();
    assert_eq!(one.and_then(|mut row| row.take(0)), Some(1_u8));
    drop(session);
    Ok(pool.tls().unwrap())
}

async fn is_verified(config: WordPress) {
    let tls = connect(config).await.unwrap();
    assert!(tls.starts_with("on, certificate verified: TLSv1.3, TLS_AES_"), "{tls}");
}

async fn is_encrypted_only(config: WordPress) {
    let tls = connect(config).await.unwrap();
    assert!(tls.starts_with("on, certificate not verified: TLSv1.3, TLS_AES_"), "{tls}");
}

async fn is_refused(config: WordPress, parts: &[&str]) {
    let error = connect(config).await.unwrap_err();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[tokio::test]
async fn each_certificate_in_each_mode() {
    let server = Server::start().await;
    let ca = server.path("ca.pem");
    let docs = "make a certificate that verifies (docs/database.md";
    let encrypt_only = "wordpress.database_tls = \"encrypt_only\"";

    // A private authority.
    is_verified(server.trusting(&ca)).await;
    let unknown = ["signed by an authority that is not trusted here (CN=", "wordpress.database_ca_file", encrypt_only];
    is_refused(server.config(), &unknown).await;
    is_encrypted_only(server.encrypting()).await;
    let by_url = of_url(format!("{}&verify_ca=false", server.url()));
    is_encrypted_only(by_url.clone()).await;
    is_refused(WordPress { database_tls: DatabaseTls::Verify, ..by_url }, &unknown).await;
    // Set by the key alone; among others in the file, and after a byte order mark.
    let other = Authority::new();
    let both = [&std::fs::read(other.file()).unwrap(), "\u{feff}".as_bytes(), &std::fs::read(&ca).unwrap()].concat();
    let both = server.file("both.pem", both);
    let bare = of_url(server.url().replace("?require_ssl=true", ""));
    is_verified(WordPress { database_tls: DatabaseTls::Verify, database_ca_file: Some(both), ..bare.clone() }).await;
    is_refused(WordPress { database_ca_file: Some(ca.clone()), ..bare.clone() }, &["has no use", "no TLS"]).await;
    is_refused(bare, &["ERROR 1045 "]).await;

    // For a name that is not the host's.
    server.authority.issue("server", &["db.example", "*.db.example"]);
    server.present().await;
    let wrong = ["it is not for 127.0.0.1, but for db.example, *.db.example", "wordpress.database_tls_name"];
    is_refused(server.trusting(&ca), &wrong).await;
    is_refused(server.config(), &[&unknown[..], &wrong[..]].concat()).await;
    for name in ["db.example", "a.db.example"] {
        is_verified(WordPress { database_tls_name: Some(name.to_owned()), ..server.trusting(&ca) }).await;
    }
    let third = WordPress { database_tls_name: Some("other.example".to_owned()), ..server.trusting(&ca) };
    is_refused(third, &["it is not for other.example"]).await;
    is_encrypted_only(server.encrypting()).await;

    // Without any usable name.
    server.authority.issue("server", &[]);
    server.present().await;
    is_refused(server.trusting(&ca), &["no subject alternative name", docs, encrypt_only]).await;
    is_encrypted_only(server.encrypting()).await;

    // Expired, and not valid yet.
    server.authority.issue_until("server", &["127.0.0.1"], 2020);
    server.present().await;
    is_refused(server.trusting(&ca), &["expired since Wed, 01 Jan 2020", docs, encrypt_only]).await;
    is_encrypted_only(server.encrypting()).await;
    let mut early = parameters(&["127.0.0.1"]);
    early.not_before = date_time_ymd(2089, 1, 1);
    let file = server.present_self_signed(early).await;
    is_refused(server.trusting(&file), &["not valid before Sat, 01 Jan 2089", "clock"]).await;
    is_encrypted_only(server.encrypting()).await;

    // Self-signed.
    let file = server.present_self_signed(parameters(&["127.0.0.1"])).await;
    is_verified(server.trusting(&file)).await;
    is_refused(server.config(), &["signed by itself", "wordpress.database_ca_file", encrypt_only]).await;
    is_encrypted_only(server.encrypting()).await;
    let mut authority = parameters(&["127.0.0.1"]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let file = server.present_self_signed(authority).await;
    is_refused(server.trusting(&file), &["CA:TRUE", docs, encrypt_only]).await;
    is_encrypted_only(server.encrypting()).await;

    // Made as in the documentation.
    let file = server.present_documented().await;
    for name in ["db.example.com", "10.0.0.5"] {
        is_verified(WordPress { database_tls_name: Some(name.to_owned()), ..server.trusting(&file) }).await;
    }

    // Of version 1, which no mode can use.
    let (pem, key) = version_1();
    server.file("server.key", key);
    let file = server.file("server.pem", pem);
    server.present().await;
    is_refused(server.trusting(&file), &["X.509 version 1", docs, "encrypt_only\" does not help"]).await;
    is_refused(server.encrypting(), &["even without verification: it is of X.509 version 1"]).await;
}

#[tokio::test]
async fn a_client_certificate_is_presented() {
    let server = Server::start().await;
    let ca = server.path("ca.pem");
    server.server.root().await.query_drop("ALTER USER tls@'127.0.0.1' REQUIRE X509").await.unwrap();
    is_refused(server.trusting(&ca), &["ERROR 1045 "]).await;
    let presenting = |authority: &Authority, config: WordPress| {
        let pair = authority.issue("client", &["sidecar"]);
        let files = CertificateFiles { chain: pair.chain, key: pair.key };
        WordPress { database_client_certificate: Some(files), ..config }
    };
    is_verified(presenting(&server.authority, server.trusting(&ca))).await;
    is_encrypted_only(presenting(&server.authority, server.encrypting())).await;
    let other = Authority::new();
    is_refused(
        presenting(&other, server.trusting(&ca)),
        &["does not accept the sidecar's own certificate", "wordpress.database_client_certificate"],
    )
    .await;
}

/// No TLS is requested on a local socket: mysql_async would announce it, but not use it.
#[tokio::test]
async fn a_local_socket_needs_no_tls() {
    let database = Database::shared().create().await;
    let config = of_url(format!("{}&require_ssl=true", database.url()));
    assert_eq!(connect(config.clone()).await.unwrap(), "none, by a local socket");
    let file = Authority::new();
    let named = WordPress { database_ca_file: Some(file.file().into()), ..config };
    is_refused(named, &["wordpress.database_ca_file", "local socket"]).await;
}

/// `check` trusts the system's authorities, except one that cannot be read, and shows the issuer.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_authority_of_the_system_spoils_no_other() {
    let server = Server::start().await;
    let upstream = rig::wordpress();
    let bad =
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode("no certificate"));
    let system = format!("{bad}{}{bad}", std::fs::read_to_string(server.path("ca.pem")).unwrap());
    let system = server.file("system.pem", system);
    let checked = |environment: &[(&str, &str)]| {
        let output = command()
            .args(["check", "--upstream", &format!("http://{}", upstream.address())])
            .env("WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL", server.url())
            .env("WP_JWT_SIDECAR_WORDPRESS_TABLE_PREFIX", "wp_")
            .envs(rig::SECRETS)
            .env("SSL_CERT_FILE", &system)
            .env_remove("SSL_CERT_DIR")
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        format!("{out}{error}")
    };
    let said = checked(&[]);
    assert!(said.contains("refreshing natively"), "{said}");
    let line = said.lines().find(|line| line.starts_with("TLS to the database: ")).unwrap();
    for part in ["on, certificate verified; TLSv1_3, TLS13_AES", "certificate for 127.0.0.1, signed by CN=", "until "] {
        assert!(line.contains(part), "{line}");
    }
    let said = checked(&[("WP_JWT_SIDECAR_WORDPRESS_DATABASE_TLS", "encrypt_only"), ("SSL_CERT_FILE", "/dev/null")]);
    let line = said.lines().find(|line| line.starts_with("TLS to the database: ")).unwrap();
    assert!(line.contains("on, certificate not verified; ") && line.contains("not trusted here"), "{said}");
    let said = checked(&[("SSL_CERT_FILE", "/dev/null")]);
    assert!(said.contains("wordpress.database_ca_file: is needed"), "{said}");
}

/// The log names the cause; the right authority in the same file takes effect at a reload; the
/// status page shows the protection in use.
#[tokio::test(flavor = "multi_thread")]
async fn the_authority_changes_at_a_reload() {
    let server = Server::start().await;
    let right = std::fs::read(server.path("ca.pem")).unwrap();
    let ca = server.file("in-use.pem", std::fs::read(Authority::new().file()).unwrap());
    let upstream = rig::wordpress();
    let (url, ca_file) = (server.url(), ca.display().to_string());
    let environment = [
        ("WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL", url.as_str()),
        ("WP_JWT_SIDECAR_WORDPRESS_DATABASE_CA_FILE", ca_file.as_str()),
        ("WP_JWT_SIDECAR_ADMIN_LISTEN", "127.0.0.1:0"),
    ];
    let sidecar = rig::sidecar(&server.database, upstream.address(), &environment);
    let line = sidecar.wait_for_log("cannot connect to the database by TLS");
    assert!(line.contains("not trusted here (CN=") && line.contains("wordpress.database_ca_file"), "{line}");
    std::fs::write(&ca, right).unwrap();
    sidecar.signal("HUP");
    sidecar.wait_for_log("refreshing natively");
    let user = server.database.insert_user("alice").await;
    let token = server.database.insert_token(TokenState::Live, user.id).await;
    assert_eq!(refresh_at(sidecar.address(), &token.refresh_token).status(), 200);
    let status = admin::get(admin::admin(&sidecar), "/status.json").json();
    let tls = status["database"]["tls"].as_str().unwrap();
    assert!(tls.starts_with("on, certificate verified: TLSv1.3, ") && tls.contains("certificate until "), "{tls}");
}

fn parameters(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, "db");
    parameters.not_after = date_time_ymd(FOR_EVER, 1, 1);
    parameters
}

/// Each key of the documentation's example is valid, and the mode is as described.
#[test]
fn the_documented_keys_exist() {
    let example: toml::Table = block("database-tls").parse().unwrap();
    let (_, keys) = example.iter().next().unwrap();
    for (name, value) in keys.as_table().unwrap() {
        let key = keys::find(&format!("wordpress.{name}")).unwrap_or_else(|| panic!("{name}"));
        assert!(key.kind != Kind::OneOf(DatabaseTls::NAMES) || DatabaseTls::NAMES.contains(&value.as_str().unwrap()));
    }
}

/// A certificate without the field "version", and so without extensions (RFC 5280, 4.1), and its
/// key. No available tool makes one.
fn version_1() -> (String, String) {
    fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = match u8::try_from(content.len()) {
            Ok(short @ ..0x80) => vec![short],
            Ok(length) => vec![0x81, length],
            Err(_) => [&[0x82][..], &u16::try_from(content.len()).unwrap().to_be_bytes()].concat(),
        };
        [&[tag][..], &length, &content].concat()
    }
    const SEQUENCE: u8 = 0x30;
    let key = KeyPair::generate().unwrap();
    // ecdsa-with-SHA256 (RFC 5758, 3.2).
    let algorithm = tlv(SEQUENCE, &[&[0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x02]]);
    let common_name = tlv(SEQUENCE, &[&[0x06, 0x03, 0x55, 0x04, 0x03], &tlv(0x0C, &[b"db"])]);
    let name = tlv(SEQUENCE, &[&tlv(0x31, &[&common_name])]);
    let validity = tlv(SEQUENCE, &[&tlv(0x17, &[b"200101000000Z"]), &tlv(0x17, &[b"490101000000Z"])]);
    let public = key.subject_public_key_info();
    let tbs = tlv(SEQUENCE, &[&[0x02, 0x01, 0x01], &algorithm, &name, &validity, &name, &public]);
    let signature = key.sign(&tbs).unwrap();
    let certificate = tlv(SEQUENCE, &[&tbs, &algorithm, &tlv(0x03, &[&[0], &signature])]);
    let body = STANDARD.encode(certificate);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    (pem, key.serialize_pem())
}
