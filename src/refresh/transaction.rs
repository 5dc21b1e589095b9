//! One rotation from begin to commit: the attempts, the retries, and the commit whose answer was lost.
//!
//! A rotation that began ends in one of two ways: it is stored, or it is not and nothing of it remains. The new refresh
//! token is made once, before the first attempt, so that an attempt whose outcome is unknown can be recognized.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use super::access_token::{ClaimsInput, SignerError, wp_hash};
use super::response::User;
use super::rotation::{self, Decision};
use super::store::{Child, Parent, Resolution, Store};
use crate::wordpress::database::{DatabaseError, Session};
use crate::wordpress::site::Site;

/// All attempts of a rotation together; a client that waits longer gives up.
const LIMIT: Duration = Duration::from_secs(3);

/// The first pause before a retry; doubled with each, with jitter, so that two that collided do not collide again.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// What is to be stored, save what only the row tells.
pub struct Plan {
    /// The token that the client presented.
    pub token: String,
    /// The one it gets in its place.
    pub refresh_token: String,
    /// Unix seconds.
    pub issued_at: u64,
    /// The home URL.
    pub iss: String,
    /// Settings, keys and columns.
    pub site: Arc<Site>,
    /// As it is stored in the column.
    pub user_agent: String,
    /// `{"user_agent":"…"}`.
    pub metadata: String,
    /// The client's address.
    pub ip_address: String,
}

/// How a rotation ended.
pub enum Outcome {
    /// Stored.
    Rotated(Rotated),
    /// The row's token was used, revoked or has expired.
    InvalidToken,
    /// The row's user does not exist.
    UserNotFound,
    /// The row does not hold the token (any more).
    NotThisRow,
}

/// A stored rotation.
pub struct Rotated {
    /// The new access token.
    pub access_token: String,
    /// The token's user.
    pub user: User,
    /// The token's family.
    pub family: Option<String>,
    /// The row that was revoked.
    pub parent: u64,
    /// The new row; unknown where the commit's answer was lost.
    pub child: Option<u64>,
}

