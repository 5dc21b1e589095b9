//! What the tests use: a real MariaDB, a real WordPress, the real binary, and hand-written HTTP.

pub mod apps;
pub mod browser;
pub mod custom;
pub mod faults;
pub mod galera;
pub mod group;
pub mod made_up;
pub mod mariadb;
pub mod port;
pub mod raw;
pub mod replicated;
pub mod replication;
pub mod rig;
pub mod secrets;
pub mod sidecar;
pub mod site;
pub mod splitter;
pub mod store;
pub mod systemd;
pub mod tls;
