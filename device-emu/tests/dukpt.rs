//! The device's half of DUKPT: against the published values, and against the host's half.
#![allow(
    clippy::unwrap_used,
    clippy::as_conversions,
    reason = "a vector that cannot be read, or an impossible counter, must fail the run"
)]

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;
use support::{bytes, hex_of, key, key_of, records, text};
use warifu_core::dukpt as host;
use warifu_core::key::{KeyBytes, KeyLen, KeyType, KeyUsage, TdesKey};
use warifu_core::ksn::{AesKsn, Ksn, Scheme, TdesKsn};
use warifu_device_emu::dukpt::{DukptError, Originator, aes, tdes};

fn usage(name: &str) -> KeyUsage {
    match name {
        "key_encryption_key" => KeyUsage::KeyEncryption,
        "pin_encryption" => KeyUsage::Pin,
        "mac_generation" => KeyUsage::MacGeneration,
        "mac_verification" => KeyUsage::MacVerification,
        "mac_both" => KeyUsage::MacBoth,
        "data_encrypt" => KeyUsage::DataEncryption,
        "data_decrypt" => KeyUsage::DataDecryption,
        "key_derivation" => KeyUsage::KeyDerivation,
        other => panic!("usage {other}"),
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
        other => panic!("key type {other}"),
    }
}

/// An AES device as a record describes it, about to use the counter of the record.
fn aes_device(record: &Value, counter: u32) -> aes::Originator {
    let mut id = bytes(record, "initial_key_id");
    id.extend([0; 4]);
    let mut device = aes::Originator::load(&key(record, "initial_key"), &AesKsn::parse(&id).unwrap());
    device.skip_to(counter).unwrap();
    device
}

fn is_update_key(record: &Value) -> bool {
    counter(record) == u32::MAX && text(record, "usage") == "key_encryption_key"
}

fn counter(record: &Value) -> u32 {
    record["counter"].as_u64().unwrap().try_into().unwrap()
}

#[test]
fn the_published_aes_values_come_out_of_the_registers() {
    let mut ran: BTreeMap<String, usize> = BTreeMap::new();
    for record in records("aes_dukpt") {
        let kind = text(&record, "kind");
        let legal = |counter| warifu_core::ksn::Counter::new(Scheme::Aes, counter).is_ok();
        match kind {
            "aes_dukpt_initial_key" => {
                let mut id = bytes(&record, "initial_key_id");
                id.extend([0; 4]);
                let initial = aes::initial_key(&key(&record, "bdk"), &AesKsn::parse(&id).unwrap());
                assert_eq!(hex_of(&initial), text(&record, "initial_key"));
            }
            // The update key is made when the initial key is there: as long as that is, for a key block.
            "aes_dukpt_working_key" if is_update_key(&record) => {
                let mut id = bytes(&record, "initial_key_id");
                id.extend([0; 4]);
                let initial = key(&record, "initial_key");
                let device = aes::Originator::load(&initial, &AesKsn::parse(&id).unwrap());
                if key_type(text(&record, "key_type")) != KeyType::aes(initial.key_len()) {
                    continue;
                }
                assert_eq!(hex_of(device.update_key()), text(&record, "working_key"));
            }
            // No device has the counter of the update key: it is above every legal one.
            "aes_dukpt_derivation_key" | "aes_dukpt_working_key" if !legal(counter(&record)) => continue,
            "aes_dukpt_derivation_key" => aes_device(&record, counter(&record))
                .transact(|transaction| {
                    assert_eq!(hex_of(transaction.derivation_key()), text(&record, "derivation_key"));
                })
                .unwrap(),
            "aes_dukpt_working_key" => aes_device(&record, counter(&record))
                .transact(|transaction| {
                    let (usage, key_type) = (usage(text(&record, "usage")), key_type(text(&record, "key_type")));
                    assert_eq!(hex_of(&transaction.working_key(usage, key_type)), text(&record, "working_key"));
                    assert_eq!(hex::encode_upper(transaction.ksn().bytes()), text(&record, "ksn"));
                })
                .unwrap(),
            "aes_dukpt_working_key_series" => {
                let mut device = aes_device(&record, 1);
                let (usage, key_type) = (usage(text(&record, "usage")), key_type(text(&record, "key_type")));
                let keys = record["keys"].as_array().unwrap();
                for key in keys {
                    device
                        .transact(|transaction| assert_eq!(hex_of(&transaction.working_key(usage, key_type)), *key))
                        .unwrap();
                }
            }
            "aes_dukpt_registers" => {
                let registers = record["registers"].as_array().unwrap();
                for (bit, register) in registers.iter().enumerate() {
                    aes_device(&record, 1 << bit)
                        .transact(|transaction| assert_eq!(hex_of(transaction.derivation_key()), *register))
                        .unwrap();
                }
            }
            "aes_counter_advance" => {
                let mut device =
                    Originator::Aes(aes::Originator::load(&key_of(support::AES_BDK), &AesKsn::new([0; 12])));
                device.skip_to(counter(&record)).unwrap();
                match record["next_counter"].as_u64() {
                    Some(next) => assert_eq!(u64::from(device.skip(1).unwrap()), next),
                    None => assert_eq!(device.skip(1), Err(DukptError::Exhausted)),
                }
            }
            // PIN blocks, host MACs and data, and totals are not the device's registers.
            _ => continue,
        }
        *ran.entry(kind.to_owned()).or_default() += 1;
    }
    let expected = [
        ("aes_counter_advance", 5),
        ("aes_dukpt_derivation_key", 20),
        ("aes_dukpt_initial_key", 2),
        ("aes_dukpt_registers", 1),
        ("aes_dukpt_working_key", 76),
        ("aes_dukpt_working_key_series", 1),
    ];
    assert_eq!(ran, expected.map(|(kind, count)| (kind.to_owned(), count)).into());
}

