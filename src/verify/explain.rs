//! Searches for a configuration that explains a difference, by the responses to a few users. Pure.
//!
//! A claim, a member or a lifetime that the site's own code makes can be declared
//! ([`crate::declared`]). Its source is found by comparing WordPress's responses to several users
//! with the data of each: a source explains it if it results in exactly the same JSON value for all
//! of them.
//!
//! SECURITY: the values stay in memory until the state changes. Only names are shown, and
//! constants, which belong to the site's own code rather than to a user.

mod candidates;
mod explanation;
mod facts;
mod passing;
mod secret;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::difference::shown;
use crate::declared::{self, Declared, Member};
use candidates::{Found, Seen, USERS};
pub use explanation::Explanation;
pub use facts::Facts;

/// How many users' responses are kept.
const MOST_USERS: usize = 16;

/// How many places are examined.
const MOST_PLACES: usize = 32;

/// The minimum time between the responses, in seconds: a time may be the same in all responses of
/// one second.
const APART: u64 = 2;

/// Seconds by which lifetimes may differ: PHP reads the clock more than once.
const SLACK: u64 = 1;

/// A name and those above it, from the outermost on.
pub type Place = Vec<String>;

/// How a response deviates from the plugin's own.
// SECURITY: no Debug. It holds the user's data.
#[derive(Clone, Default)]
pub struct Deviation {
    /// Members that the plugin's response does not have, or has with another value, in order.
    pub fields: Vec<(Place, Value)>,
    /// The plugin's own members that the response lacks.
    pub missing_fields: Vec<Place>,
    /// Claims, likewise.
    pub claims: Vec<(Place, Value)>,
    pub missing_claims: Vec<Place>,
    /// Seconds from `iat` to `exp`, if they are not as expected.
    pub lifetime: Option<u64>,
    /// Other deviations, described without values.
    pub others: Vec<String>,
}

impl Deviation {
    pub fn is_empty(&self) -> bool {
        let Deviation { fields, missing_fields, claims, missing_claims, lifetime, others } = self;
        fields.is_empty()
            && claims.is_empty()
            && missing_fields.is_empty()
            && missing_claims.is_empty()
            && lifetime.is_none()
            && others.is_empty()
    }
}

/// The response to one user.
// SECURITY: no Debug.
pub struct Sample {
    pub facts: Facts,
    pub deviation: Deviation,
    /// The declarations at that time.
    pub declared: Arc<Declared>,
}

/// The search for an explanation.
#[derive(Default)]
pub struct Explaining {
    samples: Vec<Arc<Sample>>,
    /// Unix seconds of the first of them.
    began: u64,
    explanation: Option<Explanation>,
    /// Whether another user's response could show no more.
    is_settled: bool,
}

impl Explaining {
    /// Whether a response to this user would show more. `now` in Unix seconds.
    pub fn wants(&self, user: u64, now: u64) -> bool {
        let is_soon = now < self.began.saturating_add(APART);
        let is_apart = self.samples.len() + 1 < USERS || !is_soon;
        let is_open = !self.is_settled && self.samples.len() < MOST_USERS;
        is_open && is_apart && self.samples.iter().all(|sample| sample.facts.id != user)
    }

    /// Adds a response, if it shows more. Returns all that are to be [searched](search).
    pub fn add(&mut self, sample: Sample, now: u64) -> Option<Vec<Arc<Sample>>> {
        if !self.wants(sample.facts.id, now) {
            return None;
        }
        if self.samples.is_empty() {
            self.began = now;
        }
        self.samples.push(Arc::new(sample));
        Some(self.samples.clone())
    }

    /// Takes the result of the search among `samples`. It is ignored if more of them were searched
    /// meanwhile, or the search was restarted. Returns the explanation if no other user could show
    /// more.
    pub fn found(
        &mut self,
        samples: &[Arc<Sample>],
        (explanation, is_settled): (Explanation, bool),
    ) -> Option<&Explanation> {
        let is_ours = samples.len() <= self.samples.len()
            && samples.iter().zip(&self.samples).all(|(one, other)| Arc::ptr_eq(one, other));
        let is_newer = self.explanation.as_ref().is_none_or(|before| before.users < samples.len());
        if !is_ours || !is_newer || self.is_settled {
            return None;
        }
        self.is_settled = is_settled || samples.len() >= MOST_USERS;
        self.explanation = Some(explanation);
        self.explanation.as_ref().filter(|_| self.is_settled)
    }

    /// The result so far; `None` before the first response.
    pub fn explanation(&self) -> Option<&Explanation> {
        self.explanation.as_ref()
    }
}

/// The part of the response that a value belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Body,
    Claim,
}

