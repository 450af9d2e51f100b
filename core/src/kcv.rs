//! Key check values: a few public bytes that tell whether two people loaded the same key.

use std::fmt;

use aes::{Aes128Enc, Aes192Enc, Aes256Enc};
use cipher::{Block, BlockCipherEncrypt, KeyInit};
use des::{TdesEde2, TdesEde3};

use crate::key::{KeyBytes, KeyLen};
use crate::ksn::Scheme;
use crate::mac::aes_cmac;

/// Bytes of the legacy value.
pub const LEGACY_LEN: usize = 3;
/// Bytes of the CMAC value of an AES key.
pub const CMAC_LEN: usize = 5;

/// A key check value of either length, printed as upper-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kcv {
    /// The first three bytes of a block of zeros encrypted under the key.
    Legacy([u8; LEGACY_LEN]),
    /// The first five bytes of the CMAC of a block of zeros.
    Cmac([u8; CMAC_LEN]),
}

impl Kcv {
    /// The legacy value of a triple DES key of 16 or 24 bytes.
    ///
    /// # Panics
    /// As [`kcv_tdes`].
    pub fn tdes(key: &KeyBytes) -> Self {
        Self::Legacy(kcv_tdes(key))
    }

    /// The legacy value of an AES key.
    pub fn aes(key: &KeyBytes) -> Self {
        Self::Legacy(kcv_aes(key))
    }

    /// The CMAC value of an AES key.
    pub fn aes_cmac(key: &KeyBytes) -> Self {
        Self::Cmac(kcv_aes_cmac(key))
    }

    /// The value custodians of a base derivation key compare: of the CMAC for AES, the legacy one for TDES.
    ///
    /// # Panics
    /// As [`kcv_tdes`].
    pub fn of_bdk(scheme: Scheme, bdk: &KeyBytes) -> Self {
        match scheme {
            Scheme::Aes => Self::aes_cmac(bdk),
            Scheme::Tdes => Self::tdes(bdk),
        }
    }

    /// Its bytes: 3 or 5.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Legacy(bytes) => bytes,
            Self::Cmac(bytes) => bytes,
        }
    }
}

impl fmt::Display for Kcv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

impl fmt::Debug for Kcv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kcv({self})")
    }
}

/// The legacy check value of a triple DES key of 16 or 24 bytes: a block of zeros, encrypted, first 3 bytes.
///
/// # Panics
/// With a 32-byte key, which triple DES does not have: the caller chose the key by its type.
pub fn kcv_tdes(key: &KeyBytes) -> [u8; LEGACY_LEN] {
    match key.key_len() {
        KeyLen::K128 => encrypted_zeros::<TdesEde2>(key),
        KeyLen::K192 => encrypted_zeros::<TdesEde3>(key),
        KeyLen::K256 => panic!("triple DES takes no key of 32 bytes"),
    }
}

/// The legacy check value of an AES key: a block of zeros, encrypted, first 3 bytes. New keys should use
/// [`kcv_aes_cmac`], which gives away no encryption under the key.
pub fn kcv_aes(key: &KeyBytes) -> [u8; LEGACY_LEN] {
    match key.key_len() {
        KeyLen::K128 => encrypted_zeros::<Aes128Enc>(key),
        KeyLen::K192 => encrypted_zeros::<Aes192Enc>(key),
        KeyLen::K256 => encrypted_zeros::<Aes256Enc>(key),
    }
}

/// The check value of an AES key by X9.24-1:2017: the CMAC of one block of zeros, first 5 bytes.
pub fn kcv_aes_cmac(key: &KeyBytes) -> [u8; CMAC_LEN] {
    let [a, b, c, d, e, ..] = aes_cmac(key, &[0; 16]);
    [a, b, c, d, e]
}

fn encrypted_zeros<C: BlockCipherEncrypt + KeyInit>(key: &KeyBytes) -> [u8; LEGACY_LEN] {
    let mut block = Block::<C>::default();
    C::new_from_slice(key.expose()).expect("the cipher was chosen by the key's length").encrypt_block(&mut block);
    std::array::from_fn(|at| block[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    const AES: [&str; 3] = [
        "2b7e151628aed2a6abf7158809cf4f3c",
        "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
    ];

    fn key(hex_digits: &str) -> KeyBytes {
        KeyBytes::copied(&hex::decode(hex_digits).unwrap()).unwrap()
    }

    /// Values made with OpenSSL (`enc -des-ede`, `-des-ede3`, `-aes-*-ecb`, `mac ... CMAC`) over zeros.
    #[test]
    fn check_values_agree_with_another_implementation() {
        assert_eq!(Kcv::tdes(&key("0123456789abcdeffedcba9876543210")).to_string(), "08D7B4");
        assert_eq!(Kcv::tdes(&key("8aa83bf8cbda10620bc1bf19fbb6cd58bc313d4a371ca8b5")).to_string(), "C8CC74");
        assert_eq!(Kcv::aes(&key("00000000000000000000000000000000")).to_string(), "66E94B");
        assert_eq!(AES.map(|digits| Kcv::aes(&key(digits)).to_string())[1..], ["22452D", "E568F6"]);
        let cmacs = AES.map(|digits| Kcv::aes_cmac(&key(digits)).to_string());
        assert_eq!(cmacs, ["7AD386C376", "3A072A425D", "1A0B2DF267"]);
    }
}
