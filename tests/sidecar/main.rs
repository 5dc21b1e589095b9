//! All tests that need the program as a whole: one binary, a module for each promise.

// Helpers of tests fail by panicking; clippy's own exception covers test functions only.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

mod analytics;
mod cleanup;
mod config;
mod draining;
mod forwarding;
mod groups;
mod json_parity;
mod locks;
mod lookup;
mod model;
mod recorded;
mod refusals;
mod replays;
mod rotation;
mod trouble;
