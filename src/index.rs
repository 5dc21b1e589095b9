//! `wp-jwt-sidecar index`: shows, adds and removes an index on the token column, which the plugin's
//! table lacks.
//!
//! The sidecar does not need it (see [`crate::refresh::live_tokens`]), but PHP reads the whole
//! table for every refresh without it. The table stays readable and writable while the index is
//! built (`ALGORITHM=INPLACE, LOCK=NONE`); if the server cannot do that, nothing is changed. Only
//! an index with this program's own name is ever removed.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use mysql_async::Row;

use crate::wordpress::database::{Conn, Database, DatabaseError, column};

/// The name of the index.
pub const NAME: &str = "wp_jwt_sidecar_refresh_token";

/// How many characters of a token are indexed: twice the length of a token. A whole column of 255
/// would not fit the old row formats.
const CHARACTERS: u32 = 64;

/// How long an ALTER waits for a transaction that holds the table. While it waits, all other
/// statements on the table wait behind it.
const LOCK_WAIT_SECONDS: u32 = 5;

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_secs(1);

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Report the indexes and what adding one would do.
    Show,
    Apply,
    Drop,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Connecting failed, or the table is not as expected.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The server refused a statement. Its message is shown: it contains no value of a row.
    #[error("the database refused: {0}")]
    Refused(mysql_async::Error),
    /// The output is closed.
    #[error("cannot write")]
    Output(#[from] io::Error),
    #[error("there is no table {0}")]
    NoTable(String),
}

impl From<mysql_async::Error> for IndexError {
    fn from(error: mysql_async::Error) -> Self {
        match error {
            error @ mysql_async::Error::Server(_) => IndexError::Refused(error),
            error => IndexError::Database(error.into()),
        }
    }
}

/// Performs `action` on the token table and reports to `out`.
///
/// # Errors
/// See [`IndexError`].
pub async fn run(
    database: &Database,
    table_prefix: &str,
    action: Action,
    out: &mut impl Write,
) -> Result<(), IndexError> {
    let table = format!("{table_prefix}jwt_auth_tokens");
    let mut session = database.session().await?;
    let conn = session.conn();
    let indexes = indexes(conn, &table).await?;
    match action {
        Action::Show => show(conn, &table, &indexes, out).await,
        Action::Apply if !indexes.is_empty() => {
            Ok(writeln!(out, "nothing to do: there is an index on refresh_token_hash: {}", indexes.join(", "))?)
        }
        Action::Apply => {
            writeln!(out, "{}", add(&table))?;
            alter(database, conn, &add(&table), out).await
        }
        Action::Drop if indexes.iter().any(|index| index == NAME) => {
            let statement = format!("ALTER TABLE `{table}` DROP INDEX {NAME}, ALGORITHM=INPLACE, LOCK=NONE");
            writeln!(out, "{statement}")?;
            alter(database, conn, &statement, out).await
        }
        Action::Drop if indexes.is_empty() => {
            Ok(writeln!(out, "nothing to do: there is no index on refresh_token_hash")?)
        }
        Action::Drop => Ok(writeln!(
            out,
            "nothing done: the index on refresh_token_hash is not this program's: {}",
            indexes.join(", ")
        )?),
    }
}

fn add(table: &str) -> String {
    format!("ALTER TABLE `{table}` ADD INDEX {NAME} (refresh_token_hash({CHARACTERS})), ALGORITHM=INPLACE, LOCK=NONE")
}

/// The names of the indexes of the token table `table` whose first column is the token.
///
/// # Errors
/// The database's.
pub async fn indexes(conn: &mut Conn, table: &str) -> Result<Vec<String>, IndexError> {
    let rows: Vec<Row> = conn
        .exec(
            "SELECT INDEX_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? \
             AND COLUMN_NAME = 'refresh_token_hash' AND SEQ_IN_INDEX = 1 AND INDEX_TYPE = 'BTREE'",
            (table,),
        )
        .await?;
    Ok(rows.into_iter().map(|mut row| column(&mut row, 0, "INDEX_NAME")).collect::<Result<_, _>>()?)
}

