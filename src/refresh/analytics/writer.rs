//! Writes the queue in batches, as long as the sidecar runs.
//!
//! A batch is one transaction: all its rows or none. One invalid row fails the batch; its rows are
//! then written one by one. While the database is down the batch waits, and the queue fills behind
//! it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mysql_async::Value;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Dropped, Events, Paths, Queued, Row, Table, row};
use crate::refresh::country::Countries;
use crate::wordpress::database::{Database, DatabaseError, Session};

/// Rows per transaction. More gain little and hold their foreign keys' locks longer.
const BATCH: usize = 256;

/// How long a row waits for others. A shared commit matters: each costs a flush to disk, which
/// rotations need, too.
const GATHER: Duration = Duration::from_millis(50);

/// The rows per statement: few sizes, so that few prepared statements take up a connection's cache.
const STATEMENT_ROWS: [usize; 5] = [256, 64, 16, 4, 1];

/// The pause while the database is down; it doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A longer transaction has met a lock that is never released, or a server that does not respond.
const TRANSACTION_LIMIT: Duration = Duration::from_secs(10);

/// How long after `stop` to wait for a database that is down.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// Writes events until `stop`, then what is left in the queue. Returns when the queue is empty or,
/// with the database away, 5 seconds later.
///
/// `first` is the table of nearly all rows.
///
/// SECURITY: table prefixes become part of the SQL; `installation()` accepts only `[A-Za-z0-9_]`.
pub async fn write_behind(events: Events, database: Arc<Database>, first: Arc<Table>, stop: CancellationToken) {
    let Events { mut queue, dropped, refusals, mut countries, mut paths } = events;
    let mut writer = Writer { database, statements: Statements::new(first), dropped, stop, flush_until: None };
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let stopped = tokio::select! {
            biased;
            received = queue.recv_many(&mut batch, BATCH) => received == 0,
            () = writer.stop.cancelled() => {
                // Queued events can still be read; then `recv_many` returns 0.
                queue.close();
                false
            }
        };
        if stopped {
            break;
        }
        if batch.is_empty() {
            continue;
        }
        gather(&mut queue, &mut batch, &writer.stop).await;
        // Grouped by table, in the order of arrival.
        batch.sort_by_key(|queued| queued.table.blog_id);
        let tables: Vec<Arc<Table>> = batch.iter().map(|queued| Arc::clone(&queued.table)).collect();
        let rows = rows(&mut batch, &mut countries, &mut paths).await;
        let mut rest = rows.as_slice();
        for same in tables.chunk_by(|one, next| one == next) {
            let Some(((table, _), (rows, after))) = same.split_first().zip(rest.split_at_checked(same.len())) else {
                break;
            };
            writer.statements.turn_to(table);
            writer.write(rows).await;
            rest = after;
        }
    }
    writer.dropped.end();
    refusals.end();
}

/// Waits a moment for a batch to fill.
async fn gather(queue: &mut tokio::sync::mpsc::Receiver<Queued>, batch: &mut Vec<Queued>, stop: &CancellationToken) {
    let until = Instant::now() + GATHER;
    while batch.len() < BATCH && !stop.is_cancelled() {
        tokio::select! {
            received = timeout_at(until, queue.recv_many(batch, BATCH - batch.len())) => match received {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            },
            () = stop.cancelled() => return,
        }
    }
}

async fn rows(batch: &mut Vec<Queued>, countries: &mut Countries, paths: &mut Paths) -> Vec<Row> {
    if let Some(queued) = batch.first() {
        countries.look(&queued.event.plugin).await;
    }
    batch.drain(..).map(|queued| row(queued, countries, paths)).collect()
}

struct Writer {
    database: Arc<Database>,
    statements: Statements,
    dropped: Arc<Dropped>,
    stop: CancellationToken,
    /// Set at the first failure after `stop`.
    flush_until: Option<Instant>,
}

