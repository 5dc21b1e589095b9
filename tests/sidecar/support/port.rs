//! A port of the loopback that belongs to a test, whether or not anything listens on it.
//!
//! A port that was found free by a socket that is closed again may be taken by another test a
//! moment later, and then connections that should be refused succeed. Here the port stays bound, by
//! a socket that does not listen: connections are refused, the system gives it to no caller that
//! asks for any free port, and a program that asks for this very one with SO_REUSEADDR (as the
//! sidecar, nginx, Apache, MariaDB and std's `TcpListener` do) may listen on it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

/// A reserved port, released on drop.
pub struct Port {
    address: SocketAddr,
    _bound: Socket,
}

impl Port {
    /// Reserves a free port. Connections to it are refused until a program listens on it.
    pub fn reserve() -> Port {
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound.set_reuse_address(true).unwrap();
        bound.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = bound.local_addr().unwrap().as_socket().unwrap();
        Port { address, _bound: bound }
    }

    /// The loopback's address with this port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.address.port()
    }

    /// Listens on it. When that socket is closed, connections are refused again.
    pub fn listen(&self) -> TcpListener {
        TcpListener::bind(self.address).unwrap()
    }
}

#[test]
fn it_is_refused_before_and_after_listening_and_belongs_to_no_other() {
    let port = Port::reserve();
    let refused = || std::net::TcpStream::connect(port.address()).is_err();
    assert!(refused());
    let listening = port.listen();
    assert!(!refused());
    drop(listening);
    assert!(refused());
    drop(port.listen());
    // Without SO_REUSEADDR, binding it fails.
    let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    assert!(other.bind(&port.address().into()).is_err());
}
