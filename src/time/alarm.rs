//! A timer whose deadline is free to move: an exchange sets, meets and forgets several time limits,
//! and arming the runtime's timer for each would be a good part of its work.
//!
//! The timer is armed once and left alone while deadlines change. If it fires too early, it is
//! armed again for the deadline in effect.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// One timer for a sequence of deadlines. It wakes only the task that polled it last.
#[derive(Default)]
pub struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Ready when `deadline` has passed. The task may be woken earlier, and then polls again.
    pub fn poll_at(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn deadlines_are_met_however_they_move() {
        let mut alarm = Alarm::default();
        let begun = Instant::now();
        let mut waited = 0;
        for limit in [10, 30, 5, 5, 70] {
            let deadline = Instant::now() + Duration::from_secs(limit);
            poll_fn(|cx| alarm.poll_at(cx, deadline)).await;
            waited += limit;
            assert_eq!(begun.elapsed().as_secs(), waited);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_is_given_up_for_a_later_one_does_not_count() {
        let mut alarm = Alarm::default();
        let begun = Instant::now();
        let soon = begun + Duration::from_secs(1);
        assert!(poll_fn(|cx| Poll::Ready(alarm.poll_at(cx, soon).is_pending())).await);
        let later = begun + Duration::from_secs(60);
        poll_fn(|cx| alarm.poll_at(cx, later)).await;
        assert_eq!(begun.elapsed().as_secs(), 60);
    }
}
