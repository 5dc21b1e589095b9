//! HTTP/1.x as bytes, on both sides of the proxy: heads, bodies, and the connections that carry them.
//!
//! hyper does this well for one side at a time. Between its server and its client a proxy pays for what neither alone
//! needs: a second map for the case of names on each side, a task for each upstream connection with two channels
//! to it, room for a thousand fields for every head. Here one task reads, forwards and answers, and what was
//! understood of a head once is kept.
//!
//! [`inbound`] is what arrives on a client's connection, which `crate::connection::http1` serves; [`client`] speaks to the
//! upstream on one. Both stand on [`head`], which reads heads by httparse and refuses whatever two servers could read differently,
//! [`write`], [`decoder`], [`encoder`], and the two buffers [`input`] and [`output`]. HTTP/2 is hyper's (`crate::connection::http2`).

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
