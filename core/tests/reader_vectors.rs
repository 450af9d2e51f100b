//! Published device outputs, opened end to end where their key is public, and refused where they must be.
#![allow(clippy::unwrap_used, reason = "a vector that cannot be read must fail the run")]

mod bench;
mod support;

use serde_json::{Value, json};
use warifu_core::cipher::tdes_cbc_decrypt;
use warifu_core::device::{Format, Profile};
use warifu_core::frame::{Entry, FrameError, FrameKey, SectionKind};
use warifu_core::key::TdesKey;
use warifu_core::ksn::TdesKsn;
use warifu_core::reader::{self, Extent};
use warifu_core::tlv::{self, Objects, Tag, marked};
use warifu_core::track::Track1;

use bench::{Output, open, output, sections, tdes_key};
use support::{bytes, number, run, text};

#[test]
fn every_published_device_output_is_read_as_it_should_be() {
    let kinds = [
        ("device_output", 10),
        ("device_vivotech2", 1),
        ("device_output_clear", 1),
        ("device_output_bad", 3),
        ("device_emv_container", 2),
        ("device_tlv", 1),
        ("device_fields", 1),
    ];
    run("device_output", &kinds, |kind, record| match kind {
        "device_output" | "device_vivotech2" => reads(record),
        "device_output_clear" => refuses(record, FrameError::Clear),
        "device_output_bad" => refuses(record, FrameError::Check),
        "device_emv_container" => container(record),
        "device_tlv" => marks(record),
        "device_fields" => fields_of_another_vendor(record),
        other => panic!("unknown kind {other}"),
    });
}

/// Parses an output, checks it against the layout its record gives, and opens it if its key is public.
fn reads(record: &Value) {
    let Output { format, bytes } = output(record);
    let profile = Profile { format, key: None };
    let parsed = reader::parse_with_hints(&profile, &bytes).unwrap();
    let frame = &parsed.frame;
    assert_eq!(hex::encode_upper(frame.ksn().bytes()), text(&record["key"], "ksn"));
    assert!(frame.mac().is_none());
    check_layout(record, &parsed);
    assert_eq!(reader::detect(&bytes), Some(format));
    assert_eq!(reader::extent(format, &bytes), whole(format, &bytes));
    if record["plaintext"].is_null() {
        return;
    }
    let Some(bdk) = record["key"]["bdk"].as_str() else { panic!("plaintext without a key") };
    let (FrameKey::Tdes(variant) | FrameKey::TdesAsAes(variant)) = frame.key() else { panic!("an AES DUKPT frame") };
    assert_eq!(name(variant), text(&record["key"], "working_key_variant"));
    let card = open(frame, bdk).unwrap();
    let [track1, track2, track3] = card.tracks_as_read().map(|track| track.map(string));
    for (field, clear) in record["plaintext"].as_object().unwrap() {
        match field.as_str() {
            "track1" => assert_eq!(track1.as_deref(), clear.as_str()),
            "track2" => assert_eq!(track2.as_deref(), clear.as_str()),
            "track3" => assert_eq!(track3.as_deref(), clear.as_str()),
            "pan_exp_cvv" => {
                let expiry = card.expiry().map(|expiry| string(&expiry.expose())).unwrap_or_default();
                let code = card.security_code().map(|code| string(code.expose())).unwrap_or_default();
                let keyed = format!("{}={expiry}={code}", string(card.pan().expose()));
                assert_eq!(Some(keyed.as_str()), clear.as_str());
            }
            // In clear it is no account data: only who asks for it sees it.
            "track3_clear" => {
                assert_eq!(track3, None);
                let sent = reader::clear_track3(format, &bytes).unwrap();
                assert_eq!(Some(string(sent.expose()).as_str()), clear.as_str());
            }
            // The MagnePrint is no account data and is dropped by the parser.
            "magneprint" | "session_id" => {}
            other => panic!("unknown field {other}"),
        }
    }
    if let Some(track) = &track1 {
        let parsed = Track1::parse(track.as_bytes()).unwrap();
        assert_eq!(card.cardholder_name(), Some(parsed.name));
        assert_eq!(card.service_code().as_ref(), parsed.service_code);
        assert!(card.track1().unwrap().ends_with(b"?"));
    }
    let shown = reader::masked(frame);
    assert!(shown.is_none_or(|mask| mask.agrees_with(card.pan())));
    assert_eq!(shown.is_some(), frame.entry() == Entry::Swiped);
}

