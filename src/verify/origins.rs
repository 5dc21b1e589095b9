//! Tracks WordPress's responses to each app's `Origin`.
//!
//! WordPress itself sends nothing for an app's origin (`capacitor://localhost`): a site whose app
//! works has its own code for that. So a native response to such an origin has exactly the fields
//! that WordPress's responses had, once enough of them agreed. A sample of the calls still goes to
//! WordPress; if the fields change, the origin's calls are left to it again.
//!
//! SECURITY: clients can make up origins. An origin is only remembered by a comparison, which
//! requires a live token; only a few are remembered; and one that several users have sent is not
//! displaced by another while it is in use.

mod entry;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::sampler::Sampler;
use entry::Entry;

/// The most origins at once, with and without `Authorization: Bearer`. A site has a few apps.
pub const MOST: usize = 16;

/// Seconds after which an origin without comparisons can be displaced. Calls are compared at least
/// every ten minutes.
const IDLE: u64 = 3600;

/// An app's call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct App<'a> {
    /// As in the request.
    pub origin: &'a str,
    /// Whether it has a bearer token: the plugin's own code may respond to that with other fields.
    pub has_bearer: bool,
}

/// Fields that depend on the origin, sorted by name.
pub type Fields = Vec<(HeaderName, HeaderValue)>;

/// The fields of native responses to one origin.
pub struct Cors {
    pub fields: Fields,
    holds: AtomicBool,
    wants_refusal: AtomicBool,
    sampler: Sampler,
}

/// A response of WordPress's that was otherwise as expected.
pub struct Seen {
    pub origin: String,
    pub has_bearer: bool,
    pub fields: Fields,
    /// The user of the live token; `None` if WordPress refused it.
    pub user: Option<u64>,
    /// Whether the request had cookies, which the site's code may have used.
    pub has_cookies: bool,
}

/// News about an origin.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Its fields agree: its calls may be native.
    Agrees,
    /// Its fields have changed: its calls are left to WordPress.
    Differs(String),
}

/// The state of one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginState {
    /// Its calls are left to WordPress until enough responses agree.
    Unverified,
    /// Its calls are native.
    Agrees,
    /// Its calls are left to WordPress, whose responses have changed.
    Differs,
}

impl OriginState {
    pub const ALL: [OriginState; 3] = [OriginState::Unverified, OriginState::Agrees, OriginState::Differs];

    /// One word, for metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            OriginState::Unverified => "unverified",
            OriginState::Agrees => "agrees",
            OriginState::Differs => "differs",
        }
    }
}

/// One origin for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginView {
    pub origin: String,
    /// Whether it stands for calls with `Authorization: Bearer`.
    pub bearer: bool,
    pub state: OriginState,
    pub since_unix_seconds: u64,
    /// Consecutive comparisons with equal fields, and how many are needed for native calls.
    pub agreed: u32,
    pub needed: u32,
    /// How the fields differ from the earlier ones.
    pub difference: Option<String>,
}

impl OriginView {
    /// The origin as part of a sentence.
    pub fn name(&self) -> String {
        if self.bearer { format!("{} with Bearer", self.origin) } else { self.origin.clone() }
    }

    /// Who answers its calls, for people. `is_native`: whether the site's refreshes are native.
    pub fn words(&self, is_native: bool) -> String {
        let OriginView { agreed, needed, .. } = self;
        match (self.state, &self.difference) {
            (OriginState::Agrees, _) if is_native => "native".to_owned(),
            (OriginState::Agrees, _) => "native as soon as the site's refreshes are".to_owned(),
            (OriginState::Differs, Some(difference)) => format!(
                "WordPress's, which answers differently than before: {difference}; {agreed} of {needed} responses agree since"
            ),
            _ => format!("WordPress's: {agreed} of {needed} answers agree"),
        }
    }
}

/// All remembered origins.
pub struct Origins {
    /// `verify_every`.
    every: u32,
    entries: RwLock<Vec<Entry>>,
}

impl Cors {
    fn new(fields: Fields, every: u32) -> Arc<Self> {
        let (holds, wants_refusal, sampler) = (AtomicBool::new(false), AtomicBool::new(true), Sampler::new(every));
        Arc::new(Cors { fields, holds, wants_refusal, sampler })
    }

