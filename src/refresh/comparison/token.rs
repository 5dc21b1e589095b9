//! The state of a token before WordPress gets it.

use std::sync::Arc;
use std::time::Duration;

use mysql_async::Row;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::debug;

use super::super::refresher::Refresher;
use super::super::row_cache::{Key, RowRef};
use crate::declared::User;
use crate::wordpress::database::{ANSWER_LIMIT, DatabaseError, Session, column};
use crate::wordpress::site::Site;

/// How long the call may be delayed before it is left to WordPress without a comparison.
const PATIENCE: Duration = Duration::from_millis(500);

/// Seconds around a token's expiry in which PHP's clock and the database's may disagree.
const NEAR: i64 = 60;

/// The state.
pub enum Standing {
    Live(Live),
    /// Live, but its user is gone.
    Orphan,
    NotLive {
        is_in_row: bool,
        /// Whether it was looked up just now, not only within the last seconds.
        is_certain: bool,
    },
}

/// A live token. Has no `Debug`.
pub struct Live {
    pub id: u64,
    pub family: Option<String>,
    pub user: User,
}

/// Reads the state on the database side's runtime; `None` if that takes too long.
pub async fn find(refresher: &Arc<Refresher>, site: &Arc<Site>, token: &str) -> Option<Standing> {
    let (refresher, site, token) = (Arc::clone(refresher), Arc::clone(site), token.to_owned());
    let tasks = refresher.tasks.clone();
    // In its own task: a client that disconnects ends the wait, never a statement.
    let read = tasks.spawn(async move { read(&refresher, &site, &token).await });
    timeout(PATIENCE, read).await.ok()?.ok()?
}

async fn read(refresher: &Arc<Refresher>, site: &Arc<Site>, token: &str) -> Option<Standing> {
    let key = Key::of(token, site.columns.folds_case);
    let look_ups = &refresher.look_ups;
    let row = match look_ups.row_cache.row_of(&key) {
        Some(row) => row,
        None if look_ups.is_known_unknown(&key) => {
            return Some(Standing::NotLive { is_in_row: false, is_certain: false });
        }
        // Not if the whole table would have to be read.
        None if !site.columns.indexed && look_ups.live_tokens.complete().is_none() => return None,
        None => match look_up(refresher, site, key).await? {
            Some(row) => row,
            None => return Some(Standing::NotLive { is_in_row: false, is_certain: true }),
        },
    };
    let database = &refresher.store.database;
    let mut session = database.session().await.ok()?;
    let asked = async {
        session.begin_at_writer().await?;
        let standing = standing(refresher, &mut session, row.id, token).await?;
        session.end_at_writer().await?;
        Ok(standing)
    };
    let standing = database.within(ANSWER_LIMIT, asked).await;
    let standing =
        standing.inspect_err(|error| debug!(%error, "a token cannot be looked at, and its call is not compared"));
    let standing = standing.ok()?;
    session.give_back();
    standing
}

async fn look_up(refresher: &Arc<Refresher>, site: &Arc<Site>, key: Key) -> Option<Option<RowRef>> {
    let (found, row) = oneshot::channel();
    // The time limit may have ended the wait.
    let on_done = move |result| drop(found.send(result));
    refresher.look_ups.find(key, Arc::clone(site), Box::new(on_done));
    row.await.ok()?.ok()
}

async fn standing(
    refresher: &Refresher,
    session: &mut Session<'_>,
    id: u64,
    token: &str,
) -> Result<Option<Standing>, DatabaseError> {
    let store = &refresher.store;
    let statement = format!(
        "SELECT user_id, token_family, revoked_at IS NOT NULL, \
         TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), refresh_token_expires_at) \
         FROM {} WHERE id = ? AND refresh_token_hash = ?",
        store.tokens
    );
    let row: Option<Row> = session.conn().exec_first(statement, (id, token)).await?;
    let Some(mut row) = row else { return Ok(None) };
    let (is_revoked, left): (bool, Option<i64>) =
        (column(&mut row, 2, "revoked_at")?, column(&mut row, 3, "refresh_token_expires_at")?);
    let not_live = Standing::NotLive { is_in_row: true, is_certain: true };
    match left {
        _ if is_revoked => return Ok(Some(not_live)),
        Some(left) if left.abs() <= NEAR => return Ok(None),
        Some(left) if left > 0 => {}
        _ => return Ok(Some(not_live)),
    }
    let family: Option<Vec<u8>> = column(&mut row, 1, "token_family")?;
    let family = family.map(|family| String::from_utf8_lossy(&family).into_owned());
    let user = store.user(session, column(&mut row, 0, "user_id")?).await?;
    Ok(Some(user.map_or(Standing::Orphan, |user| Standing::Live(Live { id, family, user }))))
}
