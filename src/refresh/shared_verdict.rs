//! Publishes in the shared store that a site differs, for its other sidecars.
//!
//! The first sidecar that finds a difference stores it at a key made of the site and its epoch. All
//! others read that key every few seconds, and so does one that starts later. A sidecar that lets go
//! of the difference (a restart of the verification, or WordPress's responses agree again) deletes
//! the key if it holds what this sidecar published or read, and each decides by itself again.
// SECURITY: the store can only take nativeness away. Neither a value nor its absence makes a call
// native: for that each sidecar compares by itself, as without a store. A hostile or stale store
// costs forwarding at worst.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::refresher::Refresher;
use super::shared::Shared;
use crate::printable;
use crate::shared_store::{LONGEST_VALUE, NoAnswer};
use crate::verify::Verification;
use crate::verify::difference::{Difference, Kind};

/// How long a difference stays in the store, in seconds. A sidecar that has heeded it does not need
/// the key any more.
const KEPT_FOR: u64 = 24 * 60 * 60;

/// The longest description that is published or taken, in characters.
const LONGEST: usize = 256;

// A character has up to six bytes (`\u0001`), and the rest of the value some 70.
const _: () = assert!(6 * LONGEST + 100 < LONGEST_VALUE);

/// An id of this process, by which it recognizes its own values.
static PROCESS: LazyLock<String> = LazyLock::new(|| {
    let mut id = [0; 8];
    // Without random bytes the process does not recognize its own values, and heeds them.
    getrandom::fill(&mut id).map_or_else(|_| String::new(), |()| data_encoding::HEXLOWER.encode(&id))
});

/// The value at the key.
#[derive(Serialize, Deserialize)]
struct Published {
    kind: Kind,
    what: String,
    /// The process that found it.
    #[serde(default)]
    by: String,
}

/// What this process knows about the key. Outlasts reloads.
#[derive(Default)]
pub struct SharedVerdict(Mutex<Seen>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    /// The key, without its prefix.
    name: String,
    /// Whether the site differed at the last look.
    differs: bool,
    /// What this process published or read there then; empty if there was nothing.
    value: Vec<u8>,
}

/// The step of one look.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Publish,
    TakeBack,
    /// Deletes the key at the operator's request (`verify --again`).
    Forget,
    Look,
    /// Reads the value, to be able to delete it later.
    Note,
    Nothing,
}

impl Seen {
    /// Pure. A difference that is known at the start was published by the sidecar that found it.
    fn step(&self, name: &str, differs: bool, begins_again: bool) -> Step {
        match (self.name == name, self.differs, differs) {
            (_, _, false) if begins_again => Step::Forget,
            // It replaces what is to be forgotten.
            (_, _, true) if begins_again => Step::Publish,
            (true, true, false) => Step::TakeBack,
            (true, false, true) => Step::Publish,
            (true, true, true) => Step::Nothing,
            // Another epoch, which others may not have yet: the key of the one before stays.
            (false, _, true) => Step::Note,
            (_, _, false) => Step::Look,
        }
    }
}

