//! Counts the calls of a network's sites. Only the first few sites are counted by name, so that the
//! number of names is limited.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::metrics::Counter;
use crate::wordpress::network::blog::Blog;

/// Sites that are counted by name.
const NAMED: usize = 20;

/// How many calls for a site had which result.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answered by the sidecar.
    pub native: Counter,
    /// Left to WordPress.
    pub left: Counter,
}

/// The counters of all sites. They outlast reloads.
#[derive(Default)]
pub struct Tallies {
    named: Mutex<HashMap<u64, (String, Arc<Tally>)>>,
    others: Arc<Tally>,
}

impl Tallies {
    /// The counters for `blog`. A site that was counted by name once keeps its name.
    pub fn of(&self, blog: &Blog) -> Arc<Tally> {
        let mut named = self.named();
        if let Some((_, tally)) = named.get(&blog.id) {
            return Arc::clone(tally);
        }
        if named.len() >= NAMED {
            return Arc::clone(&self.others);
        }
        let tally = Arc::<Tally>::default();
        named.insert(blog.id, (blog.place(), Arc::clone(&tally)));
        tally
    }

    /// The counters by name, in the order of the sites' ids, and with `None` those of all other
    /// sites together.
    pub fn all(&self) -> Vec<(Option<String>, Arc<Tally>)> {
        let named = self.named();
        let mut ids: Vec<&u64> = named.keys().collect();
        ids.sort_unstable();
        let named =
            ids.into_iter().filter_map(|id| named.get(id)).map(|(name, tally)| (Some(name.clone()), Arc::clone(tally)));
        named.chain([(None, Arc::clone(&self.others))]).collect()
    }

    fn named(&self) -> MutexGuard<'_, HashMap<u64, (String, Arc<Tally>)>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_an_end_to_the_names() {
        let tallies = Tallies::default();
        let blog = |id: u64| Blog { id, network: 1, domain: "net.test".into(), path: format!("/{id}/"), closed: None };
        for id in (2..2 + NAMED as u64 + 5).rev() {
            tallies.of(&blog(id)).native.add();
        }
        tallies.of(&blog(7)).native.add();
        let all = tallies.all();
        assert_eq!(all.len(), NAMED + 1);
        let count = |name: Option<&str>| {
            all.iter().find(|(of, _)| of.as_deref() == name).map(|(_, tally)| tally.native.value())
        };
        assert_eq!((count(Some("net.test/7/")), count(Some("net.test/8/")), count(None)), (Some(2), Some(1), Some(5)));
        assert_eq!(count(Some("net.test/2/")), None, "of those that came too late");
    }
}
