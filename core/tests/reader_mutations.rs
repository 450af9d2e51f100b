//! Damaged and hostile device outputs: nothing panics, nothing opens to another card, and the next good output
//! is found.
#![allow(clippy::unwrap_used, reason = "a broken builder must fail the run")]

mod bench;
mod support;

use proptest::collection::vec;
use proptest::prelude::*;
use warifu_core::account_data::{AccountData, pad_7816};
use warifu_core::device::{Format, Profile};
use warifu_core::frame::{Entry, SealedFrame, native_header};
use warifu_core::key::{KeyLen, TdesKey};
use warifu_core::ksn::{AesKsn, Ksn, TdesKsn};
use warifu_core::reader::{self, Extent, MAX_OUTPUT_LEN};
use warifu_core::secret::SecretBytes;
use warifu_core::tlv::{self, Tag, marked};
use warifu_core::track::{Number, Track1, Track2, Track3};

use bench::build::{Enhanced, Writing, good_report, vivotech};
use bench::{Output, TEST_BDK, open, output};

/// Every published output that parses, and built ones of the forms that were not published.
fn good_outputs() -> Vec<Output> {
    let published = support::records("device_output", 19)
        .into_iter()
        .filter(|record| matches!(record["kind"].as_str(), Some("device_output" | "device_vivotech2")));
    let mut outputs: Vec<Output> = published.map(|record| output(&record)).collect();
    let built = [
        (Format::IdTechBinary, vivotech(&Enhanced::default().write(Writing::Binary))),
        (Format::IdTechKeyboard, Enhanced::default().write(Writing::UpperHex)),
        (Format::MagTekHid, good_report(TdesKey::Pin)),
        (Format::Native, native(Some(KeyLen::K128), Entry::Keyed)),
        (Format::Native, native(None, Entry::Swiped)),
    ];
    outputs.extend(built.map(|(format, bytes)| Output { format, bytes }));
    assert_eq!(outputs.len(), 16);
    outputs
}

/// A native frame whose ciphertext and MAC are no more than bytes: whether they are right is not decided here.
fn native(key_len: Option<KeyLen>, entry: Entry) -> Vec<u8> {
    let (ksn, mac_len) = match key_len {
        Some(_) => (Ksn::Aes(AesKsn::new([0x12; 12])), 16),
        None => (Ksn::Tdes(TdesKsn::new([0x21; 10])), 8),
    };
    let mut frame = native_header(key_len, entry, &ksn, 48);
    frame.extend((0..48 + mac_len).map(|byte: u8| byte.wrapping_mul(37)));
    frame
}

fn parse(format: Format, bytes: &[u8]) -> Option<SealedFrame> {
    reader::parse(&Profile { format, key: None }, bytes).ok()
}

#[test]
fn one_changed_byte_is_refused_or_changes_nothing_of_the_card() {
    let mut opened = 0;
    for Output { format, bytes } in good_outputs() {
        let frame = parse(format, &bytes).unwrap();
        let card = if format == Format::Native { None } else { open(&frame, TEST_BDK).ok() };
        for place in 0..bytes.len() {
            for flip in [0x01, 0x02, 0x10, 0x20, 0x40, 0x80, 0xFF] {
                let mut changed = bytes.clone();
                changed[place] ^= flip;
                reader::detect(&changed);
                let Some(other) = parse(format, &changed) else { continue };
                // The check values of ID TECH see every single byte; only the case of a hex digit may differ.
                if matches!(format, Format::IdTechBinary | Format::IdTechKeyboard) {
                    assert_eq!(other, frame, "{format:?} byte {place}");
                }
                if let (Some(card), Ok(other)) = (&card, opens(&other)) {
                    assert!(card.pan().ct_eq(other.pan()), "{format:?} byte {place}: another card");
                    assert_eq!(card.expiry(), other.expiry(), "{format:?} byte {place}: another date");
                    assert!(other.track1().is_none() || card.track1() == other.track1(), "{format:?} byte {place}");
                    opened += 1;
                }
            }
        }
    }
    assert!(opened > 0, "nothing that does not matter was changed");
}