const TDES_KEYS: [(&str, TdesKey); 7] = [
    ("pin", TdesKey::Pin),
    ("mac_request", TdesKey::MacRequest),
    ("mac_response", TdesKey::MacResponse),
    ("data_request_variant", TdesKey::DataRequestVariant),
    ("data_response_variant", TdesKey::DataResponseVariant),
    ("data_request", TdesKey::DataRequest),
    ("data_response", TdesKey::DataResponse),
];

#[test]
fn the_published_tdes_values_come_out_of_the_registers() {
    let mut ran: BTreeMap<String, usize> = BTreeMap::new();
    for record in records("tdes_dukpt") {
        let kind = text(&record, "kind");
        let device_at = |ksn: &TdesKsn| {
            let initial = tdes::initial_key(&key(&record, "bdk"), ksn).unwrap();
            let mut device = tdes::Originator::load(&initial, ksn).unwrap();
            device.skip_to(ksn.raw_counter()).unwrap();
            device
        };
        match kind {
            "tdes_dukpt_transaction" => {
                let ksn = TdesKsn::parse(&bytes(&record, "ksn")).unwrap();
                assert_eq!(hex_of(&tdes::initial_key(&key(&record, "bdk"), &ksn).unwrap()), text(&record, "ipek"));
                device_at(&ksn)
                    .transact(|transaction| {
                        assert_eq!(hex_of(transaction.transaction_key()), text(&record, "transaction_key"));
                        for (name, which) in TDES_KEYS {
                            assert_eq!(hex_of(&transaction.key(which)), text(&record["working_keys"], name), "{name}");
                        }
                    })
                    .unwrap();
            }
            "tdes_dukpt_key" => {
                let ksn = TdesKsn::parse(&bytes(&record, "ksn")).unwrap();
                match text(&record, "key_kind") {
                    "ipek" => {
                        let initial = tdes::initial_key(&key(&record, "bdk"), &ksn).unwrap();
                        assert_eq!(hex_of(&initial), text(&record, "key"));
                    }
                    name => {
                        let (_, which) = TDES_KEYS.into_iter().find(|(known, _)| *known == name).unwrap();
                        device_at(&ksn)
                            .transact(|transaction| assert_eq!(hex_of(&transaction.key(which)), text(&record, "key")))
                            .unwrap();
                    }
                }
            }
            "tdes_counter_advance" => {
                let initial = key_of(support::TDES_BDK);
                let mut device = Originator::Tdes(tdes::Originator::load(&initial, &TdesKsn::new([0; 10])).unwrap());
                device.skip_to(counter(&record)).unwrap();
                assert_eq!(u64::from(device.skip(1).unwrap()), record["next_counter"].as_u64().unwrap());
            }
            // PIN blocks, stand-alone MACs and totals are not the device's registers.
            _ => continue,
        }
        *ran.entry(kind.to_owned()).or_default() += 1;
    }
    let expected = [("tdes_counter_advance", 8), ("tdes_dukpt_key", 14), ("tdes_dukpt_transaction", 22)];
    assert_eq!(ran, expected.map(|(kind, count)| (kind.to_owned(), count)).into());
}

