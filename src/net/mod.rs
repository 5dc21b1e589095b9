//! Connections below HTTP, on both sides of the proxy: the streams, the way to the upstream, what is asked there,
//! and the PROXY protocol.

pub mod ask;
pub mod dial;
pub mod own_status;
pub mod proxy_protocol;
pub mod stream;
mod trust;