fn opens(frame: &SealedFrame) -> Result<AccountData, ()> {
    match frame.ksn() {
        Ksn::Tdes(_) => open(frame, TEST_BDK).map_err(|_| ()),
        Ksn::Aes(_) => Err(()),
    }
}

/// Cuts a stream to its end, fed `step` bytes at a time, and gives back every output that parses.
fn outputs_in(format: Format, stream: &[u8], step: usize) -> Vec<SealedFrame> {
    let (mut found, mut buffer) = (Vec::new(), Vec::new());
    for part in stream.chunks(step) {
        buffer.extend_from_slice(part);
        loop {
            match reader::extent(format, &buffer) {
                Extent::NeedMore => break,
                Extent::Garbage { skip } => {
                    assert!(0 < skip && skip <= buffer.len());
                    buffer.drain(..skip);
                }
                Extent::Frame { start, end } => {
                    assert!(start < end && end <= buffer.len());
                    found.extend(parse(format, &buffer[start..end]));
                    buffer.drain(..end);
                }
            }
        }
    }
    found
}

/// As the device sends it: a line has an end.
fn sent(format: Format, bytes: &[u8]) -> Vec<u8> {
    match format {
        Format::IdTechKeyboard | Format::MagTekKeyboard => [bytes, b"\r"].concat(),
        Format::Native | Format::IdTechBinary | Format::MagTekHid => bytes.to_vec(),
    }
}

#[test]
fn the_next_good_output_is_found_behind_a_damaged_one() {
    for Output { format, bytes } in good_outputs() {
        let good = parse(format, &bytes).unwrap();
        for place in 0..bytes.len() {
            for flip in [0x01, 0x08, 0x10, 0xFF] {
                let mut changed = bytes.clone();
                changed[place] ^= flip;
                let stream = [sent(format, &changed), sent(format, &bytes)].concat();
                let found = outputs_in(format, &stream, stream.len());
                assert_eq!(found.last(), Some(&good), "{format:?} byte {place} flip {flip:02X}");
            }
        }
    }
}

#[test]
fn outputs_are_found_however_the_stream_is_cut() {
    for Output { format, bytes } in good_outputs() {
        let good = parse(format, &bytes).unwrap();
        // Reports come whole: a stream of them has no place for noise.
        let noise: &[u8] = if format == Format::MagTekHid { b"" } else { b"\x02noise\r\n" };
        let one = sent(format, &bytes);
        let stream = [noise, &one, &one, noise, &one].concat();
        for step in [1, 7, 64, stream.len()] {
            assert_eq!(outputs_in(format, &stream, step), vec![good.clone(); 3], "{format:?} by {step}");
        }
    }
}

#[test]
fn text_frames_without_line_ends_are_found_too() {
    let good = Enhanced::default().write(Writing::LowerHex);
    let frame = parse(Format::IdTechKeyboard, &good).unwrap();
    let longer = [b"02FF", &good[4..]].concat();
    for stream in [[&good[..], &good].concat(), [&good[..], &longer, &good].concat()] {
        assert_eq!(outputs_in(Format::IdTechKeyboard, &stream, 5), vec![frame.clone(); 2]);
    }
}

#[test]
fn a_stream_that_never_ends_its_output_is_dropped() {
    for format in Format::ALL {
        for filler in [0x00, 0x02, b'A', b'0', b'%', b'W', 0xFF] {
            let stream = vec![filler; MAX_OUTPUT_LEN + 1];
            assert_ne!(reader::extent(format, &stream), Extent::NeedMore, "{format:?} {filler:02X}");
        }
        assert_eq!(reader::extent(format, &[]), Extent::NeedMore);
    }
    let endless = [&b"02FF0F80"[..], &[b'0'; MAX_OUTPUT_LEN]].concat();
    assert_ne!(reader::extent(Format::IdTechKeyboard, &endless), Extent::NeedMore);
}

