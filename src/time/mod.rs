//! Time limits: timers that are cheap to move, and how slow the other side of a connection may be.

pub mod alarm;
pub mod pace;
