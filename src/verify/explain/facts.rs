//! The data of one user whose response was compared.

use std::collections::BTreeMap;

use crate::declared::{Person, Read, Source};
use serde_json::Value;

/// One user.
// SECURITY: no Debug. It is the user's data, and stays in memory.
#[derive(Clone, Default)]
pub struct Facts {
    pub id: u64,
    pub email: String,
    pub nicename: String,
    pub display_name: String,
    /// For these three, `None` means that the database user may not read them.
    pub login: Option<String>,
    pub url: Option<String>,
    pub registered: Option<String>,
    /// The names of the site's roles; `None` if they cannot be read.
    pub roles: Option<Vec<String>>,
    /// The meta value with the user's own.
    pub capabilities: Option<Vec<u8>>,
    /// Meta values; `None` if the value cannot be declared, because it is serialized or too long.
    pub meta: BTreeMap<String, Option<Vec<u8>>>,
    /// Whether there are no more meta values than these.
    pub is_whole: bool,
    /// Whether the database user may not read the meta values.
    pub is_meta_denied: bool,
    /// Columns of the users' table that it may not read.
    pub denied_columns: Vec<&'static str>,
}

impl Facts {
    /// The value of `source` for this user; `None` if it is uncertain.
    pub fn value(&self, source: &Source) -> Option<Value> {
        let absent = || self.is_whole.then_some(None);
        let read = source.read();
        let found = match &read {
            None => None,
            Some(Read::Login) => Some(self.login.clone()?.into_bytes()),
            Some(Read::Url) => Some(self.url.clone()?.into_bytes()),
            Some(Read::Registered) => Some(self.registered.clone()?.into_bytes()),
            Some(Read::Capabilities) => match &self.capabilities {
                Some(capabilities) => Some(capabilities.clone()),
                None => absent()?,
            },
            Some(Read::Meta(key)) => match self.meta.get(key) {
                Some(value) => Some(value.clone()?),
                None => absent()?,
            },
        };
        let reads: Vec<Read> = read.into_iter().collect();
        let person = Person {
            id: self.id,
            email: &self.email,
            nicename: &self.nicename,
            display_name: &self.display_name,
            reads: &reads,
            found: &[found],
            roles: self.roles.as_deref(),
        };
        source.value(&person).ok()
    }

    /// Whether the user has a value of this key that is not empty and can be declared.
    pub fn has(&self, key: &str) -> bool {
        self.meta.get(key).is_some_and(|value| value.as_ref().is_some_and(|value| !value.is_empty()))
    }
}
