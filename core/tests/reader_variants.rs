//! Device outputs the public samples do not show: the documented options of each layout, built here, opened end
//! to end, and what must be refused among them.
#![allow(clippy::unwrap_used, reason = "a broken builder must fail the run")]

mod bench;
mod support;

use warifu_core::account_data::{AccountData, AccountDataError};
use warifu_core::device::{Format, Profile};
use warifu_core::frame::{Entry, FrameError, FrameKey};
use warifu_core::key::TdesKey;
use warifu_core::reader;
use warifu_core::secret::SecretBytes;
use warifu_core::track::Number;

use bench::build::{
    Enhanced, Part, ReportTrack, TRACK1, TRACK2, TRACK3, Writing, characters, good_report, idtech, magtek_line,
    magtek_report, mask, raw, seal, vivotech, with_lrc,
};
use bench::{TEST_BDK, open, output};

const DATA_KEY: FrameKey = FrameKey::Tdes(TdesKey::DataRequest);
const PIN_KEY: FrameKey = FrameKey::Tdes(TdesKey::Pin);

fn profile(format: Format) -> Profile {
    Profile { format, key: None }
}

fn format(writing: Writing) -> Format {
    match writing {
        Writing::Binary => Format::IdTechBinary,
        Writing::UpperHex | Writing::LowerHex => Format::IdTechKeyboard,
    }
}

fn read(format: Format, bytes: &[u8]) -> AccountData {
    let parsed = reader::parse_with_hints(&profile(format), bytes).unwrap();
    assert_eq!(reader::detect(bytes), Some(format));
    match open(&parsed.frame, TEST_BDK) {
        Ok(card) => card,
        Err(error) => panic!("{error}"),
    }
}

fn refusal(format: Format, bytes: &[u8]) -> Option<FrameError> {
    reader::parse(&profile(format), bytes).err()
}

fn is_the_swiped_card(card: &AccountData) {
    assert_eq!(card.entry(), Entry::Swiped);
    assert_eq!(card.pan().expose(), b"4111111111111111");
    assert_eq!(card.expiry().map(|expiry| expiry.expose()), Some(*b"2512"));
    assert_eq!(card.service_code(), Some(*b"101"));
    assert_eq!(card.track1(), Some(TRACK1));
    assert_eq!(card.track2(), Some(TRACK2));
    assert_eq!(card.cardholder_name(), Some(&b"DERIVED/TEST"[..]));
}

#[test]
fn the_text_form_of_every_binary_sample_is_the_same_frame() {
    let mut samples = 0;
    for record in support::records("device_output", 19) {
        if record["kind"] != "device_output" || record["raw_hex"].is_null() {
            continue;
        }
        let binary = output(&record);
        let frame = reader::parse(&profile(Format::IdTechBinary), &binary.bytes).unwrap();
        let layout = record["layout"].as_array().unwrap();
        let inner = &layout[2..layout.len() - 3];
        let parts: Vec<Part> = inner
            .iter()
            .map(|field| {
                let value = hex::decode(field["value"].as_str().unwrap()).unwrap();
                let masked = field["name"].as_str().unwrap().ends_with("_clear_or_masked");
                if masked { Part::Characters(value) } else { Part::Bytes(value) }
            })
            .collect();
        assert_eq!(idtech(Writing::Binary, &parts), binary.bytes, "the builder is wrong");
        for writing in [Writing::UpperHex, Writing::LowerHex] {
            let text = idtech(writing, &parts);
            assert_eq!(reader::parse(&profile(Format::IdTechKeyboard), &text), Ok(frame.clone()), "{}", record["id"]);
            assert_eq!(reader::detect(&text), Some(Format::IdTechKeyboard));
            // Hex digits that stand for the binary frame are no text frame, and are not taken for one.
            assert_eq!(reader::detect(hex::encode(&binary.bytes).as_bytes()), None);
            for ended in [[&text[..], b"\r"].concat(), [b"\n", &text[..], b"\r\n"].concat()] {
                assert_eq!(reader::parse(&profile(Format::IdTechKeyboard), &ended), Ok(frame.clone()));
            }
        }
        samples += 1;
    }
    assert_eq!(samples, 4);
}

