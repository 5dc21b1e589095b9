//! Every section and every key.

use super::{Fallback, Key, key, unset};
use crate::config::kind::Kind;
use crate::config::names::{
    Algorithm, ForwardedMode, LogFormat, ProxyProtocol, RefreshMode, RequestIdMode, ResponseFields, ReuseDetection,
    UpstreamProxyProtocol,
};

/// The sections in the order of the example file, with what each is about.
pub const SECTIONS: &[(&str, &str)] = &[
    ("server", "The side that clients see."),
    ("tls", "TLS (https) with clients: HTTP/1.1 and HTTP/2, TLS 1.2 and 1.3."),
    ("upstream", "The web server of the WordPress site, where everything goes that is not a refresh."),
    ("forwarded", "Whom to believe about a client's address."),
    (
        "wordpress",
        "Where the site's own settings and database are. `config` is enough, unless wp-config.php cannot be read.",
    ),
    (
        "jwt",
        "What access tokens are signed with. Nothing is needed here where wp-config.php defines JWT_AUTH_SECRET_KEY.",
    ),
    ("refresh", "The refresh route."),
    ("cleanup", "Old rows of the plugin's tables, which nobody else deletes. Off."),
    (
        "admin",
        "For operators: a status page at /, /status.json, /metrics for Prometheus, /healthz and /readyz. No secrets, and nothing to change.",
    ),
    ("shutdown", "What happens at SIGTERM and SIGINT."),
    ("log", "What is written to standard error."),
];

