//! Publishes in the shared store that a site differs, for its other sidecars.
//!
//! The first sidecar that finds a difference stores it at a key made of the site and its epoch. All
//! others read that key every few seconds, and so does one that starts later. A sidecar that lets go
//! of the difference (a restart of the verification, or WordPress's responses agree again) deletes
//! the key, and each decides by itself again.
// SECURITY: the store can only take nativeness away. Nothing that is in it, or is not, makes a call
// native: for that each sidecar compares by itself, as without a store. One that is hostile or
// stale costs forwarding, at worst.

use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::Cmd;
use serde::{Deserialize, Serialize};

use super::refresher::Refresher;
use super::shared::Shared;
use crate::printable;
use crate::verify::Verification;
use crate::verify::difference::{Difference, Kind};

/// How long a difference is remembered there, in seconds. A sidecar that heeds it keeps it by
/// itself.
const KEPT_FOR: u64 = 24 * 60 * 60;

/// The longest description that is taken, in characters.
const LONGEST: usize = 256;

/// What stands at the key.
#[derive(Serialize, Deserialize)]
struct Published {
    kind: Kind,
    what: String,
}

/// What this process knows of the key.
#[derive(Default)]
pub(super) struct SharedVerdict(Mutex<Seen>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    /// The key.
    name: String,
    /// Whether the site differed at the last look.
    differs: bool,
}

/// What is to be done at a look.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Publish,
    TakeBack,
    Look,
    Nothing,
}

impl Seen {
    /// Pure. A difference that is known at the start was published by the sidecar that found it.
    fn step(&self, name: &str, differs: bool) -> Step {
        match (self.name == name, self.differs, differs) {
            (true, true, false) => Step::TakeBack,
            (true, false, true) => Step::Publish,
            // Another epoch, which others may not have yet: the key of the one before stays.
            (_, _, true) => Step::Nothing,
            (_, _, false) => Step::Look,
        }
    }
}

impl SharedVerdict {
    /// Publishes what is new here, and heeds what is new there. What fails is repeated at the next
    /// look.
    pub(super) async fn publish_and_heed(&self, refresher: &Refresher, epoch: &str) {
        let Some(shared) = refresher.rate_limiter.shared() else { return };
        let verification = &refresher.verification;
        let name = shared.name_of_verdict(refresher.rate_limiter.blog(), epoch);
        let found = verification.found();
        let seen = Seen { name, differs: found.is_some() };
        let step = self.seen().step(&seen.name, seen.differs);
        if let Some(differs) = step.run(shared, verification, &seen.name, found).await {
            *self.seen() = Seen { differs, ..seen };
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Step {
    /// Whether the site differs then; `None` where it is to be done again.
    async fn run(
        self,
        shared: &Shared,
        verification: &Verification,
        name: &str,
        found: Option<Difference>,
    ) -> Option<bool> {
        let (store, key) = (shared.store(), format!("{}{name}", shared.store().prefix()));
        match self {
            Step::Nothing => Some(true),
            Step::Publish => {
                let Difference { kind, what } = found?;
                let text = serde_json::to_string(&Published { kind, what }).ok()?;
                let mut set = Cmd::new();
                set.arg("SET").arg(key).arg(text).arg("EX").arg(KEPT_FOR);
                store.ask::<()>(&set).await.ok()?;
                Some(true)
            }
            Step::TakeBack => {
                let mut delete = Cmd::new();
                delete.arg("DEL").arg(key);
                store.ask::<()>(&delete).await.ok()?;
                Some(false)
            }
            Step::Look => {
                let mut get = Cmd::new();
                get.arg("GET").arg(key);
                // What cannot be looked at is looked at the next time anyway, and what is found
                // until then is new.
                let text: Option<Vec<u8>> = store.ask(&get).await.unwrap_or_default();
                let found = text.and_then(|text| read(&text));
                let differs = found.is_some();
                if let Some(difference) = found {
                    verification.differs_elsewhere(difference);
                }
                Some(differs)
            }
        }
    }
}

/// What another sidecar found, as far as that can be shown. Pure.
fn read(text: &[u8]) -> Option<Difference> {
    let Published { kind, what } = serde_json::from_slice(text).ok()?;
    let what: String = printable::one_line(&what).chars().take(LONGEST).collect();
    Some(Difference::new(kind, format!("another sidecar found: {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_published_and_nothing_else() {
        let seen = |name: &str, differs| Seen { name: name.to_owned(), differs };
        for (before, name, differs, step) in [
            (Seen::default(), "a", false, Step::Look),
            (Seen::default(), "a", true, Step::Nothing),
            (seen("a", false), "a", true, Step::Publish),
            (seen("a", true), "a", true, Step::Nothing),
            (seen("a", true), "a", false, Step::TakeBack),
            (seen("a", true), "b", false, Step::Look),
            (seen("a", false), "b", true, Step::Nothing),
        ] {
            assert_eq!(before.step(name, differs), step, "{before:?} {name} {differs}");
        }
    }

    #[test]
    fn what_is_in_the_store_may_be_anything() {
        let difference = read(br#"{"kind":"body","what":"body +roles"}"#).unwrap();
        assert_eq!((difference.kind, difference.what.as_str()), (Kind::Body, "another sidecar found: body +roles"));
        for text in ["", "1", "{}", r#"{"kind":"agrees","what":""}"#, "\u{fffd}", r#"{"kind":"body"}"#] {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
        let long = format!(r#"{{"kind":"row","what":"a\\nb{}"}}"#, "ä".repeat(2_000));
        let difference = read(long.as_bytes()).unwrap().what;
        assert!(difference.len() < 600 && !difference.contains('\n'), "{difference}");
    }
}
