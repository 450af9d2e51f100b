//! Every published DUKPT vector, of every kind; a kind or field nobody reads fails the run.
#![allow(clippy::unwrap_used, reason = "a vector that cannot be read must fail the run")]

mod aes;
#[path = "../support/mod.rs"]
mod support;
mod tdes;

use serde_json::Value;
use support::text;
use warifu_core::cipher::{aes_cbc_encrypt, tdes_cbc_encrypt};
use warifu_core::key::{KeyBytes, KeyLen, KeyType, KeyUsage, TdesKey};

#[test]
fn every_aes_dukpt_vector_agrees() {
    support::run(
        "aes_dukpt",
        &[
            ("aes_dukpt_initial_key", 2),
            ("aes_dukpt_derivation_key", 21),
            ("aes_dukpt_working_key", 77),
            ("aes_dukpt_registers", 1),
            ("aes_dukpt_working_key_series", 1),
            ("aes_dukpt_pin_block4", 5),
            ("aes_dukpt_mac_data", 5),
            ("aes_dukpt_data_series", 1),
            ("aes_counter_advance", 5),
            ("aes_counter_total", 1),
            ("aes_ksn80", 1),
        ],
        aes::check,
    );
}

#[test]
fn every_tdes_dukpt_vector_agrees() {
    support::run(
        "tdes_dukpt",
        &[
            ("tdes_dukpt_transaction", 22),
            ("tdes_dukpt_key", 14),
            ("tdes_dukpt_data", 7),
            ("tdes_dukpt_pin", 3),
            ("tdes_mac", 1),
            ("tdes_counter_advance", 8),
            ("tdes_counter_total", 1),
            ("tdes_counter_last", 0),
        ],
        tdes::check,
    );
}

/// Fails on a field no check reads. `about` are words for people, besides those every record has.
fn reads_all(record: &Value, fields: &[&str], about: &[&str]) {
    for field in record.as_object().unwrap().keys().map(String::as_str) {
        let known = ["id", "kind", "source", "note", "derived"].contains(&field);
        assert!(known || fields.contains(&field) || about.contains(&field), "nobody reads {field}");
    }
}

fn key(record: &Value, field: &str) -> KeyBytes {
    KeyBytes::copied(&support::bytes(record, field)).unwrap()
}

#[track_caller]
fn assert_key(ours: &KeyBytes, published: &Value) {
    assert_eq!(hex::encode_upper(ours.expose()), published.as_str().unwrap());
}

#[track_caller]
fn assert_bytes(ours: &[u8], record: &Value, field: &str) {
    assert_eq!(hex::encode_upper(ours), text(record, field), "{field}");
}

fn zero_padded(bytes: &[u8], block: usize) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(block), 0);
    padded
}

/// CBC, whichever algorithm the key is for.
fn encrypted(key: &KeyBytes, algorithm: Algorithm, iv: &[u8], clear: &[u8]) -> Vec<u8> {
    let mut data = clear.to_vec();
    match algorithm {
        Algorithm::Aes => aes_cbc_encrypt(key, iv.try_into().unwrap(), &mut data).unwrap(),
        Algorithm::Tdes => tdes_cbc_encrypt(key, iv.try_into().unwrap(), &mut data).unwrap(),
    }
    data
}

/// One block alone: CBC with a zero IV is ECB.
fn encrypted_block(key: &KeyBytes, algorithm: Algorithm, block: &[u8]) -> Vec<u8> {
    assert_eq!(block.len(), algorithm.block_len());
    encrypted(key, algorithm, &[0; 16][..block.len()], block)
}

#[derive(Clone, Copy)]
enum Algorithm {
    Aes,
    Tdes,
}

impl Algorithm {
    fn block_len(self) -> usize {
        match self {
            Self::Aes => 16,
            Self::Tdes => 8,
        }
    }
}

fn usage(name: &str) -> KeyUsage {
    match name {
        "key_encryption_key" => KeyUsage::KeyEncryption,
        "pin_encryption" => KeyUsage::Pin,
        "mac_generation" => KeyUsage::MacGeneration,
        "mac_verification" => KeyUsage::MacVerification,
        "mac_both" => KeyUsage::MacBoth,
        "data_encrypt" => KeyUsage::DataEncryption,
        "data_decrypt" => KeyUsage::DataDecryption,
        "data_both" => KeyUsage::DataBoth,
        "key_derivation" => KeyUsage::KeyDerivation,
        other => panic!("unknown usage {other}"),
    }
}

fn key_type(name: &str) -> KeyType {
    match name {
        "2TDEA" => KeyType::Tdea2,
        "3TDEA" => KeyType::Tdea3,
        "AES128" => KeyType::Aes128,
        "AES192" => KeyType::Aes192,
        "AES256" => KeyType::Aes256,
        "HMAC128" => KeyType::Hmac128,
        "HMAC192" => KeyType::Hmac192,
        "HMAC256" => KeyType::Hmac256,
        other => panic!("unknown key type {other}"),
    }
}

fn algorithm(key_type: KeyType) -> Algorithm {
    match key_type {
        KeyType::Tdea2 | KeyType::Tdea3 => Algorithm::Tdes,
        KeyType::Aes128 | KeyType::Aes192 | KeyType::Aes256 => Algorithm::Aes,
        KeyType::Hmac128 | KeyType::Hmac192 | KeyType::Hmac256 => panic!("HMAC keys encrypt nothing"),
    }
}

fn tdes_key(name: &str) -> TdesKey {
    match name {
        "pin" => TdesKey::Pin,
        "mac_request" => TdesKey::MacRequest,
        "mac_response" => TdesKey::MacResponse,
        "data_request" => TdesKey::DataRequest,
        "data_response" => TdesKey::DataResponse,
        "data_request_variant" => TdesKey::DataRequestVariant,
        "data_response_variant" => TdesKey::DataResponseVariant,
        other => panic!("unknown key {other}"),
    }
}

/// How many counters of `bits` bits have one to `max_ones` one-bits, by binomial coefficients.
fn count_by_binomials(bits: u64, max_ones: u64) -> u64 {
    let choose = |k: u64| (0..k).fold(1u64, |product, i| product * (bits - i) / (i + 1));
    (1..=max_ones).map(choose).sum()
}

#[test]
fn key_lengths_are_those_of_the_names() {
    assert_eq!(key_type("3TDEA").key_len(), KeyLen::K192);
    assert_eq!(count_by_binomials(4, 2), 10);
}
