//! A proxy that splits reads from writes like ProxySQL with the two rules of its documentation:
//! `^SELECT.*FOR UPDATE$` goes to the writer, `^SELECT` to a reader, everything else to the writer.
//! A transaction stays where it began (`transaction_persistent`, on by default), and with
//! `autocommit = 0` its first statement begins it. Variables are set on both.
//!
//! Both servers must have the user without a password: the response to one server's greeting then
//! also fits the other's.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// Added to the numbers of the reader's prepared statements, to distinguish them from the writer's.
const READERS: u32 = 1 << 30;

const COM_QUIT: u8 = 1;
const COM_QUERY: u8 = 3;
const COM_STMT_PREPARE: u8 = 22;
const COM_STMT_EXECUTE: u8 = 23;
const COM_STMT_CLOSE: u8 = 25;
const COM_STMT_RESET: u8 = 26;

/// The proxy. It ends with the test's process.
pub struct Splitter {
    address: SocketAddr,
    read: Arc<Mutex<Vec<String>>>,
}

impl Splitter {
    /// A proxy between the servers behind these sockets.
    pub fn between(writer: PathBuf, reader: PathBuf) -> Splitter {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let splitter = Splitter { address: listener.local_addr().unwrap(), read: Arc::default() };
        let read = Arc::clone(&splitter.read);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                client.set_nodelay(true).unwrap();
                let (Ok(writer), Ok(reader)) = (UnixStream::connect(&writer), UnixStream::connect(&reader)) else {
                    continue;
                };
                let read = Arc::clone(&read);
                std::thread::spawn(move || Conversation::new(client, writer, reader, read).relay());
            }
        });
        splitter
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The statements that the reader received.
    pub fn read(&self) -> Vec<String> {
        self.read.lock().unwrap().clone()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Writer,
    Reader,
}

struct Conversation {
    client: TcpStream,
    writer: UnixStream,
    reader: UnixStream,
    read: Arc<Mutex<Vec<String>>>,
    autocommit: bool,
    /// The server with the open transaction.
    transaction: Option<Side>,
    /// How many results of the reader the client does not get.
    unheard: Arc<AtomicU32>,
    /// Whether the reader's next result contains the number of a prepared statement.
    prepares: Arc<AtomicBool>,
}

impl Conversation {
    fn new(client: TcpStream, writer: UnixStream, reader: UnixStream, read: Arc<Mutex<Vec<String>>>) -> Conversation {
        let (unheard, prepares) = (Arc::default(), Arc::default());
        Conversation { client, writer, reader, read, autocommit: true, transaction: None, unheard, prepares }
    }

    fn relay(mut self) {
        let _ = self.try_relay();
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.writer.shutdown(Shutdown::Both);
        let _ = self.reader.shutdown(Shutdown::Both);
    }

    fn try_relay(&mut self) -> Option<()> {
        let greeting = packet(&mut self.writer)?;
        packet(&mut self.reader)?;
        self.client.write_all(&greeting).ok()?;
        let response = packet(&mut self.client)?;
        self.writer.write_all(&response).ok()?;
        self.reader.write_all(&response).ok()?;
        let (answer, readers) = (packet(&mut self.writer)?, packet(&mut self.reader)?);
        assert_eq!((answer[4], readers[4]), (0, 0), "both know the user, without a password");
        self.client.write_all(&answer).ok()?;

        let (mut from, mut to) = (self.writer.try_clone().unwrap(), self.client.try_clone().unwrap());
        std::thread::spawn(move || {
            while let Some(answer) = packet(&mut from) {
                if to.write_all(&answer).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        });
        let (mut from, mut to) = (self.reader.try_clone().unwrap(), self.client.try_clone().unwrap());
        let (unheard, prepares) = (Arc::clone(&self.unheard), Arc::clone(&self.prepares));
        std::thread::spawn(move || {
            while let Some(mut answer) = packet(&mut from) {
                if unheard.load(Ordering::SeqCst) > 0 {
                    // These results have one packet.
                    unheard.fetch_sub(1, Ordering::SeqCst);
                    continue;
                }
                if prepares.swap(false, Ordering::SeqCst) && answer[4] == 0 {
                    let number = number(&answer[5..9]) + READERS;
                    answer[5..9].copy_from_slice(&number.to_le_bytes());
                }
                if to.write_all(&answer).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        });
        while let Some(command) = packet(&mut self.client) {
            self.command(command)?;
        }
        None
    }

    fn command(&mut self, mut command: Vec<u8>) -> Option<()> {
        match command[4] {
            COM_QUIT => None,
            COM_QUERY | COM_STMT_PREPARE => {
                let text = String::from_utf8_lossy(&command[5..]).into_owned();
                let is_query = command[4] == COM_QUERY;
                if is_query && text.starts_with("SET ") && !text.starts_with("SET STATEMENT") {
                    self.autocommit &= text != "SET autocommit = 0";
                    self.unheard.fetch_add(1, Ordering::SeqCst);
                    self.reader.write_all(&command).ok()?;
                    return self.writer.write_all(&command).ok();
                }
                let side = self.transaction.unwrap_or_else(|| route(&text));
                if is_query && text.starts_with("START TRANSACTION") {
                    self.transaction = Some(side);
                } else if is_query && (text == "COMMIT" || text == "ROLLBACK") {
                    self.transaction = None;
                } else if !self.autocommit {
                    self.transaction = Some(side);
                }
                if side == Side::Reader {
                    self.read.lock().unwrap().push(text);
                    self.prepares.store(!is_query, Ordering::SeqCst);
                }
                self.send(side, &command)
            }
            COM_STMT_EXECUTE | COM_STMT_CLOSE | COM_STMT_RESET => {
                let number = number(&command[5..9]);
                let side = if number >= READERS { Side::Reader } else { Side::Writer };
                command[5..9].copy_from_slice(&(number % READERS).to_le_bytes());
                self.send(side, &command)
            }
            _ => self.send(Side::Writer, &command),
        }
    }

    fn send(&mut self, side: Side, command: &[u8]) -> Option<()> {
        match side {
            Side::Writer => self.writer.write_all(command).ok(),
            Side::Reader => self.reader.write_all(command).ok(),
        }
    }
}

fn route(text: &str) -> Side {
    if text.starts_with("SELECT") && !text.ends_with("FOR UPDATE") { Side::Reader } else { Side::Writer }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().unwrap())
}

/// The next packet, with its header.
fn packet(from: &mut impl Read) -> Option<Vec<u8>> {
    let mut packet = vec![0; 4];
    from.read_exact(&mut packet).ok()?;
    let length = usize::from(packet[0]) | usize::from(packet[1]) << 8 | usize::from(packet[2]) << 16;
    packet.resize(4 + length, 0);
    from.read_exact(&mut packet[4..]).ok()?;
    Some(packet)
}
