//! What the comparisons so far say of the site, and what follows for the next call. Pure: times are parameters.
//!
//! | state | refreshes | leaves it by |
//! |---|---|---|
//! | `Unverified` | WordPress's, compared | enough that agree → `Agrees`; a difference → `Differs` |
//! | `Agrees` | native, but for samples | a difference → `Differs`; another epoch → `Unverified` |
//! | `Differs` | WordPress's, compared | many that agree, another epoch, a restart of the verification → `Unverified` or `Agrees` |
//!
//! SECURITY: a client must not be able to end the native path for all. What a client can bring about (a status of 429 or 5xx, a
//! refusal that left its session alone, values taken from its request) never decides by itself: [`Observation::Suspicious`]
//! counts by users, and [`Observation::Void`] not at all.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::difference::Difference;

/// Users that the first comparisons must be of: what acts on one user only would else be missed.
const USERS: usize = 3;

/// A site with fewer users has so many times more comparisons instead.
const FEW_USERS: u32 = 3;

/// Comparisons for a class of requests that was not seen before, once the site agrees.
const FURTHER_CLASS: u32 = 3;

/// Comparisons after a change of the site: an update must not send a large site to PHP for long.
const AFTER_CHANGE: u32 = 5;

/// Comparisons after a restart, where the site is the same as before.
const AFTER_RESTART: u32 = 3;

/// Agreeing comparisons in a row that end [`State::Differs`], and within how many seconds at least. Doubled with each relapse:
/// code that acts for one user of two hundred must not make the sidecar change sides again and again.
const RETURN: u32 = 200;
const RETURN_MOST: u32 = 12_800;
pub(super) const RETURN_SECONDS: u64 = 600;

/// Users who must have met the same suspicious answer.
const SUSPICIOUS_USERS: usize = 2;

/// Suspicions that are remembered.
const MOST_SUSPICIONS: usize = 64;

/// Answers that agree, after which nobody is asked more often than else for a suspicion.
const CALM: u32 = 50;

/// Suspicions are forgotten after so many seconds.
const SUSPICIOUS_FOR: u64 = 3600;

/// What is expected of the site's work, and found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Unverified,
    Agrees,
    Differs(Difference),
}

/// What kind of request it is, as far as an answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// With neither of the two.
    Plain,
    /// With `Origin`, a web page's.
    Origin,
    /// With `Authorization: Bearer`.
    Bearer,
    /// With both.
    OriginAndBearer,
    /// The token is not live: the answer is a refusal.
    Refusal,
    /// With the `Origin` of an app. Each origin is [counted by itself](super::origins), with `Authorization: Bearer` and without.
    App,
}

/// Classes that are counted here: the first ones.
const COUNTED: usize = Class::App as usize;

impl Class {
    /// In the order of their bits.
    pub const ALL: [Class; 6] =
        [Class::Plain, Class::Origin, Class::Bearer, Class::OriginAndBearer, Class::Refusal, Class::App];

    /// Of a call with a live token and no app's origin.
    pub fn of(has_origin: bool, has_bearer: bool) -> Self {
        match (has_origin, has_bearer) {
            (false, false) => Class::Plain,
            (true, false) => Class::Origin,
            (false, true) => Class::Bearer,
            (true, true) => Class::OriginAndBearer,
        }
    }
}

/// What one comparison found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// WordPress did what the sidecar would have done.
    Agrees {
        /// What kind of request it was.
        class: Class,
        /// Whose token it was.
        user: Option<u64>,
    },
    /// It did not, and no client can bring that about.
    Differs(Difference),
    /// It did not, for this user; a client may have brought it about.
    Suspicious(Difference, u64),
    /// It says nothing: an upstream in trouble, a rate limit, a token that was used meanwhile.
    Void,
}

/// All that is known. It is what the state file keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What the site was like, as a digest. Empty: not read yet.
    pub epoch: String,
    pub state: State,
    /// Of the plugin, in this epoch.
    #[serde(default)]
    pub plugin_version: String,
    /// Unix seconds at which the state began.
    pub since: u64,
    /// Unix seconds at which the epoch began.
    pub epoch_since: u64,
    /// Comparisons that counted, in all.
    pub compared: u64,
    /// Comparisons that agreed, in this state, of any class but refusals.
    pub agreed: u32,
    /// How many are needed.
    pub needed: u32,
    /// By class, in this epoch.
    by_class: [u32; COUNTED],
    /// How often what was proven of a kind of requests has ceased to count.
    #[serde(skip)]
    forgotten: u64,
    /// Some of the users whose comparisons agreed, by their ids. SECURITY: not kept; after a restart it takes others.
    #[serde(skip)]
    users: BTreeSet<u64>,
    /// What [`RETURN`] is multiplied by.
    relapses: u32,
    #[serde(skip)]
    suspicions: Vec<(Difference, u64, u64)>,
    /// Comparisons that agreed since the last of them.
    #[serde(skip)]
    agreed_since: u32,
}

impl Verdict {
    /// Nothing is known. `first` comparisons are needed.
    pub fn new(first: u32, now: u64) -> Self {
        Verdict {
            epoch: String::new(),
            state: State::Unverified,
            plugin_version: String::new(),
            since: now,
            epoch_since: now,
            compared: 0,
            agreed: 0,
            needed: first,
            by_class: [0; COUNTED],
            forgotten: 0,
            users: BTreeSet::new(),
            relapses: 0,
            suspicions: Vec::new(),
            agreed_since: 0,
        }
    }

    /// What was kept of an earlier run, about a site that may have changed since.
    pub fn resumed(mut self, now: u64) -> Self {
        if self.state == State::Agrees {
            self.begin(State::Unverified, now);
            self.needed = AFTER_RESTART;
        }
        self
    }

