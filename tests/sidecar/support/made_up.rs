//! A fake database server: MySQL's protocol as far as the sidecar uses it (MySQL's source
//! documentation, "Client/Server Protocol"), in which any packet can be corrupted. It ends the
//! conversation on anything that it does not understand, and after a corrupted response.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// A client that sends nothing for so long waits for more than it will get.
const SILENCE: Duration = Duration::from_secs(1);

/// Corrupts one packet for the client, given its index in the conversation and its bytes, including
/// the header of four. `None` ends the conversation.
pub type Spoil = dyn Fn(usize, Vec<u8>) -> Option<Vec<u8>> + Send + Sync;

/// The conversation before corruption.
#[derive(Clone)]
pub struct Conversation {
    /// The plugin that the greeting names.
    pub plugin: &'static str,
    /// The responses to the packets with which a client logs in, one by one; the last is OK.
    pub login: Vec<Vec<u8>>,
    /// CLIENT_DEPRECATE_EOF: rows end with a different packet.
    pub newer: bool,
}

impl Conversation {
    pub fn plain() -> Self {
        Conversation { plugin: "mysql_native_password", login: vec![ok()], newer: false }
    }
}

pub struct MadeUp {
    address: SocketAddr,
    /// Packets sent in the longest conversation.
    longest: Arc<AtomicUsize>,
}

impl MadeUp {
    /// Accepts connections as long as the runtime exists.
    pub async fn start(conversation: Conversation, spoil: Box<Spoil>) -> MadeUp {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, longest) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let (conversation, spoil, sent) = (Arc::new(conversation), Arc::new(spoil), Arc::clone(&longest));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (conversation, spoil, sent) = (Arc::clone(&conversation), Arc::clone(&spoil), Arc::clone(&sent));
                tokio::spawn(async move {
                    let mut talk = Talk { stream, sent: 0, conversation: &conversation, spoil: &**spoil };
                    talk.go_on().await;
                    sent.fetch_max(talk.sent, Ordering::SeqCst);
                });
            }
        });
        MadeUp { address, longest }
    }

    /// For `[wordpress] database_url`.
    pub fn url(&self) -> String {
        format!("mysql://user:{}@{}/site", super::mariadb::PASSWORD_IN_URL, self.address)
    }

    pub fn longest(&self) -> usize {
        self.longest.load(Ordering::SeqCst)
    }
}

struct Talk<'a> {
    stream: TcpStream,
    sent: usize,
    conversation: &'a Conversation,
    spoil: &'a Spoil,
}

impl Talk<'_> {
    /// `None` once it has ended.
    async fn go_on(&mut self) -> Option<()> {
        self.send(0, &[greeting(self.conversation)]).await?;
        let mut last: Option<(u8, &Vec<u8>)> = None;
        for answer in &self.conversation.login {
            let number = match last {
                // "Fast authentication worked": the next packet follows without a request.
                Some((number, before)) if before == &[1, 3] => number,
                _ => self.receive().await?.0,
            };
            self.send(number + 1, std::slice::from_ref(answer)).await?;
            last = Some((number + 1, answer));
        }
        loop {
            let (number, command) = self.receive().await?;
            self.send(number + 1, &self.answer(&command)?).await?;
        }
    }

    fn answer(&self, command: &[u8]) -> Option<Vec<Vec<u8>>> {
        let (code, text) = command.split_first()?;
        let newer = self.conversation.newer;
        let text = String::from_utf8_lossy(text);
        Some(match code {
            0x03 if text.contains("@@max_allowed_packet") => rows(2, b"16777216", newer),
            0x03 if text.starts_with("SELECT") || text.starts_with("SHOW") => {
                rows(text.matches(", ").count() + 1, b"1", newer)
            }
            0x03 | 0x0e => vec![ok()],
            0x16 => prepared(text.matches('?').count(), newer),
            0x17 => binary_rows(newer),
            // COM_STMT_CLOSE has no response.
            0x19 => Vec::new(),
            _ => return None,
        })
    }

    async fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 4];
        timeout(SILENCE, self.stream.read_exact(&mut header)).await.ok()?.ok()?;
        let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await.ok()?;
        let sent = String::from_utf8_lossy(&payload);
        assert!(!sent.contains("root:x:"), "a file was sent to the server");
        Some((header[3], payload))
    }

    /// The response with the corrupted packet is the last.
    async fn send(&mut self, first: u8, payloads: &[Vec<u8>]) -> Option<()> {
        let mut bytes = Vec::new();
        let mut goes_on = true;
        for (payload, number) in payloads.iter().zip(0..) {
            let packet = packet(first.wrapping_add(number), payload);
            match (self.spoil)(self.sent, packet.clone()) {
                Some(spoilt) => {
                    goes_on &= spoilt == packet;
                    bytes.extend(spoilt);
                }
                None => {
                    goes_on = false;
                    break;
                }
            }
            self.sent += 1;
        }
        self.stream.write_all(&bytes).await.ok()?;
        goes_on.then_some(())
    }
}

