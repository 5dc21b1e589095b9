//! One transaction over a group of rotations: lock, decide, insert, revoke, commit.
//!
//! The items of a group are independent: one whose token is used, expired, unknown or contained
//! twice does not affect the others. A failure fails the whole group and leaves nothing behind;
//! splitting the group is left to [`super::group`].

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::decision::{self, Decision, RowSnapshot};
use super::plan::{Outcome, Plan, Replays, Rotated, Used};
use super::row_cache::RowRef;
use super::row_proof;
use super::store::{Child, LockedRow, Store, Trace};
use super::waiting::{Turn, in_turn};
use crate::wordpress::access_token::SignerError;
use crate::wordpress::database::{ConnectionName, DatabaseError, Session};

/// The transaction's result for one item.
pub enum Verdict {
    Ended(Outcome),
    /// Another transaction holds the row, or the row is missing: to be tried alone, with patience.
    Alone,
    Unsigned(SignerError),
}

/// Why a transaction did not complete.
pub enum Interrupted {
    /// Even the first statement got no result: the connection, which was idle before, is dead.
    AtOnce(DatabaseError),
    /// The server [refuses](DatabaseError::refusal) a statement, and no other had written anything.
    Refused(DatabaseError),
    /// Nothing is stored, since no COMMIT was sent: the transaction must be rolled back, or its
    /// connection closed.
    BeforeCommit(DatabaseError),
    /// COMMIT was sent, and the server's result says that nothing is stored.
    RolledBack(DatabaseError),
    /// COMMIT was sent, and the server's result is missing or ambiguous.
    InCommit(Box<UnknownCommit>),
}

/// A commit with an unknown outcome.
pub struct UnknownCommit {
    /// The connection that the COMMIT was sent on.
    pub connection: ConnectionName,
    /// How its rotations are recognised.
    pub traces: Vec<Trace>,
    /// The verdicts, item by item, if it was stored.
    pub verdicts: Vec<Verdict>,
}

/// How rows that another transaction holds are treated.
pub enum HeldRows<'a> {
    Wait,
    /// They are skipped, if the server can do that. The next worker's turn begins at the latest
    /// when this transaction has written, and not before it has locked its rows.
    Skip(Option<Turn<'a>>),
}

/// Opens `session` by `deadline`.
///
/// # Errors
/// The database's.
pub async fn open<'a>(
    session: impl Future<Output = Result<Session<'a>, DatabaseError>>,
    deadline: Instant,
) -> Result<Session<'a>, DatabaseError> {
    timeout_at(deadline, session).await.unwrap_or(Err(DatabaseError::NoConnection))
}

/// The least time for a COMMIT's result: a disk may be busy.
const COMMIT_LEAST: Duration = Duration::from_millis(500);

/// One transaction over `items`, each a plan and its token's row; at most
/// [`super::store::LARGEST_GROUP`]. The verdicts come in the order of the items. No COMMIT is sent
/// after `commit_by`.
///
/// # Errors
/// See [`Interrupted`]. The session then has a transaction open.
pub async fn attempt(
    store: &Store,
    session: &mut Session<'_>,
    items: &[(&Plan, RowRef)],
    held: HeldRows<'_>,
    commit_by: Instant,
) -> Result<Vec<Verdict>, Interrupted> {
    let can_skip = session.abilities().skip_locked;
    let (skip_locked, turn) = match held {
        HeldRows::Skip(turn) if can_skip => (true, turn),
        // A statement that waits for one row must not keep the other rotations from theirs.
        HeldRows::Skip(_) | HeldRows::Wait => (false, None),
    };
    let mut rows: Vec<RowRef> = items.iter().map(|(_, row)| *row).collect();
    rows.sort_unstable();
    rows.dedup_by_key(|row| row.id);
    let locking = async {
        session.begin_at_writer().await?;
        store.lock(session, &rows, skip_locked).await
    };
    let locked = match timeout_at(commit_by, locking).await {
        Ok(Ok(rows)) => rows,
        Ok(Err(error)) if error.code().is_none() => return Err(Interrupted::AtOnce(error)),
        Ok(Err(error)) => return Err(before_commit(error, false)),
        Err(_) => return Err(Interrupted::BeforeCommit(DatabaseError::TimedOut)),
    };
    let mut has_written = false;
    let prepared = prepare(store, session, items, &locked, skip_locked, turn, &mut has_written);
    let prepared = timeout_at(commit_by, prepared).await.unwrap_or(Err(DatabaseError::TimedOut));
    let prepared = prepared.map_err(|error| before_commit(error, has_written))?;
    if prepared.traces.is_empty() {
        // The refusal is certain; whether a ROLLBACK or closing the connection releases the locks
        // does not matter.
        let undone = timeout_at(commit_by, session.rollback()).await.unwrap_or(Err(DatabaseError::TimedOut));
        return undone.map(|()| prepared.verdicts).map_err(Interrupted::BeforeCommit);
    }
    let connection = session.name();
    let now = Instant::now();
    if now >= commit_by {
        return Err(Interrupted::BeforeCommit(DatabaseError::TimedOut));
    }
    match timeout_at(commit_by.max(now + COMMIT_LEAST), session.commit()).await {
        Ok(Ok(())) => Ok(prepared.verdicts),
        Ok(Err(error)) if error.says_rolled_back() => Err(Interrupted::RolledBack(error)),
        Ok(Err(_)) | Err(_) => {
            let Prepared { verdicts, traces } = prepared;
            Err(Interrupted::InCommit(Box::new(UnknownCommit { connection, traces, verdicts })))
        }
    }
}

