//! What WordPress answers each app's `Origin` with, as far as its answers were seen.
//!
//! WordPress itself has nothing to say to an app (`capacitor://localhost`): a site whose app works has code of its own for that. So
//! a native answer to such an origin has the very fields that WordPress's answers to it had, once enough of them were the same.
//! A sample of the calls goes to WordPress ever after; other fields than before leave the origin's calls to it again.
//!
//! SECURITY: clients make origins up. A comparison remembers one, which takes a live token; a few are remembered; and one that
//! several users have come with does not make room for another while it is in use.

mod entry;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::sampler::Sampler;
use entry::Entry;

/// Origins at once, with `Authorization: Bearer` and without. A site has a few apps.
pub const MOST: usize = 16;

/// Seconds after which an origin that no comparison came with makes room. Calls are compared every ten minutes at least.
const IDLE: u64 = 3600;

/// Whose call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct App<'a> {
    /// As the request has it.
    pub origin: &'a str,
    /// The plugin's own code may answer such a call with other fields.
    pub has_bearer: bool,
}

/// Fields that depend on the origin, in the order of their names.
pub type Fields = Vec<(HeaderName, HeaderValue)>;

/// The fields of native answers to one origin.
pub struct Cors {
    pub fields: Fields,
    holds: AtomicBool,
    wants_refusal: AtomicBool,
    sampler: Sampler,
}

/// What an answer of WordPress's had, that was as expected otherwise.
pub struct Seen {
    pub origin: String,
    pub has_bearer: bool,
    pub fields: Fields,
    /// Whose live token it was; `None`: WordPress has refused it.
    pub user: Option<u64>,
    /// The site's code may have gone by the request's cookies.
    pub has_cookies: bool,
}

/// What is new of an origin.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Its calls are native, as far as it goes.
    Agrees,
    /// They are WordPress's, whose fields are others now.
    Differs(String),
}

/// The state of one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginState {
    /// WordPress's, until enough of its answers are the same.
    Unverified,
    /// The sidecar's.
    Agrees,
    /// WordPress's, which has answered otherwise than before.
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

/// One origin, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginView {
    pub origin: String,
    /// Whether it is about calls with `Authorization: Bearer`.
    pub bearer: bool,
    pub state: OriginState,
    pub since_unix_seconds: u64,
    /// Comparisons in a row whose fields were the same, and how many are needed to be native.
    pub agreed: u32,
    pub needed: u32,
    /// In what the fields differ from those before.
    pub difference: Option<String>,
}

impl OriginView {
    /// The origin, as it is called in a sentence.
    pub fn name(&self) -> String {
        if self.bearer { format!("{} with Bearer", self.origin) } else { self.origin.clone() }
    }

    /// Whose its calls are, in words. `is_native`: whether the site's are native.
    pub fn words(&self, is_native: bool) -> String {
        let OriginView { agreed, needed, .. } = self;
        match (self.state, &self.difference) {
            (OriginState::Agrees, _) if is_native => "native".to_owned(),
            (OriginState::Agrees, _) => "native as soon as the site's refreshes are".to_owned(),
            (OriginState::Differs, Some(difference)) => format!(
                "WordPress's, which answers otherwise than before: {difference}; {agreed} of {needed} answers agree since"
            ),
            _ => format!("WordPress's: {agreed} of {needed} answers agree"),
        }
    }
}

/// All origins that are remembered.
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

    /// Whether WordPress has not answered otherwise since. Asked again under the row's lock.
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

    /// With what `before` knows.
    pub(super) fn following(before: &Origins, every: u32) -> Self {
        let entries = before.read(|entries| entries.iter().map(|entry| entry.copied(every)).collect());
        Origins { every, entries: RwLock::new(entries) }
    }

    /// The fields of native answers to `app`, if enough of WordPress's had the same.
    pub(super) fn agreed(&self, app: App<'_>) -> Option<Arc<Cors>> {
        self.read(|entries| entries.iter().find(|entry| entry.is_of(app))?.agreed())
    }

    /// Takes an answer into account. `enough`: comparisons that an origin needs.
    pub(super) fn observe(&self, seen: &Seen, enough: u32, now: u64) -> Option<News> {
        let app = App { origin: &seen.origin, has_bearer: seen.has_bearer };
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.iter_mut().find(|entry| entry.is_of(app)) {
            return entry.observe(seen, enough, self.every, now);
        }
        // SECURITY: an origin whose calls are refused is none that is remembered.
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

    /// Nothing is known any more.
    pub(super) fn clear(&self) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.drain(..).for_each(|entry| entry.end());
    }

    /// Why calls of `app` are WordPress's.
    pub(super) fn why(&self, app: App<'_>) -> String {
        let (view, is_full) = self
            .read(|entries| (entries.iter().find(|entry| entry.is_of(app)).map(Entry::view), entries.len() >= MOST));
        match view {
            Some(view) => format!("the origin {} is {}", view.name(), view.words(true)),
            None if is_full => format!("the origin {} is one of more than {MOST}", app.origin),
            None => format!("no answer of WordPress to the origin {} was compared yet", app.origin),
        }
    }

    /// What operators see, in the order of the names.
    pub(super) fn view(&self) -> Vec<OriginView> {
        let mut views: Vec<OriginView> = self.read(|entries| entries.iter().map(Entry::view).collect());
        views.sort_by(|one, other| (&one.origin, one.bearer).cmp(&(&other.origin, other.bearer)));
        views
    }

    fn read<T>(&self, look: impl FnOnce(&[Entry]) -> T) -> T {
        look(&self.entries.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// In what `now` differs from `before`: names only.
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
