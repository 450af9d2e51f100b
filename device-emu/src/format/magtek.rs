//! MagTek MagneSafe V5 output, made as the readers make it: the keyboard line and the USB HID report.
//!
//! Source: MagneSafe V5 manual 99875475 (rev. of 2009 and later), appendix D, and the published outputs these are
//! tested against. Every field is encrypted alone under the **PIN variant**, TDES-CBC, zero IV, without the check
//! character of the track.

use warifu_core::key::{KeyBytes, TdesKey};
use warifu_core::secret::SecretBytes;

use super::FormatError;
use crate::dukpt::tdes::Transaction;
use crate::reader::Stripe;
use crate::sealing::{Fill, Message};

/// TDES blocks, zero filled.
const FILL: Fill = Fill::Zero(8);
/// Place of a track in the report.
const TRACK_LEN: usize = 112;
/// Length of the report.
const REPORT_LEN: usize = 856;
/// Key injected, encryption enabled.
const ENCRYPTING: u16 = 0x0006;
/// Length of a MagnePrint.
pub const PRINT_LEN: usize = 54;

/// How a reader is set, and what it adds to the tracks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings<'a> {
    /// Its serial number, at most 15 characters; may be empty.
    pub serial: &'a [u8],
    /// The session id the host set; zeros if it set none.
    pub session: [u8; 8],
    /// MagnePrint status, as its four bytes are sent.
    pub print_status: [u8; 4],
    /// The MagnePrint, the fingerprint of a stripe: made up, since no stripe was read.
    pub print: [u8; PRINT_LEN],
}

/// The keyboard line, ended by ENTER (a carriage return).
pub fn keyboard(
    transaction: &Transaction<'_>,
    stripe: &Stripe,
    settings: &Settings<'_>,
) -> Result<Vec<u8>, FormatError> {
    let key = transaction.key(TdesKey::Pin);
    let third = third(stripe, b'+');
    let tracks = [stripe.track1(), stripe.track2(), third.expose()];
    let mut line: Vec<u8> = tracks.iter().flat_map(|track| masked(track)).collect();
    let mut field = |text: &[u8]| {
        line.push(b'|');
        line.extend(text);
    };
    let upper = |bytes: &[u8]| hex::encode_upper(bytes).into_bytes();
    field(&upper(&ENCRYPTING.to_le_bytes()));
    for track in tracks {
        field(&upper(&sealed(track, &key)));
    }
    field(&upper(&settings.print_status));
    field(&upper(&sealed(&settings.print, &key)));
    field(settings.serial);
    field(&upper(&sealed(&settings.session, &key)));
    field(&upper(transaction.ksn().bytes()));
    line.push(b'|');
    let check = crc16(&line);
    line.extend(upper(&check.to_le_bytes()));
    line.extend(b"||0000\r");
    Ok(line)
}

/// The HID report, 856 bytes.
pub fn report(transaction: &Transaction<'_>, stripe: &Stripe, settings: &Settings<'_>) -> Result<Vec<u8>, FormatError> {
    let key = transaction.key(TdesKey::Pin);
    let mut report = vec![0; REPORT_LEN];
    let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
    let third = third(stripe, b';');
    for (number, track) in [stripe.track1(), stripe.track2(), third.expose()].into_iter().enumerate() {
        let (sealed, masked) = (sealed(track, &key), masked(track));
        if sealed.len() > TRACK_LEN || masked.len() > TRACK_LEN {
            return Err(FormatError::TooLong);
        }
        put(3 + number, &[len(&sealed)?]);
        put(7 + number * TRACK_LEN, &sealed);
        put(505 + number, &[len(&masked)?]);
        put(508 + number * TRACK_LEN, &masked);
        put(852 + number, &[len(track)?]);
    }
    if settings.serial.len() > 15 {
        return Err(FormatError::TooLong);
    }
    let print = sealed(&settings.print, &key);
    put(344, &settings.print_status);
    put(348, &[len(&print)?]);
    put(349, &print);
    put(477, settings.serial);
    put(493, &ENCRYPTING.to_be_bytes());
    put(495, transaction.ksn().bytes());
    put(844, &sealed(&settings.session, &key));
    put(855, &[len(&settings.print)?]);
    Ok(report)
}

/// Track 3 with the start sentinel it has in this output.
fn third(stripe: &Stripe, sentinel: u8) -> SecretBytes {
    SecretBytes::filled(stripe.track3().len(), |into| {
        into.copy_from_slice(stripe.track3());
        if let Some(first) = into.first_mut() {
            *first = sentinel;
        }
    })
}

fn sealed(field: &[u8], key: &KeyBytes) -> Vec<u8> {
    Message::joined(&[field], FILL).sealed_tdes(key)
}

fn len(field: &[u8]) -> Result<u8, FormatError> {
    u8::try_from(field.len()).map_err(|_| FormatError::TooLong)
}

/// A track as it may be seen: the first and last four of the number, one of the digits between them such that the
/// number passes Luhn, the others 0; name and expiry; zeros for the rest.
fn masked(track: &[u8]) -> Vec<u8> {
    let mut masked = track.to_vec();
    let (start, separator) = if track.first() == Some(&b'%') { (2, b'^') } else { (1, b'=') };
    let is_number = |end: &usize| *end >= start + 12 && track[start..*end].iter().all(u8::is_ascii_digit);
    let Some(end) = track.iter().position(|byte| *byte == separator).filter(is_number) else {
        masked.fill(b'0');
        return masked;
    };
    let number = &mut masked[start..end];
    let digits = number.len();
    number[4..digits - 4].fill(b'0');
    // The eighth from the right counts double; doubled digits take every value, so one of the ten fits.
    let balance = digits - 8;
    while !passes_luhn(number) {
        number[balance] += 1;
    }
    let fields = match separator {
        b'^' => track.iter().skip(end + 1).position(|byte| *byte == b'^').map_or(track.len(), |at| end + 1 + at),
        _ => end,
    };
    let rest = masked.iter_mut().skip(fields + 5).filter(|byte| **byte != b'?');
    rest.for_each(|byte| *byte = b'0');
    masked
}

fn passes_luhn(number: &[u8]) -> bool {
    let sum: u32 = number
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(digit - b'0');
            if place.is_multiple_of(2) { digit } else { digit * 2 / 10 + digit * 2 % 10 }
        })
        .sum();
    sum.is_multiple_of(10)
}

/// CRC-16/CCITT-FALSE: polynomial 1021, start FFFF, not reflected.
fn crc16(text: &[u8]) -> u16 {
    text.iter().fold(0xFFFF, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    })
}