impl Part {
    fn of(self, deviation: &Deviation) -> &[(Place, Value)] {
        match self {
            Part::Body => &deviation.fields,
            Part::Claim => &deviation.claims,
        }
    }

    fn declared(self, declared: &Declared) -> &[Member] {
        match self {
            Part::Body => &declared.fields,
            Part::Claim => &declared.claims,
        }
    }

    fn check(self, place: &Place) -> Result<(), String> {
        match self {
            Part::Body => declared::check_field(place),
            Part::Claim => declared::check_claim(place),
        }
    }

    /// The names in the plugin's own response.
    fn own(self) -> &'static [&'static str] {
        match self {
            Part::Body => &["access_token", "expires_in", "token_type", "refresh_token"],
            Part::Claim => &["iss", "iat", "nbf", "exp", "data", "data.user", "data.user.id"],
        }
    }

    fn is_own(self, place: &Place) -> bool {
        self.own().contains(&&*place.join("."))
    }

    /// `body role`
    fn shown(self, sign: &str, place: &Place) -> String {
        let names: Vec<&str> = place.iter().map(|name| shown(name)).collect();
        let part = if self == Part::Body { "body" } else { "claim" };
        format!("{part} {sign}{}", names.join("."))
    }

    /// The wording of a difference: `body +role`.
    fn deviating(self, place: &Place) -> String {
        self.shown(if self.is_own(place) { "" } else { "+" }, place)
    }

    /// `body -token_type`
    fn missing(self, place: &Place) -> String {
        self.shown("-", place)
    }
}

/// The results for a part.
#[derive(Default)]
struct Explained {
    members: Vec<explanation::Line>,
    open: Vec<String>,
    wrong: Vec<String>,
    is_settled: bool,
}

/// The explanation, and whether no other user could show more. `now` in Unix seconds. It may take a
/// while.
pub fn search(samples: &[Arc<Sample>], now: u64) -> (Explanation, bool) {
    let nothing = Declared::default();
    let declared = samples.last().map_or(&nothing, |sample| &*sample.declared);
    let fields = members(samples, declared, Part::Body, now);
    let claims = members(samples, declared, Part::Claim, now);
    let mut open = Vec::new();
    let mut wrong: Vec<String> = claims.wrong.into_iter().chain(fields.wrong).collect();
    let lifetime = lifetime(samples).unwrap_or_else(|problem| {
        open.push(problem);
        None
    });
    open.extend(claims.open);
    open.extend(fields.open);
    let omit = omitted(samples, declared, &mut open, &mut wrong);
    let others: BTreeSet<&String> = samples.iter().flat_map(|sample| &sample.deviation.others).collect();
    open.extend(others.into_iter().map(|other| format!("nothing known explains {other}")));
    let is_meta_denied = samples.iter().any(|sample| sample.facts.is_meta_denied);
    if is_meta_denied && !open.is_empty() {
        open.push("the database user may not read the user meta, so that it was not looked for there".to_owned());
    }
    let denied: BTreeSet<&str> = samples.iter().flat_map(|sample| &sample.facts.denied_columns).copied().collect();
    if !denied.is_empty() && !open.is_empty() {
        let names = denied.into_iter().collect::<Vec<_>>().join(", ");
        open.push(format!("the database user may not read of the users' table: {names}; they were not looked at"));
    }
    let is_settled = samples.len() >= USERS && fields.is_settled && claims.is_settled;
    let found = explanation::Configuration { lifetime, claims: claims.members, fields: fields.members, omit };
    (Explanation::new(samples.len(), &found, declared, open, wrong), is_settled)
}

fn members(samples: &[Arc<Sample>], declared: &Declared, part: Part, now: u64) -> Explained {
    let mut explained = Explained { is_settled: true, ..Explained::default() };
    let (mut places, mut known): (Vec<&Place>, BTreeSet<&Place>) = Default::default();
    for (place, _) in samples.iter().flat_map(|sample| part.of(&sample.deviation)) {
        if known.insert(place) {
            places.push(place);
        }
    }
    for member in part.declared(declared) {
        if !known.contains(&member.path) && samples.len() >= USERS && !part.is_own(&member.path) {
            let place = part.shown("", &member.path);
            explained.wrong.push(format!("{place} is declared, and WordPress's answers do not have it"));
        }
    }
    let beyond = places.len().saturating_sub(MOST_PLACES);
    for place in places.into_iter().take(MOST_PLACES) {
        let member = part.declared(declared).iter().find(|member| member.path == *place);
        judge(samples, member, part, place, now, &mut explained);
    }
    if beyond > 0 {
        explained.open.push(format!("{beyond} more are not looked at: {MOST_PLACES} are"));
    }
    // Several names that are not shown look the same.
    let mut said = BTreeSet::new();
    explained.open.retain(|line| said.insert(line.clone()));
    explained
}

