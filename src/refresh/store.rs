//! The SQL of a rotation, one function per intent, with explicit commit and rollback.
//!
//! Locks are taken by primary key only, in ascending order. A locking read or an update by
//! `refresh_token_hash`, which has no index, locks every row that it reads, and blocks every login.
//! Only the first statement of a transaction waits for a lock, if the server can avoid it for the
//! others; a later one fails at once, for instance when it meets the plugin revoking all tokens of
//! a user. Every statement works on a group of rows; a single rotation is a group of one. All
//! values are bound, so texts differ only in their number of rows, of which there are few, and in
//! how the users' meta is joined.

mod lock;
mod statements;
mod times;
mod tried;
mod user;

use std::sync::Arc;

use mysql_async::{Row, Value};
use tracing::debug;

use self::lock::Lock;
pub use self::lock::LockedRow;
use self::statements::Statements;
use self::times::datetime;
pub use self::times::unix_seconds;
pub use self::tried::Statement;
use self::user::UserColumns;
use super::row_cache::RowRef;
use super::user_cache::UserCache;
use crate::declared::Read;
use crate::wordpress::database::{ConnectionName, Database, DatabaseError, LOCK_WAIT_SECONDS, Session, column};

/// The most rotations in one transaction. Larger ones would hold their locks longer and save little
/// more.
pub const LARGEST_GROUP: usize = 64;

/// The statements for one site's tables, and their database.
pub struct Store {
    /// The site's database.
    pub database: Arc<Database>,
    /// The token table's name, quoted.
    pub tokens: String,
    users: String,
    lock: Lock,
    user_columns: UserColumns,
    /// What is remembered of users.
    pub user_cache: Arc<UserCache>,
    /// Without user meta.
    plain_user: String,
    user: String,
    insert: Statements,
    revoke: Statements,
    holds: String,
    look: String,
    look_waiting: String,
    child: String,
    token_state: String,
}

/// The state of a token, as a plain read shows it.
pub struct TokenState {
    /// It can be exchanged, unless that has happened meanwhile.
    pub is_live: bool,
    /// Seconds since it was used or revoked, by the database's clock; `None` if it was not, or if
    /// the table has no date.
    pub revoked_for: Option<i64>,
}

/// The row that a rotation adds. All strings fit their columns.
pub struct Child<'a> {
    /// The row that it replaces.
    pub parent: u64,
    /// `wp_hash` of the access token.
    pub hash: String,
    /// The parent's user.
    pub user_id: u64,
    /// Unix seconds; `iat` of the access token.
    pub issued_at: u64,
    /// Unix seconds; `exp` of the access token.
    pub expires_at: u64,
    /// The new refresh token.
    pub refresh_token: &'a str,
    /// Seconds from the database's current time.
    pub refresh_token_lifetime: u64,
    /// The parent's family.
    pub family: Option<&'a str>,
    /// `{"user_agent":"…"}`.
    pub metadata: String,
    /// As WordPress would store it.
    pub user_agent: &'a str,
    /// The client's address.
    pub ip_address: String,
}

/// How a rotation whose commit result was lost is recognised.
pub struct Trace {
    /// The row that it revokes.
    pub parent: u64,
    pub user_id: u64,
    /// The refresh token that it adds.
    pub refresh_token: String,
}

/// What became of a commit whose result was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    Committed,
    /// Nothing of it was stored.
    NotCommitted,
}

impl Store {
    /// For a site without declared values. SECURITY: `table_prefix` and `users_table` become part
    /// of the SQL; `installation()` accepts only `[A-Za-z0-9_]`.
    pub fn new(database: Database, table_prefix: &str, users_table: &str) -> Self {
        Store::declaring(database, table_prefix, users_table, &[], None)
    }

