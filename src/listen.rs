//! Accepts connections: first a permit, then accept, then the handover to a worker. Nothing slow
//! happens here.

pub mod inherited;
pub mod listeners;
mod unix_socket;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc::Receiver;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::config::{ListenAddress, UnixSockets};
use crate::connection::Accepted;
use crate::metrics::{Event, Shard};
use crate::net::stream::Unregistered;
use inherited::InheritedSocket;
use unix_socket::SocketFile;

/// Long enough that a restart or a burst does not meet a full queue. The kernel caps this at
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Without file descriptors, accept fails again and again at once. The pause saves a core from a
/// busy loop.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// A client on a unix socket is on this machine and has no address; the loopback's stands for it.
const UNIX_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A listening socket, closed on drop.
pub struct Listener {
    /// The address in effect, with the port that the system chose.
    pub address: ListenAddress,
    /// Whether the service manager keeps the socket open after this program closes it.
    pub kept_open: bool,
    socket: ListeningSocket,
}

enum ListeningSocket {
    Tcp(StdTcpListener),
    /// The file is removed with the socket if this program made it.
    Unix(StdUnixListener, Option<SocketFile>),
}

/// Orders to an accept loop.
pub enum Order {
    Answer(oneshot::Sender<()>),
    /// Let a second socket of this process listen on the same address while the two are exchanged.
    Share(oneshot::Sender<io::Result<()>>),
}

/// Opens a listening socket. `unix` sets mode, owner and group of a unix socket's file; with
/// `ipv6_only`, `[::]` leaves IPv4 to another socket of the same port.
///
/// # Errors
/// The system's error: address in use, not this machine's, port below 1024 without the right. A
/// socket that systemd passes cannot be opened here; see [`inherited`].
pub fn bind(address: &ListenAddress, unix: &UnixSockets, ipv6_only: bool) -> io::Result<Listener> {
    Ok(match address {
        ListenAddress::Tcp(address) => of_tcp(bind_tcp(*address, ipv6_only, false)?, false)?,
        ListenAddress::Unix(path) => {
            let (socket, file) = unix_socket::bind(path, unix)?;
            Listener { address: address.clone(), kept_open: false, socket: ListeningSocket::Unix(socket, Some(file)) }
        }
        ListenAddress::Systemd(_) => return Err(io::Error::other("systemd passes sockets at the start only")),
    })
}

/// Opens a listening socket on the same address as one of this process, which [`Order::Share`] has
/// made ready for that.
///
/// # Errors
/// The system's error.
fn bind_beside(address: SocketAddr, ipv6_only: bool) -> io::Result<Listener> {
    of_tcp(bind_tcp(address, ipv6_only, true)?, false)
}

fn of_tcp(socket: StdTcpListener, kept_open: bool) -> io::Result<Listener> {
    let address = ListenAddress::Tcp(socket.local_addr()?);
    Ok(Listener { address, kept_open, socket: ListeningSocket::Tcp(socket) })
}

impl Listener {
    /// Listens on a socket that the service manager passed.
    ///
    /// # Errors
    /// When the socket does not return its address.
    pub fn inherited(socket: InheritedSocket) -> io::Result<Self> {
        match socket {
            InheritedSocket::Tcp(socket) => of_tcp(socket, true),
            InheritedSocket::Unix(socket) => {
                let path = socket.local_addr()?.as_pathname().map(std::path::Path::to_owned).unwrap_or_default();
                let address = ListenAddress::Unix(path);
                Ok(Listener { address, kept_open: true, socket: ListeningSocket::Unix(socket, None) })
            }
        }
    }

    /// Registers the socket with the runtime that this is called in.
    ///
    /// # Errors
    /// The system's error.
    pub fn register(self) -> io::Result<Registered> {
        Ok(Registered(match self.socket {
            ListeningSocket::Tcp(socket) => RegisteredSocket::Tcp(TcpListener::from_std(socket)?),
            ListeningSocket::Unix(socket, file) => RegisteredSocket::Unix(UnixListener::from_std(socket)?, file),
        }))
    }
}

