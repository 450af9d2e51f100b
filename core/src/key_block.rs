//! Key blocks: a key under a protection key, and what it may be used for, so that neither can be changed alone
//! (ANSI X9.143:2021, before it TR-31:2018; version E of ISO 20038:2017).
//!
//! | characters | content |
//! |---|---|
//! | 16 | [`header`] |
//! | | [`optional`] blocks |
//! | 2n | hex of the sealed key data: length of the key in bits, 2 bytes; the key; padding |
//! | 2m | hex of the MAC |
//!
//! Strict where blocks are made, tolerant where they come in: what the standard would have otherwise is told as a
//! [`Warning`]. What is not authentic, of another use than expected or under a protection key weaker than the key is
//! refused.
//!
//! Architecture invariant: nothing is told of a block's inside before its MAC is right, and of a block whose MAC is
//! wrong there is one error. Padding is the caller's randomness.

mod agreement;
pub mod attributes;
mod binding;
pub mod content;
mod digits;
pub mod header;
pub mod material;
pub mod optional;
pub mod protection;
mod rules;
mod strength;
pub mod unwrap;
pub mod version;
pub mod warning;
pub mod wrap;

use std::fmt;

use binding::Sealed;
use digits::Letters;

pub use attributes::{Algorithm, Context, Exportability, KeyVersion, Mode, Usage};
pub use header::{Header, HeaderError};
pub use material::Material;
pub use optional::{BlockId, OptionalBlock};
pub use protection::{Kbpk, Protection};
pub use unwrap::{UnwrapError, Unwrapped};
pub use version::{ProtectionCipher, Version};
pub use warning::Warning;
pub use wrap::{PaddingLen, WrapError};

/// Most characters that the length's four digits can say.
pub const MAX_LEN: usize = 9999;
/// Least key data: a length and a byte.
const LEAST_DATA: usize = 3;

/// A key block, taken apart. All of it may be seen: the key is sealed.
pub struct KeyBlock {
    header: Header,
    /// Length of the text, as the header gives it.
    len: usize,
    sealed: Sealed,
    letters: Letters,
}

/// A text that is no key block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyBlockError {
    /// The header is none.
    #[error("the header of the key block")]
    Header(#[from] HeaderError),
    /// The text is cut off, or there is more of it.
    #[error("the header says {said} characters, the key block has {has}")]
    Length {
        /// What the header says.
        said: usize,
        /// What is there.
        has: usize,
    },
    /// There is no place for a key and a MAC.
    #[error("the key block is too short for a key and a MAC")]
    Short,
    /// Behind the header is hex, of capitals or of small letters.
    #[error("the sealed key or the MAC is not of hex digits, or of capitals and small letters mixed")]
    NotHex,
    /// The cipher seals whole blocks.
    #[error("the sealed key is not a whole number of cipher blocks")]
    NotWholeBlocks,
    /// The MAC of versions A and C is over whole blocks only.
    #[error("the optional blocks are not padded to whole cipher blocks")]
    NotPadded,
}

impl KeyBlock {
    /// Takes a key block apart; only [`Self::unwrap_key`] tells whether it is authentic.
    pub fn parse(text: &str) -> Result<Self, KeyBlockError> {
        let read = Header::read(text)?;
        let version = read.header.version();
        let header = read.header;
        if read.block_len != text.len() {
            return Err(KeyBlockError::Length { said: read.block_len, has: text.len() });
        }
        if matches!(version, Version::A | Version::C) && !header.is_padded() {
            return Err(KeyBlockError::NotPadded);
        }
        let (bytes, letters) = digits::bytes(read.behind).ok_or(KeyBlockError::NotHex)?;
        let data_len = bytes.len().checked_sub(version.mac_len()).ok_or(KeyBlockError::Short)?;
        if data_len < LEAST_DATA {
            return Err(KeyBlockError::Short);
        }
        if !data_len.is_multiple_of(version.data_unit()) {
            return Err(KeyBlockError::NotWholeBlocks);
        }
        let (data, mac) = bytes.split_at(data_len);
        Ok(Self { header, len: text.len(), sealed: Sealed { data: data.to_vec(), mac: mac.to_vec() }, letters })
    }

    /// What it says of its key. Nothing of it is known to be true before [`Self::unwrap_key`].
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Characters of the whole key block.
    pub fn text_len(&self) -> usize {
        self.len
    }

    /// What the standard would have otherwise, as far as it can be seen from outside.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = self.header.warnings();
        if self.letters == Letters::Lower {
            warnings.push(Warning::SmallLetters);
        }
        warnings
    }
}

/// The key block itself.
impl fmt::Display for KeyBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = digits::hex(&self.sealed.data) + &digits::hex(&self.sealed.mac);
        let hex = match self.letters {
            Letters::Upper => hex,
            Letters::Lower => hex.to_lowercase(),
        };
        write!(f, "{}{hex}", self.header.text(self.len))
    }
}

impl fmt::Debug for KeyBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyBlock({self})")
    }
}
