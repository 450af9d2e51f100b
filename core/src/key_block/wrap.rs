//! Making a key block: as the standard has it, or not at all.

use super::attributes::Algorithm;
use super::binding;
use super::digits::Letters;
use super::header::{Header, HeaderError};
use super::material::Material;
use super::protection::Protection;
use super::version::Version;
use super::warning::Warning;
use super::{KeyBlock, MAX_LEN, agreement};
use crate::secret::SecretBytes;

/// Bytes of the key's length in the key data.
pub(super) const BITS_LEN: usize = 2;

/// A key block that is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// The protection's keys are of another version than the header.
    #[error("the protection is for key blocks of version {0}")]
    Version(Version),
    /// Not as X9.143 has it.
    #[error("not as X9.143 has it: {0}")]
    NotStandard(Warning),
    /// The key is stronger than what would protect it.
    #[error("the protection key is weaker than the key")]
    WeakProtection,
    /// Key data are whole cipher blocks.
    #[error("the key with this padding is not a whole number of cipher blocks")]
    Padding,
    /// Longer than four digits can say.
    #[error("the key block would be longer than 9999 characters")]
    TooLong,
    /// No place for the padding block.
    #[error("the optional blocks")]
    Header(#[from] HeaderError),
}

/// How long the padding behind a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaddingLen {
    /// As for the longest key of the algorithm, so that the block does not tell the key's length (X9.143:2021 6.1).
    Hiding,
    /// As the cipher needs it.
    Least,
}

impl PaddingLen {
    /// Bytes of padding behind a key.
    pub fn of(self, version: Version, algorithm: Algorithm, key: &Material) -> usize {
        let has = BITS_LEN + key.bytes().len();
        let hides = match (self, algorithm) {
            (Self::Hiding, Algorithm::Tdes | Algorithm::Des) => BITS_LEN + 24,
            (Self::Hiding, Algorithm::Aes) => BITS_LEN + 32,
            (Self::Hiding | Self::Least, _) => has,
        };
        has.max(hides).next_multiple_of(version.data_unit()) - has
    }
}

impl KeyBlock {
    /// Makes the block of a key. The header is as X9.143 has it, its padding block is made here if one is needed; the
    /// padding of the key is random bytes, as many as [`PaddingLen`] says or as make whole cipher blocks.
    pub fn wrap(header: &Header, key: &Material, protection: &Protection, padding: &[u8]) -> Result<Self, WrapError> {
        header.check().map_err(WrapError::NotStandard)?;
        let mut warnings = agreement::warnings(header, key, protection).into_iter();
        if let Some(warning) = warnings.find(|warning| !warning.is_allowed()) {
            return Err(WrapError::NotStandard(warning));
        }
        if agreement::is_weak(header, key, protection) {
            return Err(WrapError::WeakProtection);
        }
        Self::wrap_as_is(header, key, protection, padding)
    }

    /// Makes the block of a key whatever the standard says of it. For the bench: to see what another party refuses, and
    /// to make published blocks again.
    pub fn wrap_as_is(
        header: &Header,
        key: &Material,
        protection: &Protection,
        padding: &[u8],
    ) -> Result<Self, WrapError> {
        let version = header.version();
        if protection.version() != version {
            return Err(WrapError::Version(protection.version()));
        }
        let header = header.padded()?;
        let data_len = BITS_LEN + key.bytes().len() + padding.len();
        if !data_len.is_multiple_of(version.data_unit()) {
            return Err(WrapError::Padding);
        }
        let len = header.text_len() + 2 * (data_len + version.mac_len());
        if len > MAX_LEN {
            return Err(WrapError::TooLong);
        }
        let clear = SecretBytes::filled(data_len, |data| {
            let (bits, rest) = data.split_at_mut(BITS_LEN);
            let (bytes, end) = rest.split_at_mut(key.bytes().len());
            bits.copy_from_slice(&key.bits().to_be_bytes());
            bytes.copy_from_slice(key.bytes().expose());
            end.copy_from_slice(padding);
        });
        let sealed = binding::seal(protection, &header.text(len), clear);
        Ok(Self { header, len, sealed, letters: Letters::Upper })
    }
}
