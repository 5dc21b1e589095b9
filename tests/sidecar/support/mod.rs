//! What the tests stand on: a real MariaDB, a real WordPress, the real binary, and HTTP by hand.

#![allow(dead_code, reason = "the tests that use the rest are on their way")]

pub mod apps;
pub mod faults;
pub mod mariadb;
pub mod raw;
pub mod rig;
pub mod sidecar;
pub mod site;
pub mod tls;
