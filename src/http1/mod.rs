//! The HTTP/1.x codec for both sides of the proxy: heads, bodies, and the connections that carry
//! them.
//!
//! hyper does this well for one side at a time. A proxy that joins its server and its client pays
//! for more than either needs: a second map for the spelling of names on each side, a task with two
//! channels per upstream connection, room for a thousand fields in every head. Here one task reads,
//! forwards and responds, and what was parsed of a head is kept.
//!
//! [`inbound`] receives from a client's connection, which `crate::connection::http1` drives;
//! [`client`] talks to the upstream. Both use [`head`], which parses heads with httparse and
//! refuses what two servers could read differently, [`write`], [`decoder`], [`encoder`], and the
//! buffers [`input`] and [`output`]. HTTP/2 is left to hyper (`crate::connection::http2`).

pub mod client;
pub mod decoder;
pub mod encoder;
pub mod error;
pub mod fields;
pub mod frame;
pub mod head;
pub mod inbound;
pub mod incoming;
pub mod input;
mod original;
pub mod output;
pub mod rewound;
pub mod target;
pub mod write;

#[cfg(test)]
mod against_hyper;
