//! Rules on the names of fields: which end at this hop, and which PHP cannot tell from others.

pub mod folded;
pub mod hop_by_hop;
