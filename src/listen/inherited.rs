//! Sockets that the service manager has opened and passes to the program (sd_listen_fds(3)). They
//! outlive it: clients that connect during a restart wait in their queues.

use std::collections::BTreeSet;
use std::env;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;
use socket2::SockRef;

use crate::config::{Config, Fault, Faults, ListenAddress};

/// systemd's name for a socket without one (sd_listen_fds_with_names(3)).
const NAMELESS: &str = "unknown";

/// The sockets that were passed and have not been taken yet.
pub struct Inherited {
    sockets: Vec<(String, InheritedSocket)>,
}

pub enum InheritedSocket {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket. The service manager made its file and removes it.
    Unix(UnixListener),
}

impl Inherited {
    /// Takes the sockets that were passed to this process, if any.
    ///
    /// # Errors
    /// Sockets of `Accept=yes`, `ListenDatagram=` and the like.
    pub fn from_environment() -> Result<Self, Faults> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut passed = ListenFd::from_env();
        let (mut sockets, mut faults) = (Vec::new(), Vec::new());
        for index in 0..passed.len() {
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or(NAMELESS).to_owned();
            match take(&mut passed, index) {
                Ok(socket) => sockets.push((name, socket)),
                Err(error) => faults.push(fault("server.listen", &name, unusable(&error))),
            }
        }
        if faults.is_empty() { Ok(Inherited { sockets }) } else { Err(Faults(faults)) }
    }

    /// Compares the sockets that were passed with those that the configuration names.
    ///
    /// # Errors
    /// Each named socket that is missing, and each passed socket that is not named.
    pub fn check(&self, config: &Config) -> Result<(), Faults> {
        let plain = config.server.listen.iter().map(|address| ("server.listen", address));
        let tls = config.tls.listen.iter().map(|address| ("tls.listen", address));
        let named: Vec<(&str, &str)> = plain
            .chain(tls)
            .filter_map(|(key, address)| match address {
                ListenAddress::Systemd(name) => Some((key, name.as_str())),
                _ => None,
            })
            .collect();
        let passed: BTreeSet<&str> = self.sockets.iter().map(|(name, _)| name.as_str()).collect();
        let mut faults: Vec<Fault> = named
            .iter()
            .filter(|(_, name)| !passed.contains(name))
            .map(|(key, name)| fault(key, name, not_passed(name, &passed)))
            .collect();
        let for_nothing = passed.iter().filter(|passed| !named.iter().any(|(_, name)| name == *passed));
        faults.extend(for_nothing.map(|name| fault("server.listen", name, NOT_NAMED.to_owned())));
        if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
    }

    /// All sockets of this name that have not been taken.
    pub fn take(&mut self, name: &str) -> Vec<InheritedSocket> {
        let (taken, left) = std::mem::take(&mut self.sockets).into_iter().partition::<Vec<_>, _>(|(of, _)| of == name);
        self.sockets = left;
        taken.into_iter().map(|(_, socket)| socket).collect()
    }
}

/// Clients could connect to such a socket and would wait for ever.
const NOT_NAMED: &str = "systemd passed a socket of this name, which neither server.listen nor tls.listen names; add it to the \
                         one that it is for, or take the socket out of the socket unit";

fn not_passed(name: &str, passed: &BTreeSet<&str>) -> String {
    let passed = match passed.is_empty() {
        true => "it passed none".to_owned(),
        false => format!("it passed {}", passed.iter().copied().collect::<Vec<_>>().join(", ")),
    };
    format!(
        "systemd passed no socket of this name ({passed}); give the socket unit FileDescriptorName={name} and start it before \
         the service (systemctl enable --now wp-jwt-sidecar.socket)"
    )
}

fn unusable(error: &io::Error) -> String {
    format!(
        "what systemd passed under this name is not a socket that accepts connections ({error}); the socket unit needs \
         ListenStream= and Accept=no"
    )
}

fn fault(key: &str, name: &str, problem: String) -> Fault {
    let address = ListenAddress::Systemd(name.to_owned());
    Fault { key: key.to_owned(), value: Some(format!("\"{address}\"")), problem, ..Fault::default() }
}

fn take(passed: &mut ListenFd, index: usize) -> io::Result<InheritedSocket> {
    let gone = || io::Error::other("it is gone");
    match passed.take_unix_listener(index) {
        Ok(socket) => {
            let socket = socket.ok_or_else(gone)?;
            ready(&SockRef::from(&socket))?;
            Ok(InheritedSocket::Unix(socket))
        }
        Err(_) => {
            let socket = passed.take_tcp_listener(index)?.ok_or_else(gone)?;
            ready(&SockRef::from(&socket))?;
            Ok(InheritedSocket::Tcp(socket))
        }
    }
}

fn ready(socket: &SockRef<'_>) -> io::Result<()> {
    if !socket.is_listener()? {
        return Err(io::Error::other("it does not listen"));
    }
    socket.set_nonblocking(true)
}
