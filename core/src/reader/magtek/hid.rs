//! MagneSafe V5 USB HID report: 856 bytes at fixed offsets; later models append more, which is not read.

use super::super::{Layout, Parsed};
use super::{BLOCK, ENCRYPTING, Field, TRACKS, seal, serial, shown, unread};
use crate::frame::FrameError;
use crate::key::TdesKey;
use crate::ksn::TdesKsn;

/// Length of the report all models send.
pub(in super::super) const REPORT_LEN: usize = 856;
/// Room for one track, encrypted or masked.
const TRACK_ROOM: usize = 112;

/// Where the fields are. Those of three bytes or areas are for tracks 1, 2 and 3.
const DECODE_STATUS: usize = 0;
const ENCRYPTED_LEN: usize = 3;
const ENCODE_TYPE: usize = 6;
const ENCRYPTED: usize = 7;
const SERIAL: usize = 477;
const SERIAL_LEN: usize = 16;
const STATUS: usize = 493;
const KSN: usize = 495;
const MASKED_LEN: usize = 505;
const MASKED: usize = 508;
const CLEAR_LEN: usize = 852;

/// Largest card encode type: no card.
const MAX_ENCODE_TYPE: u8 = 6;

/// Whether these bytes can be a report: its lengths and codes are possible.
pub(in super::super) fn plausible(report: &[u8]) -> bool {
    report.len() >= REPORT_LEN
        && report[DECODE_STATUS..ENCRYPTED_LEN].iter().all(|status| *status <= 1)
        && report[ENCODE_TYPE] <= MAX_ENCODE_TYPE
        && report[ENCRYPTED_LEN..ENCODE_TYPE].iter().all(|len| usize::from(*len) <= TRACK_ROOM)
        && report[MASKED_LEN..MASKED].iter().all(|len| usize::from(*len) <= TRACK_ROOM)
}

pub(in super::super) fn parse(key: Option<TdesKey>, report: &[u8]) -> Result<Parsed, FrameError> {
    let (report, _later) = report.split_first_chunk::<REPORT_LEN>().ok_or(FrameError::Truncated)?;
    if !plausible(report) {
        return Err(FrameError::Header);
    }
    // High byte first here, unlike in keyboard text.
    let status = u16::from_be_bytes([report[STATUS], report[STATUS + 1]]);
    if status & ENCRYPTING == 0 {
        return Err(FrameError::Clear);
    }
    let mut sealed = [Field::default(), Field::default(), Field::default()];
    for (place, (slot, kind)) in sealed.iter_mut().zip(TRACKS).enumerate() {
        let masked_len = usize::from(report[MASKED_LEN + place]);
        let mask = area(report, MASKED, place, masked_len)?;
        let len = usize::from(report[ENCRYPTED_LEN + place]);
        if !len.is_multiple_of(BLOCK) {
            return Err(FrameError::CiphertextLength);
        }
        let ciphertext = area(report, ENCRYPTED, place, len)?;
        if report[DECODE_STATUS + place] == 0 && !unread(mask) {
            let announced = usize::from(report[CLEAR_LEN + place]);
            *slot = Field::new(ciphertext.to_vec(), announced, shown(kind, mask));
        }
    }
    if sealed.iter().all(|field| field.ciphertext.is_empty()) {
        return Err(FrameError::Empty);
    }
    let ksn: [u8; 10] = report[KSN..MASKED_LEN].try_into().map_err(|_| FrameError::NoKsn)?;
    if ksn == [0; 10] {
        return Err(FrameError::NoKsn);
    }
    let device_serial = &report[SERIAL..SERIAL + SERIAL_LEN];
    let end = device_serial.iter().position(|byte| *byte == 0).unwrap_or(SERIAL_LEN);
    seal(Layout::MagTekHid, key, TdesKsn::new(ksn), serial(&device_serial[..end]), sealed)
}

/// The first `len` bytes of a track's area. Behind them are zeros: anything else means the length is wrong.
fn area(report: &[u8; REPORT_LEN], start: usize, place: usize, len: usize) -> Result<&[u8], FrameError> {
    let start = start + place * TRACK_ROOM;
    let (used, unused) = report[start..start + TRACK_ROOM].split_at_checked(len).ok_or(FrameError::CiphertextLength)?;
    if unused.iter().all(|byte| *byte == 0) { Ok(used) } else { Err(FrameError::CiphertextLength) }
}
