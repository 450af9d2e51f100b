//! Message authentication codes, made and verified.
//!
//! Architecture invariant: a MAC is compared in constant time, whole; a truncated one is refused. Every algorithm wipes its state on drop,
//! which the compiler checks through the `ZeroizeOnDrop` bound.

use cipher::KeyInit;
use cipher::common::InnerInit;
use cmac::block_api::{CmacCipher, CmacCore};
use cmac::{Cmac, Mac};
use des::{TdesEde2, TdesEde3};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::dukpt::des::Single;
use crate::dukpt::lanes::Trusted;
use crate::key::{KeyBytes, KeyLen};

/// A MAC that does not belong to the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the MAC does not belong to the message")]
pub struct MacError;

/// AES-CMAC (SP 800-38B) under a key of any AES length.
pub fn aes_cmac(key: &KeyBytes, message: &[u8]) -> [u8; 16] {
    aes_cmac_on(Trusted::best(), key, message)
}

/// The last block is whole and has the first subkey added, or is filled up and has the second (SP 800-38B 6.2).
fn aes_cmac_on(path: Trusted, key: &KeyBytes, message: &[u8]) -> [u8; 16] {
    let chain = |state: &mut [u8; 16], blocks: &[[u8; 16]]| path.chain(key.key_len(), key.padded(), state, blocks);
    let mut last = Zeroizing::new([0; 16]);
    chain(&mut last, &[[0; 16]]);
    double(&mut last);
    let whole = message.len().saturating_sub(1) / 16;
    let (blocks, rest) = message.split_at(whole * 16);
    if rest.len() < 16 {
        double(&mut last);
        last[rest.len()] ^= 0x80;
    }
    absorb(&mut *last, rest);
    let mut tag = [0; 16];
    chain(&mut tag, blocks.as_chunks().0);
    chain(&mut tag, std::slice::from_ref(&last));
    tag
}

/// Doubling in GF(2^128), without a branch on the bit that leaves (SP 800-38B 6.1).
fn double(block: &mut [u8; 16]) {
    let number = u128::from_be_bytes(*block);
    *block = ((number << 1) ^ (0x87 & (number >> 127).wrapping_neg())).to_be_bytes();
}

/// Verifies all 16 bytes of an AES-CMAC, in constant time.
pub fn verify_aes_cmac(key: &KeyBytes, message: &[u8], mac: &[u8]) -> Result<(), MacError> {
    verified(&aes_cmac(key, message), mac)
}

/// Triple-DES CMAC (SP 800-38B). A 16-byte key is two-key, a 24-byte key three-key.
///
/// # Panics
/// With a 32-byte key, which triple DES does not have: the caller chose the key by its type.
pub fn tdes_cmac(key: &KeyBytes, message: &[u8]) -> [u8; 8] {
    match key.key_len() {
        KeyLen::K128 => cmac::<TdesEde2, 8>(key, message),
        KeyLen::K192 => cmac::<TdesEde3, 8>(key, message),
        KeyLen::K256 => panic!("triple DES takes no key of 32 bytes"),
    }
}

/// HMAC-SHA-256 (FIPS 198-1) under a key of any length, all of which are shorter than a block of the hash.
///
/// Not by the `hmac` crate, which leaves the padded key on the stack.
pub fn hmac_sha256(key: &KeyBytes, message: &[u8]) -> [u8; 32] {
    let mut pad = Zeroizing::new([0x36; 64]);
    absorb(&mut *pad, key.expose());
    let inner = Sha256::new().chain_update(pad.as_slice()).chain_update(message).finalize();
    pad.iter_mut().for_each(|byte| *byte ^= 0x36 ^ 0x5C);
    Sha256::new().chain_update(pad.as_slice()).chain_update(inner).finalize().into()
}

