//! An `https` upstream: which certificates are trusted, which name is verified, and what the log
//! says if verification fails.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::admin;
use crate::readme::front::daemon;
use crate::support::mariadb::{Database, TokenState};
use crate::support::port::Port;
use crate::support::raw::{Connection, Upstream};
use crate::support::rig;
use crate::support::sidecar::{self, PATIENCE, Sidecar, wait_until};
use crate::support::tls::{Asked, Authority, Pair, TlsUpstream, openssl, self_signed};

fn to_tls_upstream(url: &str, arguments: &[&str]) -> Sidecar {
    let mut all = vec!["--upstream", url];
    all.extend_from_slice(arguments);
    Sidecar::start_with(&all, &[("WP_JWT_SIDECAR_REFRESH_MODE", "forward")])
}

#[test]
fn an_https_upstream_is_asked_by_its_name_for_the_clients_host() {
    let authority = Authority::new();
    let pair = authority.issue("upstream", &["localhost"]);
    // The upstream offers HTTP/2 as well, which must not be chosen.
    let upstream = TlsUpstream::start(&[("localhost", &pair)], &["h2", "http/1.1"]);
    let url = format!("https://localhost:{}", upstream.port);
    let sidecar = to_tls_upstream(&url, &["--upstream-ca-file", &authority.file()]);
    let mut client = Connection::to(sidecar.address());
    for _ in 0..2 {
        client.send("GET /x HTTP/1.1\r\nHost: Shop.Example\r\n\r\n");
        assert_eq!(client.response().body, b"ok");
    }
    let asked = upstream.asked();
    assert_eq!(asked.len(), 2);
    for Asked { name, protocol, head, .. } in asked {
        assert_eq!(protocol.as_deref(), Some(&b"http/1.1"[..]));
        assert_eq!(name.as_deref(), Some("localhost"));
        assert!(head.starts_with("GET /x HTTP/1.1\r\nHost: Shop.Example\r\n"), "{head}");
        assert!(head.contains("X-Forwarded-Proto: http\r\n"), "{head}");
    }
}

