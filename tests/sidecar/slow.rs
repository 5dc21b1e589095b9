//! Slow clients as a tool for attacks makes them (slowhttptest): they neither stop others nor hold connections to the site.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::raw::{Connection, Upstream};
use crate::support::sidecar::Sidecar;

/// Enough for every worker of an Apache prefork to be taken twice.
const ATTACKERS: &str = "300";

/// How long an attack goes on, in seconds.
const ATTACK: u64 = 6;

/// As large as the pages of a WordPress site are.
const PAGE: usize = 60_000;

struct Attack(Child);

impl Attack {
    fn begin(mode: &[&str], sidecar: &Sidecar) -> Attack {
        let url = format!("http://{}/attack", sidecar.address());
        let child = Command::new("slowhttptest")
            .args(mode)
            .args(["-c", ATTACKERS, "-r", ATTACKERS, "-l", &ATTACK.to_string(), "-i", "1", "-u", &url])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("slowhttptest is there (Debian's package of that name)");
        Attack(child)
    }

    fn goes_on(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
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

#[test]
fn slow_clients_neither_stop_others_nor_hold_upstream_connections() {
    let busy: Arc<AtomicUsize> = Arc::default();
    let most: Arc<AtomicUsize> = Arc::default();
    let upstream = Upstream::of_connections({
        let (busy, most) = (Arc::clone(&busy), Arc::clone(&most));
        move |mut connection| {
            // From the first byte of a request until all of its answer was taken, as a PHP worker would be.
            while let Some(head) = connection.head() {
                most.fetch_max(busy.fetch_add(1, SeqCst) + 1, SeqCst);
                let text = String::from_utf8_lossy(&head).to_lowercase();
                let length =
                    text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
                connection.take(length.unwrap_or(0));
                let page = "x".repeat(PAGE);
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {PAGE}\r\n\r\n{page}");
                let sent = std::io::Write::write_all(&mut connection.stream, answer.as_bytes());
                busy.fetch_sub(1, SeqCst);
                if sent.is_err() {
                    return;
                }
            }
        }
    });
    for (what, mode) in [
        ("slow heads", &["-H"][..]),
        ("slow bodies", &["-B", "-s", "8192"]),
        ("slow readers", &["-X", "-w", "16", "-y", "32", "-n", "1", "-z", "8", "-k", "1"]),
    ] {
        most.store(0, SeqCst);
        let sidecar = Sidecar::forwarding(upstream.address());
        let before = sockets_of(sidecar.pid());
        let mut attack = Attack::begin(mode, &sidecar);
        let begun = Instant::now();
        let (mut asked, mut crowd) = (0, 0);
        while attack.goes_on() && begun.elapsed() < Duration::from_secs(ATTACK) {
            crowd = crowd.max(sockets_of(sidecar.pid()) - before);
            let mut client = Connection::to(sidecar.address());
            client.send("GET /page HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.response().body.len(), PAGE, "{what}");
            asked += 1;
            sleep(Duration::from_millis(20));
        }
        assert!(crowd >= 200, "{what}: hardly an attack, {crowd} connections at most");
        assert!(asked > 0, "{what}");
        // Slow readers ask for a page each, and quickly; what they then do not read is not the site's concern.
        let deadline = Instant::now() + Duration::from_secs(10);
        while busy.load(SeqCst) > 0 {
            assert!(Instant::now() < deadline, "{what}: {} upstream connections are held", busy.load(SeqCst));
            sleep(Duration::from_millis(10));
        }
        if mode[0] != "-X" {
            assert!(most.load(SeqCst) <= 2, "{what}: {} upstream connections at once", most.load(SeqCst));
        }
    }
}
