//! Finds the fields that the web server adds to every response, in two responses outside the REST
//! API: a file, and a page of PHP.
//!
//! They are only requested when a field would otherwise be a difference, and are kept for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, header};
use tokio::time::timeout;
use tracing::debug;
use url::Url;

use super::headers::{self, Change};
use crate::client_addr::Scheme;
use crate::net::ask;
use crate::net::dial::Dialer;
use crate::wordpress::home::{Home, host_of};

/// Relative to the home URL. Every WordPress has both; PHP answers the second to any client,
/// without the REST API.
const PLACES: [&str; 2] = ["/wp-includes/images/blank.gif", "/wp-admin/admin-ajax.php?action=heartbeat"];

/// How long the responses are kept, and how long to wait after a failure.
const FRESH: Duration = Duration::from_secs(600);
const RETRY: Duration = Duration::from_secs(30);

/// The time limit for each of the two.
const LIMIT: Duration = Duration::from_secs(5);

const MAX_ANSWER: usize = 256 << 10;

/// How many homes are remembered. A site has few.
const HOMES: usize = 16;

pub struct Surroundings {
    upstream: Dialer,
    known: Mutex<HashMap<(String, &'static str), Known>>,
    /// Locked during a request, so that there is one at a time.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Known {
    at: Instant,
    answers: Arc<[HeaderMap]>,
}

impl Surroundings {
    pub fn new(upstream: Dialer) -> Self {
        Surroundings { upstream, known: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// The `changes` that are not the web server's; `None` if that is unknown.
    pub async fn without(&self, home: &Home, scheme: Scheme, changes: Vec<Change>) -> Option<Vec<Change>> {
        let answers = self.answers(home, scheme).await;
        (!answers.is_empty()).then(|| left(changes, &answers))
    }

    async fn answers(&self, home: &Home, scheme: Scheme) -> Arc<[HeaderMap]> {
        let key = (home.url.clone(), scheme.name());
        let fresh = || self.known().get(&key).filter(|known| known.is_fresh()).map(|known| Arc::clone(&known.answers));
        if let Some(answers) = fresh() {
            return answers;
        }
        let _alone = self.asking.lock().await;
        if let Some(answers) = fresh() {
            return answers;
        }
        let mut answers = Vec::new();
        for place in PLACES {
            match timeout(LIMIT, self.ask(home, scheme, place)).await {
                Ok(Some(answer)) => answers.push(answer),
                Ok(None) | Err(_) => debug!(place, "no answer to compare the web server's fields with"),
            }
        }
        let answers: Arc<[HeaderMap]> = answers.into();
        let mut known = self.known();
        if known.len() >= HOMES {
            known.clear();
        }
        known.insert(key, Known { at: Instant::now(), answers: Arc::clone(&answers) });
        answers
    }

    async fn ask(&self, home: &Home, scheme: Scheme, place: &str) -> Option<HeaderMap> {
        let url = Url::parse(&home.url).ok()?;
        let host = host_of(&url)?;
        let target = format!("{}{place}", url.path().trim_end_matches('/'));
        let request = ask::request(scheme, &host, &target, "127.0.0.1").ok()?;
        let request = request
            .header(header::USER_AGENT, concat!("wp-jwt-sidecar/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::CONNECTION, "close")
            .body(Bytes::new())
            .ok()?;
        let name = self.upstream.name_for(Some(host.as_bytes()), || Some(host.clone()));
        let dial = self.upstream.dial_as(None, name.as_ref());
        let asked = ask::ask(dial, request, MAX_ANSWER).await.ok()?;
        Some(asked.response.into_parts().0.headers)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(String, &'static str), Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < if self.answers.is_empty() { RETRY } else { FRESH }
    }
}

/// The changes that no response explains. Pure.
fn left(changes: Vec<Change>, answers: &[HeaderMap]) -> Vec<Change> {
    let is_web_servers = |change: &Change| {
        answers.iter().any(|answer| {
            let values = headers::values(&change.name, answer);
            // A field that only web servers use may have another value each time: an id, a time.
            let is_there = change.is_unsure() && !values.is_empty();
            !change.further.is_empty() && (is_there || change.further.iter().all(|value| values.contains(value)))
        })
    };
    changes.into_iter().filter(|change| !is_web_servers(change)).collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_stands_in_another_answer_is_the_web_servers() {
        let found = map(&[("x-one", "1"), ("x-two", "2"), ("x-three", "3"), ("x-robots-tag", "none")]);
        let changes = || headers::compare(&found, &map(&[("x-robots-tag", "noindex")]), &[]);
        let answers = [map(&[("x-one", "1"), ("x-two", "other")]), map(&[("x-three", "3"), ("x-robots-tag", "none")])];
        assert!(left(changes(), &answers).is_empty());
        assert_eq!(headers::listed(&left(changes(), &[])), headers::listed(&changes()));
    }
}
