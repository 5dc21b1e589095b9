//! A rotation on its way: from its token's row through the groups to what is said of it, whoever still waits for that.
//!
//! Most rows are known, and most of their tokens live. Such a rotation goes from the thread of the client's connection straight
//! into the queue of the groups, and from the commit straight back: what a transaction says is put down where it is said, without
//! a task of its own, and so is what a look-up says. Only what has to ask about a used token goes on in a task.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::analytics::{Event, EventResult, Failure};
use super::counters::Counter;
use super::plan::{self, Plan, Used};
use super::refresher::{Refresher, Told};
use super::replay::{self, Reused};
use super::response::{self, Outcome};
use super::tokens::{Key, Place};
use super::waiting::{LIMIT, RotationError};
use crate::wordpress::database::DatabaseError;

/// What is answered, and what the log says of it.
pub type Ended = Result<(Outcome, Told), RotationError>;

/// One rotation. It ends, is stored and is told of whether or not its client is still there.
pub struct InFlight {
    refresher: Arc<Refresher>,
    token: Key,
    plan: Arc<Plan>,
    /// `None` where nobody writes it down.
    event: Option<Event>,
    /// The token was looked for, and not only remembered.
    is_looked_up: bool,
    /// When nobody waits for it any more.
    deadline: Instant,
    answer: oneshot::Sender<Ended>,
    /// A drain waits for it.
    _tracked: TaskTrackerToken,
}

impl InFlight {
    /// Finds the token's row and rotates it. Returns where its end is told, and until when it is to be waited for.
    pub fn begin(
        refresher: &Arc<Refresher>,
        token: Key,
        plan: Plan,
        event: Option<Event>,
    ) -> (oneshot::Receiver<Ended>, Instant) {
        let (answer, answered) = oneshot::channel();
        let place = refresher.look_ups.cached(&token);
        let limit = if place.is_some() { LIMIT } else { refresher.look_ups.limit(&plan.site) };
        let deadline = Instant::now() + limit;
        let rotation = InFlight {
            refresher: Arc::clone(refresher),
            token,
            plan: Arc::new(plan),
            event,
            is_looked_up: false,
            deadline,
            answer,
            _tracked: refresher.rotations.token(),
        };
        match place {
            Some(place) => rotation.rotate(place),
            None => rotation.look_up(),
        }
        (answered, deadline)
    }

    fn rotate(self, place: Place) {
        if let Some(user_id) = place.user_id {
            self.plan.sign_early(user_id);
        }
        let (refresher, plan) = (Arc::clone(&self.refresher), Arc::clone(&self.plan));
        let deadline = self.deadline.min(Instant::now() + LIMIT);
        refresher.groups.hand_in(plan, place.row, deadline, Box::new(move |result| self.ended(result)));
    }

    fn look_up(mut self) {
        self.is_looked_up = true;
        let (look_ups, token) = (Arc::clone(&self.refresher.look_ups), self.token.clone());
        let site = Arc::clone(&self.plan.site);
        let then = move |found| match found {
            Ok(Some(place)) => self.rotate(place),
            Ok(None) => self.unknown(),
            Err(RotationError::NotBegun(error) | RotationError::Failed(error)) if error.refusal().is_some() => {
                let tasks = self.refresher.tasks.clone();
                tasks.spawn(self.refused(error));
            }
            Err(error) => self.fail(error),
        };
        look_ups.find(token, site, Box::new(then));
    }

    /// What the transaction said.
    fn ended(self, result: Result<plan::Outcome, RotationError>) {
        let counters = Arc::clone(&self.refresher.counters);
        match result {
            Ok(plan::Outcome::Rotated(rotated)) => self.rotated(rotated),
            Ok(plan::Outcome::Used(used)) => {
                let tasks = self.refresher.tasks.clone();
                tasks.spawn(self.used(used));
            }
            Ok(plan::Outcome::Expired) => {
                self.refuse(&counters.expired, Outcome::InvalidToken, Failure::InvalidToken, Told::of("expired"));
            }
            Ok(plan::Outcome::UserNotFound) => {
                let told = Told::of("user_not_found");
                self.refuse(&counters.user_not_found, Outcome::UserNotFound, Failure::UserNotFound, told);
            }
            Ok(plan::Outcome::NotThisRow) if self.is_looked_up => self.unknown(),
            // The row is gone or was changed by hand: look again.
            Ok(plan::Outcome::NotThisRow) => {
                self.refresher.look_ups.tokens.forget(&self.token);
                self.look_up();
            }
            Err(error) => self.fail(error),
        }
    }

