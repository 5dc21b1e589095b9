//! Taking connections in: a permit first, then accept, then over to a worker. Nothing slow happens here.

mod unix_socket;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::config::{ListenAddress, UnixSockets};
use crate::metrics::{Event, Shard};
use crate::stream::Unregistered;
use crate::tls::Acceptor;
use unix_socket::SocketFile;

/// A restart or a burst must not meet a full queue; the kernel caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Out of file descriptors, accept fails again and again at once: without a pause that is a full core for nothing.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// Who connects by a unix socket is on this machine and has no address; the loopback's says just that.
const UNIX_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A socket that is listened on. Dropped, it is closed.
pub struct Listener {
    /// As it is in effect: with the port that the system chose.
    pub address: ListenAddress,
    /// Where clients speak TLS: what makes it of a connection.
    pub tls: Option<Acceptor>,
    socket: ListeningSocket,
}

enum ListeningSocket {
    Tcp(StdTcpListener),
    Unix(StdUnixListener, SocketFile),
}

/// A connection on its way to a worker. The permit counts it until it is closed.
pub struct Accepted {
    /// The connection.
    pub stream: Unregistered,
    /// Where it comes from; for a unix socket the loopback address with port 0.
    pub peer: SocketAddr,
    /// Where the client speaks TLS: what makes it of the connection.
    pub tls: Option<Acceptor>,
    /// Its share of `[server] max_connections`.
    pub permit: OwnedSemaphorePermit,
}

/// Opens a listening socket, with TLS where there is an acceptor. `unix` says what the file of a unix socket is like.
///
/// # Errors
/// What the system says: address in use, not this machine's, port below 1024 without the right.
pub fn bind(address: &ListenAddress, tls: Option<Acceptor>, unix: &UnixSockets) -> io::Result<Listener> {
    Ok(match address {
        ListenAddress::Tcp(address) => {
            let socket = bind_tcp(*address)?;
            Listener { address: ListenAddress::Tcp(socket.local_addr()?), tls, socket: ListeningSocket::Tcp(socket) }
        }
        ListenAddress::Unix(path) => {
            let (socket, file) = unix_socket::bind(path, unix)?;
            Listener { address: address.clone(), tls, socket: ListeningSocket::Unix(socket, file) }
        }
    })
}

fn bind_tcp(address: SocketAddr) -> io::Result<StdTcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts on `listener` until `stop`, and hands the connections to the workers in turn.
///
/// Must be called inside a runtime.
///
/// # Errors
/// When the listener cannot be registered with the runtime.
pub async fn accept(
    listener: Listener,
    permits: Arc<Semaphore>,
    workers: Vec<UnboundedSender<Accepted>>,
    metrics: Arc<Shard>,
    stop: CancellationToken,
) -> io::Result<()> {
    let Listener { tls, socket, address: _ } = listener;
    let socket = socket.register()?;
    let mut turn = workers.iter().cycle();
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            (permit, socket.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            next = next => next,
        };
        let (Some(permit), Some(worker)) = (permit, turn.next()) else { return Ok(()) };
        match accepted.map(|(stream, peer)| Accepted { stream, peer, tls: tls.clone(), permit }) {
            Ok(accepted) => {
                metrics.add(Event::Accepted);
                if worker.send(accepted).is_err() {
                    return Ok(());
                }
            }
            Err(error) if is_of_one_connection(&error) => {
                debug!(%error, "a connection was gone before it was accepted")
            }
            Err(error) => {
                metrics.add(Event::AcceptError);
                warn!(%error, "cannot accept connections at the moment");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

enum Registered {
    Tcp(TcpListener),
    /// The file goes when the socket does.
    Unix(UnixListener, #[expect(dead_code, reason = "kept for its drop")] SocketFile),
}

impl ListeningSocket {
    fn register(self) -> io::Result<Registered> {
        Ok(match self {
            ListeningSocket::Tcp(socket) => Registered::Tcp(TcpListener::from_std(socket)?),
            ListeningSocket::Unix(socket, file) => Registered::Unix(UnixListener::from_std(socket)?, file),
        })
    }
}

impl Registered {
    async fn accept(&self) -> io::Result<(Unregistered, SocketAddr)> {
        match self {
            Registered::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Unregistered::Tcp(stream.into_std()?), peer))
            }
            Registered::Unix(socket, _) => {
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
