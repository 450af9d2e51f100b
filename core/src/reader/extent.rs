//! Cuts device outputs out of a byte stream, and finds the next one after garbage.
//!
//! A changed length byte must not swallow the good output behind it: while an output seems to be incomplete,
//! a whole and sound one further on proves that the first was garbage.

use super::{MAX_OUTPUT_LEN, idtech, magtek};
use crate::device::Format;
use crate::frame::{FrameMac, HEADER_LEN, MAGIC, MAX_BLOCKS, VERSION};

/// What is at the start of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Perhaps the start of an output.
    NeedMore,
    /// An output from `start` up to `end`; what is before it, and it, may be dropped. It is whole but not
    /// checked: [`super::parse`] says whether it is good.
    Frame {
        /// Its first byte.
        start: usize,
        /// The byte behind its last.
        end: usize,
    },
    /// `skip` bytes, at least one, that belong to no output.
    Garbage {
        /// How many.
        skip: usize,
    },
}

/// What a candidate at the start of some bytes is.
enum Candidate {
    /// No output starts here.
    No,
    /// One may, of this length if it is known already.
    Partial,
    /// All of it is there.
    Whole(usize),
}

/// Looks at the start of a stream. Give it what has come in so far, as often as more has come; it never asks
/// for more than [`MAX_OUTPUT_LEN`] bytes.
pub fn extent(format: Format, stream: &[u8]) -> Extent {
    match format {
        // A native frame is authentic or not, which is not to be told here; but no ciphertext looks like a header.
        Format::Native => cut(stream, native, |_| false, native_header),
        Format::IdTechBinary => cut(stream, idtech_binary, idtech_sound, idtech_sound),
        Format::IdTechKeyboard => keyboard(stream, idtech::whole_text),
        Format::MagTekKeyboard => keyboard(stream, |_| None),
        // Reports have one length and no mark to find the next by.
        Format::MagTekHid if stream.len() < magtek::hid::REPORT_LEN => Extent::NeedMore,
        Format::MagTekHid => Extent::Frame { start: 0, end: magtek::hid::REPORT_LEN },
    }
}

/// Cuts by a candidate's own length. Unless it is `sound`, a `better` one inside it or behind it shows it to be
/// garbage.
fn cut(
    stream: &[u8],
    candidate: fn(&[u8]) -> Candidate,
    sound: fn(&[u8]) -> bool,
    better: fn(&[u8]) -> bool,
) -> Extent {
    // An envelope holds a whole frame, which is no better than it.
    let enveloped = stream.starts_with(&idtech::MAGIC);
    let find = |within: usize| {
        (1..within).find(|start| {
            let tail = &stream[*start..];
            better(tail) && (!enveloped || tail.starts_with(&idtech::MAGIC))
        })
    };
    match candidate(stream) {
        Candidate::Whole(end) if sound(stream) => Extent::Frame { start: 0, end },
        Candidate::Whole(end) => find(end).map_or(Extent::Frame { start: 0, end }, |skip| Extent::Garbage { skip }),
        Candidate::Partial => find(stream.len()).map_or(Extent::NeedMore, |skip| Extent::Garbage { skip }),
        Candidate::No if stream.is_empty() => Extent::NeedMore,
        Candidate::No => {
            let next = (1..stream.len()).find(|start| !matches!(candidate(&stream[*start..]), Candidate::No));
            Extent::Garbage { skip: next.unwrap_or(stream.len()) }
        }
    }
}

/// Whether a whole native header starts here.
fn native_header(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER_LEN && !matches!(native(bytes), Candidate::No)
}

/// Whether a whole ID TECH frame starts here, with every check right.
fn idtech_sound(bytes: &[u8]) -> bool {
    matches!(idtech_binary(bytes), Candidate::Whole(len) if idtech::parse_binary(None, &bytes[..len]).is_ok())
}