fn bind_tcp(address: SocketAddr, ipv6_only: bool, beside: bool) -> io::Result<StdTcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if beside {
        socket.set_reuse_port(true)?;
    }
    if ipv6_only {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What an accept loop needs besides its socket.
pub struct Loop {
    /// Whether clients speak TLS. A reload may change it.
    pub tls: Arc<AtomicBool>,
    /// The free permits of `[server] max_connections`.
    pub permits: Arc<Semaphore>,
    pub metrics: Arc<Shard>,
    pub orders: Receiver<Order>,
    /// Cancelled when the loop is to end.
    pub stop: CancellationToken,
}

/// Accepts on `listener` until `stop`, and hands each connection over. Connections established by
/// then are still accepted, unless the service manager keeps the socket: there they wait for the
/// next start.
///
/// Must be called inside a runtime.
///
/// # Errors
/// When the listener cannot be registered with the runtime, or a connection cannot be handed over.
pub async fn accept(
    listener: Listener,
    around: Loop,
    mut hand_over: impl FnMut(Accepted) -> io::Result<()>,
) -> io::Result<()> {
    let Loop { tls, permits, metrics, mut orders, stop } = around;
    let kept_open = listener.kept_open;
    let socket = listener.register()?;
    let mut take = |permit, (stream, peer)| {
        metrics.add(Event::Accepted);
        hand_over(Accepted { stream, peer, tls: tls.load(Ordering::Relaxed), permit })
    };
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((permit, socket.next(|| metrics.add(Event::AcceptError)).await))
        };
        let (permit, accepted) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(order) = orders.recv() => {
                socket.obey(order);
                continue;
            }
            next = next => next?,
        };
        take(permit, accepted)?;
    }
    if kept_open {
        return Ok(());
    }
    let socket = socket.last_calls()?;
    loop {
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { return Ok(()) };
        match socket.accept() {
            Ok(accepted) => take(permit, accepted)?,
            Err(error) if is_of_one_connection(&error) => {}
            Err(_) => return Ok(()),
        }
    }
}

/// A socket that is about to be closed. It asks the system directly for established connections:
/// the runtime knows only those of its last turn, and closing the socket would reset the others.
enum Closing {
    Tcp(StdTcpListener),
    Unix(StdUnixListener, #[expect(dead_code, reason = "kept for its drop")] Option<SocketFile>),
}

impl Closing {
    /// The next established connection, if any; never waits.
    fn accept(&self) -> io::Result<(Unregistered, SocketAddr)> {
        Ok(match self {
            Closing::Tcp(socket) => {
                let (stream, peer) = socket.accept()?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                (Unregistered::Tcp(stream), peer)
            }
            Closing::Unix(socket, _) => {
                let (stream, _) = socket.accept()?;
                stream.set_nonblocking(true)?;
                (Unregistered::Unix(stream), UNIX_PEER)
            }
        })
    }
}

/// Drops only the first packet of a new connection: SYN without ACK, in the byte of the flags (RFC
/// 9293, section 3.1). Accepted connections inherit the filter, which does not affect them: none of
/// their packets is of that kind.
fn no_new_connections() -> [SockFilter; 5] {
    // Classic BPF (bpf(4)): load the byte at offset 13; mask it with 0x12; compare with SYN alone,
    // 0x02; drop; pass.
    [
        SockFilter::new(0x30, 0, 0, 13),
        SockFilter::new(0x54, 0, 0, 0x12),
        SockFilter::new(0x15, 0, 1, 0x02),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ]
}

/// A listening socket that is registered with a runtime.
pub struct Registered(RegisteredSocket);

enum RegisteredSocket {
    Tcp(TcpListener),
    /// The file is removed with the socket.
    Unix(UnixListener, Option<SocketFile>),
}

impl Registered {
    /// Waits for the next connection. Errors do not end the wait: `failed` is called for each
    /// connection that cannot be accepted.
    pub async fn next(&self, failed: impl Fn()) -> (Unregistered, SocketAddr) {
        loop {
            match self.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if is_of_one_connection(&error) => {
                    debug!(%error, "a connection was gone before it was accepted")
                }
                Err(error) => {
                    failed();
                    warn!(%error, "cannot accept connections at the moment");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        }
    }

    fn obey(&self, order: Order) {
        // The requester may have gone away.
        match order {
            Order::Answer(answer) => drop(answer.send(())),
            Order::Share(answer) => drop(answer.send(match &self.0 {
                RegisteredSocket::Tcp(socket) => SockRef::from(socket).set_reuse_port(true),
                RegisteredSocket::Unix(..) => Ok(()),
            })),
        }
    }

    /// Refuses new connections and returns what accepts those already established. A client that
    /// tries meanwhile sends its SYN again after about a second (RFC 6298), to the next listener if
    /// there is one.
    fn last_calls(self) -> io::Result<Closing> {
        Ok(match self.0 {
            RegisteredSocket::Tcp(socket) => {
                if let Err(error) = SockRef::from(&socket).attach_filter(&no_new_connections()) {
                    debug!(%error, "a connection made at the moment in which a listener is closed may be reset");
                }
                Closing::Tcp(socket.into_std()?)
            }
            RegisteredSocket::Unix(socket, file) => Closing::Unix(socket.into_std()?, file),
        })
    }

    async fn accept(&self) -> io::Result<(Unregistered, SocketAddr)> {
        match &self.0 {
            RegisteredSocket::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Unregistered::Tcp(stream.into_std()?), peer))
            }
            RegisteredSocket::Unix(socket, _) => {
                let (stream, _) = socket.accept().await?;
                Ok((Unregistered::Unix(stream.into_std()?), UNIX_PEER))
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput | NotConnected)
}
