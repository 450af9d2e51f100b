//! Published card numbers, tracks and EMV data against the parsers.
#![allow(clippy::unwrap_used, reason = "a vector that cannot be read must fail the run")]

mod support;

use serde_json::{Value, json};
use warifu_core::account_data::{AccountData, pad_7816};
use warifu_core::card::{self, Pan};
use warifu_core::frame::{Entry, SealedFrame, native_header};
use warifu_core::ksn::{Ksn, TdesKsn};
use warifu_core::secret::SecretBytes;
use warifu_core::tlv::{self, Objects};
use warifu_core::track::{Number, Track1, Track2, Track3};

use support::{bytes, number, run, text};

#[test]
fn card_numbers_pass_or_fail_luhn_as_published() {
    run("luhn", &[("luhn", 14)], |kind, record| {
        assert_eq!(kind, "luhn");
        let digits = text(record, "number").as_bytes();
        let valid = record["valid"].as_bool().unwrap();
        assert_eq!(card::luhn(digits), valid);
        if let Ok(pan) = Pan::parse(digits) {
            assert_eq!(pan.passes_luhn(), valid);
        }
    });
}

#[test]
fn tracks_parse_to_their_published_fields() {
    run("track", &[("track", 8)], |kind, record| {
        assert_eq!(kind, "track");
        let raw = text(record, "raw").as_bytes();
        let (which, fields) = match number(record, "track") {
            1 => (Number::One, track1(raw)),
            2 => (Number::Two, track2(raw)),
            3 => (Number::Three, track3(raw)),
            other => panic!("track {other}"),
        };
        for (name, value) in fields.as_object().unwrap() {
            assert_eq!(value, &record[name], "{name}");
        }
        if record["sentinels"] == true {
            let framed = which.frame(raw).unwrap();
            let lrc = framed.lrc.map(|lrc| char::from(lrc).to_string());
            assert_eq!(lrc.as_deref(), record["lrc_char"].as_str());
            let mut changed = framed.track.to_vec();
            changed.push(which.lrc(framed.track) ^ 1);
            assert!(which.frame(&changed).is_err(), "a wrong LRC character passed");
        }
    });
}

fn track1(raw: &[u8]) -> Value {
    let track = Track1::parse(raw).unwrap();
    json!({
        "pan": string(track.pan),
        "name": string(track.name),
        "expiry": track.expiry.map(|expiry| string(expiry)),
        "service_code": track.service_code.map(|code| string(code)),
        "discretionary": string(track.discretionary),
    })
}

fn track2(raw: &[u8]) -> Value {
    let track = Track2::parse(raw).unwrap();
    json!({
        "pan": string(track.pan),
        "expiry": track.expiry.map(|expiry| string(expiry)),
        "service_code": track.service_code.map(|code| string(code)),
        "discretionary": string(track.discretionary),
    })
}

fn track3(raw: &[u8]) -> Value {
    let track = Track3::parse(raw).unwrap();
    json!({
        "format_code": string(track.format_code),
        "pan": string(track.pan),
        "discretionary": string(track.discretionary),
    })
}

#[test]
fn emv_data_parses_to_its_published_tree() {
    run("emv_tlv", &[("emv_tlv", 36), ("emv_tlv_bad", 1)], |kind, record| {
        let coded = bytes(record, "tlv");
        match kind {
            "emv_tlv" => {
                assert_eq!(tree(tlv::objects(&coded).unwrap()), record["tree"]);
                for cut in 1..coded.len() {
                    // Every proper prefix ends inside an object, or loses some: never the same tree.
                    let prefix = tlv::walk(&coded[..cut], &mut |_| ());
                    assert!(prefix.is_err() || tree(tlv::objects(&coded[..cut]).unwrap()) != record["tree"]);
                }
            }
            "emv_tlv_bad" => assert!(tlv::walk(&coded, &mut |_| ()).is_err()),
            other => panic!("unknown kind {other}"),
        }
    });
}

#[test]
fn chip_data_of_the_published_cards_opens_to_their_numbers() {
    let mut cards = 0;
    for record in support::records("emv_tlv", 37) {
        let coded = bytes(&record, "tlv");
        let Ok(Some(packed)) = tlv::find(&coded, tlv::Tag::new(0x5A)) else { continue };
        let card = dipped(&coded).unwrap();
        let expected = hex::encode_upper(packed);
        assert_eq!(string(card.pan().expose()), expected.trim_end_matches('F'), "{}", record["id"]);
        assert_eq!(card.chip(), Some(&coded[..]));
        if let Ok(Some(date)) = tlv::find(&coded, tlv::Tag::new(0x5F24)) {
            assert_eq!(card.expiry().map(|expiry| string(&expiry.expose())), Some(hex::encode(&date[..2])));
        }
        cards += 1;
    }
    assert_eq!(cards, 6);
}

/// Opens chip data as a dipped native frame does, without the cipher around it.
fn dipped(body: &[u8]) -> Option<AccountData> {
    let clear = pad_7816(body, 8);
    let ksn = Ksn::Tdes(TdesKsn::new([0xFF; 10]));
    let mut frame = native_header(None, Entry::Dipped, &ksn, u16::try_from(clear.len()).unwrap());
    frame.extend(clear.expose());
    frame.extend([0; 8]);
    AccountData::open(&SealedFrame::parse(&frame).unwrap(), &[SecretBytes::copied(clear.expose())]).ok()
}

/// The tree of a level, as the records write it.
fn tree(level: Objects<'_>) -> Value {
    let node = |object: Result<tlv::Tlv<'_>, _>| {
        let object = object.unwrap();
        let tag = object.tag.to_string();
        match object.tag.is_template() {
            true => json!([tag, tree(object.objects())]),
            false => json!([tag, hex::encode_upper(object.value)]),
        }
    };
    level.map(node).collect()
}

fn string(text: &[u8]) -> String {
    String::from_utf8(text.to_vec()).unwrap()
}
