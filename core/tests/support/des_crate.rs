//! TDES DUKPT written on the `des` and `cbc` crates: what our own DES must agree with.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "each test that has it is a crate of its own")]

use cipher::{BlockCipherEncrypt, BlockModeDecrypt, KeyInit, KeyIvInit, array::Array};
use des::{Des, TdesEde2};
use warifu_core::dukpt::path;
use warifu_core::key::TdesKey;
use warifu_core::ksn::TdesKsn;

type Key = [u8; 16];

const MASK: Key = [0xC0, 0xC0, 0xC0, 0xC0, 0, 0, 0, 0, 0xC0, 0xC0, 0xC0, 0xC0, 0, 0, 0, 0];

/// X9.24-1:2009 A.6.
pub fn initial_key(bdk: &Key, ksn: &TdesKsn) -> Key {
    let block: [u8; 8] = ksn.with_counter(0).bytes()[..8].try_into().unwrap();
    joined([*bdk, masked(bdk)].map(|key| {
        let mut half = block;
        TdesEde2::new(&key.into()).encrypt_block((&mut half).into());
        half
    }))
}

/// X9.24-1:2009 A.3.
pub fn transaction_key(ik: &Key, ksn: &TdesKsn) -> Key {
    path(ksn.raw_counter()).fold(*ik, |key, counter| {
        let register: [u8; 8] = ksn.with_counter(counter).bytes()[2..].try_into().unwrap();
        joined([masked(&key), key].map(|key| one_way(&key, register)))
    })
}

/// X9.24-1:2009 A.4.1.
pub fn working_key(transaction_key: &Key, key: TdesKey) -> Key {
    let byte = match key {
        TdesKey::Pin => 7,
        TdesKey::MacRequest => 6,
        TdesKey::MacResponse => 4,
        TdesKey::DataRequest | TdesKey::DataRequestVariant => 5,
        TdesKey::DataResponse | TdesKey::DataResponseVariant => 3,
    };
    let mut variant = *transaction_key;
    variant[byte] ^= 0xFF;
    variant[byte + 8] ^= 0xFF;
    if let TdesKey::DataRequest | TdesKey::DataResponse = key {
        let cipher = TdesEde2::new(&variant.into());
        variant.as_chunks_mut::<8>().0.iter_mut().for_each(|half| cipher.encrypt_block(half.into()));
    }
    variant
}

/// CBC with a zero IV.
pub fn cbc_decrypt(key: &Key, sealed: &[u8]) -> Vec<u8> {
    let mut data = sealed.to_vec();
    let (blocks, rest) = Array::slice_as_chunks_mut(&mut data);
    assert!(rest.is_empty());
    cbc::Decryptor::<TdesEde2>::new(&(*key).into(), &[0; 8].into()).decrypt_blocks(blocks);
    data
}

/// X9.24-1:2009 A.2.
fn one_way(key: &Key, register: [u8; 8]) -> [u8; 8] {
    let (left, right) = key.split_at(8);
    let mut block: [u8; 8] = std::array::from_fn(|at| register[at] ^ right[at]);
    Des::new_from_slice(left).unwrap().encrypt_block((&mut block).into());
    std::array::from_fn(|at| block[at] ^ right[at])
}

fn masked(key: &Key) -> Key {
    std::array::from_fn(|at| key[at] ^ MASK[at])
}

fn joined(halves: [[u8; 8]; 2]) -> Key {
    halves.concat().try_into().unwrap()
}
