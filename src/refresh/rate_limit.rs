//! The plugin's rate limit: a fixed window for each client address.
//!
//! The first request of an address opens a window; so many are let through in it; the rest are
//! refused until it ends. The sidecar counts the refresh route by itself, in memory: the plugin's
//! own count, in WordPress's transients, goes on for what is forwarded.
//!
//! A client is an IPv4 address or a /64 network of IPv6, as for the limits of connections; on a network
//! of sites, one at each of them. The
//! windows of [`MAX_CLIENTS`] clients are exact. Beyond that the least recently used one goes, and
//! its count goes into a [`Sketch`], from which the client's next window begins.
// SECURITY: so a client that makes room by a flood of addresses gets no new window by it, and the
// limit holds for everyone during a flood. The sketch may count too much, never too little.

mod sketch;

use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use lru::LruCache;

use crate::admission::per_address::network;
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
        Self { windows: Arc::new(Mutex::new(windows)), blog: 1 }
    }

    /// The same for the site `blog` of a network, whose clients count by themselves. The memory is that of all sites together.
    #[must_use]
    pub fn of_blog(&self, blog: u64) -> Self {
        Self { windows: Arc::clone(&self.windows), blog }
    }

    fn who(&self, client: IpAddr) -> Who {
        Who { blog: self.blog, address: network(client) }
    }

    /// How many clients have a window.
    pub fn addresses(&self) -> u64 {
        self.windows().open.len() as u64
    }

    /// Counts a request of `client` at `now_unix` (Unix seconds) and says whether it is refused.
    ///
    /// The limit is the site's of this moment: when it is lowered or raised, that holds for
    /// windows already open.
    pub fn count(&self, client: IpAddr, limit: RateLimit, now_unix: u64) -> Window {
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
        if self.open.len() >= self.most
            && let Some((evicted, window)) = self.open.pop_lru()
            && window.is_open(length, now)
        {
            self.evicted.get_or_insert_with(|| Sketch::new(now)).record(&evicted, window.let_through, length, now);
        }
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::sync::atomic::{AtomicU32, Ordering};

    const NOW: u64 = 1_795_379_799;
    const LIMIT: RateLimit = RateLimit { max_requests: 3, window_minutes: 1 };

    fn client(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    #[test]
    fn a_window_from_the_first_request() {
        let limiter = RateLimiter::new();
        let mut seen = Vec::new();
        for now in [NOW, NOW, NOW + 30, NOW + 30, NOW + 59, NOW + 60] {
            let window = limiter.count(client(1), LIMIT, now);
            assert_eq!(window.limit, 3);
            seen.push((window.remaining, window.reset - NOW, window.retry_after));
        }
        assert_eq!(
            seen,
            [(2, 60, None), (1, 60, None), (0, 60, None), (0, 60, Some(30)), (0, 60, Some(1)), (2, 120, None),]
        );
        assert_eq!(limiter.count(client(2), LIMIT, NOW).remaining, 2, "each address by itself");
    }

    #[test]
    fn to_look_counts_nothing() {
        let limiter = RateLimiter::new();
        for count in 0..3 {
            assert!(!limiter.is_over(client(1), LIMIT, NOW), "{count}");
            limiter.count(client(1), LIMIT, NOW);
        }
        assert!(limiter.is_over(client(1), LIMIT, NOW + 59) && !limiter.is_over(client(1), LIMIT, NOW + 60));
        assert!(!limiter.is_over(client(2), LIMIT, NOW));
        assert_eq!(limiter.addresses(), 1);
    }

    #[test]
    fn each_site_of_a_network_counts_by_itself() {
        let limiter = RateLimiter::new();
        let second = limiter.of_blog(2);
        for remaining in [2, 1, 0] {
            assert_eq!(limiter.count(client(1), LIMIT, NOW).remaining, remaining);
        }
        assert!(limiter.is_over(client(1), LIMIT, NOW) && !second.is_over(client(1), LIMIT, NOW));
        assert_eq!(second.count(client(1), LIMIT, NOW).remaining, 2);
        assert_eq!(limiter.of_blog(2).count(client(1), LIMIT, NOW).remaining, 1);
        assert_eq!(limiter.addresses(), 2);
    }

    #[test]
    fn settings_and_clock_may_change() {
        let limiter = RateLimiter::new();
        let none = RateLimit { max_requests: 0, window_minutes: 0 };
        assert_eq!(limiter.count(client(1), none, NOW).retry_after, Some(1));
        for _ in 0..3 {
            limiter.count(client(2), LIMIT, NOW);
        }
        let raised = RateLimit { max_requests: 5, ..LIMIT };
        assert_eq!(limiter.count(client(2), raised, NOW).remaining, 1);
        assert_eq!(limiter.count(client(2), LIMIT, NOW).retry_after, Some(60), "lowered again");
        let set_back = limiter.count(client(2), LIMIT, NOW - 86_400);
        assert_eq!((set_back.retry_after, set_back.reset), (None, NOW - 86_340));
    }

    #[test]
    fn exact_with_many_threads() {
        let limiter = RateLimiter::new();
        let limit = RateLimit { max_requests: 500, window_minutes: 1 };
        let let_through = AtomicU32::new(0);
        let start = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..200 {
                        if limiter.count(client(1), limit, NOW).retry_after.is_none() {
                            let_through.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(let_through.into_inner(), 500);
    }

    /// IPv6 networks, as many as an attacker likes.
    fn stranger(number: u32) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) | (u128::from(number) << 64) | 1))
    }

    #[test]
    fn a_flood_of_addresses_is_bounded_and_does_not_switch_the_limit_off() {
        let limiter = RateLimiter::new();
        let limit = RateLimit { max_requests: 60, window_minutes: 1 };
        let count = |client| limiter.count(client, limit, NOW);
        // Exhausted before the flood, and silent during it.
        let exhausted = client(7);
        assert_eq!((0..61).filter(|_| count(exhausted).retry_after.is_none()).count(), 60);
        let mut remaining = Vec::new();
        for number in 0..2 * 60_000 {
            count(stranger(number));
            if number % 4_000 == 0 {
                remaining.push(count(client(0)).remaining);
            }
        }
        assert_eq!(limiter.addresses(), MAX_CLIENTS as u64);
        assert_eq!(remaining, (0..30).map(|asked| 59 - asked).collect::<Vec<_>>(), "who keeps coming keeps its window");
        assert!(count(exhausted).retry_after.is_some(), "no new window by a flood");
        // One that comes during the flood is limited as ever, with the flood going on around it.
        let newcomer = client(9);
        let mut let_through = 0;
        for asked in 0..1_500 {
            let_through += u32::from(count(newcomer).retry_after.is_none());
            count(stranger(1_000_000 + asked));
        }
        assert!((50..=60).contains(&let_through), "{let_through} of 1,500 were let through");
        // All of that is over two windows later, and the sketch is gone.
        assert_eq!(limiter.count(newcomer, limit, NOW + 120).remaining, 59);
        limiter.count(stranger(5_000_000), limit, NOW + 120);
        assert!(limiter.windows().evicted.is_none());
    }

    #[test]
    fn an_attacker_who_cycles_through_addresses_gains_nothing() {
        let limiter = RateLimiter::of_size(100);
        let mut let_through = std::collections::HashMap::<u32, u32>::new();
        for round in 0..20 {
            for number in 0..1_000 {
                let window = limiter.count(stranger(number), LIMIT, NOW + round);
                *let_through.entry(number).or_default() += u32::from(window.retry_after.is_none());
            }
        }
        assert!(let_through.values().all(|count| *count <= 3), "{let_through:?}");
        assert!(let_through.values().any(|count| *count == 3));
    }

    #[test]
    fn a_client_is_a_network_of_ipv6_and_one_address_of_ipv4_in_any_spelling() {
        let limiter = RateLimiter::new();
        let remaining = |address: &str| limiter.count(address.parse().unwrap(), LIMIT, NOW).remaining;
        assert_eq!((remaining("2001:db8::1"), remaining("2001:db8::2:3"), remaining("2001:db8:0:1::1")), (2, 1, 2));
        assert_eq!((remaining("198.51.100.7"), remaining("::ffff:198.51.100.7"), remaining("198.51.100.8")), (2, 1, 2));
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit_in_a_window(
            max_requests in 0_u32..5,
            window_minutes in 1_u32..3,
            steps in proptest::collection::vec(0_u64..40, 1..60),
        ) {
            let limiter = RateLimiter::new();
            let limit = RateLimit { max_requests, window_minutes };
            let mut now = NOW;
            let mut let_through = std::collections::HashMap::<u64, u32>::new();
            for step in steps {
                now += step;
                let window = limiter.count(client(1), limit, now);
                prop_assert!(window.reset > now && window.reset <= now + 60 * u64::from(window_minutes));
                prop_assert_eq!(window.retry_after.is_some_and(|s| s != window.reset - now), false);
                let count = let_through.entry(window.reset).or_default();
                *count += u32::from(window.retry_after.is_none());
                prop_assert!(*count <= max_requests);
                prop_assert_eq!(window.remaining, max_requests - *count);
            }
        }
    }
}
