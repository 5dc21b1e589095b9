//! Hand-written HTTP/1.1 on both sides, so that a test sees the exact bytes that a proxy might
//! change.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::port::Port;
use super::secrets;
use super::sidecar::{PATIENCE, wait_until};

/// The shortest response.
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A received message: head and body, the body with its chunks joined.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Start line and fields, including the empty line.
    pub head: Vec<u8>,
    /// The body, decoded.
    pub body: Vec<u8>,
    /// Whether the body was complete by its framing.
    pub complete: bool,
}

impl Message {
    /// The first line.
    pub fn start_line(&self) -> String {
        self.lines().next().unwrap_or_default()
    }

    /// The status of a response.
    pub fn status(&self) -> u16 {
        self.start_line().split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// The fields as (name, value), in order, with names as received.
    pub fn fields(&self) -> Vec<(String, String)> {
        self.lines()
            .skip(1)
            .filter_map(|line| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned())))
            .collect()
    }

    /// All values of a field.
    pub fn values(&self, name: &str) -> Vec<String> {
        let fields = self.fields().into_iter();
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    /// The only value of a field.
    pub fn value(&self, name: &str) -> Option<String> {
        let mut values = self.values(name);
        assert!(values.len() <= 1, "several {name}: {values:?}");
        values.pop()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        // Latin-1, so that no byte is lost.
        let head: String = self.head.iter().map(|byte| char::from(*byte)).collect();
        let lines: Vec<String> = head.split("\r\n").map(str::to_owned).collect();
        lines.into_iter()
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(2_000)]);
        let end = if self.complete { "" } else { " (cut short)" };
        write!(f, "{}{body} [{} bytes{end}]", String::from_utf8_lossy(&self.head), self.body.len())
    }
}

/// A TCP connection from this address of the client, any of the loopback network.
pub fn connect_from(client: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((client, 0)).into()).unwrap();
    socket.connect(&address.into()).expect("it listens");
    socket.into()
}

/// One side of a connection.
pub struct Connection {
    /// The underlying stream.
    pub stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    /// Connects as a client.
    pub fn to(address: SocketAddr) -> Connection {
        Connection::new(TcpStream::connect(address).expect("it listens"))
    }

    /// Like [`Connection::to`], from another client address.
    pub fn from(client: Ipv4Addr, address: SocketAddr) -> Connection {
        Connection::new(connect_from(client, address))
    }

    /// On an open stream.
    pub fn new(stream: TcpStream) -> Connection {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream, read: Vec::new() }
    }

    /// Writes bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).expect("the other side reads");
        self
    }

    /// Ends the writing side.
    pub fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Reads a request; `None` if the other side closed before its first byte.
    pub fn request(&mut self) -> Option<Message> {
        let head = self.head()?;
        let framing = framing(&head, Framing::Length(0));
        Some(self.body(head, framing))
    }

    /// Reads the response to a request of `method`.
    pub fn response_to(&mut self, method: &str) -> Message {
        let head = self.head().expect("an answer");
        let status = Message { head: head.clone(), body: Vec::new(), complete: true }.status();
        let framing = match status {
            _ if method == "HEAD" => Framing::Length(0),
            100..=199 | 204 | 304 => Framing::Length(0),
            _ => framing(&head, Framing::ToTheEnd),
        };
        self.body(head, framing)
    }

    /// Reads the response to any request except HEAD.
    pub fn response(&mut self) -> Message {
        self.response_to("GET")
    }

    /// Whether the other side closes. Waits for it.
    pub fn is_closed(&mut self) -> bool {
        self.read.is_empty() && !self.fill()
    }

    /// The head of the next message, without its body.
    pub fn head(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                return Some(self.read.drain(..end + 4).collect());
            }
            if !self.fill() {
                assert!(self.read.is_empty(), "half a head: {:?}", String::from_utf8_lossy(&self.read));
                return None;
            }
        }
    }

    /// The next `length` bytes, or fewer at the end.
    pub fn take(&mut self, length: usize) -> Vec<u8> {
        while self.read.len() < length && self.fill() {}
        let length = length.min(self.read.len());
        self.read.drain(..length).collect()
    }

    fn body(&mut self, head: Vec<u8>, framing: Framing) -> Message {
        let (body, complete) = match framing {
            Framing::Length(length) => {
                let body = self.take(length);
                let complete = body.len() == length;
                (body, complete)
            }
            Framing::Chunked => self.chunks(),
            Framing::ToTheEnd => {
                while self.fill() {}
                (std::mem::take(&mut self.read), true)
            }
        };
        secrets::register_tokens(&body);
        Message { head, body, complete }
    }

    fn chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let Some(size) = self.line() else { return (body, false) };
            let size = usize::from_str_radix(size.trim(), 16).expect("a chunk size");
            if size == 0 {
                while self.line().is_some_and(|line| !line.is_empty()) {}
                return (body, true);
            }
            let chunk = self.take(size);
            let complete = chunk.len() == size;
            body.extend(chunk);
            if !complete || self.line().is_none() {
                return (body, false);
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.read, b"\r\n") {
                let line: Vec<u8> = self.read.drain(..end + 2).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Reads more; `false` at the end (which a reset is, too). A test that waits too long fails
    /// here.
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 65536];
        let read = loop {
            match self.stream.read(&mut buffer) {
                // A child process of the tests has ended.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) => false,
            Ok(count) => {
                self.read.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing more comes: {error}; so far {:?}", String::from_utf8_lossy(&self.read)),
        }
    }
}

