//! Connections to the site's database.
//!
//! mysql_async's own pool is not used: it takes back dropped connections in any state, and knows of
//! an open transaction only through its `Transaction`, whose rollback on drop comes late (as its
//! documentation says), with the row locks held until then. Here a connection returns to the pool
//! only when it is given back; dropped in any other way (an error, a time limit, a cancelled task)
//! it is closed, and the server rolls back. For how it is closed see [`conn`].
//!
//! If the database may be on several hosts, all connections go to one of them: see [`hosts`].

mod cluster;
mod conn;
mod error;
mod failover;
mod hosts;
mod prepared;
mod reads;
mod recovery;
mod server;
mod session;
pub mod tls;
mod upkeep;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::prelude::FromValue;
use mysql_async::{Opts, OptsBuilder, Row};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

pub use cluster::{CAUSAL_LIMIT, Causality, NodeView};
use cluster::{CAUSAL_READS, NodeState};
pub use conn::{Conn, NotUnderstood};
use conn::{END_LIMIT, Ends};
pub use error::{DatabaseError, Refusal};
pub use hosts::Hosts;
use prepared::Prepared;
pub use prepared::SqlText;
use server::{Connection, Mode};
pub use session::{ConnectionName, Session};
use upkeep::Held;
pub use upkeep::until_stopped;

use crate::metrics::Counter;

/// The most connections, unless [`Database::at_most`] is called (`wordpress.database_connections`).
/// Two are enough to keep a database busy with rotations; the others are for statements that wait
/// for a lock.
const CONNECTIONS: usize = 16;

/// A connection that was idle for longer is not used again: firewalls and `wait_timeout` may have
/// ended it unnoticed.
const LONGEST_IDLE: Duration = Duration::from_secs(30);

/// How often to check whether the last connection in use was given back.
const LAST_LOOK: Duration = Duration::from_millis(5);

/// How long to wait for a connection, new or free.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// How long connecting to one of several hosts may take, so that a rotation has time left for the
/// next.
const HOST_LIMIT: Duration = Duration::from_secs(1);

/// If no host accepts writes, they are only checked again after this pause, whatever the number of
/// callers.
const HOSTS_REST: Duration = Duration::from_millis(50);

/// How long a server is assumed to accept writes after it did so, if only a look-up depends on it:
/// no client has a token that WordPress made on another server within so short a time.
const WRITABLE_FOR: Duration = Duration::from_millis(50);

/// How long a server may take for a statement that reads a few rows and waits for no lock. If it
/// takes longer, it counts as frozen, and the next call goes to another host.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How long a rotation waits for a row that another transaction holds, before it is tried again, in
/// seconds.
pub const LOCK_WAIT_SECONDS: u32 = 1;

/// The server's error for an index that is missing or ignored.
pub const NO_INDEX: u16 = 1176;

/// Prepared statements kept per connection: all that rotations of every group size use, and some
/// more. mysql_async closes the others, even those that are [at hand](SqlText), since it does not
/// see that they are in use.
pub const STATEMENTS: usize = 112;

/// The site's database, with a pool of connections.
pub struct Database {
    hosts: Vec<Opts>,
    /// See [`Hosts::is_sites_own`].
    pub is_sites_own: bool,
    at: Mutex<At>,
    /// See [`Session::begin_at_writer`].
    splits_reads: AtomicBool,
    generation: AtomicU64,
    epoch: AtomicU64,
    limit: usize,
    is_for_many_sites: bool,
    permits: Semaphore,
    /// Limits causal reads: see [`Database::causally_in_turn`].
    causal_reads: Semaphore,
    longest_idle: Duration,
    /// The most recently used is at the end.
    idle: Mutex<Vec<Connection>>,
    tls: tls::Known,
    ends: Arc<Ends>,
    /// Connections made.
    pub connected: Counter,
    /// Connections that could not be made, or did not become free, in time.
    pub not_connected: Counter,
}

