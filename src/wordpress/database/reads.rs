//! Proxies that send reads to replicas, and writes to another server.
//!
//! A replica may not have a token yet that a client has. To look it up there would log the client out.

use std::sync::atomic::Ordering;

use tracing::info;

use super::server::BEGIN;
use super::{Database, DatabaseError, Session};

impl Database {
    /// Whether a proxy sends reads to other servers than writes. Such a replica may not have a token yet that a client has.
    pub fn splits_reads(&self) -> bool {
        self.splits_reads.load(Ordering::Acquire)
    }

    /// What one connection shows holds for all, and from then on: a proxy may send some reads to the primary, too.
    pub(super) fn note_reads(&self, are_elsewhere: bool) {
        if are_elsewhere && !self.splits_reads.swap(true, Ordering::AcqRel) {
            info!("a proxy sends reads to other servers than writes; tokens are looked up where they are written");
            self.another_server();
        }
    }
}

impl Session<'_> {
    /// Where a proxy [splits reads from writes](Database::splits_reads), opens a transaction: what is read until
    /// [`Session::end_at_writer`] is read where it is written. Elsewhere does nothing, and spares the round trip.
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

    /// Ends the transaction.
    ///
    /// # Errors
    /// The database's. Unless it [says that nothing was stored](DatabaseError::says_rolled_back), the outcome is unknown.
    pub async fn commit(&mut self) -> Result<(), DatabaseError> {
        self.connection.is_at_writer = false;
        Ok(self.connection.conn.query_drop("COMMIT").await?)
    }

    /// Undoes the transaction. Always needed after an error: 1205 rolls back only its statement.
    ///
    /// # Errors
    /// The database's; the session is then to be dropped.
    pub async fn rollback(&mut self) -> Result<(), DatabaseError> {
        self.connection.is_at_writer = false;
        Ok(self.connection.conn.query_drop("ROLLBACK").await?)
    }
}
