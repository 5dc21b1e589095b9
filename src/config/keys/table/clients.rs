//! The keys of the side that clients see.

use super::super::{Fallback, Key, key, unset};
use crate::config::kind::Kind;
use crate::config::names::ProxyProtocol;

/// `[server]`, `[tls]`.
pub const KEYS: &[Key] = &[
    key(
        "server.listen",
        Kind::List("ADDRESS"),
        Fallback::Is("127.0.0.1:8080"),
        "Addresses and ports that clients connect to, or unix sockets as unix:/PATH, or sockets that systemd passes as \
         systemd:NAME.",
    )
    .flag_as("listen")
    .change(
        "Give \"0.0.0.0:80\" or \"[::]:80\" to be reached from other machines; \"[::]:80\" takes IPv4 as well, unless an IPv4 \
         address of its port is named besides. Port 0 takes any free port. Clients of a unix \
         socket count as 127.0.0.1. NAME is the FileDescriptorName= of the socket unit.",
    ),
    key(
        "server.unix_mode",
        Kind::Text("MODE"),
        Fallback::Is("0660"),
        "The file mode of unix sockets that are listened on.",
    )
    .change("Who may write to the file may connect: its owner and its group by default."),
    key(
        "server.unix_owner",
        Kind::Text("USER"),
        unset("the user that the program runs as", "www-data"),
        "The user, by name or number, whom those sockets belong to.",
    )
    .change("Only root can give them to another user."),
    key(
        "server.unix_group",
        Kind::Text("GROUP"),
        unset("the group that the program runs as", "www-data"),
        "The group, by name or number, whom those sockets belong to.",
    )
    .change("Set it to the group of the web server in front."),
    key(
        "server.workers",
        Kind::Integer { min: 0, max: 1024, unit: "threads" },
        Fallback::Is("0"),
        "Threads that forward requests; 0 is one for each processor core.",
    )
    .change("Lower it where the machine also runs PHP and the database and those should win."),
    key(
        "server.max_connections",
        Kind::Integer { min: 1, max: 1_000_000, unit: "connections" },
        Fallback::Is("4096"),
        "Client connections open at once; further ones wait to be accepted.",
    )
    .change(
        "No more are accepted than fit the limit of open files (LimitNOFILE of the unit, else ulimit -Hn): a client connection \
         takes one, a connection to the upstream takes one, and some hundred are the program's own (the database's, the \
         status page's, 4 for each worker). Where that is too few, clients get half of the rest, with a warning.",
    ),
    key(
        "server.max_connections_per_address",
        Kind::Integer { min: 0, max: 1_000_000, unit: "connections" },
        Fallback::Is("0"),
        "Client connections that one address (one /64 network of IPv6) may have open at once; further ones are closed; 0 is no limit.",
    )
    .change(
        "Many clients may share an address, so leave room. Addresses in forwarded.trusted_proxies are not limited.",
    ),
    key(
        "server.max_exchanges_per_connection",
        Kind::Integer { min: 0, max: 1_000_000, unit: "requests" },
        Fallback::Is("32"),
        "Requests of one HTTP/2 connection that are in flight at once; further ones wait for them, before they take a \
         connection to the upstream and before their upload is read; 0 is any number.",
    )
    .change(
        "A connection has up to 128 streams, and one client that reads nothing would hold as many connections to the \
         upstream. Open connections keep the number that they began with. Addresses in forwarded.trusted_proxies are \
         not limited.",
    ),
    key(
        "server.max_exchanges_per_address",
        Kind::Integer { min: 0, max: 1_000_000, unit: "requests" },
        unset("half of server.max_exchanges, or of what upstream.max_connections is by itself, if that is less", "200"),
        "Requests of one client address (one /64 network of IPv6) that are in flight at once, shared by the workers, each with \
         room for one connection's; further ones wait as long as upstream.connect_timeout says, then the client gets a 503; 0 is any number.",
    )
    .change(
        "Many clients may share an address, so leave room. Addresses in forwarded.trusted_proxies are not limited.",
    ),
    key(
        "server.max_exchanges",
        Kind::Integer { min: 0, max: 10_000_000, unit: "requests" },
        unset("twice the client connections that are accepted (server.max_connections, or fewer with few open files)", "8192"),
        "Requests in flight at once, shared by the workers, each with room for one connection's; further ones wait as long as \
         upstream.connect_timeout says, then the client gets a 503; 0 is any number.",
    )
    .change("A request is in flight until the last of its answer was written, or is in its connection's buffer; a refresh that is answered here is one, too, and so is a WebSocket."),
    key(
        "server.first_byte_timeout",
        Kind::Duration { zero: false },
        Fallback::Is("10s"),
        "How long a new connection may be silent before it is closed.",
    ),
    key(
        "server.request_header_timeout",
        Kind::Duration { zero: false },
        Fallback::Is("30s"),
        "How long the head of a request may take from its first byte, before the client gets a 408.",
    )
    .change("The one total among these times: a head is small, and slow attackers send a byte now and then."),
    key(
        "server.keepalive_idle",
        Kind::Duration { zero: false },
        Fallback::Is("75s"),
        "How long a connection may idle between two requests before it is closed.",
    )
    .change("Stay above what a proxy in front keeps its connections for, or its requests meet closed ones."),
    key(
        "server.request_body_idle",
        Kind::Duration { zero: false },
        Fallback::Is("60s"),
        "How long the body of a request may stand still before the client gets a 408; an upload may take as long as it likes.",
    ),
    key(
        "server.response_write_idle",
        Kind::Duration { zero: false },
        Fallback::Is("60s"),
        "How long a client may read nothing of its answer, and send nothing more of its request, before the connection is closed; a download may take as long as it likes.",
    ),
    key(
        "server.min_rate",
        Kind::Integer { min: 0, max: 1_000_000, unit: "bytes a second" },
        Fallback::Is("240"),
        "How fast a client has to send the body of a request, and to read its answer, while it is waited for; 0 is any rate.",
    )
    .change(
        "So that one byte a minute does not hold a connection for ever: a client that falls behind by request_body_idle or \
         response_write_idle is closed. No phone is so slow. Set 0 where requests are open for hours with little in them.",
    ),
    key(
        "server.ignore_client_abort",
        Kind::Boolean,
        Fallback::Is("false"),
        "Whether a request that a client has sent whole goes on to its end when the client leaves before its answer.",
    )
    .change(
        "For sites whose own non-blocking calls come through the sidecar: WordPress starts wp-cron.php by a request that it \
         leaves after 0.01 s. Of HTTP/1 only. Set it only where that is so: each request that was left holds a connection to \
         the site until the site has answered. Of an answer that was left, at most 16 MiB are read, within response_write_idle \
         in all, and nothing more once the program is to end.",
    ),
    key(
        "server.tunnel_idle",
        Kind::Duration { zero: false },
        Fallback::Is("1h"),
        "How long a WebSocket (or what else a connection was upgraded to) may be silent in both directions before it is closed.",
    ),
    key(
        "server.max_header_bytes",
        Kind::Integer { min: 1_024, max: 262_144, unit: "bytes" },
        Fallback::Is("65536"),
        "How large the head of a request may be, before the client gets a 431.",
    )
    .change("The default is above that of nginx (32 KiB) and Apache, so that the site's own limit decides."),
    key(
        "server.max_header_fields",
        Kind::Integer { min: 16, max: 4_096, unit: "fields" },
        Fallback::Is("256"),
        "How many fields a request may have, before the client gets a 431.",
    )
    .change("The default is above Apache's 100."),
    key(
        "server.max_request_body",
        Kind::Integer { min: 0, max: 1_099_511_627_776, unit: "bytes" },
        Fallback::Is("0"),
        "How large the body of a request may be, before the client gets a 413; 0: the site decides.",
    )
    .change("Uploads are refused here, before the site sees them. PHP and the web server have limits of their own."),
    key(
        "server.max_requests_per_connection",
        Kind::Integer { min: 0, max: 1_000_000_000, unit: "requests" },
        Fallback::Is("1000"),
        "How many requests a connection serves before it is closed, in order and without a loss; 0 is any number.",
    )
    .change("As nginx's keepalive_requests: clients come back to whatever stands behind a load balancer by then."),
    key(
        "server.proxy_protocol",
        Kind::OneOf(ProxyProtocol::NAMES),
        Fallback::Is("off"),
        "Whether every connection begins with a PROXY header that names the client, and of which version; with TLS, too.",
    )
    .change(
        "For a load balancer in front that passes connections on without reading them. It must be in \
         forwarded.trusted_proxies; connections from elsewhere, or without the header, are closed.",
    ),
    key(
        "tls.listen",
        Kind::List("ADDRESS"),
        Fallback::Is(""),
        "Addresses and ports, or unix sockets, or sockets that systemd passes, that clients connect to with TLS.",
    )
    .change("Set \"0.0.0.0:443\" or \"[::]:443\" where nothing in front of the sidecar does TLS. server.listen may be empty then."),
    key(
        "tls.certificates",
        Kind::List("CHAIN:KEY"),
        Fallback::Is(""),
        "Certificates with their private keys, each as CHAIN:KEY, two files in PEM form; or one file with both.",
    )
    .change(
        "Each client gets one with the name that it asks for and a key that it can use (of several ECDSA before RSA), names without \
         wildcard first, and the first in the list where none has the name. The files are read again when they change and on \
         SIGHUP; open connections stay. A pair that is not there at the start is taken as soon as it can be read. \
         credential:CHAIN:KEY takes them from LoadCredential= of the systemd unit, which copies them at each start.",
    ),
    key(
        "tls.handshake_timeout",
        Kind::Duration { zero: false },
        Fallback::Is("10s"),
        "How long a client may take for the TLS handshake.",
    ),
];
