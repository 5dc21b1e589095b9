//! Wraps mysql_async's connection: turns its panics into errors, and ends it in order.
//!
//! **Panics.** Some responses of a server make mysql_async panic (0.37.1: a PARSEC nonce that is
//! not 32 bytes long, an invalid RSA key, an impossible number of columns, …). The connection is
//! then closed and the statement has failed, as if the connection had been lost.
//!
//! **Ends.** A dropped `mysql_async::Conn` closes its socket without COM_QUIT, and the server logs
//! an aborted connection each time; its `disconnect` sends COM_QUIT. Here every drop does that, at
//! once and without waiting: the packet has five bytes, and a socket between two statements has
//! room for them. So an open transaction is rolled back as soon as by closing alone. A connection
//! within a statement cannot send anything that the server would understand, and is only closed.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mysql_async::prelude::{AsQuery, Queryable as _, StatementLike};
use mysql_async::{Error, Opts, Params, Row, Statement};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::metrics::Counter;
use crate::panics;

/// How long a connection whose COM_QUIT could not be sent at once may keep trying.
pub(super) const END_LIMIT: Duration = Duration::from_millis(500);

/// mysql_async panicked at a place in its source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} (it stopped at {0})", what = NotUnderstood::WHAT)]
pub struct NotUnderstood(pub String);

impl NotUnderstood {
    /// The beginning of its message.
    pub const WHAT: &str = "the database sent what the client library does not understand";
}

/// What the connections of one database share: their ends, and a count of panics.
#[derive(Default)]
pub(super) struct Ends {
    /// Ends that are not immediate.
    pub(super) pending: TaskTracker,
    pub(super) panics: Counter,
}

/// A connection. On drop it sends COM_QUIT if it can, and is closed.
pub struct Conn {
    /// `None` after a panic, which may have left it in any state.
    inner: Option<mysql_async::Conn>,
    id: u32,
    /// Between two statements: the last result was read completely.
    at_rest: bool,
    ends: Arc<Ends>,
}

impl Conn {
    /// Connects and runs the statements of [`Opts::setup`].
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or sends something invalid.
    pub(super) async fn open(opts: Opts, ends: Arc<Ends>) -> Result<Self, Error> {
        let opened = guarded(mysql_async::Conn::new(opts)).await;
        let inner = opened.unwrap_or_else(|place| Err(ends.panicked(place)))?;
        Ok(Conn { id: inner.id(), inner: Some(inner), at_rest: true, ends })
    }

