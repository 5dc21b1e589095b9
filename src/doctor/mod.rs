//! `wp-jwt-sidecar doctor`: walks through the whole installation and says what is good, what is to be looked at and what is
//! a problem, each with its mend.

pub mod configuration;
pub mod finding;
pub mod keys;
pub mod report;
pub mod running;
pub mod site;

pub use finding::{Area, Finding, Level};
