//! A port of the loopback that is a test's own, whether anybody listens on it or not.
//!
//! What was found free by a socket that is closed again is anybody's: a moment later another test has it, and what should be
//! refused is answered. Here the port stays bound, by a socket that does not listen: connections are refused, the system
//! gives it to nobody who asks for any free one, and who asks for this very one with SO_REUSEADDR (the sidecar, nginx, Apache,
//! MariaDB and std's `TcpListener` do) may listen on it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

/// Such a port. Dropped, it is free.
pub struct Port {
    address: SocketAddr,
    _bound: Socket,
}

impl Port {
    /// Any free one. Until somebody listens on it, connections to it are refused.
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
fn it_is_refused_before_and_after_somebody_listens_and_nobody_elses() {
    let port = Port::reserve();
    let refused = || std::net::TcpStream::connect(port.address()).is_err();
    assert!(refused());
    let listening = port.listen();
    assert!(!refused());
    drop(listening);
    assert!(refused());
    drop(port.listen());
    // Without SO_REUSEADDR, nobody gets it.
    let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    assert!(other.bind(&port.address().into()).is_err());
}