impl SharedVerdict {
    /// Publishes a new difference of this sidecar, and heeds a new one of another. A step that fails is
    /// repeated at the next look.
    pub(super) async fn publish_and_heed(&self, refresher: &Refresher, epoch: &str) {
        let verification = &refresher.verification;
        let Some(shared) = refresher.rate_limiter.shared() else {
            // Nothing of other sidecars is to be forgotten.
            return verification.has_begun_again();
        };
        // The verification that replaced this one publishes its own results.
        if verification.is_replaced() {
            return;
        }
        let name = shared.name_of_verdict(refresher.rate_limiter.blog(), epoch);
        let begins_again = verification.begins_again();
        let found = verification.found();
        let before = self.seen().clone();
        let step = before.step(&name, found.is_some(), begins_again);
        // Without an answer the site is still known not to differ: a difference found later is new.
        let unanswered = (step == Step::Look).then(|| Seen { name: name.clone(), ..Seen::default() });
        let ran = step.run(shared, verification, Seen { name, ..before }, found).await;
        if let Some(seen) = ran.ok().or(unanswered) {
            *self.seen() = seen;
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Step {
    /// Returns what is known about the key afterwards.
    async fn run(
        self,
        shared: &Shared,
        verification: &Verification,
        seen: Seen,
        found: Option<Difference>,
    ) -> Result<Seen, NoAnswer> {
        let (store, Seen { name, value, .. }) = (shared.store(), seen);
        match (self, found) {
            (Step::Publish, Some(found)) => {
                let value = published(found);
                store.set(&name, &value, KEPT_FOR).await?;
                verification.has_begun_again();
                Ok(Seen { name, differs: true, value })
            }
            (Step::Note, _) => Ok(Seen { differs: true, value: store.value(&name).await?, name }),
            (Step::Publish | Step::Nothing, _) => Ok(Seen { name, differs: true, value }),
            (Step::TakeBack, _) => {
                // Another sidecar may have found something since.
                if !value.is_empty() {
                    store.delete(&name, &value).await?;
                }
                Ok(Seen { name, ..Seen::default() })
            }
            (Step::Forget, _) => {
                let value = store.value(&name).await?;
                if !value.is_empty() {
                    store.delete(&name, &value).await?;
                }
                verification.has_begun_again();
                Ok(Seen { name, ..Seen::default() })
            }
            (Step::Look, _) => {
                let value = store.value(&name).await?;
                match read(&value) {
                    Some(Read::Own) => {
                        store.delete(&name, &value).await?;
                        Ok(Seen { name, ..Seen::default() })
                    }
                    Some(Read::Others(difference)) => {
                        verification.differs_elsewhere(difference);
                        Ok(Seen { name, differs: true, value })
                    }
                    None => Ok(Seen { name, ..Seen::default() }),
                }
            }
        }
    }
}

/// The value for a difference that was found here. Pure.
fn published(Difference { kind, what }: Difference) -> Vec<u8> {
    let what = what.chars().take(LONGEST).collect();
    // A structure of strings can be written.
    serde_json::to_vec(&Published { kind, what, by: PROCESS.clone() }).unwrap_or_default()
}

/// The meaning of a value.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    /// This process found it, before its verification began again.
    Own,
    /// What another sidecar found, as far as that can be shown.
    Others(Difference),
}

/// `None` if no sidecar writes such a value. Pure.
fn read(text: &[u8]) -> Option<Read> {
    let Published { kind, what, by } = serde_json::from_slice(text).ok()?;
    if !by.is_empty() && by == *PROCESS {
        return Some(Read::Own);
    }
    let what: String = printable::one_line(&what).chars().take(LONGEST).collect();
    Some(Read::Others(Difference::new(kind, format!("another sidecar found: {what}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_published_and_nothing_else() {
        let seen = |name: &str, differs| Seen { name: name.to_owned(), differs, value: Vec::new() };
        for (before, name, differs, step) in [
            (Seen::default(), "a", false, Step::Look),
            (Seen::default(), "a", true, Step::Note),
            (seen("a", false), "a", false, Step::Look),
            (seen("a", false), "a", true, Step::Publish),
            (seen("a", true), "a", true, Step::Nothing),
            (seen("a", true), "a", false, Step::TakeBack),
            (seen("a", true), "b", false, Step::Look),
            (seen("a", false), "b", true, Step::Note),
        ] {
            assert_eq!(before.step(name, differs, false), step, "{before:?} {name} {differs}");
            let asked = if differs { Step::Publish } else { Step::Forget };
            assert_eq!(before.step(name, differs, true), asked, "{before:?} {name} {differs}, asked to begin again");
        }
    }

    #[test]
    fn what_is_in_the_store_may_be_anything() {
        let others = |text: &[u8]| match read(text) {
            Some(Read::Others(difference)) => difference,
            other => panic!("{other:?}"),
        };
        let difference = others(br#"{"kind":"body","what":"body +roles"}"#);
        assert_eq!((difference.kind, difference.what.as_str()), (Kind::Body, "another sidecar found: body +roles"));
        assert_eq!(others(br#"{"kind":"body","what":"body +roles","by":"a"}"#), difference);
        for text in ["", "1", "{}", r#"{"kind":"agrees","what":""}"#, "\u{fffd}", r#"{"kind":"body"}"#] {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
        let long = format!(r#"{{"kind":"row","what":"a\\nb{}"}}"#, "ä".repeat(2_000));
        let difference = others(long.as_bytes()).what;
        assert!(difference.len() < 600 && !difference.contains('\n'), "{difference}");
    }

    #[test]
    fn a_value_of_this_process_is_known_and_fits_into_what_is_read() {
        let value = published(Difference::new(Kind::Body, "\u{1}".repeat(10_000)));
        assert!(value.len() < LONGEST_VALUE, "{}", value.len());
        assert_eq!(read(&value), Some(Read::Own));
    }
}
