//! Three real members of a group of MySQL's Group Replication on loopback, each of which takes
//! writes.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;

use super::mariadb::Database;
use super::port::Port;
use super::sidecar::PATIENCE;

/// The name of the group.
const NAME: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";

/// The group.
pub struct Group {
    pub members: [Database; 3],
    _ports: Vec<Port>,
}

impl Group {
    /// Of the MySQL whose tree `tests/mysql` names.
    pub async fn start() -> Group {
        let tree = std::env::var("SIDECAR_TESTS_MYSQL").expect("tests/mysql runs this");
        // For each: clients, the group.
        let ports: Vec<Port> = (0..6).map(|_| Port::reserve()).collect();
        let number = |member: usize, which: usize| ports[2 * member + which].number();
        let seeds: Vec<String> = (0..3).map(|member| format!("127.0.0.1:{}", number(member, 1))).collect();
        let mut members = Vec::new();
        for member in 0..3 {
            let options = [
                "--skip-networking=0".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--port={}", number(member, 0)),
                "--report-host=127.0.0.1".to_owned(),
                format!("--report-port={}", number(member, 0)),
                format!("--server-id={}", member + 1),
                "--performance-schema=ON".to_owned(),
                "--gtid-mode=ON".to_owned(),
                "--enforce-gtid-consistency=ON".to_owned(),
                format!("--plugin-dir={tree}/usr/lib/mysql/plugin"),
                "--plugin-load-add=group_replication.so".to_owned(),
                format!("--loose-group-replication-group-name={NAME}"),
                "--loose-group-replication-start-on-boot=OFF".to_owned(),
                format!("--loose-group-replication-local-address=127.0.0.1:{}", number(member, 1)),
                format!("--loose-group-replication-group-seeds={}", seeds.join(",")),
                "--loose-group-replication-ip-allowlist=127.0.0.1".to_owned(),
                "--loose-group-replication-single-primary-mode=OFF".to_owned(),
                // With these checks no member takes writes to the plugin's tables (3098): one of
                // them refers to the others with ON DELETE SET NULL.
                "--loose-group-replication-enforce-update-everywhere-checks=OFF".to_owned(),
            ];
            let server = Database::private_with(&options.each_ref().map(String::as_str));
            let is_first = if member == 0 { "ON" } else { "OFF" };
            let mut root = server.root().await;
            for statement in [
                "SET SQL_LOG_BIN = 0",
                "CREATE USER rpl@'%' IDENTIFIED BY 'rpl'",
                "GRANT REPLICATION SLAVE, CONNECTION_ADMIN, BACKUP_ADMIN, GROUP_REPLICATION_STREAM ON *.* TO rpl@'%'",
                "SET SQL_LOG_BIN = 1",
                "RESET BINARY LOGS AND GTIDS",
                "SET GLOBAL group_replication_recovery_get_public_key = ON",
                &format!("SET GLOBAL group_replication_bootstrap_group = {is_first}"),
                "START GROUP_REPLICATION USER = 'rpl', PASSWORD = 'rpl'",
                "SET GLOBAL group_replication_bootstrap_group = OFF",
            ] {
                root.query_drop(statement)
                    .await
                    .unwrap_or_else(|error| panic!("member {member}: {statement}: {error}"));
            }
            until_online(&server).await;
            members.push(server);
        }
        let Ok(members) = members.try_into() else { unreachable!("there are three") };
        Group { members, _ports: ports }
    }
}

async fn until_online(server: &Database) {
    let deadline = Instant::now() + 3 * PATIENCE;
    let asked = "SELECT MEMBER_STATE FROM performance_schema.replication_group_members WHERE MEMBER_ID = @@server_uuid";
    loop {
        let state: Option<String> = server.root().await.query_first(asked).await.unwrap();
        if state.as_deref() == Some("ONLINE") {
            return;
        }
        assert!(Instant::now() < deadline, "not in time ONLINE: {state:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