#[test]
fn a_tdes_device_gives_each_of_its_1048575_counters_once_and_is_exhausted() {
    let initial = key_of(support::TDES_BDK);
    let mut device = Originator::Tdes(tdes::Originator::load(&initial, &TdesKsn::new([0; 10])).unwrap());
    // Cheaply: counters only. That each has its key is held by the properties below.
    let mut total = 1;
    let mut counter = 1;
    while let Some(next) = Scheme::Tdes.next_counter(counter) {
        counter = next.get();
        total += 1;
    }
    assert_eq!(total, 1_048_575);
    assert_eq!(device.skip(total - 1), Ok(counter));
    assert_eq!(counter, 0x1F_F800);
    let Originator::Tdes(tdes_device) = &mut device else { panic!("a TDES device") };
    tdes_device.transact(|transaction| assert_eq!(transaction.ksn().raw_counter(), 0x1F_F800)).unwrap();
    assert_eq!(tdes_device.transact(|_| ()), Err(DukptError::Exhausted));
    assert_eq!(device.next_counter(), None);
    assert_eq!(device.skip(1), Err(DukptError::Exhausted));
    assert_eq!(device.skip_to(0x1F_F800), Err(DukptError::Exhausted));
}

#[test]
fn an_aes_device_ends_with_its_last_counter() {
    let mut device = aes::Originator::load(&key_of(support::AES_BDK), &AesKsn::new([0; 12]));
    device.skip_to(0xFFFF_0000).unwrap();
    device.transact(|_| ()).unwrap();
    assert_eq!(device.transact(|_| ()), Err(DukptError::Exhausted));
}

#[test]
fn a_device_never_goes_back_nor_to_a_counter_with_too_many_ones() {
    let mut device = aes::Originator::load(&key_of(support::AES_BDK), &AesKsn::new([0; 12]));
    device.skip_to(100).unwrap();
    for unreachable in [0, 1, 99, 0x1_FFFF, 0xFFFF_8000, u32::MAX] {
        assert_eq!(device.skip_to(unreachable), Err(DukptError::Unreachable));
    }
    let mut device = tdes::Originator::load(&key_of(support::TDES_BDK), &TdesKsn::new([0; 10])).unwrap();
    for unreachable in [0, 0x7FF, 0x20_0000] {
        assert_eq!(device.skip_to(unreachable), Err(DukptError::Unreachable));
    }
}

#[test]
fn a_tdes_device_takes_no_longer_key() {
    let long = KeyBytes::filled(KeyLen::K192, |_| ());
    assert_eq!(tdes::initial_key(&long, &TdesKsn::new([0; 10])).err(), Some(DukptError::TdesKeyLength));
    assert_eq!(tdes::Originator::load(&long, &TdesKsn::new([0; 10])).err(), Some(DukptError::TdesKeyLength));
}

/// A legal counter: a few one-bits anywhere.
fn legal_counter(bits: u32, max_ones: usize) -> impl Strategy<Value = u32> {
    prop::collection::btree_set(0..bits, 1..=max_ones)
        .prop_map(|bits| bits.into_iter().fold(0, |counter, bit| counter | 1 << bit))
}

/// The bytes of a key, which itself cannot be shown.
fn any_key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(16), Just(24), Just(32)].prop_flat_map(|len: usize| prop::collection::vec(any::<u8>(), len))
}