async fn show(conn: &mut Conn, table: &str, indexes: &[String], out: &mut impl Write) -> Result<(), IndexError> {
    let size: Option<Row> = conn
        .exec_first(
            "SELECT COALESCE(DATA_LENGTH + INDEX_LENGTH, 0) FROM information_schema.TABLES \
             WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?",
            (table,),
        )
        .await?;
    let Some(mut size) = size else { return Err(IndexError::NoTable(table.to_owned())) };
    let size: u64 = column(&mut size, 0, "DATA_LENGTH")?;
    let counts: Option<Row> = conn
        .query_first(format!(
            "SELECT COUNT(*), COUNT(IF(revoked_at IS NULL AND refresh_token_expires_at > UTC_TIMESTAMP(), 1, NULL)) \
             FROM `{table}`"
        ))
        .await?;
    let mut counts = counts.ok_or(DatabaseError::Column("COUNT(*)"))?;
    let (rows, live): (u64, u64) = (column(&mut counts, 0, "COUNT(*)")?, column(&mut counts, 1, "COUNT(*)")?);
    // No row has this value, so the look-up reads as much as any can.
    let began = Instant::now();
    conn.query_drop(format!("SELECT id FROM `{table}` WHERE refresh_token_hash = 'no such token'")).await?;
    let took = began.elapsed();
    writeln!(out, "table {table}: {rows} rows, {live} of them live, {} MB", size.div_ceil(1 << 20))?;
    writeln!(out, "looking up a token takes {:.1} ms", took.as_secs_f64() * 1e3)?;
    if indexes.is_empty() {
        writeln!(
            out,
            "index on refresh_token_hash: none; WordPress reads the whole table for every refresh that it answers"
        )?;
        writeln!(out, "--apply would run, with the table in use meanwhile:\n  {}", add(table))?;
        // The token, the row's id, and what InnoDB adds to a record and leaves free in a page.
        writeln!(out, "it would take about {} MB", (rows * 90).div_ceil(1 << 20))?;
    } else {
        writeln!(out, "index on refresh_token_hash: {}", indexes.join(", "))?;
    }
    Ok(())
}

/// Runs `statement` and shows its progress.
async fn alter(database: &Database, conn: &mut Conn, statement: &str, out: &mut impl Write) -> Result<(), IndexError> {
    conn.query_drop(format!(
        "SET SESSION lock_wait_timeout = {LOCK_WAIT_SECONDS}, innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS}"
    ))
    .await?;
    let connection = conn.id();
    let began = Instant::now();
    let mut altering = std::pin::pin!(conn.query_drop(statement));
    loop {
        tokio::select! {
            done = &mut altering => {
                done?;
                writeln!(out, "done in {:.1} s", began.elapsed().as_secs_f64())?;
                return Ok(());
            }
            () = tokio::time::sleep(PROGRESS) => {
                let progress = progress(database, connection).await.unwrap_or_default();
                writeln!(out, "{:.0} s{progress}", began.elapsed().as_secs_f64())?;
            }
        }
    }
}

/// The progress of the statement on `connection`, if the server reports it (MariaDB does).
async fn progress(database: &Database, connection: u32) -> Result<String, DatabaseError> {
    let mut session = database.session().await?;
    let row: Option<Row> = session
        .conn()
        .exec_first("SELECT STAGE, MAX_STAGE, PROGRESS FROM information_schema.PROCESSLIST WHERE ID = ?", (connection,))
        .await?;
    session.give_back();
    let Some(mut row) = row else { return Ok(String::new()) };
    let (stage, of): (u64, u64) = (column(&mut row, 0, "STAGE")?, column(&mut row, 1, "MAX_STAGE")?);
    let percent: f64 = column::<String>(&mut row, 2, "PROGRESS")?.parse().unwrap_or_default();
    Ok(format!(", stage {stage} of {of}, {percent:.0} %"))
}