/// Everything that takes bytes from outside.
fn read_everything(bytes: &[u8]) {
    reader::detect(bytes);
    for format in Format::ALL {
        reader::clear_track3(format, bytes);
        if let Some(frame) = parse(format, bytes) {
            opens(&frame).ok();
            let noise: Vec<_> = frame
                .sections()
                .iter()
                .map(|section| SecretBytes::filled(section.ciphertext.len(), |clear| clear.fill(b'1')))
                .collect();
            AccountData::open(&frame, &noise).ok();
        }
        match reader::extent(format, bytes) {
            Extent::NeedMore => {}
            Extent::Garbage { skip } => assert!(0 < skip && skip <= bytes.len()),
            Extent::Frame { start, end } => {
                assert!(start < end && end <= bytes.len() && end - start <= MAX_OUTPUT_LEN + 64)
            }
        }
    }
    let mut objects = 0;
    tlv::walk(bytes, &mut |_| objects += 1).ok();
    assert!(objects <= bytes.len());
    tlv::find(bytes, Tag::new(0x5A)).ok();
    marked::objects(bytes).ok();
    Track1::parse(bytes).ok();
    Track2::parse(bytes).ok();
    Track3::parse(bytes).ok();
    for number in [Number::One, Number::Two, Number::Three] {
        number.frame(bytes).ok();
    }
}

/// Opens a clear native body.
fn open_native(entry: Entry, clear: &SecretBytes) -> Option<AccountData> {
    let ksn = Ksn::Tdes(TdesKsn::new([0xFF; 10]));
    let mut frame = native_header(None, entry, &ksn, u16::try_from(clear.len()).ok()?);
    frame.extend(clear.expose());
    frame.extend([0; 8]);
    AccountData::open(&SealedFrame::parse(&frame).ok()?, &[SecretBytes::copied(clear.expose())]).ok()
}

fn entries() -> impl Strategy<Value = Entry> {
    prop_oneof![Just(Entry::Keyed), Just(Entry::Swiped), Just(Entry::Dipped)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..1200)) {
        read_everything(&bytes);
    }

    #[test]
    fn arbitrary_text_never_panics(text in "(%B[0-9*]{0,20}|;|02|[+])[ -_|]{0,200}[?]?[|0-9A-Fa-f]{0,300}") {
        read_everything(text.as_bytes());
    }

    #[test]
    fn outputs_with_several_bytes_changed_never_panic(
        which in 0..16usize,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let Output { mut bytes, .. } = good_outputs().swap_remove(which);
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        read_everything(&bytes);
        read_everything(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn arbitrary_clear_bodies_never_panic(entry in entries(), body in vec(any::<u8>(), 0..240)) {
        open_native(entry, &SecretBytes::copied(&body));
        open_native(entry, &pad_7816(&body, 8));
    }

    #[test]
    fn what_a_keypad_seals_is_what_opens(
        pan in "[0-9]{12,19}",
        expiry in "[0-9]{2}(0[1-9]|1[0-2])",
        code in "([0-9]{3,4})?",
    ) {
        let body = format!("{pan}={expiry}={code}");
        let card = open_native(Entry::Keyed, &pad_7816(body.as_bytes(), 8)).unwrap();
        prop_assert_eq!(card.pan().expose(), pan.as_bytes());
        prop_assert_eq!(card.expiry().unwrap().expose().to_vec(), expiry.into_bytes());
        prop_assert_eq!(card.security_code().map(|code| code.expose().to_vec()).unwrap_or_default(), code.into_bytes());
    }

    #[test]
    fn what_a_reader_seals_is_what_opens(
        pan in "[0-9]{12,19}",
        name in "[A-Z]{1,10}/[A-Z]{1,10}",
        behind in "[0-9]{2}(0[1-9]|1[0-2])[0-9]{3,12}",
        both in any::<bool>(),
    ) {
        let (track1, track2) = (format!("%B{pan}^{name}^{behind}?"), format!(";{pan}={behind}?"));
        let body = if both { track1.clone() + &track2 } else { track2.clone() };
        let card = open_native(Entry::Swiped, &pad_7816(body.as_bytes(), 8)).unwrap();
        prop_assert_eq!(card.pan().expose(), pan.as_bytes());
        prop_assert_eq!(card.track2(), Some(track2.as_bytes()));
        prop_assert_eq!(card.track1(), both.then_some(track1.as_bytes()));
        prop_assert_eq!(card.cardholder_name(), both.then_some(name.as_bytes()));
        prop_assert_eq!(card.service_code().map(|code| code.to_vec()), Some(behind.as_bytes()[4..7].to_vec()));
    }
}
