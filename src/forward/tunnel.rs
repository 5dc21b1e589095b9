//! A connection that has switched protocols: it copies bytes in both directions. Each direction
//! closes by itself; the tunnel ends when both have closed or when nothing has passed for `[server]
//! tunnel_idle`.
//!
//! The worker counts tunnels and waits for them in a drain.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Response, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::error::ForwardError;
use super::response_body::ResponseBody;
use super::upgrade::{self, Upgrade};
use super::upstream::Lease;
use super::{Forwarder, Hop};
use crate::admission::places::Places;
use crate::client_addr::Peer;
use crate::fields::hop_by_hop;
use crate::http1::rewound::Rewound;
use crate::metrics::{Level, Open};
use crate::net::stream::{ClientStream, UpstreamStream};
use crate::request_id::RequestId;
use crate::time::alarm::Alarm;

/// Answers a 101 of the upstream with the client's own; after it the two connections are joined.
///
/// # Errors
/// The client asked for no switch, or for another protocol: it would misread the bytes that follow.
pub fn open(
    mut answer: Response<()>,
    lease: Lease,
    upgrade: Option<Upgrade>,
    forwarder: &Forwarder,
    hop: &Hop<'_>,
) -> Result<Response<ResponseBody>, ForwardError> {
    let Some(Upgrade { protocols, .. }) = upgrade else {
        return Err(ForwardError::UnaskedUpgrade);
    };
    if !upgrade::is_agreed(&protocols, answer.headers()) {
        return Err(ForwardError::UnaskedUpgrade);
    }
    hop_by_hop::remove(answer.headers_mut(), true, |name| name == header::CONTENT_LENGTH);
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    let open = forwarder.metrics.open(Level::Tunnels);
    let places = Places::default();
    let (tunnels, idle) = (forwarder.tunnels.clone(), forwarder.tunnel_idle);
    let tunnel = Tunnel { peer: hop.peer, tunnels, idle, lease, id: hop.id.clone(), open, places };
    Ok(answer.map(|()| ResponseBody::switch(tunnel)))
}

/// The upstream's half of a tunnel, with its slot in the pool.
pub struct Tunnel {
    peer: Peer,
    tunnels: TaskTracker,
    idle: Duration,
    lease: Lease,
    id: RequestId,
    open: Open,
    places: Places,
}

impl Tunnel {
    /// Holds these permits until the tunnel ends.
    pub fn holding(self, places: Places) -> Self {
        Tunnel { places, ..self }
    }

    /// Joins it with the client's half in a task of its own. The task keeps `held`, the client's
    /// permit among the connections, until the tunnel has ended.
    pub fn join(self, client: Rewound<ClientStream>, held: impl Sized + 'static) {
        let tunnels = self.tunnels.clone();
        tunnels.spawn_local(async move {
            self.run(client).await;
            drop(held);
        });
    }

    async fn run(self, client: Rewound<ClientStream>) {
        let Tunnel { peer, tunnels: _, idle, lease, id: request_id, open, places } = self;
        let (upstream, slot) = lease.into_stream();
        match join(client, upstream, idle).await {
            Ended::Closed(up, down) => debug!(%peer, %request_id, up, down, "a tunnel ended"),
            Ended::Broken(error) => debug!(%peer, %request_id, %error, "a tunnel broke"),
            Ended::Silent => debug!(%peer, %request_id, "a tunnel was closed: nothing passed within tunnel_idle"),
        }
        drop((slot, open, places));
    }
}

enum Ended {
    Closed(u64, u64),
    Broken(io::Error),
    Silent,
}

async fn join(client: Rewound<ClientStream>, mut upstream: Rewound<UpstreamStream>, idle: Duration) -> Ended {
    let moved = Cell::new(true);
    // Every byte of either direction passes here.
    let mut client = Noted { stream: client, moved: &moved };
    let mut copying = pin!(copy_bidirectional(&mut client, &mut upstream));
    let mut alarm = Alarm::default();
    let mut since = Instant::now();
    poll_fn(|cx| {
        if let Poll::Ready(copied) = copying.as_mut().poll(cx) {
            return Poll::Ready(match copied {
                Ok((up, down)) => Ended::Closed(up, down),
                Err(error) => Ended::Broken(error),
            });
        }
        if moved.take() {
            since = Instant::now();
        }
        alarm.poll_at(cx, since + idle).map(|()| Ended::Silent)
    })
    .await
}

/// A stream that records that bytes pass.
struct Noted<'a, S> {
    stream: S,
    moved: &'a Cell<bool>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() {
            self.moved.set(true);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_ready() {
            self.moved.set(true);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
