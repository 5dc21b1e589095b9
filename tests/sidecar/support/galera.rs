//! Three real nodes of a Galera cluster on loopback.

use std::time::Instant;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};

use super::mariadb::Database;
use super::port::Port;
use super::sidecar::PATIENCE;

/// Debian's (package galera-4).
const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";

/// One node.
pub struct Node {
    pub server: Database,
}

/// The cluster. The first node bootstrapped it, and would bootstrap another one if it was started
/// again.
pub struct Cluster {
    pub nodes: [Node; 3],
    _ports: Vec<Port>,
}

impl Cluster {
    pub async fn start() -> Cluster {
        // For each node: clients, group communication, incremental and full state transfer.
        let ports: Vec<Port> = (0..12).map(|_| Port::reserve()).collect();
        let number = |node: usize, which: usize| ports[4 * node + which].number();
        let members: Vec<String> = (0..3).map(|node| format!("127.0.0.1:{}", number(node, 1))).collect();
        let members = members.join(",");
        let mut nodes = Vec::new();
        for node in 0..3 {
            let [clients, group, incremental, whole] = [0, 1, 2, 3].map(|which| number(node, which));
            let mut options = vec![
                "--skip-networking=0".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--port={clients}"),
                format!("--server-id={}", node + 1),
                "--binlog-format=ROW".to_owned(),
                "--innodb-autoinc-lock-mode=2".to_owned(),
                "--wsrep-on=ON".to_owned(),
                format!("--wsrep-provider={PROVIDER}"),
                "--wsrep-cluster-name=test".to_owned(),
                format!("--wsrep-cluster-address=gcomm://{members}"),
                format!("--wsrep-node-name=node{}", node + 1),
                format!("--wsrep-node-address=127.0.0.1:{group}"),
                "--wsrep-sst-method=rsync".to_owned(),
                format!("--wsrep-sst-receive-address=127.0.0.1:{whole}"),
                "--wsrep-slave-threads=2".to_owned(),
                format!(
                    "--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:{group};\
                     ist.recv_addr=127.0.0.1:{incremental};gcache.size=64M"
                ),
            ];
            if node == 0 {
                options.push("--wsrep-new-cluster".to_owned());
            }
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let node = Node { server: Database::private_with(&options) };
            node.until("Synced").await;
            nodes.push(node);
        }
        let Ok(nodes) = nodes.try_into() else { unreachable!("there are three") };
        Cluster { nodes, _ports: ports }
    }

    /// The servers of the nodes.
    pub fn servers(&self) -> [&Database; 3] {
        self.nodes.each_ref().map(|node| &node.server)
    }
}

impl Node {
    /// Waits until the node reports this `state` (`wsrep_local_state_comment`).
    pub async fn until(&self, state: &str) {
        let deadline = Instant::now() + 3 * PATIENCE;
        loop {
            // A joining node may answer a ping, and close the next connection.
            let said = self.said("wsrep_local_state_comment").await;
            if said.as_ref().is_ok_and(|said| said == state) {
                return;
            }
            assert!(Instant::now() < deadline, "not in time {state}: {said:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// A status variable of the server.
    pub async fn status(&self, name: &str) -> String {
        self.said(name).await.unwrap()
    }

    async fn said(&self, name: &str) -> Result<String, mysql_async::Error> {
        let socket = self.server.socket().display().to_string();
        let mut root = Conn::new(OptsBuilder::default().user(Some("root")).socket(Some(socket))).await?;
        let row: Option<(String, String)> = root.query_first(format!("SHOW GLOBAL STATUS LIKE '{name}'")).await?;
        Ok(row.map(|(_, value)| value).unwrap_or_default())
    }
}
