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

use cipher::{Block, BlockCipherEncrypt, KeyInit};
use des::{Des, TdesEde2};
use zeroize::{Zeroize, Zeroizing};

pub use super::{parent, path};
use crate::key::{KeyBytes, KeyLen, TdesKey};
use crate::ksn::TdesKsn;

/// The one key length of this scheme.
pub const KEY_LEN: KeyLen = KeyLen::K128;

/// What tells the left half of a new key from the right (X9.24-1:2009 A.1, A.2).
const MASK: [u8; 16] = [0xC0, 0xC0, 0xC0, 0xC0, 0, 0, 0, 0, 0xC0, 0xC0, 0xC0, 0xC0, 0, 0, 0, 0];

/// A DES key, a DES block, half a key.
const HALF: usize = 8;

type Key = [u8; 2 * HALF];

/// The initial key of a device (X9.24-1:2009 A.6): the first eight bytes of the KSN with its counter cleared, encrypted
/// under the BDK and under the masked BDK.
pub fn initial_key(bdk: &KeyBytes, ksn: &TdesKsn) -> KeyBytes {
    filled(|initial| {
        let [a, b, c, d, e, f, g, h, _, _] = *ksn.with_counter(0).bytes();
        let bdk = exposed(bdk);
        let masked = xored(bdk, &MASK);
        for (half, key) in initial.as_chunks_mut::<HALF>().0.iter_mut().zip([bdk, &*masked]) {
            *half = [a, b, c, d, e, f, g, h];
            TdesEde2::new(key.into()).encrypt_block(half.into());
        }
    })
}

/// The key of the KSN's counter: the whole way down from the initial key. For counter 0 that is the initial key.
pub fn transaction_key(ik: &KeyBytes, ksn: &TdesKsn) -> KeyBytes {
    filled(|key| {
        key.copy_from_slice(exposed(ik));
        path(ksn.raw_counter()).for_each(|counter| step(key, ksn, counter));
    })
}

/// One step down the tree: the node at `counter` of the KSN's device, from its parent.
pub fn child_key(parent: &KeyBytes, ksn: &TdesKsn, counter: u32) -> KeyBytes {
    filled(|key| {
        key.copy_from_slice(exposed(parent));
        step(key, ksn, counter);
    })
}

/// A key the transaction works with: a variant of the transaction key and, for the data keys, one step that cannot be
/// undone: each half encrypted under the whole variant (X9.24-1:2009 A.4.1).
pub fn working_key(transaction_key: &KeyBytes, key: TdesKey) -> KeyBytes {
    filled(|working| {
        working.copy_from_slice(exposed(transaction_key));
        let flipped = flipped_byte(key);
        working[flipped] ^= 0xFF;
        working[HALF + flipped] ^= 0xFF;
        match key {
            TdesKey::DataRequest | TdesKey::DataResponse => {
                let variant = TdesEde2::new((&*working).into());
                working.as_chunks_mut::<HALF>().0.iter_mut().for_each(|half| variant.encrypt_block(half.into()));
            }
            TdesKey::Pin
            | TdesKey::MacRequest
            | TdesKey::MacResponse
            | TdesKey::DataRequestVariant
            | TdesKey::DataResponseVariant => {}
        }
    })
}

/// Which byte of each half a variant inverts.
const fn flipped_byte(key: TdesKey) -> usize {
    match key {
        TdesKey::Pin => 7,
        TdesKey::MacRequest => 6,
        TdesKey::MacResponse => 4,
        TdesKey::DataRequest | TdesKey::DataRequestVariant => 5,
        TdesKey::DataResponse | TdesKey::DataResponseVariant => 3,
    }
}

/// Non-reversible key generation (X9.24-1:2009 A.2), in place: the last eight bytes of the KSN at `counter` go through
/// the key for the new right half, and through the masked key for the new left half.
fn step(key: &mut Key, ksn: &TdesKsn, counter: u32) {
    let [_, _, register @ ..] = *ksn.with_counter(counter).bytes();
    let masked = xored(key, &MASK);
    let mut right = register;
    one_way(key, &mut right);
    let mut left = register;
    one_way(&masked, &mut left);
    key[..HALF].copy_from_slice(&left);
    key[HALF..].copy_from_slice(&right);
    left.zeroize();
    right.zeroize();
}

/// `DES(left half, block ^ right half) ^ right half`.
fn one_way(key: &Key, block: &mut [u8; HALF]) {
    let (left, right) = key.split_at(HALF);
    xor(block, right);
    let block: &mut Block<Des> = block.into();
    Des::new_from_slice(left).expect("half a key is a DES key").encrypt_block(block);
    xor(block, right);
}

fn xor(bytes: &mut [u8], with: &[u8]) {
    bytes.iter_mut().zip(with).for_each(|(byte, with)| *byte ^= with);
}

fn xored(key: &Key, with: &Key) -> Zeroizing<Key> {
    let mut masked = Zeroizing::new(*key);
    xor(&mut *masked, with);
    masked
}

fn exposed(key: &KeyBytes) -> &Key {
    key.expose().try_into().expect("a key of TDES DUKPT has 16 bytes")
}

fn filled(fill: impl FnOnce(&mut Key)) -> KeyBytes {
    KeyBytes::filled(KEY_LEN, |bytes| fill(bytes.try_into().expect("KEY_LEN is 16 bytes")))
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
