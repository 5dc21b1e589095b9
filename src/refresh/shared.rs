//! What the sidecars of one site have in common in a store: the names of their keys there.

use std::fmt::Write as _;
use std::net::IpAddr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::config::{Jwt, Secret};
use crate::shared_store::SharedStore;
use crate::wordpress::installation::Installation;

/// Of a digest, as many bytes as no two names have in common.
const NAME: usize = 16;

/// Of a prefix: it only tells sites apart for those who look into the store.
const PREFIX: usize = 8;

/// What only the sidecars of one site have: two sites in one store share nothing, and what stands
/// there tells neither who a client is nor what a site is called.
#[derive(Clone)]
pub struct SiteKey([u8; 32]);

impl SiteKey {
    /// Of the database's name, the tables' prefix and what tokens are signed with, which are the
    /// same for all sidecars of a site; hosts of the database are not.
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

    /// What keys begin with where nothing is configured.
    pub fn prefix(&self) -> String {
        format!("wp-jwt-sidecar:{}:", self.name(PREFIX, &[b"prefix"]))
    }

    /// `length` bytes of a digest of `parts`, in hexadecimal digits. Without the key the parts
    /// cannot be guessed from it.
    fn name(&self, length: usize, parts: &[&[u8]]) -> String {
        let mut named = String::with_capacity(2 * length);
        // A key of any length is good.
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

/// A store, as one site uses it.
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

    /// Where it is.
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// The window of a client at one site of a network.
    // SECURITY: clients' addresses are personal data, and a store is read by more than one program.
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

    /// What was found out about one site of a network, as it is in `epoch`.
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
