//! What the tests share: published vectors, and the host's side of a frame made with the host's own code.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::as_conversions,
    reason = "each test file uses its part of this; a vector that cannot be read must fail the run"
)]

use serde_json::Value;
use warifu_core::account_data::AccountData;
use warifu_core::dukpt::{aes, tdes};
use warifu_core::frame::{FrameKey, FrameMac, SealedFrame};
use warifu_core::key::{KeyBytes, KeyType, KeyUsage, TdesKey};
use warifu_core::ksn::Ksn;
use warifu_core::secret::SecretBytes;
use warifu_core::{cipher, mac};

pub mod device;

/// The BDK of the published TDES vectors.
pub const TDES_BDK: &str = "0123456789ABCDEFFEDCBA9876543210";
/// The 128-bit BDK of the published AES vectors.
pub const AES_BDK: &str = "FEDCBA9876543210F1F1F1F1F1F1F1F1";

/// All records of a published vector file.
pub fn records(file: &str) -> Vec<Value> {
    let path = format!("{}/../core/tests/vectors/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut whole: Value = serde_json::from_str(&text).unwrap();
    let Value::Array(records) = whole["records"].take() else { panic!("{file}: no records") };
    assert_eq!(whole["count"], records.len(), "{file}: its own count");
    records
}

/// One record.
pub fn record(file: &str, id: &str) -> Value {
    records(file).into_iter().find(|record| record["id"] == id).unwrap_or_else(|| panic!("{file}: no {id}"))
}

pub fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record[field].as_str().unwrap_or_else(|| panic!("{}: no {field}", record["id"]))
}

pub fn bytes(record: &Value, field: &str) -> Vec<u8> {
    hex::decode(text(record, field)).unwrap()
}

pub fn key(record: &Value, field: &str) -> KeyBytes {
    KeyBytes::copied(&bytes(record, field)).unwrap()
}

pub fn key_of(hex: &str) -> KeyBytes {
    KeyBytes::copied(&hex::decode(hex).unwrap()).unwrap()
}

pub fn hex_of(key: &KeyBytes) -> String {
    hex::encode_upper(key.expose())
}

/// Opens a frame as the host does: derives from the initial key, verifies the MAC, decrypts, parses.
pub fn opened(frame: &SealedFrame, initial: &KeyBytes) -> AccountData {
    let data = match (frame.ksn(), frame.key()) {
        (Ksn::Aes(ksn), FrameKey::Aes(len)) => {
            let node = aes::derivation_key(initial, &ksn);
            let working = |usage| aes::working_key(&node, &ksn, usage, KeyType::aes(len)).unwrap();
            let (kind, covered, tag) = frame.mac().unwrap();
            assert_eq!(kind, FrameMac::AesCmac);
            mac::verify_aes_cmac(&working(KeyUsage::MacGeneration), covered, tag).unwrap();
            working(KeyUsage::DataEncryption)
        }
        (Ksn::Tdes(ksn), FrameKey::Tdes(which)) => {
            let transaction = tdes::transaction_key(initial, &ksn);
            if let Some((kind, covered, tag)) = frame.mac() {
                assert_eq!(kind, FrameMac::Retail);
                mac::verify_retail_mac(&tdes::working_key(&transaction, TdesKey::MacRequest), covered, tag).unwrap();
            }
            tdes::working_key(&transaction, which)
        }
        (ksn, key) => panic!("{ksn} with {key:?}"),
    };
    let sections: Vec<SecretBytes> = frame
        .sections()
        .iter()
        .map(|section| {
            let mut clear = SecretBytes::copied(frame.ciphertext(section));
            match frame.key() {
                FrameKey::Aes(_) => cipher::aes_cbc_decrypt(&data, &[0; 16], clear.expose_mut()).unwrap(),
                _ => cipher::tdes_cbc_decrypt(&data, &[0; 8], clear.expose_mut()).unwrap(),
            }
            clear
        })
        .collect();
    AccountData::open(frame, &sections).unwrap_or_else(|error| panic!("{error}"))
}