    /// Like [`Store::new`]; also reads `reads` of each user, from the users' table and from
    /// `usermeta_table`. If that table is unknown, the meta values are uncertain.
    pub fn declaring(
        database: impl Into<Arc<Database>>,
        table_prefix: &str,
        users_table: &str,
        reads: &[Read],
        usermeta_table: Option<&str>,
    ) -> Self {
        let tokens = format!("`{table_prefix}jwt_auth_tokens`");
        let users = format!("`{users_table}`");
        let user_columns = UserColumns::new(&users, table_prefix, reads, usermeta_table);
        Store {
            lock: Lock::new(&tokens, &user_columns),
            user_cache: Arc::new(UserCache::new()),
            plain_user: user_columns.of_one_without_meta(),
            user: user_columns.of_one(),
            user_columns,
            insert: Statements::of_rows(
                &format!(
                    "INSERT INTO {tokens} (hash, user_id, issued_at, expires_at, refresh_token_hash, \
                     refresh_token_expires_at, token_family, metadata, user_agent, ip_address, blog_id) VALUES "
                ),
                "(?, ?, ?, ?, ?, UTC_TIMESTAMP() + INTERVAL ? SECOND, ?, ?, ?, ?, 1)",
            ),
            // Without "AND revoked_at IS NULL": the optimizer would use revoked_at_idx, secondary
            // index before primary, and deadlock with the plugin's own statements. The rows are
            // locked, and their state known.
            revoke: Statements::of_ids(
                &format!("UPDATE {tokens} FORCE INDEX (PRIMARY) SET revoked_at = UTC_TIMESTAMP() WHERE id IN ("),
                ")",
            ),
            holds: format!("SELECT COALESCE(refresh_token_hash = ?, 0) FROM {tokens} WHERE id = ?"),
            look: format!("SELECT revoked_at IS NOT NULL FROM {tokens} WHERE id = ? FOR UPDATE"),
            look_waiting: format!(
                "SELECT revoked_at IS NOT NULL FROM {tokens} WHERE id = ? FOR UPDATE WAIT {LOCK_WAIT_SECONDS}"
            ),
            child: format!("SELECT id FROM {tokens} WHERE user_id = ? AND refresh_token_hash = ?"),
            token_state: format!(
                "SELECT revoked_at IS NULL AND COALESCE(refresh_token_expires_at > UTC_TIMESTAMP(), 0), \
                 TIMESTAMPDIFF(SECOND, revoked_at, UTC_TIMESTAMP()) FROM {tokens} WHERE id = ? AND refresh_token_hash = ?"
            ),
            database: database.into(),
            tokens,
            users,
        }
    }

    /// Shares the room for remembered users with `other`, another site's.
    #[must_use]
    pub fn sharing(self, other: &Store) -> Self {
        Store { user_cache: Arc::new(other.user_cache.of_another_site()), ..self }
    }

    /// Whether row `id` contains `token`, by the column's collation.
    ///
    /// # Errors
    /// The database's.
    pub async fn holds(&self, session: &mut Session<'_>, id: u64, token: &str) -> Result<bool, DatabaseError> {
        let row: Option<Row> = session.conn().exec_first(&self.holds, (token, id)).await?;
        row.map_or(Ok(false), |mut row| column(&mut row, 0, "refresh_token_hash"))
    }

    /// The state of `token` in row `id`; `None` if the row does not contain it. Locks nothing.
    ///
    /// # Errors
    /// The database's.
    pub async fn token_state(
        &self,
        session: &mut Session<'_>,
        id: u64,
        token: &str,
    ) -> Result<Option<TokenState>, DatabaseError> {
        let row: Option<Row> = session.conn().exec_first(&self.token_state, (id, token)).await?;
        let Some(mut row) = row else { return Ok(None) };
        let (is_live, revoked_for) = (column(&mut row, 0, "revoked_at")?, column(&mut row, 1, "revoked_at")?);
        Ok(Some(TokenState { is_live, revoked_for }))
    }

    /// Whether [`Store::insert`] adds so many by one statement, which adds all or none.
    pub fn inserts_at_once(&self, count: usize) -> bool {
        self.insert.by_size().any(|(size, _)| size == count)
    }

    /// Prepares the statement that [`Store::revoke_parents`] runs for so many rows, so that a
    /// missing privilege shows before anything is written.
    ///
    /// # Errors
    /// The database's.
    pub async fn prepare_to_revoke(&self, session: &mut Session<'_>, count: usize) -> Result<(), DatabaseError> {
        let (text, _) = self.revoke.padded(&vec![0; count]);
        session.prepared(text).await.map(drop)
    }