/// Ciphertexts, serial number and lengths against the record's layout, field by field.
fn check_layout(record: &Value, parsed: &reader::Parsed) {
    let layout = if record["inner_layout"].is_array() { &record["inner_layout"] } else { &record["layout"] };
    let value = |name: &str| {
        let field = layout.as_array().unwrap().iter().find(|field| field["name"] == name)?;
        field["value"].as_str().filter(|value| !value.is_empty())
    };
    let frame = &parsed.frame;
    let kind = |kind: SectionKind| match kind {
        SectionKind::Track1 => "track1_encrypted",
        SectionKind::Track2 => "track2_encrypted",
        SectionKind::Track3 => "track3_encrypted",
        SectionKind::JoinedTracks { .. } => "track1_and_2_encrypted",
        SectionKind::Keyed => "encrypted_pan_exp_cvv",
        SectionKind::Native => panic!("a native section"),
    };
    let encrypted =
        ["track1_encrypted", "track2_encrypted", "track3_encrypted", "track1_and_2_encrypted", "encrypted_pan_exp_cvv"];
    let expected: Vec<_> = encrypted.iter().filter_map(|name| value(name).map(|value| (*name, value))).collect();
    let found: Vec<_> = frame
        .sections()
        .iter()
        .map(|section| (kind(section.kind), hex::encode_upper(frame.ciphertext(section))))
        .collect();
    assert_eq!(found.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>(), expected);
    let announced = |name: &str| value(name).map(|hex| usize::from_str_radix(hex, 16).unwrap());
    for section in frame.sections() {
        let lengths = match section.kind {
            SectionKind::Track1 => announced("track1_length"),
            SectionKind::Track2 => announced("track2_length"),
            SectionKind::Keyed => announced("clear_length"),
            SectionKind::JoinedTracks { .. } => {
                announced("track1_length").zip(announced("track2_length")).map(|(a, b)| a + b)
            }
            SectionKind::Track3 | SectionKind::Native => None,
        };
        assert!(lengths.is_none_or(|length| length == section.clear_len));
    }
    let serial = value("device_serial").map(|serial| match hex::decode(serial) {
        Ok(bytes) if parsed.hints.layout == reader::Layout::IdTechEnhanced => string(&bytes),
        _ => serial.to_owned(),
    });
    assert_eq!(parsed.hints.serial, serial);
}

/// An output that must not pass, and does not pass for another reason.
fn refuses(record: &Value, reason: FrameError) {
    let Output { format, bytes } = output(record);
    assert_eq!(reader::parse(&Profile { format, key: None }, &bytes), Err(reason));
    assert_eq!(reader::detect(&bytes), Some(format));
}

fn whole(format: Format, bytes: &[u8]) -> Extent {
    match format {
        // A bar-separated line has no length of its own: its end has not come yet.
        Format::MagTekKeyboard => Extent::NeedMore,
        _ => Extent::Frame { start: 0, end: bytes.len() },
    }
}

/// One ciphertext in a BER-TLV container, of MagTek's PIN pads and of another vendor. No format of this build, but
/// every part it needs is here.
fn container(record: &Value) {
    let coded = bytes(record, "raw_hex");
    assert_eq!(tree(tlv::objects(&coded).unwrap()), record["tree"]);
    let tag = |name: &str| Tag::new(u32::from_str_radix(text(&record["tags"], name), 16).unwrap());
    let ksn = TdesKsn::parse(tlv::find(&coded, tag("ksn")).unwrap().unwrap()).unwrap();
    assert_eq!(hex::encode_upper(ksn.bytes()), text(&record["key"], "ksn"));
    let mut clear = tlv::find(&coded, tag("ciphertext")).unwrap().unwrap().to_vec();
    let key = tdes_key(text(&record["key"], "bdk"), &ksn, TdesKey::DataRequest);
    let iv: [u8; 8] = bytes(&record["key"], "iv").try_into().unwrap();
    tdes_cbc_decrypt(&key, &iv, &mut clear).unwrap();
    let fill = match record["tags"]["padding_count"].is_null() {
        true => clear.iter().rev().take_while(|byte| **byte == 0).count(),
        false => usize::from(tlv::find(&coded, tag("padding_count")).unwrap().unwrap()[0]),
    };
    clear.truncate(clear.len() - fill);
    assert_eq!(clear, bytes(record, "plaintext_hex"));
    assert_eq!(tree(tlv::objects(&clear).unwrap()), record["plaintext_tree"]);
}

