//! Connections below HTTP: TCP or a unix socket, with or without TLS. The layers above need not
//! distinguish them.

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

/// A client's connection that carries HTTP/1.x. TLS is boxed, so that plain connections need less
/// memory.
pub type ClientStream = Either<Stream, Box<server::TlsStream<Stream>>>;

/// A connection to the upstream.
pub type UpstreamStream = Either<Stream, client::TlsStream<TcpStream>>;

/// The connection below TLS, or the connection itself.
pub fn below(stream: &ClientStream) -> &Stream {
    match stream {
        Either::Left(stream) => stream,
        Either::Right(tls) => tls.get_ref().0,
    }
}

/// Whether closing the connection from now on resets it instead of ending it in order. Unix sockets
/// have no reset.
pub fn reset_at_close(stream: &ClientStream, resets: bool) {
    if let Stream::Left(tcp) = below(stream)
        && let Err(error) = SockRef::from(tcp).set_linger(resets.then_some(Duration::ZERO))
    {
        debug!(%error, "a connection was gone before its answer was sent");
    }
}

/// Which directions the other side has closed, even while bytes from it are unread: reading by an
/// orderly end, both by a reset. This is what the runtime already knows about the socket; it makes
/// no system call.
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

/// A non-blocking connection on its way from one runtime to another.
pub enum Unregistered {
    Tcp(std::net::TcpStream),
    Unix(StdUnixStream),
}

impl Unregistered {
    /// Registers it with the current runtime.
    ///
    /// # Errors
    /// If the system cannot watch one more socket.
    pub fn register(self) -> io::Result<Stream> {
        Ok(match self {
            Unregistered::Tcp(stream) => Stream::Left(TcpStream::from_std(stream)?),
            Unregistered::Unix(stream) => Stream::Right(UnixStream::from_std(stream)?),
        })
    }
}
