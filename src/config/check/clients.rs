//! `[server]`, `[tls]`.

use std::num::NonZero;

use super::refuse_twice;
use crate::config::{ListenAddress, Server, Tls, UnixSockets, address, keys, merged::Merged, sources::wrong, value};

pub(super) fn server(read: &mut Merged) -> Server {
    Server {
        listen: listen(read),
        unix: UnixSockets {
            mode: read.parsed(keys::SERVER_UNIX_MODE, value::octal_mode).unwrap_or_default(),
            owner: read.parsed(keys::SERVER_UNIX_OWNER, value::user),
            group: read.parsed(keys::SERVER_UNIX_GROUP, value::group),
        },
        proxy_protocol: read.get(keys::SERVER_PROXY_PROTOCOL),
        workers: match read.get(keys::SERVER_WORKERS) {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            workers => workers,
        },
        max_connections: read.get(keys::SERVER_MAX_CONNECTIONS),
        max_connections_per_address: read.get(keys::SERVER_MAX_CONNECTIONS_PER_ADDRESS),
        max_exchanges_per_connection: read.get(keys::SERVER_MAX_EXCHANGES_PER_CONNECTION),
        max_exchanges_per_address: 0,
        max_early_bodies_per_address: read.get(keys::SERVER_MAX_EARLY_BODIES_PER_ADDRESS),
        max_exchanges: 0,
        first_byte_timeout: read.get(keys::SERVER_FIRST_BYTE_TIMEOUT),
        request_header_timeout: read.get(keys::SERVER_REQUEST_HEADER_TIMEOUT),
        keepalive_idle: read.get(keys::SERVER_KEEPALIVE_IDLE),
        request_body_idle: read.get(keys::SERVER_REQUEST_BODY_IDLE),
        response_write_idle: read.get(keys::SERVER_RESPONSE_WRITE_IDLE),
        min_rate: read.get(keys::SERVER_MIN_RATE),
        early_hints: read.get(keys::SERVER_EARLY_HINTS),
        ignore_client_abort: read.get(keys::SERVER_IGNORE_CLIENT_ABORT),
        tunnel_idle: read.get(keys::SERVER_TUNNEL_IDLE),
        max_header_bytes: read.get(keys::SERVER_MAX_HEADER_BYTES),
        max_header_fields: read.get(keys::SERVER_MAX_HEADER_FIELDS),
        max_request_body: read.get(keys::SERVER_MAX_REQUEST_BODY),
        max_requests_per_connection: read.get(keys::SERVER_MAX_REQUESTS_PER_CONNECTION),
    }
}

fn listen(read: &mut Merged) -> Vec<ListenAddress> {
    let addresses = read.each(keys::SERVER_LISTEN, address::listen_address);
    if addresses.is_empty() && !read.is_faulty(keys::SERVER_LISTEN) && read.get(keys::TLS_LISTEN).is_empty() {
        read.fault(keys::SERVER_LISTEN, "at least one address is needed, such as \"127.0.0.1:8080\"");
    }
    refuse_twice(read, keys::SERVER_LISTEN, &addresses, &[]);
    addresses
}

pub(super) fn tls(read: &mut Merged, plain: &[ListenAddress]) -> Tls {
    let listen = read.each(keys::TLS_LISTEN, address::listen_address);
    refuse_twice(read, keys::TLS_LISTEN, &listen, plain);
    let credentials = read.credentials.clone();
    let certificates = read.each(keys::TLS_CERTIFICATES, |text| address::certificate(text, credentials.as_deref()));
    if certificates.is_empty() && !listen.is_empty() && !read.is_faulty(keys::TLS_CERTIFICATES) {
        read.faults.push(wrong(keys::TLS_CERTIFICATES.name, "is required where tls.listen is set, as CHAIN:KEY"));
    }
    if !certificates.is_empty() && listen.is_empty() && !read.is_faulty(keys::TLS_LISTEN) {
        read.warnings.push("tls.certificates has no use where tls.listen is empty".into());
    }
    Tls { listen, certificates, handshake_timeout: read.get(keys::TLS_HANDSHAKE_TIMEOUT) }
}
