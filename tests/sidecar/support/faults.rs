//! A relay between the sidecar and MariaDB that simulates faults of networks and servers at the end
//! of a transaction.
//!
//! It knows the packets of the MySQL protocol, so that a fault hits a statement rather than a byte:
//! TCP on the sidecar's side, the server's Unix socket on the other.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::sidecar::PATIENCE;

/// A fault of one COMMIT, or of one ROLLBACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks, and the server never sees it.
    CutBefore,
    /// The server receives it, and the connection breaks at once.
    CutDuring,
    /// The server has executed it, and its result is lost with the connection.
    CutAfter,
    /// It reaches the server late by this much.
    Late(Duration),
    /// The result is late by this much.
    LateAnswer(Duration),
    /// The server returns this error and does nothing.
    Error(u16),
    /// The server executes it, and returns this error instead of OK.
    ErrorThough(u16),
}

/// A fault, and the statement that it waits for.
type Armed = (&'static [u8], Fault);

/// The relay. It ends with the test's process; connections end with their sides.
pub struct Relay {
    address: SocketAddr,
    armed: Arc<Mutex<Option<Armed>>>,
    hits: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

impl Relay {
    /// A relay to the server behind `socket`.
    pub fn to(socket: PathBuf) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let relay = Relay { address, armed: Arc::default(), hits: Arc::default(), stopped: Arc::default() };
        let (armed, hits, stopped) = (Arc::clone(&relay.armed), Arc::clone(&relay.hits), Arc::clone(&relay.stopped));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                // A server that is down refuses connections; so does the relay.
                let Ok(server) = UnixStream::connect(&socket) else { continue };
                client.set_nodelay(true).unwrap();
                let (armed, hits) = (Arc::clone(&armed), Arc::clone(&hits));
                std::thread::spawn(move || Pair { client, server, armed, hits }.relay());
            }
        });
        relay
    }

    /// The URL of a database through the relay.
    pub fn url(&self, url: &str) -> String {
        let url = url.split_once('?').map_or(url, |(url, _)| url);
        url.replace("@localhost/", &format!("@{}/", self.address))
    }

    /// Applies `fault` to the next COMMIT, and waits for that.
    pub fn strike(&self, fault: Fault) {
        self.strike_at(COMMIT, fault);
    }

    /// The same for the next ROLLBACK.
    pub fn strike_rollback(&self, fault: Fault) {
        self.strike_at(ROLLBACK, fault);
    }

    fn strike_at(&self, statement: &'static [u8], fault: Fault) {
        let before = self.hits.load(Ordering::SeqCst);
        *self.armed.lock().unwrap() = Some((statement, fault));
        let deadline = Instant::now() + PATIENCE;
        while self.hits.load(Ordering::SeqCst) == before {
            assert!(Instant::now() < deadline, "neither COMMIT nor ROLLBACK came by");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

struct Pair {
    client: TcpStream,
    server: UnixStream,
    armed: Arc<Mutex<Option<Armed>>>,
    hits: Arc<AtomicUsize>,
}

/// COM_QUERY with these texts.
const COMMIT: &[u8] = b"\x03COMMIT";
const ROLLBACK: &[u8] = b"\x03ROLLBACK";

impl Pair {
    fn relay(mut self) {
        // Results are held back while this is set, until it has passed.
        let held: Arc<Mutex<Option<Instant>>> = Arc::default();
        // Replaces the next result. The client waits for it, and COMMIT's is one packet.
        let replaced: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
        let mut back = (self.server.try_clone().unwrap(), self.client.try_clone().unwrap());
        let (hold, replace) = (Arc::clone(&held), Arc::clone(&replaced));
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(count @ 1..) = back.0.read(&mut buffer) {
                let until = *hold.lock().unwrap();
                if let Some(until) = until {
                    std::thread::sleep(until.saturating_duration_since(Instant::now()));
                }
                let other = replace.lock().unwrap().take();
                if back.1.write_all(other.as_deref().unwrap_or(&buffer[..count])).is_err() {
                    break;
                }
            }
            let _ = (back.0.shutdown(Shutdown::Both), back.1.shutdown(Shutdown::Both));
        });
        while let Some(packet) = self.packet() {
            let fault = self.armed.lock().unwrap().take_if(|(statement, _)| packet[4..] == **statement);
            let fault = fault.map(|(_, fault)| fault);
            let forward = match fault {
                None => true,
                Some(Fault::CutBefore) => {
                    self.hit();
                    break;
                }
                Some(Fault::CutDuring) => {
                    let _ = self.server.write_all(&packet);
                    self.hit();
                    break;
                }
                Some(Fault::CutAfter) => {
                    // The other thread writes the result to a closed connection. When the server
                    // has closed the connection, it has executed everything before.
                    let _ = self.client.shutdown(Shutdown::Both);
                    let _ = self.server.write_all(&packet);
                    let _ = self.server.shutdown(Shutdown::Write);
                    self.hit();
                    break;
                }
                Some(Fault::Late(time)) => {
                    self.hit();
                    std::thread::sleep(time);
                    true
                }
                Some(Fault::LateAnswer(time)) => {
                    *held.lock().unwrap() = Some(Instant::now() + time);
                    self.hit();
                    true
                }
                Some(Fault::ErrorThough(code)) => {
                    *replaced.lock().unwrap() = Some(error(code, packet[3].wrapping_add(1)));
                    self.hit();
                    true
                }
                Some(Fault::Error(code)) => {
                    let sent = self.client.write_all(&error(code, packet[3].wrapping_add(1)));
                    self.hit();
                    if sent.is_err() {
                        break;
                    }
                    false
                }
            };
            if forward && self.server.write_all(&packet).is_err() {
                break;
            }
        }
        let _ = self.client.shutdown(Shutdown::Both);
        if self.server.shutdown(Shutdown::Write).is_err() {
            let _ = self.server.shutdown(Shutdown::Both);
        }
    }

    fn hit(&self) {
        self.hits.fetch_add(1, Ordering::SeqCst);
    }

    /// The client's next packet, with its header.
    fn packet(&mut self) -> Option<Vec<u8>> {
        let mut packet = vec![0; 4];
        self.client.read_exact(&mut packet).ok()?;
        let length = usize::from(packet[0]) | usize::from(packet[1]) << 8 | usize::from(packet[2]) << 16;
        packet.resize(4 + length, 0);
        self.client.read_exact(&mut packet[4..]).ok()?;
        Some(packet)
    }
}

/// An ERR packet.
fn error(code: u16, sequence: u8) -> Vec<u8> {
    let mut payload = vec![0xff];
    payload.extend(code.to_le_bytes());
    payload.extend(b"#HY000a fault of the test's");
    let mut packet = vec![u8::try_from(payload.len()).unwrap(), 0, 0, sequence];
    packet.extend(payload);
    packet
}
