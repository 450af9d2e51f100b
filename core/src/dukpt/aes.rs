//! AES DUKPT, the host half (ANSI X9.24-3:2017): from the BDK to the key of one transaction and one use.
//!
//! Every key is made the same way (6.3.1): the key above encrypts, block by block, public derivation data that
//! say what the new key is for. [`DerivationData`] is those data, so that an HSM can do the encrypting instead.
//!
//! Architecture invariant: no heap for one record, and no copy of a key outside [`KeyBytes`]; how AES itself is
//! computed is the affair of [`super::lanes`].
//! Legality and freshness of a counter are the caller's checks; the arithmetic is defined for all 32 bits.

mod walk;

pub use self::walk::{Walk, derivation_keys, derivation_keys_on, working_keys, working_keys_on};
use super::lanes::{Data, Trusted};
pub use super::{parent, path};
use crate::key::{KeyBytes, KeyLen, KeyType, KeyUsage};
use crate::ksn::AesKsn;

/// The counter of the update key, which no transaction can have (X9.24-3:2017 6.5.2).
pub const UPDATE_KEY_COUNTER: u32 = u32::MAX;

/// Cipher block, in bytes.
const BLOCK: usize = 16;
/// Version of the derivation data, and the number of their first block (X9.24-3:2017 6.3.2).
const VERSION_AND_BLOCK: u16 = 0x0101;

/// A working key that may not be derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeriveError {
    /// No key may come from a weaker one (X9.24-3:2017 6.3).
    #[error("a key of {} bits cannot give a working key of {} bits", derivation_key.bits(), wanted.key_len().bits())]
    WorkingKeyStronger {
        /// The key it would come from.
        derivation_key: KeyLen,
        /// What was asked for.
        wanted: KeyType,
    },
}

/// The public input of one key derivation (X9.24-3:2017 6.3.2 tables 2 and 3): one 16-byte block for a 128-bit key,
/// two that differ in the block counter for a longer one.
///
/// | byte | content |
/// |---|---|
/// | 0 | version, 01 |
/// | 1 | block counter, 01 then 02 |
/// | 2-3 | usage of the new key |
/// | 4-5 | its algorithm |
/// | 6-7 | its length in bits |
/// | 8-15 | initial key: the initial key id; all others: its last four bytes, then the counter |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DerivationData {
    blocks: [[u8; BLOCK]; 2],
    key_len: KeyLen,
}

impl DerivationData {
    /// For the initial key of a device, as long as the BDK it comes from.
    pub fn initial_key(len: KeyLen, ik_id: [u8; 8]) -> Self {
        Self::new(KeyUsage::InitialKeyDerivation, KeyType::aes(len), u64::from_be_bytes(ik_id))
    }

    /// For the node of the tree at `counter`, as long as all keys of its tree.
    pub fn node(len: KeyLen, ik_id: [u8; 8], counter: u32) -> Self {
        Self::new(KeyUsage::KeyDerivation, KeyType::aes(len), at_counter(ik_id, counter))
    }

    /// For a key the transaction works with.
    pub fn working_key(usage: KeyUsage, key_type: KeyType, ik_id: [u8; 8], counter: u32) -> Self {
        Self::new(usage, key_type, at_counter(ik_id, counter))
    }

    fn new(usage: KeyUsage, key_type: KeyType, tail: u64) -> Self {
        Self { blocks: data(usage, key_type, tail).blocks(), key_len: key_type.key_len() }
    }

    /// What the key above encrypts, in ECB: 16 bytes for a 128-bit key, 32 for longer ones, of whose ciphertext
    /// the first [`DerivationData::key_len`] bytes are the new key.
    pub fn blocks(&self) -> &[u8] {
        &self.blocks.as_flattened()[..self.key_len.bytes().next_multiple_of(BLOCK)]
    }

    /// Length of the key they give.
    pub fn key_len(&self) -> KeyLen {
        self.key_len
    }
}

/// The initial key of a device, as long as the BDK (X9.24-3:2017 6.3).
pub fn initial_key(bdk: &KeyBytes, ik_id: [u8; 8]) -> KeyBytes {
    let len = bdk.key_len();
    derive(bdk, data(KeyUsage::InitialKeyDerivation, KeyType::aes(len), u64::from_be_bytes(ik_id)), len)
}

/// One step down the tree: the node at `counter`, from its parent.
pub fn child_key(parent: &KeyBytes, ik_id: [u8; 8], counter: u32) -> KeyBytes {
    let len = parent.key_len();
    derive(parent, node_data(len, ik_id, counter), len)
}

