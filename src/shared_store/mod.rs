//! The store that several sidecars of a site share: Redis, Valkey, or a server with their protocol.
//!
//! No request waits for it longer than [`LIMIT`]. While it is away no request waits at all: requests
//! fail at once, and a background task reconnects. The log says once that it is away, and once that
//! it has returned.
// SECURITY: anyone who can write to the store can forge what it answers. `rate_limit` and
// `shared_verdict` limit what a forged answer can do.

mod client;
mod trouble;
mod value;
mod window;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::RedisResult;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::config::RateLimit;
use crate::metrics::{Counter, Histogram};
use client::{Client, Connection};
use trouble::Trouble;
pub use value::MOST as LONGEST_VALUE;
pub use window::Counted;

/// The time limit of one request. A refresh waits 50 ms at most, including the delay of a busy
/// worker.
const LIMIT: Duration = Duration::from_millis(45);

/// A store whose first answer takes longer is not used: it would soon miss [`LIMIT`].
const PROBE_LIMIT: Duration = Duration::from_millis(25);

/// The time limit of connecting: name, TCP, TLS and login, one server after the other with Sentinels
/// or a cluster.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);

/// The time limit of loading a script.
const SCRIPT_LIMIT: Duration = Duration::from_millis(250);

/// The time limit of connecting to one server of a cluster. A silent one must not use up
/// [`CONNECT_LIMIT`], which covers two rounds: the servers in the URL, then all that these name.
const NODE_LIMIT: Duration = Duration::from_millis(500);

const _: () = assert!(2 * NODE_LIMIT.as_millis() < CONNECT_LIMIT.as_millis());

/// After a connection that lasted this long, the pauses begin with [`FIRST_PAUSE`] again.
const LASTED: Duration = Duration::from_secs(60);

/// After this many short connections in a row, the log no longer has each loss and return: the next
/// return is logged once a connection has lasted.
const LOGGED: u32 = 2;

/// The first pause between two attempts to connect. Each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// The interval of probes, so that a probe and not a refresh finds a dead store.
const BEAT: Duration = Duration::from_secs(2);

/// Counters that outlast reloads.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests with an answer.
    pub answered: Counter,
    /// Requests without an answer in time.
    pub failed: Counter,
    /// Requests that were not sent, because the store was away.
    pub unasked: Counter,
    /// The time until an answer.
    pub took: Histogram,
}

/// The store. Shared by all workers.
pub struct SharedStore {
    client: Client,
    /// The prefix of all keys.
    prefix: String,
    link: Mutex<Link>,
    /// Whether the last log line about it was that it is away.
    is_logged_away: AtomicBool,
    lost: Notify,
    counts: Arc<Counts>,
}

/// The store gave no answer; log, status page and `check` have the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoAnswer;

enum Link {
    /// No connection has been tried yet.
    New,
    Up(Connected),
    Away(Trouble),
}

#[derive(Clone)]
struct Connected {
    connection: Connection,
    /// Counts this process's connections to the store: an error of an earlier connection must not
    /// close a later one.
    number: u64,
}

/// The state of the store, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its address, without user and password.
    pub label: String,
    pub is_up: bool,
    /// Why it cannot be used; `None` also before the first attempt.
    pub trouble: Option<String>,
}

impl SharedStore {
    /// Does not connect yet. `default_prefix` is used if none is configured. `None` if no store is
    /// configured.
    pub fn new(configured: &RateLimit, default_prefix: &str, counts: Arc<Counts>) -> Option<Self> {
        let prefix = configured.store_prefix.clone().unwrap_or_else(|| default_prefix.to_owned());
        let client = Client::of(configured)?;
        Some(SharedStore {
            client,
            prefix,
            link: Mutex::new(Link::New),
            is_logged_away: AtomicBool::new(false),
            lost: Notify::new(),
            counts,
        })
    }

    /// The prefix of all keys.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The counters.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The store's current state.
    pub fn standing(&self) -> Standing {
        let label = self.client.label().to_owned();
        match &*self.link() {
            Link::New => Standing { label, is_up: false, trouble: None },
            Link::Up(_) => Standing { label, is_up: true, trouble: None },
            Link::Away(trouble) => Standing { label, is_up: false, trouble: Some(trouble.to_string()) },
        }
    }

