//! Handles a used token that comes again: it gets the same pair once more, or its family is revoked
//! (only if configured).
//!
//! A client that never got the response to its refresh presents the old token again; one with two
//! tabs presents it twice. Within `reuse_interval` it gets the pair of its family's only live row,
//! rebuilt from the table alone, so that this also works after a crash and on another sidecar. A
//! replay makes no token, writes nothing and does not extend the interval. If the signature is
//! random (ES256 and ES384), the access token comes from the memory of the process that made it, if
//! it is still there; the rows still decide. If the access token cannot be rebuilt to match the
//! row's `hash` (an issuer that WordPress has not named), there is no replay.

use std::time::Duration;

use mysql_async::Row;
use tokio::time::timeout;
use tracing::warn;

use super::plan::{Plan, Replays, Used};
use super::response::Pair;
use super::store::{LARGEST_GROUP, Store};
use super::waiting::{LIMIT, RotationError};
use crate::config::Algorithm;
use crate::declared::User;
use crate::wordpress::access_token::ClaimsInput;
use crate::wordpress::database::{ANSWER_LIMIT, DatabaseError, Session, column};

/// How used tokens are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reuse {
    /// `reuse_interval`; zero: no replays.
    pub interval: Duration,
    /// `reuse_detection = "revoke_family"`.
    pub revoke_family: bool,
}

/// What happens to a used token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It gets its family's live pair again, if there is one.
    Replay,
    /// 403, and its family is revoked if it is live.
    RevokeFamily,
    /// 403.
    Refuse,
}

impl Reuse {
    /// Decides about a token that was revoked so many seconds ago, by the database's clock. Pure.
    pub fn decide(&self, revoked_for: Option<i64>) -> Decision {
        // The column has whole seconds, so the interval may be longer by one. PHP writes its own
        // clock, which may be ahead.
        let is_recent = revoked_for.is_some_and(|seconds| seconds.unsigned_abs() <= self.interval.as_secs());
        if is_recent && !self.interval.is_zero() {
            Decision::Replay
        } else if self.revoke_family {
            Decision::RevokeFamily
        } else {
            Decision::Refuse
        }
    }

    /// How used tokens are handled, for people; `algorithm` is the site's, if known.
    pub fn describe(&self, algorithm: Option<Algorithm>) -> String {
        let late = match self.revoke_family {
            true => "its family is revoked, which logs out all who hold a token of it",
            false => "it is refused",
        };
        if self.interval.is_zero() {
            return format!(
                "when a used refresh token comes again, {late}, at once: an app that sends a call twice, or lost its \
                 answer, is logged out"
            );
        }
        let here = match algorithm {
            Some(algorithm @ (Algorithm::ES256 | Algorithm::ES384)) => format!(
                " from the process that made it (signatures of {algorithm} cannot be made again, so that another \
                 process, or this one after a restart, refuses it)"
            ),
            _ => String::new(),
        };
        format!(
            "a used refresh token that comes again within {:?} gets the same pair once more{here}, never a second one, \
             and nothing after a logout, a revocation or a password change; when it comes later, {late}",
            self.interval
        )
    }

    /// For how many seconds a used token must be distinguished from an unknown one; `None`: until
    /// it expires.
    pub fn used_for(&self) -> Option<u64> {
        // The column has whole seconds, and a call within the interval may be checked a moment
        // later.
        let interval = if self.interval.is_zero() { 0 } else { self.interval.as_secs().saturating_add(2) };
        (!self.revoke_family).then_some(interval)
    }
}

/// The result for a used token.
pub enum Reused {
    /// The same pair again, and its row.
    Replayed(Pair, u64),
    /// Refused; so many rows of its family were revoked.
    Refused(usize),
}

