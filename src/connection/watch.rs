//! The timers of an HTTP/1.x connection: what it waits for and since when, so that a silent or slow
//! client cannot hold it for ever.
//!
//! While an exchange waits for the upstream no timer runs here; bodies have their own limits.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::exchange::context::Limits;
use crate::time::alarm::Alarm;
use crate::time::pace::{Patience, TooSlow};

/// How long a drain waits on a connection for a request that may be on its way: a second is several
/// round trips. A client that has just connected, or just sent its next request, would otherwise
/// get no response.
pub const LAST_REQUEST: Duration = Duration::from_secs(1);

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The first byte of a new connection.
    FirstByte,
    /// The rest of a head.
    Head,
    /// The next request.
    NextRequest,
    /// The client reading what is to be written.
    Reader(TooSlow),
}

/// The state of one connection, and its timer.
pub struct Watch {
    limits: Limits,
    accepted: Instant,
    head_since: Option<Instant>,
    idle_since: Option<Instant>,
    reader: Patience,
    alarm: Alarm,
}

impl Watch {
    /// A connection that was just accepted.
    pub fn new(limits: Limits) -> Self {
        Watch {
            limits,
            accepted: Instant::now(),
            head_since: None,
            idle_since: None,
            reader: Patience::new(limits.response),
            alarm: Alarm::default(),
        }
    }

    /// A reload has changed the limits.
    pub fn change(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The first bytes of a head have arrived. Later bytes do not extend its limit.
    pub fn head_began(&mut self) {
        self.head_since.get_or_insert_with(Instant::now);
    }

    /// The head is complete.
    pub fn head_ended(&mut self) {
        self.head_since = None;
    }

    /// A response was written.
    pub fn answered(&mut self) {
        self.idle_since = Some(Instant::now());
    }

    /// Ready when a head, or its first byte, has been awaited for too long.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Wait> {
        let limits = &self.limits;
        let (wait, deadline) = match (self.head_since, self.idle_since) {
            // The only limit on a total time: a head is small, and slow attackers send a byte now
            // and then.
            (Some(since), _) => (Wait::Head, since + limits.request_header),
            (None, Some(since)) => (Wait::NextRequest, since + limits.keepalive_idle),
            (None, None) => (Wait::FirstByte, self.accepted + limits.first_byte),
        };
        self.alarm.poll_at(cx, deadline).map(|()| wait)
    }

    /// Ready when no further request is to be awaited, because all connections are to end since
    /// `begun`.
    pub fn poll_last_request(&mut self, cx: &mut Context<'_>, begun: Instant) -> Poll<()> {
        let since = self.idle_since.unwrap_or(self.accepted).max(begun);
        self.alarm.poll_at(cx, since + LAST_REQUEST)
    }

    /// The client read some of what is to be written, or sent some of its own.
    pub fn moved(&mut self, bytes: usize) {
        self.reader.moved(bytes, Instant::now());
    }

    /// The client read all of it.
    pub fn was_flushed(&mut self) {
        self.reader.caught_up();
    }

    /// Ready when the client has moved nothing, or too little, for too long.
    pub fn poll_reader(&mut self, cx: &mut Context<'_>) -> Poll<Wait> {
        self.reader.poll_over(cx).map(Wait::Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::pace::Pace;
    use std::future::poll_fn;
    use tokio::time::advance;

    const LIMITS: Limits = Limits {
        first_byte: Duration::from_secs(10),
        request_header: Duration::from_secs(30),
        keepalive_idle: Duration::from_secs(75),
        response: Pace { silence: Duration::from_secs(60), min_rate: 1 },
    };

    /// How many seconds from now the wait ends.
    async fn left(poll: impl FnMut(&mut Context<'_>) -> Poll<Wait>) -> (Wait, u64) {
        let begun = Instant::now();
        (poll_fn(poll).await, begun.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn each_state_has_its_own_limit() {
        let mut watch = Watch::new(LIMITS);
        advance(Duration::from_secs(4)).await;
        assert_eq!(left(|cx| watch.poll_head(cx)).await, (Wait::FirstByte, 6));

        let mut watch = Watch::new(LIMITS);
        // A byte now and then does not extend the limit of a head.
        for _ in 0..3 {
            watch.head_began();
            advance(Duration::from_secs(5)).await;
        }
        assert_eq!(left(|cx| watch.poll_head(cx)).await, (Wait::Head, 15));
        watch.head_ended();
        watch.answered();
        advance(Duration::from_secs(5)).await;
        assert_eq!(left(|cx| watch.poll_head(cx)).await, (Wait::NextRequest, 70));
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_drain_a_request_may_still_come() {
        let mut watch = Watch::new(LIMITS);
        let begun = Instant::now();
        assert!(poll_fn(|cx| Poll::Ready(watch.poll_head(cx).is_pending())).await);
        poll_fn(|cx| watch.poll_last_request(cx, begun)).await;
        assert_eq!(begun.elapsed(), LAST_REQUEST);
        // A connection that was accepted, or promised another request, in the meantime.
        watch.answered();
        poll_fn(|cx| watch.poll_last_request(cx, begun)).await;
        assert_eq!(begun.elapsed(), 2 * LAST_REQUEST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_a_little_goes_on() {
        let mut watch = Watch::new(LIMITS);
        for _ in 0..3 {
            assert!(poll_fn(|cx| Poll::Ready(watch.poll_reader(cx).is_pending())).await);
            advance(Duration::from_secs(40)).await;
            watch.moved(40);
        }
        assert_eq!(
            left(|cx| watch.poll_reader(cx)).await,
            (Wait::Reader(TooSlow::Silent(LIMITS.response.silence)), 60)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_a_byte_now_and_then_falls_behind() {
        let mut watch = Watch::new(LIMITS);
        for _ in 0..3 {
            assert!(poll_fn(|cx| Poll::Ready(watch.poll_reader(cx).is_pending())).await);
            advance(Duration::from_secs(16)).await;
            watch.moved(1);
        }
        assert_eq!(left(|cx| watch.poll_reader(cx)).await, (Wait::Reader(TooSlow::BelowRate(1)), 15));
        watch.was_flushed();
        assert_eq!(left(|cx| watch.poll_reader(cx)).await.1, 60);
    }
}
