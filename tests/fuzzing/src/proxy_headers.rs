//! PROXY headers, compared with the crate `ppp`, which is more lenient: a header that the sidecar
//! accepts names the same client in `ppp`.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use ppp::{HeaderResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::runtime::{Builder, Runtime};

use crate::config::ProxyProtocol;
use crate::net::proxy_protocol::{Introduced, client_of, introduction};

/// The type of the TLS extension in a header of version 2.
const TLS: u8 = 0x20;

/// The header at the start of `bytes`.
pub fn header(bytes: &[u8]) {
    let mut rest = bytes;
    let found = read(&mut rest, ProxyProtocol::Any);
    let (mut as_v1, mut as_v2) = (bytes, bytes);
    let (as_v1, as_v2) = (read(&mut as_v1, ProxyProtocol::V1), read(&mut as_v2, ProxyProtocol::V2));
    assert_eq!(as_v1.or(as_v2), found);
    assert!(as_v1.is_none() || as_v2.is_none());
    let Some(found) = found else { return };

    let header = &bytes[..bytes.len() - rest.len()];
    assert_eq!(read(&mut &header[..], ProxyProtocol::Any), Some(found));
    assert_eq!(read(&mut &header[..header.len() - 1], ProxyProtocol::Any), None, "it ends where it ends");
    let (begin, end) = bytes.split_at(header.len() / 2);
    assert_eq!(read(&mut begin.chain(end), ProxyProtocol::Any), Some(found), "however it arrives");
    // Without a client's address the specification requires the rest to be skipped, but ppp parses
    // it.
    if found.address.is_some() {
        assert_eq!(found, to_ppp(header));
    }

    let ip = found.address.map(|address| address.ip());
    let again = introduction(ip);
    let introduced = ip.map(|ip| SocketAddr::new(ip, 0));
    assert_eq!(read(&mut &again[..], ProxyProtocol::V2), Some(Introduced { address: introduced, by_tls: false }));
}

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

fn read(stream: &mut (impl AsyncRead + Unpin), accepted: ProxyProtocol) -> Option<Introduced> {
    let trusted = ["10.0.0.0/8".parse().expect("a network")];
    let from = SocketAddr::from(([10, 0, 0, 1], 4711));
    RUNTIME.with(|runtime| {
        let _inside = runtime.enter();
        match pin!(client_of(stream, from, accepted, &trusted)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(found) => found.ok().flatten(),
            Poll::Pending => panic!("everything is there"),
        }
    })
}

fn to_ppp(header: &[u8]) -> Introduced {
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(read)) => {
            assert_eq!(read.header.len(), header.len());
            let address = match read.addresses {
                v1::Addresses::Unknown => None,
                v1::Addresses::Tcp4(it) => Some((IpAddr::from(it.source_address), it.source_port)),
                v1::Addresses::Tcp6(it) => Some((IpAddr::from(it.source_address), it.source_port)),
            };
            Introduced { address: address.map(SocketAddr::from), by_tls: false }
        }
        HeaderResult::V2(Ok(read)) => {
            assert_eq!(read.header.len(), header.len());
            let address = match read.addresses {
                v2::Addresses::IPv4(it) => Some((IpAddr::from(it.source_address), it.source_port)),
                v2::Addresses::IPv6(it) => Some((IpAddr::from(it.source_address), it.source_port)),
                v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
            };
            assert_eq!(read.command, v2::Command::Proxy);
            let by_tls = read.tlvs().any(|it| it.is_ok_and(|it| it.kind == TLS && it.value[0] & 1 == 1));
            Introduced { address: address.map(SocketAddr::from), by_tls }
        }
        refused => panic!("ppp refuses it: {refused:?}"),
    }
}
