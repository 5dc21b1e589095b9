//! The keys for clients' connections: `[server]`, `[tls]`.

use std::time::Duration;

use super::super::{Key, boolean, duration, integer, list, one_of, text};
use crate::config::ProxyProtocol;

keys! {
    SERVER_LISTEN: Vec<String> = list("server.listen", "ADDRESS").is("127.0.0.1:8080").flag_as("listen")
        .about("Addresses and ports that clients connect to, or unix sockets as unix:/PATH, or sockets that systemd \
            passes as systemd:NAME.")
        .change("Give \"0.0.0.0:80\" or \"[::]:80\" to be reached from other machines; \"[::]:80\" takes IPv4 as well, \
            unless an IPv4 address of its port is named besides. Port 0 takes any free port. Clients of a unix socket \
            count as 127.0.0.1. NAME is the FileDescriptorName= of the socket unit.");
    SERVER_UNIX_MODE: String = text("server.unix_mode", "MODE").is("0660")
        .about("The file mode of unix sockets that are listened on.")
        .change("Users who may write to the file may connect: its owner and its group by default.");
    SERVER_UNIX_OWNER: Option<String> = text("server.unix_owner", "USER")
        .unset("the user that the program runs as", "www-data")
        .about("The user, by name or number, that those sockets belong to.")
        .change("Only root can give them to another user.");
    SERVER_UNIX_GROUP: Option<String> = text("server.unix_group", "GROUP")
        .unset("the group that the program runs as", "www-data")
        .about("The group, by name or number, that those sockets belong to.")
        .change("Set it to the group of the web server in front.");
    SERVER_WORKERS: usize = integer("server.workers", 0..=1024, "threads").is("0")
        .about("Threads that forward requests; 0: one for each processor core.")
        .change("Lower it where the machine also runs PHP and the database and those should win.");
    SERVER_MAX_CONNECTIONS: usize = integer("server.max_connections", 1..=1_000_000, "connections").is("4096")
        .about("Client connections open at once; further ones wait to be accepted.")
        .change("No more are accepted than fit the limit of open files (LimitNOFILE of the unit, else ulimit -Hn): a \
            client connection takes one, a connection to the upstream takes one, and some hundred are the program's \
            own (the database's, the status page's, 4 for each worker). If that is too few, clients get half of the \
            rest, with a warning.");
    SERVER_MAX_CONNECTIONS_PER_ADDRESS: usize =
        integer("server.max_connections_per_address", 0..=1_000_000, "connections").is("0")
        .about("Client connections that one address (one /64 network of IPv6) may have open at once; further ones are \
            closed; 0: no limit.")
        .change("Many clients may share an address, so leave room. Addresses in forwarded.trusted_proxies are not \
            limited.");
    SERVER_MAX_EXCHANGES_PER_CONNECTION: usize =
        integer("server.max_exchanges_per_connection", 0..=1_000_000, "requests").is("32")
        .about("Requests of one HTTP/2 connection that are in flight at once; further ones wait for them, before they \
            take a connection to the upstream and before their upload is read; 0: any number.")
        .change("A connection has up to 128 streams, and a client that reads nothing would hold that many connections \
            to the upstream. Open connections keep the number that they began with. Addresses in \
            forwarded.trusted_proxies are not limited.");
    SERVER_MAX_EXCHANGES_PER_ADDRESS: Option<usize> =
        integer("server.max_exchanges_per_address", 0..=1_000_000, "requests")
        .unset("half of server.max_exchanges, or of what upstream.max_connections is by itself, if that is less", "200")
        .about("Requests of one client address (one /64 network of IPv6) that are in flight at once, shared by the \
            workers, each with room for one connection's; further ones wait as long as upstream.connect_timeout says, \
            then the client gets a 503; 0: any number.")
        .change("Many clients may share an address, so leave room. Addresses in forwarded.trusted_proxies are not \
            limited.");
    SERVER_MAX_EARLY_BODIES_PER_ADDRESS: usize =
        integer("server.max_early_bodies_per_address", 0..=1_000_000, "requests").is("8")
        .about("Requests of one client address (one /64 network of IPv6) in flight whose body flows before its start \
            has arrived (upstream.early_bodies); for further ones the start is read first; 0: any number.")
        .change("Each may hold one of the upstream's workers by sending slowly, so leave most of them to others. \
            Addresses in forwarded.trusted_proxies are not limited.");
    SERVER_MAX_EXCHANGES: Option<usize> = integer("server.max_exchanges", 0..=10_000_000, "requests")
        .unset(
            "twice the client connections that are accepted (server.max_connections, or fewer with few open files)",
            "8192",
        )
        .about("Requests in flight at once, shared by the workers, each with room for one connection's; further ones \
            wait as long as upstream.connect_timeout says, then the client gets a 503; 0: any number.")
        .change("A request is in flight until the last of its response was written, or is in its connection's buffer. \
            Native refreshes and WebSockets count as well.");
    SERVER_FIRST_BYTE_TIMEOUT: Duration = duration("server.first_byte_timeout").is("10s")
        .about("How long a new connection may be silent before it is closed.");
    SERVER_REQUEST_HEADER_TIMEOUT: Duration = duration("server.request_header_timeout").is("30s")
        .about("How long the head of a request may take from its first byte, before the client gets a 408.")
        .change("This is the only total among these times: a head is small, and slow attackers send a byte now and \
            then.");
    SERVER_KEEPALIVE_IDLE: Duration = duration("server.keepalive_idle").is("75s")
        .about("How long a connection may idle between two requests before it is closed.")
        .change("Stay above what a proxy in front keeps its connections for, or its requests meet closed ones.");
    SERVER_REQUEST_BODY_IDLE: Duration = duration("server.request_body_idle").is("60s")
        .about("How long the body of a request may stand still before the client gets a 408; an upload may take as \
            long as it likes.");
    SERVER_RESPONSE_WRITE_IDLE: Duration = duration("server.response_write_idle").is("60s")
        .about("How long a client may read nothing of its response, and send nothing more of its request, before the \
            connection is closed; a download may take as long as it likes.");
    SERVER_MIN_RATE: usize = integer("server.min_rate", 0..=1_000_000, "bytes a second").is("240")
        .about("How fast a client must send the body of a request, and read its response, while the sidecar waits for \
            it; 0: any rate.")
        .change("It keeps one byte a minute from holding a connection for ever: a client that falls behind by \
            request_body_idle or response_write_idle is closed. No phone is that slow. Set 0 if requests stay open \
            for hours with few bytes.");
    SERVER_IGNORE_CLIENT_ABORT: bool = boolean("server.ignore_client_abort").is("false")
        .about("Whether a request that was sent whole goes on when its client disconnects before the response.")
        .change("For sites whose own non-blocking calls come through the sidecar: WordPress starts wp-cron.php by a \
            request that it abandons after 0.01 s. HTTP/1 only. Set it only for such sites: each abandoned request \
            holds a connection to the site until the site has responded. Of an abandoned response at most 16 MiB are \
            read, within response_write_idle in all, and nothing more once the program drains.");
    SERVER_EARLY_HINTS: bool = boolean("server.early_hints").is("false")
        .about("Whether interim responses (103 Early Hints, 102) pass to clients of HTTP/1.1.")
        .change("Old clients take them for the response, so set it only if clients are browsers or a proxy that knows \
            them. None pass to clients of HTTP/2.");
    SERVER_TUNNEL_IDLE: Duration = duration("server.tunnel_idle").is("1h")
        .about("How long a WebSocket (or another upgraded connection) may be silent in both directions before it is \
            closed.");
    SERVER_MAX_HEADER_BYTES: usize = integer("server.max_header_bytes", 1_024..=262_144, "bytes").is("65536")
        .about("How large the head of a request may be, before the client gets a 431.")
        .change("The default is above that of nginx (32 KiB) and Apache, so that the site's own limit decides.");
    SERVER_MAX_HEADER_FIELDS: usize = integer("server.max_header_fields", 16..=4_096, "fields").is("256")
        .about("How many fields a request may have, before the client gets a 431.")
        .change("The default is above Apache's 100.");
    SERVER_MAX_REQUEST_BODY: usize = integer("server.max_request_body", 0..=1_099_511_627_776, "bytes").is("0")
        .about("How large the body of a request may be, before the client gets a 413; 0: the site decides.")
        .change("The sidecar refuses larger uploads before the site sees them. PHP and the web server have limits of \
            their own.");
    SERVER_MAX_REQUESTS_PER_CONNECTION: usize =
        integer("server.max_requests_per_connection", 0..=1_000_000_000, "requests").is("1000")
        .about("How many requests a connection serves before it is closed, in order and without a loss; 0: any \
            number.")
        .change("As nginx's keepalive_requests: clients then reconnect to whatever servers a load balancer has by \
            now.");
    SERVER_PROXY_PROTOCOL: ProxyProtocol = one_of("server.proxy_protocol").is("off")
        .about("Whether every connection begins with a PROXY header that names the client, and of which version; also \
            in front of TLS.")
        .change("For a load balancer in front that passes connections on without reading them. It must be in \
            forwarded.trusted_proxies; connections from elsewhere, or without the header, are closed.");
    TLS_LISTEN: Vec<String> = list("tls.listen", "ADDRESS")
        .about("Addresses and ports, or unix sockets, or sockets that systemd passes, that clients connect to with \
            TLS.")
        .change("Set \"0.0.0.0:443\" or \"[::]:443\" where nothing in front of the sidecar does TLS. server.listen may \
            be empty then.");
    TLS_CERTIFICATES: Vec<String> = list("tls.certificates", "CHAIN:KEY")
        .about("Certificates with their private keys, each as CHAIN:KEY, two files in PEM form; or one file with \
            both.")
        .change("Each client gets one with the name that it asks for and a key that it can use (of several ECDSA \
            before RSA), names without wildcard first, and the first in the list where none has the name. The files \
            are read again when they change and on SIGHUP; open connections stay. A pair that is missing at the start \
            is taken as soon as it can be read. credential:CHAIN:KEY takes them from LoadCredential= of the systemd \
            unit, which copies them at each start.");
    TLS_HANDSHAKE_TIMEOUT: Duration = duration("tls.handshake_timeout").is("10s")
        .about("How long a client may take for the TLS handshake.");
}
