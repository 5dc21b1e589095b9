//! Two real MariaDB servers, one a replica of the other, and an operator's steps when the first one
//! is to be replaced or has failed.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use super::mariadb::Database;
use super::port::Port;
use super::sidecar::PATIENCE;

const REPLICATOR: &str = "replicator";

/// A server that can be primary and replica.
pub struct Node {
    pub server: Database,
    port: Port,
}

/// A primary and its replica. A commit returns when the replica has it (semi-synchronous), so that
/// no acknowledged commit is lost with the primary.
pub struct Pair {
    pub first: Node,
    pub second: Node,
}

impl Pair {
    pub async fn start() -> Pair {
        let (first, second) = (Node::start(1), Node::start(2));
        // Written to the first one's binary log, so that the other gets the user, too.
        let user = format!("CREATE USER {REPLICATOR}@'127.0.0.1' IDENTIFIED BY 'r'");
        first.order(&[&user, &format!("GRANT REPLICATION SLAVE ON *.* TO {REPLICATOR}@'127.0.0.1'")]).await;
        second.follow(&first).await;
        first.order(&["SET GLOBAL rpl_semi_sync_master_enabled = 1"]).await;
        Pair { first, second }
    }

    /// For `[wordpress] database_hosts`.
    pub fn hosts(&self) -> String {
        format!("{},{}", self.first.server.host(), self.second.server.host())
    }
}

impl Node {
    fn start(id: u32) -> Node {
        let port = Port::reserve();
        let options = [
            "--skip-networking=0",
            "--bind-address=127.0.0.1",
            &format!("--port={}", port.number()),
            &format!("--server-id={id}"),
            "--log-bin=binary",
            "--log-slave-updates",
            "--rpl-semi-sync-slave-enabled",
            "--rpl-semi-sync-master-wait-point=AFTER_SYNC",
            "--rpl-semi-sync-master-timeout=600000",
        ];
        Node { server: Database::private_with(&options), port }
    }

    /// Runs statements as root.
    pub async fn order(&self, statements: &[&str]) {
        let mut root = self.server.root().await;
        for statement in statements {
            root.query_drop(*statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    }

    /// Becomes a read-only replica of `primary`.
    pub async fn follow(&self, primary: &Node) {
        let change = format!(
            "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {}, MASTER_USER = '{REPLICATOR}', \
             MASTER_PASSWORD = 'r', MASTER_USE_GTID = slave_pos",
            primary.port.number()
        );
        self.order(&["SET GLOBAL read_only = 1", &change, "START SLAVE"]).await;
        self.until("it follows", "SHOW SLAVE STATUS", |row| {
            text(row, "Slave_IO_Running") == "Yes" && text(row, "Slave_SQL_Running") == "Yes"
        })
        .await;
    }

    /// A planned change of roles: this server becomes the replica of `replica`, which becomes the
    /// primary.
    pub async fn hand_over_to(&self, replica: &Node) {
        self.order(&["SET GLOBAL read_only = 1", "SET GLOBAL rpl_semi_sync_master_enabled = 0"]).await;
        let position: String =
            self.server.root().await.query_first("SELECT @@GLOBAL.gtid_binlog_pos").await.unwrap().unwrap();
        let caught_up: Option<i32> = replica
            .server
            .root()
            .await
            .exec_first("SELECT MASTER_GTID_WAIT(?, ?)", (&position, PATIENCE.as_secs()))
            .await
            .unwrap();
        assert_eq!(caught_up, Some(0), "the replica has all");
        replica.take_over().await;
        let at = format!("SET GLOBAL gtid_slave_pos = '{position}'");
        self.order(&[&at]).await;
        self.follow(replica).await;
    }

    /// Becomes the primary, with everything that it received from the previous one.
    pub async fn take_over(&self) {
        self.order(&["STOP SLAVE IO_THREAD"]).await;
        self.until("it has applied what it got", "SHOW SLAVE STATUS", |row| {
            text(row, "Slave_SQL_Running_State").contains("has read all relay log")
        })
        .await;
        self.order(&["STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = 0"]).await;
    }

    async fn until(&self, what: &str, asked: &str, holds: impl Fn(&Row) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut root: Conn = self.server.root().await;
        loop {
            let row: Option<Row> = root.query_first(asked).await.unwrap();
            if row.as_ref().is_some_and(&holds) {
                return;
            }
            assert!(Instant::now() < deadline, "not in time: {what}: {row:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn text(row: &Row, column: &str) -> String {
    row.get::<Option<String>, _>(column).flatten().unwrap_or_default()
}
