//! Whether the sidecar is alive (`/healthz`), and whether it is ready (`/readyz`).
//!
//! A sidecar is alive if its accept loop turns. It is ready if it has recently reached the database
//! and the upstream and is not about to end. Neither says anything about the site: a sidecar in front of a
//! WordPress that responds with 500 is alive and ready.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::finding::in_full;
use crate::last_seen::{LastSeen, Sight};
use crate::net::dial::Dialer;
use crate::refresh::standing::{Course, Obstacle};
use crate::tls::Tls;

/// How often the upstream is checked.
const LOOK: Duration = Duration::from_secs(5);

/// How soon it is checked again while the site's name is unknown.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What counts as recent. A failed check is known at once; this limit is for a check that never
/// ends. The database is checked every 5 s, and up to 13 s later while WordPress is slow.
pub const LATELY: Duration = Duration::from_secs(30);

/// The accept loop turns in microseconds; after this long it counts as hung.
const TURN: Duration = Duration::from_secs(1);

/// The readiness.
#[derive(Debug, Clone, Serialize)]
pub struct Readiness {
    /// Whether there are no reasons against it.
    pub ready: bool,
    /// The reasons against it, for people.
    pub reasons: Vec<String>,
    /// What an operator should know even though the sidecar is ready: certificates that clients
    /// refuse, refreshes that are left to WordPress.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What readiness depends on.
pub struct Seen<'a> {
    pub is_draining: bool,
    /// The database; `None` if it is not used.
    pub database: Option<&'a Sight>,
    /// What the database refuses; `None` if it allows rotations.
    pub refused: Option<&'a Obstacle>,
    pub upstream: &'a Sight,
    /// The certificates; `None` if nothing is to listen with TLS.
    pub tls: Option<&'a Tls>,
}

impl Readiness {
    pub fn judge(seen: &Seen<'_>, now: Instant) -> Self {
        let mut reasons = Vec::new();
        if seen.is_draining {
            reasons.push("shutting down: requests in flight may end, new connections are refused".to_owned());
        }
        reasons.extend(seen.database.and_then(|sight| absence("the database", sight, now)));
        let mut warnings = Vec::new();
        if let Some(Obstacle { refused, course }) = seen.refused {
            match course {
                // WordPress answers: another sidecar would do no better.
                Course::Leave => warnings.push(format!("refreshes are left to WordPress: {refused}")),
                Course::Unavailable | Course::Wait => {
                    reasons.push(format!("refreshes are answered with 503: {refused}"))
                }
            }
        }
        reasons.extend(absence("the upstream", seen.upstream, now));
        if seen.tls.is_some_and(|tls| !tls.is_usable()) {
            reasons.push("nothing listens with TLS: no pair of tls.certificates can be read".to_owned());
        }
        let of_tls = seen.tls.map(Tls::warnings).unwrap_or_default();
        warnings.extend(of_tls.iter().map(ToString::to_string));
        Readiness { ready: reasons.is_empty(), reasons, warnings }
    }
}

fn absence(what: &str, sight: &Sight, now: Instant) -> Option<String> {
    if sight.is_well(now, LATELY) {
        return None;
    }
    let seconds = |since: Instant| now.saturating_duration_since(since).as_secs();
    Some(match (sight.current_trouble(), sight.seen) {
        (Some(trouble), Some(seen)) => format!("{what} was last seen {} s ago: {}", seconds(seen), trouble.error),
        (Some(trouble), None) => format!("{what} was never seen: {}", trouble.error),
        (None, Some(seen)) => format!("{what} was last seen {} s ago", seconds(seen)),
        (None, None) => format!("{what} was not looked for yet"),
    })
}

/// Whether the thread that accepts connections responds. `accepting` is its runtime.
pub async fn turns(accepting: &Handle) -> bool {
    matches!(timeout(TURN, accepting.spawn(async {})).await, Ok(Ok(())))
}