#[test]
fn the_enhanced_layout_opens_with_every_option() {
    let plain = Enhanced::default;
    let aes = FrameKey::TdesAsAes(TdesKey::DataRequest);
    let track3 = Some(with_lrc(Number::Three, TRACK3));
    let [track1, track2, _] = plain().tracks;
    let mac = [&[8][..], &[0x11; 8], &[0x22; 10]].concat();
    let variants = [
        plain(),
        Enhanced { key: PIN_KEY, field8: 0xC0, ..plain() },
        Enhanced { key: aes, field8: 0x90, ..plain() },
        Enhanced { key: FrameKey::TdesAsAes(TdesKey::Pin), field8: 0xD0, ..plain() },
        Enhanced { session_id: true, ..plain() },
        Enhanced { field8: 0x00, ..plain() },
        Enhanced { field8: 0xA0, field9: 0x80, ..plain() },
        Enhanced { field9: 0xB8, status: 0x3F, tracks: [track1, track2, track3], ..plain() },
        Enhanced { options: Some(vec![]), ..plain() },
        Enhanced { options: Some(vec![0x01]), hash_len: 32, ..plain() },
        Enhanced { options: Some(vec![0x10, 0, 0]), ..plain() },
        Enhanced { options: Some(vec![0x20]), behind_ksn: mac, ..plain() },
        Enhanced { masks: [None, None, None], ..plain() },
    ];
    for (number, variant) in variants.iter().enumerate() {
        for writing in Writing::ALL {
            let bytes = variant.write(writing);
            let parsed = reader::parse_with_hints(&profile(format(writing)), &bytes).unwrap();
            assert_eq!(parsed.frame.key(), variant.key, "variant {number}");
            assert_eq!(parsed.hints.serial.as_deref(), (variant.field8 & 0x80 != 0).then_some("T134000064"));
            assert_eq!(reader::masked(&parsed.frame).is_some(), variant.masks[0].is_some());
            let card = read(format(writing), &bytes);
            is_the_swiped_card(&card);
            assert_eq!(card.track3(), variant.tracks[2].as_ref().map(|_| TRACK3));
        }
        let enveloped = vivotech(&variant.write(Writing::Binary));
        is_the_swiped_card(&read(Format::IdTechBinary, &enveloped));
    }
}

#[test]
fn a_track_3_that_is_none_is_noise() {
    let [track1, track2, _] = Enhanced::default().tracks;
    let garbage: [Vec<u8>; 4] = [
        with_lrc(Number::Three, b";\x01\x02\xff\x80abc?"),
        with_lrc(Number::Three, b"0011234567890123445=1?"),
        with_lrc(Number::Three, b";0112345678 0123445=1?"),
        b";011234567890123445=1".to_vec(),
    ];
    for track3 in garbage {
        let joined = all_joined(Writing::Binary, [TRACK1, TRACK2, &track3]);
        let tracks = [track1.clone(), track2.clone(), Some(track3)];
        let apart = Enhanced { tracks, ..Enhanced::default() }.write(Writing::Binary);
        for bytes in [apart, joined] {
            let frame = reader::parse(&profile(Format::IdTechBinary), &bytes).unwrap();
            assert_eq!(open(&frame, TEST_BDK).err(), Some(AccountDataError::Noise));
        }
    }
}

#[test]
fn a_device_set_to_another_key_uses_it_unless_the_frame_names_its_own() {
    let set = Profile { format: Format::IdTechBinary, key: Some(TdesKey::DataRequestVariant) };
    let variant = FrameKey::Tdes(TdesKey::DataRequestVariant);
    let frame = reader::parse(&set, &Enhanced { key: variant, ..Enhanced::default() }.write(Writing::Binary)).unwrap();
    assert!(open(&frame, TEST_BDK).is_ok());
    let named = Enhanced { key: PIN_KEY, field8: 0xC0, ..Enhanced::default() };
    let frame = reader::parse(&set, &named.write(Writing::Binary)).unwrap();
    assert!(open(&frame, TEST_BDK).is_ok());
}

