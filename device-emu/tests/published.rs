//! The readers whose outputs were published, again: the same card, device and counter give the same bytes.
#![allow(clippy::unwrap_used, reason = "a vector that cannot be read must fail the run")]

mod support;

use serde_json::Value;
use support::{bytes, key, record, text};
use warifu_core::ksn::TdesKsn;
use warifu_device_emu::card::Card;
use warifu_device_emu::dukpt::tdes::{self, Transaction};
use warifu_device_emu::format::idtech::{self, Address, ChipNotice, ExpiryMask, Form};
use warifu_device_emu::format::{FormatError, magtek};
use warifu_device_emu::reader::Stripe;

/// What the device of a record makes at the counter of the record.
fn made(record: &Value, make: impl FnOnce(&Transaction<'_>) -> Result<Vec<u8>, FormatError>) -> Vec<u8> {
    let published = &record["key"];
    let ksn = TdesKsn::parse(&bytes(published, "ksn")).unwrap();
    let initial = tdes::initial_key(&key(published, "bdk"), &ksn).unwrap();
    let mut device = tdes::Originator::load(&initial, &ksn).unwrap();
    device.skip_to(ksn.raw_counter()).unwrap();
    device.transact(make).unwrap().unwrap()
}

/// The stripe of a record, whose tracks end in check characters if the vendor encrypts those too.
fn stripe(record: &Value, check_characters: usize) -> Stripe {
    let track = |name: &str| {
        let track = record["plaintext"][name].as_str().unwrap_or_default();
        track[..track.len().saturating_sub(check_characters)].to_owned()
    };
    let third = if check_characters == 0 { track("track3") } else { track("track3_clear") };
    Stripe::read(track("track1").as_bytes(), track("track2").as_bytes(), third.as_bytes())
}

fn settings(serial: &[u8], expiry: ExpiryMask) -> idtech::Settings {
    idtech::Settings { serial: serial.try_into().unwrap(), form: Form::Binary, expiry, chip: ChipNotice::Given }
}

/// A field of the published layout.
fn field<'a>(layout: &'a Value, name: &str) -> &'a Value {
    layout.as_array().unwrap().iter().find(|field| field["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn an_augusta_writes_the_enhanced_layout() {
    let record = record("device_output", "dev-idtech-enh-augusta");
    let settings = settings(b"716T494010", ExpiryMask::Masked);
    let frame = made(&record, |transaction| idtech::enhanced(transaction, &stripe(&record, 1), &settings));
    assert_eq!(hex::encode_upper(frame), text(&record, "raw_hex"));
}

#[test]
fn an_older_reader_at_a_counter_of_ten_one_bits_writes_the_same_layout() {
    let record = record("device_output", "dev-idtech-enh-derived");
    let serial = bytes(field(&record["layout"], "device_serial"), "value");
    let settings = idtech::Settings { chip: ChipNotice::Reserved, ..settings(&serial, ExpiryMask::Masked) };
    let frame = made(&record, |transaction| idtech::enhanced(transaction, &stripe(&record, 1), &settings));
    assert_eq!(hex::encode_upper(frame), text(&record, "raw_hex"));
}

#[test]
fn a_vp3350_set_to_show_the_expiry_writes_the_same_layout() {
    let record = record("device_output", "dev-idtech-vp3350");
    let inner = record["tlvs"].as_array().unwrap().iter().find(|tlv| tlv[0] == "DFEE23").unwrap();
    let serial = hex::decode(text(field(&record["inner_layout"], "device_serial"), "value")).unwrap();
    let settings = settings(&serial, ExpiryMask::Clear);
    let frame = made(&record, |transaction| idtech::enhanced(transaction, &stripe(&record, 1), &settings));
    assert_eq!(hex::encode_upper(frame), inner[1]);
}

/// That reader sends hashes of the clear tracks; this one does not, as SRED readers do not.
#[test]
fn an_ms246_writes_the_original_layout_but_for_the_hashes() {
    let record = record("device_output", "dev-idtech-orig-ms246");
    let settings = settings(b"0000000000", ExpiryMask::Masked);
    let frame = made(&record, |transaction| idtech::original(transaction, &stripe(&record, 1), &settings));
    let mut published = bytes(&record, "raw_hex");
    for name in ["track1_hash_sha1", "track2_hash_sha1"] {
        let offset = usize::try_from(field(&record["layout"], name)["offset"].as_u64().unwrap()).unwrap();
        published[offset..offset + 20].fill(0);
    }
    let (body, end) = published.split_at_mut(384);
    end[0] = body[3..].iter().fold(0, |check, byte| check ^ byte);
    end[1] = body[3..].iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
    assert_eq!(hex::encode(frame), hex::encode(published));
}

#[test]
fn a_keypad_writes_type_85() {
    let record = record("device_output", "dev-idtech-manual85-derived");
    let card = Card::new(b"4111111111111111", b"2512").and_then(|card| card.with_code(b"123"));
    let card = card.unwrap_or_else(|error| panic!("{error}"));
    let address = Address { street: Some(b"221"), postal_code: Some(b"90210") };
    let settings = settings(b"0000000000", ExpiryMask::Masked);
    let frame = made(&record, |transaction| idtech::keyed(transaction, &card, address, &settings));
    assert_eq!(hex::encode_upper(frame), text(&record, "raw_hex"));
}

/// Length and check bytes of keyboard text count characters: six published outputs, keys unknown, show how.
#[test]
fn keyboard_text_has_the_framing_of_the_published_ones() {
    let record = record("device_output", "dev-idtech-manual85-derived");
    let card = || Card::new(b"4111111111111111", b"2512").unwrap_or_else(|error| panic!("{error}"));
    let settings = idtech::Settings { form: Form::Keyboard, ..settings(b"0000000000", ExpiryMask::Masked) };
    let frame = made(&record, |transaction| idtech::keyed(transaction, &card(), Address::default(), &settings));
    let published = support::record("device_output", "dev-idtech-manual85-moneris-93");
    let published = text(&published, "raw_text").as_bytes().to_vec();
    assert_eq!(frame.len(), published.len());
    assert_eq!(frame[..18], published[..18], "start, length, type, fields");
    assert_eq!(frame.last(), published.last());
    for text in [&frame, &published] {
        let end = text.len() - 6;
        let exclusive = text[6..end].iter().fold(0, |check, byte| check ^ byte);
        let sum = text[6..end].iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
        assert_eq!(String::from_utf8_lossy(&text[end..]), format!("{exclusive:02X}{sum:02X}03"));
    }
}

fn magtek_settings<'a>(print: &str, serial: &'a [u8]) -> magtek::Settings<'a> {
    magtek::Settings {
        serial,
        session: [0; 8],
        print_status: [0xA1, 0x05, 0x00, 0x00],
        print: hex::decode(print).unwrap().try_into().unwrap(),
    }
}

