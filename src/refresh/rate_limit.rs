//! The plugin's rate limit: a fixed window for each client address.
//!
//! The first request of an address opens a window. The window lets a fixed number of requests
//! through and refuses the rest until it ends. The sidecar counts the refresh route by itself, in
//! memory; the plugin counts forwarded calls in WordPress's transients.
//!
//! A client is an IPv4 address or a /64 network of IPv6, as for the limits of connections. On a
//! network of sites each site counts its clients separately. The windows of [`MAX_CLIENTS`] clients
//! are exact. Beyond that, the least recently used window is dropped, and its count goes into a
//! [`Sketch`], from which the client's next window begins.
//!
//! If several sidecars share a store ([`Shared`]), the store counts, and the windows here hold its
//! last answers: a client whose window is full is refused without another request to the store, and
//! when the store is away each sidecar goes on counting from these windows.
// SECURITY: so a client that makes room by a flood of addresses gets no new window by it, and the
// limit holds for everyone during a flood. The sketch may count too much, never too little.

mod sketch;

use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lru::LruCache;

use super::shared::Shared;
use crate::admission::per_address::network;
use crate::shared_store::{Counted, NoAnswer};
use crate::wordpress::options::RateLimit;
use sketch::Sketch;

/// How many clients have an exact window; at some 100 bytes each they take about 7 MB.
pub const MAX_CLIENTS: usize = 65_536;

/// Counts requests for each client. Shared by all workers; a clone is the same count.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    windows: Arc<Mutex<Windows>>,
    /// Which site of a network; 1 on a single site.
    blog: u64,
    /// The store in which other sidecars count, too.
    shared: Option<Arc<Shared>>,
}

/// A client of one site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Who {
    blog: u64,
    /// An address, or that of a network.
    address: IpAddr,
}

#[derive(Debug)]
struct Windows {
    open: LruCache<Who, OpenWindow, RandomState>,
    most: usize,
    /// Those that had to make room. `None` until the first one has.
    evicted: Option<Sketch>,
}

/// Where a client stands after a request was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Requests let through in one window.
    pub limit: u32,
    /// Requests still to be let through in this one.
    pub remaining: u32,
    /// When the window ends, in Unix seconds.
    pub reset: u64,
    /// Set when the request is refused: seconds until the window ends, at least 1.
    pub retry_after: Option<u64>,
}

#[derive(Debug)]
struct OpenWindow {
    /// Unix seconds.
    reset: u64,
    let_through: u32,
}

/// The time that windows are counted by.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl RateLimiter {
    /// A limiter that has seen no client.
    pub fn new() -> Self {
        Self::of_size(MAX_CLIENTS)
    }

    fn of_size(most: usize) -> Self {
        // Without a limit of its own it takes memory as it fills.
        let windows = Windows { open: LruCache::unbounded_with_hasher(RandomState::new()), most, evicted: None };
        Self { windows: Arc::new(Mutex::new(windows)), blog: 1, shared: None }
    }

    /// The same windows, counted together with other sidecars in `shared`.
    #[must_use]
    pub fn sharing(&self, shared: Option<Shared>) -> Self {
        Self { shared: shared.map(Arc::new), ..self.clone() }
    }

    /// The same memory, for the clients of site `blog` of a network.
    #[must_use]
    pub fn of_blog(&self, blog: u64) -> Self {
        Self { blog, ..self.clone() }
    }

    fn who(&self, client: IpAddr) -> Who {
        Who { blog: self.blog, address: network(client) }
    }

    /// How many clients have a window.
    pub fn addresses(&self) -> u64 {
        self.windows().open.len() as u64
    }

    /// The shared store; `None` if this process counts alone.
    pub fn shared(&self) -> Option<&Shared> {
        self.shared.as_deref()
    }

    /// The site of a network whose clients it counts.
    pub(super) fn blog(&self) -> u64 {
        self.blog
    }

    /// Counts a request of `client` at `now_unix` (Unix seconds) and says whether it is refused.
    /// A shared store is asked for 50 ms at most, and not at all for a client whose window is known
    /// to be full.
    ///
    /// The limit is the site's of this moment: when it is lowered or raised, that holds for
    /// windows already open.
    pub async fn count(&self, client: IpAddr, limit: RateLimit, now_unix: u64) -> Window {
        let Some(shared) = self.shared.as_deref().filter(|_| !self.is_over(client, limit, now_unix)) else {
            return self.count_here(client, limit, now_unix);
        };
        let who = self.who(client);
        let name = shared.name_of_window(who.blog, who.address);
        let length = Duration::from_secs(length(limit));
        match shared.store().count(&name, limit.max_requests, length).await {
            Ok(counted) => self.windows().learn(who, limit, counted, now_unix),
            Err(NoAnswer) => self.count_here(client, limit, now_unix),
        }
    }

    /// [`RateLimiter::count`] without the store.
    pub fn count_here(&self, client: IpAddr, limit: RateLimit, now_unix: u64) -> Window {
        self.windows().count(self.who(client), limit, now_unix)
    }

    /// Whether a request of `client` would be refused at `now_unix`. Counts nothing.
    pub fn is_over(&self, client: IpAddr, limit: RateLimit, now_unix: u64) -> bool {
        let length = length(limit);
        let windows = self.windows();
        let window = windows.open.peek(&self.who(client)).filter(|window| window.is_open(length, now_unix));
        window.is_some_and(|window| window.let_through >= limit.max_requests)
    }

    fn windows(&self) -> MutexGuard<'_, Windows> {
        // The numbers are valid whatever a thread that panicked here had done to them.
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for RateLimiter {
    fn default() -> Self {
        Self::new()
    }
}

