//! Tests whether the database lets rotations run: runs their statements on a row that cannot exist,
//! in a transaction that is rolled back.
//!
//! Measured on MariaDB 10.11: PREPARE reports a missing table, column or index (1146, 1054, 1176)
//! and a missing privilege (1142). So the INSERT is only prepared; running it would use up an id
//! each time, even if rolled back. A read-only server (1290, 1792) or an exhausted account quota
//! (1226) shows only when a statement runs: the UPDATE runs, and finds no row with the id 0.

use super::store::{Statement, Store};
use crate::wordpress::database::{DatabaseError, Refusal, Session};

/// The result of a trial.
#[derive(Debug, Clone)]
pub enum Trial {
    /// Rotations can run.
    Passed,
    /// They cannot, on two connections and on each host that accepts writes.
    Refused(Refused),
    /// The database failed in another way, so the result is unknown.
    Unknown(DatabaseError),
}

/// What the database refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub refusal: Refusal,
    /// The server's error code; `None` if no host accepts writes.
    pub code: Option<u16>,
    /// The statement; `None` if no statement was run.
    pub statement: Option<Statement>,
    pub table: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let table = &self.table;
        match self.refusal {
            Refusal::Absent => write!(f, "the table {table}, a column or an index of it is missing")?,
            Refusal::Unprepared => write!(f, "the server prepares no statement for the table {table}")?,
            Refusal::ReadOnly => write!(f, "the server accepts no writes to the table {table}")?,
            Refusal::Denied => {
                let right = self.statement.map_or("SELECT", Statement::right);
                write!(f, "the database user may not {right} in the table {table}")?;
            }
        }
        self.code.map_or(Ok(()), |code| write!(f, " (database error {code})"))
    }
}

impl Refused {
    pub fn fix(&self) -> &'static str {
        match self.refusal {
            Refusal::Absent => {
                "compare the table's name with the site's: the prefix, CUSTOM_USER_TABLE, and the database in \
                 wordpress.database_url"
            }
            Refusal::Unprepared => {
                "raise max_prepared_stmt_count at the server, or let the proxy in front of it pass prepared statements"
            }
            Refusal::ReadOnly => {
                "name a server that accepts writes in wordpress.database_url or wordpress.database_hosts, or switch its \
                 read_only off"
            }
            Refusal::Denied => "grant the right: `wp-jwt-sidecar doctor` prints the statements",
        }
    }
}

/// Tries a rotation's statements on new connections: open ones keep a privilege on a whole database
/// after it was revoked. A refusal is tested once more, and then on the other hosts; a host that
/// does not refuse is taken into use.
pub async fn run(store: &Store) -> Trial {
    let first = match once(store).await {
        Trial::Refused(first) => first,
        other => return other,
    };
    match once(store).await {
        Trial::Refused(again) if again == first => {
            for other in store.database.other_hosts() {
                let Ok(Some(mut session)) = store.database.transactions_at(&other).await else { continue };
                if on(store, &mut session).await.is_ok() {
                    store.database.go_on_at_other(&other);
                    return Trial::Passed;
                }
            }
            Trial::Refused(again)
        }
        other => other,
    }
}

async fn once(store: &Store) -> Trial {
    let database = &store.database;
    let tried = match database.fresh_transactions().await {
        Ok(mut session) => {
            let tried = on(store, &mut session).await;
            // Closed if that fails or its state is unknown.
            let answered = tried.as_ref().err().is_none_or(|(_, error)| error.code().is_some());
            if answered && session.rollback().await.is_ok() {
                session.give_back();
            }
            tried
        }
        Err(error) => Err((None, error)),
    };
    let Err((statement, error)) = tried else { return Trial::Passed };
    database.heed(&error);
    match error.refusal() {
        Some(refusal) => {
            let table = store.table_of(statement).to_owned();
            Trial::Refused(Refused { refusal, code: error.code(), statement, table })
        }
        None => Trial::Unknown(error),
    }
}

/// Tries them on one connection, whose transaction is open afterwards.
async fn on(store: &Store, session: &mut Session<'_>) -> Result<(), (Option<Statement>, DatabaseError)> {
    session.begin_at_writer().await.map_err(|error| (None, error))?;
    for statement in Statement::ALL {
        store.tried(session, statement).await.map_err(|error| (Some(statement), error))?;
    }
    Ok(())
}
