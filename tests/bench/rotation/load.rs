//! The load: hand-written HTTP on one thread, so that the client is not what is measured. It
//! consists of chains of refreshes, where each response's token is the next request's, and of
//! unknown tokens at a rate that does not wait for responses.

use std::cell::Cell;
use std::io::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, LocalSet};

use crate::support::mariadb::random_hex;
use crate::support::rig::ROUTE;

/// Characters of a token.
const TOKEN: usize = 32;

/// The address, and the site's host.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub host: String,
}

/// The result of a load: the duration of each measured exchange in microseconds, and the number of
/// exchanges including the warm-up.
#[derive(Default)]
pub struct Outcome {
    pub latencies: Vec<u32>,
    pub all: u64,
}

/// The measured span; the load begins at once.
#[derive(Clone, Copy)]
pub struct Span {
    pub from: Instant,
    pub until: Instant,
}

/// Chains of refreshes, one connection per token. Blocks until the span is over.
pub fn chains(target: &Target, span: Span, tokens: Vec<String>) -> Outcome {
    alone(async {
        let tasks: Vec<_> =
            tokens.into_iter().map(|token| tokio::task::spawn_local(chain(target.clone(), span, token))).collect();
        together(tasks).await
    })
}

async fn together(tasks: Vec<JoinHandle<Outcome>>) -> Outcome {
    let mut outcome = Outcome::default();
    for task in tasks {
        let one = task.await.unwrap();
        outcome.all += one.all;
        outcome.latencies.extend(one.latencies);
    }
    outcome
}

/// One unknown token, again and again on each connection.
pub fn refusals(target: &Target, span: Span, connections: usize) -> Outcome {
    alone(async {
        let tasks: Vec<_> = (0..connections).map(|_| tokio::task::spawn_local(refused(target.clone(), span))).collect();
        together(tasks).await
    })
}

/// `rate` unknown tokens a second, all different, whether or not the previous ones are answered.
/// Returns how many were answered.
pub fn flood(target: &Target, span: Span, connections: usize, rate: u64) -> u64 {
    alone(async {
        let answered = Rc::new(Cell::new(0));
        let tasks: Vec<_> = (0..connections)
            .map(|place| {
                let pace = Duration::from_secs(1) * u32::try_from(connections).unwrap() / u32::try_from(rate).unwrap();
                let begins = pace * u32::try_from(place).unwrap() / u32::try_from(connections).unwrap();
                tokio::task::spawn_local(flooding(target.clone(), span, begins, pace, Rc::clone(&answered)))
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        answered.get()
    })
}

fn alone<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, work)
}

async fn chain(target: Target, span: Span, mut token: String) -> Outcome {
    let mut client = Client::connect(&target).await;
    let mut outcome = Outcome::default();
    while Instant::now() < span.until {
        let began = Instant::now();
        let status = client.exchange(&token).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(client.answer()));
        token.clear();
        token.push_str(client.refresh_token());
        outcome.note(began, span);
    }
    outcome
}

async fn refused(target: Target, span: Span) -> Outcome {
    let mut client = Client::connect(&target).await;
    let token = "0".repeat(TOKEN);
    let mut outcome = Outcome::default();
    while Instant::now() < span.until {
        let began = Instant::now();
        assert_eq!(client.exchange(&token).await, 403);
        outcome.note(began, span);
    }
    outcome
}

