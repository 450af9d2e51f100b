//! The frame around every ID TECH output: `02 | length | card data | LRC | sum | 03`.
//!
//! In text every byte of it is two hex digits, the length counts characters, and LRC and sum run over the
//! characters of the card data, not over the bytes they stand for.

use super::super::check;
use super::super::fields::{Fields, Form, unhex};
use crate::frame::FrameError;

const STX: u8 = 0x02;
const ETX: u8 = 0x03;
/// Bytes of a binary frame that are not card data.
const BINARY_OVERHEAD: usize = 6;
/// Characters of a text frame that are not card data.
pub(in super::super) const TEXT_OVERHEAD: usize = 12;
/// The card encode types: ISO/ABA, AAMVA, other, raw, in the original and the enhanced layout; keyed in both.
pub(super) const ENCODE_TYPES: [u8; 10] = [0x00, 0x01, 0x03, 0x04, 0x80, 0x81, 0x83, 0x84, 0x85, 0xC0];

/// The card data of a frame whose length, check values and end are right.
pub(super) fn card_data(form: Form, frame: &[u8]) -> Result<&[u8], FrameError> {
    let mut fields = Fields::new(form, frame);
    if fields.byte().map_err(|_| FrameError::Start)? != STX {
        return Err(FrameError::Start);
    }
    let len = usize::from(u16::from_le_bytes(fields.array()?));
    let trailer = form.units(3);
    match fields.units_left().checked_sub(trailer) {
        Some(left) if left > len => return Err(FrameError::Trailing),
        Some(left) if left == len => {}
        _ => return Err(FrameError::Truncated),
    }
    let data = fields.literal(len)?;
    let expected = [check::lrc(data), check::sum(data), ETX];
    if fields.array::<3>().map_err(|_| FrameError::Check)? == expected { Ok(data) } else { Err(FrameError::Check) }
}

/// How long the binary frame at the start of these bytes is, if it can be one; `None` if it is none.
/// Fewer than four bytes may be the start of any.
pub(in super::super) fn whole_binary(bytes: &[u8]) -> Option<usize> {
    match *bytes {
        [STX, low, high, encode_type, ..] if ENCODE_TYPES.contains(&encode_type) => {
            Some(usize::from(u16::from_le_bytes([low, high])) + BINARY_OVERHEAD)
        }
        _ => None,
    }
}

/// How many characters the text frame at the start of this text has, if it can be one.
pub(in super::super) fn whole_text(text: &[u8]) -> Option<usize> {
    let head = unhex(text.get(..8)?).ok()?;
    match *head {
        [STX, low, high, encode_type] if ENCODE_TYPES.contains(&encode_type) => {
            Some(usize::from(u16::from_le_bytes([low, high])) + TEXT_OVERHEAD)
        }
        _ => None,
    }
}
