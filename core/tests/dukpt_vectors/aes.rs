//! The kinds of `aes_dukpt.json`.

use serde_json::Value;
use warifu_core::dukpt::aes::{
    DerivationData, UPDATE_KEY_COUNTER, child_key, derivation_key, initial_key, parent, update_key, working_key,
};
use warifu_core::key::{KeyBytes, KeyType, KeyUsage};
use warifu_core::ksn::{AesKsn, Counter, Ksn, Scheme};
use warifu_core::mac::{aes_cmac, hmac_sha256, tdes_cmac, verify_aes_cmac};

use crate::support::{bytes, flag, number, text};
use crate::{
    Algorithm, algorithm, assert_bytes, assert_key, count_by_binomials, encrypted, encrypted_block, key, key_type,
    reads_all, usage, zero_padded,
};

pub(crate) fn check(kind: &str, record: &Value) {
    match kind {
        "aes_dukpt_initial_key" => check_initial_key(record),
        "aes_dukpt_derivation_key" => check_derivation_key(record),
        "aes_dukpt_working_key" => check_working_key(record),
        "aes_dukpt_registers" => check_registers(record),
        "aes_dukpt_working_key_series" => check_working_key_series(record),
        "aes_dukpt_pin_block4" => check_pin_block4(record),
        "aes_dukpt_mac_data" => check_mac_data(record),
        "aes_dukpt_data_series" => check_data_series(record),
        "aes_counter_advance" => check_counter_advance(record),
        "aes_counter_total" => check_counter_total(record),
        "aes_ksn80" => check_ksn80(record),
        other => panic!("unknown kind {other}"),
    }
}

fn ik_id(record: &Value) -> [u8; 8] {
    bytes(record, "initial_key_id").try_into().unwrap()
}

fn ksn_at(record: &Value, counter: u64) -> AesKsn {
    let id = ik_id(record);
    let ksn = AesKsn::parse(&[id, [0; 8]].concat()[..12]).unwrap();
    ksn.with_counter(u32::try_from(counter).unwrap())
}

/// The KSN as published, which must agree with the id and counter beside it.
fn ksn(record: &Value) -> AesKsn {
    let ksn = AesKsn::parse(&bytes(record, "ksn")).unwrap();
    assert_eq!(u64::from(ksn.raw_counter()), number(record, "counter"));
    assert_eq!(ksn.ik_id(), ik_id(record));
    let legal = flag(record, "legal_counter", ksn.raw_counter() != UPDATE_KEY_COUNTER);
    assert_eq!(Ksn::Aes(ksn).counter().is_ok(), legal, "a strict receiver");
    ksn
}

fn working(record: &Value, ksn: &AesKsn, usage: KeyUsage, key_type: KeyType) -> KeyBytes {
    working_key(&derivation_key(&key(record, "initial_key"), ksn), ksn, usage, key_type).unwrap()
}

fn check_initial_key(record: &Value) {
    reads_all(record, &["bdk", "initial_key_id", "initial_key"], &[]);
    assert_key(&initial_key(&key(record, "bdk"), ik_id(record)), &record["initial_key"]);
}

fn check_derivation_key(record: &Value) {
    reads_all(record, &["initial_key", "initial_key_id", "ksn", "counter", "derivation_key", "legal_counter"], &[]);
    let (ksn, ik) = (ksn(record), key(record, "initial_key"));
    assert_key(&derivation_key(&ik, &ksn), &record["derivation_key"]);
    let above = derivation_key(&ik, &ksn.with_counter(parent(ksn.raw_counter())));
    assert_key(&child_key(&above, ksn.ik_id(), ksn.raw_counter()), &record["derivation_key"]);
}

