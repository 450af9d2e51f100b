//! ID TECH output, made as the readers make it: original, enhanced and keyed layouts, as bytes or keyboard text.
//!
//! Source: ID TECH manuals 80096504-001 (original, enhanced) and 80172501-001 section 9.3 (type 85), and the published
//! outputs these are tested against. Card data is encrypted under the data-request key, TDES-CBC, zero IV.
//!
//! Hashes are sent as 20 zero bytes, as SRED readers do: an unkeyed hash of a track gives the card number away.

use warifu_core::key::{KeyBytes, TdesKey};
use zeroize::Zeroizing;

use super::FormatError;
use crate::card::Card;
use crate::dukpt::tdes::Transaction;
use crate::keypad;
use crate::reader::{Stripe, track1_check, track2_check};
use crate::sealing::{Fill, Message};

const STX: u8 = 0x02;
const ETX: u8 = 0x03;
/// TDES blocks, zero filled.
const FILL: Fill = Fill::Zero(8);
/// What SRED readers send for the hash of a track.
const NO_HASH: [u8; 20] = [0; 20];

/// How the output is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Bytes (USB HID, serial).
    Binary,
    /// As typed on a keyboard: two hex digits a byte, masked tracks as they are.
    Keyboard,
}

/// Whether a masked track shows the expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpiryMask {
    /// As the readers come.
    Masked,
    /// As they can be set.
    Clear,
}

/// Whether field 8 tells of a chip on the card (service code 2xx or 6xx).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChipNotice {
    /// As Augusta and VP3350 do.
    Given,
    /// As older readers do, whose bit 5 is reserved.
    Reserved,
}

/// How a reader is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its serial number.
    pub serial: [u8; 10],
    /// How it writes.
    pub form: Form,
    /// What its masked tracks show.
    pub expiry: ExpiryMask,
    /// What it says of chips.
    pub chip: ChipNotice,
}

/// What a keypad asks for besides the card: the numbers of the street and the postal code, for address checks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Address<'a> {
    /// At most 20 characters.
    pub street: Option<&'a [u8]>,
    /// At most 10 characters.
    pub postal_code: Option<&'a [u8]>,
}

/// The enhanced layout, type 80: each of tracks 1 and 2 masked, then encrypted alone. Track 3 is not read.
pub fn enhanced(transaction: &Transaction<'_>, stripe: &Stripe, settings: &Settings) -> Result<Vec<u8>, FormatError> {
    let key = transaction.key(TdesKey::DataRequest);
    let mut data = CardData::new(settings.form);
    let (one, two) = (stripe.track1(), stripe.track2());
    let present = present(one) | present(two) << 1;
    data.bytes(&[0x80, 0x07 | present << 3, read_len(one)?, read_len(two)?, 0]);
    let chip = if settings.chip == ChipNotice::Given { chip_bit(two) } else { 0 };
    data.bytes(&[0x80 | chip | present, 0x80 | present << 3 | present]);
    data.masked(&masked1(one, settings.expiry));
    data.masked(&masked2(two, settings.expiry));
    data.bytes(&sealed(&[one], &key));
    data.bytes(&sealed(&[two], &key));
    [one, two].iter().filter(|track| !track.is_empty()).for_each(|_| data.bytes(&NO_HASH));
    data.bytes(&settings.serial);
    data.bytes(transaction.ksn().bytes());
    data.framed()
}

/// The original layout, type 00: tracks 1 and 2 masked, track 3 in clear, then tracks 1 and 2 as one message.
pub fn original(transaction: &Transaction<'_>, stripe: &Stripe, settings: &Settings) -> Result<Vec<u8>, FormatError> {
    let key = transaction.key(TdesKey::DataRequest);
    let mut data = CardData::new(settings.form);
    let (one, two, three) = (stripe.track1(), stripe.track2(), stripe.track3());
    let sampled = present(one) | present(two) << 1 | present(three) << 2;
    data.bytes(&[0x00, 0x07 | sampled << 3, read_len(one)?, read_len(two)?, read_len(three)?]);
    data.masked(&masked1(one, settings.expiry));
    data.masked(&masked2(two, settings.expiry));
    if !three.is_empty() {
        data.masked(&[three, [track2_check(three)].as_slice()].concat());
    }
    data.bytes(&sealed(&[one, two], &key));
    [one, two].iter().filter(|track| !track.is_empty()).for_each(|_| data.bytes(&NO_HASH));
    data.bytes(transaction.ksn().bytes());
    data.framed()
}

/// The layout of a keypad, type 85: `PAN=YYMM=[CVV]` encrypted, the expiry also in clear.
pub fn keyed(
    transaction: &Transaction<'_>,
    card: &Card,
    address: Address<'_>,
    settings: &Settings,
) -> Result<Vec<u8>, FormatError> {
    let account_data = keypad::account_data(card, FILL);
    let clear_len = u8::try_from(account_data.clear_len()).map_err(|_| FormatError::TooLong)?;
    let extras = [(Some(card.expiry()), 2, 4), (address.street, 1, 20), (address.postal_code, 0, 10)];
    let present = extras.iter().filter(|(text, ..)| text.is_some()).fold(0, |bits, (_, bit, _)| bits | 1 << bit);
    let mut data = CardData::new(settings.form);
    data.bytes(&[0x85, 0, 0, 0, 0, present, clear_len]);
    data.bytes(&account_data.sealed_tdes(&transaction.key(TdesKey::DataRequest)));
    data.bytes(&NO_HASH);
    for (text, _, longest) in extras {
        let Some(text) = text else { continue };
        if text.len() > longest {
            return Err(FormatError::TooLong);
        }
        data.bytes(&[len(text)?]);
        data.bytes(text);
    }
    data.bytes(transaction.ksn().bytes());
    data.framed()
}