    /// Whether WordPress's responses have not changed since. Checked again under the row's lock.
    pub fn holds(&self) -> bool {
        self.holds.load(Ordering::Acquire)
    }

    /// Whether no refusal of this origin's calls was compared yet.
    pub fn wants_refusal(&self) -> bool {
        self.wants_refusal.load(Ordering::Relaxed)
    }

    /// Whether this call is to be compared.
    pub(super) fn picks(&self) -> bool {
        self.sampler.picks()
    }
}

impl Origins {
    pub(super) fn new(every: u32) -> Self {
        Origins { every, entries: RwLock::default() }
    }

    /// Continues from `before`.
    pub(super) fn following(before: &Origins, every: u32) -> Self {
        let entries = before.read(|entries| entries.iter().map(|entry| entry.copied(every)).collect());
        Origins { every, entries: RwLock::new(entries) }
    }

    /// The fields of native responses to `app`, if enough of WordPress's agreed.
    pub(super) fn agreed(&self, app: App<'_>) -> Option<Arc<Cors>> {
        self.read(|entries| entries.iter().find(|entry| entry.is_of(app))?.agreed())
    }

    /// Adds a response. `enough` is the number of comparisons that an origin needs.
    pub(super) fn observe(&self, seen: &Seen, enough: u32, now: u64) -> Option<News> {
        let app = App { origin: &seen.origin, has_bearer: seen.has_bearer };
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.iter_mut().find(|entry| entry.is_of(app)) {
            return entry.observe(seen, enough, self.every, now);
        }
        // SECURITY: refused calls do not make an origin known.
        seen.user?;
        if entries.len() >= MOST {
            let may_go = |entry: &&Entry| !entry.has_several_users() || entry.seen_at() + IDLE <= now;
            let oldest = entries.iter().filter(may_go).map(Entry::seen_at).min()?;
            let place = entries.iter().position(|entry| may_go(&entry) && entry.seen_at() == oldest)?;
            entries.swap_remove(place).end();
        }
        entries.push(Entry::new(app, self.every, now, &seen.fields));
        entries.last_mut()?.observe(seen, enough, self.every, now)
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.drain(..).for_each(|entry| entry.end());
    }

    /// Why calls of `app` are left to WordPress.
    pub(super) fn why(&self, app: App<'_>) -> String {
        let (view, is_full) = self
            .read(|entries| (entries.iter().find(|entry| entry.is_of(app)).map(Entry::view), entries.len() >= MOST));
        match view {
            Some(view) => format!("the origin {} is {}", view.name(), view.words(true)),
            None if is_full => format!("the origin {} is one of more than {MOST}", app.origin),
            None => format!("no answer of WordPress to the origin {} was compared yet", app.origin),
        }
    }

    /// The origins for operators, sorted by name.
    pub(super) fn view(&self) -> Vec<OriginView> {
        let mut views: Vec<OriginView> = self.read(|entries| entries.iter().map(Entry::view).collect());
        views.sort_by(|one, other| (&one.origin, one.bearer).cmp(&(&other.origin, other.bearer)));
        views
    }

    fn read<T>(&self, look: impl FnOnce(&[Entry]) -> T) -> T {
        look(&self.entries.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How `now` differs from `before`: names only.
fn changed(before: &Fields, now: &Fields) -> String {
    let of = |fields: &Fields, name: &HeaderName| -> Vec<HeaderValue> {
        fields.iter().filter(|(other, _)| other == name).map(|(_, value)| value.clone()).collect()
    };
    let names: BTreeSet<&str> = before.iter().chain(now).map(|(name, _)| name.as_str()).collect();
    let changes = names.into_iter().filter_map(|name| {
        let name = HeaderName::try_from(name).ok()?;
        let sign = match (of(before, &name), of(now, &name)) {
            (before, now) if before == now => return None,
            (before, _) if before.is_empty() => "+",
            (_, now) if now.is_empty() => "-",
            _ => "",
        };
        Some(format!("{sign}{}", super::difference::shown(name.as_str())))
    });
    format!("header {}", changes.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests;
