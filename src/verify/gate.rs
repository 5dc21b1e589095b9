//! What is to be done with a call.

use std::sync::Arc;

use super::origins::{App, Cors};
use super::verdict::Class;
use super::{Ticket, Verification};

const JUST_CHANGED: &str = "the site has just changed, and is to be verified";

/// What is to be done with a call.
pub enum Gate {
    /// It is answered natively.
    Native,
    /// Native, unless it can be compared.
    Sample(Ticket),
    /// WordPress's, with the reason; compared if there was a place.
    Left(String, Option<Ticket>),
}

impl Verification {
    /// What is to be done with a call of `class` at a site of such a makeup.
    pub fn gate(self: &Arc<Self>, class: Class, makeup: u64) -> Gate {
        if !self.is_on() {
            return Gate::Native;
        }
        if !self.is_of(makeup) {
            return Gate::Left(JUST_CHANGED.to_owned(), None);
        }
        if self.is_native(class) {
            return self.native_or_sample(self.sampler.picks());
        }
        let why = self.known().why();
        Gate::Left(why, self.ticket())
    }

    /// As [`Verification::gate`], for a call of an app. `agreed`: the fields of a native answer, where they are known.
    pub fn gate_app(self: &Arc<Self>, app: App<'_>, agreed: Option<&Cors>, makeup: u64) -> Gate {
        if !self.is_of(makeup) {
            return Gate::Left(JUST_CHANGED.to_owned(), None);
        }
        if let Some(cors) = agreed.filter(|cors| cors.holds() && self.is_native(Class::App)) {
            let is_wanted = self.sampler.is_in_hurry() && self.sampler.picks();
            return self.native_or_sample(is_wanted || cors.picks());
        }
        let why = self.why_app(app);
        Gate::Left(why, self.ticket())
    }

    fn native_or_sample(self: &Arc<Self>, is_picked: bool) -> Gate {
        match is_picked.then(|| self.ticket()).flatten() {
            Some(ticket) => Gate::Sample(ticket),
            None => Gate::Native,
        }
    }

    /// The fields of native answers to `app`, where enough of WordPress's answers had the same.
    pub fn cors(&self, app: App<'_>) -> Option<Arc<Cors>> {
        self.origins.agreed(app)
    }

    /// A place to compare a refusal, where none was compared yet: once a second, since a flood of calls that are refused must
    /// not go to WordPress.
    pub fn refusal(self: &Arc<Self>) -> Option<Ticket> {
        (self.is_on() && self.refusals.picks()).then(|| self.ticket()).flatten()
    }

    /// Why calls of `app` are.
    pub fn why_app(&self, app: App<'_>) -> String {
        let known = self.known();
        if known.is_native() { self.origins.why(app) } else { known.why() }
    }
}
