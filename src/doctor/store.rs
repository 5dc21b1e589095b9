//! The store that several sidecars share: can it be used.

use std::time::Duration;

use crate::finding::{Area, Finding};
use crate::shared_store::SharedStore;

/// The status page says it, too.
pub const AWAY: &str = "store.reachable";

/// What to do about it.
pub const FIX: &str = "Check that it is running and that address, user and password in rate_limit.store are correct. No refresh waits for it; with n \
                       sidecars a client has up to n times the limit until it is back.";

/// For a connection and an answer.
pub const LIMIT: Duration = Duration::from_secs(5);

/// Tries it.
pub async fn look(store: Option<&SharedStore>) -> Vec<Finding> {
    let Some(store) = store else { return Vec::new() };
    let (label, prefix) = (store.standing().label, store.prefix());
    vec![match store.try_once().await {
        Ok(took) => {
            let took = took.as_secs_f64() * 1e3;
            let what = format!("{label} counts in {took:.1} ms, by keys that begin with {prefix}");
            Finding::ok(Area::Store, AWAY, what)
        }
        Err(why) => Finding::warning(Area::Store, AWAY, format!("{label} cannot be used: {why}"), FIX),
    }]
}
