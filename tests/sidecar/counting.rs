//! What happens is counted, each thing once and under its own name. In this process, where the
//! numbers can be read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use wp_jwt_sidecar::internals::admin::exposition::Exposed;
use wp_jwt_sidecar::internals::assemble::{Parts, Sidecar};
use wp_jwt_sidecar::internals::config::{Config, ListenAddress, Sources};
use wp_jwt_sidecar::internals::listen::inherited::Inherited;
use wp_jwt_sidecar::internals::listen::listeners;
use wp_jwt_sidecar::internals::metrics::{Event, Level, Metrics, Timing};
use wp_jwt_sidecar::internals::net::dial::Dialer;
use wp_jwt_sidecar::internals::serve::{self, Load};
use wp_jwt_sidecar::internals::tls::Tls;

use crate::config::site::flag;
use crate::support::port::Port;
use crate::support::raw::{Connection, Message, Upstream};
use crate::support::sidecar::PATIENCE;
use crate::support::tls::{Authority, TlsConnection};

/// A sidecar in this process, with one worker. Dropped, it is drained.
struct Inside {
    metrics: Arc<Metrics>,
    exposed: Exposed,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Inside {
    fn of(upstream: SocketAddr, more: &[(&str, &str)]) -> Inside {
        let url = format!("http://{upstream}");
        let always = [
            ("upstream.url", url.as_str()),
            ("refresh.mode", "forward"),
            ("server.workers", "1"),
            ("server.listen", "127.0.0.1:0"),
        ];
        let flags = always.iter().chain(more).map(|(key, value)| flag(key, value)).collect();
        let config = Config::load(&Sources { flags, ..Sources::default() }).unwrap();
        let tls = Tls::load(&config.tls).unwrap();
        let bound = listeners::open(&config, tls.as_deref(), Inherited::from_environment().unwrap()).unwrap();
        // Where there is one with TLS, it is the last one.
        let ListenAddress::Tcp(address) = *bound.last().unwrap().address() else { panic!("a port") };
        let dialer = Dialer::new(&config.upstream).unwrap();
        let sidecar = Sidecar::assemble(Parts { config, dialer, tls: tls.clone(), installation: None }).unwrap();
        let metrics = Arc::clone(sidecar.metrics());
        let exposed = Exposed { metrics: Arc::clone(&metrics), refreshes: Arc::default(), refresher: None, tls };
        let load: Load = Arc::new(|| unreachable!("no SIGHUP is sent"));
        let (stop, stopped) = oneshot::channel();
        let shutdown = move || Ok(async move { drop(stopped.await) });
        let thread = std::thread::spawn(move || serve::serve(sidecar, bound, None, load, shutdown).unwrap());
        Inside { metrics, exposed, address, stop: Some(stop), thread: Some(thread) }
    }

    fn ask(&self, request: impl AsRef<[u8]>) -> Message {
        let mut client = Connection::to(self.address);
        client.send(request);
        client.response()
    }

    /// Waits until the number is this.
    fn expect(&self, event: Event, count: u64) {
        self.wait(&format!("{event:?}"), || self.metrics.count(event), count);
    }

    fn expect_level(&self, level: Level, open: u64) {
        self.wait(&format!("{level:?}"), || self.metrics.level(level), open);
    }

    fn wait(&self, what: &str, number: impl Fn() -> u64, expected: u64) {
        let deadline = Instant::now() + PATIENCE;
        while number() != expected {
            assert!(Instant::now() < deadline, "{what} is {}, not {expected}", number());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

#[test]
fn requests_by_what_became_of_them() {
    let upstream = Upstream::answering(|request| {
        let status = request.start_line().split(['/', ' ']).nth(2).unwrap().to_owned();
        format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n")
    });
    let sidecar =
        Inside::of(upstream.address(), &[("server.request_body_idle", "50ms"), ("server.max_header_bytes", "131072")]);
    let statuses = [200, 201, 301, 404, 410, 429, 500];
    let mut client = Connection::to(sidecar.address);
    for status in statuses {
        client.send(format!("GET /{status} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.response().status(), status);
    }
    for (event, count) in [
        (Event::Forward2xx, 2),
        (Event::Forward3xx, 1),
        (Event::Forward4xx, 3),
        (Event::Forward5xx, 1),
        (Event::Begun, 7),
    ] {
        assert_eq!(sidecar.metrics.count(event), count, "{event:?}");
    }
    assert_eq!(sidecar.metrics.timing(Timing::Forward).count(), 7);
    assert_eq!(sidecar.metrics.timing(Timing::Upstream).count(), 7);
    assert!(sidecar.metrics.timing(Timing::Upstream).seconds <= sidecar.metrics.timing(Timing::Forward).seconds);
    assert_eq!((sidecar.metrics.count(Event::UpstreamOpened), sidecar.metrics.count(Event::UpstreamReused)), (1, 6));
    assert_eq!((sidecar.metrics.level(Level::Connections), sidecar.metrics.level(Level::Upstream)), (1, 1));
    sidecar.expect_level(Level::UpstreamIdle, 1);
    drop(client);
    sidecar.expect_level(Level::Connections, 0);

    // Refused here, each for its reason.
    let host = "Host: a\r\n";
    for (request, status, event) in [
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405, Event::MethodRefused),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400, Event::InvalidHost),
        (
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: gzip, chunked\r\n\r\n"),
            501,
            Event::UnsupportedTransferEncoding,
        ),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\nzz\r\n"), 400, Event::InvalidRequestBody),
        (format!("POST / HTTP/1.1\r\n{host}Content-Length: 9\r\n\r\n"), 408, Event::RequestBodyTimeout),
        (format!("GET / HTTP/1.1\r\n{host}Bad Name: 1\r\n\r\n"), 400, Event::Malformed),
        (format!("GET /{} HTTP/1.1\r\n{host}\r\n", "a".repeat(66_000)), 414, Event::UriTooLong),
        (format!("GET / HTTP/1.1\r\n{host}{}\r\n", "A: b\r\n".repeat(300)), 431, Event::HeadTooLarge),
    ] {
        assert_eq!(sidecar.ask(&request).status(), status, "{event:?}");
        sidecar.expect(event, 1);
    }
    sidecar.expect(Event::Error4xx, 7);
    sidecar.expect(Event::Error5xx, 1);
    assert_eq!((sidecar.metrics.count(Event::Begun), sidecar.metrics.in_flight()), (15, 0));
    sidecar.expect_level(Level::Connections, 0);
    sidecar.expect(Event::Accepted, 9);

    let text = sidecar.exposed.clone().encode(Vec::new()).unwrap();
    for line in [
        "wp_jwt_sidecar_requests_total{kind=\"forward\",class=\"4xx\"} 3",
        "wp_jwt_sidecar_errors_total{reason=\"uri_too_long\",status=\"414\"} 1",
        "wp_jwt_sidecar_forward_duration_seconds_count 7",
        "wp_jwt_sidecar_connections_accepted_total 9",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    crate::support::secrets::keep(&text);
    crate::support::secrets::keep(&format!("{:?}", sidecar.metrics));
}

#[test]
fn trouble_with_the_site() {
    let closed = Port::reserve();
    let sidecar = Inside::of(closed.address(), &[]);
    assert_eq!(sidecar.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 502);
    sidecar.expect(Event::UpstreamUnreachable, 1);
    sidecar.expect(Event::Error5xx, 1);

    let upstream = Upstream::with(|connection, request| {
        match request.start_line().split(' ').nth(1) {
            // Until the sidecar hangs up.
            Some("/silent") => drop(connection.take(1)),
            Some("/nonsense") => {
                connection.send("SSH\r\n\r\n");
            }
            Some("/cut") => {
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
            }
            Some("/switch") => {
                connection.send("HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n");
                connection.take(1);
            }
            _ => {
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                return true;
            }
        }
        false
    });
    let sidecar = Inside::of(upstream.address(), &[("upstream.response_header_timeout", "2s")]);
    for (target, status, event) in [
        ("/silent", 504, Event::UpstreamTimeout),
        ("/nonsense", 502, Event::UpstreamBrokeOff),
        ("/switch", 502, Event::UpstreamUnaskedUpgrade),
        ("/cut", 200, Event::AnswerBrokeOff),
    ] {
        assert_eq!(sidecar.ask(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).status(), status);
        sidecar.expect(event, 1);
    }
    let mut client = Connection::to(sidecar.address);
    client.send("GET /switch HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n");
    assert_eq!(client.response().status(), 101);
    sidecar.expect(Event::Upgrade, 1);
    sidecar.expect_level(Level::Tunnels, 1);
    client.send("x");
    assert!(client.is_closed());
    drop(client);
    sidecar.expect_level(Level::Tunnels, 0);
    sidecar.expect_level(Level::Upstream, 0);
}

#[test]
fn clients_that_leave_or_are_refused() {
    let upstream = Upstream::with(|connection, _| {
        // Until the sidecar hangs up.
        connection.take(1);
        false
    });
    let limits = [("server.max_connections_per_address", "1"), ("server.first_byte_timeout", "50ms")];
    let sidecar = Inside::of(upstream.address(), &limits);
    let mut client = Connection::to(sidecar.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    sidecar.expect(Event::Begun, 1);
    assert_eq!(sidecar.metrics.in_flight(), 1);
    assert!(Connection::to(sidecar.address).is_closed());
    sidecar.expect(Event::RefusedPerAddress, 1);
    drop(client);
    sidecar.expect(Event::ClientClosed, 1);
    sidecar.expect(Event::Error4xx, 1);
    sidecar.expect_level(Level::Connections, 0);
    assert_eq!(sidecar.metrics.in_flight(), 0);
    assert!(Connection::to(sidecar.address).is_closed());
    sidecar.expect(Event::SilentFirstByte, 1);
}

#[test]
fn an_upload_that_breaks_when_its_answer_has_begun() {
    let upstream = Upstream::of_connections(|mut connection| {
        connection.head();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
        // Until the sidecar hangs up.
        while !connection.take(1 << 16).is_empty() {}
    });
    let sidecar = Inside::of(upstream.address(), &[]);
    let mut client = Connection::to(sidecar.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(format!("{:x}\r\n{}\r\n", 100_000, "x".repeat(100_000)));
    client.head().unwrap();
    client.send("zz\r\n");
    sidecar.expect(Event::InvalidRequestBody, 1);
    assert_eq!(client.take(9), b"abc");
    let of_the_upstream = [Event::AnswerBrokeOff, Event::AnswerSilent].map(|event| sidecar.metrics.count(event));
    assert_eq!((of_the_upstream, sidecar.metrics.count(Event::Forward2xx)), ([0, 0], 1));
    assert_eq!((sidecar.metrics.count(Event::Error4xx), sidecar.metrics.in_flight()), (0, 0));
}

#[test]
fn handshakes_and_certificates() {
    let upstream = Upstream::answering(|_| "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let authority = Authority::new();
    let pair = authority.issue_until("shop", &["shop.example"], 2090).argument();
    let settings = [("tls.listen", "127.0.0.1:0"), ("tls.certificates", &pair), ("tls.handshake_timeout", "2s")];
    let sidecar = Inside::of(upstream.address(), &settings);
    let of = |name: &str, config| TlsConnection::to(sidecar.address, name, config);
    assert!(of("shop.example", authority.client(&["http/1.1"])).is_ok());
    sidecar.expect(Event::HandshakeHttp1, 1);
    assert!(of("shop.example", authority.client(&["h2"])).is_ok());
    sidecar.expect(Event::HandshakeHttp2, 1);
    // Says why it leaves.
    assert!(of("shop.example", Authority::new().client(&["h2"])).is_err());
    sidecar.expect(Event::HandshakeAlert, 1);
    let mut plain = Connection::to(sidecar.address);
    plain.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    sidecar.expect(Event::HandshakeNotTls, 1);
    drop(Connection::to(sidecar.address));
    sidecar.expect(Event::HandshakeClosed, 1);
    let _silent = Connection::to(sidecar.address);
    sidecar.expect(Event::HandshakeTimeout, 1);
    let text = sidecar.exposed.clone().encode(Vec::new()).unwrap();
    let end = "wp_jwt_sidecar_tls_certificate_not_after_timestamp_seconds{name=\"shop.example\",kind=\"ECDSA P-256\"} 3786912000.0";
    assert!(text.lines().any(|line| line == end), "{text}");
}
