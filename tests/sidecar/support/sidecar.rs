//! The sidecar under test: the real binary, on a free port, ended with the test.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::{mariadb, rig, secrets};

/// How long an operation may take that should take milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The sidecar writes its log in one piece a hundred times a second, and a busy machine may be
/// late.
const LOG_REST: Duration = Duration::from_millis(50);

/// Waits until `holds` returns `true`; blocks, unlike [`rig::eventually`].
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A running sidecar. On drop it is killed, and the test fails if its log contains a secret, or a
/// line that is not JSON.
pub struct Sidecar {
    child: Child,
    log: Arc<Log>,
    address: SocketAddr,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    ended: AtomicBool,
    changed: Condvar,
}

impl Sidecar {
    /// Starts `serve` on a free port with `arguments`, and waits until it listens.
    pub fn start(arguments: &[&str]) -> Sidecar {
        Sidecar::start_with(arguments, &[])
    }

    /// Like [`Sidecar::start`], with environment variables.
    pub fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Sidecar {
        for (name, value) in environment {
            if ["SECRET", "PASSWORD", "AUTH_KEY", "AUTH_SALT"].iter().any(|kind| name.contains(kind)) {
                secrets::register(value);
            }
        }
        let mut command = command();
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]).args(arguments);
        // Many sidecars run at once, and the default is a single port.
        command.env("WP_JWT_SIDECAR_ADMIN_LISTEN", "off").envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Sidecar::start_command(&mut command)
    }

    /// Starts a complete command that serves and logs as JSON, and waits until it listens. Standard
    /// input and output are left to the caller.
    pub fn start_command(command: &mut Command) -> Sidecar {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the sidecar starts");
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().expect("a pipe");
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    secrets::keep(&line);
                    log.lines.lock().unwrap().push(line);
                    log.changed.notify_all();
                }
                log.ended.store(true, Ordering::SeqCst);
                log.changed.notify_all();
            }
        });
        let mut sidecar = Sidecar { child, log, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let line = sidecar.wait_for_log("\"listening\"");
        sidecar.address = listens_on(&line);
        sidecar
    }

    /// A sidecar that only forwards, to `upstream`: its database is a socket without a listener.
    pub fn forwarding(upstream: SocketAddr) -> Sidecar {
        Sidecar::forwarding_with(upstream, &[])
    }

    /// Like [`Sidecar::forwarding`], with more arguments.
    pub fn forwarding_with(upstream: SocketAddr, arguments: &[&str]) -> Sidecar {
        let upstream = format!("http://{upstream}");
        let mut all = vec!["--upstream", &upstream];
        all.extend_from_slice(arguments);
        Sidecar::start_with(
            &all,
            &[
                ("WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL", "mysql://nobody:nothing@127.0.0.1:1/none"),
                ("WP_JWT_SIDECAR_WORDPRESS_AUTH_KEY", "k"),
                ("WP_JWT_SIDECAR_WORDPRESS_AUTH_SALT", "s"),
                ("WP_JWT_SIDECAR_JWT_SECRET", "not-a-secret-not-a-secret-not-a-secret"),
                ("WP_JWT_SIDECAR_REFRESH_MODE", "forward"),
            ],
        )
    }

    /// A sidecar in front of `upstream` with a site's `wp-config.php`, once it refreshes natively.
    pub fn of_site(upstream: SocketAddr, wp_config: &Path, arguments: &[&str]) -> Sidecar {
        let upstream = format!("http://{upstream}");
        let wp_config = wp_config.to_str().expect("a UTF-8 path");
        let mut all = vec!["--upstream", &upstream, "--wp-config", wp_config];
        all.extend_from_slice(arguments);
        let sidecar = Sidecar::start(&all);
        sidecar.wait_for_log("refreshing natively");
        sidecar
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first log line with `text`; waits for it.
    pub fn wait_for_log(&self, text: &str) -> String {
        self.wait_for_log_after(0, text)
    }

    /// The first log line with `text` after the first `skip` lines; waits for it.
    pub fn wait_for_log_after(&self, skip: usize, text: &str) -> String {
        // Some tests wait for whole sites and databases, and for a map that is filled once a
        // minute.
        let deadline = Instant::now() + 6 * PATIENCE;
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().skip(skip).find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.log.ended.load(Ordering::SeqCst) {
                drop(lines);
                panic!("no log line with {text:?} in:\n{}", self.log().join("\n"));
            }
            lines = self.log.changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// All log lines so far.
    pub fn log(&self) -> Vec<String> {
        // The last lines are written within this time.
        std::thread::sleep(LOG_REST);
        self.log.lines.lock().unwrap().clone()
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let killed = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(killed.expect("kill runs").success());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "the sidecar does not end:\n{}", self.log().join("\n"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // Its last lines are searched for secrets, too.
        std::thread::sleep(LOG_REST);
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of the sidecar:\n{}", self.log().join("\n"));
            return;
        }
        let mut lines = self.log.lines.lock().unwrap();
        while !self.log.ended.load(Ordering::SeqCst) {
            lines = self.log.changed.wait_timeout(lines, PATIENCE).unwrap().0;
        }
        let broken = lines.iter().enumerate().find(|(at, line)| {
            // The last line of a killed sidecar may be incomplete; an error at the end of the
            // program is written as text.
            let is_excused = at + 1 == lines.len() && !line.ends_with('}') || line.starts_with("wp-jwt-sidecar: ");
            !is_excused && !matches!(serde_json::from_str(line), Ok(serde_json::Value::Object(_)))
        });
        assert!(broken.is_none(), "a line of the log is no JSON object: {broken:?}");
        let leaking: Vec<&String> = lines.iter().filter(|line| tells_a_secret(line)).collect();
        assert!(leaking.is_empty(), "secrets in the log of a sidecar: {leaking:#?}");
    }
}

/// The address in a listener's log line.
pub fn listens_on(line: &str) -> SocketAddr {
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let address = line.pointer("/address").and_then(|address| address.as_str()).expect("an address");
    address.parse().expect("an address")
}

/// Whether a text contains a token, a key, a salt or a password. Refresh tokens and all secrets of
/// [`super::site::Site`] are 32 hex digits or more, unlike everything else in a log; JWTs begin
/// with `{"`; the others are those of rigs and databases.
pub fn tells_a_secret(text: &str) -> bool {
    let hex = text.split(|letter: char| !letter.is_ascii_hexdigit()).any(|run| run.len() >= 32);
    let known = [rig::SECRET, rig::AUTH_KEY, rig::AUTH_SALT, mariadb::PASSWORD, mariadb::PASSWORD_IN_URL];
    hex || text.contains("eyJ") || known.iter().any(|secret| text.contains(secret))
}

/// The binary, without this machine's configuration. `tests/cluster --bench` names one that is built
/// for speed.
pub fn command() -> Command {
    let program = std::env::var("SIDECAR_TESTS_PROGRAM");
    let mut command = Command::new(program.as_deref().unwrap_or(env!("CARGO_BIN_EXE_wp-jwt-sidecar")));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WP_JWT_SIDECAR_") {
            command.env_remove(name);
        }
    }
    // Most tests are about native refreshes from the first call on; those of the verification set
    // its flag.
    command.env("WP_JWT_SIDECAR_REFRESH_VERIFY", "off");
    command
}
