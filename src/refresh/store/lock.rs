//! Locks the rows of a group, and reads them with their users and the values declared for those.
//!
//! The statement has two forms. One joins all meta rows of each user, and returns those with a
//! declared key. The other joins the meta rows that [`UserCache`](crate::refresh::user_cache)
//! remembers, each by its id. For two of 15 values, MariaDB 10.11.19 takes 15.6 µs in the first form
//! and 6.3 in the second (groups of 16). A UNION with a read of these rows took 7.7.

use std::collections::HashSet;

use mysql_async::{Row, Value};
use tracing::debug;

use super::statements::{Statements, list};
use super::times::unix_seconds;
use super::user::{Meta, UserColumns, text};
use super::{LARGEST_GROUP, Store};
use crate::declared::User;
use crate::refresh::row_cache::RowRef;
use crate::wordpress::database::{DatabaseError, LOCK_WAIT_SECONDS, Session, SqlText, column};

/// The columns of a token's row, and their number.
const TOKEN: &str = "t.id, refresh_token_hash, revoked_at IS NOT NULL, \
                     TIMESTAMPDIFF(SECOND, revoked_at, UTC_TIMESTAMP()), \
                     COALESCE(refresh_token_expires_at <= UTC_TIMESTAMP(), 1), user_id, token_family, \
                     hash, issued_at, expires_at";
const TOKEN_COLUMNS: usize = 10;

/// A row of the token table under its lock.
pub struct LockedRow {
    /// `id`
    pub id: u64,
    /// `refresh_token_hash`: the token itself.
    pub token: Option<Vec<u8>>,
    /// `revoked_at` is set.
    pub revoked: bool,
    /// Seconds since `revoked_at`, by the database's clock.
    pub revoked_for: Option<i64>,
    /// `refresh_token_expires_at` is not in the future, or not set.
    pub expired: bool,
    /// `user_id`
    pub user_id: u64,
    /// `token_family`; `None` is NULL.
    pub family: Option<String>,
    /// `wp_hash` of the access token.
    pub hash: Vec<u8>,
    /// `iat` of the access token in Unix seconds; `None` if the column contains no time.
    pub issued_at: Option<u64>,
    /// `exp` of the access token, likewise.
    pub expires_at: Option<u64>,
    /// The user, if it (still) exists.
    pub user: Option<User>,
}

/// The statements, by what happens to rows that another transaction holds.
pub struct Lock {
    patient: Forms,
    waiting: Forms,
    free: Forms,
    free_mariadb: Forms,
}

/// One statement in its two forms.
struct Forms {
    joined: Statements,
    /// `None` if no meta is read.
    by_row: Option<Statements>,
}

impl Lock {
    /// The statements for the table `tokens`, quoted.
    pub fn new(tokens: &str, users: &UserColumns) -> Self {
        let forms = |before: &str, clause: &str| Forms::new(tokens, users, before, clause);
        Lock {
            patient: forms("", "FOR UPDATE"),
            waiting: forms("", &format!("FOR UPDATE WAIT {LOCK_WAIT_SECONDS}")),
            free: forms("", "FOR UPDATE SKIP LOCKED"),
            // With a lock wait of 0, MariaDB (10.11.19) skips a row, but then reports an error at
            // the statement's end and rolls the transaction back (1180). The statement never waits.
            free_mariadb: forms("SET STATEMENT innodb_lock_wait_timeout = 1 FOR ", "FOR UPDATE SKIP LOCKED"),
        }
    }

    /// The statement for one row that waits as long as the server's setting says.
    pub fn smallest(&self) -> &SqlText {
        self.patient.joined.smallest()
    }

    fn forms(&self, session: &Session<'_>, skip_locked: bool) -> &Forms {
        let abilities = session.abilities();
        match skip_locked {
            true if abilities.set_statement => &self.free_mariadb,
            true => &self.free,
            false if abilities.no_wait => &self.waiting,
            false => &self.patient,
        }
    }
}

impl Forms {
    fn new(tokens: &str, users: &UserColumns, before: &str, clause: &str) -> Self {
        let (user, joined_user) = (users.list(), users.joined_to("user_id"));
        let meta = users.meta_list().map_or_else(String::new, |list| format!(", {list}"));
        // Without the hint, a small table is scanned and completely locked.
        let from = format!("FROM {tokens} t FORCE INDEX (PRIMARY) {joined_user}");
        let joined = format!("{before}SELECT {TOKEN}, {user}{meta} {from}{} WHERE t.id IN (", users.joined_meta());
        let by_row = |count| {
            let (rows, joined) = (users.rows_list(), users.joined_rows(count));
            format!("{before}SELECT {TOKEN}, {user}{rows} {from}{joined} WHERE t.id IN ({}) {clause}", list("?", count))
        };
        Forms {
            joined: Statements::of_ids(&joined, &format!(") {clause}")),
            by_row: users.usermeta().map(|_| Statements::of_id_counts(by_row)),
        }
    }
}

