//! Chooses which of several hosts to connect to.

use std::time::Instant;

use tracing::warn;

use super::server::{Connection, Mode};
use super::{Database, DatabaseError, HOST_LIMIT, HOSTS_REST, Session, hosts};

/// A host that is not in use.
pub struct OtherHost {
    place: usize,
    in_use: usize,
}

impl Database {
    /// Connects to the host in use, or to the first other one that accepts writes.
    pub(super) async fn of_several(&self, mode: Mode) -> Result<Connection, DatabaseError> {
        loop {
            let place = {
                let at = self.at();
                match &at.failed {
                    Some((when, error)) if when.elapsed() < HOSTS_REST => return Err(error.clone()),
                    _ => at.place,
                }
            };
            if let Some(connection) = self.from(place, mode).await? {
                return Ok(connection);
            }
        }
    }

    /// Connects to the host `begin`, or to the first other one that accepts writes. `None` if
    /// another was taken into use meanwhile.
    async fn from(&self, begin: usize, mode: Mode) -> Result<Option<Connection>, DatabaseError> {
        let (mut unreachable, mut passed_over) = (Vec::new(), Vec::new());
        let mut is_read_only = false;
        let mut behind = None;
        for place in hosts::order(begin, self.hosts.len()) {
            match self.connection(place, mode).await {
                Ok(connection) if connection.is_fit() => {
                    return Ok(self.taken(place, begin, connection, &passed_over, &unreachable));
                }
                Ok(connection) => {
                    passed_over.push(format!("{}: {}", self.label(place), connection.unfit()));
                    is_read_only |= !connection.writable;
                    if connection.writable && behind.is_none() {
                        behind = Some((place, connection));
                    }
                }
                Err(DatabaseError::NoConnection) => {
                    unreachable.push(format!("{}: no answer within {HOST_LIMIT:?}", self.label(place)));
                }
                Err(error) => unreachable.push(format!("{}: {error}", self.label(place))),
            }
        }
        // The last node of a cluster may be a donor for one that joins; WordPress continues to use
        // it meanwhile.
        if let Some((place, connection)) = behind {
            return Ok(self.taken(place, begin, connection, &passed_over, &unreachable));
        }
        // A read-only host may be about to accept writes.
        let error = if is_read_only { DatabaseError::ReadOnly } else { DatabaseError::Connect(unreachable.join("; ")) };
        let mut at = self.at();
        if at.place != begin {
            return Ok(None);
        }
        at.failed = Some((Instant::now(), error.clone()));
        Err(error)
    }

    /// `connection` to the host at `place`, if that is taken into use.
    fn taken(
        &self,
        place: usize,
        begin: usize,
        connection: Connection,
        passed_over: &[String],
        unreachable: &[String],
    ) -> Option<Connection> {
        // The generation is set only now: the one that begins with this connection.
        let why = [passed_over, unreachable].concat().join("; ");
        self.go_on_at(place, begin, &why).then(|| Connection { generation: self.generation(), ..connection })
    }

    /// The hosts that are not in use, in the order of attempts.
    pub fn other_hosts(&self) -> impl Iterator<Item = OtherHost> + use<> {
        let in_use = self.at().place;
        hosts::order(in_use, self.hosts.len()).skip(1).map(move |place| OtherHost { place, in_use })
    }

    /// A connection to a host that is not in use, like one of [`Database::transactions`]; `None` if
    /// it accepts no writes.
    ///
    /// # Errors
    /// As for [`Database::session`].
    pub async fn transactions_at(&self, other: &OtherHost) -> Result<Option<Session<'_>>, DatabaseError> {
        let permit = self.permit().await?;
        self.make_room();
        let connection = self.connection(other.place, Mode::Transactions).await?;
        Ok(connection.writable.then(|| self.lend(connection, permit)))
    }

    /// Takes another host into use.
    pub fn go_on_at_other(&self, other: &OtherHost) {
        self.go_on_at(other.place, other.in_use, "it refuses rotations");
    }

    /// Takes the host at `place` into use instead of the one at `from`, unless another was taken
    /// meanwhile: a primary that hung accepts writes when it wakes up, and a connection begun
    /// earlier must not lead back to it.
    fn go_on_at(&self, place: usize, from: usize, why: &str) -> bool {
        let before = {
            let mut at = self.at();
            if at.place != from && at.place != place {
                return false;
            }
            std::mem::replace(&mut at.place, place)
        };
        if before != place {
            self.distrust();
            let (host, before) = (self.label(place), self.label(before));
            warn!(
                host,
                before,
                why,
                "the database's host accepts no writes or cannot be reached; another one is used from now on"
            );
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wordpress::database::Hosts;
    use mysql_async::OptsBuilder;

    #[test]
    fn a_connection_that_was_begun_before_does_not_lead_back() {
        let host = |name: &str| mysql_async::Opts::from(OptsBuilder::default().ip_or_hostname(name));
        let database = Database::new(Hosts::new(vec![host("a"), host("b"), host("c")]));
        assert!(database.go_on_at(0, 0, ""), "it stays");
        assert!(database.go_on_at(1, 0, ""), "0 is away");
        assert!(!database.go_on_at(0, 0, ""), "0 was asked before, and wakes up");
        assert!(!database.go_on_at(2, 0, ""));
        assert!(database.go_on_at(1, 0, ""), "another's choice is the same");
        assert!(database.go_on_at(2, 1, ""), "1 is away, too");
        assert_eq!(database.at().place, 2);
    }
}
