//! The plugin's rate limit: a fixed window for each client address.
//!
//! The first request of an address opens a window; so many are let through in it; the rest are
//! refused until it ends. The sidecar counts the refresh route by itself, in memory: the plugin's
//! own count, in WordPress's transients, goes on for what is forwarded.
//!
//! Memory is bounded by [`MAX_ADDRESSES`]. Beyond it moka's TinyLFU policy decides: an address
//! seen once does not displace one that keeps coming, so a flood of addresses leaves the windows
//! of active clients alone; it is new addresses that may lose their count and start afresh until
//! they have been seen more often than what they would displace.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use moka::sync::Cache;

use crate::wordpress::options::RateLimit;

/// How many addresses are remembered; at some 200 bytes each the limit costs about 13 MB.
pub const MAX_ADDRESSES: u64 = 65_536;

/// Counts requests for each client address. Shared by all workers; a clone is the same count.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    windows: Cache<IpAddr, Arc<Mutex<OpenWindow>>>,
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
    /// Unix seconds; 0 before the first request.
    reset: u64,
    let_through: u32,
}

impl RateLimiter {
    /// A limiter that has seen nobody.
    pub fn new() -> Self {
        Self { windows: Cache::new(MAX_ADDRESSES) }
    }

    /// How many addresses are remembered, a moment old.
    pub fn addresses(&self) -> u64 {
        self.windows.entry_count()
    }

    /// Counts a request of `client` at `now_unix` (Unix seconds) and says whether it is refused.
    ///
    /// The limit is the site's of this moment: when it is lowered or raised, that holds for
    /// windows already open.
    pub fn count(&self, client: IpAddr, limit: RateLimit, now_unix: u64) -> Window {
        let window = self.windows.get_with(client, || Arc::new(Mutex::new(OpenWindow { reset: 0, let_through: 0 })));
        // The two numbers are valid whatever a thread that panicked here had done to them.
        let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
        window.count(limit, now_unix)
    }
}

impl Default for RateLimiter {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenWindow {
    fn count(&mut self, limit: RateLimit, now_unix: u64) -> Window {
        let length = u64::from(limit.window_minutes).saturating_mul(60).max(1);
        let next_reset = now_unix.saturating_add(length);
        // An end further away than a window is long comes from a clock that was set back, or from
        // a window that was longer when it opened: neither should shut a client out.
        if self.reset <= now_unix || self.reset > next_reset {
            *self = Self { reset: next_reset, let_through: 0 };
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
    use std::net::Ipv4Addr;
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

    #[test]
    fn a_flood_of_addresses_is_bounded_and_spares_the_active() {
        let limiter = RateLimiter { windows: Cache::new(1_000) };
        let limit = RateLimit { max_requests: 10_000, window_minutes: 1 };
        let mut remaining = Vec::new();
        for stranger in 1..50_000 {
            limiter.count(client(stranger), limit, NOW);
            if stranger % 50 == 0 {
                remaining.push(limiter.count(client(0), limit, NOW).remaining);
                limiter.windows.run_pending_tasks();
            }
        }
        assert!(limiter.windows.entry_count() <= 1_000);
        let afresh = remaining.iter().filter(|remaining| **remaining == 9_999).count();
        assert_eq!(afresh, 1, "the client's window was opened once");
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
