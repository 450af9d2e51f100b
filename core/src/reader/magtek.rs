//! MagTek MagneSafe V5 readers: keyboard text and the USB HID report. Every field is a message of its own under
//! the PIN variant, unless the device is set to another key, and has no LRC character.

pub(super) mod hid;
pub(super) mod keyboard;

use super::{Hints, Layout, Parsed, shown};
use crate::frame::{Entry, FrameError, FrameKey, SealedFrame, Section, SectionKind, Shown};
use crate::key::TdesKey;
use crate::ksn::{Ksn, TdesKsn};

/// Cipher block.
const BLOCK: usize = 8;
/// Reader encryption status: tracks are encrypted. Without it the "encrypted" fields hold them in clear.
const ENCRYPTING: u16 = 1 << 2;
/// Which track stands where.
const TRACKS: [SectionKind; 3] = [SectionKind::Track1, SectionKind::Track2, SectionKind::Track3];

/// One encrypted track; empty if the reader sent none.
#[derive(Default)]
struct Field {
    ciphertext: Vec<u8>,
    clear_len: usize,
    shown: Shown,
}

impl Field {
    /// A track whose clear length is as announced, if the ciphertext can hold just that; else the fill has to
    /// tell, which it does, because a track ends in a character that is not zero.
    fn new(ciphertext: Vec<u8>, announced: usize, shown: Shown) -> Self {
        let fits = announced.next_multiple_of(BLOCK) == ciphertext.len();
        let clear_len = if fits { announced } else { ciphertext.len() };
        Self { ciphertext, clear_len, shown }
    }
}

/// Puts the tracks that are there together. MagneSafe outputs have no MAC over card data.
fn seal(
    layout: Layout,
    key: Option<TdesKey>,
    ksn: TdesKsn,
    serial: Option<String>,
    tracks: [Field; 3],
) -> Result<Parsed, FrameError> {
    let (mut bytes, mut sections) = (Vec::new(), Vec::new());
    for (kind, track) in TRACKS.into_iter().zip(tracks) {
        if track.ciphertext.is_empty() {
            continue;
        }
        if !track.ciphertext.len().is_multiple_of(BLOCK) {
            return Err(FrameError::CiphertextLength);
        }
        let start = bytes.len();
        bytes.extend_from_slice(&track.ciphertext);
        let ciphertext = start..bytes.len();
        sections.push(Section { kind, ciphertext, clear_len: track.clear_len, shown: track.shown });
    }
    let key = FrameKey::Tdes(key.unwrap_or(TdesKey::Pin));
    let frame = SealedFrame::assemble(bytes, Ksn::Tdes(ksn), Entry::Swiped, key, sections, None)?;
    Ok(Parsed { frame, hints: Hints { layout, serial } })
}

/// What the mask of track 1, 2 or 3 shows. Track 3 has another layout and shows nothing of use.
fn shown(kind: SectionKind, mask: &[u8]) -> Shown {
    if kind == SectionKind::Track3 { Shown::default() } else { shown::zeroed(mask) }
}

/// Whether the reader could not read the track: it then sends `E` in its place.
fn unread(mask: &[u8]) -> bool {
    matches!(mask, [_, b'E', b'?'])
}

/// A serial number of printable characters.
fn serial(text: &[u8]) -> Option<String> {
    let printable = !text.is_empty() && text.iter().all(|c| (0x20..0x7F).contains(c));
    printable.then(|| text.iter().copied().map(char::from).collect())
}