fn before_commit(error: DatabaseError, has_written: bool) -> Interrupted {
    match error.refusal() {
        Some(_) if !has_written => Interrupted::Refused(error),
        _ => Interrupted::BeforeCommit(error),
    }
}

/// Everything but the commit.
struct Prepared {
    verdicts: Vec<Verdict>,
    traces: Vec<Trace>,
}

async fn prepare(
    store: &Store,
    session: &mut Session<'_>,
    items: &[(&Plan, RowRef)],
    locked: &[LockedRow],
    skip_locked: bool,
    turn: Option<Turn<'_>>,
    has_written: &mut bool,
) -> Result<Prepared, DatabaseError> {
    let mut verdicts = Vec::with_capacity(items.len());
    let mut children: Vec<Child<'_>> = Vec::new();
    for (plan, RowRef { id, is_proved, .. }) in items {
        let (verdict, child) = match locked.iter().find(|row| row.id == *id) {
            Some(row) => {
                // Equal bytes need no query; otherwise the column's collation decides.
                let is_same = row.token.as_deref() == Some(plan.token.as_bytes());
                let token_matches = is_same || store.holds(session, *id, &plan.token).await?;
                // A token that occurs twice in a group is used by its first occurrence.
                let is_taken = children.iter().any(|child| child.parent == *id);
                verdict_of(plan, row, token_matches, is_taken, *is_proved)
            }
            None if skip_locked => (Verdict::Alone, None),
            None => (Verdict::Ended(Outcome::NotThisRow), None),
        };
        verdicts.push(verdict);
        children.extend(child);
    }
    if !children.is_empty() {
        store.prepare_to_revoke(session, children.len()).await?;
        // A statement that may wait for a lock from here on must not keep the other workers
        // waiting.
        let turn = turn.filter(|turn| session.abilities().no_wait && !turn.is_due());
        let (ids, turn) = in_turn(turn, store.insert(session, &children)).await;
        *has_written = ids.is_ok() || !store.inserts_at_once(children.len());
        let ids = ids?;
        let turn = turn.filter(|turn| !turn.is_due());
        let (revoked, turn) = in_turn(turn, store.revoke_parents(session, &children)).await;
        drop(turn);
        revoked?;
        let rotated = verdicts.iter_mut().filter_map(|verdict| match verdict {
            Verdict::Ended(Outcome::Rotated(rotated)) => Some(rotated),
            _ => None,
        });
        for (rotated, id) in rotated.zip(ids) {
            rotated.child = id;
        }
    }
    let traces = children
        .into_iter()
        .map(|child| Trace {
            parent: child.parent,
            user_id: child.user_id,
            refresh_token: child.refresh_token.to_owned(),
        })
        .collect();
    Ok(Prepared { verdicts, traces })
}

/// The verdict of a locked row on `plan`, and the row to add if the token is exchanged. `is_taken`:
/// the group already exchanges it. `is_proved`: the row is known to be as the plugin alone, or a
/// sidecar, writes it.
fn verdict_of<'a>(
    plan: &'a Plan,
    row: &'a LockedRow,
    token_matches: bool,
    is_taken: bool,
    is_proved: bool,
) -> (Verdict, Option<Child<'a>>) {
    let snapshot = RowSnapshot {
        token_matches,
        revoked: row.revoked || is_taken,
        expired: row.expired,
        user_exists: row.user.is_some(),
    };
    let outcome = match (decision::decide(&snapshot), &row.user) {
        // The verdict on the site may have changed since the call was accepted.
        (decision, _)
            if decision != Decision::NotThisRow
                && !plan.is_native()
                && !(plan.replays != Replays::None && decision == Decision::Used) =>
        {
            Outcome::Unverified(plan.verification.why())
        }
        (Decision::Rotate, Some(user)) => {
            let certain = plan.site.values(user).inspect_err(|uncertain| plan.verification.uncertain(uncertain));
            let certain = certain.map_err(|uncertain| uncertain.to_string()).and_then(|values| {
                if !is_proved {
                    row_proof::prove(plan, row, &values)?;
                }
                Ok(values)
            });
            match certain.map(|values| (plan.child(row, &values), values.fields)) {
                Ok((Ok((access_token, child)), fields)) => {
                    // The values declared for the user are in `fields` and in the token.
                    let user = user.without_found();
                    let family = row.family.clone();
                    let rotated = Rotated { access_token, user, fields, family, parent: row.id, child: None };
                    return (Verdict::Ended(Outcome::Rotated(rotated)), Some(child));
                }
                Ok((Err(error), _)) => return (Verdict::Unsigned(error), None),
                Err(why) => Outcome::Unverified(why),
            }
        }
        (Decision::Rotate | Decision::UserNotFound, _) => Outcome::UserNotFound,
        (Decision::NotThisRow, _) => Outcome::NotThisRow,
        (Decision::Expired, _) => Outcome::Expired,
        (Decision::Used, _) => Outcome::Used(Used {
            id: row.id,
            user_id: row.user_id,
            family: row.family.clone(),
            revoked_for: if row.revoked { row.revoked_for } else { Some(0) },
            expired: row.expired,
        }),
    };
    (Verdict::Ended(outcome), None)
}
