//! Errors of the database, and what the server's error codes mean.

use mysql_async::{DriverError, Error};

use super::{CONNECT_LIMIT, NotUnderstood};

/// Characters shown of a server's message during connecting: usually it has a hundred, but it may
/// have millions.
const SHOWN: usize = 400;

/// An error of the database. No variant contains a bound value, so no message contains a token.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DatabaseError {
    /// No connection within the limit.
    #[error("no database connection within {CONNECT_LIMIT:?}")]
    NoConnection,
    /// The server cannot be reached or refuses. Its message names user and host, never the
    /// password.
    #[error("cannot connect to the database: {0}")]
    Connect(String),
    /// TLS failed, or the certificate is not verified. States the cause and the fix.
    #[error("cannot connect to the database by TLS: {0}")]
    Tls(String),
    /// Of several hosts, those that can be reached are read-only.
    #[error("no host of the database accepts writes")]
    ReadOnly,
    /// A statement took longer than the rotation may take.
    #[error("the database did not answer in time")]
    TimedOut,
    /// The server or the connection failed. The server's own message is not kept: it can quote
    /// values.
    #[error("database error {}", .0.as_ref().map_or_else(|| "(connection lost)".to_owned(), |code| code.to_string()))]
    Failed(Option<u16>),
    /// A response of the server made the client library panic.
    #[error(transparent)]
    NotUnderstood(#[from] NotUnderstood),
    /// A column contains an unexpected value.
    #[error("unexpected value in column {0}")]
    Column(&'static str),
}

/// Results of COMMIT with which the server says that it has rolled back: a lock that the commit
/// needs was not acquired in time (1205; a backup holds it), a cluster's conflict (1213), read-only
/// (1290), group replication's conflict (3101). In each case the server's own code
/// (`ha_commit_trans`, and Galera's certification) rolls back before it responds. All others are
/// ambiguous. A server that is shutting down (1053), or a connection that is killed (1317, 1927) or
/// out of time (1969, 3024), may be interrupted when the commit is complete except for its result.
/// 1180 may come from the engine when the binary log already has the transaction, and on a cluster
/// when the node lost the others while they received it; 1047 when the node left the cluster. A
/// proxy has codes of its own.
const ROLLED_BACK: [u16; 4] = [1205, 1213, 1290, 3101];

/// The server no longer accepts writes (1290, 1836), or nothing at all because it is not part of
/// its cluster (1047).
const UNFIT: [u16; 3] = [1047, 1290, 1836];

/// Why a server refuses a statement of a rotation. All of these last, except that a server may be
/// read-only while another takes its place.
///
/// Other errors (a crashed table 1194 and 1195, a missing tablespace 1812 and 1814, a full disk
/// 1021, a full table 1114) are the database's own trouble: they would affect WordPress as well,
/// and worse, since the plugin ignores failed writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A table (1146), a column (1054) or an index (1176) is missing: the sidecar may have the
    /// wrong names.
    Absent,
    /// The server prepares no (more) statements (1461, 1295): WordPress needs none.
    Unprepared,
    /// The server accepts no writes (1290, 1792, 1836), or none of several hosts does.
    ReadOnly,
    /// The account lacks the privilege (1142, 1143, 1044), or has used up its hourly quota (1226).
    Denied,
}

impl DatabaseError {
    /// Whether it means that the server would refuse the statement every time, and why.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            DatabaseError::ReadOnly => Some(Refusal::ReadOnly),
            _ => match self.code()? {
                1146 | 1054 | 1176 => Some(Refusal::Absent),
                1461 | 1295 => Some(Refusal::Unprepared),
                1290 | 1792 | 1836 => Some(Refusal::ReadOnly),
                1142 | 1143 | 1044 | 1226 => Some(Refusal::Denied),
                _ => None,
            },
        }
    }

    /// The server's error code, if the server sent an error.
    pub fn code(&self) -> Option<u16> {
        match self {
            DatabaseError::Failed(code) => *code,
            DatabaseError::NoConnection
            | DatabaseError::Connect(_)
            | DatabaseError::Tls(_)
            | DatabaseError::ReadOnly
            | DatabaseError::TimedOut
            | DatabaseError::NotUnderstood(_)
            | DatabaseError::Column(_) => None,
        }
    }

    /// Why connecting failed. Pure.
    pub(super) fn connecting(error: &Error) -> Self {
        let what = match error {
            Error::Other(error) => error.to_string(),
            Error::Driver(DriverError::UnexpectedPacket { .. } | DriverError::PacketOutOfOrder) => {
                "it sent what does not belong there; is it a MySQL or MariaDB?".to_owned()
            }
            Error::Driver(DriverError::UnknownAuthPlugin { name }) => format!(
                "the account logs in by the plugin {name:?}, which is not supported; these are: mysql_native_password, \
                 caching_sha2_password, client_ed25519, parsec, and unix_socket on a local socket"
            ),
            Error::Driver(DriverError::CleartextPluginDisabled) => {
                "the account's plugin wants the password in the clear (mysql_clear_password), which is not supported"
                    .to_owned()
            }
            error => error.to_string(),
        };
        // SECURITY: a server's message may have any length, and control characters that `check`
        // would send to a terminal.
        let shown = what.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
        let mut shown: String = shown.take(SHOWN).collect();
        if shown.len() < what.len() {
            shown.push('…');
        }
        DatabaseError::Connect(shown)
    }

    /// As the result of a COMMIT: whether it means that nothing was stored. If not, that has to be
    /// looked up.
    pub fn says_rolled_back(&self) -> bool {
        self.code().is_some_and(|code| ROLLED_BACK.contains(&code))
    }

    /// Whether it means that this server must not be used (any more).
    pub fn says_unfit(&self) -> bool {
        self.code().is_some_and(|code| UNFIT.contains(&code))
    }
}

