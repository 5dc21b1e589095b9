//! Clusters: how a read waits for what other nodes have committed, and whether a node is fit for
//! use.
//!
//! A node of Galera or of Group Replication certifies another node's commit at once and applies it
//! a moment later. A read in between does not see the row of a token that its client already has. A
//! read that waits for it is a *causal* read.

use std::fmt;
use std::time::Duration;

use mysql_async::Row;
use tokio::time::timeout;

use super::conn::Conn;
use super::server::{Mode, known};
use super::{ANSWER_LIMIT, Database, DatabaseError, Session};

/// How long a causal read may take. The server's own limit (Galera's `causal_read_timeout`) is 30
/// s, and `max_statement_time` does not apply. A rotation that follows has time left.
pub const CAUSAL_LIMIT: Duration = Duration::from_millis(1500);

/// Causal reads at a time, besides those of look-ups: while a node is behind, each holds a
/// connection.
pub(super) const CAUSAL_READS: usize = 2;

/// Part of the statement that asks a new connection for its other abilities, so that it costs no
/// round trip. A server rejects the variables of the other product, while these tables omit them.
/// MariaDB runs the first comment, and skips those for versions from 5.7 to 9; MySQL runs the
/// second.
pub(super) const VARIABLES: &str = " \
    /*M!100600 , (SELECT GROUP_CONCAT(LOWER(VARIABLE_NAME), '=', VARIABLE_VALUE) FROM information_schema.GLOBAL_VARIABLES \
    WHERE VARIABLE_NAME = 'WSREP_ON') */ \
    /*!80000 , (SELECT GROUP_CONCAT(LOWER(VARIABLE_NAME), '=', VARIABLE_VALUE) FROM performance_schema.global_variables \
    WHERE VARIABLE_NAME IN ('wsrep_on', 'group_replication_group_name')) */";

/// The setting that makes a single statement causal.
const SETTING: &str = "wsrep_sync_wait = 1";

/// The same as a prefix of a statement.
const STATEMENT: &str = "SET STATEMENT wsrep_sync_wait = 1 FOR ";

/// How a read of a cluster's node is made causal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Causality {
    /// MariaDB with Galera: per statement. It is silently ignored inside a transaction that has
    /// begun.
    Statement,
    /// MySQL with Galera (Percona XtraDB Cluster): per session, outside a transaction.
    Session,
    /// Group Replication: per session, when its transactions begin.
    Group,
}

impl Causality {
    /// From the result of [`VARIABLES`]; `None` if the server is not part of a cluster. Pure.
    pub(super) fn of(variables: &str, sets_statement: bool) -> Option<Self> {
        let value_of = |name: &str| {
            variables.split(',').filter_map(|variable| variable.split_once('=')).find(|(known, _)| *known == name)
        };
        let is_galera = value_of("wsrep_on").is_some_and(|(_, on)| on == "1" || on.eq_ignore_ascii_case("ON"));
        match (is_galera, sets_statement) {
            (true, true) => Some(Causality::Statement),
            (true, false) => Some(Causality::Session),
            // It is empty on a server that only has the plugin installed.
            _ if value_of("group_replication_group_name").is_some_and(|(_, name)| !name.is_empty()) => {
                Some(Causality::Group)
            }
            _ => None,
        }
    }

    pub(super) async fn set_for_session(self, conn: &mut Conn) -> Result<(), mysql_async::Error> {
        match self {
            Causality::Statement => Ok(()),
            Causality::Session => conn.query_drop("SET SESSION wsrep_sync_wait = 1").await,
            Causality::Group => conn.query_drop("SET SESSION group_replication_consistency = 'BEFORE'").await,
        }
    }
}

/// The state of a node, as it reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeState {
    /// Galera's `wsrep_local_state_comment`: "Synced", "Donor/Desynced", "Joined", …; Group
    /// Replication's `MEMBER_STATE`: "ONLINE", "RECOVERING", "ERROR", …
    state: String,
    /// Galera's `wsrep_cluster_status`: "Primary", "non-Primary", "Disconnected"; Group
    /// Replication's `MEMBER_ROLE`: "PRIMARY", "SECONDARY".
    part: String,
    /// How many nodes it sees.
    nodes: Option<u64>,
    /// Group Replication's: how many members the group has, those that it cannot reach included.
    members: Option<u64>,
}

/// Needs the right to read the table, which users of a site do not have by themselves.
const MEMBER: &str = "SELECT MEMBER_STATE, MEMBER_ROLE, \
    (SELECT COUNT(*) FROM performance_schema.replication_group_members WHERE MEMBER_STATE IN ('ONLINE', 'RECOVERING')), \
    (SELECT COUNT(*) FROM performance_schema.replication_group_members) \
    FROM performance_schema.replication_group_members WHERE MEMBER_ID = @@server_uuid";

