//! Time limits: a timer that costs nothing to move, and how slow the other side of a connection may be.

pub mod alarm;
pub mod pace;
