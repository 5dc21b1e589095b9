//! SIGHUP: a new configuration takes effect as a whole or not at all, and requests in flight
//! continue.

mod keys;

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::mariadb::{Database, TokenState};
use crate::support::port::Port;
use crate::support::raw::{Connection, Message, Upstream};
use crate::support::rig::{self, refresh_at};
use crate::support::sidecar::{self, PATIENCE, Sidecar, wait_until};
use crate::support::tls::{Authority, TlsConnection};

/// How often listeners are exchanged: failures would show within a moment.
const CHANGES: usize = 20;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A sidecar that reads everything from a file, which a test changes.
pub(crate) struct Configured {
    pub(crate) sidecar: Sidecar,
    file: PathBuf,
    _directory: TempDir,
}

impl Configured {
    pub(crate) fn start(keys: &[(&str, &str)]) -> Configured {
        Configured::start_with(keys, &[])
    }

    pub(crate) fn start_with(keys: &[(&str, &str)], environment: &[(&str, &str)]) -> Configured {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("config.toml");
        fs::write(&file, toml(keys)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = sidecar::command();
        command.arg("serve").arg("--config").arg(&file);
        command.env_remove("WP_JWT_SIDECAR_REFRESH_VERIFY").envs(environment.iter().copied());
        let sidecar = Sidecar::start_command(command.stdin(Stdio::null()).stdout(Stdio::null()));
        Configured { sidecar, file, _directory: directory }
    }

    /// Reloads with these keys, and returns the log's line about it.
    pub(crate) fn change(&self, keys: &[(&str, &str)]) -> String {
        self.change_text(&toml(keys))
    }

    fn change_text(&self, text: &str) -> String {
        fs::write(&self.file, text).unwrap();
        let before = self.sidecar.log().len();
        self.sidecar.signal("HUP");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = self
                .sidecar
                .log()
                .into_iter()
                .skip(before)
                .find(|line| line.contains("\"reloaded\"") || line.contains("the one before stays in effect"));
            if let Some(line) = line {
                return line;
            }
            assert!(Instant::now() < deadline, "no reload:\n{}", self.sidecar.log().join("\n"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Values in TOML. Those of every test come first, and can be overridden.
fn toml(keys: &[(&str, &str)]) -> String {
    let usual = [
        ("server.listen", "[\"127.0.0.1:0\"]"),
        ("log.format", "\"json\""),
        ("admin.listen", "\"off\""),
        ("refresh.mode", "\"forward\""),
        ("refresh.verify", "\"off\""),
        ("upstream.url", "\"http://127.0.0.1:1\""),
    ];
    let all: BTreeMap<&str, &str> = usual.into_iter().chain(keys.iter().copied()).collect();
    all.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
}

pub(crate) fn url(upstream: &Upstream) -> String {
    format!("\"http://{}\"", upstream.address())
}

/// Responds with this name, at once, or for `/slow` when `go_on` is set; echoes messages on a
/// WebSocket.
fn named(name: &'static str, go_on: Arc<AtomicBool>) -> Upstream {
    Upstream::with(move |connection, request| {
        if request.start_line().contains("/socket") {
            connection.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
            loop {
                let bytes = connection.take(1);
                if bytes.is_empty() {
                    return false;
                }
                connection.send(bytes);
            }
        }
        connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", name.len()));
        connection.send(&name[..1]);
        while request.start_line().contains("/slow") && !go_on.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        connection.send(&name[1..]);
        true
    })
}

pub(crate) fn get(client: &mut Connection) -> Message {
    client.send(GET);
    client.response()
}

#[test]
fn what_is_in_flight_goes_on_and_what_comes_takes_the_new_way() {
    let go_on: Arc<AtomicBool> = Arc::default();
    let (first, second) = (named("first", Arc::clone(&go_on)), named("second", Arc::clone(&go_on)));
    let configured = Configured::start(&[("upstream.url", &url(&first))]);
    let address = configured.sidecar.address();
    let mut kept = Connection::to(address);
    assert_eq!(get(&mut kept).body, b"first");
    let mut socket = Connection::to(address);
    socket.send("GET /socket HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(socket.response().status(), 101);
    let mut download = Connection::to(address);
    download.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    download.head().unwrap();
    assert_eq!(download.take(1), b"f");

    let line = configured.change(&[("upstream.url", &url(&second))]);
    assert!(line.contains("\"changed\":\"upstream.url\""), "{line}");
    assert_eq!(get(&mut kept).body, b"second", "the next request on an open connection");
    assert_eq!(get(&mut Connection::to(address)).body, b"second");
    socket.send("still there");
    assert_eq!(socket.take(11), b"still there");
    go_on.store(true, Ordering::SeqCst);
    assert_eq!(download.take(4), b"irst");
    assert_eq!(get(&mut download).body, b"second");
    assert_eq!(first.requests().len(), 3);
}

#[test]
fn a_configuration_with_faults_changes_nothing() {
    let go_on: Arc<AtomicBool> = Arc::default();
    let (first, second) = (named("first", Arc::clone(&go_on)), named("second", Arc::clone(&go_on)));
    let configured = Configured::start(&[("upstream.url", &url(&first))]);
    let address = configured.sidecar.address();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = format!("[\"127.0.0.1:0\", \"{}\"]", taken.local_addr().unwrap());
    let passed = "[\"127.0.0.1:0\", \"systemd:http\"]";
    for (keys, parts) in [
        (
            vec![("server.workers", "-1"), ("log.level", "\"inof\"")],
            vec!["server.workers = -1", "; log.level = ", "no such level, perhaps "],
        ),
        (vec![("server.listen", busy.as_str())], vec!["server.listen: cannot listen on ", "in use"]),
        (vec![("server.listen", passed)], vec!["systemd passes sockets at the start only"]),
        (vec![("refresh.mode", "\"native\""), ("wordpress.config", "\"/none.php\"")], vec!["wordpress.config"]),
    ] {
        let new = url(&second);
        let mut keys = keys;
        keys.push(("upstream.url", &new));
        let before = configured.sidecar.log().len();
        let line = configured.change(&keys);
        assert!(line.contains("\"ERROR\"") && parts.iter().all(|part| line.contains(part)), "{line}");
        assert_eq!(configured.sidecar.log().len(), before + 1, "one line: {:#?}", &configured.sidecar.log()[before..]);
        assert_eq!(get(&mut Connection::to(address)).body, b"first");
    }
    let line = configured.change_text("[server");
    assert!(line.contains("not TOML"), "{line}");
    assert!(configured.change(&[("upstream.url", &url(&second))]).contains("\"reloaded\""));
    assert_eq!(get(&mut Connection::to(address)).body, b"second");
}

#[test]
fn listeners_come_stay_and_go() {
    let upstream = named("name", Arc::default());
    let port = Port::reserve();
    let free = port.address();
    let two = format!("[\"127.0.0.1:0\", \"{free}\"]");
    let all = format!("[\"127.0.0.1:0\", \"0.0.0.0:{}\"]", free.port());
    let url = url(&upstream);
    let configured = Configured::start(&[("upstream.url", &url)]);
    let stays = configured.sidecar.address();
    let mut kept = Connection::to(stays);
    assert!(TcpStream::connect(free).is_err());

    configured.change(&[("upstream.url", &url), ("server.listen", &two)]);
    let mut on_new = Connection::to(free);
    assert_eq!((get(&mut on_new).status(), get(&mut kept).status()), (200, 200));

    // The same port on more addresses: some listener is there at every moment.
    let stop: Arc<AtomicBool> = Arc::default();
    let stopped = Arc::clone(&stop);
    let knocking = std::thread::spawn(move || {
        let mut answered = 0;
        while !stopped.load(Ordering::SeqCst) || answered == 0 {
            assert_eq!(get(&mut Connection::to(free)).status(), 200);
            answered += 1;
        }
    });
    for _ in 0..CHANGES {
        configured.change(&[("upstream.url", &url), ("server.listen", &all)]);
        configured.change(&[("upstream.url", &url), ("server.listen", &two)]);
    }
    assert!(configured.sidecar.log().iter().any(|line| line.contains("no longer listening")));
    stop.store(true, Ordering::SeqCst);
    knocking.join().unwrap();
    assert_eq!((get(&mut on_new).status(), get(&mut kept).status()), (200, 200));

    configured.change(&[("upstream.url", &url)]);
    wait_until("it takes no connections", || TcpStream::connect(free).is_err());
    assert_eq!((get(&mut on_new).status(), get(&mut kept).status()), (200, 200), "open connections go on");
    assert_eq!(get(&mut Connection::to(stays)).status(), 200, "the same port, though the system chose it");
}

#[test]
fn certificates_and_tls_itself_may_change() {
    let authority = Authority::new();
    let [first, second] = ["first", "second"].map(|file| authority.issue(file, &["shop.example"]));
    let upstream = named("name", Arc::default());
    let url = url(&upstream);
    let listen = ("tls.listen", "[\"127.0.0.1:0\"]");
    let none = ("server.listen", "[]");
    let [one, two] = [&first, &second].map(|pair| format!("[\"{}\"]", pair.argument()));
    let configured = Configured::start(&[("upstream.url", &url), none, listen, ("tls.certificates", &one)]);
    let address = configured.sidecar.address();
    let connect = || TlsConnection::to(address, "shop.example", authority.client(&["http/1.1"]));
    let mut open = connect().unwrap();
    assert_eq!(open.certificate(), first.der());
    configured.change(&[("upstream.url", &url), none, listen, ("tls.certificates", &two)]);
    assert_eq!(connect().unwrap().certificate(), second.der());
    assert!(open.exchange(GET, "name").starts_with("HTTP/1.1 200 OK"));

    // The same socket, without TLS, and with it again.
    let plain = ("server.listen", "[\"127.0.0.1:0\"]");
    configured.change(&[("upstream.url", &url), plain]);
    assert_eq!(get(&mut Connection::to(address)).status(), 200);
    assert!(open.exchange(GET, "name").starts_with("HTTP/1.1 200 OK"));
    configured.change(&[("upstream.url", &url), none, listen, ("tls.certificates", &one)]);
    assert_eq!(connect().unwrap().certificate(), first.der());
}

#[test]
fn a_reload_under_load_loses_no_request() {
    let upstreams = [named("first", Arc::default()), named("second", Arc::default())];
    let urls = [0, 1].map(|i| url(&upstreams[i]));
    let configured = Configured::start(&[("upstream.url", &urls[0])]);
    let address = configured.sidecar.address();
    let stop: Arc<AtomicBool> = Arc::default();
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut answered = 0;
                let mut kept = Connection::to(address);
                while !stop.load(Ordering::SeqCst) {
                    // Half of them with a connection per request. A lost one panics.
                    let answer = if client % 2 == 0 { get(&mut kept) } else { get(&mut Connection::to(address)) };
                    assert!(answer.status() == 200 && answer.complete, "{answer:?}");
                    answered += 1;
                    std::thread::sleep(Duration::from_millis(8));
                }
                answered
            })
        })
        .collect();
    for round in 1..=10 {
        let line = configured.change(&[("upstream.url", &urls[round % 2])]);
        assert!(line.contains("\"reloaded\""), "{line}");
        let before = upstreams[round % 2].requests().len();
        upstreams[round % 2].wait_for_requests(before + 20);
    }
    stop.store(true, Ordering::SeqCst);
    let answered: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    println!("{answered} requests, ten reloads");
}

#[tokio::test(flavor = "multi_thread")]
async fn refreshes_go_on_natively_by_the_new_settings() {
    let database = rig::site(Database::shared()).await;
    let user = database.insert_user("alice").await;
    let upstream = rig::wordpress();
    let usual = [("upstream.url", url(&upstream)), ("refresh.mode", "\"native\"".to_owned())];
    let keys = |more: &[(&'static str, &str)]| {
        let all = usual.iter().map(|(key, value)| (*key, value.as_str()));
        toml(&all.chain(more.iter().copied()).collect::<Vec<_>>())
    };
    let mut environment = vec![
        ("WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL", database.url()),
        ("WP_JWT_SIDECAR_WORDPRESS_TABLE_PREFIX", database.prefix()),
    ];
    environment.extend(rig::SECRETS);
    let configured = Configured::start_with(&[("upstream.url", &usual[0].1)], &environment);
    let address = configured.sidecar.address();
    // From forwarding to native.
    assert!(configured.change_text(&keys(&[])).contains("\"reloaded\""));
    configured.sidecar.wait_for_log("refreshing natively");
    let token = database.insert_token(TokenState::Live, user.id).await;
    assert_eq!(refresh_at(address, &token.refresh_token).status(), 200);
    assert_eq!(refresh_at(address, &token.refresh_token).status(), 200, "a used token, and the default reuse_interval");

    // Each client refreshes its own chain across all reloads; a lost response would end it.
    let stop: Arc<AtomicBool> = Arc::default();
    let answered: Arc<Mutex<usize>> = Arc::default();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let first = database.insert_token(TokenState::Live, user.id).await;
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        clients.push(std::thread::spawn(move || {
            let mut token = first.refresh_token;
            while !stop.load(Ordering::SeqCst) {
                let answer = refresh_at(address, &token);
                assert_eq!(answer.status(), 200, "{answer:?}");
                token = answer.json()["refresh_token"].as_str().unwrap().to_owned();
                *answered.lock().unwrap() += 1;
            }
        }));
    }
    for round in 0..4 {
        let interval = if round % 2 == 0 { "\"30s\"" } else { "\"0s\"" };
        let line = configured.change_text(&keys(&[("refresh.reuse_interval", interval)]));
        assert!(line.contains("\"reloaded\""), "{line}");
        let before = *answered.lock().unwrap();
        wait_until("refreshes go on", || *answered.lock().unwrap() >= before + 8);
        let token = database.insert_token(TokenState::Live, user.id).await;
        assert_eq!(refresh_at(address, &token.refresh_token).status(), 200);
        let again = refresh_at(address, &token.refresh_token).status();
        assert_eq!(again, if round % 2 == 0 { 200 } else { 403 });
    }
    stop.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|client| client.join().unwrap());

    // It has not changed, so nothing of it begins again.
    let before = configured.sidecar.log().len();
    configured.change_text(&keys(&[("refresh.reuse_interval", "\"0s\""), ("server.tunnel_idle", "\"2h\"")]));
    assert!(!configured.sidecar.log().iter().skip(before).any(|line| line.contains("refreshing natively")));

    configured.change(&[("upstream.url", &usual[0].1)]);
    let token = database.insert_token(TokenState::Live, user.id).await;
    assert_eq!(refresh_at(address, &token.refresh_token).status(), 299, "it goes to WordPress");
    let Configured { mut sidecar, .. } = configured;
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(0));
}
