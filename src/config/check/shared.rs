//! `[rate_limit]`

use crate::config::{RateLimit, keys, merged::Merged, store_url, value};

pub(super) fn rate_limit(read: &mut Merged) -> RateLimit {
    let check = |text: &str| store_url::parse(text).map(|_| ());
    let mut store = read.checked_secret(keys::RATE_LIMIT_STORE, check);
    if let Some(in_file) = read.secret_file(keys::RATE_LIMIT_STORE_FILE, "the store's URL") {
        let other = read.find(keys::RATE_LIMIT_STORE).map(|said| said.origin.to_string());
        match (other, check(in_file.expose())) {
            (Some(other), _) => {
                let problem = format!("contradicts rate_limit.store ({other}); give one of the two");
                read.fault(keys::RATE_LIMIT_STORE_FILE, problem);
            }
            (None, Ok(())) => store = Some(in_file),
            (None, Err(problem)) => read.fault(keys::RATE_LIMIT_STORE_FILE, format!("what it holds {problem}")),
        }
    }
    let store_ca_file = read.readable(keys::RATE_LIMIT_STORE_CA_FILE);
    let url = store.as_ref().and_then(|store| store_url::parse(store.expose()).ok());
    if store_ca_file.is_some() && url.is_some_and(|url| !url.is_encrypted()) {
        read.fault(keys::RATE_LIMIT_STORE_CA_FILE, "has no use: the store's URL is without TLS (rediss://…)");
    }
    if read.find(keys::RATE_LIMIT_STORE).is_none() && read.find(keys::RATE_LIMIT_STORE_FILE).is_none() {
        let useless = "has no use without rate_limit.store";
        if read.find(keys::RATE_LIMIT_STORE_CA_FILE).is_some() {
            read.fault(keys::RATE_LIMIT_STORE_CA_FILE, useless);
        }
        if read.find(keys::RATE_LIMIT_STORE_PREFIX).is_some() {
            read.fault(keys::RATE_LIMIT_STORE_PREFIX, useless);
        }
    }
    RateLimit { store, store_ca_file, store_prefix: read.parsed(keys::RATE_LIMIT_STORE_PREFIX, value::store_prefix) }
}
