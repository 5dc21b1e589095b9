//! Decides whether a call is native, compared, or left to WordPress.

use std::sync::Arc;

use super::origins::{App, Cors};
use super::verdict::Class;
use super::{Ticket, Verification};

const JUST_CHANGED: &str = "the site has just changed, and is to be verified";

/// The decision about a call.
pub enum Gate {
    /// It is answered natively.
    Native,
    /// Answered natively, unless it can be compared.
    Sample(Ticket),
    /// Left to WordPress for this reason; compared if there is a ticket.
    Left(String, Option<Ticket>),
}

impl Verification {
    /// The decision about a call of `class` on a site with this makeup.
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

    /// Like [`Verification::gate`], for a call of an app. `agreed` are the fields of a native
    /// response, if known.
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

    /// The fields of native responses to `app`, if enough of WordPress's responses had the same.
    pub fn cors(&self, app: App<'_>) -> Option<Arc<Cors>> {
        self.origins.agreed(app)
    }

    /// A ticket to compare a refusal, if none was compared yet: at most once a second, since a
    /// flood of refused calls must not go to WordPress.
    pub fn refusal(self: &Arc<Self>) -> Option<Ticket> {
        (self.is_on() && self.refusals.picks()).then(|| self.ticket()).flatten()
    }

    /// Why calls of `app` are left to WordPress.
    pub fn why_app(&self, app: App<'_>) -> String {
        let known = self.known();
        if known.is_native() { self.origins.why(app) } else { known.why() }
    }
}
