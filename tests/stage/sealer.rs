//! A device without a wire: the emulator's own code in this process, for tests that need frames by the hundred.

use warifu_core::frame::Entry;
use warifu_core::key::KeyBytes;
use warifu_core::ksn::{AesKsn, TdesKsn};
use warifu_device_emu::card::Card;
use warifu_device_emu::device::Device;
use warifu_device_emu::dukpt::{Originator, aes, tdes};
use warifu_device_emu::format::Format;

use super::{AES_BDK, TDES_BDK};

/// A device that seals cards.
pub struct Sealer(Device);

impl Sealer {
    /// AES DUKPT, native frames, under the test BDK of `warifu dev`.
    pub fn aes(ksn: &str) -> Self {
        Self::aes_under(AES_BDK, ksn)
    }

    /// The same under another BDK.
    pub fn aes_under(bdk: &str, ksn: &str) -> Self {
        let ksn = AesKsn::parse(&bytes(ksn)).expect("a key serial number");
        let initial = aes::initial_key(&key(bdk), &ksn);
        Self::new(Originator::Aes(aes::Originator::load(&initial, &ksn)), Format::Native)
    }

    /// TDES DUKPT under the test BDK of `warifu dev`, in any format.
    pub fn tdes(ksn: &str, format: Format) -> Self {
        let ksn = TdesKsn::parse(&bytes(ksn)).expect("a key serial number");
        let initial = tdes::initial_key(&key(TDES_BDK), &ksn).expect("a key of 16 bytes");
        Self::new(Originator::Tdes(tdes::Originator::load(&initial, &ksn).expect("a key of 16 bytes")), format)
    }

    fn new(originator: Originator, format: Format) -> Self {
        Self(Device::new(originator, format, *b"STAGE00001", None).expect("a device of this format"))
    }

    /// A card keyed with expiry 3012 and security code 123.
    pub fn keyed(&mut self, pan: &str) -> Vec<u8> {
        self.keyed_until(pan, "3012")
    }

    /// A card keyed with another expiry.
    pub fn keyed_until(&mut self, pan: &str, expiry: &str) -> Vec<u8> {
        let card = card(pan, expiry).with_code(b"123").expect("a security code");
        self.take(Entry::Keyed, card)
    }

    /// A card swiped.
    pub fn swiped(&mut self, pan: &str) -> Vec<u8> {
        self.take(Entry::Swiped, card(pan, "3012"))
    }

    /// A card dipped.
    pub fn dipped(&mut self, pan: &str) -> Vec<u8> {
        self.take(Entry::Dipped, card(pan, "3012"))
    }

    /// Passes over counters.
    pub fn skip(&mut self, count: u32) {
        self.0.skip(count).expect("counters are left");
    }

    fn take(&mut self, entry: Entry, card: Card) -> Vec<u8> {
        self.0.take(entry, card).expect("the device takes the card").bytes.clone()
    }
}

/// A test card number with a right check digit that no other number gives: `index` of up to nine digits.
pub fn pan(index: usize) -> String {
    let body = format!("400000{index:09}");
    let sum: u32 = body
        .bytes()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(digit - b'0');
            let doubled = if place % 2 == 0 { digit * 2 } else { digit };
            doubled / 10 + doubled % 10
        })
        .sum();
    format!("{body}{}", (10 - sum % 10) % 10)
}

fn card(pan: &str, expiry: &str) -> Card {
    Card::new(pan.as_bytes(), expiry.as_bytes()).expect("a card")
}

fn key(hex: &str) -> KeyBytes {
    KeyBytes::copied(&bytes(hex)).expect("a key")
}

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex).expect("hex")
}
