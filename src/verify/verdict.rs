//! The verdict on a site by the comparisons so far, and what follows for the next call. Pure: times
//! are parameters.
//!
//! | state | refreshes | leaves it by |
//! |---|---|---|
//! | `Unverified` | left to WordPress, compared | enough that agree → `Agrees`; a difference → `Differs` |
//! | `Agrees` | native, except samples | a difference → `Differs`; another epoch → `Unverified` |
//! | `Differs` | left to WordPress, compared | many that agree, another epoch, a restart of the verification → `Unverified` or `Agrees` |
//!
//! SECURITY: a client must not be able to end the native path for all. What a client can cause (a
//! status of 429 or 5xx, a refusal that left its session alone, values taken from its request)
//! never decides by itself: [`Observation::Suspicious`] counts by users, and [`Observation::Void`]
//! not at all.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::difference::Difference;

/// The first comparisons must come from at least this many users: code that acts on one user only
/// would otherwise be missed.
const USERS: usize = 3;

/// A site with fewer users needs this many times as many comparisons instead.
const FEW_USERS: u32 = 3;

/// Comparisons for a class of requests that was not seen before, once the site agrees.
const FURTHER_CLASS: u32 = 3;

/// Comparisons after a change of the site: an update must not send a large site to PHP for long.
const AFTER_CHANGE: u32 = 5;

/// Comparisons after a restart, if the site is unchanged.
const AFTER_RESTART: u32 = 3;

/// Consecutive agreeing comparisons that end [`State::Differs`], and the minimum time in seconds.
/// Doubled with each relapse: code that acts for one user in two hundred must not make the sidecar
/// change its state again and again.
const RETURN: u32 = 200;
const RETURN_MOST: u32 = 12_800;
pub(super) const RETURN_SECONDS: u64 = 600;

/// How many users must have got the same suspicious response.
const SUSPICIOUS_USERS: usize = 2;

/// How many suspicions are remembered.
const MOST_SUSPICIONS: usize = 64;

/// After so many agreeing responses, comparisons are no longer more frequent because of a
/// suspicion.
const CALM: u32 = 50;

/// Suspicions are forgotten after so many seconds.
const SUSPICIOUS_FOR: u64 = 3600;

/// The state of a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Unverified,
    Agrees,
    Differs(Difference),
}

/// The kind of request, as far as a response depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// Without either of the two.
    Plain,
    /// With a web page's `Origin`.
    Origin,
    /// With `Authorization: Bearer`.
    Bearer,
    /// With both.
    OriginAndBearer,
    /// The token is not live: the response is a refusal.
    Refusal,
    /// With an app's `Origin`. Each origin is [counted separately](super::origins), with
    /// `Authorization: Bearer` and without.
    App,
}

/// The number of classes that are counted here: the first ones.
const COUNTED: usize = Class::App as usize;

impl Class {
    /// In the order of their bits.
    pub const ALL: [Class; 6] =
        [Class::Plain, Class::Origin, Class::Bearer, Class::OriginAndBearer, Class::Refusal, Class::App];

    /// The class of a call with a live token and no app's origin.
    pub fn of(has_origin: bool, has_bearer: bool) -> Self {
        match (has_origin, has_bearer) {
            (false, false) => Class::Plain,
            (true, false) => Class::Origin,
            (false, true) => Class::Bearer,
            (true, true) => Class::OriginAndBearer,
        }
    }
}

/// The result of one comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// WordPress did what the sidecar would have done.
    Agrees {
        /// The class of the request.
        class: Class,
        /// The token's user.
        user: Option<u64>,
    },
    /// WordPress did something else, which no client can cause.
    Differs(Difference),
    /// WordPress did something else for this user; a client may have caused it.
    Suspicious(Difference, u64),
    /// No result: the upstream failed, the rate limit applied, or the token was used meanwhile.
    Void,
}

/// Everything known of the site, as kept in the state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// A digest of the site. Empty: not read yet.
    pub epoch: String,
    pub state: State,
    /// The version of the plugin in this epoch.
    #[serde(default)]
    pub plugin_version: String,
    /// Unix seconds at which the state began.
    pub since: u64,
    /// Unix seconds at which the epoch began.
    pub epoch_since: u64,
    /// All comparisons with a result.
    pub compared: u64,
    /// Comparisons that agreed in this state, of all classes except refusals.
    pub agreed: u32,
    /// How many are needed.
    pub needed: u32,
    /// By class, in this epoch.
    by_class: [u32; COUNTED],
    /// How often the proof for a class was discarded.
    #[serde(skip)]
    forgotten: u64,
    /// Some of the users whose comparisons agreed, by id. SECURITY: not kept; a restart begins with
    /// others.
    #[serde(skip)]
    users: BTreeSet<u64>,
    /// The factor of [`RETURN`].
    relapses: u32,
    #[serde(skip)]
    suspicions: Vec<(Difference, u64, u64)>,
    /// Comparisons that agreed since the last suspicion.
    #[serde(skip)]
    agreed_since: u32,
}

impl Verdict {
    /// A verdict without comparisons, of which `first` are needed.
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

    /// A verdict kept by an earlier run, about a site that may have changed since.
    pub fn resumed(mut self, now: u64) -> Self {
        if self.state == State::Agrees {
            self.begin(State::Unverified, now);
            self.needed = AFTER_RESTART;
        }
        self
    }

    /// Whether the site agrees, and enough responses of this class did.
    pub fn knows(&self, class: Class) -> bool {
        let enough = match class {
            Class::Refusal => 1,
            Class::App => 0,
            _ => self.further(),
        };
        self.state == State::Agrees && self.count(class) >= enough
    }

    /// How many comparisons a further class of requests needs.
    pub fn further(&self) -> u32 {
        FURTHER_CLASS.min(self.needed)
    }

    /// Changes when the proof for a class was discarded.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Whether no refusal has agreed in this epoch.
    pub fn wants_refusal(&self) -> bool {
        self.count(Class::Refusal) == 0
    }

    /// Whether there is a suspicion that other users' calls should test.
    pub fn is_suspicious(&self) -> bool {
        !self.suspicions.is_empty() && self.agreed_since < CALM
    }

    /// Takes the result of a comparison. `true`: the state has changed.
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
                // One user may get several of a kind.
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
                // A refusal shows nothing about successful responses.
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

    /// WordPress differs. `true`: that is new.
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

    /// The site is in `epoch`. `first` is the number of comparisons that are needed if the plugin
    /// itself has changed. `true`: the epoch is new.
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

    /// Begins again without any knowledge of the site.
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

/// Consecutive agreeing comparisons that end a difference, after so many relapses.
pub(super) fn to_return(relapses: u32) -> u32 {
    RETURN.saturating_mul(1 << relapses.min(6)).min(RETURN_MOST)
}

#[cfg(test)]
mod tests;
