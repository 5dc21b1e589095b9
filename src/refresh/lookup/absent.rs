//! Asks a cluster's node once more for tokens that it does not have, with causality: the read waits until the node has applied all
//! that the others have committed.
//!
//! SECURITY: without that a client is refused, and logged out, that comes with a token which another node issued a moment ago. A
//! flood of unknown tokens must not become a flood of such reads, each of which may wait: what is to be asked meanwhile goes
//! into the next, and there are two at a time at most.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::worker::{LARGEST, Worker};
use super::{LookUps, Queue};
use crate::wordpress::database::CAUSAL_LIMIT;

/// After a read that did not come to its end in time, the next begins so much later: the server does not notice that the one before
/// was given up, and waits for up to 30 s.
const REST_AFTER_LATE: Duration = CAUSAL_LIMIT;

/// Works at the queue for as long as there is one.
pub async fn work(look_ups: Weak<LookUps>, queue: Arc<Queue>) {
    loop {
        let sought = queue.take(LARGEST).await;
        let Some(look_ups) = look_ups.upgrade().filter(|_| !sought.is_empty()) else { return };
        let began = Instant::now();
        // What waits together was asked of one site.
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
