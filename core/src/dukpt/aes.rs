//! AES DUKPT, the host half (ANSI X9.24-3:2017): from the BDK to the key of one transaction and one use.
//!
//! Every key is made the same way (6.3.1): the key above encrypts, block by block, public derivation data that
//! say what the new key is for. [`DerivationData`] is those data, so that an HSM can do the encrypting instead.
//!
//! Architecture invariant: no heap, and no copy of a key outside [`KeyBytes`]; round keys are wiped on drop.
//! Legality and freshness of a counter are the caller's checks; the arithmetic is defined for all 32 bits.

use aes::{Aes128Enc, Aes192Enc, Aes256Enc};
use cipher::consts::U16;
use cipher::{Block, BlockCipherEncrypt, BlockSizeUser, KeyInit};
use zeroize::{ZeroizeOnDrop, Zeroizing};

pub use super::{parent, path};
use crate::key::{KeyBytes, KeyLen, KeyType, KeyUsage};
use crate::ksn::AesKsn;

/// The counter of the update key, which no transaction can have (X9.24-3:2017 6.5.2).
pub const UPDATE_KEY_COUNTER: u32 = u32::MAX;

/// Cipher block, in bytes.
const BLOCK: usize = 16;
/// Version of the derivation data (X9.24-3:2017 6.3.2).
const VERSION: u8 = 1;

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
    blocks: [u8; 2 * BLOCK],
    key_len: KeyLen,
}

impl DerivationData {
    /// For the initial key of a device, as long as the BDK it comes from.
    pub fn initial_key(len: KeyLen, ik_id: [u8; 8]) -> Self {
        Self::new(KeyUsage::InitialKeyDerivation, KeyType::aes(len), ik_id)
    }

    /// For the node of the tree at `counter`, as long as all keys of its tree.
    pub fn node(len: KeyLen, ik_id: [u8; 8], counter: u32) -> Self {
        Self::new(KeyUsage::KeyDerivation, KeyType::aes(len), at_counter(ik_id, counter))
    }

    /// For a key the transaction works with.
    pub fn working_key(usage: KeyUsage, key_type: KeyType, ik_id: [u8; 8], counter: u32) -> Self {
        Self::new(usage, key_type, at_counter(ik_id, counter))
    }

    fn new(usage: KeyUsage, key_type: KeyType, last: [u8; 8]) -> Self {
        let mut blocks = [0; 2 * BLOCK];
        let (halves, _) = blocks.as_chunks_mut::<BLOCK>();
        for (half, block_counter) in halves.iter_mut().zip(1..) {
            half[0] = VERSION;
            half[1] = block_counter;
            half[2..4].copy_from_slice(&usage.code().to_be_bytes());
            half[4..6].copy_from_slice(&key_type.code().to_be_bytes());
            half[6..8].copy_from_slice(&key_type.key_len().bits().to_be_bytes());
            half[8..].copy_from_slice(&last);
        }
        Self { blocks, key_len: key_type.key_len() }
    }

    /// What the key above encrypts, in ECB: 16 bytes for a 128-bit key, 32 for longer ones, of whose ciphertext
    /// the first [`DerivationData::key_len`] bytes are the new key.
    pub fn blocks(&self) -> &[u8] {
        &self.blocks[..self.key_len.bytes().next_multiple_of(BLOCK)]
    }

    /// Length of the key they give.
    pub fn key_len(&self) -> KeyLen {
        self.key_len
    }
}

/// The initial key of a device, as long as the BDK (X9.24-3:2017 6.3).
pub fn initial_key(bdk: &KeyBytes, ik_id: [u8; 8]) -> KeyBytes {
    derive(bdk, &DerivationData::initial_key(bdk.key_len(), ik_id))
}

/// One step down the tree: the node at `counter`, from its parent.
pub fn child_key(parent: &KeyBytes, ik_id: [u8; 8], counter: u32) -> KeyBytes {
    derive(parent, &DerivationData::node(parent.key_len(), ik_id, counter))
}

