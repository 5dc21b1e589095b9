//! One connection, as it is made: what the server on the other end can do, which one it is, and whether it takes writes.

use std::sync::Arc;
use std::time::Instant;

use mysql_async::prelude::FromValue;
use mysql_async::{Opts, Row};

use super::cluster::{self, Causality, NodeState};
use super::conn::{Conn, Ends};
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
    /// Where the server is a node of a cluster: how a read waits for what the others have committed.
    pub causality: Option<Causality>,
}

/// Whether each statement is a transaction of its own, or the first after a COMMIT or ROLLBACK opens one. The second spares
/// a rotation the round trip of a START TRANSACTION.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Autocommit,
    Transactions,
    /// As the first, and each read is [causal](Causality): for the clusters where that is set for a whole session.
    Causal,
}

/// A connection and what is known of it.
pub(super) struct Connection {
    pub(super) conn: Conn,
    pub(super) prepared: Prepared,
    pub(super) mode: Mode,
    pub(super) abilities: Abilities,
    /// Of a cluster's node, when the connection was made.
    pub(super) node: Option<NodeState>,
    /// Tells this server from every other.
    pub(super) server: Arc<str>,
    /// What is read outside a transaction comes from another server: see [`Writer`].
    pub(super) reads_elsewhere: bool,
    /// A transaction is open for reading: see [`super::Session::begin_at_writer`].
    pub(super) is_at_writer: bool,
    /// The server took writes when the connection was made, or does not say whether it does.
    pub(super) writable: bool,
    /// When that was last asked.
    pub(super) asked_writable: Instant,
    pub(super) opened: Instant,
    pub(super) since: Instant,
    /// See [`super::Database::distrust`].
    pub(super) generation: u64,
}

impl Connection {
    /// Of several hosts, whether its host is one to use.
    pub(super) fn is_fit(&self) -> bool {
        self.writable && self.node.as_ref().is_none_or(NodeState::is_synced)
    }

    /// Why it is not, for people.
    pub(super) fn unfit(&self) -> String {
        match &self.node {
            Some(node) if !node.is_synced() => format!("a node of the cluster that is not in step ({node})"),
            _ => "it takes no writes".to_owned(),
        }
    }
}

/// Connects and sets the session up. `is_one_of_several`: of hosts that take writes one after the other.
pub(super) async fn open(
    opts: Opts,
    mode: Mode,
    generation: u64,
    is_one_of_several: bool,
    ends: Arc<Ends>,
) -> Result<Connection, mysql_async::Error> {
    let opened = Instant::now();
    let mut conn = Conn::open(opts, ends).await?;
    let Writer { writable, server, reads_elsewhere, level, abilities } =
        Writer::ask(&mut conn, is_one_of_several).await?;
    conn.query_drop(format!("SET SESSION TRANSACTION ISOLATION LEVEL {level}")).await?;
    if abilities.no_wait {
        conn.query_drop("SET SESSION innodb_lock_wait_timeout = 0").await?;
    }
    match (mode, abilities.causality) {
        (Mode::Transactions, _) => conn.query_drop("SET autocommit = 0").await?,
        (Mode::Causal, Some(causality)) => causality.set_for_session(&mut conn).await?,
        (Mode::Causal, None) | (Mode::Autocommit, _) => {}
    }
    let node = match abilities.causality {
        Some(Causality::Statement | Causality::Session) => NodeState::ask(&mut conn).await?,
        Some(Causality::Group) | None => None,
    };
    let (now, prepared) = (Instant::now(), Prepared::new(false));
    Ok(Connection {
        conn,
        prepared,
        mode,
        abilities,
        node,
        server,
        reads_elsewhere,
        is_at_writer: false,
        writable,
        asked_writable: now,
        opened,
        since: now,
        generation,
    })
}

/// Opens a transaction that may write. A proxy that sends reads to replicas sends it, and all that follows until its end, to the
/// server that takes writes; a server that takes none from this user answers with an error.
pub(super) const BEGIN: &str = "START TRANSACTION READ WRITE";

/// The answers to [`BEGIN`] of a server that takes no writes: read-only (1290, 1792, 1836), or no part of its cluster (1047).
const NO_WRITES: [u16; 4] = [1047, 1290, 1792, 1836];

/// What the server that takes the writes says of itself.
///
/// `SELECT @@GLOBAL.read_only` alone does not say whether it takes writes: a user with `SUPER` or `READ ONLY ADMIN` may write all the
/// same; and a proxy that splits reads from writes (ProxySQL's documented rules send `^SELECT` to readers) has a replica answer it.
/// So all is asked inside a transaction. The same question outside shows whether there is such a proxy.
pub(super) struct Writer {
    /// It took writes a moment ago, or does not say whether it does.
    pub(super) writable: bool,
    server: Arc<str>,
    /// What is read outside a transaction came from another server.
    pub(super) reads_elsewhere: bool,
    level: &'static str,
    abilities: Abilities,
}

