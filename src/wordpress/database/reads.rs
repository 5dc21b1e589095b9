//! Handles proxies that send reads to replicas and writes to another server.
//!
//! A replica may not yet have a token that a client has. A look-up there would log the client out.

use std::sync::atomic::Ordering;

use tracing::info;

use super::server::BEGIN;
use super::{Database, DatabaseError, Session};

impl Database {
    /// Whether a proxy sends reads to other servers than writes. Such a replica may not yet have a
    /// token that a client has.
    pub fn splits_reads(&self) -> bool {
        self.splits_reads.load(Ordering::Acquire)
    }

    /// What one connection shows holds for all and stays: a proxy may send some reads to the
    /// primary, too.
    pub(super) fn note_reads(&self, are_elsewhere: bool) {
        if are_elsewhere && !self.splits_reads.swap(true, Ordering::AcqRel) {
            info!("a proxy sends reads to other servers than writes; tokens are looked up where they are written");
            self.another_server();
        }
    }
}

impl Session<'_> {
    /// If a proxy [splits reads from writes](Database::splits_reads), opens a transaction:
    /// everything read until [`Session::end_at_writer`] comes from the server that takes the
    /// writes. Without such a proxy it does nothing, and saves the round trip.
    ///
    /// # Errors
    /// The database's.
    pub async fn begin_at_writer(&mut self) -> Result<(), DatabaseError> {
        if self.database.splits_reads() {
            self.connection.conn.query_drop(BEGIN).await?;
            self.connection.is_at_writer = true;
        }
        Ok(())
    }

    /// Ends what [`Session::begin_at_writer`] has opened.
    ///
    /// # Errors
    /// The database's.
    pub async fn end_at_writer(&mut self) -> Result<(), DatabaseError> {
        if self.connection.is_at_writer { self.commit().await } else { Ok(()) }
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// The database's. Unless it [says that nothing was stored](DatabaseError::says_rolled_back),
    /// the outcome is unknown.
    pub async fn commit(&mut self) -> Result<(), DatabaseError> {
        self.connection.is_at_writer = false;
        Ok(self.connection.conn.query_drop("COMMIT").await?)
    }

    /// Rolls back the transaction. Always needed after an error: 1205 only rolls back its
    /// statement.
    ///
    /// # Errors
    /// The database's; the session must then be dropped.
    pub async fn rollback(&mut self) -> Result<(), DatabaseError> {
        self.connection.is_at_writer = false;
        Ok(self.connection.conn.query_drop("ROLLBACK").await?)
    }
}
