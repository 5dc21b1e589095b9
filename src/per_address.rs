//! How many connections each client address has open, so that one client cannot take them all.
//!
//! An IPv6 client is its /64: it has as many addresses in that as it likes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// The count, shared by all workers. Touched when a connection opens and when it closes.
pub struct PerAddress {
    limit: usize,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl PerAddress {
    /// At most `limit` for each address.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(PerAddress { limit, open: Arc::default() })
    }

    /// The same count with another limit. Who has more open keeps it.
    pub fn with_limit(&self, limit: usize) -> Arc<Self> {
        Arc::new(PerAddress { limit, open: Arc::clone(&self.open) })
    }

    /// A place for a connection from `address`; `None` when it has `limit` open.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Place { of: Arc::clone(self), address })
    }
}

/// One connection's place. Dropped, it is free.
pub struct Place {
    of: Arc<PerAddress>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.of.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
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
        let per_address = PerAddress::new(2);
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
        let per_address = PerAddress::new(1);
        let _place = per_address.admit("2001:db8::1".parse().unwrap()).unwrap();
        assert!(per_address.admit("2001:db8::2".parse().unwrap()).is_none());
        assert!(per_address.admit("2001:db8:0:1::1".parse().unwrap()).is_some());
    }
}
