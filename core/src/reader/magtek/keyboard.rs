//! MagneSafe V5 keyboard text:
//! `masked tracks|status|T1|T2|T3|MP status|MP|serial|session id|KSN|clear CRC|encrypted CRC|format`,
//! with an encryption counter behind the KSN if the reader is set so. Only the default separators are read.

use super::super::fields::unhex;
use super::super::{Layout, Parsed, check};
use super::{ENCRYPTING, Field, TRACKS, seal, serial, shown, unread};
use crate::frame::{FrameError, SectionKind};
use crate::key::TdesKey;
use crate::ksn::TdesKsn;

const SEPARATOR: u8 = b'|';
/// Fields before the KSN, and the KSN.
const HEAD_FIELDS: usize = 10;
/// Longest encrypted track, in characters.
const MAX_TRACK_CHARACTERS: usize = 512;

/// How a line may begin: with a masked track, or with none.
pub(in super::super) fn starts(line: &[u8]) -> bool {
    matches!(line, [b'%' | b';' | b'+' | SEPARATOR, ..])
}

pub(in super::super) fn parse(key: Option<TdesKey>, line: &[u8]) -> Result<Parsed, FrameError> {
    if !starts(line) {
        return Err(FrameError::Start);
    }
    let fields: Vec<&[u8]> = line.split(|c| *c == SEPARATOR).collect();
    let (head, tail) = fields.split_first_chunk::<HEAD_FIELDS>().ok_or(FrameError::Truncated)?;
    let (clear_crc, encrypted_crc, format) = match *tail {
        [clear, encrypted, format] | [_, clear, encrypted, format] => (clear, encrypted, format),
        _ if tail.len() < 3 => return Err(FrameError::Truncated),
        _ => return Err(FrameError::Trailing),
    };
    check_crc(line, clear_crc.len() + encrypted_crc.len() + format.len() + 2, clear_crc)?;
    let [masked, status, track1, track2, track3, mp_status, magneprint, device_serial, session_id, ksn] = *head;
    let status = unhex(status)?.try_into().map(u16::from_le_bytes).map_err(|_| FrameError::Header)?;
    let tracks = [track1, track2, track3];
    // Text where hex should be is a track in clear, whatever the status says.
    let clear = |track: &&[u8]| matches!(track, [b'%' | b';' | b'+', ..]);
    if status & ENCRYPTING == 0 || tracks.iter().any(clear) {
        return Err(FrameError::Clear);
    }
    // Nothing is done with these, but a reader sends them in hex; the format code is four characters.
    for other in [mp_status, magneprint, session_id, encrypted_crc] {
        unhex(other)?;
    }
    if format.len() != 4 || !format.iter().all(u8::is_ascii_alphanumeric) {
        return Err(FrameError::Header);
    }
    let masks = masks(masked)?;
    let mut sealed = [Field::default(), Field::default(), Field::default()];
    for (((slot, kind), track), mask) in sealed.iter_mut().zip(TRACKS).zip(tracks).zip(masks) {
        *slot = field(kind, track, mask)?;
    }
    if ksn.is_empty() {
        return Err(if sealed.iter().all(|field| field.ciphertext.is_empty()) {
            FrameError::Empty
        } else {
            FrameError::NoKsn
        });
    }
    let ksn = unhex(ksn)?.try_into().map(TdesKsn::new).map_err(|_| FrameError::NoKsn)?;
    seal(Layout::MagTekKeyboard, key, ksn, serial(device_serial), sealed)
}

/// The clear-text CRC runs over every character before it, separators included, and is sent low byte first.
/// The maker's manual does not say so; real outputs do.
fn check_crc(line: &[u8], after: usize, sent: &[u8]) -> Result<(), FrameError> {
    let covered = line.len().checked_sub(after).and_then(|end| line.get(..end)).ok_or(FrameError::Truncated)?;
    let sent = unhex(sent).map_err(|_| FrameError::Check)?;
    if sent == check::crc16(covered).to_le_bytes() { Ok(()) } else { Err(FrameError::Check) }
}

/// Cuts the first field at the end sentinels: track 1 begins with `%`, track 2 with `;`, track 3 with `+`.
fn masks(mut text: &[u8]) -> Result<[&[u8]; 3], FrameError> {
    let mut masks: [&[u8]; 3] = [&[]; 3];
    for (slot, start) in masks.iter_mut().zip([b'%', b';', b'+']) {
        if text.first() == Some(&start) {
            let end = text.iter().position(|c| *c == b'?').ok_or(FrameError::Header)?;
            let (mask, rest) = text.split_at_checked(end + 1).ok_or(FrameError::Header)?;
            (*slot, text) = (mask, rest);
        }
    }
    if text.is_empty() { Ok(masks) } else { Err(FrameError::Header) }
}

fn field(kind: SectionKind, track: &[u8], mask: &[u8]) -> Result<Field, FrameError> {
    if track.len() > MAX_TRACK_CHARACTERS {
        return Err(FrameError::CiphertextLength);
    }
    let ciphertext = unhex(track)?;
    if unread(mask) {
        return Ok(Field::default());
    }
    Ok(Field::new(ciphertext, mask.len(), shown(kind, mask)))
}
