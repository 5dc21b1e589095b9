//! A web server as the README sets it up: the real one, public with TLS, the site behind it for the
//! sidecar only.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::block;
use crate::support::port::Port;
use crate::support::rig::ROUTE;
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::site::Site;
use crate::support::tls::Authority;

/// Whom the site sees, by the address that it is the client of.
const CLIENT: &str = "127.0.0.2";

/// The site that the README's examples are about, in front of it the sidecar as the README
/// configures it.
pub struct Front {
    pub site: Site,
    pub sidecar: Sidecar,
    /// Where the public server's port 443 is here.
    public: Port,
    /// Where port 8081 is here.
    inner: Port,
    authority: Authority,
    /// For the web server's files.
    pub directory: TempDir,
    server: Option<Child>,
}

/// An answer, as curl shows it.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn location(&self) -> Option<&str> {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with("location:"))?;
        line.split_once(':').map(|(_, value)| value.trim())
    }

    /// A success of the sidecar's own.
    fn is_native(&self) -> bool {
        self.status == 200 && self.head.to_ascii_lowercase().contains("cache-control: no-store")
    }
}

impl Front {
    /// The site and the sidecar; the web server is the caller's to start.
    pub fn new() -> Front {
        let site = Site::up(&["--home", "https://example.com"]);
        let who =
            r#"<?php echo json_encode( [ $_SERVER['REMOTE_ADDR'], $_SERVER['HTTPS'] ?? '', $_SERVER['HTTP_HOST'] ] );"#;
        std::fs::write(Path::new(site.said("ROOT")).join("who.php"), who).unwrap();
        let directory = TempDir::new().unwrap();
        let (public, inner) = (Port::reserve(), Port::reserve());
        let config = directory.path().join("config.toml");
        let text = block("config")
            .replace("127.0.0.1:8081", &inner.address().to_string())
            .replace("/var/www/html/wp-config.php", site.said("WP_CONFIG"));
        std::fs::write(&config, text).unwrap();
        let sidecar = Sidecar::start(&["--config", config.to_str().unwrap()]);
        let authority = Authority::new();
        authority.issue("example.com", &["example.com"]);
        Front { site, sidecar, public, inner, authority, directory, server: None }
    }

    /// A snippet with the ports and paths that hold here. What else it says stays as it is.
    pub fn here(&self, snippet: &str) -> String {
        let certificates = self.authority.directory.path().display().to_string();
        let replaced = [
            ("listen 443 ssl", format!("listen {} ssl", self.public.address())),
            ("<VirtualHost *:443>", format!("<VirtualHost *:{}>", self.public.number())),
            ("127.0.0.1:8080", self.sidecar.address().to_string()),
            ("127.0.0.1:8081", self.inner.address().to_string()),
            ("/etc/ssl", certificates),
            ("/var/www/html", self.site.said("ROOT").to_owned()),
            ("/run/php/php-fpm.sock", self.site.said("PHP_SOCKET").to_owned()),
        ];
        replaced.iter().fold(snippet.to_owned(), |text, (from, to)| text.replace(from, to))
    }

    /// Where the public server listens.
    pub fn public(&self) -> u16 {
        self.public.number()
    }

    /// Starts a web server, and waits until it listens and the sidecar has found WordPress behind
    /// it.
    pub fn start(&mut self, command: &mut Command) {
        let log = std::fs::File::create(self.log()).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let server = self.server.insert(child);
        let deadline = Instant::now() + PATIENCE;
        for port in [&self.public, &self.inner] {
            while TcpStream::connect(port.address()).is_err() {
                let ended = server.try_wait().unwrap();
                assert!(ended.is_none() && Instant::now() < deadline, "{}", log_of(self.directory.path()));
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        self.sidecar.wait_for_log("refreshing natively");
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }

    /// A request from [`CLIENT`] to https://example.com, with further arguments for curl.
    pub fn request(&self, path: &str, arguments: &[&str]) -> Answer {
        let output = Command::new("curl")
            .args([
                "-sS",
                "-i",
                "--http1.1",
                "--max-time",
                "60",
                "--interface",
                CLIENT,
                "--cacert",
                &self.authority.file(),
            ])
            .args(["--connect-to", &format!("example.com:443:{}", self.public.address())])
            .args(arguments)
            .arg(format!("https://example.com{path}"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some((head, body)) = said.split_once("\r\n\r\n") else {
            panic!("{}\n{}", String::from_utf8_lossy(&output.stderr), log_of(self.directory.path()))
        };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.request(path, &["-H", "Content-Type: application/json", "--data-binary", &body.to_string()])
    }

    /// A login, a refresh that must be native, and a look at who that is.
    pub fn assert_goes_round(&self) {
        let login = json!({"username": self.site.said("USER"), "password": self.site.said("USER_PASSWORD")});
        let mut answer = self.post("/wp-json/jwt-auth/v1/token", &login);
        assert_eq!(answer.status, 200, "{answer:?}");
        // Until WordPress has confirmed the home URL by https, refreshes are forwarded.
        let deadline = Instant::now() + PATIENCE;
        while !answer.is_native() {
            assert!(answer.status == 200 && Instant::now() < deadline, "{answer:?}");
            answer = self.post(ROUTE, &json!({"refresh_token": answer.json()["refresh_token"]}));
        }
        let bearer = format!("Authorization: Bearer {}", answer.json()["access_token"].as_str().unwrap());
        let me = self.request("/wp-json/wp/v2/users/me", &["-H", &bearer]);
        assert_eq!((me.status, me.json()["name"].as_str()), (200, Some("Ada Lovelace")), "{me:?}");
    }

    /// The site is what it was: its address, its clients' addresses and its folders show nothing of
    /// the sidecar.
    pub fn assert_nothing_shows(&self) {
        let page = self.request("/", &[]);
        assert!(page.status == 200 && page.body.contains("Sidecar test site"), "{page:?}");
        let index = self.request("/wp-json/", &[]);
        assert_eq!((index.status, index.json()["url"].as_str()), (200, Some("https://example.com")), "{index:?}");
        for claimed in ["X-Nothing: ", "X-Forwarded-For: 203.0.113.9", "X-Real-IP: 203.0.113.9"] {
            let who = self.request("/who.php", &["-H", claimed]);
            assert_eq!(who.json(), json!([CLIENT, "on", "example.com"]), "{claimed}: {who:?}");
        }
        let folder = self.request("/wp-admin", &[]);
        assert_eq!(folder.status, 301, "{folder:?}");
        assert!(matches!(folder.location(), Some("/wp-admin/" | "https://example.com/wp-admin/")), "{folder:?}");
        // An encoded slash, and what a proxy could decode and encode otherwise, reach WordPress as
        // they are.
        let missing = self.request("/a%2Fb/c%20d%C3%A9?x=%2F", &[]);
        assert_eq!(missing.status, 404, "{missing:?}");
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            // Its children go with it in order; KILL would leave them.
            let _ = Command::new("kill").arg(server.id().to_string()).status();
            let _ = server.wait();
        }
    }
}

/// What a web server said, wherever it said it.
fn log_of(directory: &Path) -> String {
    let logs = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .map(|path| std::fs::read_to_string(path).unwrap_or_default())
        .collect()
}

/// A daemon that ends with the tests, even if they are killed.
pub fn daemon(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--", program]);
    command
}