/// The same, written to the place of a key as long as its parent.
pub(super) fn derive_child(parent: &KeyBytes, ik_id: [u8; 8], counter: u32, child: &mut KeyBytes) {
    let len = parent.key_len();
    Trusted::best().derive(len, parent.padded(), node_data(len, ik_id, counter), len, child.padded_mut());
}

/// The derivation key of the KSN's counter: the whole way down from the initial key (X9.24-3:2017 6.4).
/// For counter 0 that is the initial key.
pub fn derivation_key(ik: &KeyBytes, ksn: &AesKsn) -> KeyBytes {
    let len = ik.key_len();
    let data = node_data(len, ksn.ik_id(), 0);
    KeyBytes::padded_by(len, |key| {
        key.copy_from_slice(ik.padded());
        Trusted::best().walk(len, key, data, 0, ksn.raw_counter());
    })
}

/// The key of one use, from the derivation key of the same KSN (X9.24-3:2017 6.3.3).
///
/// # Errors
/// When it would be stronger than the derivation key. Triple DES keys never are: three keys of 168 bits have a
/// strength of 112 (SP 800-57 part 1, table 2).
#[inline]
pub fn working_key(
    derivation_key: &KeyBytes,
    ksn: &AesKsn,
    usage: KeyUsage,
    key_type: KeyType,
) -> Result<KeyBytes, DeriveError> {
    strong_enough(derivation_key.key_len(), key_type)?;
    let data = data(usage, key_type, at_counter(ksn.ik_id(), ksn.raw_counter()));
    Ok(derive(derivation_key, data, key_type.key_len()))
}

/// [`working_key`] for two uses, in about the time of one: both are encrypted under the same key. They are made where
/// `keys` are, whatever those were, so that no move leaves any of them behind.
///
/// # Errors
/// As [`working_key`]; then `keys` are as they were.
pub fn two_working_keys(
    derivation_key: &KeyBytes,
    ksn: &AesKsn,
    usages: [KeyUsage; 2],
    key_type: KeyType,
    keys: [&mut KeyBytes; 2],
) -> Result<(), DeriveError> {
    let (len, new_len) = (derivation_key.key_len(), key_type.key_len());
    strong_enough(len, key_type)?;
    let data = usages.map(|usage| data(usage, key_type, at_counter(ksn.ik_id(), ksn.raw_counter())));
    let places = keys.map(|key| key.emptied(new_len));
    Trusted::best().derive_two(len, derivation_key.padded(), data, new_len, places);
    Ok(())
}

/// The update key of a device, under which a new initial key reaches it (X9.24-3:2017 6.5.3): the key-encryption key
/// of [`UPDATE_KEY_COUNTER`].
///
/// # Errors
/// As [`working_key`].
pub fn update_key(ik: &KeyBytes, ik_id: [u8; 8], key_type: KeyType) -> Result<KeyBytes, DeriveError> {
    let [a, b, c, d, e, f, g, h] = ik_id;
    let ksn = AesKsn::new([a, b, c, d, e, f, g, h, 0, 0, 0, 0]).with_counter(UPDATE_KEY_COUNTER);
    working_key(&derivation_key(ik, &ksn), &ksn, KeyUsage::KeyEncryption, key_type)
}

/// No key comes from a weaker one.
fn strong_enough(derivation_key: KeyLen, wanted: KeyType) -> Result<(), DeriveError> {
    if strength(wanted) > derivation_key.bits() {
        return Err(DeriveError::WorkingKeyStronger { derivation_key, wanted });
    }
    Ok(())
}

/// The last half of the initial key id, then the counter.
fn at_counter(ik_id: [u8; 8], counter: u32) -> u64 {
    u64::from_be_bytes(ik_id) << 32 | u64::from(counter)
}

fn node_data(len: KeyLen, ik_id: [u8; 8], counter: u32) -> Data {
    data(KeyUsage::KeyDerivation, KeyType::aes(len), at_counter(ik_id, counter))
}

/// Laid out as [`DerivationData`] says.
fn data(usage: KeyUsage, key_type: KeyType, tail: u64) -> Data {
    let head = [VERSION_AND_BLOCK, usage.code(), key_type.code(), key_type.key_len().bits()];
    Data { head: head.into_iter().fold(0, |head, word| head << 16 | u64::from(word)), tail }
}