/// The retail MAC: DES-CBC under the left half of the key, the last block then decrypted under the right half and
/// encrypted under the left (X9.19, ISO/IEC 9797-1 algorithm 3). A short last block is filled with zeros
/// (padding method 1), an empty message is one block of zeros.
///
/// # Panics
/// With a key that has not 16 bytes: the caller chose the key by its type.
pub fn retail_mac(key: &KeyBytes, message: &[u8]) -> [u8; 8] {
    assert!(key.key_len() == KeyLen::K128, "the retail MAC takes a key of 16 bytes");
    let (halves, _) = key.expose().as_chunks::<8>();
    let (left, right) = (Single::new(&halves[0]), Single::new(&halves[1]));
    let mut chain = [0; 8];
    let (blocks, rest) = message.as_chunks::<8>();
    for block in blocks {
        absorb(&mut chain, block);
        left.encrypt(&mut chain);
    }
    if !rest.is_empty() || blocks.is_empty() {
        absorb(&mut chain, rest);
        left.encrypt(&mut chain);
    }
    right.decrypt(&mut chain);
    left.encrypt(&mut chain);
    chain
}

/// Verifies all 8 bytes of a retail MAC, in constant time.
///
/// # Panics
/// As [`retail_mac`].
pub fn verify_retail_mac(key: &KeyBytes, message: &[u8], mac: &[u8]) -> Result<(), MacError> {
    verified(&retail_mac(key, message), mac)
}

fn cmac<C, const N: usize>(key: &KeyBytes, message: &[u8]) -> [u8; N]
where
    C: CmacCipher + KeyInit + ZeroizeOnDrop,
    CmacCore<C>: ZeroizeOnDrop,
{
    let cipher = C::new_from_slice(key.expose()).expect("the cipher was chosen by the key's length");
    let mut mac = Cmac::<C>::inner_init(cipher);
    mac.update(message);
    let mut tag = [0; N];
    tag.copy_from_slice(&mac.finalize().into_bytes());
    tag
}

fn absorb(chain: &mut [u8], block: &[u8]) {
    chain.iter_mut().zip(block).for_each(|(chained, byte)| *chained ^= byte);
}

