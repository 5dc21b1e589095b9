//! The service under systemd, which the tests imitate: it passes sockets, which outlive the
//! program, and is notified when the program is ready, reloads, drains and is alive.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::raw::{Connection, Upstream};
use crate::support::sidecar::{self, PATIENCE, Sidecar, wait_until};
use crate::support::systemd::{self, Notices};
use crate::support::tls::{Authority, TlsConnection};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Requests a second while the service restarts, of both kinds of clients together.
const RATE: u32 = 500;

fn status(address: SocketAddr) -> u16 {
    let mut client = Connection::to(address);
    client.send(GET);
    client.response().status()
}

#[test]
fn systemd_is_told_what_goes_on() {
    let notices = Notices::new();
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::with(move |connection, request| {
        if request.start_line().contains("/slow") {
            wait.lock().unwrap().recv().unwrap();
        }
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        true
    });
    let (listener, address) = systemd::socket();
    let mut service = systemd::service(&listener, upstream.address(), &[("NOTIFY_SOCKET", &notices.socket())]);
    let (seen, ready) = notices.wait_for(0, "READY=1");
    assert!(ready.contains(&format!("STATUS=serving http://{} on {address}: ", upstream.address())), "{ready}");
    assert_eq!(status(address), 200);

    service.signal("HUP");
    let (seen, reloading) = notices.wait_for(seen, "RELOADING=1");
    let time = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("a time");
    assert!(time.parse::<u64>().unwrap() > 0, "{reloading}");
    let (seen, _) = notices.wait_for(seen, "READY=1");

    let mut slow = Connection::to(address);
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_until("the request is there", || {
        upstream.requests().iter().any(|request| request.start_line().contains("/slow"))
    });
    service.signal("TERM");
    let (seen, _) = notices.wait_for(seen, "STOPPING=1");
    let (seen, draining) = notices.wait_for(seen, "EXTEND_TIMEOUT_USEC=");
    assert!(draining.contains("STATUS=draining: "), "{draining}");
    let asked = draining.lines().find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC=")).unwrap();
    assert!(asked.parse::<u64>().unwrap() > 30_000_000, "drain_timeout is 30 s: {draining}");
    // The extension is repeated for as long as the drain takes.
    notices.wait_for(seen, "EXTEND_TIMEOUT_USEC=");
    go_on.send(()).unwrap();
    assert_eq!(slow.response().status(), 200);
    assert_eq!(service.wait().code(), Some(0));
    assert_eq!((notices.count("READY=1"), notices.count("WATCHDOG=")), (2, 0));
}

#[test]
fn a_service_that_cannot_start_is_never_ready() {
    let notices = Notices::new();
    let (listener, _) = systemd::socket();
    let mut command = systemd::command(vec![("http", listener.into())], false);
    command.args(["serve", "--listen", "systemd:http", "--upstream", "http://127.0.0.1:1", "--wp-config", "/none"]);
    let output = command.env("NOTIFY_SOCKET", notices.socket()).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(notices.all().is_empty(), "{:?}", notices.all());
}

/// The thread with this name, or the process's first one.
fn thread(service: &Sidecar, name: Option<&str>) -> Pid {
    let process = service.pid();
    let Some(name) = name else { return Pid::from_raw(process.cast_signed()) };
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|task| task.unwrap().path());
    let mut found = tasks.filter(|task| std::fs::read_to_string(task.join("comm")).unwrap().trim() == name);
    let task = found.next().unwrap_or_else(|| panic!("no thread {name}"));
    Pid::from_raw(task.file_name().unwrap().to_str().unwrap().parse().unwrap())
}

#[test]
fn the_watchdog_is_told_only_while_all_threads_of_the_front_answer() {
    const INTERVAL: Duration = Duration::from_millis(800);
    let notices = Notices::new();
    let upstream = Upstream::ok();
    let (listener, address) = systemd::socket();
    let interval = INTERVAL.as_micros().to_string();
    let environment = [("NOTIFY_SOCKET", notices.socket()), ("WATCHDOG_USEC", interval)];
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let service = systemd::service(&listener, upstream.address(), &environment);
    assert_eq!(status(address), 200);
    // The thread of the accept loops, then a worker. All other threads continue, and so do the
    // timers.
    for name in [None, Some("worker-0")] {
        let heard = notices.all().len();
        let (heard, _) = notices.wait_for(heard, "WATCHDOG=1");
        notices.wait_for(heard, "WATCHDOG=1");
        let stuck = thread(&service, name);
        ptrace::attach(stuck).unwrap();
        waitpid(stuck, Some(WaitPidFlag::__WALL)).unwrap();
        let (lines, alive) = (service.log().len(), notices.count("WATCHDOG=1"));
        if name.is_some() {
            service.wait_for_log_after(lines, "a worker does not answer");
        }
        // One notice may have been on its way.
        std::thread::sleep(4 * INTERVAL);
        let more = notices.count("WATCHDOG=1") - alive;
        ptrace::detach(stuck, None).unwrap();
        assert!(more <= 1, "{name:?} is stuck, and the watchdog was notified {more} times that all is well");
        let heard = notices.all().len();
        notices.wait_for(heard, "WATCHDOG=1");
        assert_eq!(status(address), 200);
    }
}