fn same_aes(device: &mut aes::Originator, initial: &KeyBytes) -> u32 {
    device
        .transact(|transaction| {
            let ksn = *transaction.ksn();
            let node = host::aes::derivation_key(initial, &ksn);
            assert!(node.ct_eq(transaction.derivation_key()), "{}", Ksn::Aes(ksn));
            for usage in [KeyUsage::DataEncryption, KeyUsage::MacGeneration] {
                let key_type = KeyType::aes(initial.key_len());
                let host = host::aes::working_key(&node, &ksn, usage, key_type).unwrap();
                assert!(host.ct_eq(&transaction.working_key(usage, key_type)));
            }
            ksn.raw_counter()
        })
        .unwrap()
}

fn same_tdes(device: &mut tdes::Originator, initial: &KeyBytes) -> u32 {
    device
        .transact(|transaction| {
            let ksn = *transaction.ksn();
            let host = host::tdes::transaction_key(initial, &ksn);
            assert!(host.ct_eq(transaction.transaction_key()), "{}", Ksn::Tdes(ksn));
            for (_, which) in TDES_KEYS {
                assert!(host::tdes::working_key(&host, which).ct_eq(&transaction.key(which)));
            }
            ksn.raw_counter()
        })
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// From any counter on, over the next transactions and over a leap to any later counter.
    #[test]
    fn both_halves_of_aes_dukpt_agree(
        bdk in any_key(), id in any::<[u8; 12]>(),
        from in legal_counter(32, 16), to in legal_counter(32, 16), run in 1..12u32,
    ) {
        let (bdk, ksn) = (KeyBytes::copied(&bdk).unwrap(), AesKsn::new(id));
        let initial = aes::initial_key(&bdk, &ksn);
        prop_assert!(initial.ct_eq(&host::aes::initial_key(&bdk, ksn.ik_id())));
        let mut device = aes::Originator::load(&initial, &ksn);
        device.skip_to(from.min(to)).unwrap();
        let mut expected = from.min(to);
        for _ in 0..run {
            prop_assert_eq!(same_aes(&mut device, &initial), expected);
            match Scheme::Aes.next_counter(expected) {
                Some(next) => expected = next.get(),
                None => return Ok(()),
            }
        }
        if device.skip_to(from.max(to)).is_ok() {
            prop_assert_eq!(same_aes(&mut device, &initial), from.max(to));
        }
    }

    #[test]
    fn both_halves_of_tdes_dukpt_agree(
        bdk in any::<[u8; 16]>(), id in any::<[u8; 10]>(),
        from in legal_counter(21, 10), to in legal_counter(21, 10), run in 1..12u32,
    ) {
        let (bdk, ksn) = (KeyBytes::copied(&bdk).unwrap(), TdesKsn::new(id));
        let initial = tdes::initial_key(&bdk, &ksn).unwrap();
        prop_assert!(initial.ct_eq(&host::tdes::initial_key(&bdk, &ksn)));
        let mut device = tdes::Originator::load(&initial, &ksn).unwrap();
        device.skip_to(from.min(to)).unwrap();
        let mut expected = from.min(to);
        for _ in 0..run {
            prop_assert_eq!(same_tdes(&mut device, &initial), expected);
            match Scheme::Tdes.next_counter(expected) {
                Some(next) => expected = next.get(),
                None => return Ok(()),
            }
        }
        if device.skip_to(from.max(to)).is_ok() {
            prop_assert_eq!(same_tdes(&mut device, &initial), from.max(to));
        }
    }
}

/// Every counter of a long run from the start, so that many registers are filled, spent and filled again.
#[test]
fn both_halves_agree_over_a_long_run() {
    let initial = key_of(support::AES_BDK);
    let mut device = aes::Originator::load(&initial, &AesKsn::new([7; 12]));
    (1..=5000).for_each(|counter| assert_eq!(same_aes(&mut device, &initial), counter));
    let mut device = tdes::Originator::load(&initial, &TdesKsn::new([7; 10])).unwrap();
    let mut expected = 0;
    for _ in 1..=3000 {
        expected = Scheme::Tdes.next_counter(expected).unwrap().get();
        assert_eq!(same_tdes(&mut device, &initial), expected);
    }
}
