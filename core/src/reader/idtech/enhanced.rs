//! ID TECH enhanced layout (types 80, 81, 83, C0): each track is a message of its own.
//!
//! | part | bytes | present if |
//! |---|---|---|
//! | status, lengths of tracks 1-3, field 8, field 9 | 6 | always |
//! | field 10: count of option bytes, and these | 1 + n | status b6 |
//! | masked tracks 1-3 | their lengths | field 8 b0-b2 |
//! | encrypted tracks 1-3 | their lengths, in whole blocks | field 9 b0-b2 |
//! | session id | 8 | field 9 b6 |
//! | hashes 1-3 | 20, or 32 by option b0 | field 9 b3-b5 |
//! | serial number | 10 | field 8 b7 |
//! | KSN | 10 | field 9 b7 |
//! | MAC length, MAC, MAC KSN | 1 + n + 10 | option b5 |
//!
//! The hashes (SHA-1 of the clear track with its LRC character; zeros from SRED readers) are not checked: the
//! LRC character, the sentinels and the fill of each track prove the key, and an unkeyed hash proves no origin.

use super::super::fields::Fields;
use super::super::{Layout, Parsed, shown};
use super::TYPE_KEYED_ENHANCED;
use super::body::Body;
use crate::frame::{Entry, FrameError, FrameKey, SectionKind, Shown};
use crate::key::TdesKey;

/// Status: option bytes follow.
const STATUS_OPTIONS: u8 = 1 << 6;
/// Field 8: a fixed key instead of DUKPT.
const FIXED_KEY: u8 = 1 << 3;
/// Field 8: AES instead of TDES.
const AES: u8 = 1 << 4;
/// Field 8: the PIN variant instead of the data key.
const PIN_VARIANT: u8 = 1 << 6;
/// Field 8: the serial number is there.
const SERIAL: u8 = 1 << 7;
/// Field 9: the session id is there.
const SESSION_ID: u8 = 1 << 6;
/// Field 9: the KSN is there.
const KSN: u8 = 1 << 7;
/// First option byte: SHA-256 hashes.
const OPTION_SHA256: u8 = 1;
/// First option byte: which encryption. Anything but this layout's own, or its TransArmor TDES twin, is refused.
const OPTION_ENCRYPTION: u8 = 0b0001_1100;
const OPTION_TRANSARMOR_TDES: u8 = 0b0001_0000;
/// First option byte: a MAC follows the KSN.
const OPTION_MAC: u8 = 1 << 5;

const TRACKS: [SectionKind; 3] = [SectionKind::Track1, SectionKind::Track2, SectionKind::Track3];

pub(super) fn parse(
    profile_key: Option<TdesKey>,
    encode_type: u8,
    mut fields: Fields<'_>,
) -> Result<Parsed, FrameError> {
    let [status, len1, len2, len3, field8, field9] = fields.array()?;
    let lens = [len1, len2, len3].map(usize::from);
    let option = if status & STATUS_OPTIONS == 0 { 0 } else { options(&mut fields)? };
    let shown = masked_tracks(&mut fields, field8, lens)?;
    if field8 & FIXED_KEY != 0 || !matches!(option & OPTION_ENCRYPTION, 0 | OPTION_TRANSARMOR_TDES) {
        return Err(FrameError::Unsupported);
    }
    let key = key(profile_key, field8);
    let mut body = Body::default();
    for (place, ((kind, len), shown)) in TRACKS.into_iter().zip(lens).zip(shown).enumerate() {
        if field9 & 1 << place != 0 && len > 0 {
            body.add(kind, &fields.bytes(len.next_multiple_of(key.block_len()))?, len, shown);
        }
    }
    // At security level 4: it names the host's session and is nothing to this server.
    if field9 & SESSION_ID != 0 {
        fields.skip(8)?;
    }
    let hash_len = if option & OPTION_SHA256 == 0 { 20 } else { 32 };
    for place in 3..6 {
        if field9 & 1 << place != 0 {
            fields.skip(hash_len)?;
        }
    }
    let serial = if field8 & SERIAL == 0 { None } else { serial(&fields.array::<10>()?) };
    if body.is_empty() {
        return Err(FrameError::Empty);
    }
    if field9 & KSN == 0 {
        return Err(FrameError::NoKsn);
    }
    let ksn = fields.ksn()?;
    // A MAC by another key serial number: passed over, as these frames are not trusted for their origin.
    if option & OPTION_MAC != 0 {
        let len = usize::from(fields.byte()?);
        fields.skip(len + 10)?;
    }
    fields.end()?;
    let entry = if encode_type == TYPE_KEYED_ENHANCED { Entry::Keyed } else { Entry::Swiped };
    body.seal(Layout::IdTechEnhanced, entry, key, ksn, serial)
}

/// The frame names the PIN variant itself; the data key goes by many names and is the device's setting.
fn key(profile_key: Option<TdesKey>, field8: u8) -> FrameKey {
    let key = match profile_key {
        _ if field8 & PIN_VARIANT != 0 => TdesKey::Pin,
        Some(key) => key,
        None => TdesKey::DataRequest,
    };
    if field8 & AES == 0 { FrameKey::Tdes(key) } else { FrameKey::TdesAsAes(key) }
}

/// The first of the option bytes, zero if there is none.
fn options(fields: &mut Fields<'_>) -> Result<u8, FrameError> {
    let count = usize::from(fields.byte()?);
    Ok(fields.bytes(count)?.first().copied().unwrap_or(0))
}

fn masked_tracks(fields: &mut Fields<'_>, field8: u8, lens: [usize; 3]) -> Result<[Shown; 3], FrameError> {
    let mut tracks = [Shown::default(); 3];
    for (place, (track, len)) in tracks.iter_mut().zip(lens).enumerate() {
        if field8 & 1 << place != 0 {
            *track = shown::starred(fields.literal(len)?)?;
        }
    }
    Ok(tracks)
}

/// A serial number of printable characters.
fn serial(bytes: &[u8]) -> Option<String> {
    let text = bytes.trim_ascii();
    let printable = !text.is_empty() && text.iter().all(|c| (0x20..0x7F).contains(c));
    printable.then(|| text.iter().copied().map(char::from).collect())
}
