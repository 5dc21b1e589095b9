//! The SQL of a rotation, one function per intent, with explicit commit and rollback.
//!
//! Locks are taken by primary key only. By `refresh_token_hash`, which has no index, a locking read or an update locks
//! every row it reads past and stops every login.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};

use super::response::User;
use super::rotation::RowSnapshot;
use crate::wordpress::database::{Database, DatabaseError, Session, column};

/// The statements for one site's tables, and the database they go to.
pub struct Store {
    /// Where the tables are.
    pub database: Database,
    find: String,
    lock: String,
    user: String,
    insert: String,
    revoke: String,
    look: String,
    child: String,
}

/// The parent row under its lock.
pub struct Parent {
    /// What the rules decide on.
    pub snapshot: RowSnapshot,
    /// `user_id`.
    pub user_id: u64,
    /// `token_family`, NULL as `None`.
    pub family: Option<String>,
    /// The user, when there is one.
    pub user: Option<User>,
}

/// The row that a rotation adds. All strings fit their columns.
pub struct Child<'a> {
    /// `wp_hash` of the access token.
    pub hash: &'a str,
    /// The parent's user.
    pub user_id: u64,
    /// Unix seconds; `iat` of the access token.
    pub issued_at: u64,
    /// Unix seconds; `exp` of the access token.
    pub expires_at: u64,
    /// The new refresh token.
    pub refresh_token: &'a str,
    /// Seconds from the database's now.
    pub refresh_token_lifetime: u64,
    /// The parent's family.
    pub family: Option<&'a str>,
    /// `{"user_agent":"…"}`.
    pub metadata: &'a str,
    /// As WordPress would store it.
    pub user_agent: &'a str,
    /// The client's address.
    pub ip_address: &'a str,
}

/// What became of a commit whose answer was lost.
pub enum Resolution {
    /// Our child is there: it was committed.
    Committed,
    /// The parent is as it was: it was not.
    NotCommitted,
    /// The parent is revoked and our child is not there: someone else came first.
    Superseded,
}

impl Store {
    /// SECURITY: `table_prefix` is pasted into SQL; `installation()` lets only `[A-Za-z0-9_]` pass.
    pub fn new(database: Database, table_prefix: &str) -> Self {
        let tokens = format!("`{table_prefix}jwt_auth_tokens`");
        let users = format!("`{table_prefix}users`");
        Store {
            database,
            // A live row before others: tokens of old plugin versions may not be unique.
            find: format!(
                "SELECT id FROM {tokens} WHERE refresh_token_hash = ? ORDER BY revoked_at IS NULL DESC, id DESC LIMIT 1"
            ),
            // The column's own collation compares, as for the plugin; the database's clock decides.
            lock: format!(
                "SELECT COALESCE(refresh_token_hash = ?, 0), revoked_at IS NOT NULL, \
                 COALESCE(refresh_token_expires_at <= UTC_TIMESTAMP(), 1), user_id, token_family \
                 FROM {tokens} WHERE id = ? FOR UPDATE"
            ),
            // Not joined to the statement above: FOR UPDATE would lock the user's row, and with it a password change, too.
            user: format!("SELECT user_email, user_nicename, display_name FROM {users} WHERE ID = ?"),
            // FROM_UNIXTIME ends in 2038 on older servers; the sum does not.
            insert: format!(
                "INSERT INTO {tokens} (hash, user_id, issued_at, expires_at, refresh_token_hash, \
                 refresh_token_expires_at, token_family, metadata, user_agent, ip_address, blog_id) VALUES \
                 (?, ?, '1970-01-01' + INTERVAL ? SECOND, '1970-01-01' + INTERVAL ? SECOND, ?, \
                 UTC_TIMESTAMP() + INTERVAL ? SECOND, ?, ?, ?, ?, 1)"
            ),
            // Without "AND revoked_at IS NULL": the optimizer would go through revoked_at_idx, secondary index before primary,
            // and deadlock with the plugin's own statements. The row is locked, and its state known.
            revoke: format!("UPDATE {tokens} SET revoked_at = UTC_TIMESTAMP() WHERE id = ?"),
            look: format!("SELECT revoked_at IS NOT NULL FROM {tokens} WHERE id = ? FOR UPDATE"),
            child: format!("SELECT id FROM {tokens} WHERE user_id = ? AND refresh_token_hash = ?"),
        }
    }

    /// The id of the row that holds `token`, outside any transaction.
    ///
    /// # Errors
    /// The database's.
    pub async fn find(&self, session: &mut Session<'_>, token: &str) -> Result<Option<u64>, DatabaseError> {
        let row: Option<Row> = session.conn().exec_first(&self.find, (token,)).await?;
        row.map(|mut row| column(&mut row, 0, "id")).transpose()
    }

