//! A rotation in progress: from its token's row through the groups to its result, whether or not
//! its client still waits.
//!
//! Most rows are known, and most of their tokens are live. Such a rotation goes from the thread of
//! the client's connection straight into the queue of the groups, and after the commit straight
//! back: results are delivered by a callback on the task that produced them, and no task is spawned
//! per rotation. The same holds for look-ups. Only a used token, which needs further queries, is
//! handled in its own task.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::analytics::{Event, EventResult, Failure};
use super::counters::Counter;
use super::plan::{Outcome, Plan, Replays, Rotated, Used};
use super::refresher::{RefreshLog, Refresher};
use super::replay::{self, Reused};
use super::response::{Pair, Reply};
use super::row_cache::{Key, RowRef};
use super::waiting::{LIMIT, RotationError};
use crate::wordpress::database::DatabaseError;

/// On a cluster: how often a token is looked up again if its row is missing when it is to be
/// locked, and the pause in between.
const LOOKS: u32 = 4;
const APART: Duration = Duration::from_millis(50);

/// The reply and the log line.
pub type Ended = Result<(Reply, RefreshLog), RotationError>;

/// One rotation. It is completed, stored and logged whether or not its client is still connected.
pub struct Rotation {
    refresher: Arc<Refresher>,
    token: Key,
    plan: Arc<Plan>,
    /// `None` if analytics are off.
    event: Option<Event>,
    /// How often the token was looked up rather than remembered.
    looks: u32,
    /// When no caller waits for it any more.
    deadline: Instant,
    answer: oneshot::Sender<Ended>,
    /// Counts it among those that a drain waits for.
    _tracked: TaskTrackerToken,
}

impl Rotation {
    /// Finds the token's row and rotates it. Returns the receiver of its result, and how long to
    /// wait for it.
    pub fn begin(
        refresher: &Arc<Refresher>,
        token: Key,
        plan: Plan,
        event: Option<Event>,
    ) -> (oneshot::Receiver<Ended>, Instant) {
        let (answer, answered) = oneshot::channel();
        let row = refresher.look_ups.cached(&token);
        let limit = if row.is_some() { LIMIT } else { refresher.look_ups.limit(&plan.site) };
        let deadline = Instant::now() + limit;
        let rotation = Rotation {
            refresher: Arc::clone(refresher),
            token,
            plan: Arc::new(plan),
            event,
            looks: 0,
            deadline,
            answer,
            _tracked: refresher.rotations.token(),
        };
        match row {
            Some(row) => rotation.rotate(row),
            None => rotation.look_up(),
        }
        (answered, deadline)
    }

    fn rotate(self, row: RowRef) {
        if let Some(user_id) = row.user_id {
            self.plan.sign_early(user_id.get());
        }
        let (refresher, plan) = (Arc::clone(&self.refresher), Arc::clone(&self.plan));
        let deadline = self.deadline.min(Instant::now() + LIMIT);
        refresher.groups.hand_in(plan, row, deadline, Box::new(move |result| self.ended(result)));
    }

    fn look_up(mut self) {
        self.looks += 1;
        let (look_ups, token) = (Arc::clone(&self.refresher.look_ups), self.token.clone());
        let site = Arc::clone(&self.plan.site);
        let on_done = move |found| match found {
            Ok(Some(row)) => self.rotate(row),
            Ok(None) => self.unknown(),
            Err(RotationError::NotBegun(error) | RotationError::Failed(error)) if error.refusal().is_some() => {
                let tasks = self.refresher.tasks.clone();
                tasks.spawn(self.refused(error));
            }
            Err(error) => self.fail(error),
        };
        look_ups.find(token, site, Box::new(on_done));
    }

    /// The transaction's result.
    fn ended(self, result: Result<Outcome, RotationError>) {
        let counters = Arc::clone(&self.refresher.counters);
        match result {
            Ok(Outcome::Rotated(rotated)) => self.rotated(rotated),
            Ok(Outcome::Used(used)) => {
                let tasks = self.refresher.tasks.clone();
                tasks.spawn(self.used(used));
            }
            Ok(Outcome::Expired) => {
                self.refuse(&counters.expired, Reply::InvalidToken, Failure::InvalidToken, RefreshLog::of("expired"));
            }
            Ok(Outcome::UserNotFound) => {
                let log = RefreshLog::of("user_not_found");
                self.refuse(&counters.user_not_found, Reply::UserNotFound, Failure::UserNotFound, log);
            }
            Ok(Outcome::Unverified(why)) => self.fail(RotationError::Unverified(why)),
            Ok(Outcome::NotThisRow) if self.looks > 0 && !self.refresher.store.database.is_cluster() => self.unknown(),
            Ok(Outcome::NotThisRow) if self.looks >= LOOKS => {
                self.fail(RotationError::Failed(DatabaseError::TimedOut));
            }
            // The row is gone or was changed by hand: look again. On a cluster this may take a
            // moment: the row may have been found on one node and not be on the next yet, to which
            // a proxy or a change of hosts leads.
            Ok(Outcome::NotThisRow) if self.looks > 0 => {
                self.refresher.look_ups.row_cache.forget(&self.token);
                let tasks = self.refresher.tasks.clone();
                tasks.spawn(async move {
                    sleep(APART).await;
                    self.look_up();
                });
            }
            Ok(Outcome::NotThisRow) => {
                self.refresher.look_ups.row_cache.forget(&self.token);
                self.look_up();
            }
            Err(error) => self.fail(error),
        }
    }

