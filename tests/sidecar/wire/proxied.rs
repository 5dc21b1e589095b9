//! One exchange through a proxy, seen from both sides as bytes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::generated::Case;
use crate::support::raw::{Connection, Upstream};

/// A message as it arrived.
#[derive(Default)]
pub struct Arrived {
    pub head: Vec<u8>,
    pub data: Vec<u8>,
    /// What follows the last chunk, including the empty line.
    pub trailers: Option<Vec<u8>>,
}

/// Bytes of a response, and whether the connection ends after them.
type AtHand = Arc<Mutex<(Vec<u8>, bool)>>;

/// An upstream that sends the current case's response and keeps the request that arrived.
pub struct Site {
    upstream: Upstream,
    at_hand: AtHand,
    arrived: Arc<Mutex<Option<Arrived>>>,
}

impl Site {
    pub fn start() -> Site {
        let (at_hand, arrived): (AtHand, Arc<Mutex<Option<Arrived>>>) = Default::default();
        let (answer, keep) = (Arc::clone(&at_hand), Arc::clone(&arrived));
        let upstream = Upstream::of_connections(move |mut connection| {
            while let Some(head) = connection.head() {
                let request = rest(&mut connection, head, Framing::None);
                let (bytes, closes) = answer.lock().unwrap().clone();
                *keep.lock().unwrap() = Some(request);
                connection.send(bytes);
                if closes {
                    return;
                }
            }
        });
        Site { upstream, at_hand, arrived }
    }

    pub fn address(&self) -> SocketAddr {
        self.upstream.address()
    }

    /// What arrives at both ends for `case`. `None` for the upstream: the proxy answered the
    /// request itself.
    pub fn exchange(&self, client: &mut Connection, case: &Case) -> (Option<Arrived>, Arrived) {
        *self.at_hand.lock().unwrap() = (case.answer.bytes(), case.answer.closes());
        *self.arrived.lock().unwrap() = None;
        client.send(case.request.bytes());
        let head = client.head().expect("an answer");
        let has_body = case.request.method != "HEAD" && ![204, 304].contains(&status(&head));
        let answer = match has_body {
            true => rest(client, head, Framing::ToTheEnd),
            false => Arrived { head, ..Arrived::default() },
        };
        (self.arrived.lock().unwrap().take(), answer)
    }
}

/// The status in the head of a response.
pub fn status(head: &[u8]) -> u16 {
    let text = head.get(9..12).map(String::from_utf8_lossy);
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The headers in a head, with their names as they arrived.
pub fn fields(head: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let lines = head.split(|byte| *byte == b'\n').skip(1).map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let field = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((line[..colon].to_vec(), line[colon + 1..].trim_ascii().to_vec()))
    };
    lines.filter_map(field).collect()
}

enum Framing {
    None,
    ToTheEnd,
}

fn rest(connection: &mut Connection, head: Vec<u8>, otherwise: Framing) -> Arrived {
    let fields = fields(&head);
    let value =
        |name: &str| fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes())).map(|it| &it.1);
    if value("transfer-encoding").is_some() {
        let (data, trailers) = chunks(connection);
        return Arrived { head, data, trailers: Some(trailers) };
    }
    let data = match (value("content-length"), otherwise) {
        (Some(length), _) => connection.take(String::from_utf8_lossy(length).parse().expect("a length")),
        (None, Framing::None) => Vec::new(),
        (None, Framing::ToTheEnd) => connection.take(usize::MAX),
    };
    Arrived { head, data, trailers: None }
}

fn chunks(connection: &mut Connection) -> (Vec<u8>, Vec<u8>) {
    let mut data = Vec::new();
    loop {
        let size = usize::from_str_radix(String::from_utf8_lossy(&line(connection)).trim(), 16).expect("a size");
        if size == 0 {
            break;
        }
        data.extend(connection.take(size));
        assert_eq!(connection.take(2), b"\r\n");
    }
    let mut trailers = Vec::new();
    while !trailers.ends_with(b"\r\n\r\n") && trailers != b"\r\n" {
        trailers.extend(line(connection));
    }
    (data, trailers)
}

fn line(connection: &mut Connection) -> Vec<u8> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let byte = connection.take(1);
        assert!(!byte.is_empty(), "cut short");
        line.extend(byte);
    }
    line
}
