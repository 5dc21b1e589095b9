//! Connections below TLS and HTTP: TCP or a unix socket. What stands above does not need to know which.

use std::future::Future as _;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{Interest, Ready};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

/// A connection, registered with a runtime.
pub type Stream = Either<TcpStream, UnixStream>;

/// Which directions the other side has closed, also while bytes of it are unread: the reading one by its end, both by a
/// reset. It is what the runtime was told of the socket by the way; the system is not asked.
pub fn closed(stream: &Stream) -> Ready {
    let both = Interest::READABLE | Interest::WRITABLE;
    let mut nobody = Context::from_waker(Waker::noop());
    let ready = match stream {
        Either::Left(stream) => pin!(stream.ready(both)).poll(&mut nobody),
        Either::Right(stream) => pin!(stream.ready(both)).poll(&mut nobody),
    };
    match ready {
        Poll::Ready(Ok(ready)) => ready,
        Poll::Ready(Err(_)) | Poll::Pending => Ready::EMPTY,
    }
}

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