/// The numbers of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// In use.
    pub busy: usize,
    /// Waiting for use.
    pub idle: usize,
    /// The limit of both together.
    pub limit: usize,
}

/// Where the database is at the moment.
#[derive(Default)]
struct At {
    /// The index of the host in use.
    place: usize,
    /// The server of the newest connection.
    server: Option<Arc<str>>,
    /// See [`Database::causality`].
    causality: Option<Causality>,
    /// See [`Database::node_state`].
    node: Option<NodeState>,
    /// When all hosts failed last, and why.
    failed: Option<(Instant, DatabaseError)>,
}

impl Database {
    /// Connects on the first use.
    pub fn new(hosts: impl Into<Hosts>) -> Self {
        let hosts: Hosts = hosts.into();
        Database {
            is_sites_own: hosts.is_sites_own(),
            hosts: hosts.opts().iter().cloned().map(with_setup).collect(),
            at: Mutex::default(),
            splits_reads: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            limit: CONNECTIONS,
            is_for_many_sites: false,
            permits: Semaphore::new(CONNECTIONS),
            causal_reads: Semaphore::new(CAUSAL_READS),
            longest_idle: LONGEST_IDLE,
            idle: Mutex::new(Vec::new()),
            tls: tls::Known::default(),
            ends: Arc::default(),
            connected: Counter::default(),
            not_connected: Counter::default(),
        }
    }

    /// The same with at most `connections`.
    #[must_use]
    pub fn at_most(self, connections: usize) -> Self {
        Database { limit: connections, permits: Semaphore::new(connections), ..self }
    }

    /// The same for the tables of a network's sites, if `is`: see
    /// [`Prepared::ByText`](prepared::Prepared::ByText).
    #[must_use]
    pub fn for_many_sites(self, is: bool) -> Self {
        Database { is_for_many_sites: is, ..self }
    }

    /// The same with connections that are dropped after another idle time.
    #[must_use]
    pub fn idle_for(self, longest_idle: Duration) -> Self {
        Database { longest_idle, ..self }
    }

    /// The current numbers of connections.
    pub fn pool(&self) -> Pool {
        Pool { busy: self.busy(), idle: self.idle().len(), limit: self.limit }
    }

    /// How often the client library has panicked.
    pub fn panics(&self) -> u64 {
        self.ends.panics.value()
    }

