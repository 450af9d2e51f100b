//! ID TECH original layout (types 00, 01, 03): the encrypted tracks are one message.
//!
//! `status, lengths of tracks 1-3 | masked track 1 | masked track 2 | track 3 in clear | encrypted tracks |
//! hashes | KSN`. Nothing in it says which of its optional parts are there, and readers differ: SREDKey 2
//! encrypts track 3 with the others and sends a third hash. The total length tells.
//!
//! Track 3 of a payment card is read by nobody: in clear it is no part of the frame, and given to the bench alone.

use super::super::fields::Fields;
use super::super::{Layout, Parsed, shown};
use super::body::Body;
use crate::frame::{Entry, FrameError, FrameKey, SectionKind, Shown};
use crate::key::TdesKey;
use crate::ksn::TdesKsn;
use crate::secret::SecretBytes;
use crate::track::Number;

const BLOCK: usize = 8;
const HASH_LEN: usize = 20;
const KSN_LEN: usize = 10;

/// The parts of an output.
struct Parts<'a> {
    lens: [usize; 3],
    shown: Shown,
    clear_track3: &'a [u8],
    ciphertext: Vec<u8>,
    ksn: TdesKsn,
}

/// One way to fill the total length.
struct Variant {
    clear_track3: usize,
    encrypted: usize,
    hashes: usize,
}

pub(super) fn parse(profile_key: Option<TdesKey>, fields: Fields<'_>) -> Result<Parsed, FrameError> {
    let Parts { lens: [len1, len2, len3], shown, clear_track3, ciphertext, ksn } = parts(fields)?;
    let clear_len = len1 + len2 + if clear_track3.len() == len3 { 0 } else { len3 };
    let mut body = Body::default();
    let kind = SectionKind::JoinedTracks { track1_len: len1, track2_len: len2 };
    body.add(kind, &ciphertext, clear_len, shown);
    let key = FrameKey::Tdes(profile_key.unwrap_or(TdesKey::DataRequest));
    body.seal(Layout::IdTechOriginal, Entry::Swiped, key, ksn, None)
}

/// Track 3 as the reader sent it, if it sent one in clear.
pub(super) fn clear_track3(fields: Fields<'_>) -> Option<SecretBytes> {
    let track3 = parts(fields).ok()?.clear_track3;
    Number::Three.frame(track3).is_ok().then(|| SecretBytes::copied(track3))
}

fn parts(mut fields: Fields<'_>) -> Result<Parts<'_>, FrameError> {
    let [_status, len1, len2, len3] = fields.array()?;
    let lens @ [len1, len2, _] = [len1, len2, len3].map(usize::from);
    let masks = [fields.literal(len1)?, fields.literal(len2)?];
    let [shown1, shown2] = [shown::starred(masks[0])?, shown::starred(masks[1])?];
    let variant = variant(lens, &fields)?;
    let clear_track3 = fields.literal(variant.clear_track3)?;
    let ciphertext = fields.bytes(variant.encrypted)?;
    fields.skip(variant.hashes * HASH_LEN)?;
    let ksn = fields.ksn()?;
    fields.end()?;
    let shown = Shown { pan: shown1.pan.or(shown2.pan), expiry: shown1.expiry.or(shown2.expiry) };
    Ok(Parts { lens, shown, clear_track3, ciphertext, ksn })
}

/// The documented variant whose length is the one there is. Where more than one has it, whether a track 3 in clear
/// is there decides; among equals the first.
fn variant([len1, len2, len3]: [usize; 3], fields: &Fields<'_>) -> Result<Variant, FrameError> {
    if len1 + len2 == 0 {
        return Err(FrameError::Empty);
    }
    let form = fields.form();
    let tracks = |lens: &[usize]| lens.iter().filter(|len| **len > 0).count();
    let variants = [
        (len3, len1 + len2, tracks(&[len1, len2])),
        (0, len1 + len2 + len3, 3),
        (0, len1 + len2 + len3, tracks(&[len1, len2, len3])),
        (len3, len1 + len2, 3),
        (len3, len1 + len2, 2),
    ]
    .map(|(clear_track3, clear, hashes)| Variant {
        clear_track3,
        encrypted: clear.next_multiple_of(BLOCK),
        hashes,
    });
    let units =
        |variant: &Variant| variant.clear_track3 + form.units(variant.encrypted + variant.hashes * HASH_LEN + KSN_LEN);
    let shortest = variants.iter().map(units).min().unwrap_or(0);
    let left = fields.units_left();
    let clear = { *fields }.literal(len3).ok().is_some_and(|text| Number::Three.frame(text).is_ok());
    let doubt = |variant: &Variant| match (variant.clear_track3 > 0, clear) {
        (true, true) => 0,
        (false, _) => 1,
        (true, false) => 2,
    };
    match variants.into_iter().filter(|variant| units(variant) == left).min_by_key(doubt) {
        Some(variant) => Ok(variant),
        None if left < shortest => Err(FrameError::Truncated),
        None => Err(FrameError::Header),
    }
}
