//! The names of a site's keys in the shared store.

use std::fmt::Write as _;
use std::net::IpAddr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::config::{Jwt, Secret};
use crate::shared_store::SharedStore;
use crate::wordpress::installation::Installation;

/// Bytes of the digest in a key's name: enough that no two names are equal.
const NAME: usize = 16;

/// Bytes of the digest in the prefix, which only helps an operator to tell sites apart.
const PREFIX: usize = 8;

/// A secret that only the sidecars of one site have. Two sites in one store share nothing by it, and
/// the store reveals neither clients' addresses nor sites' names.
#[derive(Clone)]
pub struct SiteKey([u8; 32]);

impl SiteKey {
    /// Made of the database's name, the tables' prefix and the signing key, which are the same for all
    /// sidecars of a site; the database's hosts are not.
    pub fn of(installation: &Installation, jwt: &Jwt) -> Self {
        let database = installation.database.opts().first().and_then(|opts| opts.db_name()).unwrap_or_default();
        let secret = installation.jwt_secret.as_ref().or(jwt.private_key.as_ref()).map_or("", Secret::expose);
        let mut hasher = Sha256::new();
        for part in ["wp-jwt-sidecar, what sidecars share", database, &installation.base_prefix, secret] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        SiteKey(hasher.finalize().into())
    }

    /// The prefix of keys if none is configured.
    pub fn prefix(&self) -> String {
        format!("wp-jwt-sidecar:{}:", self.name(PREFIX, &[b"prefix"]))
    }

    /// `length` bytes of a keyed digest of `parts`, in hexadecimal digits. Without the key the parts
    /// cannot be guessed.
    fn name(&self, length: usize, parts: &[&[u8]]) -> String {
        let mut named = String::with_capacity(2 * length);
        // HMAC accepts keys of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return named };
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        for byte in mac.finalize().into_bytes().iter().take(length) {
            let _ = write!(named, "{byte:02x}");
        }
        named
    }
}

/// The shared store with the names of one site's keys.
pub struct Shared {
    store: SharedStore,
    key: SiteKey,
}

// SECURITY: the key is a secret.
impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    pub fn new(store: SharedStore, key: SiteKey) -> Self {
        Shared { store, key }
    }

    /// The store.
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// The key of a client's window at one site of a network.
    // SECURITY: clients' addresses are personal data, and other programs read the store.
    pub(super) fn name_of_window(&self, blog: u64, client: IpAddr) -> String {
        let (four, six);
        let address: &[u8] = match client {
            IpAddr::V4(address) => {
                four = address.octets();
                &four
            }
            IpAddr::V6(address) => {
                six = address.octets();
                &six
            }
        };
        format!("limit:{}", self.key.name(NAME, &[b"limit", &blog.to_le_bytes(), address]))
    }

    /// The key of a difference of one site of a network in `epoch`.
    pub(super) fn name_of_verdict(&self, blog: u64, epoch: &str) -> String {
        format!("differs:{}", self.key.name(NAME, &[b"differs", &blog.to_le_bytes(), epoch.as_bytes()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use std::sync::Arc;

    #[test]
    fn names_tell_clients_and_sites_apart_and_nothing_else() {
        let configured =
            config::RateLimit { store: Some(Secret::new("redis://127.0.0.1:1")), ..config::RateLimit::default() };
        let shared = |key: u8| {
            let key = SiteKey([key; 32]);
            Shared::new(SharedStore::new(&configured, &key.prefix(), Arc::default()).unwrap(), key)
        };
        let (one, other) = (shared(1), shared(2));
        let window = |shared: &Shared, blog, address: &str| shared.name_of_window(blog, address.parse().unwrap());
        let client = window(&one, 1, "192.0.2.1");
        assert_eq!(client, window(&shared(1), 1, "192.0.2.1"));
        let windows = [
            client,
            window(&other, 1, "192.0.2.1"),
            window(&one, 2, "192.0.2.1"),
            window(&one, 1, "192.0.2.2"),
            window(&one, 1, "2001:db8::"),
        ];
        assert!(windows.iter().all(|name| name.starts_with("limit:") && name.len() == 6 + 2 * NAME), "{windows:?}");
        let verdicts = [(&one, 1, "a"), (&one, 1, "b"), (&one, 2, "a"), (&other, 1, "a")];
        let verdicts = verdicts.map(|(shared, blog, epoch)| shared.name_of_verdict(blog, epoch));
        let all: std::collections::BTreeSet<&String> = windows.iter().chain(&verdicts).collect();
        assert_eq!(all.len(), 9);
        assert_ne!(one.store.prefix(), other.store.prefix());
        assert!(one.store.prefix().len() == 32 && one.store.prefix().ends_with(':'), "{}", one.store.prefix());
    }
}
