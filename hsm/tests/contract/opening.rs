//! Frames that open: published keys, real devices' output, every length of working key.

use serde_json::Value;
use warifu_core::device::{Format, Profile};
use warifu_core::dukpt::aes;
use warifu_core::frame::SealedFrame;
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::ksn::{AesKsn, Scheme};
use warifu_core::merchant::BdkId;
use warifu_core::reader;
use warifu_hsm::HsmError;

use crate::subject;
use crate::support::device::{BODY, PAN, seal_with};
use crate::support::slot::test_key;

const AES_VECTORS: &str = include_str!("../../../core/tests/vectors/aes_dukpt.json");
const DEVICE_VECTORS: &str = include_str!("../../../core/tests/vectors/device_output.json");

fn records(file: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(file).unwrap();
    file["records"].as_array().unwrap().clone()
}

fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record[field].as_str().unwrap()
}

#[test]
fn a_frame_opens_and_tells_the_mode_it_was_opened_in() {
    for subject in subject::all() {
        let mut hsm = subject.session();
        let device = subject.device(1);
        // 16 one-bits is the most an AES device may have, 10 the most of a TDES device.
        let deep = if subject.spec.scheme == Scheme::Aes { 0xFFFF_0000 } else { 0x1F_F800 };
        for counter in [1, 2, 3, 0xFF, 0x100, deep] {
            let opened = hsm.open(&subject.spec.id, &device.frame(counter)).unwrap();
            assert_eq!(opened.account_data.pan().expose(), PAN.as_bytes(), "{} at {counter:#x}", subject.name);
            assert_eq!(opened.mode, subject.spec.mode);
        }
    }
}

/// Frames sealed with published working keys, not with derived ones.
#[test]
fn frames_under_published_working_keys_open_in_every_mode() {
    let records = records(AES_VECTORS);
    let working_key = |ik: &str, ksn: &str, usage: &str, key_type: &str| {
        let record = records.iter().find(|record| {
            record["kind"] == "aes_dukpt_working_key"
                && record["initial_key"] == ik
                && record["ksn"] == ksn
                && record["usage"] == usage
                && record["key_type"] == key_type
        })?;
        Some(KeyBytes::copied(&hex::decode(text(record, "working_key")).unwrap()).unwrap())
    };
    let mut opened = 0;
    for subject in subject::all().iter().filter(|subject| subject.spec.scheme == Scheme::Aes) {
        let mut hsm = subject.session();
        let bdk = test_key(&subject.spec);
        for record in &records {
            let is_data_key =
                record["usage"] == "data_encrypt" && record["key_type"].as_str().is_some_and(|t| t.starts_with("AES"));
            if record["kind"] != "aes_dukpt_working_key" || !is_data_key {
                continue;
            }
            let ksn = AesKsn::parse(&hex::decode(text(record, "ksn")).unwrap()).unwrap();
            let ik = aes::initial_key(&bdk, ksn.ik_id());
            if hex::encode_upper(ik.expose()) != text(record, "initial_key") {
                continue;
            }
            let [ik, ksn_text, key_type] = ["initial_key", "ksn", "key_type"].map(|field| text(record, field));
            let data_key = working_key(ik, ksn_text, "data_encrypt", key_type).unwrap();
            let mac_key = working_key(ik, ksn_text, "mac_generation", key_type).unwrap();
            let frame = SealedFrame::parse(&seal_with(&ksn, &data_key, &mac_key, BODY)).unwrap();
            let result = hsm.open(&subject.spec.id, &frame);
            let Ok(card) = result else { panic!("{} {}: {:?}", subject.name, text(record, "id"), result.err()) };
            assert_eq!(card.account_data.pan().expose(), PAN.as_bytes());
            opened += 1;
        }
    }
    // 8 published counters under the 128-bit key, 2 under the 192-bit one, 10 under the 256-bit one, in two backends
    // and three modes.
    assert_eq!(opened, (8 + 2 + 10) * 2 * 3);
}

/// Real readers' outputs under the public test key of X9.24-1.
#[test]
fn published_device_outputs_open() {
    let expected = [
        ("dev-idtech-orig-ms246", Format::IdTechBinary, "4266841088889999"),
        ("dev-idtech-enh-augusta", Format::IdTechBinary, "5413330089604111"),
        ("dev-magtek-kb-hogan", Format::MagTekKeyboard, "5452300551227189"),
    ];
    let records = records(DEVICE_VECTORS);
    for subject in subject::all().iter().filter(|subject| subject.spec.scheme == Scheme::Tdes) {
        let mut hsm = subject.session();
        for (id, format, pan) in expected {
            let record = records.iter().find(|record| record["id"] == id).unwrap();
            let bytes = match record["raw_hex"].as_str() {
                Some(raw) => hex::decode(raw).unwrap(),
                None => text(record, "raw_text").as_bytes().to_vec(),
            };
            let frame = reader::parse(&Profile { format, key: None }, &bytes).unwrap();
            let opened = hsm.open(&subject.spec.id, &frame).unwrap();
            assert_eq!(opened.account_data.pan().expose(), pan.as_bytes(), "{} {id}", subject.name);
        }
    }
}

#[test]
fn a_longer_key_opens_frames_of_shorter_working_keys() {
    for subject in subject::all().iter().filter(|subject| subject.spec.scheme == Scheme::Aes) {
        let mut hsm = subject.session();
        let device = subject.device(2);
        for len in [KeyLen::K128, KeyLen::K192, KeyLen::K256] {
            if len.bytes() <= subject.spec.len.bytes() {
                let frame = SealedFrame::parse(&device.seal_as(9, len, BODY)).unwrap();
                assert!(hsm.open(&subject.spec.id, &frame).is_ok(), "{} {len:?}", subject.name);
            }
        }
    }
}

#[test]
fn a_frame_of_another_scheme_or_of_stronger_keys_is_refused_before_any_key_is_derived() {
    let subjects = subject::all();
    for subject in &subjects {
        let mut hsm = subject.session();
        for other in &subjects {
            let stronger = other.spec.len.bytes() > subject.spec.len.bytes();
            if other.backend == subject.backend && (other.spec.scheme != subject.spec.scheme || stronger) {
                hsm.take_calls();
                let refused = hsm.open(&subject.spec.id, &other.device(1).frame(5));
                assert!(matches!(refused, Err(HsmError::SuiteMismatch(_))), "{} given {}", subject.name, other.name);
                assert_eq!(hsm.take_calls().total(), 0);
            }
        }
        assert!(hsm.open(&subject.spec.id, &subject.device(1).frame(6)).is_ok());
    }
}

#[test]
fn a_key_the_session_was_not_given_is_unknown() {
    for subject in subject::all() {
        let mut hsm = subject.session();
        let other = BdkId::parse("no-such-key").unwrap();
        let refused = hsm.open(&other, &subject.device(1).frame(1));
        assert!(matches!(refused, Err(HsmError::UnknownBdk(id)) if id == other));
    }
}