    fn rotated(self, rotated: Rotated) {
        let Rotation { refresher, plan, token: used, event, answer, .. } = self;
        if let Some(child) = rotated.child {
            // Before the response: the client may come back at once.
            let token = Key::of(&plan.refresh_token, plan.site.columns.folds_case);
            refresher.look_ups.row_cache.remember(token, RowRef::proved(child, rotated.user.id));
            refresher.look_ups.live_tokens.note(child);
            refresher.row_watch.note(child);
        }
        if let Some((recent, family)) = plan.recent.as_ref().zip(rotated.family.as_deref()) {
            recent.stored(family, &rotated.access_token);
        }
        refresher.counters.rotated.add();
        let (user_id, token_family) = (rotated.user.id, rotated.family.clone());
        refresher.record(event, EventResult::Success { user_id, token_id: rotated.parent, token_family });
        let pair = Pair {
            access_token: rotated.access_token,
            refresh_token: plan.refresh_token.clone(),
            expires_in: plan.site.settings.jwt_expiration,
            user: rotated.user,
            fields: rotated.fields,
        };
        let log = RefreshLog { user: Some(user_id), family: rotated.family, ..RefreshLog::of("rotated") };
        // If the client has disconnected, the receiver is gone.
        let _ = answer.send(Ok((Reply::Pair(pair), log)));
        refresher.look_ups.row_cache.used(used);
    }

    async fn used(self, used: Used) {
        let is_replay = self.plan.replays != Replays::None
            && self.refresher.reuse.decide(used.revoked_for) == replay::Decision::Replay;
        if let Some(error) = self.unverified().filter(|_| !is_replay) {
            return self.fail(error);
        }
        let refresher = Arc::clone(&self.refresher);
        let Refresher { store, reuse, counters, look_ups, .. } = &*refresher;
        let mut log = RefreshLog { user: Some(used.user_id), family: used.family.clone(), ..RefreshLog::of("used") };
        match replay::reuse(store, reuse, &self.plan, &used).await {
            // The database is unchanged, so there is no event either.
            Ok(Reused::Replayed(pair, row)) => {
                counters.replayed.add();
                let token = Key::of(&pair.refresh_token, self.plan.site.columns.folds_case);
                look_ups.row_cache.remember(token, RowRef::proved(row, used.user_id));
                log.outcome = "replayed";
                let _ = self.answer.send(Ok((Reply::Pair(pair), log)));
                return;
            }
            Ok(Reused::Refused(0)) => {}
            Ok(Reused::Refused(_)) => {
                counters.families_revoked.add();
                log.outcome = "family_revoked";
            }
            Err(error) => return self.fail(error),
        }
        self.refuse(&counters.used, Reply::InvalidToken, Failure::InvalidToken, log);
    }

    /// The database refuses even the look-up.
    async fn refused(self, error: DatabaseError) {
        let judged = timeout_at(self.deadline, self.refresher.standing.judge(error.clone())).await;
        self.fail(judged.unwrap_or(RotationError::Failed(error)));
    }

    fn unknown(self) {
        let counters = Arc::clone(&self.refresher.counters);
        self.refuse(&counters.unknown, Reply::InvalidToken, Failure::InvalidToken, RefreshLog::of("unknown"));
    }

    /// Calls left to WordPress are counted where that is decided.
    fn refuse(self, counter: &Counter, reply: Reply, failure: Failure, log: RefreshLog) {
        if let Some(error) = self.unverified() {
            return self.fail(error);
        }
        if self.plan.refuses {
            counter.add();
            self.refresher.record(self.event, EventResult::Failure(failure));
        }
        let _ = self.answer.send(Ok((reply, log)));
    }

    /// Why WordPress answers, if the verdict on the site has changed since the call was accepted.
    fn unverified(&self) -> Option<RotationError> {
        (!self.plan.is_native()).then(|| RotationError::Unverified(self.plan.verification.why()))
    }

    fn fail(self, error: RotationError) {
        let failed: &Counter = match error {
            RotationError::Unverified(_) => &self.refresher.counters.left_unverified,
            RotationError::NotBegun(_) | RotationError::Refused(_) => &self.refresher.counters.not_begun,
            RotationError::Failed(_) | RotationError::Sign(_) => &self.refresher.counters.failed,
        };
        failed.add();
        let _ = self.answer.send(Err(error));
    }
}
