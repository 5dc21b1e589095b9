//! Closes idle connections or keeps them alive, and lets tasks that use one finish when they are
//! stopped.

use std::cell::Cell;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::server::{Connection, Mode};
use super::{ANSWER_LIMIT, Database, Session};

/// What happens to an idle connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    /// It is pinged, which shows firewalls and the server that it is in use.
    IsAsked,
    Goes,
}

/// One connection of each mode stays, the most recently used: the next rotation and the next look
/// at the site find it ready. Pure.
fn fate(is_last_of_mode: bool, idled: Duration, longest: Duration) -> Fate {
    if idled >= longest {
        Fate::Goes
    } else if is_last_of_mode && idled >= longest / 2 {
        Fate::IsAsked
    } else {
        Fate::Stays
    }
}

impl Database {
    /// Closes connections that were idle for too long, except two, which it keeps alive. Never
    /// returns.
    pub async fn keep_two_ready(&self) {
        loop {
            // Twice within the second half of that time, in case one look comes late.
            sleep(self.longest_idle / 4).await;
            for mut session in self.idle_to_ask() {
                if timeout(ANSWER_LIMIT, session.conn().ping()).await.is_ok_and(|answered| answered.is_ok()) {
                    session.give_back();
                }
            }
        }
    }

    /// The connections to ping. They count as in use from now on: otherwise the limit would not
    /// include them meanwhile.
    fn idle_to_ask(&self) -> Vec<Session<'_>> {
        let asked = self.sort_idle().into_iter();
        // If all are in use, none needs to be kept ready.
        asked.filter_map(|connection| Some(self.lend(connection, self.permits.try_acquire().ok()?))).collect()
    }

    /// Closes those that are due, and returns those to ping.
    fn sort_idle(&self) -> Vec<Connection> {
        let (mut seen, mut stay, mut asked, mut gone) = (Vec::<Mode>::new(), Vec::new(), Vec::new(), Vec::new());
        let mut idle = self.idle();
        // The most recently used is at the end.
        for connection in std::mem::take(&mut *idle).into_iter().rev() {
            let is_last_of_mode = !seen.contains(&connection.mode);
            seen.push(connection.mode);
            match fate(is_last_of_mode, connection.since.elapsed(), self.longest_idle) {
                Fate::Stays => stay.push(connection),
                Fate::IsAsked => asked.push(connection),
                Fate::Goes => gone.push(connection),
            }
        }
        stay.reverse();
        *idle = stay;
        drop(idle);
        drop(gone);
        asked
    }
}

tokio::task_local! {
    /// How many connections the current task uses.
    static HELD: Cell<usize>;
}

/// Runs `task` until it ends or is to `stop`; in the second case it continues while it uses a
/// connection. Cutting off a statement would leave an aborted connection in the server's log.
pub async fn until_stopped(stop: CancellationToken, task: impl Future<Output = ()>) {
    let task = async {
        let (mut task, mut stopped) = (pin!(task), pin!(stop.cancelled()));
        std::future::poll_fn(|context| {
            let stops = stop.is_cancelled() || stopped.as_mut().poll(context).is_ready();
            match task.as_mut().poll(context) {
                Poll::Pending if stops && HELD.with(Cell::get) == 0 => Poll::Ready(()),
                polled => polled,
            }
        })
        .await;
    };
    HELD.scope(Cell::new(0), task).await;
}

/// While it exists, [`until_stopped`] does not cut off the task that made it.
pub(super) struct Held(bool);

impl Held {
    pub(super) fn new() -> Self {
        Held(HELD.try_with(|held| held.set(held.get() + 1)).is_ok())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.0 {
            // Dropped together with its task, the count is already gone.
            let _ = HELD.try_with(|held| held.set(held.get().saturating_sub(1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[test]
    fn one_of_each_mode_is_kept_alive_and_the_others_go() {
        let longest = Duration::from_secs(30);
        for (is_last, idled, expected) in [
            (true, 0, Fate::Stays),
            (true, 14, Fate::Stays),
            (true, 15, Fate::IsAsked),
            (true, 29, Fate::IsAsked),
            // The machine slept: the connection's state is unknown.
            (true, 30, Fate::Goes),
            (false, 29, Fate::Stays),
            (false, 30, Fate::Goes),
        ] {
            assert_eq!(fate(is_last, Duration::from_secs(idled), longest), expected, "{is_last} {idled}");
        }
    }

    #[tokio::test]
    async fn who_uses_a_connection_may_finish() {
        let stop = CancellationToken::new();
        let (begun, has_begun) = oneshot::channel();
        let (answer, answered) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel();
        let task = tokio::spawn(until_stopped(stop.clone(), async {
            let held = Held::new();
            begun.send(()).unwrap();
            answered.await.unwrap();
            drop(held);
            done.send(()).unwrap();
            std::future::pending::<()>().await;
        }));
        has_begun.await.unwrap();
        stop.cancel();
        tokio::task::yield_now().await;
        assert!(!task.is_finished(), "it uses a connection");
        answer.send(()).unwrap();
        is_done.await.unwrap();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn who_uses_none_stops_at_once() {
        let stop = CancellationToken::new();
        let task = tokio::spawn(until_stopped(stop.clone(), std::future::pending()));
        tokio::task::yield_now().await;
        stop.cancel();
        task.await.unwrap();
    }
}
