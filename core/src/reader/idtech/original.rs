//! ID TECH original layout (types 00, 01, 03): the encrypted tracks are one message.
//!
//! `status, lengths of tracks 1-3 | masked track 1 | masked track 2 | track 3 in clear | encrypted tracks |
//! hashes | KSN`. Nothing in it says which of its optional parts are there, and readers differ: SREDKey 2
//! encrypts track 3 with the others and sends a third hash. The total length tells.
//!
//! Track 3 of a payment card is read by nobody; in clear it is dropped here.

use super::super::fields::Fields;
use super::super::{Layout, Parsed, shown};
use super::body::Body;
use crate::frame::{Entry, FrameError, FrameKey, SectionKind, Shown};
use crate::key::TdesKey;

const BLOCK: usize = 8;
const HASH_LEN: usize = 20;
const KSN_LEN: usize = 10;

/// One way to fill the total length.
struct Variant {
    clear_track3: usize,
    encrypted: usize,
    hashes: usize,
}

pub(super) fn parse(profile_key: Option<TdesKey>, mut fields: Fields<'_>) -> Result<Parsed, FrameError> {
    let [_status, len1, len2, len3] = fields.array()?;
    let [len1, len2, len3] = [len1, len2, len3].map(usize::from);
    let masks = [fields.literal(len1)?, fields.literal(len2)?];
    let [shown1, shown2] = [shown::starred(masks[0])?, shown::starred(masks[1])?];
    let variant = variant([len1, len2, len3], &fields)?;
    fields.literal(variant.clear_track3)?;
    let ciphertext = fields.bytes(variant.encrypted)?;
    fields.skip(variant.hashes * HASH_LEN)?;
    let ksn = fields.ksn()?;
    fields.end()?;
    let shown = Shown { pan: shown1.pan.or(shown2.pan), expiry: shown1.expiry.or(shown2.expiry) };
    let clear_len = len1 + len2 + if variant.clear_track3 == len3 { 0 } else { len3 };
    let mut body = Body::default();
    let kind = SectionKind::JoinedTracks { track1_len: len1, track2_len: len2 };
    body.add(kind, &ciphertext, clear_len, shown);
    let key = FrameKey::Tdes(profile_key.unwrap_or(TdesKey::DataRequest));
    body.seal(Layout::IdTechOriginal, Entry::Swiped, key, ksn, None)
}

/// The first documented variant whose length is the one there is.
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
    match variants.into_iter().find(|variant| units(variant) == left) {
        Some(variant) => Ok(variant),
        None if left < shortest => Err(FrameError::Truncated),
        None => Err(FrameError::Header),
    }
}