/// Handles a used token.
///
/// # Errors
/// The database's: it is then unknown whether the client should be logged out, so it must not be.
pub async fn reuse(store: &Store, reuse: &Reuse, plan: &Plan, used: &Used) -> Result<Reused, RotationError> {
    let family = used.family.as_deref().filter(|family| !family.is_empty());
    let (decision, Some(family)) = (reuse.decide(used.revoked_for), family) else { return Ok(Reused::Refused(0)) };
    match decision {
        Decision::Refuse => Ok(Reused::Refused(0)),
        Decision::RevokeFamily => {
            let revoked = timeout(LIMIT, revoke(store, family, used.user_id)).await;
            let revoked = revoked.unwrap_or(Err(DatabaseError::TimedOut)).map_err(RotationError::Failed)?;
            if let Some(recent) = &plan.recent {
                recent.forget(family);
            }
            if revoked > 0 {
                warn!(user = used.user_id, rows = revoked, "a used refresh token came back; its family is revoked");
            }
            Ok(Reused::Refused(revoked))
        }
        Decision::Replay => {
            let database = &store.database;
            let mut session = database.causal_session().await.map_err(RotationError::Failed)?;
            let found = match database.causally_in_turn(ANSWER_LIMIT, live(store, &mut session, family, used)).await {
                // An idle connection may be dead.
                Err(error) if error.code().is_none() => {
                    drop(session);
                    session = database.fresh_causal_session().await.map_err(RotationError::Failed)?;
                    database.causally_in_turn(ANSWER_LIMIT, live(store, &mut session, family, used)).await
                }
                found => found,
            }
            .map_err(RotationError::Failed)?;
            session.give_back();
            let (row, user) = match found {
                Found::Successor(row, user) => (row, user),
                Found::NothingLives => {
                    if let Some(recent) = &plan.recent {
                        recent.forget(family);
                    }
                    return Ok(Reused::Refused(0));
                }
                Found::NoSuccessor => return Ok(Reused::Refused(0)),
            };
            Ok(match pair(plan, family, &row, user)? {
                Some(pair) => Reused::Replayed(pair, row.id),
                None => Reused::Refused(0),
            })
        }
    }
}

/// The live rows of a family.
enum Found {
    /// One row, younger than the used one, and its user.
    Successor(LiveRow, User),
    /// Something else.
    NoSuccessor,
    /// None: all were logged out, revoked or ended by a password change.
    NothingLives,
}

/// A family's live row.
struct LiveRow {
    id: u64,
    hash: String,
    issued_at: u64,
    expires_at: u64,
    expires_in: u64,
    refresh_token: String,
}

/// The family's only live row, and its user. A password change leaves none; two, which PHP can make
/// from one, prevent a replay. SECURITY: a cluster's node may not have the successor yet. That must
/// not log its user out, so the read is causal.
async fn live(store: &Store, session: &mut Session<'_>, family: &str, used: &Used) -> Result<Found, DatabaseError> {
    session.begin_causal().await?;
    let found = live_row(store, session, family, used).await?;
    session.end_at_writer().await?;
    Ok(found)
}

async fn live_row(store: &Store, session: &mut Session<'_>, family: &str, used: &Used) -> Result<Found, DatabaseError> {
    let statement = format!(
        "{}SELECT id, hash, TIMESTAMPDIFF(SECOND, '1970-01-01', issued_at), TIMESTAMPDIFF(SECOND, '1970-01-01', expires_at), \
         GREATEST(TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), expires_at), 0), refresh_token_hash, \
         COALESCE(refresh_token_expires_at > UTC_TIMESTAMP(), 0) \
         FROM {} WHERE token_family = ? AND user_id = ? AND revoked_at IS NULL LIMIT 2",
        session.causal(),
        store.tokens
    );
    let mut rows: Vec<Row> = session.conn().exec(statement, (family, used.user_id)).await?;
    let mut row = match (rows.pop(), rows.pop()) {
        (Some(row), None) => row,
        (None, _) => return Ok(Found::NothingLives),
        (Some(_), Some(_)) => return Ok(Found::NoSuccessor),
    };
    let is_live: bool = column(&mut row, 6, "refresh_token_expires_at")?;
    let id: u64 = column(&mut row, 0, "id")?;
    let refresh_token: Option<String> = column(&mut row, 5, "refresh_token_hash")?;
    // A successor is younger than its predecessor. An older live row does not come from this token.
    let (true, true, Some(refresh_token)) = (is_live, id > used.id, refresh_token) else {
        return Ok(Found::NoSuccessor);
    };
    let row = LiveRow {
        id,
        hash: column(&mut row, 1, "hash")?,
        issued_at: column(&mut row, 2, "issued_at")?,
        expires_at: column(&mut row, 3, "expires_at")?,
        expires_in: column(&mut row, 4, "expires_at")?,
        refresh_token,
    };
    let user = store.user(session, used.user_id).await?;
    Ok(user.map_or(Found::NoSuccessor, |user| Found::Successor(row, user)))
}

