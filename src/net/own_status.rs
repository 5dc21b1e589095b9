//! Asks a sidecar running on this machine for its status, on its admin listener.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::either::Either;

use super::ask::{AskError, ask};
use super::stream::UpstreamStream;
use crate::config::ListenAddress;

/// The status is in memory, so the response is quick.
const LIMIT: Duration = Duration::from_secs(5);

/// Far more than a status has, in bytes.
const LONGEST: usize = 8 << 20;

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum Silence {
    /// Nothing listens at the address, or connecting to it is not allowed.
    #[error("{0}: {1}")]
    Connect(ListenAddress, io::Error),
    /// Another program listens there.
    #[error("{0}: {1}")]
    Answer(ListenAddress, AskError),
    /// Another program, or one that does not know the host.
    #[error("{0} answers with {1}")]
    Status(ListenAddress, StatusCode),
    #[error("{0}: no answer within {LIMIT:?}")]
    Time(ListenAddress),
}

/// The JSON of `/status.json` from the sidecar that listens at `listen`.
///
/// # Errors
/// See [`Silence`].
pub async fn ask_status(listen: &ListenAddress) -> Result<Bytes, Silence> {
    timeout(LIMIT, asked(listen)).await.unwrap_or_else(|_| Err(Silence::Time(listen.clone())))
}

async fn asked(listen: &ListenAddress) -> Result<Bytes, Silence> {
    let connected = match listen {
        ListenAddress::Tcp(address) => TcpStream::connect(reachable(*address)).await.map(Either::Left),
        ListenAddress::Unix(path) => UnixStream::connect(path).await.map(Either::Right),
        ListenAddress::Systemd(_) => Err(io::Error::other("where that socket is, only its unit says")),
    };
    let stream: UpstreamStream = Either::Left(connected.map_err(|error| Silence::Connect(listen.clone(), error))?);
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = http::Uri::from_static("/status.json");
    request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("localhost"));
    let asked = ask(async { Ok(stream) }, request, LONGEST).await;
    let response = asked.map_err(|error| Silence::Answer(listen.clone(), error))?.response;
    match response.status() {
        StatusCode::OK => Ok(response.into_body()),
        status => Err(Silence::Status(listen.clone(), status)),
    }
}

/// A listener on all addresses can be reached on the loopback address.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