#[test]
fn an_enhanced_frame_with_a_blank_track_opens_by_the_other() {
    let [track1, track2, _] = Enhanced::default().tracks;
    for (tracks, masks) in [
        ([track1, Some(vec![]), None], [Some(mask(TRACK1)), Some(vec![]), None]),
        ([None, track2, None], [None, Some(mask(TRACK2)), None]),
    ] {
        let bytes = Enhanced { tracks, masks, ..Enhanced::default() }.write(Writing::Binary);
        assert_eq!(read(Format::IdTechBinary, &bytes).pan().expose(), b"4111111111111111");
    }
}

/// Keyed entry in the enhanced layout: a track with number and date only, perhaps without LRC character.
fn keyed_enhanced(track: Vec<u8>) -> Enhanced {
    let mut mask = b";4111********1111=2512".to_vec();
    mask.resize(track.len(), b'*');
    Enhanced {
        encode_type: 0xC0,
        masks: [None, Some(mask), None],
        tracks: [None, Some(track), None],
        field9: 0x90,
        ..Enhanced::default()
    }
}

/// Keyed entry, type 85, with the fields its status names.
fn type85(writing: Writing, field8: u8, clear: &str, expiry: &str) -> Vec<u8> {
    let optional = |bit: u8, bytes: &[u8]| raw(if field8 & bit == 0 { vec![] } else { bytes.to_vec() });
    let parts = [
        raw([0x85, 0, 0, 0, 0, field8, u8::try_from(clear.len()).unwrap()]),
        raw(seal(DATA_KEY, clear.as_bytes())),
        optional(8, &[0x77; 8]),
        raw([0x48; 20]),
        optional(4, &[&[4], expiry.as_bytes()].concat()),
        optional(2, b"\x03123"),
        optional(1, b"\x0512345"),
        raw(bench::build::KSN),
    ];
    idtech(writing, &parts)
}

fn is_the_keyed_card(card: &AccountData, code: Option<&[u8]>) {
    assert_eq!(card.entry(), Entry::Keyed);
    assert_eq!(card.pan().expose(), b"4111111111111111");
    assert_eq!(card.expiry().map(|expiry| expiry.expose()), Some(*b"2512"));
    assert_eq!(card.security_code().map(|code| code.expose()), code);
    assert_eq!(card.track2(), None);
}

#[test]
fn a_keyed_card_opens_in_the_enhanced_layout() {
    for (track, code) in [
        (with_lrc(Number::Two, b";4111111111111111=2512?"), None),
        (b";4111111111111111=2512?".to_vec(), None),
        (with_lrc(Number::Two, b";4111111111111111=2512=123?"), Some(&b"123"[..])),
        (with_lrc(Number::Two, b";4111111111111111=2512:1234?"), Some(b"1234")),
    ] {
        for writing in Writing::ALL {
            is_the_keyed_card(&read(format(writing), &keyed_enhanced(track.clone()).write(writing)), code);
        }
    }
    // Address data in the place of track 3 is opened and dropped.
    let mut with_address = keyed_enhanced(with_lrc(Number::Two, b";4111111111111111=2512?"));
    with_address.masks[2] = Some(b"12345".to_vec());
    with_address.tracks[2] = Some(b"12345".to_vec());
    is_the_keyed_card(&read(Format::IdTechBinary, &with_address.write(Writing::Binary)), None);
}

#[test]
fn a_keyed_card_opens_in_its_own_layout() {
    for (field8, code) in [(0, ""), (4, "123"), (7, "1234"), (8, ""), (15, "123")] {
        for writing in Writing::ALL {
            let bytes = type85(writing, field8, &format!("4111111111111111=2512={code}"), "2512");
            is_the_keyed_card(&read(format(writing), &bytes), Some(code.as_bytes()).filter(|code| !code.is_empty()));
        }
    }
    let other_date = type85(Writing::Binary, 4, "4111111111111111=2512=", "2612");
    let frame = reader::parse(&profile(Format::IdTechBinary), &other_date).unwrap();
    assert_eq!(open(&frame, TEST_BDK).err(), Some(AccountDataError::Mismatch));
}

