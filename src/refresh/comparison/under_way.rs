//! The tokens that WordPress is handling for a comparison.
//!
//! WordPress, which has no replays, would refuse a second call with such a token. So the second
//! waits until the first has its response; if that is the one that the sidecar would have sent, the
//! second gets the same pair natively. The number of tokens is limited by that of simultaneous
//! comparisons.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::super::row_cache::Key;

/// How long a second call waits. WordPress should have answered the first by then.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of the response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Awaited,
    /// The response that the sidecar would have sent.
    Plain,
    Other,
}

#[derive(Default)]
pub struct UnderWay {
    tokens: Mutex<Vec<(Key, watch::Receiver<Answer>)>>,
    /// Checked for each call, so it needs no lock.
    count: AtomicUsize,
}

/// Registers a token until this is dropped.
pub struct Entered {
    under_way: Arc<UnderWay>,
    token: Key,
    answer: watch::Sender<Answer>,
}

/// An earlier call with the same token.
pub struct Before(watch::Receiver<Answer>);

impl UnderWay {
    /// The running call with this token, if any. `key` is only called if there are running calls.
    pub fn find(&self, key: impl FnOnce() -> Key) -> Option<Before> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.before(&self.tokens(), &key())
    }

    /// # Errors
    /// Another call with the same token is running.
    pub fn enter(self: &Arc<Self>, token: Key) -> Result<Entered, Before> {
        let mut tokens = self.tokens();
        if let Some(before) = self.before(&tokens, &token) {
            return Err(before);
        }
        let (answer, seen) = watch::channel(Answer::Awaited);
        tokens.push((token.clone(), seen));
        self.count.store(tokens.len(), Ordering::Release);
        Ok(Entered { under_way: Arc::clone(self), token, answer })
    }

    fn before(&self, tokens: &[(Key, watch::Receiver<Answer>)], token: &Key) -> Option<Before> {
        tokens.iter().find(|(known, _)| known == token).map(|(_, answer)| Before(answer.clone()))
    }

    fn tokens(&self) -> MutexGuard<'_, Vec<(Key, watch::Receiver<Answer>)>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entered {
    /// WordPress has answered. `is_plain`: as the sidecar would have.
    pub fn answered(self, is_plain: bool) {
        self.answer.send_replace(if is_plain { Answer::Plain } else { Answer::Other });
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut tokens = self.under_way.tokens();
        tokens.retain(|(token, _)| *token != self.token);
        self.under_way.count.store(tokens.len(), Ordering::Release);
    }
}

impl Before {
    /// Waits for the response, up to a limit. Returns whether it is the one that the sidecar would
    /// have sent.
    pub async fn was_plain(mut self) -> bool {
        let answered = timeout(PATIENCE, self.0.wait_for(|answer| *answer != Answer::Awaited)).await;
        answered.is_ok_and(|answer| answer.is_ok_and(|answer| *answer == Answer::Plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(token: &str) -> Key {
        Key::of(token, true)
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_call_waits_for_the_first() {
        let under_way = Arc::new(UnderWay::default());
        assert!(under_way.find(|| panic!("nothing is under way")).is_none());
        for is_plain in [true, false] {
            let Ok(first) = under_way.enter(key("a")) else { panic!("it is alone") };
            let Err(second) = under_way.enter(key("A")) else { panic!("it is the same") };
            assert!(under_way.enter(key("b")).is_ok());
            let third = under_way.find(|| key("a")).unwrap();
            first.answered(is_plain);
            assert_eq!(second.was_plain().await, is_plain);
            assert_eq!(third.was_plain().await, is_plain);
            assert!(under_way.enter(key("a")).is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_wait_for_ever_nor_for_one_that_was_dropped() {
        let under_way = Arc::new(UnderWay::default());
        let first = under_way.enter(key("a"));
        let second = under_way.find(|| key("a")).unwrap();
        let (before, waited) = (tokio::time::Instant::now(), second.was_plain().await);
        assert!(!waited && before.elapsed() >= PATIENCE);
        let third = under_way.find(|| key("a")).unwrap();
        drop(first);
        assert!(!third.was_plain().await);
    }
}