/// A keyed card in the enhanced layout, type C0: it looks like a track 2 with number and expiry only. No published
/// output shows where a security code would go, so none is sent.
pub fn keyed_enhanced(transaction: &Transaction<'_>, card: &Card, settings: &Settings) -> Result<Vec<u8>, FormatError> {
    let track = Zeroizing::new([b";".as_slice(), card.pan(), b"=", card.expiry(), b"?"].concat());
    let mut data = CardData::new(settings.form);
    data.bytes(&[0xC0, 0x17, 0, read_len(&track)?, 0, 0x82, 0x92]);
    data.masked(&masked2(&track, ExpiryMask::Clear));
    data.bytes(&sealed(&[&track], &transaction.key(TdesKey::DataRequest)));
    data.bytes(&NO_HASH);
    data.bytes(&settings.serial);
    data.bytes(transaction.ksn().bytes());
    data.framed()
}

/// What stands between the length and the check bytes, as it is sent.
struct CardData {
    form: Form,
    sent: Vec<u8>,
}

impl CardData {
    fn new(form: Form) -> Self {
        Self { form, sent: Vec::new() }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        written(self.form, bytes, &mut self.sent);
    }

    /// Tracks are characters in either form.
    fn masked(&mut self, track: &[u8]) {
        self.sent.extend(track);
    }

    /// Length, exclusive or and sum are those of the characters sent, not of the bytes they stand for.
    fn framed(self) -> Result<Vec<u8>, FormatError> {
        let [low, high] = u16::try_from(self.sent.len()).map_err(|_| FormatError::TooLong)?.to_le_bytes();
        let exclusive = self.sent.iter().fold(0, |check, byte| check ^ byte);
        let sum = self.sent.iter().fold(0u8, |check, byte| check.wrapping_add(*byte));
        let mut frame = Vec::with_capacity(self.sent.len() + 12);
        written(self.form, &[STX, low, high], &mut frame);
        frame.extend(self.sent);
        written(self.form, &[exclusive, sum, ETX], &mut frame);
        Ok(frame)
    }
}

fn written(form: Form, bytes: &[u8], into: &mut Vec<u8>) {
    match form {
        Form::Binary => into.extend(bytes),
        Form::Keyboard => into.extend(hex::encode_upper(bytes).into_bytes()),
    }
}

/// Tracks with their check characters, as one message.
fn sealed(tracks: &[&[u8]], key: &KeyBytes) -> Vec<u8> {
    let checks: Vec<[u8; 1]> = tracks.iter().map(|track| [check(track)]).collect();
    let parts: Vec<&[u8]> = tracks
        .iter()
        .zip(&checks)
        .filter(|(track, _)| !track.is_empty())
        .flat_map(|(track, check)| [*track, check.as_slice()])
        .collect();
    Message::joined(&parts, FILL).sealed_tdes(key)
}

fn check(track: &[u8]) -> u8 {
    if track.first() == Some(&b'%') { track1_check(track) } else { track2_check(track) }
}

/// Length of a track as it was read, its check character included; 0 if it is missing.
fn read_len(track: &[u8]) -> Result<u8, FormatError> {
    if track.is_empty() { Ok(0) } else { len(track)?.checked_add(1).ok_or(FormatError::TooLong) }
}

fn len(text: &[u8]) -> Result<u8, FormatError> {
    u8::try_from(text.len()).map_err(|_| FormatError::TooLong)
}

fn present(track: &[u8]) -> u8 {
    u8::from(!track.is_empty())
}

/// Field 8, bit 5: the service code of track 2 begins with 2 or 6, so the card has a chip.
fn chip_bit(track2: &[u8]) -> u8 {
    let service = track2.iter().position(|byte| *byte == b'=').and_then(|separator| track2.get(separator + 5));
    if matches!(service, Some(b'2' | b'6')) { 0x20 } else { 0 }
}

/// Track 1: format code, middle digits and everything after the name become stars.
fn masked1(track: &[u8], expiry: ExpiryMask) -> Vec<u8> {
    let Some(number_end) = track.iter().position(|byte| *byte == b'^') else { return stars(track) };
    let name_end = track.iter().skip(number_end + 1).position(|byte| *byte == b'^').map(|at| number_end + 1 + at);
    let Some(name_end) = name_end else { return stars(track) };
    mask(track, 2..number_end, name_end, expiry)
}

/// Track 2: middle digits and everything after the separator become stars.
fn masked2(track: &[u8], expiry: ExpiryMask) -> Vec<u8> {
    let Some(separator) = track.iter().position(|byte| *byte == b'=') else { return stars(track) };
    mask(track, 1..separator, separator, expiry)
}

/// A track that is not understood shows nothing.
fn stars(track: &[u8]) -> Vec<u8> {
    if track.is_empty() { Vec::new() } else { vec![b'*'; track.len() + 1] }
}

/// Shows the sentinels and separators, the first and last four of `number`, what lies between it and `fields`, the
/// separator the expiry follows, and the expiry if it is not masked. The check character becomes a star too.
fn mask(track: &[u8], number: std::ops::Range<usize>, fields: usize, expiry: ExpiryMask) -> Vec<u8> {
    let shown = |at: usize, byte: u8| match at {
        0 => true,
        _ if at < number.start => false,
        _ if at < number.end => at < number.start + 4 || at + 4 >= number.end,
        _ if at <= fields || byte == b'?' => true,
        _ => expiry == ExpiryMask::Clear && at <= fields + 4,
    };
    let mut masked: Vec<u8> =
        track.iter().enumerate().map(|(at, byte)| if shown(at, *byte) { *byte } else { b'*' }).collect();
    masked.push(b'*');
    masked
}
