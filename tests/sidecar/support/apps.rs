//! Clients that live from refresh to refresh like a mobile app: a call without a response is
//! retried with the same token.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::mariadb::{TestDatabase, TokenState};
use super::rig::call;
use super::sidecar::PATIENCE;

/// The pause before a retry.
const PAUSE: Duration = Duration::from_millis(50);

/// The result of one call.
#[derive(Debug)]
enum Answer {
    /// 200 with this refresh token.
    Pair(String),
    /// 403: for an app, the end of its session.
    Refused,
    /// Any other response, or none.
    Later,
}

/// The apps, running until they are stopped.
pub struct Apps {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Each call goes to the next one.
    addresses: Mutex<Vec<SocketAddr>>,
    stop: AtomicBool,
    rotations: AtomicUsize,
    /// Sessions that ended although every call had a response.
    lost: Mutex<Vec<String>>,
    /// Sessions that ended after a call without a response.
    lost_unanswered: AtomicUsize,
    /// The longest time that a call waited for its response.
    slowest: Mutex<Duration>,
    /// Tokens for users who log in again.
    spare: Mutex<Vec<String>>,
}

/// What happened to the apps.
#[derive(Debug)]
pub struct Report {
    pub lost: Vec<String>,
    pub lost_unanswered: usize,
    pub slowest: Duration,
}

impl Apps {
    /// Starts `count` apps, each with its own session.
    pub async fn start(count: usize, database: &TestDatabase, user: u64, address: SocketAddr) -> Apps {
        Apps::start_at(count, database, user, &[address]).await
    }

    /// The same; each call of an app goes to the next of `addresses`.
    pub async fn start_at(count: usize, database: &TestDatabase, user: u64, addresses: &[SocketAddr]) -> Apps {
        let tokens = database.insert_tokens(count * 20, TokenState::Live, user).await;
        let mut tokens: Vec<String> = tokens.into_iter().map(|token| token.refresh_token).collect();
        let spare = Mutex::new(tokens.split_off(count));
        let shared = Arc::new(Shared {
            addresses: Mutex::new(addresses.to_vec()),
            stop: AtomicBool::new(false),
            rotations: AtomicUsize::new(0),
            lost: Mutex::default(),
            lost_unanswered: AtomicUsize::new(0),
            slowest: Mutex::default(),
            spare,
        });
        let threads = tokens
            .into_iter()
            .enumerate()
            .map(|(first, token)| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.live(token, first))
            })
            .collect();
        Apps { shared, threads }
    }

    /// The sidecar has moved to another address.
    pub fn moved(&self, address: SocketAddr) {
        *self.shared.addresses.lock().unwrap() = vec![address];
    }

    /// Waits for so many more rotations.
    pub fn go_on(&self, rotations: usize) {
        let goal = self.shared.rotations.load(Ordering::SeqCst) + rotations;
        let deadline = Instant::now() + 3 * PATIENCE;
        while self.shared.rotations.load(Ordering::SeqCst) < goal {
            assert!(Instant::now() < deadline, "the apps are stuck");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Successful refreshes so far.
    pub fn rotations(&self) -> usize {
        self.shared.rotations.load(Ordering::SeqCst)
    }

    /// Ends the apps, each after one more refresh, which must succeed.
    pub fn end(self) -> Report {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        Report {
            lost: std::mem::take(&mut self.shared.lost.lock().unwrap()),
            lost_unanswered: self.shared.lost_unanswered.load(Ordering::SeqCst),
            slowest: *self.shared.slowest.lock().unwrap(),
        }
    }
}

impl Shared {
    fn live(&self, mut token: String, first: usize) {
        let mut calls = first;
        let mut unanswered = false;
        let mut last = None;
        loop {
            if self.stop.load(Ordering::SeqCst) && last.is_none() {
                last = Some(Instant::now() + 3 * PATIENCE);
            }
            let address = {
                let addresses = self.addresses.lock().unwrap();
                addresses[calls % addresses.len()]
            };
            calls += 1;
            let called = Instant::now();
            let answer = present(address, &token);
            {
                let mut slowest = self.slowest.lock().unwrap();
                *slowest = called.elapsed().max(*slowest);
            }
            match answer {
                Answer::Pair(next) => {
                    token = next;
                    unanswered = false;
                    self.rotations.fetch_add(1, Ordering::SeqCst);
                    if last.is_some() {
                        return;
                    }
                }
                Answer::Refused => {
                    if unanswered {
                        self.lost_unanswered.fetch_add(1, Ordering::SeqCst);
                    } else {
                        self.lost.lock().unwrap().push(token);
                    }
                    unanswered = false;
                    token = self.spare.lock().unwrap().pop().expect("not that many logins");
                }
                Answer::Later => {
                    unanswered = true;
                    std::thread::sleep(PAUSE);
                }
            }
            if last.is_some_and(|last| Instant::now() > last) {
                self.lost.lock().unwrap().push(format!("{token}: no answer any more"));
                return;
            }
        }
    }
}

fn present(address: SocketAddr, token: &str) -> Answer {
    let exchange = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let call = call(token).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        stream.write_all(call.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let Ok(answer) = exchange() else { return Answer::Later };
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    match head.split(' ').nth(1) {
        Some("200") => match serde_json::from_str::<serde_json::Value>(body) {
            Ok(body) => Answer::Pair(body["refresh_token"].as_str().unwrap().to_owned()),
            // The connection failed on the way.
            Err(_) => Answer::Later,
        },
        Some("403") => Answer::Refused,
        _ => Answer::Later,
    }
}