/// Why rows cannot be written.
enum Refused {
    /// A user or a token that a row refers to is gone.
    ForeignKey(DatabaseError),
    /// A row does not fit the table.
    Row(DatabaseError),
    /// No row will fit, or the database stayed down until the end; or the commit's result was lost,
    /// and another attempt could write the rows twice.
    All(DatabaseError),
}

impl Writer {
    /// Writes rows; drops and counts those that cannot be written.
    async fn write(&mut self, rows: &[Row]) {
        match self.insert_patiently(rows).await {
            Ok(()) => {}
            Err(Refused::All(error)) => self.dropped.add(rows.len(), &error),
            Err(Refused::ForeignKey(_) | Refused::Row(_)) => {
                for row in rows {
                    self.write_alone(row).await;
                }
            }
        }
    }

    /// Writes one row, without references to what is gone: its foreign keys are ON DELETE SET NULL,
    /// so NULL is what the column would contain if the row had been written a moment earlier.
    async fn write_alone(&mut self, row: &Row) {
        let mut refused = None;
        for (user_id, token_id) in
            [(row.user_id, row.token_id), (row.user_id, None), (None, row.token_id), (None, None)]
        {
            let row = Row { user_id, token_id, ..row.clone() };
            match self.insert_patiently(std::slice::from_ref(&row)).await {
                Ok(()) => return,
                Err(Refused::ForeignKey(error)) => refused = Some(error),
                Err(Refused::Row(error) | Refused::All(error)) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        if let Some(error) = refused {
            self.dropped.add(1, &error);
        }
    }

    /// Writes all rows or none; waits for a database that is down.
    async fn insert_patiently(&mut self, rows: &[Row]) -> Result<(), Refused> {
        let mut pause = FIRST_PAUSE;
        let mut is_away = false;
        loop {
            let error = match self.insert(rows, is_away).await {
                Ok(()) => {
                    if is_away {
                        info!("analytics rows are written again");
                    }
                    return Ok(());
                }
                Err(Interrupted::InCommit(error)) => {
                    warn!(%error, rows = rows.len(), "whether these analytics rows were written is not known");
                    return Err(Refused::All(error));
                }
                Err(Interrupted::BeforeCommit(error)) => later(error)?,
            };
            self.database.heed(&error);
            if self.is_at_the_end() {
                return Err(Refused::All(error));
            }
            // Another transaction holds the row of a user or a token: no reason to log or to
            // reconnect.
            let is_held = matches!(error.code(), Some(1205 | 1213));
            if !is_away && !is_held {
                warn!(%error, "analytics rows wait for the database");
            }
            is_away |= !is_held;
            self.pause(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Whether the sidecar is stopping and has waited long enough.
    fn is_at_the_end(&mut self) -> bool {
        let now = Instant::now();
        self.stop.is_cancelled() && now >= *self.flush_until.get_or_insert(now + FLUSH_LIMIT)
    }

    /// Waits before another attempt, for a shorter time once the sidecar is stopping.
    async fn pause(&self, pause: Duration) {
        if self.stop.is_cancelled() {
            sleep(FIRST_PAUSE).await;
        } else {
            tokio::select! {
                () = sleep(pause) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    async fn insert(&self, rows: &[Row], is_away: bool) -> Result<(), Interrupted> {
        let mut session = if is_away { self.database.fresh_session().await } else { self.database.session().await }
            .map_err(Interrupted::BeforeCommit)?;
        // On an error the session is closed, and the server rolls back.
        match timeout(TRANSACTION_LIMIT, self.insert_all(&mut session, rows)).await {
            Ok(inserted) => inserted.map_err(Interrupted::BeforeCommit)?,
            Err(_) => return Err(Interrupted::BeforeCommit(DatabaseError::TimedOut)),
        }
        match timeout(TRANSACTION_LIMIT, session.conn().query_drop("COMMIT")).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = DatabaseError::from(error);
                return Err(if error.says_rolled_back() {
                    Interrupted::BeforeCommit(error)
                } else {
                    Interrupted::InCommit(error)
                });
            }
            Err(_) => return Err(Interrupted::InCommit(DatabaseError::TimedOut)),
        }
        session.give_back();
        Ok(())
    }

    async fn insert_all(&self, session: &mut Session<'_>, rows: &[Row]) -> Result<(), DatabaseError> {
        session.conn().query_drop("START TRANSACTION").await?;
        let mut rest = rows;
        for size in STATEMENT_ROWS {
            while let Some((chunk, after)) = rest.split_at_checked(size) {
                let values: Vec<Value> = chunk.iter().flat_map(values).collect();
                session.conn().exec_drop(self.statements.of(size), values).await?;
                rest = after;
            }
        }
        Ok(())
    }
}

enum Interrupted {
    BeforeCommit(DatabaseError),
    InCommit(DatabaseError),
}

/// Server errors that pass by themselves: a changed record, too many connections, a cluster that is
/// not ready, a shutdown, a failed commit, lock waits and deadlocks, an hourly quota, read-only,
/// interrupted or killed, group replication.
const PASSES: [u16; 14] = [1020, 1040, 1047, 1053, 1180, 1203, 1205, 1213, 1226, 1290, 1317, 1836, 1927, 3101];

/// Returns a temporary error for another attempt, otherwise why the rows are refused. Pure.
fn later(error: DatabaseError) -> Result<DatabaseError, Refused> {
    match error.code() {
        // A foreign key without its parent.
        Some(1216 | 1452) => Err(Refused::ForeignKey(error)),
        // NULL, range, length, charset, CHECK.
        Some(1048 | 1264 | 1265 | 1292 | 1366 | 1406 | 3819 | 3988 | 4025) => Err(Refused::Row(error)),
        // The connection was lost.
        None => Ok(error),
        Some(code) if PASSES.contains(&code) => Ok(error),
        // Missing tables, columns or privileges, a full disk, a trigger that refuses: the next rows
        // do not wait for it to pass.
        Some(_) => Err(Refused::All(error)),
    }
}

/// An `INSERT` for each number of rows, made when it is first needed.
struct Statements {
    table: Arc<Table>,
    made: [OnceLock<String>; STATEMENT_ROWS.len()],
}

/// The statement that adds one row to `table`.
pub fn insert(table: &Table) -> String {
    statement(table, 1)
}

impl Statements {
    fn new(table: Arc<Table>) -> Self {
        Statements { table, made: Default::default() }
    }

    fn turn_to(&mut self, table: &Arc<Table>) {
        if self.table != *table {
            *self = Statements::new(Arc::clone(table));
        }
    }

    /// For `size` rows, one of [`STATEMENT_ROWS`].
    fn of(&self, size: usize) -> &str {
        let made = STATEMENT_ROWS.iter().zip(&self.made).find(|(rows, _)| **rows == size);
        made.map_or("", |(rows, made)| made.get_or_init(|| statement(&self.table, *rows)))
    }
}

fn statement(table: &Table, rows: usize) -> String {
    let Table { prefix, blog_id } = table;
    let values =
        format!("('token_refresh', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {blog_id}, '1970-01-01' + INTERVAL ? SECOND)");
    let insert = format!(
        "INSERT INTO `{prefix}jwt_auth_analytics` (event_type, event_status, failure_reason, user_id, token_id, \
         token_family, ip_address, user_agent, country_code, request_path, request_method, response_time, blog_id, \
         event_timestamp) VALUES "
    );
    insert + &vec![values; rows].join(", ")
}

/// In the statement's order.
fn values(row: &Row) -> [Value; 12] {
    [
        row.event_status.into(),
        row.failure_reason.into(),
        row.user_id.into(),
        row.token_id.into(),
        row.token_family.as_deref().into(),
        row.ip_address.as_str().into(),
        row.user_agent.as_str().into(),
        row.country_code.as_str().into(),
        row.request_path.as_str().into(),
        row.request_method.as_str().into(),
        row.response_time.into(),
        row.event_timestamp.into(),
    ]
}