    fn rotated(self, rotated: plan::Rotated) {
        let InFlight { refresher, plan, token: used, event, answer, .. } = self;
        if let Some(child) = rotated.child {
            // Before the answer: the client may be back at once.
            let token = Key::of(&plan.refresh_token, plan.site.columns.folds_case);
            refresher.look_ups.tokens.remember(token, Place { row: child, user_id: Some(rotated.user.id) });
            refresher.look_ups.map.note(child);
        }
        if let Some((recent, family)) = plan.recent.as_ref().zip(rotated.family.as_deref()) {
            recent.stored(family, &rotated.access_token);
        }
        refresher.counters.rotated.add();
        let (user_id, token_family) = (rotated.user.id, rotated.family.clone());
        refresher.record(event, EventResult::Success { user_id, token_id: rotated.parent, token_family });
        let pair = response::Rotated {
            access_token: rotated.access_token,
            refresh_token: plan.refresh_token.clone(),
            expires_in: plan.site.settings.jwt_expiration,
            user: rotated.user,
        };
        let told = Told { user: Some(user_id), family: rotated.family, ..Told::of("rotated") };
        // Where the client has left, nobody waits.
        let _ = answer.send(Ok((Outcome::Rotated(pair), told)));
        refresher.look_ups.tokens.used(used);
    }

    async fn used(self, used: Used) {
        let refresher = Arc::clone(&self.refresher);
        let Refresher { store, reuse, counters, look_ups, .. } = &*refresher;
        let mut told = Told { user: Some(used.user_id), family: used.family.clone(), ..Told::of("used") };
        match replay::reuse(store, reuse, &self.plan, &used).await {
            // Nothing has happened, so there is no event either.
            Ok(Reused::Replayed(pair, row)) => {
                counters.replayed.add();
                let token = Key::of(&pair.refresh_token, self.plan.site.columns.folds_case);
                look_ups.tokens.remember(token, Place { row, user_id: Some(used.user_id) });
                told.outcome = "replayed";
                let _ = self.answer.send(Ok((Outcome::Rotated(pair), told)));
                return;
            }
            Ok(Reused::Refused(0)) => {}
            Ok(Reused::Refused(_)) => {
                counters.families_revoked.add();
                told.outcome = "family_revoked";
            }
            Err(error) => return self.fail(error),
        }
        self.refuse(&counters.used, Outcome::InvalidToken, Failure::InvalidToken, told);
    }

    /// The database does not even let the token be looked for.
    async fn refused(self, error: DatabaseError) {
        let judged = timeout_at(self.deadline, self.refresher.standing.judge(error.clone())).await;
        self.fail(judged.unwrap_or(RotationError::Failed(error)));
    }

    fn unknown(self) {
        let counters = Arc::clone(&self.refresher.counters);
        self.refuse(&counters.unknown, Outcome::InvalidToken, Failure::InvalidToken, Told::of("unknown"));
    }

    /// What is left to WordPress is counted as that, where that is decided.
    fn refuse(self, counter: &Counter, outcome: Outcome, failure: Failure, told: Told) {
        if self.plan.refuses {
            counter.add();
            self.refresher.record(self.event, EventResult::Failure(failure));
        }
        let _ = self.answer.send(Ok((outcome, told)));
    }

    fn fail(self, error: RotationError) {
        let failed: &Counter = match error {
            RotationError::NotBegun(_) | RotationError::Refused(_) => &self.refresher.counters.not_begun,
            RotationError::Failed(_) | RotationError::Sign(_) => &self.refresher.counters.failed,
        };
        failed.add();
        let _ = self.answer.send(Err(error));
    }
}
