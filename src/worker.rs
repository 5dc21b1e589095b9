//! A worker: one thread with one runtime and its own connections to the upstream. A client
//! connection stays on one worker from accept to close, so nothing on its way is shared, locked or
//! sent across threads.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::timeout_at;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::warn;

use crate::connection::{self, Accepted};
use crate::drain::Drain;
use crate::exchange::context::{AcrossReloads, Ending, LatestContext, Settings};
use crate::metrics::Shard;
use crate::share::Share;

/// What a worker can be sent.
pub enum Work {
    Serve(Accepted),
    /// Use these settings for new requests.
    Change(Box<Settings>),
    /// Reply, to show that the worker runs.
    Answer(oneshot::Sender<()>),
}

/// Starts a worker's thread. It ends when all senders are dropped and its connections are closed,
/// or at the drain's deadline.
///
/// # Errors
/// If the system cannot start the thread or its runtime.
pub fn start(
    number: usize,
    settings: Settings,
    metrics: Arc<Shard>,
    drain: Drain,
) -> io::Result<(UnboundedSender<Work>, JoinHandle<()>)> {
    let (sender, work) = unbounded_channel();
    // Taken here, not in the thread, so that the drain cannot begin to wait before the token
    // exists.
    let waiting = drain.earlier.token();
    let runtime_builder = move || Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let thread =
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || match runtime_builder() {
            Ok(runtime) => runtime.block_on(do_work(number, settings, metrics, work, drain, waiting)),
            Err(error) => warn!(number, %error, "a worker could not start"),
        })?;
    Ok((sender, thread))
}

async fn do_work(
    number: usize,
    settings: Settings,
    metrics: Arc<Shard>,
    mut work: UnboundedReceiver<Work>,
    drain: Drain,
    waiting: TaskTrackerToken,
) {
    let tunnels = TaskTracker::new();
    // A token per worker: every connection registers with it, and workers must not contend for one.
    let (draining, ending) = (drain.begun.child_token(), Rc::<Ending>::default());
    spawn_local(Rc::clone(&ending).follow(draining.clone()));
    let share = Share { worker: number, workers: settings.config.server.workers };
    let across = AcrossReloads { share, metrics, tunnels: tunnels.clone(), draining, ending };
    let latest = Rc::new(LatestContext::new(settings, across));
    let mut connections = TaskTracker::new();
    let (mut waiting, mut earlier) = (Some(waiting), None);
    loop {
        let next = tokio::select! {
            next = work.recv() => next,
            () = drain.begun.cancelled(), if earlier.is_none() => {
                let before = std::mem::take(&mut connections);
                before.close();
                spawn_local(all_end(before.clone(), tunnels.clone(), waiting.take()));
                earlier = Some(before);
                continue;
            }
        };
        match next {
            Some(Work::Serve(accepted)) => {
                connections.spawn_local(connection::serve(accepted, Rc::clone(&latest)));
            }
            Some(Work::Change(settings)) => latest.change(*settings),
            // The requester may have gone away.
            Some(Work::Answer(answer)) => drop(answer.send(())),
            None => break,
        }
    }
    connections.close();
    let deadline = drain.deadline().await;
    let ended = async {
        connections.wait().await;
        if let Some(earlier) = &earlier {
            earlier.wait().await;
        }
    };
    let mut all_ended = timeout_at(deadline, ended).await.is_ok();
    // No connection can become a tunnel any more.
    tunnels.close();
    all_ended &= timeout_at(deadline, tunnels.wait()).await.is_ok();
    if !all_ended {
        let connections = connections.len() + earlier.map_or(0, |earlier| earlier.len());
        let tunnels = tunnels.len();
        warn!(connections, tunnels, "closing connections that did not end within drain_timeout");
    }
}

/// Holds `waiting` until the connections and tunnels from before the drain have ended.
async fn all_end(connections: TaskTracker, tunnels: TaskTracker, waiting: Option<TaskTrackerToken>) {
    connections.wait().await;
    tunnels.close();
    tunnels.wait().await;
    drop(waiting);
}
