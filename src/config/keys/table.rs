//! Every section and every key.

/// Declares keys as constants, each with the type of its values, and `KEYS`, which lists them.
macro_rules! keys {
    ($($name:ident: $type:ty = $key:expr;)+) => {
        $(pub(in crate::config) const $name: Key<$type> = $key;)+

        pub(super) const KEYS: &[Key] = &[$($name.of_type()),+];
    };
}

mod clients;
mod operation;
mod shared;
mod site;
mod site_server;

pub(in crate::config) use self::{clients::*, operation::*, shared::*, site::*, site_server::*};
use super::Key;

/// The sections in the order of the example file, each with its subject.
pub const SECTIONS: &[(&str, &str)] = &[
    ("server", "The side that clients see."),
    ("tls", "TLS (https) with clients: HTTP/1.1 and HTTP/2, TLS 1.2 and 1.3."),
    ("upstream", "The web server of the WordPress site, which gets every request except native refreshes."),
    ("forwarded", "Which peers are believed about a client's address."),
    (
        "wordpress",
        "Where the site's own settings and database are. `config` is enough, unless wp-config.php cannot be read.",
    ),
    ("jwt", "What access tokens are signed with. Nothing is needed here if wp-config.php defines JWT_AUTH_SECRET_KEY."),
    ("refresh", "The refresh route."),
    ("cleanup", "Deletes old rows of the plugin's tables, which otherwise stay for ever. Off by default."),
    (
        "rate_limit",
        "The plugin's rate limit where a site has several sidecars, and what else they share besides the database.",
    ),
    (
        "admin",
        "For operators: a status page at /, /status.json, /metrics for Prometheus, /healthz and /readyz. It shows no secrets and changes nothing.",
    ),
    ("shutdown", "What happens at SIGTERM and SIGINT."),
    ("log", "What is written to standard error."),
];

/// Every key, in the order of the example file.
pub const KEYS: &[Key] = &joined();

const PARTS: [&[Key]; 5] = [clients::KEYS, site_server::KEYS, site::KEYS, shared::KEYS, operation::KEYS];

const COUNT: usize =
    clients::KEYS.len() + site_server::KEYS.len() + site::KEYS.len() + shared::KEYS.len() + operation::KEYS.len();

const fn joined() -> [Key; COUNT] {
    let mut all = [clients::KEYS[0]; COUNT];
    let (mut filled, mut part) = (0, 0);
    while part < PARTS.len() {
        let mut place = 0;
        while place < PARTS[part].len() {
            all[filled] = PARTS[part][place];
            filled += 1;
            place += 1;
        }
        part += 1;
    }
    all
}
