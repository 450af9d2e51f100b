//! Symmetric key bytes, and the names X9.24-3 gives to what a derived key is for.
//!
//! Architecture invariant: key bytes live inline (no heap on the derivation path), are wiped on drop,
//! and are never printed, cloned or compared by value.

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Longest key this domain knows, in bytes (AES-256).
pub const MAX_KEY_LEN: usize = 32;

/// A key of 16, 24 or 32 bytes, wiped on drop.
///
/// It has its own alignment, and its length is a number, not a [`KeyLen`]: so a `Result` or an `Option` has its tag
/// beside the key, and the key is moved by whole registers. What is moved in smaller pieces cannot be read as a register
/// before the pieces have left the processor's store buffer, which lasts as long as a derivation step.
#[repr(align(16))]
pub struct KeyBytes {
    bytes: [u8; MAX_KEY_LEN],
    /// Eights of bytes, and zeros up to the alignment: padding would travel with every move, and might hold what lay
    /// on the stack before.
    eights: [u64; 2],
}

const _: () = assert!(size_of::<KeyBytes>() == MAX_KEY_LEN + size_of::<[u64; 2]>(), "no padding");

/// The three key lengths of AES, which are also those of 2-key and 3-key triple DES.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyLen {
    /// 16 bytes.
    K128,
    /// 24 bytes.
    K192,
    /// 32 bytes.
    K256,
}

impl KeyLen {
    /// Length in bytes: 16, 24 or 32.
    pub const fn bytes(self) -> usize {
        match self {
            Self::K128 => 16,
            Self::K192 => 24,
            Self::K256 => 32,
        }
    }

    const fn eights(self) -> u64 {
        match self {
            Self::K128 => 2,
            Self::K192 => 3,
            Self::K256 => 4,
        }
    }

    /// Length in bits, as X9.24-3 derivation data carries it.
    pub const fn bits(self) -> u16 {
        match self {
            Self::K128 => 128,
            Self::K192 => 192,
            Self::K256 => 256,
        }
    }
}

/// A key that is neither 16, 24 nor 32 bytes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key of {0} bytes is neither 16, 24 nor 32 bytes long")]
pub struct KeyLenError(pub usize);

impl TryFrom<usize> for KeyLen {
    type Error = KeyLenError;

    fn try_from(bytes: usize) -> Result<Self, KeyLenError> {
        match bytes {
            16 => Ok(Self::K128),
            24 => Ok(Self::K192),
            32 => Ok(Self::K256),
            other => Err(KeyLenError(other)),
        }
    }
}

impl KeyBytes {
    /// The place of a key, for one to be made in.
    pub(crate) fn zero(len: KeyLen) -> Self {
        Self { bytes: [0; MAX_KEY_LEN], eights: [len.eights(), 0] }
    }

    /// Makes a zero key in place and lets `fill` write it.
    pub fn filled(len: KeyLen, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut key = Self::zero(len);
        fill(&mut key.bytes[..len.bytes()]);
        key.handed_over()
    }

    /// Copies a key in. The caller still owns, and must wipe, the source.
    pub fn copied(source: &[u8]) -> Result<Self, KeyLenError> {
        let len = KeyLen::try_from(source.len())?;
        Ok(Self::filled(len, |bytes| bytes.copy_from_slice(source)))
    }

    /// The one door.
    pub fn expose(&self) -> &[u8] {
        &self.bytes[..self.key_len().bytes()]
    }

    /// The one door, to make the key in place.
    pub(crate) fn expose_mut(&mut self) -> &mut [u8] {
        let len = self.key_len().bytes();
        &mut self.bytes[..len]
    }

    /// Makes a zero key in place and lets `fill` write the whole place of one; it must leave zeros behind a short key.
    #[inline]
    pub(crate) fn padded_by(len: KeyLen, fill: impl FnOnce(&mut [u8; MAX_KEY_LEN])) -> Self {
        let mut key = Self::zero(len);
        fill(&mut key.bytes);
        debug_assert!(key.bytes[len.bytes()..].iter().all(|&byte| byte == 0), "zeros behind a short key");
        key.handed_over()
    }

    /// A copy for the caller, after which this one is wiped: returned itself, it would be moved and stay behind.
    #[inline(always)]
    fn handed_over(&self) -> Self {
        Self { bytes: self.bytes, eights: self.eights }
    }

    /// The key with the zeros behind a short one.
    pub(crate) fn padded(&self) -> &[u8; MAX_KEY_LEN] {
        &self.bytes
    }

    /// The same, to be replaced in place; zeros must stay behind a short one.
    pub(crate) fn padded_mut(&mut self) -> &mut [u8; MAX_KEY_LEN] {
        &mut self.bytes
    }