impl Windows {
    fn count(&mut self, client: Who, limit: RateLimit, now: u64) -> Window {
        let length = length(limit);
        if let Some(window) = self.open.get_mut(&client) {
            return window.count(limit, length, now);
        }
        self.make_room(length, now);
        let let_through = match &mut self.evicted {
            Some(evicted) => evicted.count(&client, length, now),
            None => 0,
        };
        if self.evicted.as_ref().is_some_and(Sketch::is_empty) {
            self.evicted = None;
        }
        let mut window = OpenWindow { reset: now.saturating_add(length), let_through };
        let counted = window.count(limit, length, now);
        self.open.put(client, window);
        counted
    }

    /// Makes room for one more window.
    fn make_room(&mut self, length: u64, now: u64) {
        if self.open.len() >= self.most
            && let Some((evicted, window)) = self.open.pop_lru()
            && window.is_open(length, now)
        {
            self.evicted.get_or_insert_with(|| Sketch::new(now)).record(&evicted, window.let_through, length, now);
        }
    }

    /// Takes over the store's answer.
    fn learn(&mut self, client: Who, limit: RateLimit, counted: Counted, now: u64) -> Window {
        let length = length(limit);
        // Rounded up, so that a client does not retry too early.
        let left = counted.left.as_millis().div_ceil(1_000);
        let reset = now.saturating_add(u64::try_from(left).unwrap_or(length).clamp(1, length));
        let window = OpenWindow { reset, let_through: counted.count };
        let said = Window {
            limit: limit.max_requests,
            remaining: limit.max_requests.saturating_sub(counted.count),
            reset,
            retry_after: (!counted.is_counted).then(|| reset.saturating_sub(now)),
        };
        match self.open.get_mut(&client) {
            Some(known) => known.learn(window, length, now),
            None => {
                self.make_room(length, now);
                self.open.put(client, window);
            }
        }
        said
    }
}

/// How long a window is, in seconds.
fn length(limit: RateLimit) -> u64 {
    u64::from(limit.window_minutes).saturating_mul(60).max(1)
}

impl OpenWindow {
    /// An end further away than a window is long comes from a clock that was set back, or from
    /// a window that was longer when it opened: neither should shut a client out.
    fn is_open(&self, length: u64, now_unix: u64) -> bool {
        now_unix < self.reset && self.reset <= now_unix.saturating_add(length)
    }

    /// Takes over an answer of the store. Answers may arrive out of order.
    fn learn(&mut self, said: OpenWindow, length: u64, now_unix: u64) {
        let is_same = self.is_open(length, now_unix) && self.reset.abs_diff(said.reset) <= 1;
        let let_through = if is_same { self.let_through.max(said.let_through) } else { said.let_through };
        *self = OpenWindow { let_through, ..said };
    }

    fn count(&mut self, limit: RateLimit, length: u64, now_unix: u64) -> Window {
        if !self.is_open(length, now_unix) {
            *self = Self { reset: now_unix.saturating_add(length), let_through: 0 };
        }
        let refused = self.let_through >= limit.max_requests;
        if !refused {
            self.let_through = self.let_through.saturating_add(1);
        }
        Window {
            limit: limit.max_requests,
            remaining: limit.max_requests.saturating_sub(self.let_through),
            reset: self.reset,
            retry_after: refused.then(|| self.reset.saturating_sub(now_unix)),
        }
    }
}

#[cfg(test)]
mod tests;
