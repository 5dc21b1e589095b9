//! Connections below HTTP, on both sides of the proxy: streams, connecting to the upstream, the
//! sidecar's own requests, and the PROXY protocol.

pub mod ask;
pub mod dial;
pub mod own_status;
pub mod proxy_protocol;
pub mod stream;
mod trust;
