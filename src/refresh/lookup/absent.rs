//! Looks up tokens once more that a cluster's node does not have, with causality: the read waits
//! until the node has applied everything that the others have committed.
//!
//! SECURITY: without this, a client is refused and logged out if it presents a token that another
//! node has just issued. A flood of unknown tokens must not become a flood of such reads, each of
//! which may wait: tokens that arrive meanwhile go into the next read, and there are at most two at
//! a time.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::worker::{LARGEST, Worker};
use super::{LookUps, Queue};
use crate::wordpress::database::CAUSAL_LIMIT;

/// The pause after a read that did not complete in time: the server does not notice that it was
/// given up, and waits for up to 30 s.
const REST_AFTER_LATE: Duration = CAUSAL_LIMIT;

/// Works on the queue for as long as it exists.
pub async fn work(look_ups: Weak<LookUps>, queue: Arc<Queue>) {
    loop {
        let sought = queue.take(LARGEST).await;
        let Some(look_ups) = look_ups.upgrade().filter(|_| !sought.is_empty()) else { return };
        let began = Instant::now();
        // Tokens that wait together are of the same site.
        let is_indexed = sought.first().is_some_and(|one| one.site.columns.indexed);
        let found = match is_indexed {
            true => (Worker { look_ups, by_index: true, is_causal: true }).find(sought).await,
            false => look_ups.look_at_new_rows(sought, true).await,
        };
        if began.elapsed() >= CAUSAL_LIMIT {
            queue.rest(REST_AFTER_LATE);
        } else if found {
            queue.found();
        }
    }
}
