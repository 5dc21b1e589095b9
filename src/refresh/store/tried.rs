//! The statements of a rotation one by one, for [`trial`](crate::refresh::trial) and the doctor.

use super::Store;
use crate::refresh::row_cache::RowRef;
use crate::wordpress::database::{DatabaseError, Session};

/// A statement of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statement {
    User,
    /// Reads the values declared for the user.
    Declared,
    /// Reads and locks the token's row, and reads its user.
    Lock,
    /// Adds the new token.
    Insert,
    /// Revokes the old one.
    Revoke,
}

impl Statement {
    /// Ordered so that a refused one identifies its table: later statements also name the tables of
    /// earlier ones.
    pub const ALL: [Statement; 5] =
        [Statement::User, Statement::Declared, Statement::Lock, Statement::Insert, Statement::Revoke];

    /// The privilege that it needs. (MySQL also requires UPDATE for FOR UPDATE; MariaDB does not.)
    pub fn right(self) -> &'static str {
        match self {
            Statement::User | Statement::Declared | Statement::Lock => "SELECT",
            Statement::Insert => "INSERT",
            Statement::Revoke => "UPDATE",
        }
    }
}

impl Store {
    /// The table of `statement`, without quotes; the token table if the statement is unknown.
    pub fn table_of(&self, statement: Option<Statement>) -> &str {
        let quoted = match statement {
            Some(Statement::User) => &self.users,
            Some(Statement::Declared) => self.user_columns.usermeta().unwrap_or(&self.users),
            _ => &self.tokens,
        };
        quoted.trim_matches('`')
    }

    /// `statement` in its smallest form. A server that prepares it allows it: privileges are
    /// checked then, and nothing is changed.
    pub fn text_of(&self, statement: Statement) -> &str {
        match statement {
            Statement::User => &self.plain_user,
            Statement::Declared => &self.user,
            Statement::Lock => self.lock.smallest().as_str(),
            Statement::Insert => self.insert.smallest().as_str(),
            Statement::Revoke => self.revoke.smallest().as_str(),
        }
    }

    /// Runs `statement` for the id 0, which no row has. The INSERT is only prepared, since it would
    /// use up an id.
    ///
    /// # Errors
    /// The database's.
    pub async fn tried(&self, session: &mut Session<'_>, statement: Statement) -> Result<(), DatabaseError> {
        match statement {
            Statement::User => Ok(session.conn().exec_drop(&self.plain_user, (0,)).await?),
            Statement::Declared => self.user(session, 0).await.map(drop),
            Statement::Lock => {
                let skips = session.abilities().skip_locked;
                self.lock(session, &[RowRef::found(0, None)], skips).await.map(drop)
            }
            Statement::Insert => session.prepared(self.insert.smallest()).await.map(drop),
            Statement::Revoke => self.revoke_locked(session, &[0]).await,
        }
    }
}
