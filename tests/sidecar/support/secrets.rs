//! Every secret that the tests use, and every line that the tests' sidecars wrote: no line may
//! contain a secret.
//!
//! Both are kept in files: in the directory that `tests/run` names, which searches them at its end,
//! or otherwise in unnamed files, so that two simultaneous runs do not interfere.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{LazyLock, Mutex};

/// Shorter secrets occur in many harmless lines.
const SHORTEST: usize = 12;

struct Kept {
    secrets: Mutex<File>,
    logs: Mutex<File>,
    planted: Mutex<File>,
}

static KEPT: LazyLock<Kept> = LazyLock::new(|| {
    let of_the_run = std::env::var_os("SIDECAR_TESTS_KEPT").map(PathBuf::from);
    let open = |name: &str| {
        Mutex::new(match &of_the_run {
            Some(directory) => OpenOptions::new().create(true).append(true).open(directory.join(name)).unwrap(),
            None => tempfile::tempfile().unwrap(),
        })
    };
    Kept { secrets: open("secrets"), logs: open("logs"), planted: open("planted") }
});

fn append(file: &Mutex<File>, text: &str) {
    // An empty line would match every line.
    let lines: String = text.lines().filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect();
    file.lock().unwrap().write_all(lines.as_bytes()).unwrap();
}

/// From now on this must not occur in any log.
pub fn register(secret: &str) {
    if secret.len() >= SHORTEST {
        append(&KEPT.secrets, secret);
    }
}

/// Registers the tokens in a response's body, by WordPress or by the sidecar.
pub fn register_tokens(body: &[u8]) {
    let Ok(serde_json::Value::Object(body)) = serde_json::from_slice(body) else { return };
    for name in ["token", "access_token", "refresh_token"] {
        if let Some(token) = body.get(name).and_then(|token| token.as_str()) {
            register(token);
        }
    }
}

/// The keys, salts and passwords of a `wp-config.php`.
pub fn register_wp_config(text: &str) {
    for line in text.lines() {
        let parts: Vec<&str> = line.split('\'').collect();
        if let [_, name, _, value, ..] = &parts[..]
            && ["KEY", "SALT", "PASSWORD"].iter().any(|kind| name.contains(kind))
        {
            register(value);
        }
    }
}

/// A secret that will occur in a log, for the search to find.
pub fn plant(secret: &str) {
    append(&KEPT.planted, secret);
    register(secret);
}

/// Output of a sidecar: a line of its log, its metrics, a page.
pub fn keep(text: &str) {
    append(&KEPT.logs, text);
}

/// The lines that contain a secret.
pub fn lines_with_secrets() -> Vec<String> {
    let path = |file: &Mutex<File>| format!("/proc/{}/fd/{}", std::process::id(), file.lock().unwrap().as_raw_fd());
    let (secrets, logs) = (path(&KEPT.secrets), path(&KEPT.logs));
    let output =
        Command::new("grep").env("LC_ALL", "C").args(["-a", "-F", "-f"]).arg(secrets).arg(logs).output().unwrap();
    // 0: found, 1: not found.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}