    /// The place of a key of this length, with zeros in it, for one to be made in place; zeros must stay behind a short
    /// one.
    pub(crate) fn emptied(&mut self, len: KeyLen) -> &mut [u8; MAX_KEY_LEN] {
        self.bytes = [0; MAX_KEY_LEN];
        self.eights = [len.eights(), 0];
        &mut self.bytes
    }

    /// Its length, which is public.
    pub fn key_len(&self) -> KeyLen {
        match self.eights[0] {
            2 => KeyLen::K128,
            3 => KeyLen::K192,
            _ => KeyLen::K256,
        }
    }

    /// Compares in constant time.
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.eights == other.eights && bool::from(self.bytes.ct_eq(&other.bytes))
    }
}

/// Whole registers at a time: the derived implementation writes byte by byte, which takes longer than a derivation step.
impl Zeroize for KeyBytes {
    fn zeroize(&mut self) {
        self.bytes = [0; MAX_KEY_LEN];
        zeroize::optimization_barrier(&self.bytes);
    }
}

impl Drop for KeyBytes {
    fn drop(&mut self) {
        self.zeroize();
    }
}

impl ZeroizeOnDrop for KeyBytes {}

/// What an AES DUKPT working key is for (X9.24-3:2017 6.3.3, table of key usages).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyUsage {
    /// 0002: protects other keys.
    KeyEncryption,
    /// 1000: PIN encryption. Derived for the published vectors, used for nothing here.
    Pin,
    /// 2000: the device makes MACs, the host verifies.
    MacGeneration,
    /// 2001: the host makes MACs, the device verifies.
    MacVerification,
    /// 2002: both directions.
    MacBoth,
    /// 3000: the device encrypts, the host decrypts.
    DataEncryption,
    /// 3001: the host encrypts, the device decrypts.
    DataDecryption,
    /// 3002: both directions.
    DataBoth,
    /// 8000: derives further keys of the tree.
    KeyDerivation,
    /// 8001: derives a device's initial key from the BDK.
    InitialKeyDerivation,
}

impl KeyUsage {
    /// The two-byte indicator of X9.24-3:2017 6.3.3.
    pub const fn code(self) -> u16 {
        match self {
            Self::KeyEncryption => 0x0002,
            Self::Pin => 0x1000,
            Self::MacGeneration => 0x2000,
            Self::MacVerification => 0x2001,
            Self::MacBoth => 0x2002,
            Self::DataEncryption => 0x3000,
            Self::DataDecryption => 0x3001,
            Self::DataBoth => 0x3002,
            Self::KeyDerivation => 0x8000,
            Self::InitialKeyDerivation => 0x8001,
        }
    }
}

/// Which algorithm and length an AES DUKPT working key has (X9.24-3:2017 6.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// 0000: two-key triple DES, 16 bytes.
    Tdea2,
    /// 0001: three-key triple DES, 24 bytes.
    Tdea3,
    /// 0002: AES-128.
    Aes128,
    /// 0003: AES-192.
    Aes192,
    /// 0004: AES-256.
    Aes256,
    /// 0005: HMAC, 128-bit key.
    Hmac128,
    /// 0005: HMAC, 192-bit key.
    Hmac192,
    /// 0005: HMAC, 256-bit key.
    Hmac256,
}

impl KeyType {
    /// The two-byte algorithm indicator.
    pub const fn code(self) -> u16 {
        match self {
            Self::Tdea2 => 0,
            Self::Tdea3 => 1,
            Self::Aes128 => 2,
            Self::Aes192 => 3,
            Self::Aes256 => 4,
            Self::Hmac128 | Self::Hmac192 | Self::Hmac256 => 5,
        }
    }

    /// Length of the key.
    pub const fn key_len(self) -> KeyLen {
        match self {
            Self::Tdea2 | Self::Aes128 | Self::Hmac128 => KeyLen::K128,
            Self::Tdea3 | Self::Aes192 | Self::Hmac192 => KeyLen::K192,
            Self::Aes256 | Self::Hmac256 => KeyLen::K256,
        }
    }

    /// The AES type of a key length.
    pub const fn aes(len: KeyLen) -> Self {
        match len {
            KeyLen::K128 => Self::Aes128,
            KeyLen::K192 => Self::Aes192,
            KeyLen::K256 => Self::Aes256,
        }
    }
}

/// Which key of a TDES DUKPT transaction a message uses (X9.24-1:2009 A.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TdesKey {
    /// PIN variant. Some readers, MagTek MagneSafe among them, encrypt card data under it.
    Pin,
    /// MAC request variant.
    MacRequest,
    /// MAC response variant.
    MacResponse,
    /// Data key towards the host: the request variant through the one-way step.
    DataRequest,
    /// Data key from the host: the response variant through the one-way step.
    DataResponse,
    /// The request variant alone, without the one-way step.
    DataRequestVariant,
    /// The response variant alone, without the one-way step.
    DataResponseVariant,
}
