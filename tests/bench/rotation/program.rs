//! The sidecar as it runs on a site: its log goes to a file, like a web server's, so no reader is
//! woken for every line.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::sidecar::{command, listens_on};

/// How long a start may take.
const START: Duration = Duration::from_secs(20);

/// A running sidecar, killed on drop.
pub struct Program {
    child: Child,
    directory: TempDir,
    address: SocketAddr,
}

impl Program {
    /// A sidecar in front of `upstream` with a site's `wp-config.php`, once it refreshes natively.
    pub fn of_site(upstream: SocketAddr, wp_config: &Path, arguments: &[&str]) -> Program {
        let directory = TempDir::new().unwrap();
        let child = command()
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off", "--log-format", "json"])
            .arg(format!("--upstream=http://{upstream}"))
            .arg("--wp-config")
            .arg(wp_config)
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(File::create(directory.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut program = Program { child, directory, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        program.address = listens_on(&program.wait_for("\"listening\"", START));
        // Or once it is ready to, after verification.
        program.wait_for("natively", START);
        program
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The first log line with `text`.
    pub fn wait_for(&self, text: &str, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        loop {
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
            let mut lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(line) = lines.find(|line| line.contains(text)) {
                return line.to_owned();
            }
            assert!(Instant::now() < deadline, "no {text:?} in time in:\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
