//! Connections to the site's database.
//!
//! mysql_async's own pool is not used: it takes back a connection on drop whatever state it is in, and learns of an
//! open transaction only through its `Transaction`, whose rollback on drop comes late (its documentation says so), with
//! the row locks held until then. Here a connection goes back only when it is given back; dropped in any other way (an
//! error, a time limit, a cancelled task) it is closed, and the server rolls back.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Row};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::metrics::Counter;

/// Connections at most. Two are enough to keep a database busy with rotations; the others serve what waits for a lock.
const MAX_CONNECTIONS: usize = 16;

/// A connection that idled longer is not used again: firewalls and `wait_timeout` may have ended it unseen.
const MAX_IDLE: Duration = Duration::from_secs(30);

/// How long to wait for a connection, new or free.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// How long a rotation waits for a row that another transaction holds, before it takes its turn anew (seconds).
pub const LOCK_WAIT_SECONDS: u32 = 1;

/// What can go wrong with the database. No variant holds a bound value, so no token is in any message.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DatabaseError {
    /// No connection within the limit.
    #[error("no database connection within {CONNECT_LIMIT:?}")]
    NoConnection,
    /// The server cannot be reached or refuses us. Its text names user and host, never the password.
    #[error("cannot connect to the database: {0}")]
    Connect(String),
    /// A statement took longer than the rotation may take.
    #[error("the database did not answer in time")]
    TimedOut,
    /// The server or the connection failed. The server's own text is not kept: it can quote values.
    #[error("database error {}", .0.as_ref().map_or_else(|| "(connection lost)".to_owned(), |code| code.to_string()))]
    Failed(Option<u16>),
    /// A column holds what it should not.
    #[error("unexpected value in column {0}")]
    Column(&'static str),
}

impl DatabaseError {
    /// The server's error number, if it was the server that answered with an error.
    pub fn code(&self) -> Option<u16> {
        match self {
            DatabaseError::Failed(code) => *code,
            DatabaseError::NoConnection
            | DatabaseError::Connect(_)
            | DatabaseError::TimedOut
            | DatabaseError::Column(_) => None,
        }
    }
}

// SECURITY: "Duplicate entry '…'" and "Incorrect string value: '…'" quote values, and a value may be a token.
impl From<mysql_async::Error> for DatabaseError {
    fn from(error: mysql_async::Error) -> Self {
        match error {
            mysql_async::Error::Server(server) => DatabaseError::Failed(Some(server.code)),
            _ => DatabaseError::Failed(None),
        }
    }
}

/// Prepared statements kept for each connection: all that rotations of every group size use, and then some.
const STATEMENTS: usize = 96;

/// The site's database.
pub struct Database {
    opts: Opts,
    permits: Semaphore,
    idle: Mutex<Vec<Idle>>,
    /// Connections made.
    pub connected: Counter,
    /// Connections that could not be made, or were not free, in time.
    pub not_connected: Counter,
}

/// How many connections there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// In use.
    pub busy: usize,
    /// Waiting for use.
    pub idle: usize,
    /// In use at most.
    pub limit: usize,
}

/// What the server on the other end can do, and how it is set; read with each new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// `FOR UPDATE SKIP LOCKED`: MariaDB from 10.6, MySQL from 8.0.1.
    pub skip_locked: bool,
    /// `innodb_lock_wait_timeout` can be 0, and `FOR UPDATE WAIT n` says where to wait after all: MariaDB from 10.6. Then
    /// nothing of the sidecar's waits while it holds a lock, so that it has no part in any deadlock. That matters to the site:
    /// the server would rather undo the plugin's "revoke all tokens" than a rotation that has written already.
    pub no_wait: bool,
    /// The rows of one `INSERT … VALUES` get ids that follow each other without a gap. InnoDB promises that for inserts whose
    /// number of rows is known, in every `innodb_autoinc_lock_mode`, as long as ids grow by one (a Galera cluster's do not).
    pub consecutive_ids: bool,
}

/// Whether each statement is a transaction of its own, or the first after a COMMIT or ROLLBACK opens one. The second spares
/// a rotation the round trip of a START TRANSACTION.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Autocommit,
    Transactions,
}

struct Idle {
    conn: Conn,
    since: Instant,
    mode: Mode,
    abilities: Abilities,
}