#[test]
fn an_upstream_without_a_trusted_certificate_is_a_502_with_a_reason() {
    let authority = Authority::new();
    let pair = authority.issue("upstream", &["localhost"]);
    let old = authority.issue_until("old", &["localhost"], 2020);
    let upstream = TlsUpstream::start(&[("localhost", &pair)], &[]);
    let expired = TlsUpstream::start(&[("localhost", &old)], &[]);
    let plain = Upstream::of_connections(|mut connection| {
        connection.send("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    });
    let own = authority.file();
    let other_authority = Authority::new();
    let other = other_authority.file();
    let localhost = format!("https://localhost:{}", upstream.port);
    let by_address = format!("https://127.0.0.1:{}", upstream.port);
    let expired = format!("https://localhost:{}", expired.port);
    let not_tls = format!("https://localhost:{}", plain.address().port());
    for (url, ca_file, reason, advice) in [
        (&localhost, Some(&other), "UnknownIssuer", "into upstream.ca_file"),
        (&by_address, Some(&own), "not valid for name", "set upstream.tls_name"),
        (&expired, Some(&own), "expired", "renew it"),
        (&not_tls, Some(&own), "corrupt message", "begins with http://"),
        // The system's authorities did not sign it.
        (&localhost, None, "UnknownIssuer", "into upstream.ca_file"),
    ] {
        let arguments = ca_file.map_or(Vec::new(), |file| vec!["--upstream-ca-file", file]);
        let sidecar = to_tls_upstream(url, &arguments);
        let mut client = Connection::to(sidecar.address());
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response().status(), 502, "{url}");
        let line = sidecar.wait_for_log("could not agree on TLS with the upstream");
        assert!(line.contains(reason) && line.contains(advice), "{line}");
    }
    assert!(upstream.asked().is_empty());
}

#[test]
fn a_ca_file_without_a_certificate_is_a_fault_at_the_start() {
    let authority = Authority::new();
    let pair = authority.issue("upstream", &["localhost"]);
    let output = sidecar::command()
        .args(["check", "--upstream", "https://localhost:1", "--refresh-mode", "forward", "--upstream-ca-file"])
        .arg(&pair.key)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{error}");
    assert!(error.contains("upstream.ca_file: ") && error.contains("has no certificate in PEM form"), "{error}");
}

/// Sends a request through a sidecar in front of `port`. The error is the status and the refusal's
/// text in the log.
fn through(port: u16, arguments: &[&str]) -> Result<(), String> {
    let url = format!("https://localhost:{port}");
    let sidecar = to_tls_upstream(&url, arguments);
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    match client.response().status() {
        200 => Ok(()),
        status => Err(format!("{status} {}", sidecar.wait_for_log("could not agree on TLS with the upstream"))),
    }
}

#[test]
fn a_certificate_in_the_ca_file_is_trusted_by_identity() {
    let directory = tempfile::TempDir::new().unwrap();
    let [own, other] = ["localhost", "other.example"].map(|name| self_signed(directory.path(), name));
    let upstream = TlsUpstream::start(&[("localhost", &own)], &[]);
    let misnamed = TlsUpstream::start(&[("localhost", &other)], &[]);
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    // One of several certificates in a file, with the byte-order mark that a Windows editor writes.
    let both = [&other, &own].map(|pair| format!("\u{feff}{}", std::fs::read_to_string(&pair.chain).unwrap()));
    std::fs::write(file("both.pem"), both.concat()).unwrap();
    for trusted in ["localhost.pem", "both.pem"] {
        through(upstream.port, &["--upstream-ca-file", &file(trusted)]).unwrap();
    }
    let refused = through(misnamed.port, &["--upstream-ca-file", &file("both.pem")]).unwrap_err();
    assert!(refused.starts_with("502 ") && refused.contains("only valid for commonName"), "{refused}");
    assert!(refused.contains("set upstream.tls_name to a name that the certificate has"), "{refused}");
    through(misnamed.port, &["--upstream-ca-file", &file("both.pem"), "--upstream-tls-name", "other.example"]).unwrap();
    assert_eq!(misnamed.asked().pop().unwrap().name.as_deref(), Some("other.example"));

    // A certificate with the same name but another key.
    std::fs::create_dir(file("else")).unwrap();
    self_signed(Path::new(&file("else")), "localhost");
    let refused = through(upstream.port, &["--upstream-ca-file", &file("else/localhost.pem")]).unwrap_err();
    assert!(refused.contains("upstream.ca_file"), "{refused}");
    assert_eq!(upstream.asked().len(), 2);

    // X.509 version 1, which webpki cannot read.
    let request = ["req", "-new", "-subj", "/CN=localhost", "-key", &file("localhost.key"), "-out", &file("csr")];
    openssl(&request);
    let sign = ["x509", "-req", "-days", "30", "-in", &file("csr"), "-signkey", &file("localhost.key")];
    openssl(&[&sign[..], &["-out", &file("v1.pem")]].concat());
    let port = Port::reserve();
    let accept = ["s_server", "-quiet", "-accept", &port.address().to_string()];
    let mut server = daemon("openssl");
    server.args(accept).args(["-cert", &file("v1.pem"), "-key", &file("localhost.key")]);
    let mut server = server.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    wait_until("openssl listens", || TcpStream::connect(port.address()).is_ok());
    let refused = through(port.number(), &["--upstream-ca-file", &file("v1.pem")]).unwrap_err();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(refused.contains("it is of X.509 version 1: make one of version 3"), "{refused}");

    let authority = Authority::new();
    let old = authority.issue_until("old", &["localhost"], 2020);
    let expired = TlsUpstream::start(&[("localhost", &old)], &[]);
    let refused = through(expired.port, &["--upstream-ca-file", old.chain.to_str().unwrap()]).unwrap_err();
    assert!(refused.contains("certificate expired") && refused.contains("renew it"), "{refused}");
}

#[test]
fn what_is_no_name_is_a_fault_and_what_has_no_use_is_said() {
    let check = |upstream: &str, name: &str| {
        let arguments = ["check", "--refresh-mode", "forward", "--upstream", upstream, "--upstream-tls-name", name];
        let output = sidecar::command().args(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        (output.status.code(), said)
    };
    for name in ["https://a", "a b", "-"] {
        let (code, said) = check("https://localhost:1", name);
        assert!(code == Some(78) && said.contains("no certificate can be valid for that"), "{name}: {said}");
    }
    let (code, said) = check("http://localhost:1", "shop.example");
    assert!(code == Some(0) && said.contains("upstream.tls_name has no use"), "{said}");
    let (code, said) = check("https://localhost:1", "host");
    assert!(
        code == Some(0)
            && said.contains("warning: upstream.tls_name: with refresh.mode")
            && said.contains("= \"host\""),
        "{said}"
    );
}

/// Like Apache from 2.4.64: each name is a virtual host of its own, and a connection whose
/// handshake named one of them gets no response for another.
fn strict(authority: &Authority, names: &[&str], answer: fn(&Asked) -> String) -> TlsUpstream {
    let pairs: Vec<Pair> = names.iter().map(|name| authority.issue(name, &[name])).collect();
    let pairs: Vec<(&str, &Pair)> = names.iter().copied().zip(&pairs).collect();
    TlsUpstream::answering(&pairs, &[], move |asked| match asked.name.as_deref() == Some(asked.host()) {
        true => answer(asked),
        false => "HTTP/1.1 421 Misdirected Request\r\nContent-Length: 0\r\n\r\n".into(),
    })
}

#[test]
fn each_host_of_the_site_is_asked_for_by_its_own_name_on_connections_of_its_own() {
    let authority = Authority::new();
    let names = ["localhost", "a.example", "b.example"];
    let upstream = strict(&authority, &names, |_| "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into());
    let url = format!("https://localhost:{}", upstream.port);
    let arguments = ["--upstream-ca-file", &authority.file(), "--upstream-tls-name", "host", "--server-workers", "1"];
    let hosts = ["--wordpress-hosts", "a.example", "--wordpress-hosts", "b.example"];
    let sidecar = to_tls_upstream(&url, &[&arguments[..], &hosts].concat());
    let mut client = Connection::to(sidecar.address());
    for (host, status) in [
        ("a.example", 200),
        ("b.example", 200),
        ("a.example", 200),
        ("b.example", 200),
        // This is not one of the site's names: the default name is used, and the response is the
        // upstream's.
        ("c.example", 421),
        ("a.example", 200),
    ] {
        client.send(format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.response().status(), status, "{host}");
    }
    let asked = upstream.asked();
    let by = |host: &str| -> Vec<(usize, &str)> {
        let of_host = asked.iter().filter(|asked| asked.host() == host);
        of_host.map(|asked| (asked.connection, asked.name.as_deref().unwrap())).collect()
    };
    assert_eq!(by("a.example"), [(0, "a.example"); 3]);
    assert_eq!(by("b.example"), [(1, "b.example"); 2]);
    assert_eq!(by("c.example"), [(2, "localhost")]);
}

#[tokio::test]
async fn the_sidecars_own_questions_go_by_the_name_of_the_home_url() {
    let authority = Authority::new();
    // The certificate does not cover the address in the URL.
    let upstream = strict(&authority, &["shop.example"], |asked| {
        let body = json!({"home": rig::HOME, "namespaces": ["jwt-auth/v1"], "asked": asked.head}).to_string();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let database = rig::site(Database::shared()).await;
    let user = database.insert_user("alice").await;
    let token = database.insert_token(TokenState::Live, user.id).await;
    let url = format!("https://127.0.0.1:{}", upstream.port);
    let environment = [
        ("WP_JWT_SIDECAR_UPSTREAM_URL", url.as_str()),
        ("WP_JWT_SIDECAR_UPSTREAM_CA_FILE", &authority.file()),
        ("WP_JWT_SIDECAR_UPSTREAM_TLS_NAME", "host"),
        ("WP_JWT_SIDECAR_ADMIN_LISTEN", "127.0.0.1:0"),
    ];
    let sidecar = rig::sidecar(&database, ([127, 0, 0, 1], upstream.port).into(), &environment);
    sidecar.wait_for_log("refreshing natively");
    assert_eq!(rig::refresh_at(sidecar.address(), &token.refresh_token).status(), 200);
    admin::readiness(admin::admin(&sidecar), 200);
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    assert!(!sidecar.log().iter().any(|line| line.contains("the upstream cannot be reached")));
    assert!(upstream.asked().iter().all(|asked| asked.name.as_deref() == Some("shop.example")));
}

/// A directory for Apache, which is ended when this is dropped.
struct Apache(Child, Port, #[expect(dead_code, reason = "kept for its drop")] Authority);

impl Drop for Apache {
    fn drop(&mut self) {
        // TERM ends its children as well; KILL would leave them.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Debian's Apache, with a virtual host and a certificate for each name.
fn apache(authority: Authority, names: &[&str]) -> Apache {
    let port = Port::reserve();
    let modules = ["authz_core", "mpm_event", "socache_shmcb", "ssl"];
    let load = |module: &str| format!("LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so\n");
    let site = |name: &&str| {
        let Pair { chain, key } = authority.issue(name, &[name]);
        format!(
            "<VirtualHost *:{}>\nServerName {name}\nSSLEngine on\nSSLCertificateFile {}\nSSLCertificateKeyFile {}\n\
             Redirect 204 /\n</VirtualHost>\n",
            port.number(),
            chain.display(),
            key.display()
        )
    };
    let here = authority.directory.path().display().to_string();
    let text = format!(
        "ServerRoot {here}\nDefaultRuntimeDir {here}\nPidFile {here}/apache.pid\nErrorLog {here}/error.log\n{}{}\
         User www-data\nGroup www-data\nServerName localhost\nMutex file:{here} default\nListen {}\n{}",
        modules.map(load).concat(),
        load("alias"),
        port.address(),
        names.iter().map(site).collect::<String>()
    );
    let file = format!("{here}/apache.conf");
    std::fs::write(&file, text).unwrap();
    let child = daemon("/usr/sbin/apache2").args(["-D", "FOREGROUND", "-f", &file]).spawn().unwrap();
    let apache = Apache(child, port, authority);
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(apache.1.address()).is_err() {
        let log = std::fs::read_to_string(format!("{here}/error.log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "{log}");
        std::thread::sleep(Duration::from_millis(10));
    }
    apache
}

#[test]
fn apache_answers_by_the_name_of_the_host_and_421_by_another() {
    let authority = Authority::new();
    let ca_file = authority.file();
    let apache = apache(authority, &["localhost", "shop.example"]);
    let url = format!("https://localhost:{}", apache.1.number());
    let status = |arguments: &[&str]| {
        let always = ["--upstream-ca-file", &ca_file, "--wordpress-hosts", "shop.example"];
        let sidecar = to_tls_upstream(&url, &[&always, arguments].concat());
        let mut client = Connection::to(sidecar.address());
        client.send("GET /x HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        client.response().status()
    };
    assert_eq!(status(&[]), 421);
    assert_eq!(status(&["--upstream-tls-name", "host"]), 204);
    assert_eq!(status(&["--upstream-tls-name", "shop.example"]), 204);
}
