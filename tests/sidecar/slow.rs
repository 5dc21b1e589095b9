//! Slow clients, as an attack tool (slowhttptest) simulates them, neither block other clients nor
//! occupy connections to the site.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::raw::{Connection, Upstream};
use crate::support::sidecar::{PATIENCE, Sidecar, wait_until};

/// Six times as many as an Apache prefork has workers.
const ATTACKERS: usize = 1000;

/// Requests of other clients during the attack.
const OTHERS: usize = 50;

/// The size of a typical WordPress page.
const PAGE: usize = 60_000;

struct Attack(Child);

impl Attack {
    fn begin(mode: &[&str], sidecar: &Sidecar) -> Attack {
        let url = format!("http://{}/attack", sidecar.address());
        let attackers = ATTACKERS.to_string();
        let child = Command::new("slowhttptest")
            .args(mode)
            // The test ends it after it has seen enough.
            .args(["-c", &attackers, "-r", &attackers, "-l", "600", "-i", "1", "-u", &url])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("slowhttptest is there (Debian's package of that name)");
        Attack(child)
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sockets_of(pid: u32) -> usize {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    links
        .filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket")))
        .count()
}

/// Each attacker's connection, and one to the upstream while a page is read, exceed the usual limit
/// of 1,024 files.
fn allow_many_files() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(most > 4 * ATTACKERS as u64, "the hard limit of open files (ulimit -Hn) is too low for this test: {most}");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

/// Connections to the site.
#[derive(Default)]
struct Site {
    open: AtomicUsize,
    /// Connections on which a request is being read or a response written: those that would occupy
    /// a PHP worker.
    busy: AtomicUsize,
    most_busy: AtomicUsize,
}

impl Site {
    fn serve(&self, mut connection: Connection) {
        self.open.fetch_add(1, SeqCst);
        while let Some(head) = connection.head() {
            self.most_busy.fetch_max(self.busy.fetch_add(1, SeqCst) + 1, SeqCst);
            let text = String::from_utf8_lossy(&head).to_lowercase();
            let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
            connection.take(length.unwrap_or(0));
            let page = "x".repeat(PAGE);
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {PAGE}\r\n\r\n{page}");
            let sent = std::io::Write::write_all(&mut connection.stream, answer.as_bytes());
            self.busy.fetch_sub(1, SeqCst);
            if sent.is_err() {
                break;
            }
        }
        self.open.fetch_sub(1, SeqCst);
    }
}

/// Attacks a site in one mode. Returns how many of its connections were busy at once.
fn most_busy_under(mode: &[&str]) -> usize {
    allow_many_files();
    let site: Arc<Site> = Arc::default();
    let upstream = Upstream::of_connections({
        let site = Arc::clone(&site);
        move |connection| site.serve(connection)
    });
    let sidecar = Sidecar::forwarding(upstream.address());
    let before = sockets_of(sidecar.pid());
    let _attack = Attack::begin(mode, &sidecar);
    let crowd = || sockets_of(sidecar.pid()).saturating_sub(before + site.open.load(SeqCst));
    let deadline = Instant::now() + 3 * PATIENCE;
    while crowd() < ATTACKERS {
        assert!(Instant::now() < deadline, "hardly an attack: {} connections", crowd());
        sleep(Duration::from_millis(20));
    }
    for _ in 0..OTHERS {
        let mut client = Connection::to(sidecar.address());
        client.send("GET /page HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response().body.len(), PAGE);
        sleep(Duration::from_millis(20));
    }
    assert!(crowd() > ATTACKERS / 2, "the attack was over: {} connections", crowd());
    wait_until("no upstream connection is held", || site.busy.load(SeqCst) == 0);
    site.most_busy.load(SeqCst)
}

#[test]
fn slow_heads_neither_stop_others_nor_hold_upstream_connections() {
    let busy = most_busy_under(&["-H"]);
    assert!(busy <= 2, "{busy} upstream connections at once");
}

#[test]
fn slow_bodies_neither_stop_others_nor_hold_upstream_connections() {
    let busy = most_busy_under(&["-B", "-s", "8192"]);
    assert!(busy <= 2, "{busy} upstream connections at once");
}

/// Each attacker requests a page quickly and then does not read it, which must not occupy the site.
#[test]
fn slow_readers_neither_stop_others_nor_hold_upstream_connections() {
    let busy = most_busy_under(&["-X", "-w", "16", "-y", "32", "-n", "1", "-z", "8", "-k", "1"]);
    assert!(busy > 0);
}
