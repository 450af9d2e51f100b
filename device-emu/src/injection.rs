//! Initial keys as they reach a device: in a key block (TR-31, X9.143), under a key both ends have.

use warifu_core::key::KeyBytes;
use warifu_core::key_block::protection::ProtectionError;
use warifu_core::key_block::{Algorithm, BlockId, Kbpk, KeyBlock, KeyBlockError, Mode, Protection, UnwrapError, Usage};

/// An initial key out of its block. A secret.
pub struct Injected {
    /// The key.
    pub key: KeyBytes,
    /// Whose it is, as the block says: an initial key id (AES) or a key serial number, hex.
    pub whose: Option<String>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum InjectionError {
    /// It is no key block.
    #[error("this is no key block")]
    Block(#[from] KeyBlockError),
    /// The protection key cannot protect such a block.
    #[error(transparent)]
    Protection(#[from] ProtectionError),
    /// It does not open, or holds another kind of key.
    #[error(transparent)]
    Unwrap(#[from] UnwrapError),
    /// It holds a key no device has.
    #[error("the key in the block has not the length of an initial key")]
    Length,
}

/// Opens a block with an initial key for this algorithm, to derive from.
pub fn opened(text: &str, kbpk: KeyBytes, algorithm: Algorithm) -> Result<Injected, InjectionError> {
    let block = KeyBlock::parse(text.trim())?;
    let version = block.header().version();
    let protection = Protection::new(version, &Kbpk::new(version.cipher(), kbpk)?)?;
    let says = |id: BlockId| block.header().find(id).map(|block| block.content().to_owned());
    let unwrapped = block.unwrap_key(&protection)?.for_use(Usage::InitialKey, algorithm, Mode::Derive)?;
    let key = KeyBytes::copied(unwrapped.key().bytes().expose()).map_err(|_| InjectionError::Length)?;
    Ok(Injected { key, whose: says(BlockId::IK).or_else(|| says(BlockId::KS)) })
}
