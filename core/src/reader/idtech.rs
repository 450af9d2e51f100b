//! ID TECH readers (SecureMag, SecureHead, Augusta, SecuRED, SREDKey, VP3350 and their like): three layouts in
//! one frame, as bytes or as keyboard text, and the NEO envelope around the binary one.

mod body;
mod enhanced;
mod frame;
mod keyed;
mod original;
mod vivotech;

use frame::ENCODE_TYPES;
pub(super) use frame::{TEXT_OVERHEAD, whole_binary, whole_text};
pub(super) use vivotech::{MAGIC, OVERHEAD as VIVOTECH_OVERHEAD};

use super::Parsed;
use super::fields::{Fields, Form};
use crate::frame::FrameError;
use crate::key::TdesKey;
use crate::secret::SecretBytes;

/// Encode type: any layout but the original.
const ENHANCED: u8 = 0x80;
/// Keyed entry in its own layout.
const TYPE_KEYED: u8 = 0x85;
/// Keyed entry in the enhanced layout.
const TYPE_KEYED_ENHANCED: u8 = 0xC0;
/// Undecoded bits of the stripe, which nothing here can read.
const TYPES_RAW: [u8; 2] = [0x04, 0x84];

/// Parses a binary frame, bare or in the NEO envelope.
pub(super) fn parse_binary(key: Option<TdesKey>, bytes: &[u8]) -> Result<Parsed, FrameError> {
    parse(key, Form::Binary, bare(bytes)?)
}

/// Parses a frame of keyboard text.
pub(super) fn parse_keyboard(key: Option<TdesKey>, text: &[u8]) -> Result<Parsed, FrameError> {
    parse(key, Form::Text, text)
}

/// Track 3 in clear, which the original layout allows.
pub(super) fn clear_track3(form: Form, bytes: &[u8]) -> Option<SecretBytes> {
    let bytes = if form == Form::Binary { bare(bytes).ok()? } else { bytes };
    let mut fields = Fields::new(form, frame::card_data(form, bytes).ok()?);
    let original = fields.byte().ok()? & ENHANCED == 0;
    original.then(|| original::clear_track3(fields))?
}

/// The binary frame without its envelope.
fn bare(bytes: &[u8]) -> Result<&[u8], FrameError> {
    if bytes.starts_with(&MAGIC) { vivotech::unwrap(bytes) } else { Ok(bytes) }
}

fn parse(key: Option<TdesKey>, form: Form, bytes: &[u8]) -> Result<Parsed, FrameError> {
    let mut fields = Fields::new(form, frame::card_data(form, bytes)?);
    match fields.byte()? {
        encode_type if !ENCODE_TYPES.contains(&encode_type) => Err(FrameError::Header),
        encode_type if TYPES_RAW.contains(&encode_type) => Err(FrameError::Unsupported),
        TYPE_KEYED => keyed::parse(key, fields),
        encode_type if encode_type & ENHANCED == 0 => original::parse(key, fields),
        encode_type => enhanced::parse(key, encode_type, fields),
    }
}
