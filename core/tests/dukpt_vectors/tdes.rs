//! The kinds of `tdes_dukpt.json`.

use des::Des;
use des::cipher::{Block, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use serde_json::Value;
use warifu_core::cipher::{aes_cbc_decrypt, tdes_cbc_decrypt};
use warifu_core::dukpt::tdes::{child_key, initial_key, parent, transaction_key, working_key};
use warifu_core::key::{KeyBytes, TdesKey};
use warifu_core::ksn::{Counter, Ksn, Scheme, TdesKsn};
use warifu_core::mac::{retail_mac, tdes_cmac, verify_retail_mac};

use crate::support::{bytes, bytes_if_any, flag, number, text};
use crate::{
    Algorithm, assert_bytes, assert_key, count_by_binomials, encrypted, encrypted_block, key, reads_all, tdes_key,
    zero_padded,
};

pub(crate) fn check(kind: &str, record: &Value) {
    match kind {
        "tdes_dukpt_transaction" => check_transaction(record),
        "tdes_dukpt_key" => check_key(record),
        "tdes_dukpt_data" => check_data(record),
        "tdes_dukpt_pin" => check_pin(record),
        "tdes_mac" => check_mac(record),
        "tdes_counter_advance" => check_counter_advance(record),
        "tdes_counter_total" => check_counter_total(record),
        "tdes_counter_last" => check_counter_last(record),
        other => panic!("unknown kind {other}"),
    }
}

fn ksn(record: &Value) -> TdesKsn {
    TdesKsn::parse(&bytes(record, "ksn")).unwrap()
}

/// The counter must be refused exactly when the record says that no conforming device sends it.
fn check_legality(record: &Value, ksn: TdesKsn) {
    assert_eq!(Ksn::Tdes(ksn).counter().is_ok(), flag(record, "legal_counter", true), "a strict receiver");
    if record["counter_one_bits"].is_u64() {
        assert_eq!(u64::from(ksn.raw_counter().count_ones()), number(record, "counter_one_bits"));
    }
}

/// The initial key: given, or derived from the BDK; where both are there they must agree.
fn ik(record: &Value, ksn: &TdesKsn) -> KeyBytes {
    let derived = bytes_if_any(record, "bdk").map(|_| initial_key(&key(record, "bdk"), ksn));
    match (derived, record["ipek"].as_str()) {
        (Some(derived), Some(_)) => {
            assert_key(&derived, &record["ipek"]);
            derived
        }
        (Some(derived), None) => derived,
        (None, _) => key(record, "ipek"),
    }
}

fn working(record: &Value, ksn: &TdesKsn, which: TdesKey) -> KeyBytes {
    working_key(&transaction_key(&ik(record, ksn), ksn), which)
}

fn check_transaction(record: &Value) {
    reads_all(
        record,
        &[
            "bdk",
            "ksn",
            "counter",
            "ipek",
            "transaction_key",
            "working_keys",
            "pin",
            "pan",
            "clear_pin_block",
            "encrypted_pin_block",
            "data_ascii",
            "mac_request_4",
            "mac_request_8",
            "mac_response_4",
            "mac_response_8",
            "cmac_request",
            "cmac_response",
            "data_request_ciphertext",
            "data_response_ciphertext",
            "iv",
            "legal_counter",
            "counter_one_bits",
        ],
        &["standard_ref", "working_keys_note", "cmac_note", "data_padding"],
    );
    let ksn = ksn(record);
    check_legality(record, ksn);
    assert_eq!(u64::from(ksn.raw_counter()), number(record, "counter"));

    let ik = ik(record, &ksn);
    let transaction = transaction_key(&ik, &ksn);
    assert_key(&transaction, &record["transaction_key"]);
    let above = transaction_key(&ik, &ksn.with_counter(parent(ksn.raw_counter())));
    assert_key(&child_key(&above, &ksn, ksn.raw_counter()), &record["transaction_key"]);

    let working_keys = record["working_keys"].as_object().unwrap();
    assert_eq!(working_keys.len(), 7);
    for (name, published) in working_keys {
        assert_key(&working_key(&transaction, tdes_key(name)), published);
    }

    check_pin_block(record, &working_key(&transaction, TdesKey::Pin));
    let message = text(record, "data_ascii").as_bytes();
    for (direction, mac, data) in [
        ("request", TdesKey::MacRequest, TdesKey::DataRequest),
        ("response", TdesKey::MacResponse, TdesKey::DataResponse),
    ] {
        let mac_key = working_key(&transaction, mac);
        check_retail_mac(&mac_key, message, record, &format!("mac_{direction}"));
        if record[format!("cmac_{direction}")].is_string() {
            assert_bytes(&tdes_cmac(&mac_key, message), record, &format!("cmac_{direction}"));
        }
        if let Some(sealed) = bytes_if_any(record, &format!("data_{direction}_ciphertext")) {
            let data_key = working_key(&transaction, data);
            let (iv, clear) = (bytes(record, "iv"), zero_padded(message, 8));
            assert_eq!(encrypted(&data_key, Algorithm::Tdes, &iv, &clear), sealed);
            assert_eq!(decrypted(&data_key, Algorithm::Tdes, &iv, &sealed), clear);
        }
    }
}

fn check_key(record: &Value) {
    reads_all(record, &["bdk", "ipek", "ksn", "key_kind", "key", "legal_counter", "counter_one_bits"], &[]);
    let ksn = ksn(record);
    let ours = match text(record, "key_kind") {
        "ipek" => ik(record, &ksn),
        other => {
            check_legality(record, ksn);
            match other {
                "transaction" => transaction_key(&ik(record, &ksn), &ksn),
                other => working(record, &ksn, tdes_key(other)),
            }
        }
    };
    assert_key(&ours, &record["key"]);
}

fn check_data(record: &Value) {
    reads_all(
        record,
        &[
            "bdk",
            "ipek",
            "ksn",
            "key_kind",
            "cipher",
            "mode",
            "iv",
            "ciphertext",
            "plaintext",
            "plaintext_padding",
            "legal_counter",
            "counter_one_bits",
        ],
        &[],
    );
    let ksn = ksn(record);
    check_legality(record, ksn);
    let key = working(record, &ksn, tdes_key(text(record, "key_kind")));
    let algorithm = match text(record, "cipher") {
        "TDES" => Algorithm::Tdes,
        // The 16-byte key of the transaction, taken for an AES-128 key.
        "AES" => Algorithm::Aes,
        other => panic!("unknown cipher {other}"),
    };
    let (sealed, published) = (bytes(record, "ciphertext"), bytes(record, "plaintext"));
    let clear = match text(record, "mode") {
        "CBC" => {
            let iv = bytes(record, "iv");
            let clear = decrypted(&key, algorithm, &iv, &sealed);
            assert_eq!(encrypted(&key, algorithm, &iv, &clear), sealed);
            clear
        }
        "ECB" => sealed
            .chunks(algorithm.block_len())
            .flat_map(|block| decrypted(&key, algorithm, &vec![0; block.len()], block))
            .collect(),
        other => panic!("unknown mode {other}"),
    };
    match record["plaintext_padding"].as_str() {
        None => assert_eq!(clear, published),
        Some("zero") => assert_eq!(clear, zero_padded(&published, algorithm.block_len())),
        Some(other) => panic!("unknown padding {other}"),
    }
}

fn check_pin(record: &Value) {
    reads_all(
        record,
        &[
            "bdk",
            "ipek",
            "ksn",
            "pan",
            "pin",
            "pin_block_format",
            "clear_pin_block",
            "pin_key",
            "encrypted_pin_block",
            "legal_counter",
            "counter_one_bits",
        ],
        &[],
    );
    assert_eq!(number(record, "pin_block_format"), 0);
    let ksn = ksn(record);
    check_legality(record, ksn);
    let pin_key = working(record, &ksn, TdesKey::Pin);
    if record["pin_key"].is_string() {
        assert_key(&pin_key, &record["pin_key"]);
    }
    check_pin_block(record, &pin_key);
}

/// ISO 9564-1 format 0, put together here: this project makes no PIN blocks.
fn check_pin_block(record: &Value, pin_key: &KeyBytes) {
    let (pin, pan) = (text(record, "pin"), text(record, "pan"));
    let pin_field = hex::decode(format!("0{:X}{pin:F<14}", pin.len())).unwrap();
    let digits = format!("{:0>16}", &pan[..pan.len() - 1]);
    let pan_field = hex::decode(format!("0000{}", &digits[digits.len() - 12..])).unwrap();
    let clear: Vec<u8> = pin_field.iter().zip(pan_field).map(|(pin, pan)| pin ^ pan).collect();
    if record["clear_pin_block"].is_string() {
        assert_bytes(&clear, record, "clear_pin_block");
    }
    assert_bytes(&encrypted_block(pin_key, Algorithm::Tdes, &clear), record, "encrypted_pin_block");
}

fn check_mac(record: &Value) {
    reads_all(record, &["key", "algorithm", "message", "padded_message", "intermediates", "mac_8", "mac_4"], &[]);
    let (key, message) = (key(record, "key"), bytes(record, "message"));
    let padded = zero_padded(&message, 8);
    if record["padded_message"].is_string() {
        assert_bytes(&padded, record, "padded_message");
    }
    match text(record, "algorithm") {
        "retail_mac_x919" => check_retail_mac(&key, &message, record, "mac"),
        // Of a single block the retail MAC is the triple DES encryption.
        "tdes_single_block" => {
            check_retail_mac(&key, &message, record, "mac");
            assert!(text(record, "mac_8").eq_ignore_ascii_case(&hex::encode(encrypted_block(
                &key,
                Algorithm::Tdes,
                &padded
            ))));
        }
        other => panic!("unknown algorithm {other}"),
    }
    let mut stages = mac_stages(&key, &padded).into_iter();
    for published in record["intermediates"].as_array().into_iter().flatten() {
        let published = published.as_str().unwrap();
        assert!(stages.any(|stage| stage == published), "no stage of the MAC is {published}");
    }
}

/// What a retail MAC passes through: each block's DES-CBC, then the decryption under the right half.
fn mac_stages(key: &KeyBytes, padded: &[u8]) -> Vec<String> {
    let (left, right) = key.expose().split_at(8);
    let [left, right] = [left, right].map(|half| Des::new_from_slice(half).unwrap());
    let mut chain = Block::<Des>::default();
    let mut stages = Vec::new();
    for block in padded.chunks(8) {
        chain.iter_mut().zip(block).for_each(|(chained, byte)| *chained ^= byte);
        left.encrypt_block(&mut chain);
        stages.push(hex::encode_upper(chain));
    }
    right.decrypt_block(&mut chain);
    stages.push(hex::encode_upper(chain));
    stages
}

/// `field`_8 and `field`_4, of which one at least must be there.
fn check_retail_mac(key: &KeyBytes, message: &[u8], record: &Value, field: &str) {
    let mac = retail_mac(key, message);
    verify_retail_mac(key, message, &mac).unwrap();
    let mut published = 0;
    for (suffix, ours) in [("8", &mac[..]), ("4", &mac[..4])] {
        let field = format!("{field}_{suffix}");
        if record[&field].is_string() {
            assert_bytes(ours, record, &field);
            published += 1;
        }
    }
    assert!(published > 0, "no {field} to compare with");
}

fn check_counter_advance(record: &Value) {
    reads_all(record, &["ksn", "next_ksn", "counter", "next_counter", "exhausted"], &[]);
    let counter = u32::try_from(number(record, "counter")).unwrap();
    let next = Scheme::Tdes.next_counter(counter);
    assert_eq!(next.map(|next| u64::from(next.get())), record["next_counter"].as_u64());
    assert_eq!(next.is_none(), flag(record, "exhausted", false));
    if let (true, Some(next)) = (record["next_ksn"].is_string(), next) {
        assert_eq!(ksn(record).raw_counter(), counter);
        assert_bytes(ksn(record).with_counter(next.get()).bytes(), record, "next_ksn");
    }
}

/// By binomials, and by counting every one.
fn check_counter_total(record: &Value) {
    reads_all(record, &["counter_bits", "max_one_bits", "total_transactions"], &[]);
    assert_eq!(number(record, "max_one_bits"), u64::from(Scheme::Tdes.max_ones()));
    assert_eq!((1u64 << number(record, "counter_bits")) - 1, u64::from(Scheme::Tdes.max_counter()));
    let total = number(record, "total_transactions");
    assert_eq!(count_by_binomials(number(record, "counter_bits"), number(record, "max_one_bits")), total);
    let (used, last) = walk();
    assert_eq!((used, last), (total, 0x001F_F800));
}

fn check_counter_last(record: &Value) {
    let last = ["last_counter", "counter"].into_iter().find_map(|field| match &record[field] {
        Value::Number(number) => number.as_u64(),
        Value::String(digits) => u64::from_str_radix(digits, 16).ok(),
        _ => None,
    });
    let last = u32::try_from(last.expect("the last counter")).unwrap();
    Counter::new(Scheme::Tdes, last).unwrap();
    assert_eq!(Scheme::Tdes.next_counter(last), None);
    assert_eq!(walk().1, last);
}

/// The whole life of a device: how many transactions, and the last counter.
fn walk() -> (u64, u32) {
    let mut at = (0, 0);
    while let Some(next) = Scheme::Tdes.next_counter(at.1) {
        at = (at.0 + 1, next.get());
    }
    at
}

fn decrypted(key: &KeyBytes, algorithm: Algorithm, iv: &[u8], sealed: &[u8]) -> Vec<u8> {
    let mut data = sealed.to_vec();
    match algorithm {
        Algorithm::Aes => aes_cbc_decrypt(key, iv.try_into().unwrap(), &mut data).unwrap(),
        Algorithm::Tdes => tdes_cbc_decrypt(key, iv.try_into().unwrap(), &mut data).unwrap(),
    }
    data
}
