//! Readers of what devices really send: one format of one vendor a file, all ending in a [`SealedFrame`].
//!
//! A parser here takes one complete device output and gives back its ciphertext, its key serial number and
//! what it shows of the card in clear, or refuses it. It knows no key. What it keeps is what may be printed:
//! ciphertext and masks. Masked names, clear track 3 and other text of the card are dropped; who
//! wants track 3 all the same asks [`clear_track3`].
//!
//! Vendors' outputs are not authenticated: their LRC, sums and CRCs catch accidents only.

mod check;
mod detect;
mod extent;
mod fields;
mod idtech;
mod magtek;
mod shown;

pub use detect::detect;
pub use extent::{Extent, extent};

use fields::Form;

use crate::card::MaskedPan;
use crate::device::{Format, Profile};
use crate::frame::{FrameError, SealedFrame};
use crate::secret::SecretBytes;

/// Longest device output this build takes, in bytes or characters.
pub const MAX_OUTPUT_LEN: usize = 4096;

/// A parsed device output, and what it says of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What is to be opened.
    pub frame: SealedFrame,
    /// What was beside it.
    pub hints: Hints,
}

/// What a device output says of the device, unproven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hints {
    /// Which layout of its format it has.
    pub layout: Layout,
    /// The device's serial number, if it sends one.
    pub serial: Option<String>,
}

/// The layouts this build reads; a format has one or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// The native frame of this project.
    Native,
    /// ID TECH original: tracks 1 and 2 in one message.
    IdTechOriginal,
    /// ID TECH enhanced: each track a message.
    IdTechEnhanced,
    /// ID TECH keyed entry, type 85.
    IdTechKeyed,
    /// MagTek MagneSafe V5, fields separated by bars.
    MagTekKeyboard,
    /// MagTek MagneSafe V5, report of fixed offsets.
    MagTekHid,
}

impl Layout {
    /// Its name on the bench.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::IdTechOriginal => "idtech-original",
            Self::IdTechEnhanced => "idtech-enhanced",
            Self::IdTechKeyed => "idtech-keyed",
            Self::MagTekKeyboard => "magtek-keyboard",
            Self::MagTekHid => "magtek-hid",
        }
    }
}

/// Parses one complete device output by the profile of its device. Keyboard text may end in CR and LF.
pub fn parse(profile: &Profile, bytes: &[u8]) -> Result<SealedFrame, FrameError> {
    parse_with_hints(profile, bytes).map(|parsed| parsed.frame)
}

/// As [`parse`], with what the output says of its device.
pub fn parse_with_hints(profile: &Profile, bytes: &[u8]) -> Result<Parsed, FrameError> {
    if bytes.len() > MAX_OUTPUT_LEN {
        return Err(FrameError::Trailing);
    }
    match profile.format {
        Format::Native => SealedFrame::parse(bytes)
            .map(|frame| Parsed { frame, hints: Hints { layout: Layout::Native, serial: None } }),
        Format::IdTechBinary => idtech::parse_binary(profile.key, bytes),
        Format::IdTechKeyboard => idtech::parse_keyboard(profile.key, line(bytes)),
        Format::MagTekKeyboard => magtek::keyboard::parse(profile.key, line(bytes)),
        Format::MagTekHid => magtek::hid::parse(profile.key, bytes),
    }
}

/// Track 3 as an output carries it in clear, where its layout allows that (ID TECH original). It may hold a card number,
/// so it is no part of a [`Parsed`]; only a bench, which shows what a device sent, has a use for it.
pub fn clear_track3(format: Format, bytes: &[u8]) -> Option<SecretBytes> {
    match format {
        Format::IdTechBinary => idtech::clear_track3(Form::Binary, bytes),
        Format::IdTechKeyboard => idtech::clear_track3(Form::Text, line(bytes)),
        Format::Native | Format::MagTekKeyboard | Format::MagTekHid => None,
    }
}

/// What may be shown of a frame without opening it: the masked card number, where the device sent one.
pub fn masked(frame: &SealedFrame) -> Option<MaskedPan> {
    frame.sections().iter().find_map(|section| section.shown.pan)
}

/// Without the line ends around it.
fn line(mut text: &[u8]) -> &[u8] {
    while let [b'\r' | b'\n', rest @ ..] | [rest @ .., b'\r' | b'\n'] = text {
        text = rest;
    }
    text
}