/// Adds the header.
pub fn packet(number: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [&length[..3], &[number], payload].concat()
}

pub fn greeting(conversation: &Conversation) -> Vec<u8> {
    // CLIENT_LONG_PASSWORD (so that no extended capabilities of MariaDB are read),
    // CLIENT_CONNECT_WITH_DB, CLIENT_PROTOCOL_41, CLIENT_TRANSACTIONS, CLIENT_SECURE_CONNECTION,
    // CLIENT_PLUGIN_AUTH, CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA.
    let mut capabilities: u32 = 1 | 1 << 3 | 1 << 9 | 1 << 13 | 1 << 15 | 1 << 19 | 1 << 21;
    if conversation.newer {
        capabilities |= 1 << 24;
    }
    let [a, b, c, d] = capabilities.to_le_bytes();
    [
        b"\x0a8.0.99\0\x07\0\0\0ABCDEFGH\0" as &[u8],
        // Capabilities with the character set and the status between their halves, the length of
        // the nonce, ten zeros.
        &[a, b, 45, 2, 0, c, d, 21, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        b"IJKLMNOPQRST\0",
        conversation.plugin.as_bytes(),
        b"\0",
    ]
    .concat()
}

pub fn ok() -> Vec<u8> {
    vec![0, 0, 0, 2, 0, 0, 0]
}

pub fn error(code: u16, text: &str) -> Vec<u8> {
    [&[0xff], &code.to_le_bytes()[..], b"#28000", text.as_bytes()].concat()
}

/// AuthSwitchRequest.
pub fn switch(plugin: &[u8], nonce: &[u8]) -> Vec<u8> {
    [&[0xfe], plugin, &[0], nonce].concat()
}

fn rows_end(newer: bool) -> Vec<u8> {
    if newer { vec![0xfe, 0, 0, 2, 0, 0, 0] } else { end_of_columns() }
}

fn end_of_columns() -> Vec<u8> {
    vec![0xfe, 0, 0, 2, 0]
}

fn column() -> Vec<u8> {
    let names = b"\x03def\0\0\0\x01c\x01c";
    // Length of the rest, character set, length, type VAR_STRING, flags, decimals, filler.
    [&names[..], &[0x0c, 45, 0, 0xff, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0]].concat()
}

fn columns(count: usize, newer: bool) -> Vec<Vec<u8>> {
    let end = (!newer && count > 0).then(end_of_columns);
    std::iter::repeat_n(column(), count).chain(end).collect()
}

/// A result with one row of this text in each column.
fn rows(count: usize, text: &[u8], newer: bool) -> Vec<Vec<u8>> {
    let mut all = vec![vec![u8::try_from(count).unwrap()]];
    all.extend(columns(count, newer));
    all.push([&[u8::try_from(text.len()).unwrap()], text].concat().repeat(count));
    all.push(rows_end(newer));
    all
}

/// The result of a prepared statement: one column.
fn binary_rows(newer: bool) -> Vec<Vec<u8>> {
    let mut all = vec![vec![1]];
    all.extend(columns(1, newer));
    all.push(b"\0\0\x011".to_vec());
    all.push(rows_end(newer));
    all
}

fn prepared(values: usize, newer: bool) -> Vec<Vec<u8>> {
    let [low, high] = u16::try_from(values).unwrap().to_le_bytes();
    let mut all = vec![vec![0, 1, 0, 0, 0, 1, 0, low, high, 0, 0, 0]];
    all.extend(columns(values, newer));
    all.extend(columns(1, newer));
    all
}