impl Writer {
    /// Asks. With several hosts, one that is read-only is a replica, even for a user who may write to it: that is left to the others.
    pub(super) async fn ask(conn: &mut Conn, is_one_of_several: bool) -> Result<Self, mysql_async::Error> {
        let reader = identity(conn).await?;
        let begun = begin(conn).await?;
        let (level, abilities) = abilities(conn).await?;
        let server = identity(conn).await?;
        let variables = match begun {
            // A server or a proxy that does not know the statement.
            None => READ_ONLY,
            Some(_) if is_one_of_several => READ_ONLY,
            // No user may write to such a server, whatever the answer to BEGIN.
            Some(_) => INNODB_READ_ONLY,
        };
        let writable = begun != Some(false) && are_off(conn, variables).await?;
        if begun == Some(true) {
            // Whatever `completion_type` says.
            conn.query_drop("ROLLBACK AND NO CHAIN").await?;
        }
        let reads_elsewhere = begun == Some(true) && reader != server && !reader.is_empty() && !server.is_empty();
        Ok(Writer { writable, server, reads_elsewhere, level, abilities })
    }
}

/// Whether a transaction that may write is open; `None` where the server does not know the statement.
async fn begin(conn: &mut Conn) -> Result<Option<bool>, mysql_async::Error> {
    match conn.query_drop(BEGIN).await {
        Ok(()) => Ok(Some(true)),
        Err(mysql_async::Error::Server(error)) => Ok(NO_WRITES.contains(&error.code).then_some(false)),
        Err(error) => Err(error),
    }
}

const READ_ONLY: &str = "SELECT @@GLOBAL.read_only, @@GLOBAL.innodb_read_only";
const INNODB_READ_ONLY: &str = "SELECT @@GLOBAL.innodb_read_only, 0";

/// Whether the two variables that are asked for are off. A server that does not know them is taken to say so.
async fn are_off(conn: &mut Conn, asked: &str) -> Result<bool, mysql_async::Error> {
    let row = answer(conn.query_first(asked).await)?;
    // A number, or (MariaDB from 12.0) a word.
    Ok(row.is_none_or(|mut row| {
        [0, 1].into_iter().all(|index| {
            known::<String>(&mut row, index).is_none_or(|value| value == "0" || value.eq_ignore_ascii_case("OFF"))
        })
    }))
}

/// Seconds since the server began, by its own clock.
pub(super) async fn uptime(conn: &mut Conn) -> Result<Option<u64>, mysql_async::Error> {
    let row = answer(conn.query_first("SHOW GLOBAL STATUS LIKE 'Uptime'").await)?;
    Ok(row.and_then(|mut row| known::<u64>(&mut row, 1)))
}

/// What the server does for the connection `id`: "Sleep", "Query", "Killed"; `None` where there is no such connection, or (behind a
/// proxy) none that this one could know the number of.
pub(super) async fn activity(conn: &mut Conn, id: u32) -> Result<Option<String>, mysql_async::Error> {
    // A user always sees its own.
    let asked = "SELECT CONNECTION_ID(), (SELECT COMMAND FROM information_schema.PROCESSLIST WHERE ID = ";
    let row = answer(conn.query_first(format!("{asked}{id})")).await)?;
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
    let row = answer(conn.query_first(asked).await)?;
    Ok(row.and_then(|mut row| known::<String>(&mut row, 0)).unwrap_or_default().into())
}

/// The isolation level to use, and what the server can do.
///
/// READ COMMITTED cannot write to a statement-based binary log (error 1665); the statements of a rotation lock the same
/// single rows in REPEATABLE READ.
async fn abilities(conn: &mut Conn) -> Result<(&'static str, Abilities), mysql_async::Error> {
    let asked = "SELECT @@GLOBAL.log_bin, @@SESSION.binlog_format, VERSION(), @@SESSION.auto_increment_increment";
    let row = match answer(conn.query_first(format!("{asked}{}", cluster::VARIABLES)).await)? {
        None => answer(conn.query_first(asked).await)?,
        row => row,
    };
    let (log_bin, format, version, increment, cluster) = match row {
        Some(mut row) => (
            known::<u8>(&mut row, 0),
            known::<String>(&mut row, 1),
            known::<String>(&mut row, 2),
            known::<u64>(&mut row, 3),
            known::<String>(&mut row, 4),
        ),
        None => (None, None, None, None, None),
    };
    let by_statement = log_bin == Some(1) && format.is_some_and(|format| format.eq_ignore_ascii_case("STATEMENT"));
    let level = if by_statement { "REPEATABLE READ" } else { "READ COMMITTED" };
    let is_mariadb = version.as_deref().is_some_and(|version| version.contains("MariaDB") && has_skip_locked(version));
    let abilities = Abilities {
        skip_locked: version.as_deref().is_some_and(has_skip_locked),
        no_wait: is_mariadb,
        set_statement: is_mariadb,
        consecutive_ids: increment == Some(1),
        causality: cluster.and_then(|variables| Causality::of(&variables, is_mariadb)),
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
pub(super) fn known<T: FromValue>(row: &mut Row, index: usize) -> Option<T> {
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