#[test]
fn the_original_layout_opens_in_all_its_forms() {
    let [track1, track2] = [with_lrc(Number::One, TRACK1), with_lrc(Number::Two, TRACK2)];
    let track3 = with_lrc(Number::Three, TRACK3);
    let len = |track: &[u8]| u8::try_from(track.len()).unwrap();
    let joined = |tracks: &[&[u8]]| raw(seal(DATA_KEY, &tracks.concat()));
    let head = |tracks: [&[u8]; 3]| raw([0x00, 0x3F, len(tracks[0]), len(tracks[1]), len(tracks[2])]);
    let all: [&[u8]; 3] = [&track1, &track2, &track3];
    type Form<'a> = (Vec<Part>, Option<&'a [u8]>, Option<&'a [u8]>);
    let forms: [Form<'_>; 5] = [
        // Track 3 in clear, a hash for each of the others.
        (
            vec![
                head(all),
                characters(mask(TRACK1)),
                characters(mask(TRACK2)),
                characters(&track3[..]),
                joined(&all[..2]),
                raw([0; 40]),
            ],
            None,
            Some(&track3),
        ),
        // The same with three hashes.
        (
            vec![
                head(all),
                characters(mask(TRACK1)),
                characters(mask(TRACK2)),
                characters(&track3[..]),
                joined(&all[..2]),
                raw([0; 60]),
            ],
            None,
            Some(&track3),
        ),
        // All three encrypted, three hashes.
        (
            vec![head(all), characters(mask(TRACK1)), characters(mask(TRACK2)), joined(&all), raw([0; 60])],
            Some(TRACK3),
            None,
        ),
        // No track 3, three hashes all the same.
        (
            vec![
                head([&track1, &track2, &[]]),
                characters(mask(TRACK1)),
                characters(mask(TRACK2)),
                joined(&all[..2]),
                raw([0; 60]),
            ],
            None,
            None,
        ),
        // No track 3, two hashes.
        (
            vec![
                head([&track1, &track2, &[]]),
                characters(mask(TRACK1)),
                characters(mask(TRACK2)),
                joined(&all[..2]),
                raw([0; 40]),
            ],
            None,
            None,
        ),
    ];
    for (mut parts, read3, sent3) in forms {
        parts.push(raw(bench::build::KSN));
        for writing in Writing::ALL {
            let card = read(format(writing), &idtech(writing, &parts));
            is_the_swiped_card(&card);
            assert_eq!(card.track3(), read3);
            let clear = reader::clear_track3(format(writing), &idtech(writing, &parts));
            assert_eq!(clear.as_ref().map(SecretBytes::expose), sent3);
        }
        // What stands in the place of a track 3 in clear and is none is not given out.
        if sent3.is_some() {
            parts[3] = characters(&[&TRACK3[..20], b"\xFF", &TRACK3[21..], b"0"].concat()[..]);
            let bytes = idtech(Writing::Binary, &parts);
            is_the_swiped_card(&read(Format::IdTechBinary, &bytes));
            assert!(reader::clear_track3(Format::IdTechBinary, &bytes).is_none());
        }
        // None of the forms has this length.
        parts.insert(parts.len() - 1, raw([0; 5]));
        assert_eq!(refusal(Format::IdTechBinary, &idtech(Writing::Binary, &parts)), Some(FrameError::Header));
    }
    let only2 =
        [head([&[], &track2, &[]]), characters(mask(TRACK2)), joined(&[&track2]), raw([0; 20]), raw(bench::build::KSN)];
    let card = read(Format::IdTechBinary, &idtech(Writing::Binary, &only2));
    assert_eq!((card.track1(), card.track2()), (None, Some(TRACK2)));
}