    /// Adds `children`. Returns their ids, if they are certain.
    ///
    /// # Errors
    /// The database's.
    pub async fn insert(
        &self,
        session: &mut Session<'_>,
        children: &[Child<'_>],
    ) -> Result<Vec<Option<u64>>, DatabaseError> {
        let consecutive = session.abilities().consecutive_ids;
        let mut ids = Vec::with_capacity(children.len());
        let mut rest = children;
        for (size, text) in self.insert.by_size() {
            while let Some((chunk, after)) = rest.split_at_checked(size) {
                let values: Vec<Value> = chunk.iter().flat_map(values).collect();
                let statement = session.prepared(text).await?;
                session.conn().exec_drop(statement, values).await?;
                // The id of the statement's first row.
                let first = session.conn().last_insert_id();
                ids.extend((0..size).map(|place| match place {
                    0 => first,
                    _ if consecutive => first.and_then(|first| first.checked_add(place as u64)),
                    _ => None,
                }));
                rest = after;
            }
        }
        Ok(ids)
    }

    /// Revokes the parents of `children`. They must be locked and live.
    ///
    /// # Errors
    /// The database's.
    pub async fn revoke_parents(&self, session: &mut Session<'_>, children: &[Child<'_>]) -> Result<(), DatabaseError> {
        let mut parents: Vec<u64> = children.iter().map(|child| child.parent).collect();
        parents.sort_unstable();
        self.revoke_locked(session, &parents).await
    }

    /// Revokes those of the rows `ids` (ascending, at most [`LARGEST_GROUP`]) that are not yet
    /// revoked. Returns their number.
    ///
    /// # Errors
    /// The database's.
    pub async fn revoke(&self, session: &mut Session<'_>, ids: &[u64]) -> Result<usize, DatabaseError> {
        let rows: Vec<RowRef> = ids.iter().map(|id| RowRef::found(*id, None)).collect();
        let locked = self.lock(session, &rows, false).await?;
        let live: Vec<u64> = locked.into_iter().filter(|row| !row.revoked).map(|row| row.id).collect();
        if !live.is_empty() {
            self.revoke_locked(session, &live).await?;
        }
        Ok(live.len())
    }

    async fn revoke_locked(&self, session: &mut Session<'_>, ids: &[u64]) -> Result<(), DatabaseError> {
        let (text, ids) = self.revoke.padded(ids);
        let statement = session.prepared(text).await?;
        Ok(session.conn().exec_drop(statement, ids).await?)
    }

    /// Finds out what became of a commit of `traces` whose result was lost with connection `lost`.
    /// That connection is killed, so that a COMMIT which has not reached the server yet cannot do
    /// so later. A COMMIT in progress is left alone: other connections may see its rows before they
    /// are safe on disk and on the replicas, and killing it would end that wait. A transaction is
    /// stored completely or not at all, so the first rotation with a certain result decides for
    /// all.
    ///
    /// # Errors
    /// The database's; 1205 if the old connection still holds a row, [`DatabaseError::TimedOut`] if
    /// its commit is still running: both are worth another attempt. The session must not be used
    /// again.
    pub async fn resolve(
        &self,
        session: &mut Session<'_>,
        lost: &ConnectionName,
        traces: &[Trace],
    ) -> Result<Resolution, DatabaseError> {
        let look = if session.abilities().no_wait { &self.look_waiting } else { &self.look };
        match session.end(lost).await {
            Ok(true) => return Err(DatabaseError::TimedOut),
            Ok(false) => {}
            Err(error) => debug!(%error, "a connection whose commit was not answered could not be ended"),
        }
        // The commit may have been sent to another node than this one.
        session.catch_up(&self.tokens).await?;
        session.conn().query_drop("START TRANSACTION").await?;
        let mut resolution = Resolution::NotCommitted;
        for trace in traces {
            let row: Option<Row> = session.conn().exec_first(look, (trace.parent,)).await?;
            let revoked = row.map(|mut row| column::<bool>(&mut row, 0, "revoked_at")).transpose()?;
            if revoked == Some(false) {
                break;
            }
            let child: Option<Row> =
                session.conn().exec_first(&self.child, (trace.user_id, &trace.refresh_token)).await?;
            if child.is_some() {
                resolution = Resolution::Committed;
                break;
            }
            // Neither: another client revoked or deleted this row first. The other rotations may
            // decide.
        }
        session.conn().query_drop("ROLLBACK").await?;
        Ok(resolution)
    }
}

/// In the statement's order.
fn values(child: &Child<'_>) -> [Value; 10] {
    [
        child.hash.as_str().into(),
        child.user_id.into(),
        datetime(child.issued_at),
        datetime(child.expires_at),
        child.refresh_token.into(),
        child.refresh_token_lifetime.into(),
        child.family.into(),
        child.metadata.as_str().into(),
        child.user_agent.into(),
        child.ip_address.as_str().into(),
    ]
}
