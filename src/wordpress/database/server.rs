//! A new connection: what its server can do, which server it is, and whether it accepts writes.

use std::sync::Arc;
use std::time::Instant;

use mysql_async::prelude::FromValue;
use mysql_async::{Opts, Row};

use super::cluster::{self, Causality, NodeState};
use super::conn::{Conn, Ends};
use super::prepared::Prepared;

/// What the server can do, and its settings; read for each new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// `FOR UPDATE SKIP LOCKED`: MariaDB from 10.6, MySQL from 8.0.1.
    pub skip_locked: bool,
    /// `innodb_lock_wait_timeout` can be 0, and `FOR UPDATE WAIT n` allows single waits: MariaDB
    /// from 10.6. Then the sidecar never waits while it holds a lock, so it takes part in no
    /// deadlock. That matters to the site: the server would rather roll back the plugin's "revoke
    /// all tokens" than a rotation that has already written.
    pub no_wait: bool,
    /// `SET STATEMENT … FOR` with every setting that is used: MariaDB from 10.6.
    pub set_statement: bool,
    /// Whether the rows of one `INSERT … VALUES` get consecutive ids. InnoDB guarantees that for
    /// inserts with a known number of rows, in every `innodb_autoinc_lock_mode`, as long as ids
    /// grow by one (which they do not in a Galera cluster).
    pub consecutive_ids: bool,
    /// How reads wait for what other nodes have committed, if the server is a node of a cluster.
    pub causality: Option<Causality>,
}

/// Whether each statement is its own transaction, or the first one after a COMMIT or ROLLBACK opens
/// one, which saves a rotation the round trip of START TRANSACTION.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Autocommit,
    Transactions,
    /// Like the first, and each read is [causal](Causality): for clusters where that is set for a
    /// whole session.
    Causal,
}

/// A connection and what is known of it.
pub(super) struct Connection {
    pub(super) conn: Conn,
    pub(super) prepared: Prepared,
    pub(super) mode: Mode,
    pub(super) abilities: Abilities,
    /// The cluster node's state when the connection was made.
    pub(super) node: Option<NodeState>,
    /// Identifies the server.
    pub(super) server: Arc<str>,
    /// Whether reads outside a transaction come from another server: see [`Writer`].
    pub(super) reads_elsewhere: bool,
    /// Whether a transaction is open for reading: see [`super::Session::begin_at_writer`].
    pub(super) is_at_writer: bool,
    /// Whether the server accepted writes when the connection was made, or does not report it.
    pub(super) writable: bool,
    /// When that was last checked.
    pub(super) asked_writable: Instant,
    pub(super) opened: Instant,
    pub(super) since: Instant,
    /// See [`super::Database::distrust`].
    pub(super) generation: u64,
}

impl Connection {
    /// Of several hosts: whether this one may be used.
    pub(super) fn is_fit(&self) -> bool {
        self.writable && self.node.as_ref().is_none_or(NodeState::is_synced)
    }

    /// Why it may not, for people.
    pub(super) fn unfit(&self) -> String {
        match &self.node {
            Some(node) if !node.is_synced() => format!("a node of the cluster that is not in step ({node})"),
            _ => "it accepts no writes".to_owned(),
        }
    }
}

/// Connects and sets up the session. `is_one_of_several`: several hosts are tried until one accepts
/// writes.
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
        // It needs a right and costs a query: only where another host could be used instead.
        Some(Causality::Group) if is_one_of_several => NodeState::of_member(&mut conn).await?,
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

/// Opens a transaction that may write. A proxy that sends reads to replicas sends it, and
/// everything until its end, to the server that takes the writes; a server that accepts none from
/// this user returns an error.
pub(super) const BEGIN: &str = "START TRANSACTION READ WRITE";

/// The errors of [`BEGIN`] from a server that accepts no writes: read-only (1290, 1792, 1836), or
/// not part of its cluster (1047).
const NO_WRITES: [u16; 4] = [1047, 1290, 1792, 1836];

/// What the server that takes the writes reports about itself.
///
/// `SELECT @@GLOBAL.read_only` alone does not show whether it accepts writes: a user with `SUPER`
/// or `READ ONLY ADMIN` may still write; and a proxy that splits reads from writes (ProxySQL's
/// documented rules send `^SELECT` to readers) lets a replica answer it. So everything is asked
/// inside a transaction. The same question outside shows whether there is such a proxy.
pub(super) struct Writer {
    /// Whether it accepted writes a moment ago, or does not report it.
    pub(super) writable: bool,
    server: Arc<str>,
    /// Whether reads outside a transaction came from another server.
    pub(super) reads_elsewhere: bool,
    level: &'static str,
    abilities: Abilities,
}