fn judge(
    samples: &[Arc<Sample>],
    member: Option<&Member>,
    part: Part,
    place: &Place,
    now: u64,
    explained: &mut Explained,
) {
    let what = part.deviating(place);
    if place.iter().any(|name| shown(name) != name) {
        explained.open.push(format!("{what} cannot be declared: its name may be a value, and is not shown"));
        return;
    }
    if let Err(why) = part.check(place) {
        explained.open.push(format!("{what} cannot be declared: {why}"));
        return;
    }
    let value = |sample: &'_ Sample| -> Option<usize> {
        part.of(&sample.deviation).iter().position(|(other, _)| other == place)
    };
    let seen: Vec<Seen<'_>> = samples
        .iter()
        .filter_map(|sample| Some((&sample.facts, &part.of(&sample.deviation).get(value(sample)?)?.1)))
        .collect();
    if seen.len() < samples.len() {
        explained.open.push(format!("nothing known explains {what}: only some users' answers have it"));
        return;
    }
    if let Some(member) = member {
        if candidates::confirmed_by(&member.value, &seen).is_some() {
            explained.members.push(explanation::Line::of(place, member.value.clone(), Vec::new()));
            return;
        }
        let declared = part.shown("", place);
        let source = explanation::printed(&member.value);
        explained.wrong.push(format!("{declared} is declared as {source}, and WordPress's answers say otherwise"));
    }
    let name = place.last().map(String::as_str).unwrap_or_default();
    match candidates::find(name, &seen, now) {
        Found::Explained(source, others) => {
            explained.members.push(explanation::Line::of(place, source, others));
        }
        Found::Ambiguous(sources) => {
            explained.is_settled = false;
            explained.open.push(explanation::ambiguous(&what, &sources));
        }
        Found::Waiting => {
            explained.is_settled = false;
            explained.open.push(format!("{what}: too few users so far"));
        }
        Found::Nothing => explained.open.push(format!("nothing known explains {what}")),
        Found::Passing => explained.open.push(format!(
            "nothing known explains {what}: it is the same for all users seen, and looks like a nonce, a date of today or an IP address"
        )),
        Found::Hidden => explained.open.push(format!(
            "{what} is the same for all users seen, and is not shown, since it looks like a secret or a person's"
        )),
    }
}

/// The lifetime of access tokens, if it is not as expected.
///
/// # Errors
/// It is not the same for all users.
fn lifetime(samples: &[Arc<Sample>]) -> Result<Option<u64>, String> {
    let lifetimes: Vec<u64> = samples.iter().filter_map(|sample| sample.deviation.lifetime).collect();
    let (Some(least), Some(most)) = (lifetimes.iter().min(), lifetimes.iter().max()) else { return Ok(None) };
    if samples.len() < USERS {
        return Err("the lifetime of access tokens: too few users so far".to_owned());
    }
    if lifetimes.len() < samples.len() || most - least > SLACK {
        return Err("nothing known explains the lifetime of access tokens: it is not the same for all users".to_owned());
    }
    if !(1..=explanation::LONGEST_LIFETIME).contains(least) {
        return Err("the lifetime of access tokens cannot be declared: from a second to ten years can".to_owned());
    }
    let often = |lifetime: &u64| lifetimes.iter().filter(|other| *other == lifetime).count();
    Ok(Some(if often(most) > often(least) { *most } else { *least }))
}

/// The plugin's members that no response has.
fn omitted(
    samples: &[Arc<Sample>],
    declared: &Declared,
    open: &mut Vec<String>,
    wrong: &mut Vec<String>,
) -> Vec<String> {
    let lacks = |part: fn(&Deviation) -> &Vec<Place>| -> BTreeSet<&Place> {
        samples.iter().flat_map(|sample| part(&sample.deviation)).collect()
    };
    let mut omitted = Vec::new();
    for place in lacks(|deviation| &deviation.missing_fields) {
        let what = Part::Body.missing(place);
        let is_lacked_by_all = samples.iter().all(|sample| sample.deviation.missing_fields.contains(place));
        match &**place {
            [name] if declared::check_omitted(name).is_ok() && is_lacked_by_all => omitted.push(name.clone()),
            _ if is_lacked_by_all => open.push(format!("nothing known explains {what}")),
            _ => open.push(format!("nothing known explains {what}: only some users' answers lack it")),
        }
    }
    for place in lacks(|deviation| &deviation.missing_claims) {
        open.push(format!("nothing known explains {}", Part::Claim.missing(place)));
    }
    let stray = declared.omit.iter().filter(|name| !omitted.contains(name));
    wrong.extend(stray.map(|name| format!("refresh.omit names {name}, and WordPress's answers have it")));
    omitted
}

#[cfg(test)]
mod tests;
