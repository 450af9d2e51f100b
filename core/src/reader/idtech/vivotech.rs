//! The NEO envelope ("ViVOtech2") some ID TECH readers put around a binary frame.
//!
//! `"ViVOtech2" 00 | command | status | length, high byte first | data | CRC-16, high byte first`. The data of a
//! swipe is an attribution byte and BER-TLV; tag DFEE23 holds the whole frame, with its own length and checks.

use super::super::check;
use crate::frame::FrameError;
use crate::tlv::{self, Tag};

/// How the envelope begins.
pub(in super::super) const MAGIC: [u8; 10] = *b"ViVOtech2\0";
/// Bytes of the envelope that are not data.
pub(in super::super) const OVERHEAD: usize = 16;
/// The object that holds the frame.
const FRAME: Tag = Tag::new(0xDF_EE23);

/// The frame in the envelope.
pub(super) fn unwrap(bytes: &[u8]) -> Result<&[u8], FrameError> {
    let rest = bytes.strip_prefix(&MAGIC).ok_or(FrameError::Start)?;
    let (&[_command, status, high, low], rest) = rest.split_first_chunk().ok_or(FrameError::Truncated)?;
    let data_len = usize::from(u16::from_be_bytes([high, low]));
    let (data, crc) = rest.split_at_checked(data_len).ok_or(FrameError::Truncated)?;
    let crc: &[u8; 2] = match crc.len() {
        0 | 1 => return Err(FrameError::Truncated),
        _ => crc.try_into().map_err(|_| FrameError::Trailing)?,
    };
    let (covered, _) = bytes.split_at_checked(bytes.len() - crc.len()).ok_or(FrameError::Truncated)?;
    if check::crc16(covered).to_be_bytes() != *crc {
        return Err(FrameError::Check);
    }
    // Any other status is a reader's error answer.
    if status != 0 {
        return Err(FrameError::Empty);
    }
    let objects = data.get(1..).ok_or(FrameError::Empty)?;
    let frame = tlv::find(objects, FRAME).map_err(|_| FrameError::Header)?;
    // Without it: a contact or contactless chip, whose objects are encrypted one by one.
    frame.ok_or(FrameError::Unsupported)
}