impl Writer {
    /// Asks the server. With several hosts, a read-only one is a replica, even for a user who may
    /// write to it: writing is left to the others.
    pub(super) async fn ask(conn: &mut Conn, is_one_of_several: bool) -> Result<Self, mysql_async::Error> {
        let reader = identity(conn).await?;
        let begun = begin(conn).await?;
        let (level, abilities) = abilities(conn).await?;
        let server = identity(conn).await?;
        let variables = match begun {
            // The server, or a proxy, does not know the statement.
            None => READ_ONLY,
            Some(_) if is_one_of_several => READ_ONLY,
            // No user may write to such a server, whatever the result of BEGIN.
            Some(_) => INNODB_READ_ONLY,
        };
        let writable = begun != Some(false) && are_off(conn, variables).await?;
        if begun == Some(true) {
            // Independent of `completion_type`.
            conn.query_drop("ROLLBACK AND NO CHAIN").await?;
        }
        let reads_elsewhere = begun == Some(true) && reader != server && !reader.is_empty() && !server.is_empty();
        Ok(Writer { writable, server, reads_elsewhere, level, abilities })
    }
}

/// Whether a transaction that may write was opened; `None` if the server does not know the
/// statement.
async fn begin(conn: &mut Conn) -> Result<Option<bool>, mysql_async::Error> {
    match conn.query_drop(BEGIN).await {
        Ok(()) => Ok(Some(true)),
        Err(mysql_async::Error::Server(error)) => Ok(NO_WRITES.contains(&error.code).then_some(false)),
        Err(error) => Err(error),
    }
}

const READ_ONLY: &str = "SELECT @@GLOBAL.read_only, @@GLOBAL.innodb_read_only";
const INNODB_READ_ONLY: &str = "SELECT @@GLOBAL.innodb_read_only, 0";

/// Whether the two variables are off. So they are for a server that does not know them.
async fn are_off(conn: &mut Conn, asked: &str) -> Result<bool, mysql_async::Error> {
    let row = answer(conn.query_first(asked).await)?;
    // A number, or (MariaDB from 12.0) a word.
    Ok(row.is_none_or(|mut row| {
        [0, 1].into_iter().all(|index| {
            known::<String>(&mut row, index).is_none_or(|value| value == "0" || value.eq_ignore_ascii_case("OFF"))
        })
    }))
}

/// Seconds since the server started, by its own clock.
pub(super) async fn uptime(conn: &mut Conn) -> Result<Option<u64>, mysql_async::Error> {
    let row = answer(conn.query_first("SHOW GLOBAL STATUS LIKE 'Uptime'").await)?;
    Ok(row.and_then(|mut row| known::<u64>(&mut row, 1)))
}

/// What the server is doing for the connection `id`: "Sleep", "Query", "Killed". `None` if there is
/// no such connection, or (behind a proxy) none whose number this one could know.
pub(super) async fn activity(conn: &mut Conn, id: u32) -> Result<Option<String>, mysql_async::Error> {
    // Users always see their own connections.
    let asked = "SELECT CONNECTION_ID(), (SELECT COMMAND FROM information_schema.PROCESSLIST WHERE ID = ";
    let row = answer(conn.query_first(format!("{asked}{id})")).await)?;
    let own = conn.id();
    Ok(row.and_then(|mut row| {
        known::<u32>(&mut row, 0).filter(|id| *id == own)?;
        known::<String>(&mut row, 1)
    }))
}

/// Identifies a server among those that the same address may lead to: servers of one replication
/// have different ids, and servers on one machine different directories.
async fn identity(conn: &mut Conn) -> Result<Arc<str>, mysql_async::Error> {
    let asked = "SELECT CONCAT_WS('|', @@GLOBAL.hostname, @@GLOBAL.port, @@GLOBAL.server_id, @@GLOBAL.datadir)";
    let row = answer(conn.query_first(asked).await)?;
    Ok(row.and_then(|mut row| known::<String>(&mut row, 0)).unwrap_or_default().into())
}

/// The isolation level for the server, and what it can do.
///
/// READ COMMITTED cannot write to a statement-based binary log (error 1665); the statements of a
/// rotation lock the same single rows in REPEATABLE READ.
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

/// A server, or a proxy in front of it, that does not know everything asked for counts as one
/// without special abilities.
fn answer(row: Result<Option<Row>, mysql_async::Error>) -> Result<Option<Row>, mysql_async::Error> {
    match row {
        Err(mysql_async::Error::Server(_)) => Ok(None),
        row => row,
    }
}

/// A variable's value, if it has the expected type.
pub(super) fn known<T: FromValue>(row: &mut Row, index: usize) -> Option<T> {
    row.take_opt::<Option<T>, _>(index).and_then(Result::ok).flatten()
}

/// Whether a server with this `VERSION()` knows `SKIP LOCKED`; `false` if unclear.
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