/// Checks the upstream every few seconds, unless `is_heard_from` says that it answers clients
/// anyway. A check is a connection that is closed again, which web servers do not log. `dialer` is
/// the one in effect, with the host of the home URL if known; `None` while it is not available yet.
pub async fn watch_upstream(
    dialer: impl Fn() -> Option<(Dialer, Option<String>)>,
    last_seen: &LastSeen,
    mut is_heard_from: impl FnMut() -> bool,
) {
    loop {
        let found = if is_heard_from() {
            Ok(())
        } else {
            let Some((dialer, home)) = dialer() else {
                sleep(LOOK_AGAIN).await;
                continue;
            };
            dialer.dial_home(None, home.as_deref()).await.map(drop)
        };
        match found {
            Ok(()) if last_seen.seen() => info!("the upstream can be reached again"),
            Ok(()) => {}
            Err(error) => {
                let error = in_full(&error);
                if last_seen.failed(error.clone()) {
                    warn!(error, "the upstream cannot be reached; clients get a 502 until it can");
                }
            }
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refresh::store::Statement;
    use crate::refresh::trial::Refused;
    use crate::wordpress::database::Refusal;

    fn well() -> Sight {
        let last_seen = LastSeen::default();
        last_seen.seen();
        last_seen.look()
    }

    fn judged(is_draining: bool, database: Option<&Sight>, upstream: &Sight, now: Instant) -> (bool, String) {
        let seen = Seen { is_draining, database, refused: None, upstream, tls: None };
        let Readiness { ready, reasons, .. } = Readiness::judge(&seen, now);
        (ready, reasons.join(" / "))
    }

    #[test]
    fn ready_is_who_has_seen_both_lately_and_is_not_ending() {
        let (well, now) = (well(), Instant::now());
        assert_eq!(judged(false, Some(&well), &well, now), (true, String::new()));
        assert_eq!(judged(false, None, &well, now), (true, String::new()));
        let (ready, reasons) = judged(true, Some(&well), &well, now);
        assert!(!ready && reasons.starts_with("shutting down"), "{reasons}");
        let later = now + Duration::from_secs(35);
        let (ready, reasons) = judged(false, Some(&well), &well, later);
        assert!(!ready);
        assert_eq!(reasons, "the database was last seen 35 s ago / the upstream was last seen 35 s ago");
        let (ready, reasons) = judged(false, None, &Sight::default(), now);
        assert!(!ready && reasons == "the upstream was not looked for yet", "{reasons}");
    }

    #[test]
    fn what_wordpress_answers_is_a_warning() {
        let upstream = well();
        let refused = || Refused {
            refusal: Refusal::Denied,
            code: Some(1142),
            statement: Some(Statement::Insert),
            table: "wp_jwt_auth_tokens".to_owned(),
        };
        let judged = |course| {
            let obstacle = Obstacle { refused: refused(), course };
            let refused = Some(&obstacle);
            let seen = Seen { is_draining: false, database: None, refused, upstream: &upstream, tls: None };
            Readiness::judge(&seen, Instant::now())
        };
        let left = judged(Course::Leave);
        assert!(left.ready && left.reasons.is_empty(), "{left:?}");
        assert_eq!(left.warnings, [format!("refreshes are left to WordPress: {}", refused())]);
        let unavailable = judged(Course::Unavailable);
        assert!(!unavailable.ready && unavailable.warnings.is_empty(), "{unavailable:?}");
        assert_eq!(unavailable.reasons, [format!("refreshes are answered with 503: {}", refused())]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let last_seen = LastSeen::default();
        last_seen.failed("connection refused".into());
        let now = Instant::now();
        assert_eq!(
            judged(false, None, &last_seen.look(), now),
            (false, "the upstream was never seen: connection refused".into())
        );
        last_seen.seen();
        last_seen.failed("connection refused".into());
        let (ready, reasons) = judged(false, None, &last_seen.look(), now);
        assert_eq!((ready, reasons.as_str()), (false, "the upstream was last seen 0 s ago: connection refused"));
    }

    #[tokio::test]
    async fn a_runtime_that_does_not_turn_is_not_alive() {
        let standing = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(!turns(standing.handle()).await);
        assert!(turns(&Handle::current()).await);
        tokio::task::spawn_blocking(move || drop(standing)).await.unwrap();
    }
}