fn refused(sockets: Vec<(&str, std::os::fd::OwnedFd)>, for_another: bool, listen: &[&str]) -> String {
    let mut command = systemd::command(sockets, for_another);
    command.args(["serve", "--upstream", "http://127.0.0.1:1", "--refresh-mode", "forward"]).args(listen);
    let Output { status, stderr, .. } = command.output().unwrap();
    let error = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(78), "{error}");
    error
}

#[test]
fn sockets_that_are_named_and_not_passed_or_passed_and_not_named_are_faults() {
    let socket = || systemd::socket().0.into();
    let error = refused(vec![("web", socket())], false, &["--listen", "systemd:http"]);
    for part in [
        "server.listen = \"systemd:http\": systemd passed no socket of this name (it passed web); give the socket unit \
         FileDescriptorName=http",
        "server.listen = \"systemd:web\": systemd passed a socket of this name, which neither server.listen nor tls.listen names",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let error = refused(vec![("http", socket())], true, &["--listen", "systemd:http"]);
    assert!(error.contains("(it passed none)"), "they are for another process: {error}");
    let error = refused(Vec::new(), false, &["--listen", "systemd:http"]);
    assert!(error.contains("(it passed none)"), "{error}");
    let datagram = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into();
    let error = refused(vec![("http", datagram)], false, &["--listen", "systemd:http"]);
    assert!(error.contains("is not a socket that accepts connections"), "{error}");
    let connected = UnixStream::pair().unwrap().0.into();
    let error = refused(vec![("http", connected)], false, &["--listen", "systemd:http"]);
    assert!(error.contains("is not a socket that accepts connections") && error.contains("Accept=no"), "{error}");
}

#[test]
fn a_socket_may_speak_tls_and_may_be_a_unix_socket() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("http.sock");
    let (plain, (tls, tls_address)) = (UnixListener::bind(&path).unwrap(), systemd::socket());
    let authority = Authority::new();
    let pair = authority.issue("shop", &["shop.example"]);
    let upstream = Upstream::ok();
    let mut command = systemd::command(vec![("https", tls.into()), ("plain", plain.into())], false);
    command.args(["serve", "--listen", "systemd:plain", "--tls-listen", "systemd:https", "--refresh-mode", "forward"]);
    command.args(["--tls-certificates", &pair.argument(), "--upstream", &format!("http://{}", upstream.address())]);
    let mut service = command.stderr(Stdio::null()).spawn().unwrap();
    let mut client = TlsConnection::to(tls_address, "shop.example", authority.client(&["http/1.1"])).unwrap();
    assert!(client.exchange(GET, "ok").starts_with("HTTP/1.1 200 OK"));
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    nix::sys::signal::kill(Pid::from_raw(service.id().cast_signed()), nix::sys::signal::SIGTERM).unwrap();
    assert_eq!(service.wait().unwrap().code(), Some(0));
    assert!(path.exists(), "the file is systemd's");
}

