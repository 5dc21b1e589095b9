//! The keys for what several sidecars of a site share: `[rate_limit]`.

use super::super::{Key, path, secret, text};
use crate::config::{Secret, kind::FileName};

keys! {
    RATE_LIMIT_STORE: Option<Secret> = secret("rate_limit.store")
        .unset("each sidecar counts by itself", "redis://USER:PASSWORD@127.0.0.1:6379/0")
        .about("The Redis or Valkey in which all sidecars of a site count refreshes together, and tell each other \
            when WordPress's refreshes differ: redis://USER:PASSWORD@HOST:PORT/DB, the same with rediss (TLS), \
            unix:/PATH?db=DB&user=USER&pass=PASSWORD, redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/DB or \
            redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT; the last two with rediss as well, and valkey for redis \
            everywhere.")
        .change("Where a site has several sidecars: with n of them that count alone, a client has up to n times the \
            limit. No refresh waits for it longer than 50 ms; while it is away, each counts alone. Keys hold \
            no address and expire. Sentinels with a password of their \
            own: ?sentinel_user=USER&sentinel_password=PASSWORD.");
    RATE_LIMIT_STORE_FILE: Option<FileName> = path("rate_limit.store_file")
        .unset("as `store` says", "/etc/wp-jwt-sidecar/store-url")
        .about("A file that holds that URL, instead of `store`; a line break at its end does not count.");
    RATE_LIMIT_STORE_CA_FILE: Option<FileName> = path("rate_limit.store_ca_file")
        .unset("the authorities that the system trusts", "/etc/ssl/certs/store-ca.pem")
        .about("Certificates, in PEM form, of the authorities that may sign the store's, in place of those that the system \
            trusts.")
        .change("For an authority of your own, or of the hosting company. Read at each connection.");
    RATE_LIMIT_STORE_PREFIX: Option<String> = text("rate_limit.store_prefix", "PREFIX")
        .unset("wp-jwt-sidecar: and a digest of the database's name, the tables' prefix and the site's secret", "shop:")
        .about("What the names of all keys in the store begin with.")
        .change("For access rights of the store by names (ACL SETUSER … ~shop:*). Two sites with the same prefix \
            still share nothing, unless one is a copy of the other with the same database name, table prefix and \
            secret (staging): a copy needs a prefix of its own.");
}
