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
        let window = limiter.count_here(client(1), LIMIT, now);
        assert_eq!(window.limit, 3);
        seen.push((window.remaining, window.reset - NOW, window.retry_after));
    }
    assert_eq!(
        seen,
        [(2, 60, None), (1, 60, None), (0, 60, None), (0, 60, Some(30)), (0, 60, Some(1)), (2, 120, None),]
    );
    assert_eq!(limiter.count_here(client(2), LIMIT, NOW).remaining, 2, "each address by itself");
}

#[test]
fn to_look_counts_nothing() {
    let limiter = RateLimiter::new();
    for count in 0..3 {
        assert!(!limiter.is_over(client(1), LIMIT, NOW), "{count}");
        limiter.count_here(client(1), LIMIT, NOW);
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
        assert_eq!(limiter.count_here(client(1), LIMIT, NOW).remaining, remaining);
    }
    assert!(limiter.is_over(client(1), LIMIT, NOW) && !second.is_over(client(1), LIMIT, NOW));
    assert_eq!(second.count_here(client(1), LIMIT, NOW).remaining, 2);
    assert_eq!(limiter.of_blog(2).count_here(client(1), LIMIT, NOW).remaining, 1);
    assert_eq!(limiter.addresses(), 2);
}

#[test]
fn settings_and_clock_may_change() {
    let limiter = RateLimiter::new();
    let none = RateLimit { max_requests: 0, window_minutes: 0 };
    assert_eq!(limiter.count_here(client(1), none, NOW).retry_after, Some(1));
    for _ in 0..3 {
        limiter.count_here(client(2), LIMIT, NOW);
    }
    let raised = RateLimit { max_requests: 5, ..LIMIT };
    assert_eq!(limiter.count_here(client(2), raised, NOW).remaining, 1);
    assert_eq!(limiter.count_here(client(2), LIMIT, NOW).retry_after, Some(60), "lowered again");
    let set_back = limiter.count_here(client(2), LIMIT, NOW - 86_400);
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
                    if limiter.count_here(client(1), limit, NOW).retry_after.is_none() {
                        let_through.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(let_through.into_inner(), 500);
}

fn said(count: u32, left: u64) -> Counted {
    Counted { is_counted: true, count, left: std::time::Duration::from_millis(left) }
}

#[test]
fn what_the_store_says_holds_and_is_gone_on_with_when_it_is_away() {
    let limiter = RateLimiter::new();
    let who = limiter.who(client(1));
    let learn = |counted, now| limiter.windows().learn(who, LIMIT, counted, now);
    let window = learn(said(2, 30_001), NOW);
    assert_eq!((window.limit, window.remaining, window.reset - NOW, window.retry_after), (3, 1, 31, None));
    // An older answer that comes later.
    learn(said(1, 30_400), NOW);
    assert!(!limiter.is_over(client(1), LIMIT, NOW));
    assert_eq!(limiter.count_here(client(1), LIMIT, NOW + 10).remaining, 0, "the third, counted alone");
    assert!(limiter.is_over(client(1), LIMIT, NOW + 30) && !limiter.is_over(client(1), LIMIT, NOW + 31));
    // Another window of the store's.
    assert_eq!(learn(said(1, 60_000), NOW + 40).remaining, 2);
    let refused = learn(Counted { is_counted: false, ..said(3, 1) }, NOW + 41);
    assert_eq!((refused.remaining, refused.retry_after), (0, Some(1)), "never less than a second");
    // A limit that was lowered, and a store that counts too much or lasts too long.
    let refused = learn(Counted { is_counted: false, ..said(9, 600_000) }, NOW + 42);
    assert_eq!((refused.remaining, refused.retry_after), (0, Some(60)));
}

#[test]
fn what_the_store_counts_takes_no_more_room() {
    let limiter = RateLimiter::of_size(10);
    for number in 0..100 {
        limiter.windows().learn(limiter.who(stranger(number)), LIMIT, said(3, 60_000), NOW);
    }
    assert_eq!(limiter.addresses(), 10);
    assert!(limiter.count_here(stranger(0), LIMIT, NOW).retry_after.is_some(), "it had its share before it made room");
}

/// IPv6 networks, as many as an attacker likes.
fn stranger(number: u32) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) | (u128::from(number) << 64) | 1))
}

#[test]
fn a_flood_of_addresses_is_bounded_and_does_not_switch_the_limit_off() {
    let limiter = RateLimiter::new();
    let limit = RateLimit { max_requests: 60, window_minutes: 1 };
    let count = |client| limiter.count_here(client, limit, NOW);
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
    assert_eq!(limiter.count_here(newcomer, limit, NOW + 120).remaining, 59);
    limiter.count_here(stranger(5_000_000), limit, NOW + 120);
    assert!(limiter.windows().evicted.is_none());
}

#[test]
fn an_attacker_who_cycles_through_addresses_gains_nothing() {
    let limiter = RateLimiter::of_size(100);
    let mut let_through = std::collections::HashMap::<u32, u32>::new();
    for round in 0..20 {
        for number in 0..1_000 {
            let window = limiter.count_here(stranger(number), LIMIT, NOW + round);
            *let_through.entry(number).or_default() += u32::from(window.retry_after.is_none());
        }
    }
    assert!(let_through.values().all(|count| *count <= 3), "{let_through:?}");
    assert!(let_through.values().any(|count| *count == 3));
}

#[test]
fn a_client_is_a_network_of_ipv6_and_one_address_of_ipv4_in_any_spelling() {
    let limiter = RateLimiter::new();
    let remaining = |address: &str| limiter.count_here(address.parse().unwrap(), LIMIT, NOW).remaining;
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
            let window = limiter.count_here(client(1), limit, now);
            prop_assert!(window.reset > now && window.reset <= now + 60 * u64::from(window_minutes));
            prop_assert_eq!(window.retry_after.is_some_and(|s| s != window.reset - now), false);
            let count = let_through.entry(window.reset).or_default();
            *count += u32::from(window.retry_after.is_none());
            prop_assert!(*count <= max_requests);
            prop_assert_eq!(window.remaining, max_requests - *count);
        }
    }
}