enum Framing {
    Length(usize),
    Chunked,
    ToTheEnd,
}

fn framing(head: &[u8], otherwise: Framing) -> Framing {
    let message = Message { head: head.to_vec(), body: Vec::new(), complete: true };
    if !message.values("transfer-encoding").is_empty() {
        return Framing::Chunked;
    }
    match message.values("content-length").first() {
        Some(length) => Framing::Length(length.parse().expect("a length")),
        None => otherwise,
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// An upstream that responds as the test says, and keeps every request that it received. On drop it
/// is gone, and its port is free.
pub struct Upstream {
    port: Port,
    requests: Arc<Mutex<Vec<Message>>>,
    connections: Arc<Mutex<usize>>,
    stopped: Arc<AtomicBool>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Upstream {
    /// Answers every request with [`OK`].
    pub fn ok() -> Upstream {
        Upstream::answering(|_| OK)
    }

    /// Answers every request with the bytes returned by `answer`, on connections that stay open
    /// unless the response has `Connection: close` or no framing.
    pub fn answering<A: AsRef<[u8]>>(answer: impl Fn(&Message) -> A + Send + Sync + 'static) -> Upstream {
        Upstream::with(move |connection, request| {
            let bytes = answer(request);
            connection.send(bytes.as_ref());
            let head_end = find(bytes.as_ref(), b"\r\n\r\n").map_or(0, |end| end + 4);
            let head = Message { head: bytes.as_ref()[..head_end].to_vec(), body: Vec::new(), complete: true };
            let closes = head.value("connection").is_some_and(|value| value == "close");
            let has_framing = !head.values("content-length").is_empty() || !head.values("transfer-encoding").is_empty();
            has_framing && !closes || matches!(head.status(), 204 | 304)
        })
    }

    /// Passes each request to `serve`, which writes the response and returns whether the connection
    /// is kept.
    pub fn with(serve: impl Fn(&mut Connection, &Message) -> bool + Send + Sync + 'static) -> Upstream {
        let requests: Arc<Mutex<Vec<Message>>> = Arc::default();
        let (seen, stopped) = (Arc::clone(&requests), Arc::<AtomicBool>::default());
        let stop = Arc::clone(&stopped);
        Upstream::raw(requests, stopped, move |mut connection| {
            while let Some(request) = connection.request() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                seen.lock().unwrap().push(request.clone());
                if !serve(&mut connection, &request) {
                    return;
                }
            }
        })
    }

    /// Passes each connection to `serve`.
    pub fn of_connections(serve: impl Fn(Connection) + Send + Sync + 'static) -> Upstream {
        Upstream::raw(Arc::default(), Arc::default(), serve)
    }

    fn raw(
        requests: Arc<Mutex<Vec<Message>>>,
        stopped: Arc<AtomicBool>,
        serve: impl Fn(Connection) + Send + Sync + 'static,
    ) -> Upstream {
        let port = Port::reserve();
        let listener = port.listen();
        let connections: Arc<Mutex<usize>> = Arc::default();
        let (count, stop, serve) = (Arc::clone(&connections), Arc::clone(&stopped), Arc::new(serve));
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                *count.lock().unwrap() += 1;
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(Connection::new(stream)));
            }
        });
        Upstream { port, requests, connections, stopped, accepting: Mutex::new(Some(accepting)) }
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// From now on open connections get no response, and new ones are refused as long as this
    /// exists.
    pub fn stop(&self) {
        let Some(accepting) = self.accepting.lock().unwrap().take() else { return };
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the accept loop.
        let _ = TcpStream::connect(self.address());
        accepting.join().unwrap();
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Message> {
        self.requests.lock().unwrap().clone()
    }

    /// Waits until so many requests have arrived.
    pub fn wait_for_requests(&self, count: usize) {
        wait_until(&format!("{count} requests"), || self.requests.lock().unwrap().len() >= count);
    }

    /// The only request so far.
    pub fn request(&self) -> Message {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.into_iter().next().unwrap()
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop();
    }
}
