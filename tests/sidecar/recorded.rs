//! The promise of the whole project: a client cannot tell that PHP did not answer.
//!
//! `fixtures/recorded.json` contains exchanges with a real site: request, response, rows.
//! [`replay`] sends each request as it was recorded, byte for byte, and compares all its effects.
//! Permitted differences are in one table, [`SIDECAR`]. The stand-in for the plugin must match the
//! same exchanges without any difference; otherwise it would not be a fair one.

pub mod complaints;
mod exchange;
pub mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use exchange::{Exchange, Session};

use crate::support::mariadb::TestDatabase;
use crate::support::sidecar::Sidecar;
use crate::support::site::{Keys, Site};

/// A deliberate difference between the recorded responses and the sidecar's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A success also has the fields of the plugin's API document.
    DocumentedFields,
    /// A success has `Cache-Control: no-store`.
    NoStore,
    /// A success has no `Retry-After`.
    NoRetryAfterOnSuccess,
    /// The access token has a `jti` of 32 hex digits.
    TokenId,
    /// A query that contains the refresh token is cut from `request_path`.
    QueryCut,
    /// The window of the rate limit continues from one exchange to the next.
    WindowGoesOn,
}

/// The differences that a replay expects, each with its reason. They are required, not only
/// permitted.
pub struct Differences(&'static [(Difference, &'static str)]);

/// The sidecar compared with the recordings.
pub const SIDECAR: Differences = Differences(&[
    (
        Difference::DocumentedFields,
        "clients exist for the API document and for what version 0.2.1 sends; both are served",
    ),
    (Difference::NoStore, "RFC 6749, section 5.1: an answer with tokens must not be stored"),
    (Difference::NoRetryAfterOnSuccess, "nothing is to be retried after a success; only a 429 has it"),
    (
        Difference::TokenId,
        "two tokens of one second were the same JWT with the same hash, and the new one refused as revoked",
    ),
    (Difference::QueryCut, "a token in a stored path is a stored secret"),
    (
        Difference::WindowGoesOn,
        "the sidecar counts in its own memory, which the database's window reset does not reach",
    ),
]);

/// The plugin, and so the stand-in, matches the recordings.
pub const PLUGIN: Differences = Differences(&[]);

impl Differences {
    fn has(&self, difference: Difference) -> bool {
        self.0.iter().any(|(known, _)| *known == difference)
    }
}

/// Sends every recorded request to `base` and compares status, headers, body and rows. `database`
/// is the one behind `base`; its option `home` is the site's home URL, and `keys` made its tokens.
/// Panics at the end if anything differed, with all differences.
pub async fn replay(base: SocketAddr, database: &TestDatabase, keys: &Keys, differences: &Differences) {
    let exchanges: Vec<Exchange> = serde_json::from_str(include_str!("../fixtures/recorded.json")).unwrap();
    assert_eq!(exchanges.len(), 28, "fixtures/recorded.json is not what was recorded");

    let mut session = Session::new(base, database, keys, differences).await;
    let mut complaints = Vec::new();
    for exchange in &exchanges {
        complaints.extend(session.compare(exchange).await.into_iter().map(|said| format!("{}: {said}", exchange.name)));
    }
    // Surplus rows that are written after the response show only now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    complaints.extend(session.late_rows().await);
    assert!(complaints.is_empty(), "{} differences:\n{}", complaints.len(), complaints.join("\n"));
}

#[tokio::test]
async fn the_plugin_answers_as_recorded() {
    let site = Site::up(&[]);
    replay(site.upstream(), &site.database(), &site.keys(), &PLUGIN).await;
}

#[tokio::test]
async fn the_sidecar_answers_as_recorded() {
    let site = Site::up(&[]);
    let sidecar = Sidecar::of_site(site.upstream(), site.wp_config(), &[]);
    replay(sidecar.address(), &site.database(), &site.keys(), &SIDECAR).await;
}

/// The comparison must be able to fail: with the sidecar's differences expected, it must report
/// each as missing in the plugin's responses.
#[tokio::test]
async fn the_replay_misses_what_is_not_there() {
    let site = Site::up(&[]);
    let (upstream, database, keys) = (site.upstream(), site.database(), site.keys());
    let failed = tokio::spawn(async move { replay(upstream, &database, &keys, &SIDECAR).await }).await.unwrap_err();
    let said = *failed.into_panic().downcast::<String>().unwrap();
    for missed in [
        "json_live: user_email\n",
        "json_live: number of Cache-Control: no-store\n",
        "json_live: names of headers, in order\n",
        "json_live: jti is None",
        "query_live: request_path\n",
        "_live: X-RateLimit-Remaining\n",
    ] {
        assert!(said.contains(missed), "not missed: {missed:?} in\n{said}");
    }
    // Everything without a permitted difference must still pass.
    assert!(!said.contains("missing_json"), "{said}");
}