/// The original layout with these tracks joined in one message, and three hashes.
fn all_joined(writing: Writing, tracks: [&[u8]; 3]) -> Vec<u8> {
    let [len1, len2, len3] = tracks.map(|track| u8::try_from(track.len()).unwrap());
    let masked = |track: &[u8], whole: &[u8]| {
        let mut masked = mask(whole);
        masked.truncate(track.len());
        characters(masked)
    };
    let parts = [
        raw([0x00, 0x3F, len1, len2, len3]),
        masked(tracks[0], TRACK1),
        masked(tracks[1], TRACK2),
        raw(seal(DATA_KEY, &tracks.concat())),
        raw([0; 60]),
        raw(bench::build::KSN),
    ];
    idtech(writing, &parts)
}

#[test]
fn joined_tracks_are_cut_by_the_lengths_of_the_header() {
    let with = [with_lrc(Number::One, TRACK1), with_lrc(Number::Two, TRACK2), with_lrc(Number::Three, TRACK3)];
    let without = [TRACK1.to_vec(), TRACK2.to_vec(), TRACK3.to_vec()];
    for tracks in [with, without] {
        // Which of the tracks the reader could read: bit 0 is track 1.
        for there in [0b111, 0b110, 0b101, 0b011, 0b010, 0b001] {
            let sent = [0, 1, 2].map(|place| if there >> place & 1 == 1 { &tracks[place][..] } else { &[] });
            for writing in Writing::ALL {
                let card = read(format(writing), &all_joined(writing, sent));
                assert_eq!(card.tracks_as_read().map(Option::unwrap_or_default), sent, "{there:03b}");
            }
        }
    }
}

#[test]
fn joined_tracks_of_other_lengths_than_the_header_says_are_noise() {
    let [track1, track2] = [with_lrc(Number::One, TRACK1), with_lrc(Number::Two, TRACK2)];
    let mut bytes = all_joined(Writing::Binary, [&track1, &track2, &[]]);
    // One character less of track 1, one more of track 2; the masks are cut elsewhere and nothing else moves.
    bytes[5] -= 1;
    bytes[6] += 1;
    let inner = &bytes[3..bytes.len() - 3];
    let bytes = idtech(Writing::Binary, &[raw(inner)]);
    let parsed = reader::parse(&profile(Format::IdTechBinary), &bytes);
    assert_eq!(open(&parsed.unwrap(), TEST_BDK).err(), Some(AccountDataError::Noise));
}

#[test]
fn idtech_frames_nobody_should_open_are_refused() {
    let clear = || [Some(with_lrc(Number::One, TRACK1)), Some(with_lrc(Number::Two, TRACK2)), None];
    let plain = Enhanced::default;
    let nothing = || [None, None, None];
    for (frame, error) in [
        (Enhanced { masks: clear(), ..plain() }, FrameError::Clear),
        (Enhanced { masks: clear(), tracks: nothing(), field9: 0, ..plain() }, FrameError::Clear),
        (Enhanced { tracks: nothing(), ..plain() }, FrameError::Empty),
        (Enhanced { field9: 0x18, ..plain() }, FrameError::NoKsn),
        (Enhanced { field8: 0x88, ..plain() }, FrameError::Unsupported),
        (Enhanced { options: Some(vec![0x04]), ..plain() }, FrameError::Unsupported),
        (Enhanced { encode_type: 0x84, ..plain() }, FrameError::Unsupported),
        (Enhanced { encode_type: 0x87, ..plain() }, FrameError::Header),
        (Enhanced { behind_ksn: vec![0], ..plain() }, FrameError::Trailing),
        (Enhanced { session_id: true, hash_len: 16, ..plain() }, FrameError::Truncated),
    ] {
        for writing in Writing::ALL {
            assert_eq!(refusal(format(writing), &frame.write(writing)), Some(error), "{frame:?}");
        }
    }
    let short = [raw([0x80, 0x1F, 1])];
    assert_eq!(refusal(Format::IdTechBinary, &idtech(Writing::Binary, &short)), Some(FrameError::Truncated));
    let blank = [raw([0x00, 0, 0, 0, 0]), raw(bench::build::KSN)];
    assert_eq!(refusal(Format::IdTechBinary, &idtech(Writing::Binary, &blank)), Some(FrameError::Empty));
    let in_clear = [raw([0x00, 0x03, 0, 36, 0]), characters(with_lrc(Number::Two, TRACK2))];
    assert_eq!(refusal(Format::IdTechBinary, &idtech(Writing::Binary, &in_clear)), Some(FrameError::Clear));
    let nothing_keyed = type85(Writing::Binary, 0, "", "");
    assert_eq!(refusal(Format::IdTechBinary, &nothing_keyed), Some(FrameError::Empty));
    let long_address = [raw([0x85, 0, 0, 0, 0, 2, 8]), raw([0; 28]), raw([21; 22]), raw(bench::build::KSN)];
    assert_eq!(refusal(Format::IdTechBinary, &idtech(Writing::Binary, &long_address)), Some(FrameError::Header));
}