impl NodeState {
    pub(super) async fn ask(conn: &mut Conn) -> Result<Option<Self>, mysql_async::Error> {
        let asked = "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_local_state_comment', 'wsrep_cluster_status', \
                     'wsrep_cluster_size')";
        let rows: Vec<Row> = match conn.query(asked).await {
            Err(mysql_async::Error::Server(_)) => return Ok(None),
            rows => rows?,
        };
        let (mut state, mut part, mut nodes) = (None, None, None);
        for mut row in rows {
            let name: Option<String> = known(&mut row, 0);
            match name.map(|name| name.to_ascii_lowercase()).as_deref() {
                Some("wsrep_local_state_comment") => state = known(&mut row, 1),
                Some("wsrep_cluster_status") => part = known(&mut row, 1),
                Some("wsrep_cluster_size") => nodes = known::<String>(&mut row, 1).and_then(|nodes| nodes.parse().ok()),
                _ => {}
            }
        }
        Ok(state.zip(part).map(|(state, part)| NodeState { state, part, nodes, members: None }))
    }

    /// The same of a member of Group Replication; `None` where this user may not read it.
    pub(super) async fn of_member(conn: &mut Conn) -> Result<Option<Self>, mysql_async::Error> {
        let row: Option<Row> = match conn.query_first(MEMBER).await {
            Err(mysql_async::Error::Server(_)) => return Ok(None),
            row => row?,
        };
        let Some(mut row) = row else { return Ok(None) };
        let (state, part, nodes) = (known(&mut row, 0), known(&mut row, 1), known(&mut row, 2));
        let members = known(&mut row, 3);
        Ok(state.zip(part).map(|(state, part)| NodeState { state, part, nodes, members }))
    }

    /// Whether it has everything that the cluster has, and the cluster's quorum.
    pub(super) fn is_synced(&self) -> bool {
        let is_of_galera = self.state.eq_ignore_ascii_case("Synced") && self.part.eq_ignore_ascii_case("Primary");
        is_of_galera || (self.state.eq_ignore_ascii_case("ONLINE") && !self.is_of_minority())
    }

    /// Whether it is a member of Group Replication that reaches half of the group or less. It stays
    /// ONLINE, and its commits wait.
    fn is_of_minority(&self) -> bool {
        self.nodes.zip(self.members).is_some_and(|(nodes, members)| nodes <= members / 2)
    }
}

/// How the node in use stood when it was last asked, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// "Synced, Primary", "ONLINE, SECONDARY".
    pub state: String,
    /// Whether it is a node to use.
    pub is_synced: bool,
    /// How many nodes it sees.
    pub nodes: Option<u64>,
}

impl fmt::Display for NodeView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.state)?;
        match self.nodes {
            Some(1) => f.write_str(", the only node that it sees"),
            Some(nodes) => write!(f, ", {nodes} nodes"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.state, self.part)?;
        if self.is_of_minority() { f.write_str(", without the majority") } else { Ok(()) }
    }
}

impl Database {
    /// How reads are made causal, if the server of the newest connection is a node of a cluster.
    pub fn causality(&self) -> Option<Causality> {
        self.at().causality
    }

    /// Whether the server of the newest connection is a node of a cluster.
    pub fn is_cluster(&self) -> bool {
        self.causality().is_some()
    }

    /// What the node in use reported when it was last asked: with its newest connection, or by
    /// [`Database::look_at_node`].
    pub fn node_state(&self) -> Option<String> {
        self.at().node.as_ref().map(ToString::to_string)
    }

    /// The same, as a whole.
    pub fn node_view(&self) -> Option<NodeView> {
        let at = self.at();
        let node = at.node.as_ref()?;
        Some(NodeView { state: node.to_string(), is_synced: node.is_synced(), nodes: node.nodes })
    }

    /// Asks the node in use for its state, which is unknown after an error. Nothing on a single
    /// server.
    ///
    /// # Errors
    /// The database's.
    pub async fn look_at_node(&self) -> Result<(), DatabaseError> {
        let Some(causality) = self.causality() else { return Ok(()) };
        let looked = self.looked_at_node(causality).await;
        let (node, result) = match looked {
            Ok(node) => (node, Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.at().node = node;
        result
    }

    async fn looked_at_node(&self, causality: Causality) -> Result<Option<NodeState>, DatabaseError> {
        let mut session = self.session().await?;
        let asked = async {
            Ok::<_, DatabaseError>(match causality {
                Causality::Statement | Causality::Session => NodeState::ask(session.conn()).await?,
                Causality::Group => NodeState::of_member(session.conn()).await?,
            })
        };
        let node = self.within(ANSWER_LIMIT, asked).await?;
        session.give_back();
        Ok(node)
    }

    /// What [`Database::node_state`] says, if other nodes should be preferred.
    pub fn unsynced_node(&self) -> Option<String> {
        self.at().node.as_ref().filter(|node| !node.is_synced()).map(ToString::to_string)
    }

    /// A connection for [causal reads](Session::causal), idle or new; on a single server any.
    ///
    /// # Errors
    /// As for [`Database::session`].
    pub async fn causal_session(&self) -> Result<Session<'_>, DatabaseError> {
        self.of_mode(self.causal_mode()).await
    }

    /// Like [`Database::causal_session`], but new; idle ones are closed.
    ///
    /// # Errors
    /// As for [`Database::session`].
    pub async fn fresh_causal_session(&self) -> Result<Session<'_>, DatabaseError> {
        self.fresh(self.causal_mode()).await
    }