#[test]
fn a_magnesafe_writes_the_keyboard_line() {
    for (id, serial) in [("dev-magtek-kb-hogan", b"".as_slice()), ("dev-magtek-kb-derived", b"B0C2472071812AA")] {
        let record = record("device_output", id);
        let settings = magtek_settings(text(&record["plaintext"], "magneprint"), serial);
        let line = made(&record, |transaction| magtek::keyboard(transaction, &stripe(&record, 0), &settings));
        assert_eq!(String::from_utf8(line).unwrap(), format!("{}\r", expected_line(&record)));
    }
}

/// The published line, its check made anew over a masked track 3 whose number passes Luhn as those of tracks 1 and 2
/// do: that of the one published track 3 does not, by a rule nobody has written down.
fn expected_line(record: &Value) -> String {
    let line = text(record, "raw_text").replace("+5163000050000445", "+5163000070000445");
    let mut fields: Vec<&str> = line.split('|').collect();
    let covered = fields[..10].join("|") + "|";
    let check = covered.bytes().fold(0xFFFF_u16, |check, byte| {
        (0..8).rev().fold(check, |check, bit| {
            let carry = (check >> 15) ^ u16::from(byte >> bit & 1);
            (check << 1) ^ if carry == 1 { 0x1021 } else { 0 }
        })
    });
    let check = hex::encode_upper(check.to_le_bytes());
    if line == text(record, "raw_text") {
        assert_eq!(fields[10], check, "the published check");
    }
    fields[10] = &check;
    fields.join("|")
}

/// No whole report was published; its fields are those of the line, at the offsets of the manual.
#[test]
fn a_magnesafe_writes_the_same_fields_to_its_report() {
    let record = record("device_output", "dev-magtek-kb-hogan");
    let settings = magtek_settings(text(&record["plaintext"], "magneprint"), b"B0123456789ABCD");
    let report = made(&record, |transaction| magtek::report(transaction, &stripe(&record, 0), &settings));
    let line = expected_line(&record);
    let line: Vec<&str> = line.split('|').collect();
    let at = |offset: usize, len: usize| hex::encode_upper(&report[offset..offset + len]);
    assert_eq!(report.len(), 856);
    assert_eq!(report[..7], [0, 0, 0, 64, 40, 32, 0], "statuses, encrypted lengths, card type");
    assert_eq!(at(7, 64), line[2]);
    assert_eq!(at(119, 40), line[3]);
    assert_eq!(at(344, 4), line[5]);
    assert_eq!(report[348], 56);
    assert_eq!(at(349, 56), line[6]);
    assert_eq!(&report[477..493], b"B0123456789ABCD\0");
    assert_eq!(report[493..495], [0x00, 0x06], "high byte first here");
    assert_eq!(at(495, 10), line[9]);
    assert_eq!(report[505..508], [60, 37, 31], "masked lengths");
    assert_eq!(&report[508..568], &line[0].as_bytes()[..60]);
    assert_eq!(&report[620..657], &line[0].as_bytes()[60..97]);
    assert_eq!(&report[732..763], line[0].replace('+', ";").as_bytes()[97..].to_vec());
    assert_eq!(at(844, 8), line[8]);
    assert_eq!(report[852..], [60, 37, 31, 54], "clear lengths");
    for gap in [71..119, 159..231, 263..344, 405..477, 568..620, 657..732, 763..844] {
        assert!(report[gap.clone()].iter().all(|byte| *byte == 0), "{gap:?}");
    }
}
