//! The self-check: each accept loop and each worker must answer a message. A timer that only proved
//! that timers run would keep a program alive that serves no requests.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{Sender, UnboundedSender, WeakUnboundedSender};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::listen::Order;
use crate::worker::Work;

/// The threads to check.
pub struct Pulse {
    accept_loops: Mutex<Vec<Sender<Order>>>,
    /// Weak, since a worker ends when its last sender is dropped.
    workers: Vec<WeakUnboundedSender<Work>>,
}

/// What did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Silent {
    /// New connections wait in the queue.
    #[error("an accept loop does not answer")]
    AcceptLoop,
    /// The connections of one thread wait.
    #[error("a worker does not answer")]
    Worker,
}

impl Pulse {
    /// Checks these accept loops and workers.
    pub fn new(accept_loops: Vec<Sender<Order>>, workers: &[UnboundedSender<Work>]) -> Self {
        let workers = workers.iter().map(UnboundedSender::downgrade).collect();
        Pulse { accept_loops: Mutex::new(accept_loops), workers }
    }

    /// Replaces the accept loops after a reload.
    pub fn change(&self, accept_loops: Vec<Sender<Order>>) {
        *self.accept_loops.lock().unwrap_or_else(PoisonError::into_inner) = accept_loops;
    }

    /// Whether all answer within `limit`.
    ///
    /// # Errors
    /// What did not answer.
    pub async fn beats(&self, limit: Duration) -> Result<(), Silent> {
        let accept_loops = self.accept_loops.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answers = async {
            for accept_loop in accept_loops {
                let (answer, answered) = oneshot::channel();
                // A loop that is gone was closed by a reload; a loop that fails ends the program.
                if accept_loop.send(Order::Answer(answer)).await.is_ok() {
                    let _ = answered.await;
                }
            }
        };
        timeout(limit, answers).await.map_err(|_| Silent::AcceptLoop)?;
        let answers = async {
            for worker in self.workers.iter().filter_map(WeakUnboundedSender::upgrade) {
                let (answer, answered) = oneshot::channel();
                worker.send(Work::Answer(answer)).map_err(|_| Silent::Worker)?;
                answered.await.map_err(|_| Silent::Worker)?;
            }
            Ok(())
        };
        timeout(limit, answers).await.unwrap_or(Err(Silent::Worker))
    }
}