// SECURITY: "Duplicate entry '…'" and "Incorrect string value: '…'" quote values, and a value may
// be a token.
impl From<Error> for DatabaseError {
    fn from(error: Error) -> Self {
        match error {
            Error::Server(server) => DatabaseError::Failed(Some(server.code)),
            Error::Other(other) => match other.downcast::<NotUnderstood>() {
                Ok(not_understood) => DatabaseError::NotUnderstood(*not_understood),
                Err(_) => DatabaseError::Failed(None),
            },
            _ => DatabaseError::Failed(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_text_is_not_kept() {
        let error = mysql_async::Error::Server(mysql_async::ServerError {
            code: 1062,
            message: "Duplicate entry 'ec340f876883c47408780273068776d0' for key 'x'".to_owned(),
            state: "23000".to_owned(),
        });
        let error = DatabaseError::from(error);
        assert_eq!(error.to_string(), "database error 1062");
        assert!(!format!("{error:?}").contains("ec340f"));
    }

    #[test]
    fn what_a_server_refuses_each_time() {
        let of = |code| DatabaseError::Failed(Some(code)).refusal();
        for (codes, refusal) in [
            (&[1146, 1054, 1176][..], Some(Refusal::Absent)),
            (&[1461, 1295], Some(Refusal::Unprepared)),
            (&[1290, 1792, 1836], Some(Refusal::ReadOnly)),
            (&[1142, 1143, 1044, 1226], Some(Refusal::Denied)),
            // Temporary errors, those of one row, and those that affect WordPress as much.
            (&[1205, 1213, 1020, 1047, 1053, 1317, 1406, 1062, 1021, 1114, 1194, 1195, 1812, 1814, 1932], None),
        ] {
            for code in codes {
                assert_eq!(of(*code), refusal, "{code}");
            }
        }
        assert_eq!(DatabaseError::ReadOnly.refusal(), Some(Refusal::ReadOnly));
        for error in [DatabaseError::NoConnection, DatabaseError::TimedOut, DatabaseError::Failed(None)] {
            assert_eq!(error.refusal(), None);
        }
    }

    #[test]
    fn what_a_server_says_is_cut_and_harmless() {
        let said = |message: String| {
            let error = Error::Server(mysql_async::ServerError { code: 1045, message, state: "28000".to_owned() });
            DatabaseError::connecting(&error).to_string()
        };
        let shown = said(format!("\u{1b}[2J{}", "x".repeat(5_000_000)));
        assert!(shown.contains("ERROR 1045 (28000)") && shown.ends_with('…') && shown.len() < 600, "{shown}");
        assert!(!shown.contains('\u{1b}'));
        assert!(!said("Access denied for user 'ü'@'localhost'".to_owned()).ends_with('…'), "it is shown whole");
    }

    #[test]
    fn a_panic_of_the_library_keeps_its_place() {
        let error = DatabaseError::from(Error::Other(Box::new(NotUnderstood("conn/mod.rs:780".to_owned()))));
        assert!(matches!(&error, DatabaseError::NotUnderstood(_)) && error.to_string().contains("conn/mod.rs:780"));
        assert_eq!(error.code(), None);
    }

    #[test]
    fn which_answers_to_a_commit_are_certain() {
        for code in [1205, 1213, 1290, 3101] {
            assert!(DatabaseError::Failed(Some(code)).says_rolled_back(), "{code}");
        }
        for code in [1020, 1047, 1053, 1158, 1161, 1180, 1317, 1836, 1927, 1969, 3024, 9001] {
            assert!(!DatabaseError::Failed(Some(code)).says_rolled_back(), "{code}");
        }
        assert!(!DatabaseError::Failed(None).says_rolled_back());
    }
}
