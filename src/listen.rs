//! Taking connections in: a permit first, then accept, then over to a worker. Nothing slow happens here.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// A restart or a burst must not meet a full queue; the kernel caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Out of file descriptors, accept fails again and again at once: without a pause that is a full core for nothing.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// A connection on its way to a worker. The permit counts it until it is closed.
pub struct Accepted {
    /// The connection, set non-blocking.
    pub stream: StdStream,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Its share of `[server] max_connections`.
    pub permit: OwnedSemaphorePermit,
}

/// Opens a listening socket.
///
/// # Errors
/// What the system says: address in use, not this machine's, port below 1024 without the right.
pub fn bind(address: SocketAddr) -> io::Result<StdListener> {
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
    listener: StdListener,
    permits: Arc<Semaphore>,
    workers: Vec<UnboundedSender<Accepted>>,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut turn = workers.iter().cycle();
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            next = next => next,
        };
        let (Some(permit), Some(worker)) = (permit, turn.next()) else { return Ok(()) };
        let handed_over = accepted.and_then(|(stream, peer)| {
            stream.set_nodelay(true)?;
            Ok(Accepted { stream: stream.into_std()?, peer, permit })
        });
        match handed_over {
            Ok(accepted) => {
                if worker.send(accepted).is_err() {
                    return Ok(());
                }
            }
            Err(error) if is_of_one_connection(&error) => {
                debug!(%error, "a connection was gone before it was accepted")
            }
            Err(error) => {
                warn!(%error, "cannot accept connections at the moment");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput | NotConnected)
}