#[test]
fn an_envelope_is_checked_before_what_is_in_it() {
    let good = vivotech(&Enhanced::default().write(Writing::Binary));
    for place in 0..good.len() {
        let mut changed = good.clone();
        changed[place] ^= 0x10;
        assert!(refusal(Format::IdTechBinary, &changed).is_some(), "byte {place}");
    }
    assert_eq!(refusal(Format::IdTechBinary, &good[..good.len() - 1]), Some(FrameError::Truncated));
    assert_eq!(refusal(Format::IdTechBinary, &[&good[..], &[0]].concat()), Some(FrameError::Trailing));
}

#[test]
fn parts_of_different_cards_are_refused() {
    let other1 = with_lrc(Number::One, b"%B4111111111111112^DERIVED/TEST^25121010000000000000?");
    let other_date = with_lrc(Number::Two, b";4111111111111111=26011010000000000?");
    let [track1, track2, _] = Enhanced::default().tracks;
    for tracks in [[Some(other1), track2, None], [track1, Some(other_date), None]] {
        let bytes = Enhanced { tracks, masks: [None, None, None], ..Enhanced::default() }.write(Writing::Binary);
        let frame = reader::parse(&profile(Format::IdTechBinary), &bytes).unwrap();
        assert_eq!(open(&frame, TEST_BDK).err(), Some(AccountDataError::Mismatch));
    }
    let mut other_mask = mask(TRACK2);
    other_mask[16] = b'2';
    let bytes = Enhanced { masks: [None, Some(other_mask), None], ..Enhanced::default() }.write(Writing::Binary);
    let frame = reader::parse(&profile(Format::IdTechBinary), &bytes).unwrap();
    assert_eq!(open(&frame, TEST_BDK).err(), Some(AccountDataError::Mismatch));
}

const LINE_MASKS: &str = "%B4111000010001111^DERIVED/TEST^25120000000000000000?;4111000010001111=25120000000000000?";

#[test]
fn a_magtek_line_opens_with_every_option() {
    let sealed = |key| [seal(key, TRACK1), seal(key, TRACK2), seal(key, b"+5163499080020445=000000000000?")];
    let with3 = LINE_MASKS.to_owned() + "+5163000050000445=000000000000?";
    for (masks, tracks, counter) in
        [(LINE_MASKS, 2, &[][..]), (LINE_MASKS, 2, &["000123"]), (&with3, 3, &[]), ("", 3, &[])]
    {
        let [t1, t2, t3] = sealed(PIN_KEY);
        let third: &[u8] = if tracks == 3 { &t3 } else { &[] };
        let line = magtek_line(masks, "0600", [&t1, &t2, third], counter);
        for line in [line.clone(), line.clone() + "\r", line + "\r\n"] {
            let card = read(Format::MagTekKeyboard, line.as_bytes());
            is_the_swiped_card(&card);
            assert_eq!(card.track3().is_some(), tracks == 3);
        }
    }
    let [t1, t2, _] = sealed(DATA_KEY);
    let line = magtek_line(LINE_MASKS, "0620", [&t1, &t2, &[]], &[]);
    let data_key = Profile { format: Format::MagTekKeyboard, key: Some(TdesKey::DataRequest) };
    is_the_swiped_card(&open(&reader::parse(&data_key, line.as_bytes()).unwrap(), TEST_BDK).ok().unwrap());
}