    /// Connects, and reconnects after each loss. Never returns.
    pub async fn keep_connected(&self) {
        let mut pause = FIRST_PAUSE;
        let (mut number, mut short_lived) = (0, 0);
        loop {
            match self.connect().await {
                Ok((connection, _)) => {
                    number += 1;
                    let began = Instant::now();
                    self.found(Connected { connection, number }, short_lived < LOGGED);
                    self.until_lost(began).await;
                    if began.elapsed() < LASTED {
                        short_lived += 1;
                    } else {
                        (pause, short_lived) = (FIRST_PAUSE, 0);
                    }
                }
                Err(trouble) => self.lose(None, trouble),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Tries the store once, for commands that examine an installation. Returns the time until the
    /// answer.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub async fn try_once(&self) -> Result<Duration, String> {
        self.connect().await.map(|(_, took)| took).map_err(|trouble| trouble.to_string())
    }

    /// The first [`LONGEST_VALUE`] bytes at the key `prefix` + `name`; empty if there is no value.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn value(&self, name: &str) -> Result<Vec<u8>, NoAnswer> {
        let Connected { mut connection, number } = self.connected()?;
        let key = format!("{}{name}", self.prefix);
        self.answered(number, value::read(&mut connection, &key)).await
    }

    /// Sets the key `prefix` + `name` to `value` for `seconds`.
    ///
    /// # Errors
    /// As [`SharedStore::value`].
    pub async fn set(&self, name: &str, value: &[u8], seconds: u64) -> Result<(), NoAnswer> {
        let Connected { mut connection, number } = self.connected()?;
        let key = format!("{}{name}", self.prefix);
        self.answered(number, value::write(&mut connection, &key, value, seconds)).await
    }

    /// Deletes the key `prefix` + `name` if it holds `value`.
    ///
    /// # Errors
    /// As [`SharedStore::value`].
    pub async fn delete(&self, name: &str, value: &[u8]) -> Result<(), NoAnswer> {
        let Connected { mut connection, number } = self.connected()?;
        let key = format!("{}{name}", self.prefix);
        self.answered(number, value::delete(&mut connection, &key, value)).await
    }

    /// Counts one request in the fixed window at the key `prefix` + `name`, unless it has `most`
    /// already. The first request opens the window for `length`.
    ///
    /// # Errors
    /// As [`SharedStore::value`].
    pub async fn count(&self, name: &str, most: u32, length: Duration) -> Result<Counted, NoAnswer> {
        let Connected { mut connection, number } = self.connected()?;
        let key = format!("{}{name}", self.prefix);
        self.answered(number, window::count(&mut connection, &key, most, length)).await
    }

    fn connected(&self) -> Result<Connected, NoAnswer> {
        if let Link::Up(connected) = &*self.link() {
            return Ok(connected.clone());
        }
        self.counts.unasked.add();
        Err(NoAnswer)
    }

    async fn answered<T>(&self, number: u64, asked: impl Future<Output = RedisResult<T>>) -> Result<T, NoAnswer> {
        let began = Instant::now();
        let trouble = match timeout(LIMIT, asked).await {
            Ok(Ok(answer)) => {
                self.counts.answered.add();
                self.counts.took.observe(began.elapsed());
                return Ok(answer);
            }
            Ok(Err(error)) => Trouble::of(&error),
            Err(_) => Trouble::Slow(LIMIT),
        };
        self.counts.failed.add();
        // An error about one key or one command says nothing about others: the next probe decides.
        if !trouble.is_of_one_question() {
            self.lose(Some(number), trouble);
        }
        Err(NoAnswer)
    }

    /// A connection that has passed the probe, which writes, and the probe's time: a store that cannot
    /// be written to is not used.
    async fn connect(&self) -> Result<(Connection, Duration), Trouble> {
        let connecting = self.client.connect();
        let mut connection = timeout(CONNECT_LIMIT, connecting).await.map_err(|_| Trouble::Slow(CONNECT_LIMIT))??;
        // The first probe loads the script.
        self.probe(&mut connection, SCRIPT_LIMIT).await?;
        let took = self.probe(&mut connection, PROBE_LIMIT).await?;
        // What only the verdicts need: missing rights must show here, not at a difference.
        let key = format!("{}probe", self.prefix);
        let deleting = value::delete(&mut connection, &key, b"1");
        timeout(SCRIPT_LIMIT, deleting)
            .await
            .map_err(|_| Trouble::Slow(SCRIPT_LIMIT))?
            .map_err(|error| Trouble::of(&error))?;
        Ok((connection, took))
    }

    async fn probe(&self, connection: &mut Connection, limit: Duration) -> Result<Duration, Trouble> {
        let (key, began) = (format!("{}probe", self.prefix), Instant::now());
        let probing = window::count(connection, &key, 1, BEAT);
        timeout(limit, probing).await.map_err(|_| Trouble::Slow(limit))?.map_err(|error| Trouble::of(&error))?;
        Ok(began.elapsed())
    }

    async fn until_lost(&self, began: Instant) {
        while let Ok(Connected { mut connection, number }) = self.up() {
            if began.elapsed() >= LASTED {
                self.log_return();
            }
            if timeout(BEAT, self.lost.notified()).await.is_err()
                && let Err(trouble) = self.probe(&mut connection, LIMIT).await
            {
                self.lose(Some(number), trouble);
            }
        }
    }

    fn up(&self) -> Result<Connected, NoAnswer> {
        if let Link::Up(connected) = &*self.link() { Ok(connected.clone()) } else { Err(NoAnswer) }
    }

    /// Takes the new connection. `is_logged`: the log says at once that the store has returned.
    fn found(&self, connected: Connected, is_logged: bool) {
        let before = std::mem::replace(&mut *self.link(), Link::Up(connected));
        match before {
            Link::New => {
                let store = self.client.label();
                info!(store, "the shared store is used: sidecars count refreshes together");
            }
            Link::Away(_) if is_logged => self.log_return(),
            Link::Away(_) | Link::Up(_) => {}
        }
    }

    /// Logs that the store has returned, if the last log line about it was that it is away.
    fn log_return(&self) {
        if self.is_logged_away.swap(false, Ordering::AcqRel) {
            let store = self.client.label();
            info!(store, "the shared store is available again");
        }
    }

    /// Marks the store as away after an error of connection `number`; `None`: connecting failed.
    fn lose(&self, number: Option<u64>, trouble: Trouble) {
        let mut link = self.link();
        if matches!(&*link, Link::Up(connected) if number != Some(connected.number)) {
            return;
        }
        let why = trouble.to_string();
        *link = Link::Away(trouble);
        drop(link);
        if !self.is_logged_away.swap(true, Ordering::AcqRel) {
            let store = self.client.label();
            warn!(
                store,
                why, "the shared store is unavailable; each sidecar counts refreshes on its own until it returns"
            );
        }
        self.lost.notify_one();
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        // A panic cannot leave it half-written: it is only replaced as a whole.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    fn store(url: &str) -> SharedStore {
        let configured = RateLimit { store: Some(Secret::new(url)), ..RateLimit::default() };
        SharedStore::new(&configured, "test:", Arc::default()).unwrap()
    }

    #[tokio::test]
    async fn nothing_waits_while_it_is_away() {
        let store = store("redis://:hunter2@127.0.0.1:1");
        assert_eq!(store.standing().trouble, None);
        let began = Instant::now();
        assert_eq!(store.count("a", 1, BEAT).await, Err(NoAnswer));
        assert!(began.elapsed() < Duration::from_millis(5));
        assert_eq!(store.counts().unasked.value(), 1);
        let problem = store.try_once().await.unwrap_err();
        assert!(problem.contains("Connection refused") && !problem.contains("hunter2"), "{problem}");
        let standing = store.standing();
        assert_eq!((standing.label.as_str(), standing.is_up), ("redis://127.0.0.1:1", false));
    }

    #[tokio::test]
    async fn a_server_of_another_kind_is_refused_without_its_words() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let store = store(&format!("redis://:hunter2@{}", listener.local_addr().unwrap()));
        let server = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut said = vec![0; 1024];
            let length = client.read(&mut said).await.unwrap();
            // Servers repeat a command that they do not know.
            let echo = String::from_utf8_lossy(&said[..length]).replace("\r\n", " ");
            let answer = format!("-ERR unknown command: {echo}\r\n").repeat(4);
            tokio::io::AsyncWriteExt::write_all(&mut client, answer.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            echo
        });
        let problem = store.try_once().await.unwrap_err();
        assert!(!problem.contains("hunter2"), "{problem}");
        assert!(server.await.unwrap().contains("hunter2"), "the password was sent and came back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_ends_at_the_limit() {
        let store = store("redis://127.0.0.1:1");
        let began = tokio::time::Instant::now();
        assert_eq!(store.answered(1, std::future::pending::<RedisResult<()>>()).await, Err(NoAnswer));
        assert!((LIMIT..Duration::from_millis(50)).contains(&began.elapsed()), "{:?}", began.elapsed());
        assert_eq!(store.counts().failed.value(), 1);
    }

    #[tokio::test]
    async fn only_the_connection_in_use_is_lost() {
        let store = store("redis://127.0.0.1:1");
        store.lose(None, Trouble::Slow(LIMIT));
        assert!(!store.standing().is_up);
        assert_eq!(store.standing().trouble.as_deref(), Some("no answer within 45ms"));
    }
}
