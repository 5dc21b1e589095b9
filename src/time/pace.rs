//! Decides how slow the other side of a connection may be.
//!
//! A limit on silence alone is satisfied by one byte a minute, which is what slow attackers send.
//! Here a side that is waited for falls behind with time and catches up with every byte that moves;
//! it is given up when it is behind by the limit. A silent side is given up after exactly that
//! time, one below the minimum rate somewhat later, and any other never, however long its transfer
//! takes.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::time::alarm::Alarm;

/// The slowest pace that is accepted.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How long it may be silent.
    pub silence: Duration,
    /// `[server] min_rate`: bytes a second. Zero: a byte within `silence` is enough.
    pub min_rate: u64,
}

/// Why a side was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooSlow {
    /// No byte moved for so long.
    #[error("nothing moved for {0:?}")]
    Silent(Duration),
    #[error("slower than {0} bytes a second (server.min_rate)")]
    BelowRate(u64),
    /// The whole took longer than its limit.
    #[error("not done within {0:?}")]
    Unfinished(Duration),
}

impl Pace {
    /// How far behind a side is that was `behind`, was then waited for during `waited`, and moved
    /// `bytes`.
    pub fn behind(&self, behind: Duration, waited: Duration, bytes: usize) -> Duration {
        if self.min_rate == 0 {
            return Duration::ZERO;
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let caught_up = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.min_rate);
        (behind + waited).saturating_sub(caught_up)
    }

    /// How long to wait for a side that is `behind` and has been waited for since `since`.
    pub fn deadline(&self, since: Instant, behind: Duration) -> Instant {
        since + self.silence.saturating_sub(behind)
    }

    /// Why the side is given up at that deadline.
    pub fn verdict(&self, behind: Duration) -> TooSlow {
        if behind.is_zero() { TooSlow::Silent(self.silence) } else { TooSlow::BelowRate(self.min_rate) }
    }
}

/// How far behind one side is in one transfer, with its timer.
pub struct Patience {
    pace: Pace,
    behind: Duration,
    waiting_since: Option<Instant>,
    alarm: Alarm,
}

impl Patience {
    /// For a side that has not been waited for yet.
    pub fn new(pace: Pace) -> Self {
        Patience { pace, behind: Duration::ZERO, waiting_since: None, alarm: Alarm::default() }
    }

    /// Bytes moved at `now`, and the side is not waited for until the next [`Patience::poll_over`].
    pub fn moved(&mut self, bytes: usize, now: Instant) {
        let waited = self.waiting_since.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if !(waited.is_zero() && self.behind.is_zero()) {
            self.behind = self.pace.behind(self.behind, waited, bytes);
        }
    }

    /// Bytes moved at `now`, and the side is still waited for.
    pub fn moved_on(&mut self, bytes: usize, now: Instant) {
        self.moved(bytes, now);
        self.waiting_since = Some(now);
    }

    /// Nothing is expected of the side for now.
    pub fn caught_up(&mut self) {
        self.waiting_since = None;
        self.behind = Duration::ZERO;
    }

    /// Polled while the side is waited for: ready when it is to be given up.
    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<TooSlow> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        ready!(self.alarm.poll_at(cx, self.pace.deadline(since, self.behind)));
        Poll::Ready(self.pace.verdict(self.behind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::time::{advance, timeout};

    const LIMIT: Duration = Duration::from_secs(60);

    /// After how many seconds a side that moves `bytes` every `every` seconds is given up, and why;
    /// `None` if it lasts for a day.
    async fn lasts(min_rate: u64, bytes: usize, every: u64) -> Option<(u64, TooSlow)> {
        let mut patience = Patience::new(Pace { silence: LIMIT, min_rate });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(86_400) {
            match timeout(Duration::from_secs(every), poll_fn(|cx| patience.poll_over(cx))).await {
                Ok(why) => return Some((begun.elapsed().as_secs(), why)),
                Err(_) => patience.moved(bytes, Instant::now()),
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_so_does_a_trickle() {
        assert_eq!(lasts(240, 0, 100_000).await, Some((60, TooSlow::Silent(LIMIT))));
        assert_eq!(lasts(0, 0, 100_000).await, Some((60, TooSlow::Silent(LIMIT))));
        // A byte every ten seconds hardly counts; a side at half the rate gets twice the time.
        assert_eq!(lasts(240, 1, 10).await, Some((60, TooSlow::BelowRate(240))));
        assert_eq!(lasts(240, 1_200, 10).await, Some((110, TooSlow::BelowRate(240))));
        // Without a minimum rate a byte is enough; with one, that rate is.
        assert_eq!(lasts(0, 1, 59).await, None);
        assert_eq!(lasts(240, 2_400, 10).await, None);
        assert_eq!(lasts(240, 14_160, 59).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_fast_has_nothing_in_advance() {
        let mut patience = Patience::new(Pace { silence: LIMIT, min_rate: 240 });
        for _ in 0..1000 {
            patience.moved(1 << 20, Instant::now());
        }
        let begun = Instant::now();
        assert_eq!(poll_fn(|cx| patience.poll_over(cx)).await, TooSlow::Silent(LIMIT));
        assert_eq!(begun.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_it_is_not_waited_for_does_not_count() {
        let mut patience = Patience::new(Pace { silence: LIMIT, min_rate: 240 });
        for _ in 0..100 {
            assert!(timeout(Duration::from_secs(1), poll_fn(|cx| patience.poll_over(cx))).await.is_err());
            patience.moved(240, Instant::now());
            advance(Duration::from_secs(600)).await;
        }
    }
}
