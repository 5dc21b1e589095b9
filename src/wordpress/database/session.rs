//! A connection in use, on loan from its pool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::Statement;
use tokio::sync::SemaphorePermit;

use super::prepared::SqlText;
use super::server::{self, Abilities, Connection, Writer};
use super::upkeep::Held;
use super::{Conn, Database, DatabaseError, LOCK_WAIT_SECONDS, WRITABLE_FOR};

/// The server's error for a connection that does not exist (any more).
const NO_SUCH_THREAD: u16 = 1094;

/// Identifies a connection and its server.
#[derive(Debug, Clone)]
pub struct ConnectionName {
    id: u32,
    server: Arc<str>,
    opened: Instant,
}

impl ConnectionName {
    /// The server's number for the connection.
    pub fn id(&self) -> u32 {
        self.id
    }
}

/// A connection in use. Dropped, it is closed; [`Session::give_back`] returns it to the pool.
pub struct Session<'a> {
    pub(super) connection: Connection,
    pub(super) database: &'a Database,
    pub(super) _permit: SemaphorePermit<'a>,
    pub(super) _held: Held,
}

impl Session<'_> {
    /// The connection.
    pub fn conn(&mut self) -> &mut Conn {
        &mut self.connection.conn
    }

    /// The statement of `text`, prepared on its first use.
    ///
    /// # Errors
    /// The database's.
    pub async fn prepared(&mut self, text: &SqlText) -> Result<Statement, DatabaseError> {
        let Connection { conn, prepared, .. } = &mut self.connection;
        Ok(prepared.on(conn, text).await?)
    }

    /// What the server can do.
    pub fn abilities(&self) -> Abilities {
        self.connection.abilities
    }

    /// Identifies it in case it is lost.
    pub fn name(&self) -> ConnectionName {
        let Connection { conn, server, opened, .. } = &self.connection;
        ConnectionName { id: conn.id(), server: Arc::clone(server), opened: *opened }
    }

    /// Whether the server accepted no writes a moment ago. WordPress then writes to another one,
    /// which may have a row that is missing here.
    ///
    /// # Errors
    /// The connection's.
    pub async fn is_read_only(&mut self) -> Result<bool, DatabaseError> {
        let Connection { conn, writable, asked_writable, .. } = &mut self.connection;
        if asked_writable.elapsed() >= WRITABLE_FOR {
            let writer = Writer::ask(conn, self.database.hosts.len() > 1).await?;
            *writable = writer.writable;
            *asked_writable = Instant::now();
            self.database.note_reads(writer.reads_elsewhere);
        }
        Ok(!*writable)
    }

    /// Kills the connection `lost`, and with it its transaction, unless the server is running a
    /// statement for it. Only if this is still the same server, and was not restarted since:
    /// connections are then numbered from 1 again, and the number may belong to another client.
    /// Behind a proxy, which has its own numbers, no connection is killed. Returns whether the
    /// server is running a statement for it.
    ///
    /// # Errors
    /// The database's.
    pub async fn end(&mut self, lost: &ConnectionName) -> Result<bool, DatabaseError> {
        let Connection { conn, server, .. } = &mut self.connection;
        let uptime = server::uptime(conn).await?;
        // Both are whole seconds, each rounded by its own clock.
        let ran_before = uptime.is_some_and(|uptime| uptime > lost.opened.elapsed().as_secs() + 1);
        if *server != lost.server || !ran_before || conn.id() <= lost.id {
            return Ok(false);
        }
        match server::activity(conn, lost.id).await? {
            None => Ok(false),
            Some(activity) if activity == "Sleep" => {
                // Users may always kill their own connections. It may have ended by itself.
                match conn.query_drop(format!("KILL {}", lost.id)).await {
                    Ok(()) => Ok(false),
                    Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_THREAD => Ok(false),
                    Err(error) => Err(error.into()),
                }
            }
            Some(_) => Ok(true),
        }
    }

    /// Whether the server has sent nothing on this connection for as long as a lock wait may take:
    /// then a statement without a result is not waiting for a lock.
    pub fn is_silent(&self) -> bool {
        self.connection.since.elapsed() > Duration::from_secs(u64::from(LOCK_WAIT_SECONDS))
    }

    /// Returns the connection to the pool. It must not have an open transaction or an unread
    /// result.
    pub fn give_back(self) {
        let Session { connection, database, .. } = self;
        if !connection.conn.is_usable() || connection.generation != database.generation() {
            return;
        }
        let mut idle = database.idle();
        // Checked under the lock: a connection that comes after the final cleanup would not be
        // closed.
        if !database.permits.is_closed() {
            idle.push(Connection { since: Instant::now(), ..connection });
        }
    }
}
