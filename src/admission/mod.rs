//! Limits on what one client may have at once: connections, and exchanges in flight.

pub mod per_address;
pub mod places;
