//! Faults of the real nginx behind the sidecar: what it cuts, limits, adds and does not pass on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::faults::QUICKLY;
use super::{Report, lines, text};
use crate::readme::front::daemon;
use crate::support::port::Port;
use crate::support::raw::Connection;
use crate::support::sidecar::PATIENCE;
use crate::support::site::Site;

/// The nginx of a site and its original configuration.
struct Nginx<'a> {
    site: &'a Site,
    file: PathBuf,
    configuration: String,
}

impl<'a> Nginx<'a> {
    fn of(site: &'a Site) -> Nginx<'a> {
        let file = Path::new(site.said("LOGS")).parent().unwrap().join("conf/nginx.conf");
        let configuration = fs::read_to_string(&file).unwrap();
        Nginx { site, file, configuration }
    }

    /// Replaces each `what`, reloads nginx, and waits until no earlier worker responds.
    fn change(&self, generation: u32, changes: &[(&str, &str)]) {
        let mut changed = self.configuration.clone();
        for (what, with) in changes {
            assert!(changed.contains(what), "{what}");
            changed = changed.replace(what, with);
        }
        // Recognised by a response that is not WordPress's.
        let probe = format!("location = /generation {{ return 200 \"{generation} \"; }}\n\t\tlocation / {{");
        fs::write(&self.file, changed.replace("location / {", &probe)).unwrap();
        let pid = fs::read_to_string(self.file.parent().unwrap().with_file_name("run/nginx.pid")).unwrap();
        assert!(Command::new("kill").args(["-HUP", pid.trim()]).status().unwrap().success());
        let deadline = Instant::now() + PATIENCE;
        let mut in_a_row = 0;
        while in_a_row < 5 {
            assert!(Instant::now() < deadline, "nginx does not take its configuration");
            let mut client = Connection::to(self.site.upstream());
            client.send("GET /generation HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            let is_new = client.response().body.starts_with(format!("{generation} ").as_bytes());
            in_a_row = if is_new { in_a_row + 1 } else { 0 };
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[test]
fn what_the_web_server_does_wrong_is_named() {
    let site = Site::up(&[]);
    let nginx = Nginx::of(&site);

    nginx.change(
        1,
        &[
            ("client_max_body_size 64m;", "client_max_body_size 1k; keepalive_timeout 1s;"),
            ("real_ip_header X-Forwarded-For;", "real_ip_header X-Nothing;"),
            ("server_tokens off;", "server_tokens off; add_header Strict-Transport-Security max-age=1 always;"),
        ],
    );
    let report = Report::of(&site, &[], &[]);
    let limit = report.the("problem", "upstream.body_limit");
    assert!(text(&limit["what"]).contains("16 KiB"), "{limit}");
    assert!(text(&limit["fix"]).contains("client_max_body_size"), "{limit}");
    let keep_alive = report.the("warning", "upstream.keepalive");
    assert!(text(&keep_alive["what"]).contains("closes idle connections after 1."), "{keep_alive}");
    assert_eq!(lines(keep_alive)[0], "[upstream]");
    let client = report.the("warning", "client_address.seen");
    assert!(text(&client["what"]).contains("web server uses 127.0.0.1 instead"), "{client}");
    assert!(lines(client).iter().any(|line| line == "real_ip_header X-Forwarded-For;"), "{client}");
    let answers = report.the("warning", "parity.answers");
    assert_eq!(lines(answers), ["strict-transport-security: max-age=1 — only from WordPress (all 8)"]);

    nginx.change(
        2,
        &[
            ("client_max_body_size 64m;", "client_max_body_size 1m; keepalive_timeout 0;"),
            ("real_ip_header X-Forwarded-For;", "real_ip_header X-Nothing;"),
            (
                "fastcgi_param REDIRECT_STATUS 200;",
                "fastcgi_param REDIRECT_STATUS 200; fastcgi_param HTTP_X_FORWARDED_FOR \"\"; fastcgi_param HTTP_AUTHORIZATION \"\";",
            ),
        ],
    );
    let report = Report::of(&site, &[], &[]);
    let limit = report.the("warning", "upstream.body_limit");
    assert!(text(&limit["what"]).contains("requests of 1 MiB"), "{limit}");
    let keep_alive = report.the("warning", "upstream.keepalive");
    assert!(text(&keep_alive["what"]).contains("after one answer"), "{keep_alive}");
    let client = report.the("problem", "client_address.seen");
    assert!(text(&client["what"]).contains("WordPress took 127.0.0.1 as the client"), "{client}");
    report.the("ok", "parity.answers");
    let authorization = report.the("problem", "upstream.authorization");
    assert!(text(&authorization["what"]).contains("never reaches PHP"), "{authorization}");
    assert!(
        lines(authorization).iter().any(|line| line.starts_with("fastcgi_param HTTP_AUTHORIZATION ")),
        "{authorization}"
    );

    apache_that_keeps_authorization_to_itself(&site);
}

/// Like mod_proxy_fcgi by default.
fn apache_that_keeps_authorization_to_itself(site: &Site) {
    let here = tempfile::tempdir().unwrap();
    let modules = ["authz_core", "dir", "mime", "mpm_event", "proxy", "proxy_fcgi", "unixd"];
    let loaded: String = modules
        .iter()
        // Some are built in.
        .filter(|module| Path::new(&format!("/usr/lib/apache2/modules/mod_{module}.so")).exists())
        .map(|module| format!("LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so\n"))
        .collect();
    for (more, level) in [("", "problem"), ("CGIPassAuth On", "ok")] {
        let port = Port::reserve();
        let directory = here.path().display();
        let configuration = format!(
            "ServerRoot {directory}\nDefaultRuntimeDir {directory}\nPidFile {directory}/apache.pid\nErrorLog {directory}/error.log\n\
             {loaded}User www-data\nGroup www-data\nServerName localhost\nMutex file:{directory} default\nListen {}\n\
             TypesConfig /etc/mime.types\nDocumentRoot {root}\n<Directory {root}>\nRequire all granted\n\
             FallbackResource /index.php\n{more}\n</Directory>\n\
             <FilesMatch \"\\.php$\">\nSetHandler \"proxy:unix:{}|fcgi://localhost\"\n</FilesMatch>\n",
            port.address(),
            site.said("PHP_SOCKET"),
            root = site.said("ROOT"),
        );
        let file = here.path().join("apache.conf");
        fs::write(&file, configuration).unwrap();
        let mut apache =
            daemon("/usr/sbin/apache2").args(["-D", "FOREGROUND", "-f", file.to_str().unwrap()]).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(port.address()).is_err() {
            let ended = apache.try_wait().unwrap();
            let log = fs::read_to_string(here.path().join("error.log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "{log}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let upstream = format!("http://{}", port.address());
        let arguments = [QUICKLY.as_slice(), &["--no-php"]].concat();
        let report = Report::of_config(site.wp_config(), &upstream, &arguments, &[]);
        // On TERM its children end with it; KILL would leave them.
        assert!(Command::new("kill").arg(apache.id().to_string()).status().unwrap().success());
        apache.wait().unwrap();
        let authorization = report.the(level, "upstream.authorization");
        let hint = lines(authorization).iter().any(|line| line == "CGIPassAuth On");
        assert_eq!(hint, level == "problem", "{authorization}");
    }
}