/// The pair of a row, if its access token can be made again or is remembered. The first call may
/// have come on another host with another issuer; then the pair is that call's.
fn pair(plan: &Plan, family: &str, row: &LiveRow, user: User) -> Result<Option<Pair>, RotationError> {
    let (signer, auth_salt) = (&plan.site.signer, &plan.site.auth_salt);
    // If the user's role or name has changed, the token would be another.
    let Ok(values) = plan.site.values(&user) else { return Ok(None) };
    for issuer in plan.issuers() {
        let claims = ClaimsInput {
            iss: &issuer.url,
            issued_at: row.issued_at,
            expires_at: row.expires_at,
            user_id: user.id,
            refresh_token: &row.refresh_token,
            declared: &values.claims,
        };
        let access_token = match &plan.recent {
            Some(recent) => {
                let is_it = signer.recognize(&claims, &row.hash, auth_salt)?;
                recent.find(family, is_it).map(|kept| kept.expose().to_owned())
            }
            None => signer.access_token_again(&claims, &row.hash, auth_salt, plan.replays != Replays::Own)?,
        };
        if let Some(access_token) = access_token {
            let (refresh_token, expires_in) = (row.refresh_token.clone(), row.expires_in);
            return Ok(Some(Pair { access_token, refresh_token, expires_in, user, fields: values.fields }));
        }
    }
    Ok(None)
}

/// Revokes the live rows of a family, by primary keys in ascending order, until none is left: a
/// running rotation adds a row after the first read. Returns the number of rows.
async fn revoke(store: &Store, family: &str, user_id: u64) -> Result<usize, DatabaseError> {
    let statement = format!(
        "SELECT id FROM {} WHERE token_family = ? AND user_id = ? AND revoked_at IS NULL ORDER BY id LIMIT {LARGEST_GROUP}",
        store.tokens
    );
    let mut revoked = 0;
    let mut failures = 0;
    loop {
        let mut session = store.database.fresh_transactions_after(failures > 0).await?;
        let once = async {
            session.begin_at_writer().await?;
            let ids: Vec<Row> = session.conn().exec(statement.as_str(), (family, user_id)).await?;
            let ids: Vec<u64> =
                ids.into_iter().map(|mut row| column(&mut row, 0, "id")).collect::<Result<_, DatabaseError>>()?;
            let count = if ids.is_empty() { 0 } else { store.revoke(&mut session, &ids).await? };
            session.commit().await?;
            Ok::<_, DatabaseError>((ids.is_empty(), count))
        };
        match store.database.within(ANSWER_LIMIT, once).await {
            Ok((true, _)) => {
                session.give_back();
                return Ok(revoked);
            }
            Ok((false, count)) => {
                session.give_back();
                revoked += count;
            }
            // Revoking is idempotent, so any failure may be retried. The session is dropped
            // together with its transaction.
            Err(error) => {
                failures += 1;
                if failures == REVOKE_TRIES {
                    return Err(error);
                }
                tokio::time::sleep(REVOKE_PAUSE * failures).await;
            }
        }
    }
}

/// Attempts to revoke a family before the call is answered with 503 and the client retries.
const REVOKE_TRIES: u32 = 10;

/// The pause before the second attempt; each later one is longer.
const REVOKE_PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_a_used_token() {
        let with = |seconds, revoke_family| Reuse { interval: Duration::from_secs(seconds), revoke_family };
        for (reuse, revoked_for, decision) in [
            (with(0, false), Some(0), Decision::Refuse),
            (with(0, true), Some(0), Decision::RevokeFamily),
            (with(10, false), Some(0), Decision::Replay),
            (with(10, false), Some(10), Decision::Replay),
            (with(10, false), Some(11), Decision::Refuse),
            (with(10, true), Some(11), Decision::RevokeFamily),
            (with(10, true), Some(10), Decision::Replay),
            (with(10, true), Some(-3), Decision::Replay),
            (with(10, false), Some(-11), Decision::Refuse),
            (with(10, false), None, Decision::Refuse),
        ] {
            assert_eq!(reuse.decide(revoked_for), decision, "{reuse:?} {revoked_for:?}");
        }
    }

    #[test]
    fn what_is_done_is_said() {
        let said = |seconds, revoke_family, algorithm| {
            Reuse { interval: Duration::from_secs(seconds), revoke_family }.describe(algorithm)
        };
        let usual = said(10, false, Some(Algorithm::HS256));
        assert!(usual.contains("within 10s gets the same pair once more, never a second one"), "{usual}");
        assert!(usual.ends_with("when it comes later, it is refused"), "{usual}");
        assert_eq!(usual, said(10, false, None));
        let random = said(30, true, Some(Algorithm::ES384));
        assert!(random.contains("within 30s") && random.contains("signatures of ES384 cannot"), "{random}");
        assert!(random.contains("comes later, its family is revoked"), "{random}");
        assert!(said(0, false, None).contains("it is refused, at once"));
        assert!(said(0, true, Some(Algorithm::ES256)).contains("its family is revoked"));
    }
}