#[test]
fn a_track_a_magtek_reader_could_not_read_is_passed_over() {
    let error_text = seal(PIN_KEY, b"%E?");
    let line =
        magtek_line("%E?;4111000010001111=25120000000000000?", "0600", [&error_text, &seal(PIN_KEY, TRACK2), &[]], &[]);
    let card = read(Format::MagTekKeyboard, line.as_bytes());
    assert_eq!((card.track1(), card.track2()), (None, Some(TRACK2)));
    let mut report = good_report(TdesKey::Pin);
    report[0] = 1;
    let card = read(Format::MagTekHid, &report);
    assert_eq!((card.track1(), card.track2()), (None, Some(TRACK2)));
}

#[test]
fn a_magtek_report_opens_at_its_own_length_and_a_longer_one() {
    let report = good_report(TdesKey::Pin);
    let parsed = reader::parse_with_hints(&profile(Format::MagTekHid), &report).unwrap();
    assert_eq!(parsed.hints.serial.as_deref(), Some("B0C24720"));
    assert_eq!(reader::masked(&parsed.frame).map(|mask| mask.to_string()).as_deref(), Some("4111********1111"));
    is_the_swiped_card(&read(Format::MagTekHid, &report));
    is_the_swiped_card(&read(Format::MagTekHid, &[&report[..], &[0x01; 100]].concat()));
    // Without the clear lengths the fill tells where a track ends.
    let mut unannounced = report;
    unannounced[852..855].fill(0);
    is_the_swiped_card(&read(Format::MagTekHid, &unannounced));
}

#[test]
fn magtek_outputs_nobody_should_open_are_refused() {
    let [t1, t2] = [seal(PIN_KEY, TRACK1), seal(PIN_KEY, TRACK2)];
    let line = |status: &str, tracks: [&[u8]; 3]| magtek_line(LINE_MASKS, status, tracks, &[]);
    for (line, error) in [
        (line("0200", [&t1, &t2, &[]]), FrameError::Clear),
        (line("0600", [&[], &[], &[]]), FrameError::Empty),
        (line("0600", [&t1, &t2[1..], &[]]), FrameError::CiphertextLength),
        (line("06", [&t1, &t2, &[]]), FrameError::Header),
        (magtek_line(LINE_MASKS, "0600", [&t1, &t2, &[]], &["1", "2"]), FrameError::Trailing),
        ("%B4111000010001111^".to_owned(), FrameError::Truncated),
        ("X".to_owned(), FrameError::Start),
        (String::new(), FrameError::Start),
    ] {
        assert_eq!(refusal(Format::MagTekKeyboard, line.as_bytes()), Some(error), "{line}");
    }
    let report = good_report(TdesKey::Pin);
    let changed = |place: usize, value: &[u8]| {
        let mut report = report.clone();
        report[place..place + value.len()].copy_from_slice(value);
        refusal(Format::MagTekHid, &report)
    };
    assert_eq!(changed(493, &[0, 2]), Some(FrameError::Clear));
    assert_eq!(changed(495, &[0; 10]), Some(FrameError::NoKsn));
    assert_eq!(changed(3, &[113]), Some(FrameError::Header));
    assert_eq!(changed(3, &[57]), Some(FrameError::CiphertextLength));
    assert_eq!(changed(6, &[7]), Some(FrameError::Header));
    assert_eq!(refusal(Format::MagTekHid, &report[..855]), Some(FrameError::Truncated));
    let empty = magtek_report(6, &[ReportTrack::default(), ReportTrack::default(), ReportTrack::default()]);
    assert_eq!(refusal(Format::MagTekHid, &empty), Some(FrameError::Empty));
}
