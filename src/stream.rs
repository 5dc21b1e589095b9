//! Connections below TLS and HTTP: TCP or a unix socket. What stands above does not need to know which.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;

use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

/// A connection, registered with a runtime.
pub type Stream = Either<TcpStream, UnixStream>;

/// A connection on its way from one runtime to another, set non-blocking.
pub enum Unregistered {
    /// By TCP.
    Tcp(std::net::TcpStream),
    /// By a unix socket.
    Unix(StdUnixStream),
}

impl Unregistered {
    /// Registers it with the runtime that this is called in.
    ///
    /// # Errors
    /// When the system cannot watch one more socket.
    pub fn register(self) -> io::Result<Stream> {
        Ok(match self {
            Unregistered::Tcp(stream) => Stream::Left(TcpStream::from_std(stream)?),
            Unregistered::Unix(stream) => Stream::Right(UnixStream::from_std(stream)?),
        })
    }
}
