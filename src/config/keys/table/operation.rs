//! The keys for who operates the program.

use super::super::{Fallback, Key, key};
use crate::config::kind::Kind;
use crate::config::names::LogFormat;

/// `[admin]`, `[shutdown]`, `[log]`.
pub const KEYS: &[Key] = &[
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
    )
    .change(
        "With \"warn\" and \"info\" the crate h2 is heard at errors only: it warns of what any HTTP/2 client may do. \
         \"info,h2=warn\" shows that, too.",
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
