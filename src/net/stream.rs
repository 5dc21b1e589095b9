//! Connections below HTTP: TCP or a unix socket, with TLS on it or without. What stands above does not need to know
//! which.

use std::future::Future as _;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{Interest, Ready};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};
use tokio_util::either::Either;
use tracing::debug;

/// A connection, registered with a runtime.
pub type Stream = Either<TcpStream, UnixStream>;

/// A client's connection with HTTP/1.x on it. TLS is boxed, so that a plain one does not carry its space.
pub type ClientStream = Either<Stream, Box<server::TlsStream<Stream>>>;

/// A connection to the upstream.
pub type UpstreamStream = Either<Stream, client::TlsStream<TcpStream>>;

/// The connection that TLS is spoken on, or the connection itself.
pub fn below(stream: &ClientStream) -> &Stream {
    match stream {
        Either::Left(stream) => stream,
        Either::Right(tls) => tls.get_ref().0,
    }
}

/// Whether the client sees a reset when the connection is closed from now on, instead of an orderly end. A unix socket
/// knows no such thing.
pub fn reset_at_close(stream: &ClientStream, resets: bool) {
    if let Stream::Left(tcp) = below(stream)
        && let Err(error) = SockRef::from(tcp).set_linger(resets.then_some(Duration::ZERO))
    {
        debug!(%error, "a connection was gone before its answer was sent");
    }
}

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
