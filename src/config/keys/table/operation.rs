//! The keys for operating the program: `[admin]`, `[shutdown]`, `[log]`.

use std::time::Duration;

use super::super::{Key, boolean, duration, list, one_of, text};
use crate::config::LogFormat;

keys! {
    ADMIN_LISTEN: String = text("admin.listen", "ADDRESS").is("127.0.0.1:9151")
        .about("Where the status page and the metrics are: an address and port, or unix:/PATH (with server.unix_mode, \
            -owner and -group), or \"off\".")
        .change("Every client that can connect can read it, so keep it from the internet. Several sidecars on one \
            machine need a port each: if the default one is taken, the sidecar warns and serves without; if one that \
            is set here is taken, that is an error.");
    ADMIN_HOSTS: Vec<String> = list("admin.hosts", "HOST")
        .about("Host names, with or without a port, by which the status page may be opened, besides IP addresses and \
            \"localhost\".")
        .change("Needed if it is reached by a name, through a proxy or over a private network. Other names are \
            refused, so that a web page cannot point a name of its own here and read along.");
    SHUTDOWN_DRAIN_TIMEOUT: Duration = duration("shutdown.drain_timeout").or_zero().is("30s")
        .about("How long requests in flight may take to finish; after that they are cut off.")
        .change("Keep it below the service manager's own limit (systemd's TimeoutStopSec).");
    LOG_FORMAT: LogFormat = one_of("log.format").is("auto")
        .about("Lines for people (\"text\"), one JSON object a line (\"json\"), or systemd's journal with separate \
            fields (\"journald\"); \"auto\": the journal if standard error leads there, else text.")
        .change("In the journal, `journalctl -u wp-jwt-sidecar REQUEST_ID=…` finds all lines about one request. At \
            most 100 lines of the same message are written in a minute, then the number of further ones.");
    LOG_LEVEL: String = text("log.level", "LEVEL").is("info")
        .about("off, error, warn, info, debug or trace, for all or by module: \"info,wp_jwt_sidecar=debug\".")
        .change("With \"warn\" and \"info\" only errors of the crate h2 are written: it warns of what any HTTP/2 \
            client may do. \"info,h2=warn\" shows that, too.");
    LOG_REFRESHES: bool = boolean("log.refreshes").is("true")
        .about("Whether each call of the refresh route is logged (level info): outcome, user, the first 8 characters \
            of the token's family, status, duration, client, request id.");
    LOG_ACCESS: bool = boolean("log.access").is("false")
        .about("Whether each forwarded request is logged once its response has ended: method, path, status, bytes, \
            durations, client, request id, user agent.")
        .change("The path is written without its query, since queries carry secrets. It does not depend on \
            log.level.");
}