    /// Opens the transaction.
    ///
    /// # Errors
    /// The database's.
    pub async fn begin(&self, session: &mut Session<'_>) -> Result<(), DatabaseError> {
        Ok(session.conn().query_drop("START TRANSACTION").await?)
    }

    /// Locks row `id` and reads it and its user. `None`: there is no such row (any more).
    ///
    /// # Errors
    /// The database's.
    pub async fn lock(&self, session: &mut Session<'_>, id: u64, token: &str) -> Result<Option<Parent>, DatabaseError> {
        let conn = session.conn();
        let Some(mut row) = conn.exec_first::<Row, _, _>(&self.lock, (token, id)).await? else { return Ok(None) };
        let user_id = column(&mut row, 3, "user_id")?;
        let family: Option<Vec<u8>> = column(&mut row, 4, "token_family")?;
        let user = self.user(conn, user_id).await?;
        let snapshot = RowSnapshot {
            token_matches: column(&mut row, 0, "refresh_token_hash")?,
            revoked: column(&mut row, 1, "revoked_at")?,
            expired: column(&mut row, 2, "refresh_token_expires_at")?,
            user_exists: user.is_some(),
        };
        Ok(Some(Parent { snapshot, user_id, family: family.map(|family| text(&family)), user }))
    }

    async fn user(&self, conn: &mut Conn, user_id: u64) -> Result<Option<User>, DatabaseError> {
        let Some(mut row) = conn.exec_first::<Row, _, _>(&self.user, (user_id,)).await? else { return Ok(None) };
        let mut field = |index, name| column::<Vec<u8>>(&mut row, index, name).map(|bytes| text(&bytes));
        Ok(Some(User {
            id: user_id,
            email: field(0, "user_email")?,
            nicename: field(1, "user_nicename")?,
            display_name: field(2, "display_name")?,
        }))
    }

    /// Adds `child` and revokes row `parent`, in the transaction that [`Store::begin`] opened. Returns the child's id.
    ///
    /// # Errors
    /// The database's.
    pub async fn rotate(
        &self,
        session: &mut Session<'_>,
        parent: u64,
        child: &Child<'_>,
    ) -> Result<Option<u64>, DatabaseError> {
        let conn = session.conn();
        let values: Vec<Value> = vec![
            child.hash.into(),
            child.user_id.into(),
            child.issued_at.into(),
            child.expires_at.into(),
            child.refresh_token.into(),
            child.refresh_token_lifetime.into(),
            child.family.into(),
            child.metadata.into(),
            child.user_agent.into(),
            child.ip_address.into(),
        ];
        conn.exec_drop(&self.insert, values).await?;
        let id = conn.last_insert_id();
        conn.exec_drop(&self.revoke, (parent,)).await?;
        Ok(id)
    }

    /// Ends the transaction.
    ///
    /// # Errors
    /// The database's. Without the server's word (a lost connection, a time limit) the outcome is unknown: see [`Store::resolve`].
    pub async fn commit(&self, session: &mut Session<'_>) -> Result<(), DatabaseError> {
        Ok(session.conn().query_drop("COMMIT").await?)
    }

    /// Undoes the transaction. Always needed after an error: 1205 rolls back only its statement.
    ///
    /// # Errors
    /// The database's; the session is then to be dropped.
    pub async fn rollback(&self, session: &mut Session<'_>) -> Result<(), DatabaseError> {
        Ok(session.conn().query_drop("ROLLBACK").await?)
    }

    /// Finds out what became of a commit whose answer was lost with connection `lost`. Locking the parent waits for the
    /// transaction of the old connection; where that does not let go, it is killed.
    ///
    /// # Errors
    /// The database's; 1205 when the old connection still held the row, which is then killed and worth another try.
    pub async fn resolve(
        &self,
        session: &mut Session<'_>,
        lost: u32,
        parent: u64,
        user_id: u64,
        refresh_token: &str,
    ) -> Result<Resolution, DatabaseError> {
        let conn = session.conn();
        conn.query_drop("START TRANSACTION").await?;
        let row = match conn.exec_first::<Row, _, _>(&self.look, (parent,)).await {
            Ok(row) => row,
            Err(error) => {
                // Its own threads a user may always kill. 1094: it has ended by itself.
                conn.query_drop("ROLLBACK").await?;
                let _ = conn.query_drop(format!("KILL {lost}")).await;
                return Err(error.into());
            }
        };
        let revoked = row.map(|mut row| column::<bool>(&mut row, 0, "revoked_at")).transpose()?;
        let child: Option<Row> = conn.exec_first(&self.child, (user_id, refresh_token)).await?;
        conn.query_drop("ROLLBACK").await?;
        Ok(match (child, revoked) {
            (Some(_), _) => Resolution::Committed,
            (None, Some(false)) => Resolution::NotCommitted,
            (None, _) => Resolution::Superseded,
        })
    }
}

/// The connection speaks utf8mb4, so this loses nothing; should a server do otherwise, it must not cost the session.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
