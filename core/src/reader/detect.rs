//! Guesses the format of a device output, for the bench: in service a device's format is its registration's.

use super::idtech::{self, TEXT_OVERHEAD};
use super::{line, magtek};
use crate::device::Format;
use crate::frame::MAGIC;

/// The format these bytes have, as far as their beginning and length tell; their checks are [`super::parse`]'s.
/// Keyboard text is recognised as text: hex digits that stand for a binary frame are not a format.
pub fn detect(bytes: &[u8]) -> Option<Format> {
    if bytes.starts_with(&MAGIC) {
        return Some(Format::Native);
    }
    if bytes.starts_with(&idtech::MAGIC) {
        return Some(Format::IdTechBinary);
    }
    let text = line(bytes);
    if text.iter().all(|c| (0x20..0x7F).contains(c)) {
        return keyboard(text);
    }
    if idtech::whole_binary(bytes) == Some(bytes.len()) {
        return Some(Format::IdTechBinary);
    }
    if magtek::hid::plausible(bytes) {
        return Some(Format::MagTekHid);
    }
    idtech::whole_binary(bytes).map(|_| Format::IdTechBinary)
}

fn keyboard(text: &[u8]) -> Option<Format> {
    // A binary frame written in hex begins like a text frame, but its length is of another kind.
    let all_hex = text.iter().all(u8::is_ascii_hexdigit);
    match idtech::whole_text(text) {
        Some(len) if len == text.len() || (len > TEXT_OVERHEAD && !all_hex) => Some(Format::IdTechKeyboard),
        _ => (magtek::keyboard::starts(text) && text.contains(&b'|')).then_some(Format::MagTekKeyboard),
    }
}