/// `ct_eq` of slices is false at once for unequal lengths, which are public.
fn verified(expected: &[u8], mac: &[u8]) -> Result<(), MacError> {
    if bool::from(expected.ct_eq(mac)) { Ok(()) } else { Err(MacError) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dukpt::lanes::Path;

    fn key(hex_digits: &str) -> KeyBytes {
        KeyBytes::copied(&hex::decode(hex_digits).unwrap()).unwrap()
    }

    fn message(len: usize) -> Vec<u8> {
        let text = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411";
        hex::decode(text).unwrap()[..len].to_vec()
    }

    /// SP 800-38B D.1 to D.3.
    #[test]
    fn aes_cmac_agrees_with_sp_800_38b() {
        let keys = [
            "2b7e151628aed2a6abf7158809cf4f3c",
            "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
            "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
        ];
        let macs = [
            [
                "bb1d6929e95937287fa37d129b756746",
                "070a16b46b4d4144f79bdd9dd04a287c",
                "dfa66747de9ae63030ca32611497c827",
            ],
            [
                "d17ddf46adaacde531cac483de7a9367",
                "9e99a7bf31e710900662f65e617c5184",
                "8a1de5be2eb31aad089a82e6ee908b0e",
            ],
            [
                "028962f61b7bf89efc6b551f4667d983",
                "28a7023f452e8f82bd4bf28d8c37c35c",
                "aaf3d8f1de5640c232f5b169b9c911e6",
            ],
        ];
        for (key_digits, macs) in keys.into_iter().zip(macs) {
            for (len, mac) in [0, 16, 40].into_iter().zip(macs) {
                assert_eq!(hex::encode(aes_cmac(&key(key_digits), &message(len))), mac);
            }
        }
    }

    /// SP 800-38B D.4 (three keys) and D.5 (two keys).
    #[test]
    fn tdes_cmac_agrees_with_sp_800_38b() {
        let three = "8aa83bf8cbda10620bc1bf19fbb6cd58bc313d4a371ca8b5";
        let two = "4cf15134a2850dd58a3d10ba80570d38";
        for (key_digits, len, mac) in [
            (three, 0, "b7a688e122ffaf95"),
            (three, 8, "8e8f293136283797"),
            (three, 20, "743ddbe0ce2dc2ed"),
            (two, 0, "bd2ebf9a3ba00361"),
            (two, 8, "4ff2ab813c53ce83"),
            (two, 20, "62dd1b471902bd4e"),
        ] {
            assert_eq!(hex::encode(tdes_cmac(&key(key_digits), &message(len))), mac);
        }
    }

    #[test]
    fn the_retail_mac_fills_with_zeros() {
        let key = key("0123456789abcdeffedcba9876543210");
        assert_eq!(retail_mac(&key, &[1, 2, 3]), retail_mac(&key, &[1, 2, 3, 0, 0, 0, 0, 0]));
        assert_eq!(retail_mac(&key, &[]), retail_mac(&key, &[0; 8]));
        assert_ne!(retail_mac(&key, &[0; 8]), retail_mac(&key, &[0; 16]));
    }

    proptest! {
        #[test]
        fn hmac_agrees_with_another_implementation(
            seed in any::<[u8; 32]>(), pick in 0usize..3, message in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let key = KeyBytes::copied(&seed[..[16, 24, 32][pick]]).unwrap();
            let mut theirs = <hmac::Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key.expose()).unwrap();
            hmac::Mac::update(&mut theirs, &message);
            prop_assert_eq!(hmac_sha256(&key, &message), <[u8; 32]>::from(hmac::Mac::finalize(theirs).into_bytes()));
        }

        #[test]
        fn every_path_makes_the_cmac_of_another_implementation(
            seed in any::<[u8; 32]>(), pick in 0usize..3, message in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let key = KeyBytes::copied(&seed[..[16, 24, 32][pick]]).unwrap();
            let theirs = match key.key_len() {
                KeyLen::K128 => cmac::<aes::Aes128Enc, 16>(&key, &message),
                KeyLen::K192 => cmac::<aes::Aes192Enc, 16>(&key, &message),
                KeyLen::K256 => cmac::<aes::Aes256Enc, 16>(&key, &message),
            };
            for path in Path::ALL.into_iter().filter_map(Trusted::new) {
                prop_assert_eq!(aes_cmac_on(path, &key, &message), theirs);
            }
        }

        #[test]
        fn a_mac_verifies_whole_and_unchanged_only(
            seed in any::<[u8; 16]>(), message in prop::collection::vec(any::<u8>(), 0..64),
            at in 0usize..16, flip in 1u8.., cut in 0usize..16,
        ) {
            let key = KeyBytes::copied(&seed).unwrap();
            let mac = aes_cmac(&key, &message);
            prop_assert_eq!(verify_aes_cmac(&key, &message, &mac), Ok(()));
            prop_assert_eq!(verify_aes_cmac(&key, &message, &mac[..cut]), Err(MacError));
            prop_assert_eq!(verify_aes_cmac(&key, &message, &[&mac[..], &[0]].concat()), Err(MacError));
            let mut changed = mac;
            changed[at] ^= flip;
            prop_assert_eq!(verify_aes_cmac(&key, &message, &changed), Err(MacError));

            let mac = retail_mac(&key, &message);
            prop_assert_eq!(verify_retail_mac(&key, &message, &mac), Ok(()));
            prop_assert_eq!(verify_retail_mac(&key, &message, &mac[..cut / 2]), Err(MacError));
            let mut changed = mac;
            changed[at / 2] ^= flip;
            prop_assert_eq!(verify_retail_mac(&key, &message, &changed), Err(MacError));
        }
    }
}
