//! `[server]`, `[tls]`.

use std::num::NonZero;

use super::refuse_twice;
use crate::config::{
    ListenAddress, ProxyProtocol, Server, Tls, UnixSockets, address, merged::Merged, sources::wrong, value,
};

pub(super) fn server(read: &mut Merged) -> Server {
    Server {
        listen: listen(read),
        unix: UnixSockets {
            mode: read.parsed("server.unix_mode", value::octal_mode).unwrap_or_default(),
            owner: read.parsed("server.unix_owner", value::user),
            group: read.parsed("server.unix_group", value::group),
        },
        proxy_protocol: read.named("server.proxy_protocol").unwrap_or(ProxyProtocol::Off),
        workers: match read.integer("server.workers") {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            workers => workers,
        },
        max_connections: read.integer("server.max_connections"),
        max_connections_per_address: read.integer("server.max_connections_per_address"),
        max_exchanges_per_connection: read.integer("server.max_exchanges_per_connection"),
        max_exchanges_per_address: 0,
        max_exchanges: 0,
        first_byte_timeout: read.duration("server.first_byte_timeout"),
        request_header_timeout: read.duration("server.request_header_timeout"),
        keepalive_idle: read.duration("server.keepalive_idle"),
        request_body_idle: read.duration("server.request_body_idle"),
        response_write_idle: read.duration("server.response_write_idle"),
        min_rate: read.integer("server.min_rate"),
        ignore_client_abort: read.boolean("server.ignore_client_abort"),
        tunnel_idle: read.duration("server.tunnel_idle"),
        max_header_bytes: read.integer("server.max_header_bytes"),
        max_header_fields: read.integer("server.max_header_fields"),
        max_request_body: read.integer("server.max_request_body"),
        max_requests_per_connection: read.integer("server.max_requests_per_connection"),
    }
}

fn listen(read: &mut Merged) -> Vec<ListenAddress> {
    let addresses = read.each("server.listen", address::listen_address);
    if addresses.is_empty() && !read.is_faulty("server.listen") && !read.has_entries("tls.listen") {
        read.fault("server.listen", "at least one address is needed, such as \"127.0.0.1:8080\"");
    }
    refuse_twice(read, "server.listen", &addresses, &[]);
    addresses
}

pub(super) fn tls(read: &mut Merged, plain: &[ListenAddress]) -> Tls {
    let listen = read.each("tls.listen", address::listen_address);
    refuse_twice(read, "tls.listen", &listen, plain);
    let credentials = read.credentials.clone();
    let certificates = read.each("tls.certificates", |text| address::certificate(text, credentials.as_deref()));
    if certificates.is_empty() && !listen.is_empty() && !read.is_faulty("tls.certificates") {
        read.faults.push(wrong("tls.certificates", "is required where tls.listen is set, as CHAIN:KEY"));
    }
    if !certificates.is_empty() && listen.is_empty() && !read.is_faulty("tls.listen") {
        read.warnings.push("tls.certificates has no use where tls.listen is empty".into());
    }
    Tls { listen, certificates, handshake_timeout: read.duration("tls.handshake_timeout") }
}