    /// A connection in autocommit mode, idle or new.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or has no connection free in time; or none of several
    /// accepts writes.
    pub async fn session(&self) -> Result<Session<'_>, DatabaseError> {
        self.of_mode(Mode::Autocommit).await
    }

    /// A connection on which the first statement opens a transaction, idle or new.
    ///
    /// # Errors
    /// As for [`Database::session`].
    pub async fn transactions(&self) -> Result<Session<'_>, DatabaseError> {
        self.of_mode(Mode::Transactions).await
    }

    /// Like [`Database::transactions`], but only an idle one; never waits.
    pub fn ready_transactions(&self) -> Option<Session<'_>> {
        let permit = self.permits.try_acquire().ok()?;
        let connection = self.usable_idle(Mode::Transactions)?;
        Some(self.lend(connection, permit))
    }

    /// Like [`Database::session`], but new; idle ones are closed. For the second attempt after a
    /// connection was lost: the others are probably lost, too.
    ///
    /// # Errors
    /// As for [`Database::session`].
    pub async fn fresh_session(&self) -> Result<Session<'_>, DatabaseError> {
        self.fresh(Mode::Autocommit).await
    }

    /// Like [`Database::transactions`], but new; idle ones are closed.
    ///
    /// # Errors
    /// As for [`Database::session`].
    pub async fn fresh_transactions(&self) -> Result<Session<'_>, DatabaseError> {
        self.fresh(Mode::Transactions).await
    }

    /// Like [`Database::transactions`]; a new one after a failure.
    ///
    /// # Errors
    /// As for [`Database::session`].
    pub async fn fresh_transactions_after(&self, failure: bool) -> Result<Session<'_>, DatabaseError> {
        if failure { self.fresh_transactions().await } else { self.transactions().await }
    }

    /// Changes whenever connections move to another server: what an earlier server said about
    /// missing rows may not hold on this one, since the earlier one may have been behind.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The host in use, without the password; `None` if there is only one.
    pub fn host_in_use(&self) -> Option<String> {
        (self.hosts.len() > 1).then(|| self.label(self.at().place))
    }

    /// After an error that shows that the host in use is unfit, its connections are not used again,
    /// including those in use, and the next one looks for a host that accepts writes.
    pub fn heed(&self, error: &DatabaseError) {
        if error.says_unfit() {
            self.distrust();
        }
    }

    /// No existing connection is used again.
    pub fn distrust(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.close_idle();
    }

    /// Awaits `asked` for at most `limit`. A server that exceeds the limit may be frozen: its
    /// connections stay open but yield nothing. So no existing connection is used again.
    ///
    /// # Errors
    /// Those of `asked`; [`DatabaseError::TimedOut`].
    pub async fn within<T>(
        &self,
        limit: Duration,
        asked: impl Future<Output = Result<T, DatabaseError>>,
    ) -> Result<T, DatabaseError> {
        let Ok(answer) = timeout(limit, asked).await else {
            self.distrust();
            return Err(DatabaseError::TimedOut);
        };
        answer
    }

    /// Awaits `asked`, however long it takes, while the server responds to other statements.
    ///
    /// # Errors
    /// As for [`Database::within`].
    pub async fn while_it_answers<T>(
        &self,
        asked: impl Future<Output = Result<T, DatabaseError>>,
    ) -> Result<T, DatabaseError> {
        let mut asked = pin!(asked);
        loop {
            if let Ok(answer) = timeout(ANSWER_LIMIT, &mut asked).await {
                return answer;
            }
            let place = self.at().place;
            if self.connection(place, Mode::Autocommit).await.is_err() {
                self.distrust();
                return Err(DatabaseError::TimedOut);
            }
        }
    }

    async fn of_mode(&self, mode: Mode) -> Result<Session<'_>, DatabaseError> {
        let permit = self.permit().await?;
        match self.usable_idle(mode) {
            Some(connection) => Ok(self.lend(connection, permit)),
            None => self.connect(permit, mode).await,
        }
    }

    /// An idle connection that may be used again; the others are closed.
    fn usable_idle(&self, mode: Mode) -> Option<Connection> {
        loop {
            let connection = self.pop(mode)?;
            if connection.since.elapsed() < self.longest_idle && connection.generation == self.generation() {
                return Some(connection);
            }
        }
    }

    async fn fresh(&self, mode: Mode) -> Result<Session<'_>, DatabaseError> {
        self.close_idle();
        let permit = self.permit().await?;
        self.connect(permit, mode).await
    }

    fn pop(&self, mode: Mode) -> Option<Connection> {
        let mut idle = self.idle();
        let place = idle.iter().rposition(|idle| idle.mode == mode)?;
        Some(idle.remove(place))
    }

    fn close_idle(&self) {
        let idle = std::mem::take(&mut *self.idle());
        drop(idle);
    }

    /// Closes idle connections, and lends no more. Waits a moment for those in use to be given back
    /// and for connections that are ending, since the end of the runtime cuts them off.
    pub async fn close(&self) {
        self.permits.close();
        self.close_idle();
        let ended = async {
            while self.busy() > 0 {
                sleep(LAST_LOOK).await;
            }
            self.ends.pending.close();
            self.ends.pending.wait().await;
        };
        let _ = timeout(END_LIMIT, ended).await;
    }

    fn busy(&self) -> usize {
        self.limit - self.permits.available_permits().min(self.limit)
    }

    fn lend<'a>(&'a self, connection: Connection, permit: SemaphorePermit<'a>) -> Session<'a> {
        Session { connection, database: self, _permit: permit, _held: Held::new() }
    }

    /// Closes the connections that were idle for the longest time, so that idle ones and those in
    /// use, including the one that is about to be made, stay within the limit.
    fn make_room(&self) {
        let busy = self.busy();
        let mut idle = self.idle();
        let too_many = (idle.len() + busy).saturating_sub(self.limit).min(idle.len());
        let gone: Vec<Connection> = idle.drain(..too_many).collect();
        drop(idle);
        drop(gone);
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
        self.make_room();
        let connection = match self.hosts.len() {
            0 | 1 => self.connection(0, mode).await,
            _ => self.of_several(mode).await,
        };
        let mut connection = connection.inspect_err(|_| self.not_connected.add())?;
        self.connected.add();
        self.note_server(&connection);
        self.note_reads(connection.reads_elsewhere);
        self.note_tls(&mut connection.conn, &connection.server).await?;
        Ok(self.lend(connection, permit))
    }

    /// Even the same address can lead to a different server than before.
    fn note_server(&self, connection: &Connection) {
        let mut at = self.at();
        at.causality = connection.abilities.causality;
        // A member of Group Replication may not have been asked: see `look_at_node`.
        if connection.abilities.causality != Some(Causality::Group) || connection.node.is_some() {
            at.node.clone_from(&connection.node);
        }
        let server = &connection.server;
        if at.server.as_ref() != Some(server) {
            let is_first = at.server.replace(Arc::clone(server)).is_none();
            if !is_first {
                self.another_server();
            }
        }
    }

    fn another_server(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Connects to the host at `place`.
    async fn connection(&self, place: usize, mode: Mode) -> Result<Connection, DatabaseError> {
        let Some(opts) = self.hosts.get(place) else { return Err(DatabaseError::NoConnection) };
        let limit = if self.hosts.len() > 1 { HOST_LIMIT } else { CONNECT_LIMIT };
        let is_one_of_several = self.hosts.len() > 1;
        let _held = Held::new();
        let ends = Arc::clone(&self.ends);
        let opened = timeout(limit, server::open(opts.clone(), mode, self.generation(), is_one_of_several, ends))
            .await
            .map_err(|_| DatabaseError::NoConnection)?;
        match opened {
            Ok(connection) => {
                let prepared = Prepared::new(self.is_for_many_sites);
                Ok(Connection { prepared, ..connection })
            }
            Err(error) => Err(self.connect_error(place, &error).await),
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn label(&self, place: usize) -> String {
        self.hosts.get(place).map(hosts::label).unwrap_or_default()
    }

    fn at(&self) -> MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn with_setup(opts: Opts) -> Opts {
    OptsBuilder::from_opts(opts)
        .prefer_socket(false)
        .stmt_cache_size(STATEMENTS)
        .setup(vec![
            // Column values are UTC, and so are all calculations.
            "SET time_zone = '+00:00'".to_owned(),
            "SET NAMES utf8mb4".to_owned(),
            // A server may be configured to begin a transaction after each COMMIT, or to close the
            // connection.
            "SET SESSION completion_type = 0".to_owned(),
            // An overlong value is an error, never silently cut.
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'".to_owned(),
            format!("SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS}"),
            // For a table that another client alters or locks: the server's default lets each
            // statement wait for a day, together with its connection, even if the caller has gone.
            format!("SET SESSION lock_wait_timeout = {LOCK_WAIT_SECONDS}"),
        ])
        .into()
}

/// Reads one column of a row. (`Row::get` and the tuples of mysql_async panic on a value of another
/// type.)
///
/// # Errors
/// The column is missing or its value is not a `T`; `name` names it.
pub fn column<T: FromValue>(row: &mut Row, index: usize, name: &'static str) -> Result<T, DatabaseError> {
    row.take_opt(index).and_then(Result::ok).ok_or(DatabaseError::Column(name))
}
