//! All tests that need the whole program: one binary, a module per promise.

// Test helpers fail by panicking; clippy's own exception covers test functions only.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

mod admin;
mod analytics;
mod certificates;
mod cleanup;
mod cluster;
mod cluster_bench;
mod config;
mod counting;
mod custom;
mod database;
mod database_tls;
mod doctor;
mod draining;
mod early;
mod early_bodies;
mod errors;
mod failover;
mod forwarding;
mod group_replication;
mod groups;
mod http2;
mod import;
mod json_parity;
mod layers;
mod leaving;
mod limits;
mod locks;
mod logs;
mod lookup;
mod model;
mod native;
mod network;
mod packaging;
mod php_parity;
mod proxy_protocol;
mod readme;
mod recorded;
mod refusals;
mod reload;
mod replays;
mod request_ids;
mod rotation;
mod secrets;
mod service;
mod shared_store;
mod slow;
mod standing;
mod timeouts;
mod tls;
mod transparency;
mod trouble;
mod twins;
mod units;
mod unix;
mod upgrades;
mod upstream_tls;
mod verification;
mod websocket;
mod wire;
mod wordpress;
mod wp_config;
