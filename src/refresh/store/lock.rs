//! Locks the rows of a group, and reads them with their users and the values declared for those.
//!
//! The statement has two forms. One joins all meta rows of each user, and returns those with a
//! declared key. The other joins the meta rows that [`UserCache`](crate::refresh::user_cache)
//! remembers, each by its id.

use std::collections::HashSet;

use mysql_async::{Row, Value};

use super::statements::{self, Statements};
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

/// With more declared keys, joining all rows is faster: two values of users with 15 take 17.6 µs by
/// all rows and 9.2 by their ids, six 19.2 and 16.6, ten 21.3 and 24.1 (MariaDB 10.11.19,
/// groups of 40).
const MOST_KEYS: usize = 8;

/// The statements, by what happens to rows that another transaction holds.
pub struct Lock {
    patient: Forms,
    waiting: Forms,
    free: Forms,
    free_mariadb: Forms,
}

/// One statement in its two forms.
struct Forms {
    all_meta: Statements,
    /// `None` if no meta is read, or if all is as fast. Only for groups: it takes memory, of the
    /// server, too.
    by_row: Option<Statements>,
}

impl Lock {
    /// The statements for the table `tokens`, quoted.
    pub fn new(tokens: &str, users: &UserColumns) -> Self {
        let single = |clause: &str| Forms::single(tokens, users, "", clause);
        let group = |before: &str| Forms::group(tokens, users, before, "FOR UPDATE SKIP LOCKED");
        Lock {
            patient: single("FOR UPDATE"),
            waiting: single(&format!("FOR UPDATE WAIT {LOCK_WAIT_SECONDS}")),
            free: group(""),
            // With a lock wait of 0, MariaDB (10.11.19) skips a row, but then reports an error at
            // the statement's end and rolls the transaction back (1180). The statement never waits.
            free_mariadb: group("SET STATEMENT innodb_lock_wait_timeout = 1 FOR "),
        }
    }

    /// The statement for one row that waits as long as the server's setting says.
    pub fn smallest(&self) -> &SqlText {
        self.patient.all_meta.smallest()
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
    fn single(tokens: &str, users: &UserColumns, before: &str, clause: &str) -> Self {
        let meta = users.meta_list().map_or_else(String::new, |list| format!(", {list}"));
        let (list, from) = (users.list(), locked_from(tokens, users));
        let head = format!("{before}SELECT {TOKEN}, {list}{meta} {from}{} WHERE t.id IN (", users.joined_meta());
        Forms { all_meta: Statements::of_ids(&head, &format!(") {clause}")), by_row: None }
    }

    fn group(tokens: &str, users: &UserColumns, before: &str, clause: &str) -> Self {
        let (list, rows, from) = (users.list(), users.rows_list(), locked_from(tokens, users));
        let text = |count| {
            let (joined, ids) = (users.joined_rows(count), statements::list("?", count));
            format!("{before}SELECT {TOKEN}, {list}{rows} {from}{joined} WHERE t.id IN ({ids}) {clause}")
        };
        let by_row = (1..=MOST_KEYS).contains(&users.key_count()).then(|| Statements::of_id_counts(text));
        Forms { by_row, ..Forms::single(tokens, users, before, clause) }
    }
}

/// The tokens `t` and their users `u`.
fn locked_from(tokens: &str, users: &UserColumns) -> String {
    // Without the hint, a small table is scanned and completely locked.
    format!("FROM {tokens} t FORCE INDEX (PRIMARY) {}", users.joined_to("user_id"))
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
            && let Some(locked) = self.lock_by_row(session, statements, rows, &meta_rows).await?
        {
            return Ok(locked);
        }
        let ids: Vec<u64> = rows.iter().map(|row| row.id).collect();
        let (text, values) = forms.all_meta.padded(&ids);
        let statement = session.prepared(text).await?;
        let rows = session.conn().exec(statement, values).await?;
        self.with_all_meta(rows, forms.by_row.is_some())
    }

    /// With the meta rows `meta_rows`; `None` if one was deleted, or has another key or user.
    async fn lock_by_row(
        &self,
        session: &mut Session<'_>,
        statements: &Statements,
        rows: &[RowRef],
        meta_rows: &[u64],
    ) -> Result<Option<Vec<LockedRow>>, DatabaseError> {
        let (count, text) = statements.fitting(rows.len());
        let statement = session.prepared(text).await?;
        let found: Vec<Row> = session.conn().exec(statement, values(rows, meta_rows, count)).await?;
        let first = TOKEN_COLUMNS + self.user_columns.count();
        let mut locked = Vec::with_capacity(found.len());
        for mut row in found {
            let id = column(&mut row, 0, "id")?;
            let mut of_row = self.locked_row(id, &mut row)?;
            if let Some(user) = &mut of_row.user
                && !self.user_columns.add_rows(user, &mut row, first)?
            {
                return Ok(None);
            }
            locked.push(of_row);
        }
        Ok(Some(locked))
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
            self.user_columns.add_meta(user, &meta);
        }
        Ok(user)
    }

    /// `remembers`: the next statement can read the meta values by their rows.
    fn with_all_meta(&self, mut rows: Vec<Row>, remembers: bool) -> Result<Vec<LockedRow>, DatabaseError> {
        let meta = self.meta(&mut rows, TOKEN_COLUMNS + self.user_columns.count())?;
        let (mut locked, mut seen) = (Vec::<LockedRow>::new(), HashSet::new());
        // A row is repeated for each meta value of its user.
        for row in &mut rows {
            let id = column(row, 0, "id")?;
            if seen.insert(id) {
                locked.push(self.locked_row(id, row)?);
            }
        }
        for user in locked.iter_mut().filter_map(|row| row.user.as_mut()) {
            let rows = self.user_columns.add_meta(user, &meta);
            if remembers {
                self.user_cache.note_meta_rows(user.id, rows);
            }
        }
        Ok(locked)
    }

    /// The meta values of `rows`, sorted.
    fn meta(&self, rows: &mut [Row], first: usize) -> Result<Vec<Meta>, DatabaseError> {
        let found = rows.iter_mut().filter_map(|row| self.user_columns.meta(row, first).transpose());
        let mut found = found.collect::<Result<Vec<_>, _>>()?;
        found.sort_unstable();
        Ok(found)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_paired_with_the_meta_of_its_user() {
        let rows = [5, 9].map(|id| RowRef::found(id, None));
        let expected = [5, 50, 9, 90, 9, 90, 5, 51, 9, 91, 9, 91, 5, 9, 9].map(|id: u64| Value::from(id));
        assert_eq!(values(&rows, &[50, 51, 90, 91], 3), expected);
    }
}
