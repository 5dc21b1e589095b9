//! TLS to the database by files and keys.

use std::path::Path;

use mysql_async::SslOpts;

use super::*;
use crate::config::{CertificateFiles, DatabaseTls};

const FLAGS: &str = "define('MYSQL_CLIENT_FLAGS', MYSQLI_CLIENT_SSL);";

fn pair(directory: &Path) -> CertificateFiles {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (chain, path) = (directory.join("a.pem"), directory.join("a.key"));
    fs::write(&chain, certificate.pem()).unwrap();
    fs::write(&path, key.serialize_pem()).unwrap();
    CertificateFiles { chain, key: path }
}

fn of(source: &str, config: config::WordPress) -> Result<Vec<Option<SslOpts>>, Vec<String>> {
    let site = with(source, config, &no_jwt())?;
    Ok(site.database.opts().iter().map(|opts| opts.ssl_opts().cloned()).collect())
}

fn one(source: &str, config: config::WordPress) -> Option<SslOpts> {
    of(source, config).unwrap().remove(0)
}

#[test]
fn the_site_decides_unless_the_key_does() {
    let mode = |database_tls| config::WordPress { database_tls, ..explicit() };
    let with_flags = format!("{PLAIN} {FLAGS}");
    let unverified = FLAGS.replace("SSL)", "SSL | MYSQLI_CLIENT_SSL_DONT_VERIFY_SERVER_CERT)");
    let unverified = format!("{PLAIN} {unverified}");
    let verifies = |ssl: Option<SslOpts>| ssl.map(|ssl| !ssl.accept_invalid_certs());
    for (database_tls, plain, flags, dont) in [
        (DatabaseTls::Auto, None, Some(true), Some(false)),
        (DatabaseTls::Verify, Some(true), Some(true), Some(true)),
        (DatabaseTls::EncryptOnly, Some(false), Some(false), Some(false)),
        (DatabaseTls::Off, None, None, None),
    ] {
        for (source, expected) in [(PLAIN, plain), (&with_flags, flags), (&unverified, dont)] {
            assert_eq!(verifies(one(source, mode(database_tls))), expected, "{database_tls} {source}");
        }
    }
    // The constant does not matter if the key decides.
    let unknown = format!("{PLAIN} define('MYSQL_CLIENT_FLAGS', $x);");
    assert_eq!(verifies(one(&unknown, mode(DatabaseTls::Verify))), Some(true));
    let faults = of(&unknown, mode(DatabaseTls::Auto)).unwrap_err();
    assert!(faults[0].ends_with("or set wordpress.database_tls"), "{faults:?}");
    // rustls requires an authority; without verification, mysql_async's built-in ones will do.
    assert!(one(PLAIN, mode(DatabaseTls::Verify)).unwrap().disable_built_in_roots());
    assert!(!one(PLAIN, mode(DatabaseTls::EncryptOnly)).unwrap().disable_built_in_roots());
}

#[test]
fn each_host_is_asked_for_by_its_own_name() {
    let hosts = ["db1.example:3307", "[::1]:3306", "localhost:/srv/my.sock"].map(str::to_owned).to_vec();
    let config = config::WordPress { database_hosts: hosts, database_tls: DatabaseTls::Verify, ..explicit() };
    let names = |config: config::WordPress| {
        let all = of(PLAIN, config).unwrap();
        all.into_iter().map(|ssl| ssl?.tls_hostname_override().map(str::to_owned)).collect::<Vec<_>>()
    };
    let some = |name: &str| Some(name.to_owned());
    assert_eq!(names(config.clone()), [some("db1.example"), some("::1"), None]);
    let named = config::WordPress { database_tls_name: some("db.example"), ..config.clone() };
    assert_eq!(names(named), [some("db.example"), some("db.example"), None]);
    let nameless = config::WordPress { database_hosts: vec!["db one".to_owned()], ..config };
    let faults = of(PLAIN, nameless.clone()).unwrap_err();
    assert!(faults[0].starts_with("wordpress.database_tls_name: no certificate can be for \"db one\""), "{faults:?}");
    assert_eq!(names(config::WordPress { database_tls: DatabaseTls::EncryptOnly, ..nameless }), [some("localhost")]);
}

