//! Hand-written HTTP/2 frames, for what no client library would send.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use crate::support::raw::connect_from;
use crate::support::tls::{Authority, TlsConnection};

pub const DATA: u8 = 0;
const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// RFC 9113, 7: the stream is no longer wanted.
pub const CANCEL: u32 = 8;
/// RFC 9113, 7: the other side generates too much load.
pub const ENHANCE_YOUR_CALM: u32 = 0xb;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection on which a test writes frames.
pub struct RawHttp2 {
    connection: TlsConnection,
    read: Vec<u8>,
    failed: bool,
}

struct Received {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl RawHttp2 {
    /// After the TLS handshake, before any byte of HTTP/2.
    pub fn to(address: SocketAddr, authority: &Authority) -> RawHttp2 {
        RawHttp2::from(Ipv4Addr::LOCALHOST, address, authority)
    }

    /// Like [`RawHttp2::to`], from another client address.
    pub fn from(client: Ipv4Addr, address: SocketAddr, authority: &Authority) -> RawHttp2 {
        let socket = connect_from(client, address);
        let connection = TlsConnection::over(socket, "shop.example", authority.client(&["h2"])).unwrap();
        assert_eq!(connection.stream.conn.alpn_protocol(), Some(&b"h2"[..]));
        RawHttp2 { connection, read: Vec::new(), failed: false }
    }

    /// The preface and empty settings.
    pub fn hello(&mut self) {
        self.hello_with(&[]);
    }

    /// The preface and settings.
    pub fn hello_with(&mut self, settings: &[u8]) {
        self.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        self.frame(SETTINGS, 0, 0, settings);
    }

    /// Slower writes fail.
    pub fn limit_writes(&mut self, limit: std::time::Duration) {
        self.connection.stream.sock.set_write_timeout(Some(limit)).unwrap();
    }

    /// Whether a write has failed.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// The error that `stream` is reset with; waits for it.
    pub fn reset_of(&mut self, stream: u32) -> u32 {
        loop {
            let frame = self.receive().expect("a reset");
            if frame.kind == RST_STREAM && frame.stream == stream {
                return u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
            }
        }
    }

    /// How many bytes have arrived on `stream`; waits until there are `length`.
    pub fn data_of(&mut self, stream: u32, length: usize) -> usize {
        let mut received = 0;
        while received < length {
            let frame = self.receive().expect("more data");
            if frame.kind == DATA && frame.stream == stream {
                received += frame.payload.len();
            }
        }
        received
    }

    /// Reads up to the heads of `count` responses, and returns their streams.
    pub fn answered(&mut self, count: usize) -> Vec<u32> {
        let mut streams = Vec::new();
        while streams.len() < count {
            let frame = self.receive().expect("more answers");
            if frame.kind == HEADERS {
                assert_eq!(status(&frame.payload), 200);
                streams.push(frame.stream);
            }
        }
        streams
    }

    /// A request head.
    pub fn request(&mut self, stream: u32, fields: &[(&str, &str)], ends: bool) {
        let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
        self.frame(HEADERS, flags, stream, &block(fields));
    }

    pub fn reset(&mut self, stream: u32) {
        self.frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    }

    /// Up to 4,096 streams, until the other side ends the connection.
    pub fn flood(&mut self, mut each: impl FnMut(&mut Self, u32)) {
        for stream in (1..8192).step_by(2) {
            each(self, stream);
            if self.failed {
                return;
            }
        }
    }

    /// A head that continues with 1 MiB of CONTINUATION frames.
    pub fn head_without_end(&mut self, fields: &[(&str, &str)]) {
        self.frame(HEADERS, 0, 1, &block(fields));
        let more = block(&[("x-more", &"x".repeat(8000))]);
        for _ in 0..128 {
            self.frame(CONTINUATION, 0, 1, &more);
        }
    }

    /// Any frame. A failed write is not an error yet: the other side may have sent the reason
    /// before.
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.write(&frame);
    }

    /// Whether the stream or the connection ends with an error, or the response is a 400. Waits for
    /// it.
    pub fn is_refused(&mut self, stream: u32) -> bool {
        loop {
            match self.receive() {
                Some(frame) if frame.kind == GOAWAY => return frame.payload[4..8] != [0; 4],
                Some(frame) if frame.stream == stream && frame.kind == RST_STREAM => return true,
                Some(frame) if frame.stream == stream && frame.kind == HEADERS => return is_400(&frame.payload),
                Some(_) => {}
                None => return true,
            }
        }
    }

    /// The status of the response on `stream`.
    pub fn status(&mut self, stream: u32) -> u16 {
        loop {
            let frame = self.receive().expect("an answer");
            if frame.kind == HEADERS && frame.stream == stream {
                return status(&frame.payload);
            }
            assert!(frame.kind != GOAWAY && (frame.kind != RST_STREAM || frame.stream != stream), "refused");
        }
    }

    /// Waits until the other side ends the connection, with this error if it sends one: bytes still
    /// in transit when it closes turn the close into a reset, and its last frames are lost.
    pub fn ends_with(&mut self, error: u32) {
        while let Some(frame) = self.receive() {
            if frame.kind == GOAWAY {
                assert_eq!(frame.payload[4..8], error.to_be_bytes());
            }
        }
    }

    /// Whether the other side closes; waits for it, and skips whatever it sends before.
    pub fn is_closed(&mut self) -> bool {
        while self.receive().is_some() {}
        true
    }

    fn receive(&mut self) -> Option<Received> {
        loop {
            if let [a, b, c, kind, _, stream @ ..] = self.read.as_slice()
                && let Some((stream, _)) = stream.split_first_chunk::<4>()
            {
                let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap();
                let (kind, stream) = (*kind, u32::from_be_bytes(*stream));
                if self.read.len() >= 9 + length {
                    let payload = self.read.drain(..9 + length).skip(9).collect();
                    return Some(Received { kind, stream, payload });
                }
            }
            let mut buffer = [0; 16384];
            match self.connection.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.read.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("nothing more comes"),
                Err(_) => return None,
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.failed |= self.connection.stream.write_all(bytes).and_then(|()| self.connection.stream.flush()).is_err();
    }
}

/// HPACK (RFC 7541, 6.2.2): literals without indexing, new names, no Huffman coding.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

fn integer(block: &mut Vec<u8>, value: usize) {
    if value < 127 {
        return block.push(u8::try_from(value).unwrap());
    }
    block.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// `:status` comes first: indexed for the usual ones (RFC 7541, appendix A), otherwise a literal,
/// Huffman-coded.
fn status(block: &[u8]) -> u16 {
    match block {
        [0x88, ..] => 200,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        // Literal with incremental indexing, name 8 (`:status`), three bytes of Huffman code.
        [0x48, 0x83, 0x68, 0x0d, 0xff, ..] => 405,
        other => panic!("a status that this reader does not know: {:02x?}", &other[..other.len().min(8)]),
    }
}

fn is_400(block: &[u8]) -> bool {
    status(block) == 400
}
