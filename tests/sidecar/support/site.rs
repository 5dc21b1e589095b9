//! A real WordPress site for the tests: `tests/site/up` with Debian's MariaDB, PHP-FPM, nginx and
//! WordPress and a stand-in for the plugin. The script holds the other end of a pipe, so that the
//! site ends with the test binary.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};

use super::mariadb::{Database, TestDatabase, random_hex};
use super::raw::Connection;
use super::secrets;
use super::sidecar::PATIENCE;

/// A site. On drop it is taken down and its files are removed.
pub struct Site {
    said: HashMap<String, String>,
    child: Child,
    input: Option<ChildStdin>,
}

/// The keys that sign and hash the site's access tokens, as PHP computes them.
#[derive(Clone)]
pub struct Keys {
    /// `JWT_AUTH_SECRET_KEY`.
    pub signing: String,
    /// `wp_salt( 'auth' )`.
    pub auth_salt: String,
}

impl Keys {
    /// WordPress's `wp_hash()`.
    pub fn wp_hash(&self, text: &str) -> String {
        let mut mac = Hmac::<md5::Md5>::new_from_slice(self.auth_salt.as_bytes()).unwrap();
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The access token that the plugin makes without any customization, with the algorithm HS256.
    pub fn unfiltered_access_token(&self, home: &str, user_id: &str, issued_at: i64, expires_at: i64) -> String {
        let claims = format!(
            r#"{{"iss":"{home}","iat":{issued_at},"nbf":{issued_at},"exp":{expires_at},"data":{{"user":{{"id":"{user_id}"}}}}}}"#
        );
        let input = [r#"{"typ":"JWT","alg":"HS256"}"#, &claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(self.signing.as_bytes()).unwrap();
        mac.update(input.as_bytes());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }
}

impl Site {
    /// A site for the caller alone, with arguments for `tests/site/up`. Takes some seconds, and
    /// blocks.
    pub fn up(arguments: &[&str]) -> Site {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/site/up"));
        // The tests' own database may be MySQL.
        if std::env::var_os("SIDECAR_TESTS_MYSQL").is_none() {
            command.arg("--template").arg(Database::shared().template());
        }
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/site/up can be started");
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        let mut site = Site { said: HashMap::new(), child, input };
        for line in BufReader::new(output).lines() {
            let line = line.unwrap();
            if line == "READY" {
                secrets::register_wp_config(&std::fs::read_to_string(site.wp_config()).unwrap());
                return site;
            }
            let (key, value) = line.split_once('=').expect("KEY=VALUE");
            if key.contains("PASSWORD") {
                secrets::register(value);
            }
            site.said.insert(key.to_owned(), value.to_owned());
        }
        panic!("tests/site/up says above why it could not bring up the site");
    }

    /// The value that `tests/site/up` printed under this name, without the prefix `SITE_`.
    pub fn said(&self, name: &str) -> &str {
        self.said.get(&format!("SITE_{name}")).unwrap_or_else(|| panic!("tests/site/up says no SITE_{name}"))
    }

    /// The home URL, without a trailing slash.
    pub fn home(&self) -> &str {
        self.said("HOME")
    }

    /// nginx's address.
    pub fn upstream(&self) -> SocketAddr {
        self.said("UPSTREAM").strip_prefix("http://").unwrap().parse().unwrap()
    }

    /// The value of `Host` for the site: the home URL's host and port.
    pub fn host(&self) -> &str {
        let (_, rest) = self.home().split_once("://").unwrap();
        rest.split('/').next().unwrap()
    }

    /// The requests that have reached nginx, as `METHOD TARGET`: those that the sidecar answers
    /// itself are not included.
    pub fn requests(&self) -> Vec<String> {
        // nginx logs requests in the order in which they end: once this one is there, all earlier
        // ones are.
        let marker = format!("GET /wp-content/themes/plain/style.css?{}", random_hex::<8>());
        let mut client = Connection::to(self.upstream());
        client.send(format!("{marker} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host()));
        client.response();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = std::fs::read_to_string(Path::new(self.said("LOGS")).join("nginx-access.log")).unwrap();
            if let Some((before, _)) = log.split_once(&marker) {
                return before.lines().map(str::to_owned).collect();
            }
            assert!(Instant::now() < deadline, "nginx did not note {marker}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The site's `wp-config.php`.
    pub fn wp_config(&self) -> &Path {
        Path::new(self.said("WP_CONFIG"))
    }

    /// The site's database.
    pub fn database(&self) -> TestDatabase {
        let url = format!(
            "mysql://{}:{}@localhost/{}?socket={}",
            self.said("DB_USER"),
            self.said("DB_PASSWORD"),
            self.said("DB_NAME"),
            self.said("DB_SOCKET").replace('/', "%2F")
        );
        TestDatabase::open(&url, "wp_")
    }

    /// Runs PHP code within WordPress and returns its output. Blocks.
    pub fn php(&self, code: &str) -> String {
        let output = Command::new(self.said("PHP")).arg(code).stdin(Stdio::null()).output().unwrap();
        assert!(
            output.status.success(),
            "PHP failed with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// The keys, as in the site's PHP.
    pub fn keys(&self) -> Keys {
        let printed = self.php("echo JWT_AUTH_SECRET_KEY, \"\\n\", wp_salt( 'auth' );");
        let (signing, auth_salt) = printed.split_once('\n').unwrap();
        Keys { signing: signing.to_owned(), auth_salt: auth_salt.to_owned() }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.input.take());
        // A failure cannot be handled here; the script has reported it on standard error.
        let _ = self.child.wait();
    }
}
