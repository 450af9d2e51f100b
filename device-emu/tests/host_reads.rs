//! Every format and every way in, read and opened with the host's code: the two ends agree without knowing each other.
#![allow(clippy::unwrap_used, reason = "a device that cannot be made must fail the run")]

mod support;

use proptest::prelude::*;
use support::{AES_BDK, TDES_BDK, key_of, opened};
use warifu_core::account_data::AccountData;
use warifu_core::device::{Format as HostFormat, Profile};
use warifu_core::frame::{Entry, SealedFrame};
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::ksn::{AesKsn, TdesKsn};
use warifu_core::reader;
use warifu_device_emu::card::Card;
use warifu_device_emu::device::{Device, DeviceError};
use warifu_device_emu::dukpt::{Originator, aes, tdes};
use warifu_device_emu::format::idtech::{self, ChipNotice, ExpiryMask, Form};
use warifu_device_emu::format::{Format, FormatError, magtek};
use warifu_device_emu::reader::Stripe;

const SERIAL: [u8; 10] = *b"EMU0000001";

fn aes_device(bdk: &KeyBytes) -> (Device, KeyBytes) {
    let ksn = AesKsn::new([0x12, 0x34, 0x56, 0x78, 0x90, 0x12, 0x34, 0x56, 0, 0, 0, 0]);
    let initial = aes::initial_key(bdk, &ksn);
    let originator = Originator::Aes(aes::Originator::load(&initial, &ksn));
    (Device::new(originator, Format::Native, SERIAL, None).unwrap(), initial)
}

fn tdes_device(format: Format) -> (Device, KeyBytes) {
    let ksn = TdesKsn::new([0xFF, 0xFF, 0x98, 0x76, 0x54, 0x32, 0x10, 0xE0, 0, 0]);
    let initial = tdes::initial_key(&key_of(TDES_BDK), &ksn).unwrap();
    let originator = Originator::Tdes(tdes::Originator::load(&initial, &ksn).unwrap());
    (Device::new(originator, format, SERIAL, None).unwrap(), initial)
}

fn host_format(format: Format) -> HostFormat {
    match format {
        Format::Native => HostFormat::Native,
        Format::IdTechBinary | Format::IdTechOriginal | Format::IdTechKeyed | Format::IdTechKeyedEnhanced => {
            HostFormat::IdTechBinary
        }
        Format::IdTechKeyboard => HostFormat::IdTechKeyboard,
        Format::MagTekKeyboard => HostFormat::MagTekKeyboard,
        Format::MagTekHid => HostFormat::MagTekHid,
    }
}

fn parsed(format: Format, bytes: &[u8]) -> SealedFrame {
    reader::parse(&Profile { format: host_format(format), key: None }, bytes)
        .unwrap_or_else(|error| panic!("{}: {error}", format.name()))
}