fn check_working_key(record: &Value) {
    reads_all(
        record,
        &[
            "initial_key",
            "initial_key_id",
            "ksn",
            "counter",
            "legal_counter",
            "usage",
            "usage_code",
            "key_type",
            "working_key",
            "derivation_data",
        ],
        &[],
    );
    let (ksn, usage, key_type) = (ksn(record), usage(text(record, "usage")), key_type(text(record, "key_type")));
    assert_eq!(format!("{:04X}", usage.code()), text(record, "usage_code"));
    assert_key(&working(record, &ksn, usage, key_type), &record["working_key"]);

    let data = DerivationData::working_key(usage, key_type, ksn.ik_id(), ksn.raw_counter());
    let blocks: Vec<&str> = record["derivation_data"].as_array().unwrap().iter().map(|b| b.as_str().unwrap()).collect();
    assert_eq!(hex::encode_upper(data.blocks()), blocks.concat());

    if usage == KeyUsage::KeyEncryption && ksn.raw_counter() == UPDATE_KEY_COUNTER {
        let key = update_key(&key(record, "initial_key"), ksn.ik_id(), key_type).unwrap();
        assert_key(&key, &record["working_key"]);
    }
}

fn check_registers(record: &Value) {
    reads_all(record, &["initial_key", "initial_key_id", "registers", "first_bit"], &[]);
    let registers = record["registers"].as_array().unwrap();
    assert!(!registers.is_empty());
    for (bit, register) in (number(record, "first_bit")..).zip(registers) {
        assert_key(&derivation_key(&key(record, "initial_key"), &ksn_at(record, 1 << bit)), register);
    }
}

fn check_working_key_series(record: &Value) {
    reads_all(record, &["initial_key", "initial_key_id", "usage", "key_type", "first_counter", "keys"], &[]);
    let (usage, key_type) = (usage(text(record, "usage")), key_type(text(record, "key_type")));
    let keys = record["keys"].as_array().unwrap();
    assert!(!keys.is_empty());
    for (counter, key) in (number(record, "first_counter")..).zip(keys) {
        assert_key(&working(record, &ksn_at(record, counter), usage, key_type), key);
    }
}

/// ISO 9564-1 format 4, put together here: this project makes no PIN blocks.
fn check_pin_block4(record: &Value) {
    reads_all(
        record,
        &[
            "initial_key",
            "initial_key_id",
            "ksn",
            "counter",
            "key_type",
            "pin",
            "pan",
            "pin_field",
            "pan_field",
            "encrypted_pin_block",
            "intermediate_block_a",
            "intermediate_block_b",
        ],
        &[],
    );
    let (pin, pan) = (text(record, "pin"), text(record, "pan"));
    let pin_start = format!("4{:X}{pin:A<14}", pin.len());
    assert!(text(record, "pin_field").starts_with(&pin_start));
    assert_eq!(text(record, "pan_field"), format!("{:0<32}", format!("{:X}{pan:0>12}", pan.len().saturating_sub(12))));

    let pin_key = working(record, &ksn(record), KeyUsage::Pin, key_type(text(record, "key_type")));
    let mut block = encrypted_block(&pin_key, Algorithm::Aes, &bytes(record, "pin_field"));
    if record["intermediate_block_a"].is_string() {
        assert_bytes(&block, record, "intermediate_block_a");
    }
    block.iter_mut().zip(bytes(record, "pan_field")).for_each(|(byte, pan)| *byte ^= pan);
    if record["intermediate_block_b"].is_string() {
        assert_bytes(&block, record, "intermediate_block_b");
    }
    assert_bytes(&encrypted_block(&pin_key, Algorithm::Aes, &block), record, "encrypted_pin_block");
}

