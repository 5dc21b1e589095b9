//! `0.0.0.0` and `[::]` with the same port: both may be configured, and a reload may add or remove
//! one while the other stays.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::reload::{Configured, get, url};
use crate::support::port::Port;
use crate::support::raw::{Connection, Upstream};
use crate::support::sidecar;
use crate::support::tls::{Authority, TlsConnection};

/// This port on both loopback addresses.
fn loopbacks(port: &Port) -> [SocketAddr; 2] {
    [(Ipv4Addr::LOCALHOST, port.number()).into(), (Ipv6Addr::LOCALHOST, port.number()).into()]
}

#[test]
fn both_families_of_a_port_come_and_go_and_no_connection_is_refused() {
    let upstream = Upstream::ok();
    let url = url(&upstream);
    let port = Port::reserve();
    let number = port.number();
    let [alone, both] = [format!("[\"[::]:{number}\"]"), format!("[\"0.0.0.0:{number}\", \"[::]:{number}\"]")];
    let one_of_ipv4 = format!("[\"[::]:{number}\", \"127.0.0.1:{number}\"]");
    let keys = |listen| [("upstream.url", url.as_str()), ("server.listen", listen)];
    let configured = Configured::start(&keys(&both));
    let stop: Arc<AtomicBool> = Arc::default();
    let mut open = loopbacks(&port).map(Connection::to);
    for client in &mut open {
        assert_eq!(get(client).status(), 200);
    }
    let knocking = loopbacks(&port).map(|address| {
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                assert_eq!(get(&mut Connection::to(address)).status(), 200, "{address}");
            }
        })
    });
    for (listen, said) in [
        (&alone, "opened again for IPv4 as well"),
        (&both, "opened again for IPv6 only"),
        (&alone, "opened again for IPv4 as well"),
        (&one_of_ipv4, "opened again for IPv6 only"),
    ] {
        let before = configured.sidecar.log().len();
        let line = configured.change(&keys(listen));
        assert!(line.contains("\"reloaded\""), "{listen}: {line}");
        let line = configured.sidecar.wait_for_log_after(before, said);
        assert!(line.contains(&format!("[::]:{number}")), "{line}");
        for address in loopbacks(&port) {
            assert_eq!(get(&mut Connection::to(address)).status(), 200, "{listen} {address}");
        }
    }
    stop.store(true, Ordering::SeqCst);
    for thread in knocking {
        thread.join().unwrap();
    }
    for client in &mut open {
        assert_eq!(get(client).status(), 200, "open connections go on");
    }
}

#[test]
fn both_families_of_a_port_speak_tls() {
    let authority = Authority::new();
    let pair = format!("[\"{}\"]", authority.issue("shop", &["shop.example"]).argument());
    let upstream = Upstream::ok();
    let port = Port::reserve();
    let number = port.number();
    let both = format!("[\"[::]:{number}\", \"0.0.0.0:{number}\"]");
    let keys = [("server.listen", "[]"), ("tls.listen", both.as_str()), ("tls.certificates", &pair)];
    let _configured = Configured::start(&[&keys[..], &[("upstream.url", &url(&upstream))]].concat());
    for address in loopbacks(&port) {
        let mut client = TlsConnection::to(address, "shop.example", authority.client(&["http/1.1"])).unwrap();
        assert!(client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "ok").starts_with("HTTP/1.1 200 OK"));
    }
}

/// One is for clients without TLS, the other for clients with TLS, and a reload may swap them.
#[test]
fn a_port_is_plain_for_one_family_and_speaks_tls_for_the_other() {
    let authority = Authority::new();
    let pair = format!("[\"{}\"]", authority.issue("shop", &["shop.example"]).argument());
    let upstream = Upstream::ok();
    let url = url(&upstream);
    let port = Port::reserve();
    let [ipv6, ipv4] = ["[::]", "0.0.0.0"].map(|address| format!("[\"{address}:{}\"]", port.number()));
    let keys = |plain, tls| {
        let certificates = ("tls.certificates", pair.as_str());
        [("upstream.url", url.as_str()), ("server.listen", plain), ("tls.listen", tls), certificates]
    };
    let [by_ipv4, by_ipv6] = loopbacks(&port);
    let configured = Configured::start(&keys(&ipv6, &ipv4));
    for (plain, tls) in [(by_ipv6, by_ipv4), (by_ipv4, by_ipv6)] {
        assert_eq!(get(&mut Connection::to(plain)).status(), 200, "{plain}");
        let mut client = TlsConnection::to(tls, "shop.example", authority.client(&["http/1.1"])).unwrap();
        assert!(client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "ok").starts_with("HTTP/1.1 200 OK"), "{tls}");
        assert!(configured.change(&keys(&ipv4, &ipv6)).contains("\"reloaded\""));
    }
}

#[test]
fn an_upstream_on_the_loopback_is_another_than_the_listener_for_ipv6() {
    let code = |listen: &[&str]| {
        let mut command = sidecar::command();
        command.args(["check", "--refresh-mode", "forward", "--upstream", "http://127.0.0.1:8080"]);
        command.args(listen.iter().flat_map(|address| ["--listen", address])).output().unwrap().status.code()
    };
    assert_eq!(code(&["[::]:8080"]), Some(78), "it would ask itself");
    assert_eq!(code(&["[::]:8080", "0.0.0.0:8080"]), Some(78));
    assert_eq!(code(&["[::]:8080", "203.0.113.1:8080"]), Some(0));
}
