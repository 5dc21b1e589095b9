//! A time limit that costs nothing to move: an exchange sets, meets and forgets several of them, and arming the
//! runtime's timer for each would be a good part of its work.
//!
//! The timer below is armed once and left alone while deadlines come and go behind it. When it fires too early, it is
//! armed again for the deadline that holds by then.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// One timer for many deadlines, one after the other. Only the task that polled it last is woken.
#[derive(Default)]
pub struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Ready when `deadline` is over. It may wake the task earlier, which then asks again.
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