impl Database {
    /// Connects when first asked.
    pub fn new(opts: OptsBuilder) -> Self {
        let opts = opts.prefer_socket(false).stmt_cache_size(STATEMENTS).setup(vec![
            // Column values are UTC, and so is all arithmetic.
            "SET time_zone = '+00:00'".to_owned(),
            "SET NAMES utf8mb4".to_owned(),
            // Too long a value is an error, never a silently cut one.
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'".to_owned(),
            format!("SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS}"),
        ]);
        Database {
            opts: opts.into(),
            permits: Semaphore::new(MAX_CONNECTIONS),
            idle: Mutex::new(Vec::new()),
            connected: Counter::default(),
            not_connected: Counter::default(),
        }
    }

    /// How many connections there are at this moment.
    pub fn pool(&self) -> Pool {
        let busy = MAX_CONNECTIONS - self.permits.available_permits().min(MAX_CONNECTIONS);
        Pool { busy, idle: self.idle().len(), limit: MAX_CONNECTIONS }
    }

    /// A connection in autocommit mode, one that idled or a new one.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or has no connection free in time.
    pub async fn session(&self) -> Result<Session<'_>, DatabaseError> {
        self.of_mode(Mode::Autocommit).await
    }

    /// A connection where the first statement opens a transaction, one that idled or a new one.
    ///
    /// # Errors
    /// As for [`Database::session`].
    pub async fn transactions(&self) -> Result<Session<'_>, DatabaseError> {
        self.of_mode(Mode::Transactions).await
    }

    /// As [`Database::session`], but new; those that idle are closed. For the second try after a connection was lost: the
    /// others were most likely lost with it.
    ///
    /// # Errors
    /// As for [`Database::session`].
    pub async fn fresh_session(&self) -> Result<Session<'_>, DatabaseError> {
        self.fresh(Mode::Autocommit).await
    }

    /// As [`Database::transactions`], but new; those that idle are closed.
    ///
    /// # Errors
    /// As for [`Database::session`].
    pub async fn fresh_transactions(&self) -> Result<Session<'_>, DatabaseError> {
        self.fresh(Mode::Transactions).await
    }

    /// As [`Database::transactions`]; a new one after a failure.
    ///
    /// # Errors
    /// As for [`Database::session`].
    pub async fn fresh_transactions_after(&self, failure: bool) -> Result<Session<'_>, DatabaseError> {
        if failure { self.fresh_transactions().await } else { self.transactions().await }
    }

    async fn of_mode(&self, mode: Mode) -> Result<Session<'_>, DatabaseError> {
        let permit = self.permit().await?;
        while let Some(Idle { conn, since, mode, abilities }) = self.pop(mode) {
            if since.elapsed() < MAX_IDLE {
                return Ok(Session { conn, database: self, since, mode, abilities, _permit: permit });
            }
        }
        self.connect(permit, mode).await
    }

    async fn fresh(&self, mode: Mode) -> Result<Session<'_>, DatabaseError> {
        let idle = std::mem::take(&mut *self.idle());
        drop(idle);
        let permit = self.permit().await?;
        self.connect(permit, mode).await
    }

    fn pop(&self, mode: Mode) -> Option<Idle> {
        let mut idle = self.idle();
        let place = idle.iter().rposition(|idle| idle.mode == mode)?;
        Some(idle.remove(place))
    }

    /// Closes what idles. Connections in use close when they are given back or dropped.
    pub async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.idle());
        for Idle { conn, .. } in idle {
            // A server that is gone needs no goodbye.
            let _ = timeout(CONNECT_LIMIT, conn.disconnect()).await;
        }
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, DatabaseError> {
        match timeout(CONNECT_LIMIT, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => {
                self.not_connected.add();
                Err(DatabaseError::NoConnection)
            }
        }
    }

    async fn connect<'a>(&'a self, permit: SemaphorePermit<'a>, mode: Mode) -> Result<Session<'a>, DatabaseError> {
        let conn = async {
            let mut conn = Conn::new(self.opts.clone()).await?;
            let (level, abilities) = server(&mut conn).await?;
            conn.query_drop(format!("SET SESSION TRANSACTION ISOLATION LEVEL {level}")).await?;
            if abilities.no_wait {
                conn.query_drop("SET SESSION innodb_lock_wait_timeout = 0").await?;
            }
            if mode == Mode::Transactions {
                conn.query_drop("SET autocommit = 0").await?;
            }
            Ok::<_, mysql_async::Error>((conn, abilities))
        };
        let connected = timeout(CONNECT_LIMIT, conn)
            .await
            .map_err(|_| DatabaseError::NoConnection)
            .and_then(|connected| connected.map_err(|error| DatabaseError::Connect(error.to_string())));
        let (conn, abilities) = connected.inspect_err(|_| self.not_connected.add())?;
        self.connected.add();
        Ok(Session { conn, database: self, since: Instant::now(), mode, abilities, _permit: permit })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The isolation level to use, and what the server can do.
///
/// READ COMMITTED cannot write to a statement-based binary log (error 1665); the statements of a rotation lock the same
/// single rows in REPEATABLE READ.
async fn server(conn: &mut Conn) -> Result<(&'static str, Abilities), mysql_async::Error> {
    let asked = "SELECT @@GLOBAL.log_bin, @@SESSION.binlog_format, VERSION(), @@SESSION.auto_increment_increment";
    let row = match conn.query_first::<Row, _>(asked).await {
        Ok(row) => row,
        // A server, or a proxy in front of one, that does not have them all: the usual, and nothing beyond.
        Err(mysql_async::Error::Server(_)) => None,
        Err(error) => return Err(error),
    };
    let (log_bin, format, version, increment) = match row {
        Some(mut row) => (
            known::<u8>(&mut row, 0),
            known::<String>(&mut row, 1),
            known::<String>(&mut row, 2),
            known::<u64>(&mut row, 3),
        ),
        None => (None, None, None, None),
    };
    let by_statement = log_bin == Some(1) && format.is_some_and(|format| format.eq_ignore_ascii_case("STATEMENT"));
    let level = if by_statement { "REPEATABLE READ" } else { "READ COMMITTED" };
    let abilities = Abilities {
        skip_locked: version.as_deref().is_some_and(has_skip_locked),
        no_wait: version.is_some_and(|version| version.contains("MariaDB") && has_skip_locked(&version)),
        consecutive_ids: increment == Some(1),
    };
    Ok((level, abilities))
}

/// A variable's value, where it is one of the type that is expected.
fn known<T: mysql_async::prelude::FromValue>(row: &mut Row, index: usize) -> Option<T> {
    row.take_opt::<Option<T>, _>(index).and_then(Result::ok).flatten()
}

/// Whether a server of this `VERSION()` knows `SKIP LOCKED`. Where that cannot be told, it is taken not to.
fn has_skip_locked(version: &str) -> bool {
    let mut numbers = version.split(|character: char| !character.is_ascii_digit()).map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok);
    let (Some(major), Some(minor)) = (next(), next()) else { return false };
    if version.contains("MariaDB") {
        (major, minor) >= (10, 6)
    } else {
        // 8.0.0 was never released for production.
        major >= 8
    }
}

