//! A real Redis (or Valkey) of a test's own, on loopback and a unix socket.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::mariadb::random_hex;
use super::port::Port;
use super::secrets;
use super::sidecar::{PATIENCE, wait_until};

/// The server. Dropped, it is gone with all that it held.
pub struct Store {
    pub port: Port,
    pub password: String,
    directory: TempDir,
    options: Vec<String>,
    child: Mutex<Option<Child>>,
}

impl Store {
    /// One that wants a password.
    pub fn start() -> Store {
        Store::start_with(&[])
    }

    /// With these options besides. It answers when this returns.
    pub fn start_with(options: &[&str]) -> Store {
        let password = random_hex::<16>();
        secrets::register(&password);
        let store = Store {
            port: Port::reserve(),
            password,
            directory: TempDir::new().unwrap(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            child: Mutex::new(None),
        };
        store.start_again();
        store
    }

    /// As `rate_limit.store` has it.
    pub fn url(&self) -> String {
        format!("redis://:{}@{}/0", self.password, self.port.address())
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// With nothing of what it held before. It may have options with TLS in place of a port
    /// without.
    pub fn start_again(&self) {
        let port = self.port.number().to_string();
        let mut command = Command::new(program());
        command.current_dir(self.directory.path());
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--logfile", "log"]);
        command.arg("--dir").arg(self.directory.path()).arg("--unixsocket").arg(self.socket());
        command.args(["--requirepass", &self.password]);
        let is_encrypted = self.options.iter().any(|option| option == "--tls-cert-file");
        command.args(if is_encrypted {
            ["--port", "0", "--tls-port", &port]
        } else {
            ["--port", &port, "--tls-port", "0"]
        });
        command.args(&self.options).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("redis-server is there (Debian: redis-server)");
        *self.child.lock().unwrap() = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while self.try_ask::<String>(&["PING"]).is_none() {
            let log = || std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "the store does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops its process where it is: connections stay open and can be made, and nothing is
    /// answered.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.lock().unwrap().as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// What it answers to a command.
    pub fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // A Sentinel closes all connections of a server that changes its part.
            if let Some(answer) = self.try_ask(command) {
                return answer;
            }
            assert!(Instant::now() < deadline, "no answer to {command:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn try_ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> Option<T> {
        let url = format!("redis+unix://{}?pass={}", self.socket().display(), self.password);
        let mut connection = redis::Client::open(url).unwrap().get_connection_with_timeout(PATIENCE).ok()?;
        let (name, arguments) = command.split_first().unwrap();
        redis::cmd(name).arg(arguments).query(&mut connection).ok()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Store {
    /// A cluster of three, each with a third of the slots.
    pub fn cluster() -> [Store; 3] {
        let buses: [Port; 3] = std::array::from_fn(|_| Port::reserve());
        let first = Store::of_cluster(&buses[0], None);
        let password = first.password.clone();
        let [second, third] = [1, 2].map(|at: usize| Store::of_cluster(&buses[at], Some(&password)));
        let all = [first, second, third];
        for (store, range) in all.iter().zip([["0", "5460"], ["5461", "10922"], ["10923", "16383"]]) {
            let _: String = store.ask(&["CLUSTER", "ADDSLOTSRANGE", range[0], range[1]]);
        }
        for (store, bus) in all.iter().zip(&buses).skip(1) {
            let (port, bus) = (store.port.number().to_string(), bus.number().to_string());
            let _: String = all[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
        wait_until("the cluster is whole", || {
            all.iter().all(|store| store.ask::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok"))
                && all.iter().all(|store| store.ask::<Vec<redis::Value>>(&["CLUSTER", "SLOTS"]).len() == 3)
        });
        all
    }

    fn of_cluster(bus: &Port, password: Option<&str>) -> Store {
        let bus = bus.number().to_string();
        let store = Store::start_with(&["--cluster-enabled", "yes", "--cluster-port", &bus]);
        match password {
            Some(password) => {
                let _: String = store.ask(&["CONFIG", "SET", "requirepass", password]);
                store.with_password(password)
            }
            None => store,
        }
    }

    /// Its password was changed.
    pub fn with_password(mut self, password: &str) -> Store {
        self.password = password.to_owned();
        self
    }
}

/// One that watches a server. Dropped, it is gone.
pub struct Sentinel {
    pub port: Port,
    pub password: String,
    child: Child,
    _directory: TempDir,
}

impl Sentinel {
    /// The primary of `service` is `store`.
    pub fn watching(service: &str, store: &Store) -> Sentinel {
        let (port, directory, password) = (Port::reserve(), TempDir::new().unwrap(), random_hex::<16>());
        secrets::register(&password);
        let file = directory.path().join("sentinel.conf");
        let text = format!(
            "port {}\nbind 127.0.0.1\nrequirepass {password}\nsentinel monitor {service} 127.0.0.1 {} 1\n\
             sentinel auth-pass {service} {}\nsentinel down-after-milliseconds {service} 5000\n",
            port.number(),
            store.port.number(),
            store.password
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program());
        command.arg(&file).arg("--sentinel").current_dir(directory.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let sentinel = Sentinel { port, password, child, _directory: directory };
        wait_until("the Sentinel answers", || sentinel.ask::<String>(&["PING"]).is_some());
        sentinel
    }

    /// How many replicas it knows.
    pub fn replicas(&self, service: &str) -> usize {
        self.ask::<Vec<redis::Value>>(&["SENTINEL", "REPLICAS", service]).map_or(0, |all| all.len())
    }

    /// Makes a replica the primary.
    pub fn fail_over(&self, service: &str) {
        wait_until("the Sentinel fails over", || self.ask::<String>(&["SENTINEL", "FAILOVER", service]).is_some());
    }

    fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> Option<T> {
        let url = format!("redis://:{}@{}", self.password, self.port.address());
        let mut connection = redis::Client::open(url).unwrap().get_connection_with_timeout(PATIENCE).ok()?;
        let (name, arguments) = command.split_first().unwrap();
        redis::cmd(name).arg(arguments).query(&mut connection).ok()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian has the one, or the other, or both.
fn program() -> &'static str {
    let is_there = |name| Command::new(name).arg("--version").stdout(Stdio::null()).status().is_ok();
    if is_there("redis-server") { "redis-server" } else { "valkey-server" }
}
