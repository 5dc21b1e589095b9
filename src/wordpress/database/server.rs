//! One connection, as it is made: what the server on the other end can do, which one it is, and whether it takes writes.

use std::sync::Arc;
use std::time::Instant;

use mysql_async::prelude::{FromValue, Queryable};
use mysql_async::{Conn, Opts, Row};

use super::prepared::Prepared;

/// What the server on the other end can do, and how it is set; read with each new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// `FOR UPDATE SKIP LOCKED`: MariaDB from 10.6, MySQL from 8.0.1.
    pub skip_locked: bool,
    /// `innodb_lock_wait_timeout` can be 0, and `FOR UPDATE WAIT n` says where to wait after all: MariaDB from 10.6. Then
    /// nothing of the sidecar's waits while it holds a lock, so that it has no part in any deadlock. That matters to the site:
    /// the server would rather undo the plugin's "revoke all tokens" than a rotation that has written already.
    pub no_wait: bool,
    /// `SET STATEMENT … FOR` with all that is used of it: MariaDB from 10.6.
    pub set_statement: bool,
    /// The rows of one `INSERT … VALUES` get ids that follow each other without a gap. InnoDB promises that for inserts whose
    /// number of rows is known, in every `innodb_autoinc_lock_mode`, as long as ids grow by one (a Galera cluster's do not).
    pub consecutive_ids: bool,
}

/// Whether each statement is a transaction of its own, or the first after a COMMIT or ROLLBACK opens one. The second spares
/// a rotation the round trip of a START TRANSACTION.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Autocommit,
    Transactions,
}

/// A connection and what is known of it.
pub(super) struct Connection {
    pub(super) conn: Conn,
    pub(super) prepared: Prepared,
    pub(super) mode: Mode,
    pub(super) abilities: Abilities,
    /// Tells this server from every other.
    pub(super) server: Arc<str>,
    /// The server took writes when the connection was made, or does not say whether it does.
    pub(super) writable: bool,
    /// When that was last asked.
    pub(super) asked_writable: Instant,
    pub(super) opened: Instant,
    /// When it last worked.
    pub(super) since: Instant,
    /// See [`super::Database::distrust`].
    pub(super) generation: u64,
}

/// Connects and sets the session up.
pub(super) async fn open(opts: Opts, mode: Mode, generation: u64) -> Result<Connection, mysql_async::Error> {
    let opened = Instant::now();
    let mut conn = Conn::new(opts).await?;
    let (level, abilities) = abilities(&mut conn).await?;
    let server = identity(&mut conn).await?;
    let writable = is_writable(&mut conn).await?;
    conn.query_drop(format!("SET SESSION TRANSACTION ISOLATION LEVEL {level}")).await?;
    if abilities.no_wait {
        conn.query_drop("SET SESSION innodb_lock_wait_timeout = 0").await?;
    }
    if mode == Mode::Transactions {
        conn.query_drop("SET autocommit = 0").await?;
    }
    let (now, prepared) = (Instant::now(), Prepared::default());
    Ok(Connection {
        conn,
        prepared,
        mode,
        abilities,
        server,
        writable,
        asked_writable: now,
        opened,
        since: now,
        generation,
    })
}

/// Whether the server takes writes. One that does not know the variables is taken to.
pub(super) async fn is_writable(conn: &mut Conn) -> Result<bool, mysql_async::Error> {
    let asked = "SELECT @@GLOBAL.read_only, @@GLOBAL.innodb_read_only";
    let row = answer(conn.query_first::<Row, _>(asked).await)?;
    // A number, or (MariaDB from 12.0) a word.
    Ok(row.is_none_or(|mut row| {
        [0, 1].into_iter().all(|index| {
            known::<String>(&mut row, index).is_none_or(|value| value == "0" || value.eq_ignore_ascii_case("OFF"))
        })
    }))
}

/// Seconds since the server began, by its own clock.
pub(super) async fn uptime(conn: &mut Conn) -> Result<Option<u64>, mysql_async::Error> {
    let row = answer(conn.query_first::<Row, _>("SHOW GLOBAL STATUS LIKE 'Uptime'").await)?;
    Ok(row.and_then(|mut row| known::<u64>(&mut row, 1)))
}

/// What the server does for the connection `id`: "Sleep", "Query", "Killed"; `None` where there is no such connection, or (behind a
/// proxy) none that this one could know the number of.
pub(super) async fn activity(conn: &mut Conn, id: u32) -> Result<Option<String>, mysql_async::Error> {
    // A user always sees its own.
    let asked = "SELECT CONNECTION_ID(), (SELECT COMMAND FROM information_schema.PROCESSLIST WHERE ID = ";
    let row = answer(conn.query_first::<Row, _>(format!("{asked}{id})")).await)?;
    let own = conn.id();
    Ok(row.and_then(|mut row| {
        known::<u32>(&mut row, 0).filter(|id| *id == own)?;
        known::<String>(&mut row, 1)
    }))
}

/// What tells a server from others that may be reached by the same address: servers of one replication have different ids, and
/// servers of one machine different directories.
async fn identity(conn: &mut Conn) -> Result<Arc<str>, mysql_async::Error> {
    let asked = "SELECT CONCAT_WS('|', @@GLOBAL.hostname, @@GLOBAL.port, @@GLOBAL.server_id, @@GLOBAL.datadir)";
    let row = answer(conn.query_first::<Row, _>(asked).await)?;
    Ok(row.and_then(|mut row| known::<String>(&mut row, 0)).unwrap_or_default().into())
}

/// The isolation level to use, and what the server can do.
///
/// READ COMMITTED cannot write to a statement-based binary log (error 1665); the statements of a rotation lock the same
/// single rows in REPEATABLE READ.
async fn abilities(conn: &mut Conn) -> Result<(&'static str, Abilities), mysql_async::Error> {
    let asked = "SELECT @@GLOBAL.log_bin, @@SESSION.binlog_format, VERSION(), @@SESSION.auto_increment_increment";
    let row = answer(conn.query_first::<Row, _>(asked).await)?;
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
    let is_mariadb = version.as_deref().is_some_and(|version| version.contains("MariaDB") && has_skip_locked(version));
    let abilities = Abilities {
        skip_locked: version.as_deref().is_some_and(has_skip_locked),
        no_wait: is_mariadb,
        set_statement: is_mariadb,
        consecutive_ids: increment == Some(1),
    };
    Ok((level, abilities))
}

/// A server, or a proxy in front of one, that does not have all that is asked for gives no row: the usual, and nothing beyond.
fn answer(row: Result<Option<Row>, mysql_async::Error>) -> Result<Option<Row>, mysql_async::Error> {
    match row {
        Err(mysql_async::Error::Server(_)) => Ok(None),
        row => row,
    }
}

/// A variable's value, where it is one of the type that is expected.
fn known<T: FromValue>(row: &mut Row, index: usize) -> Option<T> {
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
}