fn check_mac_data(record: &Value) {
    reads_all(
        record,
        &[
            "initial_key",
            "initial_key_id",
            "ksn",
            "counter",
            "message_ascii",
            "cmac_key_type",
            "cmac_request",
            "cmac_response",
            "hmac_key_type",
            "hmac_sha256_request",
            "hmac_sha256_response",
            "data_key_type",
            "iv",
            "data_request_ciphertext",
            "data_response_ciphertext",
            "usage_map",
        ],
        &["data_padding"],
    );
    let (ksn, message) = (ksn(record), text(record, "message_ascii").as_bytes());
    for direction in ["request", "response"] {
        let mac_usage = usage(text(&record["usage_map"], &format!("{direction}_mac")));
        let cmac_type = key_type(text(record, "cmac_key_type"));
        let cmac_key = working(record, &ksn, mac_usage, cmac_type);
        let cmac = match algorithm(cmac_type) {
            Algorithm::Aes => aes_cmac(&cmac_key, message).to_vec(),
            Algorithm::Tdes => tdes_cmac(&cmac_key, message).to_vec(),
        };
        assert_bytes(&cmac, record, &format!("cmac_{direction}"));
        if let Algorithm::Aes = algorithm(cmac_type) {
            verify_aes_cmac(&cmac_key, message, &cmac).unwrap();
        }

        let hmac_key = working(record, &ksn, mac_usage, key_type(text(record, "hmac_key_type")));
        assert_bytes(&hmac_sha256(&hmac_key, message), record, &format!("hmac_sha256_{direction}"));

        let data_type = key_type(text(record, "data_key_type"));
        let data_usage = usage(text(&record["usage_map"], &format!("{direction}_data")));
        let data_key = working(record, &ksn, data_usage, data_type);
        let clear = zero_padded(message, algorithm(data_type).block_len());
        let sealed = encrypted(&data_key, algorithm(data_type), &bytes(record, "iv"), &clear);
        assert_bytes(&sealed, record, &format!("data_{direction}_ciphertext"));
    }
}

fn check_data_series(record: &Value) {
    reads_all(
        record,
        &["initial_key", "initial_key_id", "usage", "key_type", "mode", "plaintext", "first_counter", "ciphertexts"],
        &[],
    );
    assert_eq!(text(record, "mode"), "ECB");
    let (usage, key_type) = (usage(text(record, "usage")), key_type(text(record, "key_type")));
    let clear = bytes(record, "plaintext");
    let ciphertexts = record["ciphertexts"].as_array().unwrap();
    assert!(!ciphertexts.is_empty());
    for (counter, ciphertext) in (number(record, "first_counter")..).zip(ciphertexts) {
        let key = working(record, &ksn_at(record, counter), usage, key_type);
        let sealed: Vec<u8> = clear
            .chunks(algorithm(key_type).block_len())
            .flat_map(|block| encrypted_block(&key, algorithm(key_type), block))
            .collect();
        assert_eq!(hex::encode_upper(sealed), ciphertext.as_str().unwrap());
    }
}

fn check_counter_advance(record: &Value) {
    reads_all(record, &["counter", "next_counter", "exhausted"], &[]);
    let counter = u32::try_from(number(record, "counter")).unwrap();
    let next = Scheme::Aes.next_counter(counter).map(|next| u64::from(next.get()));
    assert_eq!(next, record["next_counter"].as_u64());
    assert_eq!(next.is_none(), flag(record, "exhausted", false));
}

fn check_counter_total(record: &Value) {
    reads_all(record, &["counter_bits", "max_one_bits", "total_transactions"], &[]);
    assert_eq!(number(record, "max_one_bits"), u64::from(Scheme::Aes.max_ones()));
    assert_eq!((1u64 << number(record, "counter_bits")) - 1, u64::from(Scheme::Aes.max_counter()));
    let total = count_by_binomials(number(record, "counter_bits"), number(record, "max_one_bits"));
    assert_eq!(total, number(record, "total_transactions"));
}

fn check_ksn80(record: &Value) {
    reads_all(record, &["ksn80", "counter", "initial_key_id"], &[]);
    let ksn = AesKsn::from_ksn80(&bytes(record, "ksn80").try_into().unwrap());
    assert_eq!(ksn.ik_id(), ik_id(record));
    assert_eq!(u64::from(ksn.raw_counter()), number(record, "counter"));
    Counter::new(Scheme::Aes, ksn.raw_counter()).unwrap();
}
