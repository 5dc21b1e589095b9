//! Statements that each connection prepares once and then keeps at hand. mysql_async caches them
//! too, but finds each by its text, which it parses and hashes again for every call: those of large
//! groups have some kilobytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use mysql_async::Statement;

use super::conn::Conn;

/// The text of a statement that is prepared at most once on each connection.
pub struct SqlText {
    /// Unique per text.
    number: usize,
    sql: String,
}

impl SqlText {
    /// From SQL with `?` for each value.
    pub fn new(sql: String) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        SqlText { number: NEXT.fetch_add(1, Ordering::Relaxed), sql }
    }

    /// The SQL.
    pub fn as_str(&self) -> &str {
        &self.sql
    }
}

/// The prepared statements of one connection.
pub enum Prepared {
    /// All are at hand.
    AtHand(HashMap<usize, Statement>),
    /// For the tables of many sites there are more statements than a connection keeps: each is
    /// found by its text, so that mysql_async, which closes the least recently used, sees which are
    /// in use.
    ByText,
}

impl Prepared {
    pub fn new(is_for_many_sites: bool) -> Self {
        if is_for_many_sites { Prepared::ByText } else { Prepared::AtHand(HashMap::new()) }
    }

    /// The statement of `text` on `conn`, which must be the same connection each time.
    ///
    /// # Errors
    /// The database's.
    pub async fn on(&mut self, conn: &mut Conn, text: &SqlText) -> Result<Statement, mysql_async::Error> {
        let Prepared::AtHand(at_hand) = self else { return conn.prep(text.as_str()).await };
        if let Some(statement) = at_hand.get(&text.number) {
            return Ok(statement.clone());
        }
        let statement = conn.prep(text.as_str()).await?;
        at_hand.insert(text.number, statement.clone());
        Ok(statement)
    }
}
