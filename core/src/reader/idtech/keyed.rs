//! ID TECH keyed entry in its own layout (type 85): one message, `PAN=YYMM=[CVV]`.
//!
//! `00000000 | field 8 | clear length L | ciphertext | session id (b3) | hash | EXP (b2) | ADR (b1) | ZIP (b0) |
//! KSN`. EXP, ADR and ZIP are ASCII with a length byte before them; they are in clear, and address and postcode
//! are dropped. The hash is passed over.

use super::super::fields::Fields;
use super::super::{Layout, Parsed};
use super::body::Body;
use crate::card::Expiry;
use crate::frame::{Entry, FrameError, FrameKey, SectionKind, Shown};
use crate::key::TdesKey;

const BLOCK: usize = 8;
/// Longest ciphertext, by the maker's manual.
const MAX_CIPHERTEXT: usize = 184;
const ZIP: u8 = 1;
const ADDRESS: u8 = 1 << 1;
const EXPIRY: u8 = 1 << 2;
const SESSION_ID: u8 = 1 << 3;

pub(super) fn parse(profile_key: Option<TdesKey>, mut fields: Fields<'_>) -> Result<Parsed, FrameError> {
    let [z0, z1, z2, z3, field8, clear_len] = fields.array()?;
    if [z0, z1, z2, z3] != [0; 4] || field8 & !(ZIP | ADDRESS | EXPIRY | SESSION_ID) != 0 {
        return Err(FrameError::Header);
    }
    let clear_len = usize::from(clear_len);
    let ciphertext_len = clear_len.next_multiple_of(BLOCK);
    match ciphertext_len {
        0 => return Err(FrameError::Empty),
        len if len > MAX_CIPHERTEXT => return Err(FrameError::CiphertextLength),
        _ => {}
    }
    let ciphertext = fields.bytes(ciphertext_len)?;
    if field8 & SESSION_ID != 0 {
        fields.skip(8)?;
    }
    fields.skip(20)?;
    let expiry = optional(&mut fields, field8 & EXPIRY, 4)?;
    optional(&mut fields, field8 & ADDRESS, 20)?;
    optional(&mut fields, field8 & ZIP, 10)?;
    let ksn = fields.ksn()?;
    fields.end()?;
    let shown = Shown { pan: None, expiry: Expiry::parse_yymm(&expiry).ok() };
    let mut body = Body::default();
    body.add(SectionKind::Keyed, &ciphertext, clear_len, shown);
    let key = FrameKey::Tdes(profile_key.unwrap_or(TdesKey::DataRequest));
    body.seal(Layout::IdTechKeyed, Entry::Keyed, key, ksn, None)
}

/// A field of at most `max` bytes behind its length, if its bit is set.
fn optional(fields: &mut Fields<'_>, bit: u8, max: usize) -> Result<Vec<u8>, FrameError> {
    if bit == 0 {
        return Ok(Vec::new());
    }
    match usize::from(fields.byte()?) {
        len if len > max => Err(FrameError::Header),
        len => fields.bytes(len),
    }
}
