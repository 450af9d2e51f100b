//! Opening a key block: authentic, for the use it was asked for, under a key strong enough, or not at all.

use super::attributes::{Algorithm, Exportability, Mode, Usage};
use super::header::Header;
use super::material::Material;
use super::protection::Protection;
use super::version::Version;
use super::warning::Warning;
use super::wrap::BITS_LEN;
use super::{KeyBlock, agreement, binding};
use crate::secret::SecretBytes;

/// A key out of its block, with the header that is bound to it.
pub struct Unwrapped {
    header: Header,
    key: Material,
    warnings: Vec<Warning>,
}

/// A key block that does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// The protection's keys are of another version than the block.
    #[error("the protection is for key blocks of version {0}")]
    Version(Version),
    /// Header, key or MAC were changed, or the protection key is another.
    #[error("the key block is not authentic under this protection key")]
    NotAuthentic,
    /// Authentic, but its maker gave the key a length it does not have.
    #[error("the length of the key does not fit the key block")]
    KeyLength,
    /// The key is stronger than what protected it.
    #[error("the protection key is weaker than the key")]
    WeakProtection,
    /// The key is for something else.
    #[error("the key is of usage {is}, not {wanted}")]
    Usage {
        /// What it is for.
        is: Usage,
        /// What was asked for.
        wanted: Usage,
    },
    /// The key is for another cipher.
    #[error("the key is of algorithm {is}, not {wanted}")]
    Algorithm {
        /// What it may be used with.
        is: Algorithm,
        /// What was asked for.
        wanted: Algorithm,
    },
    /// There is no whole key in the block.
    #[error("the key is component {0} of a key")]
    Component(char),
    /// The key may not be used so.
    #[error("the key has mode of use {is}, not {wanted}")]
    Mode {
        /// How it may be used.
        is: Mode,
        /// What was asked for.
        wanted: Mode,
    },
    /// The key came to stay.
    #[error("the key is not exportable")]
    NotExportable,
}

impl KeyBlock {
    /// Opens the block.
    pub fn unwrap_key(&self, protection: &Protection) -> Result<Unwrapped, UnwrapError> {
        if protection.version() != self.header.version() {
            return Err(UnwrapError::Version(protection.version()));
        }
        let header = self.header.text(self.len);
        let data = binding::open(protection, &header, &self.sealed).ok_or(UnwrapError::NotAuthentic)?;
        let key = key_of(&data)?;
        if agreement::is_weak(&self.header, &key, protection) {
            return Err(UnwrapError::WeakProtection);
        }
        let mut warnings = self.warnings();
        warnings.extend(agreement::warnings(&self.header, &key, protection));
        Ok(Unwrapped { header: self.header.clone(), key, warnings })
    }
}

impl Unwrapped {
    /// Itself, if it is a whole key for this, of this algorithm, and may be used so.
    pub fn for_use(self, usage: Usage, algorithm: Algorithm, mode: Mode) -> Result<Self, UnwrapError> {
        let header = &self.header;
        match (header.usage(), header.algorithm(), header.mode(), header.key_version().component()) {
            (is, ..) if is != usage => Err(UnwrapError::Usage { is, wanted: usage }),
            (_, is, ..) if is != algorithm => Err(UnwrapError::Algorithm { is, wanted: algorithm }),
            (_, _, is, _) if !is.allows(mode) => Err(UnwrapError::Mode { is, wanted: mode }),
            (.., Some(which)) => Err(UnwrapError::Component(which)),
            _ => Ok(self),
        }
    }

    /// Itself, if the key may leave again in a key block.
    pub fn for_export(self) -> Result<Self, UnwrapError> {
        match self.header.exportability() {
            Exportability::Trusted | Exportability::Sensitive => Ok(self),
            Exportability::Never | Exportability::Other(_) => Err(UnwrapError::NotExportable),
        }
    }

    /// What the key may be used for; bound to it.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The key.
    pub fn key(&self) -> &Material {
        &self.key
    }

    /// What the standard would have otherwise.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

/// The key in authentic key data: its length in bits, its bytes, padding. An HMAC key may end within a byte.
fn key_of(data: &SecretBytes) -> Result<Material, UnwrapError> {
    let (bits, rest) = data.expose().split_first_chunk::<BITS_LEN>().ok_or(UnwrapError::KeyLength)?;
    let bits = usize::from(u16::from_be_bytes(*bits));
    let bytes = rest.get(..bits.div_ceil(8)).ok_or(UnwrapError::KeyLength)?;
    Material::of_bits(bits, SecretBytes::copied(bytes)).map_err(|_| UnwrapError::KeyLength)
}
