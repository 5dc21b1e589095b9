//! Counts the connections and the exchanges in flight of each client address, so that one client
//! cannot take them all.
//!
//! An IPv6 client is counted by its /64, in which it can choose any address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use super::places;
use crate::share::Share;

/// The counts, shared by all workers. Updated when a connection opens or closes.
pub struct PerAddress {
    connections: usize,
    exchanges: usize,
    one_connection: usize,
    early_bodies: usize,
    open: Arc<Mutex<HashMap<IpAddr, Open>>>,
}

/// The connections and permits of one address.
struct Open {
    connections: usize,
    /// The limits that the permits were made for: exchanges of an address and of one connection,
    /// and early bodies.
    limits: (usize, usize, usize),
    /// Free permits for exchanges, by the worker's number.
    exchanges: HashMap<usize, Arc<Semaphore>>,
    /// Free permits for bodies that are sent at once.
    early_bodies: Option<Arc<Semaphore>>,
}

impl PerAddress {
    /// The limits per address; zero is unlimited. `one_connection`: how many exchanges a single
    /// connection may have in flight. `early_bodies`: how many exchanges of an address may send
    /// their bodies at once.
    pub fn new(connections: usize, exchanges: usize, one_connection: usize, early_bodies: usize) -> Arc<Self> {
        Arc::new(PerAddress { connections, exchanges, one_connection, early_bodies, open: Arc::default() })
    }

    /// The same counts with other limits. Addresses beyond a new limit keep what they have open.
    pub fn with_limits(
        &self,
        connections: usize,
        exchanges: usize,
        one_connection: usize,
        early_bodies: usize,
    ) -> Arc<Self> {
        Arc::new(PerAddress { connections, exchanges, one_connection, early_bodies, open: Arc::clone(&self.open) })
    }

    fn limits(&self) -> (usize, usize, usize) {
        (self.exchanges, self.one_connection, self.early_bodies)
    }

    /// A permit for a connection from `address`; `None` if it already has as many as allowed.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Admitted> {
        let address = network(address);
        let mut all = self.open();
        let open = all.entry(address).or_insert_with(|| Open::new(self.limits()));
        if self.connections > 0 && open.connections >= self.connections {
            return None;
        }
        open.connections += 1;
        Some(Admitted { of: Arc::clone(self), address })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn new(limits: (usize, usize, usize)) -> Self {
        Open { connections: 0, limits, exchanges: HashMap::new(), early_bodies: places::limited(limits.2) }
    }

    /// Permits for other limits are counted from zero.
    fn adopt(&mut self, limits: (usize, usize, usize)) {
        if self.limits != limits {
            *self = Open { connections: self.connections, ..Open::new(limits) };
        }
    }
}

/// One connection's permit, released on drop.
pub struct Admitted {
    of: Arc<PerAddress>,
    address: IpAddr,
}

impl Admitted {
    /// Free permits for exchanges of its address at one worker, under the limits of `now`; `None`
    /// if unlimited. After a change of the limit they are counted from zero, and exchanges in
    /// flight keep the permits that they have.
    ///
    /// SECURITY: each worker has its share of the limit, as it has of connections to the upstream.
    /// Connections made so that they all reach one worker must not take everything that it has. See
    /// [`Share::of_clients`].
    pub fn exchanges(&self, now: &PerAddress, share: Share) -> Option<Arc<Semaphore>> {
        if now.exchanges == 0 {
            return None;
        }
        let mut all = now.open();
        let open = all.get_mut(&self.address)?;
        open.adopt(now.limits());
        let places = open.exchanges.entry(share.worker);
        let of_worker = || Arc::new(Semaphore::new(share.of_clients(now.exchanges, now.one_connection)));
        Some(Arc::clone(places.or_insert_with(of_worker)))
    }

    /// Free permits for bodies of its address that are sent at once, on all workers; `None` if
    /// unlimited.
    pub fn early_bodies(&self, now: &PerAddress) -> Option<Arc<Semaphore>> {
        let mut all = now.open();
        let open = all.get_mut(&self.address)?;
        open.adopt(now.limits());
        open.early_bodies.clone()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut all = self.of.open();
        if let Some(open) = all.get_mut(&self.address) {
            open.connections -= 1;
            if open.connections == 0 {
                all.remove(&self.address);
            }
        }
    }
}

/// The network that counts as one client: an IPv4 address, even in IPv6 form (`::ffff:…`), or a
/// /64.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_up_to_the_limit_and_given_back() {
        let per_address = PerAddress::new(2, 0, 1, 0);
        let [a, b]: [IpAddr; 2] = ["198.51.100.7".parse().unwrap(), "198.51.100.8".parse().unwrap()];
        let first = per_address.admit(a).unwrap();
        let _second = per_address.admit("::ffff:198.51.100.7".parse().unwrap()).unwrap();
        assert!(per_address.admit(a).is_none());
        assert!(per_address.admit(b).is_some());
        drop(first);
        assert!(per_address.admit(a).is_some());
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let per_address = PerAddress::new(1, 0, 1, 0);
        let _place = per_address.admit("2001:db8::1".parse().unwrap()).unwrap();
        assert!(per_address.admit("2001:db8::2".parse().unwrap()).is_none());
        assert!(per_address.admit("2001:db8:0:1::1".parse().unwrap()).is_some());
    }

    #[test]
    fn the_connections_of_an_address_share_its_places_for_exchanges() {
        let per_address = PerAddress::new(0, 5, 1, 2);
        let [first, second, other] = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
            .map(|address| per_address.admit(address.parse().unwrap()).unwrap());
        let at = |worker| Share { worker, workers: 2 };
        let free = |place: &Admitted, now: &PerAddress, worker| {
            place.exchanges(now, at(worker)).map(|places| places.available_permits())
        };
        let _taken = first.exchanges(&per_address, at(0)).unwrap().try_acquire_owned().unwrap();
        assert_eq!([&first, &second, &other].map(|place| free(place, &per_address, 0)), [Some(2), Some(2), Some(3)]);
        assert_eq!(free(&first, &per_address, 1), Some(2), "the other worker's share");
        // After a reload the new limit also applies to open connections.
        let changed = per_address.with_limits(0, 8, 1, 3);
        assert_eq!((free(&first, &changed, 0), free(&second, &changed, 1)), (Some(4), Some(4)));
        let with_room = changed.with_limits(0, 8, 6, 3);
        assert_eq!((free(&first, &with_room, 0), free(&second, &with_room, 1)), (Some(6), Some(6)), "one connection's");
        assert_eq!(free(&first, &changed.with_limits(0, 0, 1, 0), 0), None);
        let early = |place: &Admitted, now| place.early_bodies(now).map(|places| places.available_permits());
        let _taken = first.early_bodies(&per_address).unwrap().try_acquire_owned().unwrap();
        assert_eq!((early(&second, &per_address), early(&other, &per_address)), (Some(1), Some(2)));
        assert_eq!((early(&second, &changed), early(&second, &changed.with_limits(0, 8, 1, 0))), (Some(3), None));
        drop((first, second, other));
        assert!(per_address.open().is_empty());
    }
}
