//! The statements of a rotation one by one, for [`trial`](crate::refresh::trial) and the doctor.

use super::Store;
use crate::wordpress::database::{DatabaseError, Session};

/// A statement of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statement {
    /// Reads the user.
    User,
    /// Reads what is declared of the user.
    Declared,
    /// Reads and locks the token's row, and reads its user.
    Lock,
    /// Adds the new token.
    Insert,
    /// Revokes the old one.
    Revoke,
}

impl Statement {
    /// In an order in which each that is refused tells its table: a later one names those of earlier ones, too.
    pub const ALL: [Statement; 5] =
        [Statement::User, Statement::Declared, Statement::Lock, Statement::Insert, Statement::Revoke];

    /// The right that it needs. (MySQL wants UPDATE for FOR UPDATE, too; MariaDB does not.)
    pub fn right(self) -> &'static str {
        match self {
            Statement::User | Statement::Declared | Statement::Lock => "SELECT",
            Statement::Insert => "INSERT",
            Statement::Revoke => "UPDATE",
        }
    }
}

impl Store {
    /// The table of `statement`, without quotes; that of the tokens where it is not known which statement it was.
    pub fn table_of(&self, statement: Option<Statement>) -> &str {
        let quoted = match statement {
            Some(Statement::User) => &self.users,
            Some(Statement::Declared) => self.user_columns.usermeta().unwrap_or(&self.users),
            _ => &self.tokens,
        };
        quoted.trim_matches('`')
    }

    /// `statement` in its smallest form. A server that prepares it lets it be run: rights are looked at then, and nothing
    /// happens.
    pub fn text_of(&self, statement: Statement) -> &str {
        match statement {
            Statement::User => &self.plain_user,
            Statement::Declared => &self.user,
            Statement::Lock => self.lock.smallest().as_str(),
            Statement::Insert => self.insert.smallest().as_str(),
            Statement::Revoke => self.revoke.smallest().as_str(),
        }
    }

    /// Runs `statement` where no row can be: none has the id 0. The INSERT is prepared only, since it would use up an id.
    ///
    /// # Errors
    /// The database's.
    pub async fn tried(&self, session: &mut Session<'_>, statement: Statement) -> Result<(), DatabaseError> {
        match statement {
            Statement::User => Ok(session.conn().exec_drop(&self.plain_user, (0,)).await?),
            Statement::Declared => self.user(session, 0).await.map(drop),
            Statement::Lock => {
                let skips = session.abilities().skip_locked;
                self.lock(session, &[0], skips).await.map(drop)
            }
            Statement::Insert => session.prepared(self.insert.smallest()).await.map(drop),
            Statement::Revoke => self.revoke_locked(session, &[0]).await,
        }
    }
}