/// A connection in use. Dropped, it is closed; [`Session::give_back`] keeps it for the next.
pub struct Session<'a> {
    conn: Conn,
    database: &'a Database,
    since: Instant,
    mode: Mode,
    abilities: Abilities,
    _permit: SemaphorePermit<'a>,
}

impl Session<'_> {
    /// The connection.
    pub fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// What the server can do.
    pub fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// Says that the connection has just worked.
    pub fn worked(&mut self) {
        self.since = Instant::now();
    }

    /// Whether it idled for so long that it is not to be used again.
    pub fn is_stale(&self) -> bool {
        self.since.elapsed() >= MAX_IDLE
    }

    /// Keeps the connection for the next. Only for one with no transaction open and no result unread.
    pub fn give_back(self) {
        let Session { conn, database, mode, abilities, .. } = self;
        if !database.permits.is_closed() {
            database.idle().push(Idle { conn, since: Instant::now(), mode, abilities });
        }
    }
}

/// Reads one column of a row. (`Row::get` and the tuples of mysql_async panic on a value of another type.)
///
/// # Errors
/// The column is not there or its value is not a `T`; `name` says which.
pub fn column<T: mysql_async::prelude::FromValue>(
    row: &mut Row,
    index: usize,
    name: &'static str,
) -> Result<T, DatabaseError> {
    row.take_opt(index).and_then(Result::ok).ok_or(DatabaseError::Column(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_servers_can_skip_locked_rows() {
        for version in ["10.6.0-MariaDB", "10.11.19-MariaDB-0+deb12u1", "11.4.2-MariaDB", "8.0.36", "8.4.0", "9.1.0"] {
            assert!(has_skip_locked(version), "{version}");
        }
        for version in ["10.5.9-MariaDB-log", "5.7.44", "5.5.5-10.11.2-maxscale", "", "MariaDB"] {
            assert!(!has_skip_locked(version), "{version}");
        }
    }

    #[test]
    fn a_servers_text_is_not_kept() {
        let error = mysql_async::Error::Server(mysql_async::ServerError {
            code: 1062,
            message: "Duplicate entry 'ec340f876883c47408780273068776d0' for key 'x'".to_owned(),
            state: "23000".to_owned(),
        });
        let error = DatabaseError::from(error);
        assert_eq!(error.to_string(), "database error 1062");
        assert!(!format!("{error:?}").contains("ec340f"));
    }
}