/// The derivation key of the KSN's counter: the whole way down from the initial key (X9.24-3:2017 6.4).
/// For counter 0 that is the initial key.
pub fn derivation_key(ik: &KeyBytes, ksn: &AesKsn) -> KeyBytes {
    let len = ik.key_len();
    KeyBytes::filled(len, |key| {
        key.copy_from_slice(ik.expose());
        match len {
            KeyLen::K128 => walk::<Aes128Enc>(key, len, ksn),
            KeyLen::K192 => walk::<Aes192Enc>(key, len, ksn),
            KeyLen::K256 => walk::<Aes256Enc>(key, len, ksn),
        }
    })
}

/// The key of one use, from the derivation key of the same KSN (X9.24-3:2017 6.3.3).
///
/// # Errors
/// When it would be stronger than the derivation key. Triple DES keys never are: three keys of 168 bits have a
/// strength of 112 (SP 800-57 part 1, table 2).
pub fn working_key(
    derivation_key: &KeyBytes,
    ksn: &AesKsn,
    usage: KeyUsage,
    key_type: KeyType,
) -> Result<KeyBytes, DeriveError> {
    if strength(key_type) > derivation_key.key_len().bits() {
        return Err(DeriveError::WorkingKeyStronger { derivation_key: derivation_key.key_len(), wanted: key_type });
    }
    let data = DerivationData::working_key(usage, key_type, ksn.ik_id(), ksn.raw_counter());
    Ok(derive(derivation_key, &data))
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

/// The last half of the initial key id, then the counter.
fn at_counter(ik_id: [u8; 8], counter: u32) -> [u8; 8] {
    let [_, _, _, _, a, b, c, d] = ik_id;
    let [e, f, g, h] = counter.to_be_bytes();
    [a, b, c, d, e, f, g, h]
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

fn derive(key: &KeyBytes, data: &DerivationData) -> KeyBytes {
    KeyBytes::filled(data.key_len, |derived| match key.key_len() {
        KeyLen::K128 => encrypt_into(&cipher::<Aes128Enc>(key.expose()), data, derived),
        KeyLen::K192 => encrypt_into(&cipher::<Aes192Enc>(key.expose()), data, derived),
        KeyLen::K256 => encrypt_into(&cipher::<Aes256Enc>(key.expose()), data, derived),
    })
}

/// Replaces `key`, in place, by each node on the way down.
fn walk<C: AesCipher>(key: &mut [u8], len: KeyLen, ksn: &AesKsn) {
    for counter in path(ksn.raw_counter()) {
        let parent = cipher::<C>(key);
        encrypt_into(&parent, &DerivationData::node(len, ksn.ik_id(), counter), key);
    }
}

/// An AES that encrypts only, so that no decryption schedule is made, and wipes its round keys.
trait AesCipher: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16> + KeyInit + ZeroizeOnDrop {}
impl<C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16> + KeyInit + ZeroizeOnDrop> AesCipher for C {}

fn cipher<C: AesCipher>(key: &[u8]) -> C {
    C::new_from_slice(key).expect("the cipher was chosen by the key's length")
}

/// Encrypts straight into the place of the new key; only the cut block of a 192-bit key passes through a buffer.
fn encrypt_into<C: AesCipher>(cipher: &C, data: &DerivationData, derived: &mut [u8]) {
    let (inputs, _) = data.blocks.as_chunks::<BLOCK>();
    for (input, output) in inputs.iter().zip(derived.chunks_mut(BLOCK)) {
        let input: &Block<C> = input.into();
        if let Ok(whole) = <&mut Block<C>>::try_from(&mut *output) {
            cipher.encrypt_block_b2b(input, whole);
        } else {
            let mut block = Zeroizing::new([0; BLOCK]);
            cipher.encrypt_block_b2b(input, (&mut *block).into());
            output.copy_from_slice(&block[..output.len()]);
        }
    }
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
