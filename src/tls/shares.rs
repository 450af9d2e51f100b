//! Fair shares: nobody holds more than so many places at once, so one caller cannot keep all the others out.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts the places of each holder.
pub(super) struct Shares<K> {
    held: Arc<Mutex<HashMap<K, usize>>>,
    most: usize,
}

/// One place, given back when it is dropped.
pub(super) struct Share<K: Hash + Eq> {
    held: Arc<Mutex<HashMap<K, usize>>>,
    holder: K,
}

impl<K: Hash + Eq + Copy> Shares<K> {
    /// Of at most so many places each.
    pub(super) fn new(most: usize) -> Self {
        Self { held: Arc::default(), most }
    }

    /// A place for this holder, unless it has its share.
    pub(super) fn take(&self, holder: K) -> Option<Share<K>> {
        let mut all = locked(&self.held);
        let held = all.get(&holder).copied().unwrap_or_default();
        if held >= self.most {
            return None;
        }
        all.insert(holder, held + 1);
        Some(Share { held: self.held.clone(), holder })
    }
}

impl<K: Hash + Eq> Drop for Share<K> {
    fn drop(&mut self) {
        // The lock is let go before the key, which this drops afterwards.
        let mut all = locked(&self.held);
        let left = all.get_mut(&self.holder).map(|held| {
            *held = held.saturating_sub(1);
            *held
        });
        if left == Some(0) {
            all.remove(&self.holder);
        }
    }
}

/// A panic elsewhere cannot leave it half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who counts as one source: an IPv4 address, or an IPv6 network of 64 bits, which one host has whole (RFC 4291 2.5.4).
pub(super) fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() >> 64 << 64)),
        four => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_share_and_gives_it_back() {
        let shares = Shares::new(2);
        let first = shares.take(1).unwrap();
        let _second = shares.take(1).unwrap();
        assert!(shares.take(1).is_none());
        let other = shares.take(2).unwrap();
        drop((first, other));
        assert!(shares.take(1).is_some());
        assert_eq!(locked(&shares.held).len(), 1, "who holds nothing is forgotten");
    }

    #[test]
    fn a_host_is_one_source() {
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::3"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::3"), of("2001:db8:1:3::3"));
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
    }
}
