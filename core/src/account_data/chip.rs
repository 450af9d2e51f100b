//! A card dipped: EMV data objects in clear (EMV Book 3 annex A).

use super::{AccountDataError, Draft};
use crate::card::MAX_PAN_LEN;
use crate::secret::SecretBytes;
use crate::tlv::{self, Tag};
use crate::track::{MAX_TRACK_LEN, Track2};

/// Application primary account number, BCD, filled with F on the right.
const PAN: Tag = Tag::new(0x5A);
/// Application expiration date, YYMMDD.
const EXPIRY: Tag = Tag::new(0x5F24);
/// Track 2 equivalent data: digits, D for the separator, filled with F.
const TRACK2: Tag = Tag::new(0x57);
/// Cardholder name.
const NAME: Tag = Tag::new(0x5F20);

impl Draft {
    /// Reads the objects that name the card; all of them stay together for the acquirer. Each may be there once.
    pub(super) fn read_chip(&mut self, body: &[u8]) -> Result<(), AccountDataError> {
        let find = |tag| tlv::find(body, tag).map_err(|_| AccountDataError::Malformed);
        if let Some(bcd) = find(PAN)? {
            let digits = hex_digits(bcd, MAX_PAN_LEN + 1)?;
            self.take_pan(strip_fill(digits.expose()))?;
        }
        if let Some(bcd) = find(TRACK2)? {
            let text = hex_digits(bcd, MAX_TRACK_LEN)?;
            let track = Track2::parse(text.expose()).map_err(|_| AccountDataError::Malformed)?;
            self.take_pan(track.pan)?;
            self.take_dates(track.expiry, track.service_code)?;
        }
        if let Some(date) = find(EXPIRY)? {
            let date = hex_digits(date, 6)?;
            let yymm = date.expose().first_chunk::<4>().filter(|_| date.len() == 6);
            self.take_expiry(yymm.ok_or(AccountDataError::Malformed)?)?;
        }
        self.name = find(NAME)?.map(|name| SecretBytes::copied(name.trim_ascii_end())).filter(|name| !name.is_empty());
        self.chip = Some(SecretBytes::copied(body));
        Ok(())
    }
}

/// The nibbles of packed data as upper-case hex digits.
fn hex_digits(packed: &[u8], max: usize) -> Result<SecretBytes, AccountDataError> {
    let len = packed.len() * 2;
    if len > max + max % 2 {
        return Err(AccountDataError::Malformed);
    }
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 };
    Ok(SecretBytes::filled(len, |digits| {
        for (pair, byte) in digits.chunks_exact_mut(2).zip(packed) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0x0F)]);
        }
    }))
}

fn strip_fill(digits: &[u8]) -> &[u8] {
    let kept = digits.iter().rposition(|digit| *digit != b'F').map_or(0, |last| last + 1);
    digits.get(..kept).unwrap_or_default()
}