async fn flooding(target: Target, span: Span, begins: Duration, pace: Duration, answered: Rc<Cell<u64>>) {
    let client = Client::connect(&target).await;
    let Client { stream, request, token_at, .. } = client;
    let (mut read, mut write) = stream.into_split();
    tokio::time::sleep(begins).await;
    let counting = tokio::task::spawn_local(async move {
        // The end of each read is kept, to find a status line that a read cuts in two.
        let (mut buffer, mut kept) = (vec![0; 65536], 0);
        const STATUS: &[u8] = b"HTTP/1.1 403";
        while let Ok(count @ 1..) = read.read(&mut buffer[kept..]).await {
            let filled = kept + count;
            let is_status = |window: &&[u8]| window[0] == STATUS[0] && *window == STATUS;
            let found = buffer[..filled].windows(STATUS.len()).filter(is_status).count();
            if (span.from..span.until).contains(&Instant::now()) {
                answered.set(answered.get() + found as u64);
            }
            kept = filled.min(STATUS.len() - 1);
            buffer.copy_within(filled - kept..filled, 0);
        }
    });
    let (mut due, mut batch) = (Instant::now(), Vec::new());
    // Impossible to guess, and cheap to generate: the client is not what is measured.
    let (random, mut count) = (random_hex::<8>(), 0_u64);
    while Instant::now() < span.until {
        batch.clear();
        while due <= Instant::now() {
            let at = batch.len() + token_at;
            batch.extend_from_slice(&request);
            batch[at..at + TOKEN / 2].copy_from_slice(random.as_bytes());
            write!(&mut batch[at + TOKEN / 2..at + TOKEN], "{count:016x}").unwrap();
            count += 1;
            due += pace;
        }
        // If the sidecar does not read, nothing more is sent, which shows in the number of
        // responses.
        let sent = tokio::time::timeout_at(span.until.into(), write.write_all(&batch)).await;
        if !matches!(sent, Ok(Ok(()))) {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
    }
    counting.abort();
}

impl Outcome {
    /// An exchange that began at `began` has just ended.
    pub fn note(&mut self, began: Instant, span: Span) {
        self.all += 1;
        let now = Instant::now();
        // The rate counts what ends within the span, however long it took.
        if (span.from..span.until).contains(&now) {
            self.latencies.push(u32::try_from((now - began).as_micros()).unwrap());
        }
    }
}

/// A persistent connection with one exchange after the other.
struct Client {
    address: SocketAddr,
    stream: TcpStream,
    request: Vec<u8>,
    token_at: usize,
    answer: Vec<u8>,
    /// Where the response's body begins.
    body: usize,
}

impl Client {
    async fn connect(target: &Target) -> Client {
        let body = format!("{{\"refresh_token\":\"{}\"}}", "0".repeat(TOKEN));
        let request = format!(
            "POST {ROUTE} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            target.host,
            body.len()
        )
        .into_bytes();
        let token_at = request.len() - TOKEN - 2;
        let stream = connected(target.address).await;
        Client { address: target.address, stream, request, token_at, answer: Vec::with_capacity(4096), body: 0 }
    }

    /// Sends the token and reads the whole response. Returns its status.
    async fn exchange(&mut self, token: &str) -> u16 {
        self.request[self.token_at..self.token_at + TOKEN].copy_from_slice(token.as_bytes());
        loop {
            self.answer.clear();
            // nginx closes a connection after a thousand requests.
            if self.stream.write_all(&self.request).await.is_ok()
                && self.stream.read_buf(&mut self.answer).await.unwrap_or(0) > 0
            {
                break;
            }
            self.stream = connected(self.address).await;
        }
        while !self.is_whole() {
            assert!(self.stream.read_buf(&mut self.answer).await.unwrap() > 0, "broken off");
        }
        std::str::from_utf8(&self.answer[9..12]).unwrap().parse().unwrap()
    }

    fn is_whole(&mut self) -> bool {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(end) = head.parse(&self.answer).unwrap() else { return false };
        self.body = end;
        let length = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
        let length = length.map(|field| std::str::from_utf8(field.value).unwrap().parse::<usize>().unwrap());
        let body = &self.answer[self.body..];
        length.map_or_else(|| body.ends_with(b"0\r\n\r\n"), |length| body.len() >= length)
    }

    fn answer(&self) -> &[u8] {
        &self.answer
    }

    fn refresh_token(&self) -> &str {
        const KEY: &[u8] = b"\"refresh_token\":\"";
        let at = self.body + memchr::memmem::find(&self.answer[self.body..], KEY).unwrap() + KEY.len();
        std::str::from_utf8(&self.answer[at..at + TOKEN]).unwrap()
    }
}

async fn connected(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}