impl Store {
    /// Locks `rows` (ascending, none twice, at most [`LARGEST_GROUP`]) and reads them with their
    /// users. Missing rows are left out. With `skip_locked` (if [the server
    /// can](Session::abilities)), rows that another transaction holds are left out, too; otherwise
    /// they are waited for.
    ///
    /// # Errors
    /// The database's.
    pub async fn lock(
        &self,
        session: &mut Session<'_>,
        rows: &[RowRef],
        skip_locked: bool,
    ) -> Result<Vec<LockedRow>, DatabaseError> {
        debug_assert!(rows.len() <= LARGEST_GROUP);
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let forms = self.lock.forms(session, skip_locked);
        if let Some(statements) = &forms.by_row
            && let Some(meta_rows) = self.user_cache.meta_rows(rows.iter().map(|row| row.user_id))
        {
            let (count, text) = statements.fitting(rows.len());
            match session.prepared(text).await {
                Ok(statement) => {
                    let values = values(rows, &meta_rows, count);
                    let rows = session.conn().exec(statement, values).await?;
                    return self.with_remembered_meta(session, rows).await;
                }
                Err(error) if error.code().is_some() => {
                    debug!(%error, "the server refuses to read meta values by their rows: they are joined");
                    self.user_cache.give_up_meta_rows();
                }
                Err(error) => return Err(error),
            }
        }
        let ids: Vec<u64> = rows.iter().map(|row| row.id).collect();
        let (text, values) = forms.joined.padded(&ids);
        let statement = session.prepared(text).await?;
        let rows = session.conn().exec(statement, values).await?;
        self.with_joined_meta(rows)
    }

    /// The user `id`, if it exists.
    ///
    /// # Errors
    /// The database's.
    pub async fn user(&self, session: &mut Session<'_>, id: u64) -> Result<Option<User>, DatabaseError> {
        let mut rows: Vec<Row> = session.conn().exec(&self.user, (id,)).await?;
        let Some(row) = rows.first_mut() else { return Ok(None) };
        let mut user = self.user_columns.user(row, 0)?;
        let meta = self.meta(&mut rows, self.user_columns.count())?;
        if let Some(user) = &mut user {
            self.add_meta(user, &meta);
        }
        Ok(user)
    }

    fn with_joined_meta(&self, mut rows: Vec<Row>) -> Result<Vec<LockedRow>, DatabaseError> {
        let meta = self.meta(&mut rows, TOKEN_COLUMNS + self.user_columns.count())?;
        let (mut locked, mut seen) = (Vec::new(), HashSet::new());
        // A row is repeated for each meta value of its user.
        for row in &mut rows {
            let id = column(row, 0, "id")?;
            if seen.insert(id) {
                locked.push(self.locked_row(id, row)?);
            }
        }
        for user in locked.iter_mut().filter_map(|row: &mut LockedRow| row.user.as_mut()) {
            self.add_meta(user, &meta);
        }
        Ok(locked)
    }

    async fn with_remembered_meta(
        &self,
        session: &mut Session<'_>,
        rows: Vec<Row>,
    ) -> Result<Vec<LockedRow>, DatabaseError> {
        let first = TOKEN_COLUMNS + self.user_columns.count();
        let mut locked = Vec::with_capacity(rows.len());
        for mut row in rows {
            let id = column(&mut row, 0, "id")?;
            let mut of_row = self.locked_row(id, &mut row)?;
            if let Some(user) = &mut of_row.user
                && !self.user_columns.add_rows(user, &mut row, first)?
            {
                // A row was deleted, or has another key or user.
                of_row.user = self.user(session, user.id).await?;
            }
            locked.push(of_row);
        }
        Ok(locked)
    }

    /// Adds what was read of all meta values of `user`.
    fn add_meta(&self, user: &mut User, meta: &[Meta]) {
        let rows = self.user_columns.add_meta(user, meta);
        self.user_cache.note_meta_rows(user.id, rows);
    }

    fn meta(&self, rows: &mut [Row], first: usize) -> Result<Vec<Meta>, DatabaseError> {
        rows.iter_mut().filter_map(|row| self.user_columns.meta(row, first).transpose()).collect()
    }

    fn locked_row(&self, id: u64, row: &mut Row) -> Result<LockedRow, DatabaseError> {
        let family: Option<Vec<u8>> = column(row, 6, "token_family")?;
        Ok(LockedRow {
            id,
            token: column(row, 1, "refresh_token_hash")?,
            revoked: column(row, 2, "revoked_at")?,
            revoked_for: column(row, 3, "revoked_at")?,
            expired: column(row, 4, "refresh_token_expires_at")?,
            user_id: column(row, 5, "user_id")?,
            family: family.map(|family| text(&family)),
            hash: column(row, 7, "hash")?,
            issued_at: unix_seconds(&column(row, 8, "issued_at")?),
            expires_at: unix_seconds(&column(row, 9, "expires_at")?),
            user: self.user_columns.user(row, TOKEN_COLUMNS)?,
        })
    }
}

/// The parameters of the form that reads meta rows, for `count` rows, of which the last is repeated.
/// `rows` is not empty.
fn values(rows: &[RowRef], meta_rows: &[u64], count: usize) -> Vec<Value> {
    let keys = meta_rows.len() / rows.len();
    let places = || (0..count).map(|place| place.min(rows.len() - 1));
    let pairs =
        (0..keys).flat_map(|key| places().flat_map(move |place| [rows[place].id, meta_rows[place * keys + key]]));
    pairs.chain(places().map(|place| rows[place].id)).map(Value::from).collect()
}
