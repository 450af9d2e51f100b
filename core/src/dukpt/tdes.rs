//! TDES DUKPT, the host half (ANSI X9.24-1:2009 annex A): from the BDK to the keys of one transaction.
//!
//! All keys have 16 bytes, two DES keys; their parity bits are never adjusted, as in the standard's own examples.
//!
//! Architecture invariant: no heap, and no copy of a key that is not wiped. Legality and freshness of a counter are
//! the caller's checks; the arithmetic is defined for all 21 bits.
//!
//! # Panics
//! Every function here panics when the key it is given has not [`KEY_LEN`]: a key is registered for this scheme only
//! after its length was checked.

use super::des::{Node, is_sealed, variant};
pub mod batch;

pub use super::{parent, path};
use crate::key::{KeyBytes, KeyLen, TdesKey};
use crate::ksn::TdesKsn;

/// The one key length of this scheme.
pub const KEY_LEN: KeyLen = KeyLen::K128;

/// The initial key of a device (X9.24-1:2009 A.6): the first eight bytes of the KSN with its counter cleared, encrypted
/// under the BDK and under the masked BDK.
pub fn initial_key(bdk: &KeyBytes, ksn: &TdesKsn) -> KeyBytes {
    let [block @ .., _, _] = *ksn.with_counter(0).bytes();
    bytes(&Node::initial(exposed(bdk), u64::from_be_bytes(block)))
}

/// The key of the KSN's counter: the whole way down from the initial key. For counter 0 that is the initial key.
pub fn transaction_key(ik: &KeyBytes, ksn: &TdesKsn) -> KeyBytes {
    let mut node = Node::new(exposed(ik));
    path(ksn.raw_counter()).for_each(|counter| node.step(register(ksn, counter)));
    bytes(&node)
}

/// One step down the tree: the node at `counter` of the KSN's device, from its parent.
pub fn child_key(parent: &KeyBytes, ksn: &TdesKsn, counter: u32) -> KeyBytes {
    let mut node = Node::new(exposed(parent));
    node.step(register(ksn, counter));
    bytes(&node)
}

/// The same, written to the place of a key of [`KEY_LEN`].
pub(super) fn derive_child(parent: &KeyBytes, ksn: &TdesKsn, counter: u32, child: &mut KeyBytes) {
    let mut node = Node::new(exposed(parent));
    node.step(register(ksn, counter));
    write(&node, child);
}

/// A key the transaction works with: a variant of the transaction key and, for the data keys, one step that cannot be
/// undone: each half encrypted under the whole variant (X9.24-1:2009 A.4.1).
pub fn working_key(transaction_key: &KeyBytes, key: TdesKey) -> KeyBytes {
    let mut node = Node::new(exposed(transaction_key));
    work(&mut node, key);
    bytes(&node)
}

/// The same, written to the place of a key of [`KEY_LEN`].
pub(crate) fn derive_working_key(transaction_key: &KeyBytes, key: TdesKey, place: &mut KeyBytes) {
    let mut node = Node::new(exposed(transaction_key));
    work(&mut node, key);
    write(&node, place);
}

fn work(node: &mut Node, key: TdesKey) {
    node.vary(variant(key));
    if is_sealed(key) {
        node.seal_itself();
    }
}

/// The last eight bytes of the KSN at a counter: what a step encrypts (X9.24-1:2009 A.2).
fn register(ksn: &TdesKsn, counter: u32) -> u64 {
    let [_, _, register @ ..] = *ksn.with_counter(counter).bytes();
    u64::from_be_bytes(register)
}

fn exposed(key: &KeyBytes) -> &[u8; 16] {
    key.expose().try_into().expect("a key of TDES DUKPT has 16 bytes")
}

fn bytes(node: &Node) -> KeyBytes {
    KeyBytes::filled(KEY_LEN, |key| node.write(key.try_into().expect("KEY_LEN is 16 bytes")))
}

fn write(node: &Node, place: &mut KeyBytes) {
    node.write(place.expose_mut().try_into().expect("the place of a key of TDES DUKPT has 16 bytes"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    #[should_panic(expected = "has 16 bytes")]
    fn a_key_of_another_length_is_a_fault_of_the_caller() {
        let long = KeyBytes::filled(KeyLen::K192, |_| {});
        initial_key(&long, &TdesKsn::new([0; 10]));
    }

    proptest! {
        #[test]
        fn single_steps_down_the_path_end_where_the_whole_way_ends(seed in any::<[u8; 16]>(), id in any::<[u8; 10]>()) {
            let ksn = TdesKsn::new(id);
            let ik = KeyBytes::copied(&seed).unwrap();
            let start = KeyBytes::copied(&seed).unwrap();
            let stepped = path(ksn.raw_counter()).fold(start, |above, counter| child_key(&above, &ksn, counter));
            prop_assert!(stepped.ct_eq(&transaction_key(&ik, &ksn)));
        }

        #[test]
        fn the_initial_key_does_not_depend_on_the_counter(seed in any::<[u8; 16]>(), id in any::<[u8; 10]>(), counter in any::<u32>()) {
            let bdk = KeyBytes::copied(&seed).unwrap();
            let ksn = TdesKsn::new(id);
            prop_assert!(initial_key(&bdk, &ksn).ct_eq(&initial_key(&bdk, &ksn.with_counter(counter))));
        }
    }
}