/// Strength in bits, by which X9.24-3 compares keys of different algorithms.
const fn strength(key_type: KeyType) -> u16 {
    match key_type {
        KeyType::Tdea2 | KeyType::Tdea3 => 112,
        KeyType::Aes128 | KeyType::Hmac128 => 128,
        KeyType::Aes192 | KeyType::Hmac192 => 192,
        KeyType::Aes256 | KeyType::Hmac256 => 256,
    }
}

#[inline]
fn derive(key: &KeyBytes, data: Data, new_len: KeyLen) -> KeyBytes {
    KeyBytes::padded_by(new_len, |derived| Trusted::best().derive(key.key_len(), key.padded(), data, new_len, derived))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TYPES: [KeyType; 8] = [
        KeyType::Tdea2,
        KeyType::Tdea3,
        KeyType::Aes128,
        KeyType::Aes192,
        KeyType::Aes256,
        KeyType::Hmac128,
        KeyType::Hmac192,
        KeyType::Hmac256,
    ];

    fn key(seed: [u8; 32], len: KeyLen) -> KeyBytes {
        KeyBytes::copied(&seed[..len.bytes()]).unwrap()
    }

    #[test]
    fn no_working_key_is_stronger_than_the_key_it_comes_from() {
        let ksn = AesKsn::new([0x12; 12]);
        for len in [KeyLen::K128, KeyLen::K192, KeyLen::K256] {
            for key_type in TYPES {
                let result = working_key(&key([7; 32], len), &ksn, KeyUsage::DataEncryption, key_type);
                let triple_des = matches!(key_type, KeyType::Tdea2 | KeyType::Tdea3);
                if triple_des || key_type.key_len().bits() <= len.bits() {
                    assert_eq!(result.ok().unwrap().key_len(), key_type.key_len());
                } else {
                    let error = DeriveError::WorkingKeyStronger { derivation_key: len, wanted: key_type };
                    assert_eq!(result.err(), Some(error));
                }
            }
        }
    }

    #[test]
    fn derivation_data_have_one_block_for_128_bits_and_two_for_more() {
        let ik_id = [0x12, 0x34, 0x56, 0x78, 0x90, 0x12, 0x34, 0x56];
        let short = DerivationData::initial_key(KeyLen::K128, ik_id);
        assert_eq!(hex::encode(short.blocks()), "01018001000200801234567890123456");
        let long = DerivationData::node(KeyLen::K192, ik_id, 3);
        assert_eq!(
            hex::encode(long.blocks()),
            "010180000003 00c09012345600000003 010280000003 00c09012345600000003".replace(' ', "")
        );
        assert_eq!(long.key_len(), KeyLen::K192);
    }

    proptest! {
        #[test]
        fn two_working_keys_are_those_of_one_by_one(
            seed in any::<[u8; 32]>(), id in any::<[u8; 12]>(), pick in 0usize..3, key_type in 0usize..8,
        ) {
            let (ksn, key_type) = (AesKsn::new(id), TYPES[key_type]);
            let node = key(seed, [KeyLen::K128, KeyLen::K192, KeyLen::K256][pick]);
            let usages = [KeyUsage::MacGeneration, KeyUsage::DataEncryption];
            let one_by_one = usages.map(|usage| working_key(&node, &ksn, usage, key_type));
            let [mut mac, mut data] = usages.map(|_| key(seed, KeyLen::K256));
            match (two_working_keys(&node, &ksn, usages, key_type, [&mut mac, &mut data]), one_by_one) {
                (Ok(()), [Ok(mac_alone), Ok(data_alone)]) => {
                    prop_assert!(mac.ct_eq(&mac_alone) && data.ct_eq(&data_alone));
                }
                (two, [mac, _]) => prop_assert_eq!(two.err(), mac.err()),
            }
        }

        #[test]
        fn single_steps_down_the_path_end_where_the_whole_way_ends(
            seed in any::<[u8; 32]>(), id in any::<[u8; 12]>(), pick in 0usize..3,
        ) {
            let ksn = AesKsn::new(id);
            let ik = key(seed, [KeyLen::K128, KeyLen::K192, KeyLen::K256][pick]);
            let start = KeyBytes::copied(ik.expose()).unwrap();
            let stepped = path(ksn.raw_counter()).fold(start, |above, counter| child_key(&above, ksn.ik_id(), counter));
            prop_assert!(stepped.ct_eq(&derivation_key(&ik, &ksn)));
        }
    }
}
