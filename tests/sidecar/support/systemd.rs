//! Imitates systemd for a service: passes sockets, receives notifications, and runs the watchdog.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::sidecar::{self, PATIENCE, Sidecar};

/// The queue length of a socket, as in the socket unit.
const BACKLOG: i32 = 4096;

/// The notifications of a service, in order.
pub struct Notices {
    directory: TempDir,
    heard: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Notices {
    pub fn new() -> Notices {
        let directory = TempDir::new().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        let heard: Arc<(Mutex<Vec<String>>, Condvar)> = Arc::default();
        let hears = Arc::clone(&heard);
        // The thread ends with the test's process, or with the socket's file.
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let path = directory.path().to_owned();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while path.exists() {
                let Ok(count) = socket.recv(&mut buffer) else { continue };
                hears.0.lock().unwrap().push(String::from_utf8(buffer[..count].to_vec()).unwrap());
                hears.1.notify_all();
            }
        });
        Notices { directory, heard }
    }

    /// For $NOTIFY_SOCKET.
    pub fn socket(&self) -> String {
        self.directory.path().join("notify").to_str().unwrap().to_owned()
    }

    /// All so far.
    pub fn all(&self) -> Vec<String> {
        self.heard.0.lock().unwrap().clone()
    }

    /// The first notice with `text` after the first `skip`, and its number. Waits for it.
    pub fn wait_for(&self, skip: usize, text: &str) -> (usize, String) {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = self.heard.0.lock().unwrap();
        loop {
            let found = heard.iter().enumerate().skip(skip).find(|(_, notice)| notice.contains(text));
            if let Some((place, notice)) = found {
                return (place + 1, notice.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no notice {text:?} in {heard:#?}");
            heard = self.heard.1.wait_timeout(heard, left).unwrap().0;
        }
    }

    /// How many notices contain `text`.
    pub fn count(&self, text: &str) -> usize {
        self.all().iter().filter(|notice| notice.contains(text)).count()
    }
}

/// A socket as systemd holds it, on a free port of the loopback.
pub fn socket() -> (TcpListener, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(BACKLOG).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The command of a service that is passed `sockets` (at most two) with their names. With
/// `for_another`, the variables name another process.
pub fn command(sockets: Vec<(&str, OwnedFd)>, for_another: bool) -> Command {
    let binary = sidecar::command();
    let mut command = Command::new("sh");
    let (count, names) = (sockets.len(), sockets.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(":"));
    let mut passed = sockets.into_iter().map(|(_, socket)| Stdio::from(socket));
    command.stdin(passed.next().unwrap_or(Stdio::null())).stdout(passed.next().unwrap_or(Stdio::null()));
    // A shell, since only the process that becomes the program knows its id in advance.
    let pid = if for_another { "1" } else { "$$" };
    let script = format!("export LISTEN_PID={pid}; exec \"$0\" \"$@\" 3<&0 4<&1 0</dev/null 1>/dev/null");
    command.args(["-c", &script]).arg(binary.get_program());
    command.env("WP_JWT_SIDECAR_ADMIN_LISTEN", "off").env("LISTEN_FDS", count.to_string()).env("LISTEN_FDNAMES", names);
    for (name, _) in binary.get_envs() {
        command.env_remove(name);
    }
    command
}

/// A service that only forwards, to `upstream`, on `listener` under the name `http`.
pub fn service(listener: &TcpListener, upstream: SocketAddr, environment: &[(&str, &str)]) -> Sidecar {
    let mut command = command(vec![("http", listener.try_clone().unwrap().into())], false);
    command.args(["serve", "--listen", "systemd:http", "--log-format", "json", "--refresh-mode", "forward"]);
    command.args(["--upstream", &format!("http://{upstream}")]).envs(environment.iter().copied());
    Sidecar::start_command(&mut command)
}
