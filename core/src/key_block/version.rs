//! The versions of a key block: which cipher protects it, how its two keys come from the protection key, how long its
//! parts are.

use std::fmt;

/// The first character of a key block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// TR-31:2005. Variants of a triple DES key, encrypted then authenticated. Superseded: read, not written.
    A,
    /// TR-31:2010. Keys derived from a triple DES key, authenticated then encrypted.
    B,
    /// TR-31:2010. As A; kept by X9.143 for devices that have nothing better.
    C,
    /// TR-31:2018. Keys derived from an AES key, authenticated then encrypted with CBC.
    D,
    /// ISO 20038:2017. As D, but encrypted with CTR. Not of X9.143: read, not written.
    E,
}

/// The cipher of a protection key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProtectionCipher {
    /// Two-key or three-key triple DES.
    Tdes,
    /// AES of any length.
    Aes,
}

impl Version {
    /// Every version.
    pub const ALL: [Self; 5] = [Self::A, Self::B, Self::C, Self::D, Self::E];

    /// The version of a letter.
    pub fn from_letter(letter: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.letter() == letter)
    }

    /// Its letter.
    pub const fn letter(self) -> u8 {
        match self {
            Self::A => b'A',
            Self::B => b'B',
            Self::C => b'C',
            Self::D => b'D',
            Self::E => b'E',
        }
    }

    /// What its protection key is for.
    pub const fn cipher(self) -> ProtectionCipher {
        match self {
            Self::A | Self::B | Self::C => ProtectionCipher::Tdes,
            Self::D | Self::E => ProtectionCipher::Aes,
        }
    }

    /// Bytes of a cipher block. The optional blocks together are a whole number of them, in characters.
    pub const fn block_len(self) -> usize {
        match self.cipher() {
            ProtectionCipher::Tdes => 8,
            ProtectionCipher::Aes => 16,
        }
    }

    /// Bytes of the MAC.
    pub const fn mac_len(self) -> usize {
        match self {
            Self::A | Self::C => 4,
            Self::B => 8,
            Self::D | Self::E => 16,
        }
    }

    /// What the sealed key data's length must be a multiple of: CTR needs no whole blocks.
    pub const fn data_unit(self) -> usize {
        match self {
            Self::A | Self::B | Self::C | Self::D => self.block_len(),
            Self::E => 1,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(self.letter()))
    }
}
