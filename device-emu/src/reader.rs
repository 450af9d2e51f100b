//! The reader: a card drawn through the slot gives its tracks, a card put into it gives EMV data elements.
//!
//! Architecture invariant: tracks and data elements are made in place in buffers that are wiped; what a mask of them
//! may show is each vendor format's affair.

use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::secret::SecretBytes;

use crate::card::Card;
use crate::sealing::{Fill, Message, retail_mac};

/// Discretionary data of the test cards: ten digits, so that track 2 fits even behind a number of 19.
const DISCRETIONARY: &[u8] = b"0000012300";

/// The tracks of a stripe, each from its start sentinel to its end sentinel, without check character.
pub struct Stripe {
    track1: Option<SecretBytes>,
    track2: Option<SecretBytes>,
    track3: Option<SecretBytes>,
}

impl Stripe {
    /// Tracks 1 and 2 of a card (ISO/IEC 7813).
    pub fn of(card: &Card) -> Self {
        let tail: [&[u8]; 4] = [card.expiry(), card.service(), DISCRETIONARY, b"?"];
        let joined = |head: &[&[u8]]| secret(&[head, tail.as_slice()].concat());
        Self {
            track1: Some(joined(&[b"%B", card.pan(), b"^", card.name(), b"^"])),
            track2: Some(joined(&[b";", card.pan(), b"="])),
            track3: None,
        }
    }

    /// Tracks as they stand on a given card; an empty one is missing. The caller still owns, and must wipe, them.
    pub fn read(track1: &[u8], track2: &[u8], track3: &[u8]) -> Self {
        let [track1, track2, track3] =
            [track1, track2, track3].map(|track| (!track.is_empty()).then(|| SecretBytes::copied(track)));
        Self { track1, track2, track3 }
    }

    /// Track 1, or nothing.
    pub fn track1(&self) -> &[u8] {
        self.track1.as_ref().map_or(&[], SecretBytes::expose)
    }

    /// Track 2, or nothing.
    pub fn track2(&self) -> &[u8] {
        self.track2.as_ref().map_or(&[], SecretBytes::expose)
    }

    /// Track 3, or nothing.
    pub fn track3(&self) -> &[u8] {
        self.track3.as_ref().map_or(&[], SecretBytes::expose)
    }

    /// The native account data: the tracks behind each other.
    pub fn account_data(&self, fill: Fill) -> Message {
        Message::joined(&[self.track1(), self.track2()], fill)
    }
}

/// The check character of track 1: the exclusive or of its six-bit characters, as a character (ISO/IEC 7811-6).
pub fn track1_check(track: &[u8]) -> u8 {
    (track.iter().fold(0, |check, byte| check ^ byte.wrapping_sub(0x20)) & 0x3F) + 0x20
}

/// The check character of track 2 or 3: the exclusive or of its four-bit characters, as a character.
pub fn track2_check(track: &[u8]) -> u8 {
    (track.iter().fold(0, |check, byte| check ^ byte) & 0x0F) + 0x30
}

/// A day, as three BCD bytes `YYMMDD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day([u8; 3]);

impl Day {
    /// The day (UTC) that many whole days after 1 January 1970.
    pub fn since_epoch(days: u64) -> Self {
        // Counted from 1 March of year 0, so that the leap day is the last of its year.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        Self([year + 400 * era + carry, month, day].map(|number| bcd(number % 100)))
    }
}

/// The native account data of a card put into the slot: EMV data elements for an online authorization request
/// (EMV 4.3 book 3, annex A), in BER-TLV. The amount is not known to the device, and is sent as zero.
pub fn chip_account_data(card: &Card, transaction_count: u16, today: Day, fill: Fill) -> Message {
    let pan = packed(&[card.pan()]);
    let track2 = packed(&[card.pan(), b"=", card.expiry(), card.service(), DISCRETIONARY]);
    let expiry = SecretBytes::filled(3, |into| {
        let (year_month, day) = into.split_at_mut(2);
        pack(card.expiry().iter().copied(), year_month);
        day[0] = last_day(card.expiry());
    });
    let count = transaction_count.to_be_bytes();
    // Card verification failed nowhere, online forced; what the terminal checked and the card answered.
    let verification = [0x00, 0x00, 0x00, 0x80, 0x00];
    let issuer_data = [0x06, 0x01, 0x0A, 0x03, 0xA0, 0x00, 0x00];
    let (amount, currency, kind) = ([0u8; 6], [0x03, 0x92], [0x00]);
    let cryptogram = cryptogram(&[&amount, &currency, &verification, &today.0, &kind, &count]);
    let elements: [(&[u8], &[u8]); 14] = [
        (&[0x5A], pan.expose()),
        (&[0x5F, 0x24], expiry.expose()),
        (&[0x57], track2.expose()),
        (&[0x5F, 0x20], card.name()),
        (&[0x5F, 0x34], &[0x01]),
        (&[0x9F, 0x26], &cryptogram),
        (&[0x9F, 0x27], &[0x80]),
        (&[0x9F, 0x36], &count),
        (&[0x9F, 0x10], &issuer_data),
        (&[0x95], &verification),
        (&[0x9A], &today.0),
        (&[0x9C], &kind),
        (&[0x9F, 0x02], &amount),
        (&[0x5F, 0x2A], &currency),
    ];
    // Every value is shorter than 128 bytes, so its length is one byte.
    let lengths = elements.map(|(_, value)| [u8::try_from(value.len()).unwrap_or(u8::MAX)]);
    let parts: Vec<&[u8]> = elements.iter().zip(&lengths).flat_map(|((tag, value), len)| [*tag, len, *value]).collect();
    Message::joined(&parts, fill)
}