fn native(bytes: &[u8]) -> Candidate {
    let [m0, _] = MAGIC;
    let (ksn_len, block, mac) = match *bytes {
        [] => return Candidate::No,
        [first] if first == m0 => return Candidate::Partial,
        [first, second, ..] if [first, second] != MAGIC => return Candidate::No,
        [_, _, version, ..] if version != VERSION => return Candidate::No,
        [_, _, _, 0x01..=0x03, ..] => (12, 16, FrameMac::AesCmac),
        [_, _, _, 0x10, ..] => (10, 8, FrameMac::Retail),
        [_, _] | [_, _, _] => return Candidate::Partial,
        _ => return Candidate::No,
    };
    let len = match *bytes {
        [_, _, _, _, entry, ..] if !(1..=3).contains(&entry) => return Candidate::No,
        [_, _, _, _, _, reserved, ..] if reserved != 0 => return Candidate::No,
        [_, _, _, _, _, _, high, low, ..] => usize::from(u16::from_be_bytes([high, low])),
        _ => return Candidate::Partial,
    };
    if len == 0 || !len.is_multiple_of(block) || len > MAX_BLOCKS * block {
        return Candidate::No;
    }
    sized(bytes, HEADER_LEN + ksn_len + len + mac.tag_len())
}

fn idtech_binary(bytes: &[u8]) -> Candidate {
    if idtech::MAGIC.starts_with(bytes) || bytes.starts_with(&idtech::MAGIC) {
        return match *bytes {
            [] => Candidate::No,
            [_, _, _, _, _, _, _, _, _, _, _, _, high, low, ..] => {
                sized(bytes, usize::from(u16::from_be_bytes([high, low])) + idtech::VIVOTECH_OVERHEAD)
            }
            _ => Candidate::Partial,
        };
    }
    match (idtech::whole_binary(bytes), bytes) {
        // One that does not end as it must is none: its length or its end was changed on the way.
        (Some(len), _) if bytes.get(len - 1).is_some_and(|etx| *etx != 0x03) => Candidate::No,
        (Some(len), _) => sized(bytes, len),
        (None, [0x02] | [0x02, _] | [0x02, _, _]) => Candidate::Partial,
        (None, _) => Candidate::No,
    }
}

fn sized(bytes: &[u8], len: usize) -> Candidate {
    match bytes.len() {
        _ if len > MAX_OUTPUT_LEN => Candidate::No,
        there if there < len => Candidate::Partial,
        _ => Candidate::Whole(len),
    }
}

/// Cuts a line, or as many characters as the text itself says, if it says. Line ends before and behind it go
/// with it.
fn keyboard(stream: &[u8], whole: fn(&[u8]) -> Option<usize>) -> Extent {
    let is_end = |c: &u8| matches!(c, b'\r' | b'\n');
    let start = stream.iter().position(|c| !is_end(c)).unwrap_or(stream.len());
    let text = &stream[start..];
    if text.is_empty() {
        return if start > MAX_OUTPUT_LEN { Extent::Garbage { skip: start } } else { Extent::NeedMore };
    }
    let line = text.iter().position(is_end);
    let by_length = whole(text).filter(|len| *len <= line.unwrap_or(text.len()) && text[..*len].ends_with(b"03"));
    match by_length.or(line) {
        Some(len) if len <= MAX_OUTPUT_LEN => {
            let behind = text[len..].iter().take_while(|c| is_end(c)).count();
            Extent::Frame { start, end: start + len + behind }
        }
        Some(len) => Extent::Garbage { skip: start + len },
        None if text.len() > MAX_OUTPUT_LEN => Extent::Garbage { skip: stream.len() },
        // A reader that ends no lines: the next sound text frame shows this one to be garbage.
        None => {
            let sound = |at: &usize| {
                let tail = &text[*at..];
                whole(tail)
                    .and_then(|len| tail.get(..len))
                    .is_some_and(|tail| idtech::parse_keyboard(None, tail).is_ok())
            };
            let next = (1..text.len()).find(sound);
            next.map_or(Extent::NeedMore, |at| Extent::Garbage { skip: start + at })
        }
    }
}
