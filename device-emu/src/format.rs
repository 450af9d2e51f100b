//! The output formats a device can be set to, and which kinds of entry each can carry.

use warifu_core::frame::Entry;
use warifu_core::ksn::Scheme;

pub mod idtech;
pub mod magtek;
pub mod native;

/// What a device writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The native frame of this project.
    Native,
    /// ID TECH, binary: enhanced layout when swiped, type 85 when keyed.
    IdTechBinary,
    /// ID TECH, keyboard text: enhanced layout when swiped, type 85 when keyed.
    IdTechKeyboard,
    /// ID TECH, binary, original layout, when swiped; type 85 when keyed.
    IdTechOriginal,
    /// ID TECH keypad, binary, type 85.
    IdTechKeyed,
    /// ID TECH keypad, binary, type C0: keyed in the enhanced layout, without the security code.
    IdTechKeyedEnhanced,
    /// MagTek MagneSafe V5, keyboard text, ended by a carriage return (the ENTER key).
    MagTekKeyboard,
    /// MagTek MagneSafe V5, USB HID report of 856 bytes.
    MagTekHid,
}

/// What a device cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The vendor's format is one of a stripe reader, or of a keypad.
    #[error("a device of this format cannot take a card this way; it takes: {0}")]
    Entry(&'static str),
    /// Vendor formats are TDES DUKPT.
    #[error("the {0} format needs TDES DUKPT")]
    Scheme(&'static str),
    /// A track longer than its field.
    #[error("a track is too long for the format")]
    TooLong,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Native,
        Self::IdTechBinary,
        Self::IdTechKeyboard,
        Self::IdTechOriginal,
        Self::IdTechKeyed,
        Self::IdTechKeyedEnhanced,
        Self::MagTekKeyboard,
        Self::MagTekHid,
    ];

    /// The name used on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::IdTechBinary => "idtech-binary",
            Self::IdTechKeyboard => "idtech-keyboard",
            Self::IdTechOriginal => "idtech-original",
            Self::IdTechKeyed => "idtech-keyed",
            Self::IdTechKeyedEnhanced => "idtech-keyed-enhanced",
            Self::MagTekKeyboard => "magtek-keyboard",
            Self::MagTekHid => "magtek-hid",
        }
    }

    /// The inverse of [`Format::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Whether a device of this DUKPT can write it.
    pub fn check_scheme(self, scheme: Scheme) -> Result<(), FormatError> {
        match (self, scheme) {
            (Self::Native, _) | (_, Scheme::Tdes) => Ok(()),
            (_, Scheme::Aes) => Err(FormatError::Scheme(self.name())),
        }
    }

    /// Whether a card taken in this way can be written in it.
    pub fn check_entry(self, entry: Entry) -> Result<(), FormatError> {
        match (self, entry) {
            (Self::Native, _)
            | (Self::IdTechBinary | Self::IdTechKeyboard | Self::IdTechOriginal, Entry::Keyed | Entry::Swiped)
            | (Self::IdTechKeyed | Self::IdTechKeyedEnhanced, Entry::Keyed)
            | (Self::MagTekKeyboard | Self::MagTekHid, Entry::Swiped) => Ok(()),
            (Self::IdTechBinary | Self::IdTechKeyboard | Self::IdTechOriginal, Entry::Dipped) => {
                Err(FormatError::Entry("key, swipe"))
            }
            (Self::IdTechKeyed | Self::IdTechKeyedEnhanced, Entry::Swiped | Entry::Dipped) => {
                Err(FormatError::Entry("key"))
            }
            (Self::MagTekKeyboard | Self::MagTekHid, Entry::Keyed | Entry::Dipped) => Err(FormatError::Entry("swipe")),
        }
    }
}