/// Why a rotation could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The database failed before the first statement: nothing has happened, WordPress may answer.
    #[error("{0} before the rotation began")]
    NotBegun(#[source] DatabaseError),
    /// The database failed later, and again until the time was up.
    #[error("{0} during the rotation")]
    Failed(#[source] DatabaseError),
    /// The access token could not be signed.
    #[error("cannot sign the access token")]
    Sign(#[from] SignerError),
}

/// Rotates the token in row `parent` as planned.
///
/// # Errors
/// See [`RotationError`].
pub async fn rotate(store: &Store, plan: &Plan, parent: u64) -> Result<Outcome, RotationError> {
    let deadline = Instant::now() + LIMIT;
    let mut begun = false;
    let mut pause = FIRST_PAUSE;
    loop {
        let failure = match attempt(store, plan, parent, deadline, &mut begun).await {
            Ok(outcome) => return Ok(outcome),
            Err(Interrupted::Sign(error)) => return Err(error.into()),
            Err(Interrupted::BeforeCommit(error)) => error,
            Err(Interrupted::InCommit(unknown)) => match resolve(store, plan, parent, &unknown, deadline).await {
                Ok(Resolution::Committed) => return Ok(Outcome::Rotated(unknown.rotated)),
                Ok(Resolution::Superseded) => return Ok(Outcome::InvalidToken),
                Ok(Resolution::NotCommitted) => DatabaseError::TimedOut,
                Err(error) => return Err(RotationError::Failed(error)),
            },
        };
        if !is_worth_another_try(&failure) || Instant::now() + pause >= deadline {
            return Err(if begun { RotationError::Failed(failure) } else { RotationError::NotBegun(failure) });
        }
        if !begun && matches!(failure, DatabaseError::Connect(_) | DatabaseError::NoConnection) {
            return Err(RotationError::NotBegun(failure));
        }
        sleep(jitter(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

enum Interrupted {
    /// Nothing is stored: the transaction was rolled back or its connection closed.
    BeforeCommit(DatabaseError),
    /// COMMIT was sent and the server's word did not come.
    InCommit(Box<UnknownCommit>),
    Sign(SignerError),
}

struct UnknownCommit {
    connection: u32,
    user_id: u64,
    rotated: Rotated,
}

impl From<DatabaseError> for Interrupted {
    fn from(error: DatabaseError) -> Self {
        Interrupted::BeforeCommit(error)
    }
}

/// One transaction. `begun` is set as soon as its first statement is sent.
///
/// A session that is dropped on the way out is closed, and its transaction rolled back by the server; it is given back only
/// with the transaction ended.
async fn attempt(
    store: &Store,
    plan: &Plan,
    parent_id: u64,
    deadline: Instant,
    begun: &mut bool,
) -> Result<Outcome, Interrupted> {
    let mut session = open(store, deadline).await?;
    *begun = true;
    let prepared = match within(deadline, prepare(store, &mut session, plan, parent_id)).await {
        Ok(prepared) => prepared,
        Err(interrupted) => return Err(give_up(store, session, interrupted, deadline).await),
    };
    let rotated = match prepared {
        Prepared::Refused(outcome) => {
            within(deadline, async { Ok(store.rollback(&mut session).await?) }).await?;
            session.give_back();
            return Ok(outcome);
        }
        Prepared::Ready(rotated) => rotated,
    };
    let connection = session.conn().id();
    match timeout_at(deadline, store.commit(&mut session)).await {
        Ok(Ok(())) => {
            session.give_back();
            Ok(Outcome::Rotated(rotated))
        }
        // The server itself says that it did not commit.
        Ok(Err(error)) if error.code().is_some() => {
            Err(give_up(store, session, Interrupted::BeforeCommit(error), deadline).await)
        }
        Ok(Err(_)) | Err(_) => {
            let unknown = UnknownCommit { connection, user_id: rotated.user.id, rotated };
            Err(Interrupted::InCommit(Box::new(unknown)))
        }
    }
}

/// A session with an open transaction. A connection that idled may be dead: then a fresh one, at once.
async fn open(store: &Store, deadline: Instant) -> Result<Session<'_>, DatabaseError> {
    let opened = async {
        let mut session = store.database.session().await?;
        if store.begin(&mut session).await.is_ok() {
            return Ok(session);
        }
        let mut session = store.database.fresh_session().await?;
        store.begin(&mut session).await?;
        Ok(session)
    };
    timeout_at(deadline, opened).await.unwrap_or(Err(DatabaseError::NoConnection))
}

enum Prepared {
    Ready(Rotated),
    Refused(Outcome),
}

async fn prepare(store: &Store, session: &mut Session<'_>, plan: &Plan, id: u64) -> Result<Prepared, Interrupted> {
    let Some(Parent { snapshot, user_id, family, user }) = store.lock(session, id, &plan.token).await? else {
        return Ok(Prepared::Refused(Outcome::NotThisRow));
    };
    if !snapshot.token_matches {
        return Ok(Prepared::Refused(Outcome::NotThisRow));
    }
    let user = match (rotation::decide(Some(&snapshot)), user) {
        (Decision::Rotate, Some(user)) => user,
        (Decision::Rotate | Decision::UserNotFound, _) => return Ok(Prepared::Refused(Outcome::UserNotFound)),
        (Decision::InvalidToken, _) => return Ok(Prepared::Refused(Outcome::InvalidToken)),
    };
    let settings = &plan.site.settings;
    let expires_at = plan.issued_at.saturating_add(settings.jwt_expiration);
    let claims = ClaimsInput {
        iss: &plan.iss,
        issued_at: plan.issued_at,
        expires_at,
        user_id,
        refresh_token: &plan.refresh_token,
    };
    let access_token = plan.site.signer.access_token(&claims).map_err(Interrupted::Sign)?;
    let child = Child {
        hash: &wp_hash(&access_token, &plan.site.auth_salt),
        user_id,
        issued_at: plan.issued_at,
        expires_at,
        refresh_token: &plan.refresh_token,
        refresh_token_lifetime: settings.refresh_token_expiration,
        family: family.as_deref(),
        metadata: &plan.metadata,
        user_agent: &plan.user_agent,
        ip_address: &plan.ip_address,
    };
    let child = store.rotate(session, id, &child).await?;
    Ok(Prepared::Ready(Rotated { access_token, user, family, parent: id, child }))
}

/// After an error the connection is kept only if it says that the rollback worked.
async fn give_up(store: &Store, mut session: Session<'_>, why: Interrupted, deadline: Instant) -> Interrupted {
    let answered = match &why {
        Interrupted::BeforeCommit(error) => error.code().is_some_and(|code| !LOST.contains(&code)),
        Interrupted::Sign(_) => true,
        Interrupted::InCommit(_) => false,
    };
    if answered && matches!(timeout_at(deadline, store.rollback(&mut session)).await, Ok(Ok(()))) {
        session.give_back();
    }
    why
}

async fn resolve(
    store: &Store,
    plan: &Plan,
    parent: u64,
    unknown: &UnknownCommit,
    deadline: Instant,
) -> Result<Resolution, DatabaseError> {
    warn!("the answer to a commit was lost; looking whether it was stored");
    // A commit that was lost at the deadline is still looked for: the client must not be refused for ever by a row that it never got.
    let deadline = deadline.max(Instant::now() + LIMIT / 2);
    let mut pause = FIRST_PAUSE;
    loop {
        let look = async {
            let mut session = store.database.fresh_session().await?;
            let resolution =
                store.resolve(&mut session, unknown.connection, parent, unknown.user_id, &plan.refresh_token).await?;
            session.give_back();
            Ok::<_, DatabaseError>(resolution)
        };
        let error = match timeout_at(deadline, look).await {
            Ok(Ok(resolution)) => return Ok(resolution),
            Ok(Err(error)) => error,
            Err(_) => DatabaseError::TimedOut,
        };
        if Instant::now() + pause >= deadline {
            return Err(error);
        }
        sleep(jitter(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn within<T>(deadline: Instant, work: impl Future<Output = Result<T, Interrupted>>) -> Result<T, Interrupted> {
    timeout_at(deadline, work).await.unwrap_or(Err(Interrupted::BeforeCommit(DatabaseError::TimedOut)))
}

/// Errors after which the connection is of no more use: shutdown (1053), read-only (1290, 1836), killed (1317, 1927), not in the cluster (1047).
const LOST: [u16; 6] = [1047, 1053, 1290, 1317, 1836, 1927];

/// Deadlock (1213), lock wait (1205), a changed record (1020), an error during commit (1180), group replication's conflict (3101).
const TRANSIENT: [u16; 5] = [1020, 1180, 1205, 1213, 3101];

fn is_worth_another_try(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::Failed(Some(code)) => TRANSIENT.contains(code) || LOST.contains(code),
        DatabaseError::Failed(None)
        | DatabaseError::NoConnection
        | DatabaseError::Connect(_)
        | DatabaseError::TimedOut => true,
        DatabaseError::Column(_) => false,
    }
}

/// Half of `pause` to one and a half.
fn jitter(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    pause / 2 + pause.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_try_can_mend() {
        for code in [1213, 1205, 1020, 3101, 1290, 1053] {
            assert!(is_worth_another_try(&DatabaseError::Failed(Some(code))), "{code}");
        }
        assert!(is_worth_another_try(&DatabaseError::Failed(None)));
        // Data too long, a CHECK that fails, no such column: the same every time.
        for code in [1406, 4025, 1054] {
            assert!(!is_worth_another_try(&DatabaseError::Failed(Some(code))), "{code}");
        }
    }

    #[test]
    fn jitter_stays_around_the_pause() {
        for _ in 0..1000 {
            let pause = jitter(Duration::from_millis(10));
            assert!((Duration::from_millis(5)..=Duration::from_millis(15)).contains(&pause), "{pause:?}");
        }
    }
}