#[test]
fn a_reload_is_not_refused_for_credentials_that_its_check_cannot_see() {
    // A file's mode has no effect for root, so another user does the check, as the service's user
    // would.
    let directory = TempDir::new().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "not-a-secret").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o000)).unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let is_root = std::fs::metadata(directory.path()).unwrap().uid() == 0;
    let check = |environment: &[(&str, &str)], more: &[&str]| {
        let mut command = sidecar::command();
        if is_root {
            command.uid(65_534).gid(65_534);
        }
        command.args(["check", "--upstream", "http://127.0.0.1:1", "--refresh-mode", "forward"]).args(more);
        command.args(["--jwt-secret-file", "credential:secret"]).env("CREDENTIALS_DIRECTORY", directory.path());
        let output = command.envs(environment.iter().copied()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = check(&[("MAINPID", "1")], &[]);
    assert_eq!(code, Some(0), "{error}");
    assert!(error.contains("shows the service's credentials to the service only"), "{error}");
    let (code, error) = check(&[("MAINPID", "1")], &["--listen", "nowhere"]);
    assert_eq!(code, Some(78), "{error}");
    assert!(error.contains("server.listen") && error.contains("jwt.secret_file"), "{error}");
    assert_eq!(check(&[], &[]).0, Some(78), "before a start it must be there");
}

/// Clients that send requests until they are stopped.
struct Clients {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<Failure>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// A request without an answer.
#[derive(Debug)]
struct Failure {
    /// The number of requests on this connection before it.
    earlier: usize,
    /// How many bytes of the response arrived.
    bytes: usize,
    error: String,
    at: Duration,
}

impl Clients {
    /// `count` threads that send `rate` requests a second together; with `keep_alive` on one
    /// connection each.
    fn start(address: SocketAddr, count: u32, rate: u32, keep_alive: bool) -> Clients {
        let (stop, done): (Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
        let failures: Arc<Mutex<Vec<Failure>>> = Arc::default();
        let begun = Instant::now();
        let threads = (0..count).map(|_| {
            let (stop, done, failures) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&failures));
            std::thread::spawn(move || {
                let mut open: Option<(TcpStream, usize)> = None;
                let mut next = Instant::now();
                while !stop.load(Ordering::SeqCst) {
                    let (mut stream, earlier) = open.take().unwrap_or_else(|| (connect(address), 0));
                    match exchange(&mut stream, keep_alive) {
                        Ok(goes_on) => {
                            done.fetch_add(1, Ordering::SeqCst);
                            open = goes_on.then_some((stream, earlier + 1));
                        }
                        Err((bytes, error)) => {
                            let error = error.to_string();
                            let at = begun.elapsed();
                            failures.lock().unwrap().push(Failure { earlier, bytes, error, at });
                        }
                    }
                    next += Duration::from_secs(1) * count / rate;
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            })
        });
        Clients { threads: threads.collect(), stop, done, failures }
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::SeqCst)
    }

    /// Waits until `more` further requests have been answered.
    fn wait_for_more(&self, more: usize) {
        let (wanted, deadline) = (self.done() + more, Instant::now() + 3 * PATIENCE);
        while self.done() < wanted {
            assert!(Instant::now() < deadline, "{} of {wanted} requests are answered", self.done());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(self) -> (usize, Vec<Failure>) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        (self.done.load(Ordering::SeqCst), std::mem::take(&mut *self.failures.lock().unwrap()))
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the socket is there all the time");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Whether the connection can carry another request; on an error, how many bytes of the response
/// arrived and what failed.
fn exchange(stream: &mut TcpStream, keep_alive: bool) -> Result<bool, (usize, std::io::Error)> {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| (0, error))?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.ends_with(b"\r\n\r\nok") {
        match stream.read(&mut buffer) {
            Ok(0) => return Err((answer.len(), std::io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) => return Err((answer.len(), error)),
        }
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(&answer));
    Ok(keep_alive && !String::from_utf8_lossy(&answer).to_ascii_lowercase().contains("connection: close"))
}

/// Restarts `service` as systemd does: the next process starts after the last one has ended.
fn restart(mut service: Sidecar, listener: &TcpListener, upstream: SocketAddr) -> Sidecar {
    service.signal("TERM");
    assert_eq!(service.wait().code(), Some(0));
    systemd::service(listener, upstream, &[])
}

#[test]
fn a_restart_under_load_loses_no_request() {
    let upstream = Upstream::ok();
    let (listener, address) = systemd::socket();
    let mut service = systemd::service(&listener, upstream.address(), &[]);
    let begun = Instant::now();
    let single = Clients::start(address, 10, RATE / 2, false);
    let kept = Clients::start(address, 10, RATE / 2, true);
    single.wait_for_more(100);
    for _ in 0..3 {
        service = restart(service, &listener, upstream.address());
        single.wait_for_more(100);
        kept.wait_for_more(100);
    }
    let (done, failures) = single.end();
    let (done_kept, failures_kept) = kept.end();
    let took = begun.elapsed();
    println!("{} requests in {took:.1?}, three restarts", done + done_kept);
    println!("a connection for each request: {done} answered, {} failed", failures.len());
    println!("keep-alive: {done_kept} answered, {} failed", failures_kept.len());
    for Failure { earlier, bytes, error, at } in &failures_kept {
        println!("  at {at:.3?}: request {} of its connection, {bytes} bytes of the answer: {error}", earlier + 1);
    }
    assert!(failures.is_empty(), "{failures:#?}");
    // Unavoidable when a keep-alive connection is closed: the request and the close crossed (RFC
    // 9112, 9.5).
    assert!(failures_kept.iter().all(|failure| failure.earlier > 0 && failure.bytes == 0), "{failures_kept:#?}");
}

#[test]
fn while_a_download_ends_new_clients_do_not_wait() {
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::with(move |connection, request| {
        if request.start_line().contains("/download") {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
            wait.lock().unwrap().recv().unwrap();
            connection.send("lf");
        } else {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
        true
    });
    let (listener, address) = systemd::socket();
    let mut service = systemd::service(&listener, upstream.address(), &[]);
    let mut download = Connection::to(address);
    download.send("GET /download HTTP/1.1\r\nHost: a\r\n\r\n");
    download.head().unwrap();
    assert_eq!(download.take(2), b"ha");
    service.signal("TERM");
    service.wait_for_log("draining");
    for _ in 0..3 {
        let mut client = Connection::to(address);
        client.send(GET);
        let answer = client.response();
        assert_eq!((answer.status(), answer.value("connection").as_deref()), (200, Some("close")));
    }
    go_on.send(()).unwrap();
    assert_eq!(download.take(2), b"lf");
    assert_eq!(service.wait().code(), Some(0));
    // These connections wait in the socket's backlog for the next process.
    let mut waiting = Connection::to(address);
    waiting.send(GET);
    let _next = systemd::service(&listener, upstream.address(), &[]);
    assert_eq!(waiting.response().status(), 200);
}
