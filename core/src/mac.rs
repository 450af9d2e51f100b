//! Message authentication codes, made and verified.
//!
//! Architecture invariant: a MAC is compared in constant time, whole; a truncated one is refused.

use aes::{Aes128Enc, Aes192Enc, Aes256Enc};
use cipher::{BlockCipherDecrypt, BlockCipherEncrypt};
use cmac::Cmac;
use des::{Des, TdesEde2, TdesEde3};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::key::{KeyBytes, KeyLen};

/// A MAC that does not belong to the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the MAC does not belong to the message")]
pub struct MacError;

/// AES-CMAC (SP 800-38B) under a key of any AES length.
pub fn aes_cmac(key: &KeyBytes, message: &[u8]) -> [u8; 16] {
    match key.key_len() {
        KeyLen::K128 => mac::<Cmac<Aes128Enc>, 16>(key, message),
        KeyLen::K192 => mac::<Cmac<Aes192Enc>, 16>(key, message),
        KeyLen::K256 => mac::<Cmac<Aes256Enc>, 16>(key, message),
    }
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
        KeyLen::K128 => mac::<Cmac<TdesEde2>, 8>(key, message),
        KeyLen::K192 => mac::<Cmac<TdesEde3>, 8>(key, message),
        KeyLen::K256 => panic!("triple DES takes no key of 32 bytes"),
    }
}

/// HMAC-SHA-256 (FIPS 198-1) under a key of any length.
pub fn hmac_sha256(key: &KeyBytes, message: &[u8]) -> [u8; 32] {
    mac::<Hmac<Sha256>, 32>(key, message)
}

/// The retail MAC: DES-CBC under the left half of the key, the last block then decrypted under the right half and
/// encrypted under the left (X9.19, ISO/IEC 9797-1 algorithm 3). A short last block is filled with zeros
/// (padding method 1), an empty message is one block of zeros.
///
/// # Panics
/// With a key that has not 16 bytes: the caller chose the key by its type.
pub fn retail_mac(key: &KeyBytes, message: &[u8]) -> [u8; 8] {
    assert!(key.key_len() == KeyLen::K128, "the retail MAC takes a key of 16 bytes");
    let (left, right) = key.expose().split_at(8);
    let [left, right] = [left, right].map(|half| Des::new_from_slice(half).expect("half of 16 bytes is a DES key"));
    let mut chain = cipher::Block::<Des>::default();
    let (blocks, rest) = message.as_chunks::<8>();
    for block in blocks {
        absorb(&mut chain, block);
        left.encrypt_block(&mut chain);
    }
    if !rest.is_empty() || blocks.is_empty() {
        absorb(&mut chain, rest);
        left.encrypt_block(&mut chain);
    }
    right.decrypt_block(&mut chain);
    left.encrypt_block(&mut chain);
    chain.into()
}

/// Verifies all 8 bytes of a retail MAC, in constant time.
///
/// # Panics
/// As [`retail_mac`].
pub fn verify_retail_mac(key: &KeyBytes, message: &[u8], mac: &[u8]) -> Result<(), MacError> {
    verified(&retail_mac(key, message), mac)
}

fn mac<M: Mac + KeyInit, const N: usize>(key: &KeyBytes, message: &[u8]) -> [u8; N] {
    let mut mac = <M as KeyInit>::new_from_slice(key.expose()).expect("the algorithm was chosen by the key's length");
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