/// An application cryptogram as a card makes it, a retail MAC over what it was told; under a key anyone knows,
/// because no issuer stands behind a test card.
fn cryptogram(parts: &[&[u8]]) -> [u8; 8] {
    let key = KeyBytes::filled(KeyLen::K128, |key| key.iter_mut().zip(0xC0..).for_each(|(byte, value)| *byte = value));
    retail_mac(&key, &parts.concat())
}

/// Digits and separators, two in a byte, filled with F.
fn packed(parts: &[&[u8]]) -> SecretBytes {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    SecretBytes::filled(len.div_ceil(2), |into| pack(parts.iter().flat_map(|part| part.iter().copied()), into))
}

fn pack(characters: impl Iterator<Item = u8>, into: &mut [u8]) {
    let mut nibbles = characters.map(|byte| if byte == b'=' { 0x0D } else { byte & 0x0F });
    for byte in into {
        *byte = nibbles.next().unwrap_or(0x0F) << 4 | nibbles.next().unwrap_or(0x0F);
    }
}

/// The last day of a month `YYMM`, in BCD: the day a card expires.
fn last_day(expiry: &[u8]) -> u8 {
    let number = |at: usize| expiry[at] & 0x0F;
    let (year, month) = (number(0) * 10 + number(1), number(2) * 10 + number(3));
    match month {
        2 if year.is_multiple_of(4) => 0x29,
        2 => 0x28,
        4 | 6 | 9 | 11 => 0x30,
        _ => 0x31,
    }
}

fn bcd(number: u64) -> u8 {
    u8::try_from(((number / 10) << 4) | (number % 10)).unwrap_or_default()
}

fn secret(parts: &[&[u8]]) -> SecretBytes {
    SecretBytes::filled(parts.iter().map(|part| part.len()).sum(), |mut into| {
        for part in parts {
            let (head, rest) = into.split_at_mut(part.len());
            head.copy_from_slice(part);
            into = rest;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> Card {
        Card::new(b"4111111111111111", b"2802")
            .and_then(|card| card.with_name(b"TARO/CARD"))
            .unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_check_characters_agree_with_published_tracks() {
        assert_eq!(
            track1_check(b"%B5413330089604111^DI TEST/CARD 04           ^25122010123409172              ?"),
            b'C'
        );
        assert_eq!(track2_check(b";5413330089604111=25122010123409172000?"), b'6');
        assert_eq!(track2_check(b";4761731000000043=24122011303130600000?"), b'<');
    }

    #[test]
    fn a_stripe_has_the_form_of_iso_7813() {
        let stripe = Stripe::of(&card());
        assert!(stripe.track1() == b"%B4111111111111111^TARO/CARD^28022010000012300?");
        assert!(stripe.track2() == b";4111111111111111=28022010000012300?");
        assert!(stripe.track3().is_empty());
    }

    #[test]
    fn packed_digits_are_filled_with_f() {
        assert_eq!(hex::encode_upper(packed(&[b"123", b"=45"]).expose()), "123D45");
        assert_eq!(hex::encode_upper(packed(&[b"12345"]).expose()), "12345F");
    }

    #[test]
    fn the_longest_card_has_a_track_2_of_40_characters_with_its_check() {
        let card = Card::new(b"4111111111111111111", b"2802").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(Stripe::of(&card).track2().len(), 39);
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(Day::since_epoch(0), Day([0x70, 0x01, 0x01]));
        assert_eq!(Day::since_epoch(11_016), Day([0x00, 0x02, 0x29]));
        assert_eq!(Day::since_epoch(11_017), Day([0x00, 0x03, 0x01]));
        assert_eq!(Day::since_epoch(20_779), Day([0x26, 0x11, 0x22]));
    }

    #[test]
    fn a_card_expires_on_the_last_day_of_its_month() {
        assert_eq!(last_day(b"2802"), 0x29);
        assert_eq!(last_day(b"2702"), 0x28);
        assert_eq!(last_day(b"2711"), 0x30);
        assert_eq!(last_day(b"2712"), 0x31);
    }
}
