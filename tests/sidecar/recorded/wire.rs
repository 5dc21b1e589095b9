//! One HTTP/1.1 exchange on a new connection, with the request written as given: no client library
//! adds a header.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Headers that web servers and proxies add. The recordings omit them, so they are not compared.
const OF_THE_WEB_SERVER: [&str; 8] =
    ["Server", "Date", "Connection", "Keep-Alive", "Transfer-Encoding", "Content-Length", "X-Powered-By", "Via"];

/// A response: the headers in their original order and case, the body without its framing.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The headers that no web server adds.
    pub fn own_headers(&self) -> Vec<(String, String)> {
        let is_own = |name: &str| !OF_THE_WEB_SERVER.iter().any(|other| other.eq_ignore_ascii_case(name));
        self.headers.iter().filter(|(name, _)| is_own(name)).cloned().collect()
    }
}

/// Sends the bytes of one request, which must ask for the connection to be closed, and reads the
/// whole response.
pub async fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut bytes = Vec::new();
    timeout(Duration::from_secs(30), stream.read_to_end(&mut bytes)).await.expect("an answer within 30 s").unwrap();

    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").expect("a header"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let header = |wanted: &str| {
        headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.as_str())
    };

    let body = &bytes[end + 4..];
    let body = if header("Transfer-Encoding") == Some("chunked") {
        without_chunks(body)
    } else {
        if let Some(length) = header("Content-Length") {
            assert_eq!(length.parse(), Ok(body.len()), "the body is as long as Content-Length says");
        }
        body.to_vec()
    };
    Answer { status, headers, body }
}

/// RFC 9112, section 7.1; extensions and trailers are not expected.
fn without_chunks(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n").expect("the end of a chunk's size");
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).expect("a chunk's size");
        rest = &rest[end + 2..];
        if size == 0 {
            assert_eq!(rest, b"\r\n", "nothing after the last chunk");
            return body;
        }
        body.extend_from_slice(&rest[..size]);
        assert_eq!(&rest[size..size + 2], b"\r\n", "the end of a chunk");
        rest = &rest[size + 2..];
    }
}