    fn causal_mode(&self) -> Mode {
        match self.causality() {
            Some(Causality::Session | Causality::Group) => Mode::Causal,
            Some(Causality::Statement) | None => Mode::Autocommit,
        }
    }

    /// Awaits the causal read `asked` for at most `limit`. A node that exceeds the limit is behind;
    /// if there is another host, the next connection checks both.
    ///
    /// # Errors
    /// Those of `asked`; [`DatabaseError::TimedOut`].
    pub async fn causally<T>(
        &self,
        limit: Duration,
        asked: impl Future<Output = Result<T, DatabaseError>>,
    ) -> Result<T, DatabaseError> {
        match timeout(limit, asked).await {
            Ok(answer) => answer.inspect_err(|error| self.heed(error)),
            Err(_) => {
                if self.hosts.len() > 1 {
                    self.distrust();
                }
                Err(DatabaseError::TimedOut)
            }
        }
    }

    /// Like [`Database::causally`], but only a few run at a time, and others wait within the limit.
    /// On a single server like [`Database::within`].
    ///
    /// # Errors
    /// As for [`Database::causally`].
    pub async fn causally_in_turn<T>(
        &self,
        single: Duration,
        asked: impl Future<Output = Result<T, DatabaseError>>,
    ) -> Result<T, DatabaseError> {
        if !self.is_cluster() {
            return self.within(single, asked).await;
        }
        self.causally(CAUSAL_LIMIT, async {
            // SECURITY: a client may present a used token any number of times, and each would hold
            // a connection.
            let _permit = self.causal_reads.acquire().await.map_err(|_| DatabaseError::NoConnection)?;
            asked.await
        })
        .await
    }
}

impl Session<'_> {
    /// The prefix for a SELECT that must see everything that any node has committed; the session
    /// must be from [`Database::causal_session`]. Empty on a single server.
    pub fn causal(&self) -> &'static str {
        match self.connection.abilities.causality {
            Some(Causality::Statement) => STATEMENT,
            Some(Causality::Session | Causality::Group) | None => "",
        }
    }

    /// The same as a setting for `SET STATEMENT`, for a statement with other settings: it can have
    /// only one such prefix.
    pub fn causal_setting(&self) -> Option<&'static str> {
        (!self.causal().is_empty()).then_some(SETTING)
    }

    /// Like [`Session::begin_at_writer`], for a causal read. A read that would not be causal inside
    /// a transaction stays outside: it is causal on whichever node a proxy sends it to.
    ///
    /// # Errors
    /// The database's.
    pub async fn begin_causal(&mut self) -> Result<(), DatabaseError> {
        match self.connection.abilities.causality {
            Some(Causality::Statement | Causality::Session) => Ok(()),
            Some(Causality::Group) | None => self.begin_at_writer().await,
        }
    }

    /// On a cluster, waits for everything that any node has committed; `table` must be readable. On
    /// a single server it does nothing.
    ///
    /// # Errors
    /// The database's.
    pub async fn catch_up(&mut self, table: &str) -> Result<(), DatabaseError> {
        if self.connection.abilities.causality.is_some() {
            let read = format!("{}SELECT 1 FROM {table} LIMIT 1", self.causal());
            self.connection.conn.query_drop(read).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_its_cluster() {
        for (variables, sets_statement, expected) in [
            ("wsrep_on=ON", true, Some(Causality::Statement)),
            ("wsrep_on=1", true, Some(Causality::Statement)),
            ("wsrep_on=ON", false, Some(Causality::Session)),
            ("wsrep_on=ON,group_replication_group_name=", false, Some(Causality::Session)),
            ("group_replication_group_name=aaaaaaaa-bbbb", false, Some(Causality::Group)),
            ("wsrep_on=OFF", true, None),
            ("wsrep_on=OFF", false, None),
            ("group_replication_group_name=", false, None),
            ("", true, None),
        ] {
            assert_eq!(Causality::of(variables, sets_statement), expected, "{variables:?} {sets_statement}");
        }
    }

    #[test]
    fn which_nodes_are_synced() {
        let is_synced = |state: &str, part: &str| {
            NodeState { state: state.into(), part: part.into(), nodes: None, members: None }.is_synced()
        };
        assert!(is_synced("Synced", "Primary"));
        for (state, part) in [("Donor/Desynced", "Primary"), ("Joined", "Primary"), ("Initialized", "non-Primary")] {
            assert!(!is_synced(state, part), "{state} {part}");
        }
        for (nodes, members, expected) in [(3, 3, true), (2, 3, true), (1, 3, false), (1, 2, false), (1, 1, true)] {
            let (state, part) = ("ONLINE".to_owned(), "PRIMARY".to_owned());
            let node = NodeState { state, part, nodes: Some(nodes), members: Some(members) };
            assert_eq!(node.is_synced(), expected, "{node}");
            assert_eq!(node.to_string().contains("without the majority"), !expected, "{node}");
        }
    }
}