/// The brackets belong to the URL: neither name resolution nor certificates know `[::1]`.
#[test]
fn an_ipv6_address_in_a_url_has_no_brackets_behind_it() {
    let url = Some(Secret::new("mysql://u:p@[::1]:3307/d?require_ssl=true"));
    let site = with(PLAIN, config::WordPress { database_url: url, ..explicit() }, &no_jwt()).unwrap();
    let options = first(&site);
    assert_eq!((options.ip_or_hostname(), options.tcp_port()), ("::1", 3307));
    assert_eq!(options.ssl_opts().unwrap().tls_hostname_override(), Some("::1"));
    assert_eq!(site.database_label, "u@[::1]:3307/d");
}

#[test]
fn what_files_hold_is_read_at_once_and_again() {
    let directory = tempfile::tempdir().unwrap();
    let files = pair(directory.path());
    let config = config::WordPress {
        database_tls: DatabaseTls::Verify,
        database_ca_file: Some(files.chain.clone()),
        database_client_certificate: Some(files.clone()),
        ..explicit()
    };
    let read = || one(PLAIN, config.clone()).unwrap();
    let before = read();
    assert!(before.client_identity().is_some() && before == read());
    // A byte order mark makes no difference; another certificate in a file of the same name does.
    for file in [&files.chain, &files.key] {
        let marked = format!("\u{feff}{}", fs::read_to_string(file).unwrap());
        fs::write(file, marked).unwrap();
    }
    assert!(before == read());
    pair(directory.path());
    assert!(before != read());
    // Both in one file.
    let both = [fs::read(&files.chain).unwrap(), fs::read(&files.key).unwrap()].concat();
    fs::write(&files.chain, both).unwrap();
    let one_file = CertificateFiles { chain: files.chain.clone(), key: files.chain.clone() };
    assert!(one(PLAIN, config::WordPress { database_client_certificate: Some(one_file), ..config.clone() }).is_some());
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let files = pair(directory.path());
    let put = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let der = x509_parser::pem::parse_x509_pem(&fs::read(&files.chain).unwrap()).unwrap().1.contents;
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let second = format!("{}{garbage}", fs::read_to_string(&files.chain).unwrap());
    let secret = b"-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n";
    let other = tempfile::tempdir().unwrap();
    let with_key = |key: PathBuf| CertificateFiles { chain: files.chain.clone(), key };
    let verify = || config::WordPress { database_tls: DatabaseTls::Verify, ..explicit() };
    let ca = |path: PathBuf| config::WordPress { database_ca_file: Some(path), ..verify() };
    let client = |files| config::WordPress { database_client_certificate: Some(files), ..verify() };
    for (config, expected) in [
        (ca(directory.path().join("absent")), "absent: cannot be read: No such file"),
        (ca(PathBuf::from("/dev/zero")), "/dev/zero: cannot be read: is larger than 4 MiB"),
        (ca(files.key.clone()), "a.key: has no certificate in PEM form in it"),
        (ca(put("empty", b"")), "empty: has no certificate in PEM form in it"),
        (ca(put("der", &der)), "der: is in DER form; make it PEM: openssl x509 -inform der"),
        (ca(put("second", second.as_bytes())), "second: certificate 2 of 2 cannot be used"),
        (client(with_key(pair(other.path()).key)), "a.key is not the key of the certificate in "),
        (client(with_key(files.chain.clone())), "a.pem: has no private key in PEM form in it"),
        (client(with_key(put("bad.key", secret))), "bad.key: "),
        (
            config::WordPress { database_tls: DatabaseTls::Off, ..ca(files.chain.clone()) },
            "contradicts wordpress.database_tls = \"off\"",
        ),
        (
            config::WordPress { database_tls: DatabaseTls::Auto, ..client(files.clone()) },
            "wordpress.database_client_certificate: has no use: connections to the database have no TLS",
        ),
    ] {
        let faults = of(PLAIN, config).unwrap_err();
        assert!(faults.len() == 1 && faults[0].contains(expected), "{expected:?}: {faults:?}");
        assert!(!faults[0].contains("hunter2"), "{faults:?}");
    }
}
