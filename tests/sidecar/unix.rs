//! Unix sockets on both sides: the owner and mode of the file, who may connect, and when the file
//! is removed.

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;

use crate::support::raw::{Connection, Upstream};
use crate::support::sidecar::{self, PATIENCE, Sidecar};

/// The environment of a sidecar that only forwards.
const FORWARD: [(&str, &str); 1] = [("WP_JWT_SIDECAR_REFRESH_MODE", "forward")];

fn get(socket: &Path, fields: &str) -> String {
    let mut client = UnixStream::connect(socket).expect("it listens");
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(client, "GET /x HTTP/1.1\r\nHost: shop.example\r\n{fields}Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer
}

fn listen_argument(socket: &Path) -> String {
    format!("unix:{}", socket.display())
}

#[test]
fn clients_connect_by_a_socket_with_the_configured_mode_and_owner() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("http.sock");
    let upstream = Upstream::ok();
    let listen = listen_argument(&socket);
    // The tests run as root here and as another user elsewhere: only root can change a file's
    // owner.
    let is_root = directory.path().metadata().unwrap().uid() == 0;
    let group = if is_root { "12345".to_owned() } else { directory.path().metadata().unwrap().gid().to_string() };
    let arguments = ["--listen", &listen, "--server-unix-mode", "0606", "--server-unix-group", &group];
    let mut sidecar = Sidecar::forwarding_with(upstream.address(), &arguments);
    sidecar.wait_for_log("http.sock");

    let file = socket.metadata().unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o606);
    assert_eq!(file.gid().to_string(), group);

    assert!(get(&socket, "X-Forwarded-For: 203.0.113.9\r\n").ends_with("\r\n\r\nok"));
    let request = upstream.request();
    assert_eq!(request.value("host").as_deref(), Some("shop.example"));
    assert_eq!(request.value("x-forwarded-for").as_deref(), Some("127.0.0.1"), "it is not a trusted proxy");

    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(!socket.exists(), "the file is still there");
}

#[test]
fn who_connects_by_a_socket_is_trusted_as_the_loopback_is() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("http.sock");
    let upstream = Upstream::ok();
    let listen = listen_argument(&socket);
    let arguments = ["--listen", &listen, "--forwarded-trusted-proxies", "127.0.0.1"];
    let sidecar = Sidecar::forwarding_with(upstream.address(), &arguments);
    sidecar.wait_for_log("http.sock");
    get(&socket, "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n");
    let request = upstream.request();
    assert_eq!(request.value("x-forwarded-for").as_deref(), Some("203.0.113.9, 127.0.0.1"));
    assert_eq!(request.value("x-forwarded-proto").as_deref(), Some("https"));
}

#[test]
fn a_stale_socket_is_replaced() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("http.sock");
    drop(UnixListener::bind(&socket).unwrap());
    assert!(socket.exists(), "a listener leaves its file behind");
    let upstream = Upstream::ok();
    let listen = listen_argument(&socket);
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--listen", &listen]);
    sidecar.wait_for_log("http.sock");
    assert!(get(&socket, "").ends_with("\r\n\r\nok"));
}

#[test]
fn a_socket_in_use_and_a_file_that_is_none_are_left_alone() {
    let directory = TempDir::new().unwrap();
    let in_use = directory.path().join("http.sock");
    let other = UnixListener::bind(&in_use).unwrap();
    other.set_nonblocking(true).unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    for (path, problem) in [(&in_use, "another process listens there"), (&file, "a file that is not a socket")] {
        let output = sidecar::command()
            .args(["serve", "--upstream", "http://127.0.0.1:1", "--listen", &listen_argument(path)])
            .envs(FORWARD)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(&format!("cannot listen on unix:{}", path.display())), "{error}");
        assert!(error.contains(problem), "{error}");
    }
    assert!(other.accept().is_ok(), "the probe did not reach the other process");
    UnixStream::connect(&in_use).expect("the other process still listens");
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_successors_file_is_not_removed() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("http.sock");
    let upstream = Upstream::ok();
    let listen = listen_argument(&socket);
    let mut sidecar = Sidecar::forwarding_with(upstream.address(), &["--listen", &listen]);
    sidecar.wait_for_log("http.sock");
    std::fs::remove_file(&socket).unwrap();
    let _successor = UnixListener::bind(&socket).unwrap();
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(UnixStream::connect(&socket).is_ok());
}

#[test]
fn the_upstream_may_be_a_socket() {
    let directory = TempDir::new().unwrap();
    let socket: PathBuf = directory.path().join("web.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let url = format!("unix:{}", socket.display());
    let (requests, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let requests = requests.clone();
            std::thread::spawn(move || serve(stream, &requests));
        }
    });
    let sidecar = Sidecar::start_with(&["--upstream", &url], &FORWARD);
    let mut client = Connection::to(sidecar.address());
    for path in ["/one", "/two"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: Shop.Example\r\n\r\n"));
        assert_eq!(client.response().body, b"ok");
        let head = seen.recv_timeout(PATIENCE).unwrap();
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\nHost: Shop.Example\r\n")), "{head}");
    }
    client.send("GET /old HTTP/1.0\r\n\r\n");
    client.response();
    let head = seen.recv_timeout(PATIENCE).unwrap();
    assert!(head.contains("\r\nHost: localhost\r\n"), "{head}");
}

#[test]
fn an_absent_upstream_socket_is_a_502() {
    let sidecar = Sidecar::start_with(&["--upstream", "unix:/does/not/exist.sock"], &FORWARD);
    let mut client = Connection::to(sidecar.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 502);
    assert!(sidecar.wait_for_log("could not connect to the upstream").contains("No such file"));
}

/// Answers every request on a connection; requests must have no body.
fn serve(mut stream: UnixStream, requests: &std::sync::mpsc::Sender<String>) {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        while let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = read.drain(..end + 4).collect();
            let _ = requests.send(String::from_utf8(head).unwrap());
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => read.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
}
