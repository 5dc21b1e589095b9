//! One origin: its responses so far, and its state. Pure except for the flags that calls read:
//! times are parameters.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::verdict::{RETURN_SECONDS, to_return};
use super::{App, Cors, Fields, News, OriginState, OriginView, Seen, changed};

/// Like the state of the site's verification, for one origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Unverified,
    Agrees,
    Differs(String),
}

pub(super) struct Entry {
    origin: Box<str>,
    has_bearer: bool,
    cors: Arc<Cors>,
    state: State,
    /// Unix seconds at which the state began.
    since: u64,
    /// Consecutive comparisons with the fields of `cors`, and how many are needed.
    agreed: u32,
    needed: u32,
    relapses: u32,
    /// Unix seconds of the last comparison.
    seen_at: u64,
    first_user: Option<u64>,
    has_several_users: bool,
    /// A user who got other fields, and sent cookies.
    suspected_by: Option<u64>,
}

impl Entry {
    /// A new origin, whose first comparison is still to be [observed](Entry::observe).
    pub fn new(app: App<'_>, every: u32, now: u64, fields: &Fields) -> Self {
        Entry {
            origin: app.origin.into(),
            has_bearer: app.has_bearer,
            cors: Cors::new(fields.clone(), every),
            state: State::Unverified,
            since: now,
            agreed: 0,
            needed: 0,
            relapses: 0,
            seen_at: now,
            first_user: None,
            has_several_users: false,
            suspected_by: None,
        }
    }

    /// A copy for another verification.
    pub fn copied(&self, every: u32) -> Self {
        let cors = Cors::new(self.cors.fields.clone(), every);
        cors.holds.store(self.cors.holds(), Ordering::Release);
        cors.wants_refusal.store(self.cors.wants_refusal(), Ordering::Relaxed);
        Entry { origin: self.origin.clone(), cors, state: self.state.clone(), ..*self }
    }

    pub fn is_of(&self, app: App<'_>) -> bool {
        self.has_bearer == app.has_bearer && *self.origin == *app.origin
    }

    pub fn agreed(&self) -> Option<Arc<Cors>> {
        (self.state == State::Agrees).then(|| Arc::clone(&self.cors))
    }

    pub fn seen_at(&self) -> u64 {
        self.seen_at
    }

    pub fn has_several_users(&self) -> bool {
        self.has_several_users
    }

    /// Adds a response. `enough` is the number of comparisons that it needs; a new sampler picks
    /// one in `every`.
    pub fn observe(&mut self, seen: &Seen, enough: u32, every: u32, now: u64) -> Option<News> {
        let is_same = seen.fields == self.cors.fields;
        let Some(user) = seen.user else { return self.observe_refusal(is_same, seen, every, now) };
        self.seen_at = now;
        self.has_several_users |= *self.first_user.get_or_insert(user) != user;
        if !is_same {
            // SECURITY: clients choose their cookies. A single client must not end the native path
            // for all users of the app.
            if self.state == State::Agrees && seen.has_cookies && self.suspected_by.is_none_or(|other| other == user) {
                self.suspected_by = Some(user);
                return None;
            }
            return self.differ(&seen.fields, every, now);
        }
        // SECURITY: nor must it begin the native path.
        if self.state != State::Agrees && seen.has_cookies {
            return None;
        }
        self.agreed = self.agreed.saturating_add(1);
        let is_enough = match self.state {
            State::Agrees => false,
            State::Unverified => {
                self.needed = enough;
                self.agreed >= enough
            }
            State::Differs(_) => self.agreed >= self.needed && now.saturating_sub(self.since) >= RETURN_SECONDS,
        };
        is_enough.then(|| {
            (self.state, self.since) = (State::Agrees, now);
            self.cors.holds.store(true, Ordering::Release);
            News::Agrees
        })
    }

    /// A refusal only counts for an origin that is already native.
    fn observe_refusal(&mut self, is_same: bool, seen: &Seen, every: u32, now: u64) -> Option<News> {
        if self.state != State::Agrees {
            return None;
        }
        if is_same {
            self.cors.wants_refusal.store(false, Ordering::Relaxed);
            return None;
        }
        if seen.has_cookies { None } else { self.differ(&seen.fields, every, now) }
    }

    fn differ(&mut self, fields: &Fields, every: u32, now: u64) -> Option<News> {
        let what = changed(&self.cors.fields, fields);
        self.cors.holds.store(false, Ordering::Release);
        self.cors = Cors::new(fields.clone(), every);
        (self.agreed, self.suspected_by) = (1, None);
        if self.state != State::Agrees {
            return None;
        }
        self.needed = to_return(self.relapses);
        self.relapses = self.relapses.saturating_add(1);
        (self.state, self.since) = (State::Differs(what.clone()), now);
        Some(News::Differs(what))
    }

    /// Calls that it has admitted are no longer native.
    pub fn end(self) {
        self.cors.holds.store(false, Ordering::Release);
    }

    pub fn view(&self) -> OriginView {
        let (state, difference) = match &self.state {
            State::Unverified => (OriginState::Unverified, None),
            State::Agrees => (OriginState::Agrees, None),
            State::Differs(what) => (OriginState::Differs, Some(what.clone())),
        };
        OriginView {
            origin: self.origin.to_string(),
            bearer: self.has_bearer,
            state,
            since_unix_seconds: self.since,
            agreed: self.agreed,
            needed: self.needed,
            difference,
        }
    }
}