/// Every key, in the order of the example file.
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
        "Give \"0.0.0.0:80\" or \"[::]:80\" to be reached from other machines; port 0 takes any free port. Whoever \
             connects by a unix socket counts as 127.0.0.1. NAME is the FileDescriptorName= of the socket unit.",
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
    .change("Keep it below half the limit of open files (ulimit -n): a request in flight holds two sockets."),
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
        "How long a client may read nothing of its answer before the connection is closed; a download may take as long as it likes.",
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
        "Each client gets the one with the name that it asks for, names without wildcard first, and the first in the list \
         where none has it. The files are read anew when they change and on SIGHUP; open connections stay. \
         credential:CHAIN:KEY takes them from LoadCredential= of the systemd unit, which copies them at each start.",
    ),
    key(
        "tls.handshake_timeout",
        Kind::Duration { zero: false },
        Fallback::Is("10s"),
        "How long a client may take for the TLS handshake.",
    ),
    key(
        "upstream.url",
        Kind::Text("URL"),
        Fallback::Required { example: "http://127.0.0.1:8081" },
        "The web server of the site, as http://HOST:PORT, https://HOST:PORT or unix:/PATH, without a path of the site: \
         requests keep the path that the client sent.",
    )
    .flag_as("upstream")
    .change("By https its certificate must be valid for HOST."),
    key(
        "upstream.ca_file",
        Kind::Path,
        unset("those that the system trusts", "/etc/wp-jwt-sidecar/upstream-ca.pem"),
        "Certificates, in PEM form, of the authorities that may have signed the upstream's certificate.",
    )
    .change("For an https upstream with a certificate of your own authority; then only that one is trusted."),
    key(
        "upstream.proxy_protocol",
        Kind::OneOf(UpstreamProxyProtocol::NAMES),
        Fallback::Is("off"),
        "Whether connections to the upstream begin with a PROXY header of version 2 that names the client.",
    )
    .change("Only where the upstream expects it. Each request takes a new connection then, since the header is for all that follows."),
    key(
        "upstream.connect_timeout",
        Kind::Duration { zero: false },
        Fallback::Is("3s"),
        "How long a connection to the upstream may take to be made, before the client gets a 502.",
    ),
    key(
        "upstream.response_header_timeout",
        Kind::Duration { zero: false },
        Fallback::Is("330s"),
        "How long the upstream may take to begin an answer, before the client gets a 504.",
    )
    .change("The default is above Apache's own 300 s, so that the site's answer wins."),
    key(
        "upstream.response_body_idle",
        Kind::Duration { zero: false },
        Fallback::Is("330s"),
        "How long the body of an answer may stand still before it is cut off.",
    )
    .change("The default is above Apache's own 300 s, so that the site gives up first."),
    key(
        "upstream.max_connections",
        Kind::Integer { min: 0, max: 1_000_000, unit: "connections" },
        Fallback::Is("0"),
        "Connections to the upstream in use at once, shared evenly by the workers; 0 is no limit.",
    )
    .change(
        "Requests wait for one as long as connect_timeout says, then the client gets a 503. Set it where the upstream takes fewer than server.max_connections.",
    ),
    key(
        "upstream.keepalive_idle",
        Kind::Duration { zero: true },
        Fallback::Is("4s"),
        "How long an idle connection to the upstream is kept for the next request; \"0s\" keeps none.",
    )
    .change("Stay below the upstream's own limit, or requests meet closed connections: Apache's is 5 s, nginx's 75 s."),
    key(
        "upstream.keepalive_max_idle",
        Kind::Integer { min: 0, max: 65_535, unit: "connections" },
        Fallback::Is("512"),
        "Idle connections to the upstream that each worker keeps at most; 0 keeps none.",
    )
    .change(
        "There are never more than were in use at once within keepalive_idle. Fewer than the clients that are busy at once \
         make a new connection of every other request; lower it only where other programs need the upstream's workers, \
         which idle connections hold (Apache's prefork has 150).",
    ),
    key(
        "forwarded.trusted_proxies",
        Kind::List("NETWORK"),
        Fallback::Is(""),
        "Addresses and networks of proxies in front of the sidecar, whose X-Forwarded-For is believed.",
    )
    .change("Name only machines that you run: whoever is in here can choose the address that the rate limit counts."),
    key(
        "forwarded.mode",
        Kind::OneOf(ForwardedMode::NAMES),
        Fallback::Is("auto"),
        "X-Forwarded-For, -Proto and -Host, X-Real-IP and Forwarded: \"auto\" replaces what an untrusted peer sent and appends to what a trusted one did; \"preserve\" passes them as they came and adds nothing.",
    )
    .change("With \"preserve\" a client can tell WordPress any address, unless a proxy in front prevents it."),
    key(
        "forwarded.request_id",
        Kind::OneOf(RequestIdMode::NAMES),
        Fallback::Is("auto"),
        "X-Request-Id, the name of a request in the sidecar's log: with \"auto\" the upstream gets it, a trusted peer's as it came and the sidecar's own in place of any other; \"preserve\" passes what came and adds nothing.",
    )
    .change("Set \"preserve\" where clients send one that the site reads. So it is with mode = \"preserve\", too."),
    key(
        "wordpress.config",
        Kind::Path,
        unset("database_url says where the database is", "/var/www/html/wp-config.php"),
        "The site's wp-config.php, which is read, never run.",
    )
    .flag_as("wp-config")
    .change(
        "Either this or database_url is needed, unless [refresh] mode is \"forward\". Here and wherever a file is named, \
         credential:NAME is what LoadCredential=NAME:/PATH of the systemd unit hands over, copied at each start.",
    ),
    key(
        "wordpress.database_url",
        Kind::Secret,
        unset("as wp-config.php says", "mysql://USER:PASSWORD@127.0.0.1:3306/wordpress"),
        "The site's database, as mysql://USER:PASSWORD@HOST:PORT/DATABASE (?socket=/PATH for a local socket).",
    )
    .change("For sites whose wp-config.php cannot be read, or a database user of the sidecar's own."),
    key(
        "wordpress.database_hosts",
        Kind::List("HOST"),
        Fallback::Is(""),
        "Hosts of the database in place of DB_HOST (and of the one in database_url), each in a form that DB_HOST may \
         have: the primary, then the replicas that may become primary, with the same user and password.",
    )
    .change(
        "Where the first cannot be reached or is read-only, the next is used that takes writes; an earlier one is gone \
         back to when it has taken writes for ten seconds and has what the other has. Never let two of them take \
         writes, unless they are one cluster. Leave it empty where one address leads to the primary always.",
    ),
    key(
        "wordpress.table_prefix",
        Kind::Text("PREFIX"),
        unset("as wp-config.php says", "wp_"),
        "What the names of the site's tables begin with.",
    ),
    key(
        "wordpress.home",
        Kind::Text("URL"),
        unset("WordPress itself is asked", "https://example.com"),
        "The site's home URL, the issuer of every token.",
    )
    .change("It must be what WordPress has, to the letter: tokens with another issuer are refused by the plugin."),
    key(
        "wordpress.hosts",
        Kind::List("HOST"),
        Fallback::Is(""),
        "Further hosts (host or host:port) under which clients reach this site, besides that of its home URL.",
    )
    .change(
        "Refreshes under any other host are left to WordPress: they may be for another site of the same web server.",
    ),
    key(
        "wordpress.auth_key",
        Kind::Secret,
        unset("as wp-config.php or the database says", "the value of AUTH_KEY"),
        "The constant AUTH_KEY.",
    ),
    key(
        "wordpress.auth_salt",
        Kind::Secret,
        unset("as wp-config.php or the database says", "the value of AUTH_SALT"),
        "The constant AUTH_SALT.",
    ),
    key(
        "jwt.secret",
        Kind::Secret,
        unset("as wp-config.php says", "the value of JWT_AUTH_SECRET_KEY"),
        "The constant JWT_AUTH_SECRET_KEY, for HS256, HS384 and HS512.",
    ),
    key(
        "jwt.secret_file",
        Kind::Path,
        unset("as wp-config.php says", "/etc/wp-jwt-sidecar/jwt-secret"),
        "A file that holds JWT_AUTH_SECRET_KEY, instead of `secret`; a line break at its end does not count.",
    ),
    key(
        "jwt.private_key_file",
        Kind::Path,
        unset("the shared secret signs", "/etc/wp-jwt-sidecar/private.pem"),
        "The private key in PEM form, for RS256, RS384, RS512, ES256, ES384 and EdDSA.",
    )
    .change("For sites that give the plugin a key pair by their own code."),
    key(
        "jwt.algorithm",
        Kind::OneOf(Algorithm::NAMES),
        unset("the site's setting", "HS256"),
        "The algorithm that signs access tokens.",
    )
    .change("Only where the site's own code overrides the plugin's setting."),
    key(
        "refresh.mode",
        Kind::OneOf(RefreshMode::NAMES),
        Fallback::Is("native"),
        "Who answers the refresh route: the sidecar (\"native\") or WordPress (\"forward\").",
    )
    .change("Set \"forward\" where the site's own PHP code hooks into the plugin's filters."),
    key(
        "refresh.response_fields",
        Kind::OneOf(ResponseFields::NAMES),
        Fallback::Is("all"),
        "The fields of a successful answer: those of the plugin's API document, those that it sends in fact (\"oauth2\"), or all.",
    ),
    key(
        "refresh.analytics",
        Kind::Boolean,
        Fallback::Is("true"),
        "Whether refreshes are written to the plugin's analytics table.",
    ),
    key(
        "refresh.reuse_interval",
        Kind::Duration { zero: true },
        Fallback::Is("0s"),
        "How long a used refresh token gets its successor's pair again; \"0s\": never, as with the plugin.",
    )
    .change(
        "Recommended: \"30s\". A client that lost the answer on its way (a phone between two cells, a process that was killed) \
         then comes again and goes on, instead of being logged out. Nothing new is made, and nothing is given after a logout, a \
         revocation or a password change. Not possible with ES256 and ES384, whose signatures cannot be made again.",
    ),
    key(
        "refresh.reuse_detection",
        Kind::OneOf(ReuseDetection::NAMES),
        Fallback::Is("off"),
        "What happens when a used refresh token comes back after reuse_interval: it is refused (\"off\"), or its family's live \
         tokens are revoked, too (\"revoke_family\").",
    )
    .change(
        "Recommended with a reuse_interval: \"revoke_family\" (RFC 9700, section 4.14.2). A used token that comes back late was \
         copied by somebody, and nobody can tell who of the two is honest. Without a reuse_interval it logs out every client that \
         sends a call twice.",
    ),
    key(
        "refresh.known_tokens",
        Kind::Integer { min: 1, max: 100_000_000, unit: "tokens" },
        Fallback::Is("1000000"),
        "Tokens whose rows are remembered, at some 200 bytes each.",
    )
    .change(
        "Where the table has no index on refresh_token_hash (see `wp-jwt-sidecar index`), keep it above the number of live \
         sessions, with room for a day of new ones: the sidecar then never has to read the whole table for one token.",
    ),
    key(
        "refresh.country_database",
        Kind::Path,
        unset("the one in the plugin's folder", "/usr/share/GeoIP/GeoLite2-Country.mmdb"),
        "A MaxMind country database for the analytics' country codes.",
    ),
    key(
        "cleanup.tokens_after_days",
        Kind::Integer { min: 0, max: 36_500, unit: "days" },
        Fallback::Is("0"),
        "Token rows that were revoked or expired so long ago are deleted, a few at a time; 0 deletes none.",
    )
    .change("With rotation every refresh leaves a row behind; 30 days keeps a month of history. A family's newest row stays."),
    key(
        "cleanup.analytics",
        Kind::Boolean,
        Fallback::Is("false"),
        "Whether analytics rows older than the plugin's own setting (analytics_retention_days) are deleted.",
    ),
    key(
        "admin.listen",
        Kind::Text("ADDRESS"),
        Fallback::Is("127.0.0.1:9151"),
        "Where the status page and the metrics are: an address and port, or unix:/PATH (with server.unix_mode, -owner and -group), or \"off\".",
    )
    .change(
        "Whoever can connect can read it, so keep it from the internet. Several sidecars on one machine need a port each: where the \
         default one is taken the sidecar warns and serves without; one that is set here and taken is an error.",
    ),
    key(
        "admin.hosts",
        Kind::List("HOST"),
        Fallback::Is(""),
        "Host names, with or without a port, by which the status page may be opened, besides IP addresses and \"localhost\".",
    )
    .change(
        "Needed where it is reached by a name, through a proxy or over a private network. Other names are refused, so that a web \
         page cannot have its own name point here and read along.",
    ),
    key(
        "shutdown.drain_timeout",
        Kind::Duration { zero: true },
        Fallback::Is("30s"),
        "How long requests in flight may take to finish; after that they are cut off.",
    )
    .change("Keep it below the service manager's own limit (systemd's TimeoutStopSec)."),
    key(
        "log.format",
        Kind::OneOf(LogFormat::NAMES),
        Fallback::Is("auto"),
        "Lines for people (\"text\"), one JSON object a line (\"json\"), or systemd's journal with every field by itself (\"journald\"); \"auto\" is the journal where standard error leads there, else text.",
    )
    .change("In the journal, `journalctl -u wp-jwt-sidecar REQUEST_ID=…` finds all lines about one request. Of the same warning at most 100 lines are written in a minute, then how many more there were."),
    key(
        "log.level",
        Kind::Text("LEVEL"),
        Fallback::Is("info"),
        "off, error, warn, info, debug or trace, for all or by module: \"info,wp_jwt_sidecar=debug\".",
    ),
    key(
        "log.refreshes",
        Kind::Boolean,
        Fallback::Is("true"),
        "Whether every call of the refresh route is a line (level info): outcome, user, the first 8 characters of the token's family, status, duration, client, request id.",
    ),
    key(
        "log.access",
        Kind::Boolean,
        Fallback::Is("false"),
        "Whether every forwarded request is a line when its answer has ended: method, path, status, bytes, durations, client, request id, user agent.",
    )
    .change("The path is written without its query, since queries carry secrets. It does not depend on log.level."),
];
