//! The windows that sidecars of one site count together, in a store.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use super::{Who, length};
use crate::config::{Jwt, Secret};
use crate::shared_store::{Counted, NoAnswer, SharedStore};
use crate::wordpress::installation::Installation;
use crate::wordpress::options::RateLimit;

/// Of a digest, as many bytes as no two names have in common.
const NAME: usize = 16;

/// What only the sidecars of one site have: two sites in one store share nothing, and what stands there tells neither who a
/// client is nor what a site is called.
#[derive(Clone)]
pub struct SiteKey([u8; 32]);

impl SiteKey {
    /// Of the database's name, the tables' prefix and what tokens are signed with, which are the same for all sidecars of a site;
    /// hosts of the database are not.
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
        format!("wp-jwt-sidecar:{}:", self.name(8, &[b"prefix"]))
    }

    /// `length` bytes of a digest of `parts`, in hexadecimal digits. Without the key nobody can try which parts lead to it.
    pub fn name(&self, length: usize, parts: &[&[u8]]) -> String {
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

/// Counts in a store.
pub struct Shared {
    store: Arc<SharedStore>,
    key: SiteKey,
}

// SECURITY: the key is a secret.
impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    pub fn new(store: Arc<SharedStore>, key: SiteKey) -> Self {
        Shared { store, key }
    }

    pub(super) fn store(&self) -> &Arc<SharedStore> {
        &self.store
    }

    pub(super) async fn count(&self, who: &Who, limit: RateLimit) -> Result<Counted, NoAnswer> {
        self.store.count(&self.name(who), limit.max_requests, Duration::from_secs(length(limit))).await
    }

    // SECURITY: clients' addresses are personal data, and a store is read by more than one program.
    fn name(&self, who: &Who) -> String {
        let (four, six);
        let address: &[u8] = match who.address {
            IpAddr::V4(address) => {
                four = address.octets();
                &four
            }
            IpAddr::V6(address) => {
                six = address.octets();
                &six
            }
        };
        format!("limit:{}", self.key.name(NAME, &[b"limit", &who.blog.to_le_bytes(), address]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn names_tell_clients_and_sites_apart_and_nothing_else() {
        let configured =
            config::RateLimit { store: Some(Secret::new("redis://127.0.0.1:1")), ..config::RateLimit::default() };
        let shared = |key: u8| {
            let key = SiteKey([key; 32]);
            let store = SharedStore::new(&configured, &key.prefix(), Arc::default()).unwrap();
            Shared::new(Arc::new(store), key)
        };
        let (one, other) = (shared(1), shared(2));
        let who = |blog, address: &str| Who { blog, address: address.parse().unwrap() };
        let client = who(1, "192.0.2.1");
        assert_eq!(one.name(&client), shared(1).name(&client));
        let all = [
            one.name(&client),
            other.name(&client),
            one.name(&who(2, "192.0.2.1")),
            one.name(&who(1, "192.0.2.2")),
            one.name(&who(1, "2001:db8::")),
        ];
        for (at, name) in all.iter().enumerate() {
            assert!(name.starts_with("limit:") && name.len() == 6 + 2 * NAME, "{name}");
            assert!(all.iter().skip(at + 1).all(|other| other != name));
        }
        assert_ne!(one.store.prefix(), other.store.prefix());
        assert!(one.store.prefix().len() == 32 && one.store.prefix().ends_with(':'), "{}", one.store.prefix());
    }
}