    /// The server's number for this connection.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether it was made with TLS.
    pub(super) fn has_tls(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.opts().ssl_opts().is_some())
    }

    /// The id that the last INSERT gave its first row.
    pub fn last_insert_id(&self) -> Option<u64> {
        self.inner.as_ref()?.last_insert_id()
    }

    /// Whether another statement can be sent.
    pub(super) fn is_usable(&self) -> bool {
        self.at_rest && self.inner.as_ref().is_some_and(|inner| !inner.is_disconnected())
    }

    /// Pings the server, so that both sides see that the connection is alive.
    ///
    /// # Errors
    /// The connection's.
    pub async fn ping(&mut self) -> Result<(), Error> {
        let done = guarded(self.begin()?.ping()).await;
        self.done(done)
    }

    /// Runs a statement; its rows are not kept.
    ///
    /// # Errors
    /// The database's.
    pub async fn query_drop(&mut self, query: impl AsQuery) -> Result<(), Error> {
        let done = guarded(self.begin()?.query_drop(query)).await;
        self.done(done)
    }

    /// Runs a statement and returns its first row.
    ///
    /// # Errors
    /// The database's.
    pub async fn query_first(&mut self, query: impl AsQuery) -> Result<Option<Row>, Error> {
        let done = guarded(self.begin()?.query_first(query)).await;
        self.done(done)
    }

    /// Runs a statement and returns its rows.
    ///
    /// # Errors
    /// The database's.
    pub async fn query(&mut self, query: impl AsQuery) -> Result<Vec<Row>, Error> {
        let done = guarded(self.begin()?.query(query)).await;
        self.done(done)
    }

    /// Prepares a statement.
    ///
    /// # Errors
    /// The database's.
    pub async fn prep(&mut self, query: impl AsQuery) -> Result<Statement, Error> {
        let done = guarded(self.begin()?.prep(query)).await;
        self.done(done)
    }

    /// Closes a prepared statement.
    ///
    /// # Errors
    /// The connection's.
    pub async fn close(&mut self, statement: Statement) -> Result<(), Error> {
        let done = guarded(self.begin()?.close(statement)).await;
        self.done(done)
    }

    /// Runs a prepared statement, preparing it first if need be; its rows are not kept.
    ///
    /// # Errors
    /// The database's.
    pub async fn exec_drop(
        &mut self,
        statement: impl StatementLike,
        values: impl Into<Params> + Send,
    ) -> Result<(), Error> {
        let done = guarded(self.begin()?.exec_drop(statement, values)).await;
        self.done(done)
    }

    /// Runs a prepared statement and returns its first row.
    ///
    /// # Errors
    /// The database's.
    pub async fn exec_first(
        &mut self,
        statement: impl StatementLike,
        values: impl Into<Params> + Send,
    ) -> Result<Option<Row>, Error> {
        let done = guarded(self.begin()?.exec_first(statement, values)).await;
        self.done(done)
    }

    /// Runs a prepared statement and returns its rows.
    ///
    /// # Errors
    /// The database's.
    pub async fn exec(
        &mut self,
        statement: impl StatementLike,
        values: impl Into<Params> + Send,
    ) -> Result<Vec<Row>, Error> {
        let done = guarded(self.begin()?.exec(statement, values)).await;
        self.done(done)
    }

    /// If the future that follows is dropped, the connection was within a statement.
    fn begin(&mut self) -> Result<&mut mysql_async::Conn, Error> {
        self.at_rest = false;
        self.inner.as_mut().ok_or_else(|| mysql_async::DriverError::ConnectionClosed.into())
    }

    fn done<T>(&mut self, done: Result<Result<T, Error>, String>) -> Result<T, Error> {
        match done {
            Ok(done) => {
                // Also after a server error; after any other error the library has closed the
                // connection.
                self.at_rest = matches!(done, Ok(_) | Err(Error::Server(_)));
                done
            }
            Err(place) => {
                self.end();
                Err(self.ends.panicked(place))
            }
        }
    }

    fn end(&mut self) {
        if let Some(inner) = self.inner.take() {
            self.ends.end(inner, self.at_rest);
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.end();
    }
}

impl Ends {
    fn panicked(&self, place: String) -> Error {
        self.panics.add();
        warn!(place, "the database's client library panicked; the connection is not used again");
        Error::Other(Box::new(NotUnderstood(place)))
    }

    fn end(&self, conn: mysql_async::Conn, at_rest: bool) {
        // During a panic, a second one would end the process.
        if std::thread::panicking() {
            return;
        }
        let mut ending = Box::pin(guarded(conn.disconnect()));
        let is_pending = ending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending();
        // Within a statement the library would first read the rest of the result. Dropped here, it
        // closes the socket at once.
        if is_pending
            && at_rest
            && let Ok(runtime) = Handle::try_current()
        {
            // A server that is gone needs no COM_QUIT.
            self.pending.spawn_on(async move { drop(timeout(END_LIMIT, ending).await) }, &runtime);
        }
    }
}

/// The output of `asked`, or the place of its panic. A future that has panicked is not polled
/// again.
async fn guarded<T>(asked: impl Future<Output = T>) -> Result<T, String> {
    let mut asked = pin!(asked);
    std::future::poll_fn(move |context| match panics::caught(|| asked.as_mut().poll(context)) {
        Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(place) => Poll::Ready(Err(place)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_future_that_panics_after_a_pause_is_an_error() {
        let fails = async {
            tokio::task::yield_now().await;
            "x".parse::<u8>().unwrap()
        };
        assert!(guarded(fails).await.is_err());
        assert_eq!(guarded(async { 7 }).await, Ok(7));
    }
}
