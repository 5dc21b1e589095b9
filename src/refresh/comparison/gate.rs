//! Decides which calls are left to WordPress for a comparison, or because it is not verified that a
//! native response would be the same.

use crate::refresh::plan::Replays;
use crate::refresh::refresher::Refresher;
use crate::refresh::request::Parsed;
use crate::refresh::row_cache::Key;
use crate::refresh::{Call, Decided, Leave};
use crate::verify::verdict::Class;
use crate::verify::{Gate, Ticket};

use super::{Begun, Cause, Comparison};

/// The decision about a call.
pub enum Gated {
    Native(Parsed),
    /// Answered natively, like a token that was used a moment ago.
    Replay(String, Replays),
    Ended(Decided),
}

impl Call<'_> {
    /// Lets calls be native if that is verified, and takes samples of them.
    pub(in crate::refresh) async fn gate(&self, parsed: Parsed) -> Gated {
        let Refresher { comparisons, counters, verification, .. } = &**self.refresher;
        // The fields for an app's origin are unknown until it is native.
        let may_replay = self.app.is_none() || self.agreed.is_some();
        let parsed = match parsed {
            Parsed::Token(token) if may_replay && comparisons.is_replay(&token, self.site.columns.folds_case).await => {
                return Gated::Replay(token, Replays::Any);
            }
            parsed => parsed,
        };
        let makeup = self.site.makeup.tag();
        let gate = match self.app {
            Some(app) => verification.gate_app(app, self.agreed.as_deref(), makeup),
            None => verification.gate(self.class(), makeup),
        };
        let (why, ticket, cause) = match gate {
            Gate::Native => (None, self.first_refusal(&parsed), Cause::Refusal),
            Gate::Sample(ticket) => (None, Some(ticket), Cause::Sample),
            Gate::Left(why, ticket) => (Some(why), ticket, Cause::Left),
        };
        let parsed = match parsed {
            Parsed::Token(token)
                if why.is_some()
                    && may_replay
                    && verification.is_in_doubt()
                    && self.refresher.is_used_lately(self.site, &token, self.client).await =>
            {
                return Gated::Replay(token, Replays::Own);
            }
            parsed => parsed,
        };
        // On the heap, since few calls need it.
        let begun = match (&parsed, ticket) {
            (Parsed::Token(token), Some(ticket)) => Box::pin(Comparison::begin(self, token, ticket, cause)).await,
            _ => Begun::Not,
        };
        match (begun, parsed, why) {
            (Begun::Compares(comparison), _, why) => {
                let why = why.as_deref().unwrap_or("a sample, which is compared");
                Gated::Ended(Decided::Compared(Leave::counted(&counters.left_unverified, why), comparison))
            }
            (Begun::Replay, Parsed::Token(token), _) if may_replay => Gated::Replay(token, Replays::Any),
            (_, _, Some(why)) => Gated::Ended(Decided::Left(Leave::counted(&counters.left_unverified, why))),
            (_, parsed, None) => Gated::Native(parsed),
        }
    }

    /// Whether no refusal to this app's origin was compared yet, although its calls are native.
    pub(super) fn wants_refusal_of_origin(&self) -> bool {
        self.agreed.as_ref().is_some_and(|cors| cors.wants_refusal())
    }

    /// Until a refusal has been compared, one of an unknown token is.
    fn first_refusal(&self, parsed: &Parsed) -> Option<Ticket> {
        let Refresher { verification, look_ups, .. } = &**self.refresher;
        let Parsed::Token(token) = parsed else { return None };
        if verification.is_native(Class::Refusal) && !self.wants_refusal_of_origin() {
            return None;
        }
        let is_known = look_ups.row_cache.row_of(&Key::of(token, self.site.columns.folds_case)).is_some();
        if is_known { None } else { verification.refusal() }
    }
}