/// ID TECH's marked TLV: cut into its objects; its templates hold masked and encrypted ones.
fn marks(record: &Value) {
    let coded = bytes(record, "raw_hex");
    assert!(tlv::walk(&coded, &mut |_| ()).is_err(), "a plain reader cannot read the marks");
    let found: Vec<Value> = marked::objects(&coded)
        .unwrap()
        .into_iter()
        .map(|object| {
            assert_eq!(object.mark, marked::Mark::Plain);
            json!({"tag": object.tag.to_string(), "value": hex::encode_upper(object.value), "flag": null})
        })
        .collect();
    assert_eq!(Value::Array(found), record["elements"]);
    let template =
        marked::objects(&coded).unwrap().into_iter().find(|object| object.tag == Tag::new(0x00FF_8105)).unwrap();
    let marks: Vec<_> =
        marked::objects(template.value).unwrap().iter().map(|object| (object.tag.number(), object.mark)).collect();
    assert!(marks.contains(&(0x56, marked::Mark::Masked)) && marks.contains(&(0x56, marked::Mark::Encrypted)));
}

/// Fields already split by another vendor's software: no format of this build, but its track is a track.
fn fields_of_another_vendor(record: &Value) {
    assert_eq!(text(record, "vendor"), "BBPOS");
    let ksn = TdesKsn::parse(&bytes(&record["fields"], "ksn")).unwrap();
    let mut clear = bytes(&record["fields"], "track1_encrypted");
    let key = tdes_key(text(&record["key"], "bdk"), &ksn, TdesKey::DataRequest);
    tdes_cbc_decrypt(&key, &[0; 8], &mut clear).unwrap();
    clear.truncate(usize::try_from(number_of(&record["fields"]["track1_length"])).unwrap());
    assert_eq!(string(&clear), text(&record["plaintext"], "track1"));
    assert!(Track1::parse(&clear).is_ok());
}

fn number_of(text: &Value) -> u64 {
    text.as_str().and_then(|digits| digits.parse().ok()).unwrap_or_else(|| number(text, "number"))
}

fn tree(level: Objects<'_>) -> Value {
    let node = |object: Result<tlv::Tlv<'_>, _>| {
        let object = object.unwrap();
        match object.tag.is_template() {
            true => json!([object.tag.to_string(), tree(object.objects())]),
            false => json!([object.tag.to_string(), hex::encode_upper(object.value)]),
        }
    };
    level.map(node).collect()
}

fn name(key: TdesKey) -> &'static str {
    match key {
        TdesKey::Pin => "pin",
        TdesKey::DataRequest => "data_request",
        other => panic!("{other:?} is no key of these readers"),
    }
}

fn string(text: &[u8]) -> String {
    String::from_utf8(text.to_vec()).unwrap()
}

#[test]
fn a_frame_opened_under_another_key_is_noise() {
    let mut opened = 0;
    for record in support::records("device_output", 19) {
        if !matches!(text(&record, "kind"), "device_output" | "device_vivotech2") || record["plaintext"].is_null() {
            continue;
        }
        let Output { format, bytes } = output(&record);
        for wrong in [TdesKey::DataRequestVariant, TdesKey::MacRequest] {
            let frame = reader::parse(&Profile { format, key: Some(wrong) }, &bytes).unwrap();
            let error = open(&frame, text(&record["key"], "bdk")).err();
            assert_eq!(error, Some(warifu_core::account_data::AccountDataError::Noise), "{}", record["id"]);
        }
        opened += 1;
    }
    assert_eq!(opened, 7);
}

#[test]
fn sections_of_another_frame_are_refused() {
    for record in support::records("device_output", 19) {
        if record["plaintext"].is_null() || text(&record, "kind") != "device_output" {
            continue;
        }
        let Output { format, bytes } = output(&record);
        let frame = reader::parse(&Profile { format, key: None }, &bytes).unwrap();
        let mut clear = sections(&frame, text(&record["key"], "bdk"));
        clear.pop();
        let error = warifu_core::account_data::AccountData::open(&frame, &clear).err();
        assert_eq!(error, Some(warifu_core::account_data::AccountDataError::Sections));
    }
}
