//! What is not as X9.143 has it. A block that comes in is read all the same and the warnings told; a block with one is
//! not made here.

use super::attributes::{Algorithm, Mode, Usage};
use super::optional::BlockId;
use super::version::Version;

/// One thing that is not as the standard has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// A is superseded, E is not of X9.143.
    #[error("version {0} is read only: it is superseded or not of X9.143")]
    Version(Version),
    /// Not in table 2, not private.
    #[error("key usage {0} is not known")]
    Usage(Usage),
    /// Not in table 3, not private.
    #[error("algorithm {0} is not known")]
    Algorithm(Algorithm),
    /// Not in table 4, not private.
    #[error("mode of use {0} is not known")]
    Mode(Mode),
    /// Known, but not together (table 2).
    #[error("a key of usage {0} is not of algorithm {1}")]
    UsageAlgorithm(Usage, Algorithm),
    /// Known, but not together (table 2).
    #[error("a key of usage {0} has no mode of use {1}")]
    UsageMode(Usage, Mode),
    /// Not as table 5.
    #[error("the key version is not of two letters or digits")]
    KeyVersion,
    /// Not in table 6.
    #[error("the exportability is not known")]
    Exportability,
    /// Not in table 1.
    #[error("the key context is not known")]
    Context,
    /// Should be 0.
    #[error("the reserved character is not 0")]
    Reserved,
    /// The hash of an HMAC key is part of what it may be used with (table 3).
    #[error("an HMAC key without an optional block HM that says its hash")]
    HashUnsaid,
    /// Letters are the standard's, digits are for private ones.
    #[error("the optional block {0} is not known")]
    Optional(BlockId),
    /// Known, but of other keys.
    #[error("the optional block {0} does not belong to a key of this usage and algorithm")]
    OptionalElsewhere(BlockId),
    /// More than the header's two digits can count.
    #[error("there are more than 99 optional blocks")]
    TooManyBlocks,
    /// An id may be there once.
    #[error("the optional block {0} is there more than once")]
    Repeated(BlockId),
    /// Padding is last.
    #[error("the padding block is not the last of the optional blocks")]
    PaddingNotLast,
    /// The length is written in another form than it should be.
    #[error("the length of the optional block {0} is not in the standard's form")]
    LengthForm(BlockId),
    /// The content is not as its table has it.
    #[error("the content of the optional block {0} is not in the standard's form")]
    Content(BlockId),
    /// They are padded to a whole number of cipher blocks.
    #[error("the optional blocks are not padded to whole cipher blocks")]
    NotPadded,
    /// Should be capitals.
    #[error("the hex digits are small letters")]
    SmallLetters,
    /// The algorithm has no keys of this length.
    #[error("{1} bits are no key length of algorithm {0}")]
    KeyLength(Algorithm, u16),
    /// One DES key, whatever the algorithm says.
    #[error("the key is a single DES key, which protects nothing today")]
    SingleDes,
    /// A triple DES protection key of equal parts is one of fewer parts.
    #[error("parts of the protection key are equal: it is worth {0} bits, less than its length says")]
    KbpkParts(u16),
    /// KC says otherwise.
    #[error("the key check value in the optional block KC is not that of the key")]
    KeyCheckValue,
    /// KP says otherwise.
    #[error("the key check value in the optional block KP is not that of the protection key")]
    KbpkCheckValue,
}

impl Warning {
    /// Whether a block with this may be made here all the same: it is within the standard.
    pub const fn is_allowed(self) -> bool {
        matches!(self, Self::SingleDes)
    }
}