    /// Whether the site agrees, and enough answers of this class did.
    pub fn knows(&self, class: Class) -> bool {
        let enough = match class {
            Class::Refusal => 1,
            Class::App => 0,
            _ => self.further(),
        };
        self.state == State::Agrees && self.count(class) >= enough
    }

    /// Comparisons that a further kind of requests needs.
    pub fn further(&self) -> u32 {
        FURTHER_CLASS.min(self.needed)
    }

    /// Another number than before: what was proven of a kind of requests counts no more.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Whether no refusal has agreed in this epoch.
    pub fn wants_refusal(&self) -> bool {
        self.count(Class::Refusal) == 0
    }

    /// Whether somebody met what others should be asked for.
    pub fn is_suspicious(&self) -> bool {
        !self.suspicions.is_empty() && self.agreed_since < CALM
    }

    /// Takes what a comparison found into account. `true`: the state has changed.
    pub fn observe(&mut self, observed: Observation, now: u64) -> bool {
        match observed {
            Observation::Void => false,
            Observation::Differs(difference) => {
                self.compared += 1;
                self.differ(difference, now)
            }
            Observation::Suspicious(difference, user) => {
                self.compared += 1;
                self.agreed_since = 0;
                self.suspicions.retain(|(_, _, at)| at + SUSPICIOUS_FOR >= now);
                if !self.suspicions.iter().any(|(known, of, _)| *known == difference && *of == user) {
                    self.suspicions.push((difference.clone(), user, now));
                }
                if self.suspicions.len() > MOST_SUSPICIONS {
                    self.suspicions.remove(0);
                }
                let of_the_kind = self.suspicions.iter().filter(|(known, ..)| known.kind == difference.kind);
                // One user may meet several of a kind.
                let users: BTreeSet<u64> = of_the_kind.map(|(_, user, _)| *user).collect();
                users.len() >= SUSPICIOUS_USERS && self.differ(difference, now)
            }
            Observation::Agrees { class, user } => {
                self.compared += 1;
                self.agreed_since = self.agreed_since.saturating_add(1);
                self.suspicions.retain(|(_, _, at)| at + SUSPICIOUS_FOR >= now);
                if let Some(count) = self.by_class.get_mut(class as usize) {
                    *count = count.saturating_add(1);
                }
                // What refuses says nothing of what is given.
                if class == Class::Refusal {
                    return false;
                }
                self.agreed = self.agreed.saturating_add(1);
                if let Some(user) = user.filter(|_| self.users.len() < USERS) {
                    self.users.insert(user);
                }
                self.is_enough(now) && self.begin(State::Agrees, now)
            }
        }
    }

    /// WordPress's work is another. `true`: that is new.
    pub fn differ(&mut self, difference: Difference, now: u64) -> bool {
        self.forget();
        if let State::Differs(known) = &self.state {
            let is_new = known.kind != difference.kind;
            self.agreed = 0;
            self.users.clear();
            if is_new {
                self.state = State::Differs(difference);
            }
            return is_new;
        }
        self.needed = to_return(self.relapses);
        self.relapses = self.relapses.saturating_add(1);
        self.begin(State::Differs(difference), now)
    }

    /// The site is as `epoch` says. `first`: comparisons that are needed where the plugin itself is another. `true`: it was
    /// another before.
    pub fn enter(&mut self, epoch: &str, plugin_changed: bool, first: u32, now: u64) -> bool {
        if self.epoch == epoch {
            return false;
        }
        let is_first = std::mem::replace(&mut self.epoch, epoch.to_owned()).is_empty();
        self.epoch_since = now;
        self.forget();
        self.suspicions.clear();
        if is_first && self.state == State::Unverified {
            self.agreed = 0;
            self.users.clear();
        } else {
            self.begin(State::Unverified, now);
            self.needed = if plugin_changed { first } else { AFTER_CHANGE.min(first) };
        }
        true
    }

    /// Begins again, as if nothing was known of the site.
    pub fn again(&mut self, first: u32, now: u64) {
        let (epoch, plugin_version) = (std::mem::take(&mut self.epoch), std::mem::take(&mut self.plugin_version));
        let (compared, forgotten) = (self.compared, self.forgotten + 1);
        *self = Verdict { epoch, plugin_version, compared, forgotten, ..Verdict::new(first, now) };
    }

    fn forget(&mut self) {
        self.by_class = [0; COUNTED];
        self.forgotten += 1;
    }

    fn count(&self, class: Class) -> u32 {
        self.by_class.get(class as usize).copied().unwrap_or(0)
    }

    fn is_enough(&self, now: u64) -> bool {
        match &self.state {
            State::Agrees => false,
            State::Unverified => {
                let few = self.needed.saturating_mul(FEW_USERS);
                self.agreed >= self.needed
                    && (self.users.len() >= USERS.min(self.needed as usize) || self.agreed >= few)
            }
            State::Differs(_) => self.agreed >= self.needed && now.saturating_sub(self.since) >= RETURN_SECONDS,
        }
    }

    fn begin(&mut self, state: State, now: u64) -> bool {
        self.state = state;
        self.since = now;
        self.agreed = 0;
        self.agreed_since = 0;
        self.users.clear();
        if self.state == State::Agrees {
            self.suspicions.clear();
        }
        true
    }
}

/// Agreeing comparisons in a row that end a difference, after so many relapses.
pub(super) fn to_return(relapses: u32) -> u32 {
    RETURN.saturating_mul(1 << relapses.min(6)).min(RETURN_MOST)
}

#[cfg(test)]
mod tests;
