//! The reasons why the store cannot be used, in words for operators.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// A reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No answer in time.
    Slow(Duration),
    /// The text of the system or of TLS.
    Io(String),
    /// The file of authorities cannot be read.
    Authorities(String),
    /// The store answers with an error.
    // SECURITY: never in the server's own words: a server repeats a command that it does not know,
    // and the login is a command.
    Refuses(Refusal),
}

/// The kind of an error answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The login failed or is missing.
    Login,
    /// The store's access rights forbid the command.
    Rights,
    /// Connecting or logging in failed at all servers of a cluster.
    NoConnection,
    Loading,
    ReadOnly,
    Full,
    NotSaved,
    NoPrimary,
    NotAllSlots,
    Busy,
    /// Another error about one key or command, or another kind of server.
    Other,
}

impl Trouble {
    pub(super) fn of(error: &RedisError) -> Self {
        let refusal = match (error.kind(), error.code()) {
            // SECURITY: without a source the text is not the system's or TLS's: errors of a cluster's
            // connections repeat what its servers answered.
            (ErrorKind::Io, _) if error.source().is_none() && error.detail().is_some() => Refusal::NoConnection,
            (ErrorKind::Io, _) => return Trouble::Io(error.to_string()),
            (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => Refusal::Login,
            (ErrorKind::Server(ServerErrorKind::NoPerm), _) => Refusal::Rights,
            _ if error.detail().is_some_and(is_of_script_rights) => Refusal::Rights,
            (ErrorKind::Server(ServerErrorKind::BusyLoading), _) => Refusal::Loading,
            (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => Refusal::ReadOnly,
            (ErrorKind::Server(ServerErrorKind::MasterDown), _)
            | (ErrorKind::MasterNameNotFoundBySentinel | ErrorKind::EmptySentinelList, _) => Refusal::NoPrimary,
            (ErrorKind::Server(ServerErrorKind::ClusterDown) | ErrorKind::ClusterConnectionNotFound, _) => {
                Refusal::NotAllSlots
            }
            (_, Some("OOM")) => Refusal::Full,
            (_, Some("MISCONF")) => Refusal::NotSaved,
            (_, Some("BUSY")) => Refusal::Busy,
            _ => Refusal::Other,
        };
        Trouble::Refuses(refusal)
    }

    /// Whether other requests may still get answers.
    pub(super) fn is_of_one_question(&self) -> bool {
        matches!(self, Trouble::Refuses(Refusal::Rights | Refusal::Other))
    }
}

/// Whether the server forbids a command within a script. It has no code of its own: Redis 7 says the
/// first, Redis 6 the second (script_lua.c).
fn is_of_script_rights(words: &str) -> bool {
    words.contains("ACL failure in script") || words.contains("can't run this command")
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Slow(limit) => write!(f, "no answer within {limit:?}"),
            Trouble::Io(words) => f.write_str(words),
            Trouble::Authorities(words) => write!(f, "rate_limit.store_ca_file cannot be read: {words}"),
            Trouble::Refuses(refusal) => f.write_str(match refusal {
                Refusal::Login => "login failed, or a login is required",
                Refusal::Rights => {
                    "its access rights forbid it to this user: GET, GETRANGE, SET, DEL, EVALSHA, SCRIPT LOAD, PTTL \
                                    and INCR are needed for the keys with the prefix"
                }
                Refusal::NoConnection => "no server of the cluster can be connected to, or the login failed",
                Refusal::Loading => "it is still loading its data (LOADING)",
                Refusal::ReadOnly => "it is a replica (READONLY)",
                Refusal::Full => "its memory is full (OOM)",
                Refusal::NotSaved => "it accepts no writes, because it cannot save them (MISCONF)",
                Refusal::NoPrimary => "it has no primary, or the Sentinels do not know the service",
                Refusal::NotAllSlots => "the cluster is not whole, or none of its servers can be reached",
                Refusal::Busy => "blocked by another client's script (BUSY)",
                Refusal::Other => "it answers with an error: is it a Redis from version 5, or a Valkey?",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_reported_in_words_of_our_own() {
        let said = |answer: &str| {
            let value = redis::parse_redis_value(answer.as_bytes()).unwrap();
            Trouble::of(&value.extract_error().unwrap_err())
        };
        for (answer, refusal) in [
            ("-NOAUTH Authentication required.\r\n", Refusal::Login),
            ("-WRONGPASS invalid username-password pair\r\n", Refusal::Login),
            ("-NOPERM this user has no permissions\r\n", Refusal::Rights),
            ("-LOADING Redis is loading\r\n", Refusal::Loading),
            ("-READONLY You can't write\r\n", Refusal::ReadOnly),
            ("-OOM command not allowed\r\n", Refusal::Full),
            ("-MISCONF Redis is configured\r\n", Refusal::NotSaved),
            ("-MASTERDOWN Link with MASTER is down\r\n", Refusal::NoPrimary),
            ("-CLUSTERDOWN Hash slot not served\r\n", Refusal::NotAllSlots),
            ("-BUSY Redis is busy\r\n", Refusal::Busy),
            ("-WRONGTYPE Operation against a key\r\n", Refusal::Other),
            ("-ERR unknown command 'hunter2'\r\n", Refusal::Other),
        ] {
            let trouble = said(answer);
            assert_eq!(trouble, Trouble::Refuses(refusal), "{answer}");
            assert!(!trouble.to_string().contains("hunter2"));
        }
        let (kind, words) = (ErrorKind::Io, "Failed to create initial connections");
        let trouble = Trouble::of(&RedisError::from((kind, words, "unknown command 'hunter2'".to_owned())));
        assert_eq!(trouble, Trouble::Refuses(Refusal::NoConnection));
        let system = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "Connection refused");
        assert_eq!(Trouble::of(&system.into()), Trouble::Io("Connection refused".to_owned()));
        assert!(said("-ERR value is not an integer\r\n").is_of_one_question());
        assert!(!said("-READONLY x\r\n").is_of_one_question() && !Trouble::Slow(Duration::ZERO).is_of_one_question());
    }
}