fn card(pan: &[u8], expiry: &[u8], code: &[u8], name: &[u8]) -> Card {
    Card::new(pan, expiry)
        .and_then(|card| card.with_code(code))
        .and_then(|card| card.with_name(name))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// A card number that passes Luhn: the last digit balances the others.
fn pan() -> impl Strategy<Value = Vec<u8>> {
    (11..=18usize).prop_flat_map(|len| prop::collection::vec(0..10u8, len)).prop_map(|digits| {
        let doubled = |digit: u8| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
        let sum: u8 =
            digits.iter().rev().enumerate().map(|(at, digit)| if at % 2 == 0 { doubled(*digit) } else { *digit }).sum();
        digits.iter().map(|digit| digit + b'0').chain([(10 - sum % 10) % 10 + b'0']).collect()
    })
}

fn assert_same(opened: &AccountData, pan: &[u8], expiry: &[u8], entry: Entry, format: Format) {
    assert!(opened.pan().expose() == pan, "{} {entry:?}: another number", format.name());
    let read = opened.expiry().expect("an expiry");
    assert_eq!(format!("{:02}{:02}", read.year() % 100, read.month()).as_bytes(), expiry, "{}", format.name());
    assert_eq!(opened.entry(), entry, "{}", format.name());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_output_opens_to_the_card_that_was_taken(
        pan in pan(), year in 0..100u8, month in 1..=12u8, code in "[0-9]{3,4}", name in "[A-Z]{1,12}/[A-Z]{1,13}",
    ) {
        let expiry = format!("{year:02}{month:02}");
        for format in Format::ALL {
            for entry in [Entry::Keyed, Entry::Swiped, Entry::Dipped] {
                let (mut device, initial) = tdes_device(format);
                let card = card(&pan, expiry.as_bytes(), code.as_bytes(), name.as_bytes());
                if format.check_entry(entry).is_err() {
                    let refused = device.take(entry, card);
                    prop_assert!(matches!(refused, Err(DeviceError::Format(FormatError::Entry(_)))));
                    prop_assert_eq!(device.originator().next_counter(), Some(1));
                    continue;
                }
                let frame = parsed(format, &device.take(entry, card).unwrap().bytes);
                let account_data = opened(&frame, &initial);
                assert_same(&account_data, &pan, expiry.as_bytes(), entry, format);
                if entry == Entry::Swiped || (format, entry) == (Format::Native, Entry::Dipped) {
                    prop_assert_eq!(account_data.cardholder_name(), Some(name.as_bytes()));
                    prop_assert_eq!(account_data.service_code(), Some(*b"201"));
                }
                if entry == Entry::Keyed && format != Format::IdTechKeyedEnhanced {
                    prop_assert!(account_data.security_code().is_some_and(|read| read.expose() == code.as_bytes()));
                }
            }
        }
    }

    #[test]
    fn native_aes_frames_open_under_keys_of_every_length(pan in pan(), seed in any::<[u8; 32]>()) {
        for len in [KeyLen::K128, KeyLen::K192, KeyLen::K256] {
            let bdk = KeyBytes::copied(&seed[..len.bytes()]).unwrap();
            let (mut device, initial) = aes_device(&bdk);
            for (entry, counter) in [(Entry::Keyed, 1), (Entry::Swiped, 2), (Entry::Dipped, 3)] {
                let sent = device.take(entry, card(&pan, b"3012", b"123", b"TEST/CARD")).unwrap();
                prop_assert_eq!(sent.counter, counter);
                let frame = SealedFrame::parse(&sent.bytes).unwrap();
                prop_assert_eq!(frame.ksn().raw_counter(), counter);
                assert_same(&opened(&frame, &initial), &pan, b"3012", entry, Format::Native);
            }
        }
    }
}

proptest! {
    /// Whatever a stripe carries: a whole output, or a refusal; and nothing of it in clear but what masks show.
    #[test]
    fn any_stripe_is_written_or_refused(tracks in prop::array::uniform3("[ -~]{0,130}")) {
        let [one, two, three] = tracks.each_ref().map(|track| track.as_bytes());
        let (ksn, initial) = (TdesKsn::new([7; 10]), key_of(TDES_BDK));
        let mut device = tdes::Originator::load(&initial, &ksn).unwrap();
        let settings = idtech::Settings {
            serial: SERIAL, form: Form::Keyboard, expiry: ExpiryMask::Clear, chip: ChipNotice::Given,
        };
        let magtek_settings =
            magtek::Settings { serial: &SERIAL, session: [1; 8], print_status: [0; 4], print: [2; magtek::PRINT_LEN] };
        device
            .transact(|transaction| {
                let stripe = || Stripe::read(one, two, three);
                let outputs = [
                    idtech::enhanced(transaction, &stripe(), &settings),
                    idtech::original(transaction, &stripe(), &settings),
                    magtek::keyboard(transaction, &stripe(), &magtek_settings),
                    magtek::report(transaction, &stripe(), &magtek_settings),
                ];
                for output in outputs {
                    assert!(output.is_ok_and(|output| !output.is_empty()) || one.len().max(two.len()).max(three.len()) > 112);
                }
            })
            .unwrap();
    }
}

#[test]
fn a_native_aes_keyed_frame_of_a_common_card_has_two_cipher_blocks() {
    let (mut device, _) = aes_device(&key_of(AES_BDK));
    let frame = device.take(Entry::Keyed, card(b"4111111111111111", b"3012", b"123", b"TEST/CARD")).unwrap();
    assert_eq!(frame.bytes.len(), 8 + 12 + 32 + 16);
}

#[test]
fn vendor_formats_need_tdes() {
    for format in Format::ALL.into_iter().filter(|format| *format != Format::Native) {
        let originator = Originator::Aes(aes::Originator::load(&key_of(AES_BDK), &AesKsn::new([0; 12])));
        let refused = Device::new(originator, format, SERIAL, None);
        assert!(matches!(refused, Err(DeviceError::Format(FormatError::Scheme(_)))), "{}", format.name());
    }
}

/// Nothing that leaves, but the masked ends of the number, tells the card.
#[test]
fn no_output_carries_the_number_in_clear() {
    for format in Format::ALL {
        for entry in [Entry::Keyed, Entry::Swiped, Entry::Dipped] {
            if format.check_entry(entry).is_ok() {
                let (mut device, _) = tdes_device(format);
                let bytes =
                    &device.take(entry, card(b"4929310987651234", b"3012", b"739", b"TEST/CARD")).unwrap().bytes;
                let middle = [b"31098765".as_slice(), &[0x31, 0x09, 0x87, 0x65], b"33313039383736"];
                for part in middle {
                    assert!(!bytes.windows(part.len()).any(|window| window == part), "{} {entry:?}", format.name());
                }
            }
        }
    }
}
