//! Initial keys as they reach a device: in a key block (TR-31, X9.143), under a key both ends have.

use warifu_core::key::KeyBytes;
use warifu_core::key_block::protection::ProtectionError;
use warifu_core::key_block::{Algorithm, BlockId, Kbpk, KeyBlock, KeyBlockError, Mode, Protection, UnwrapError, Usage};
use warifu_core::ksn::TdesKsn;

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

/// Whether an initial key that names its device so is that of the device with this key serial number, whatever its counter:
/// of an initial key id (AES) every digit counts, of a key serial number (TDES) all but the counter's 21 bits.
pub fn is_of(whose: &str, algorithm: Algorithm, ksn: &[u8]) -> bool {
    let Ok(whose) = hex::decode(whose) else { return false };
    match algorithm {
        Algorithm::Aes => ksn.get(..8) == Some(&whose[..]),
        _ => match (TdesKsn::parse(&whose), TdesKsn::parse(ksn)) {
            (Ok(whose), Ok(ksn)) => whose.with_counter(0) == ksn.with_counter(0),
            _ => false,
        },
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_for_the_device_it_names_and_no_other() {
        let is = |whose, algorithm, ksn: &str| is_of(whose, algorithm, &hex::decode(ksn).unwrap());
        let aes = "5EA2C400C0FFEE0100000007";
        assert!(is("5EA2C400C0FFEE01", Algorithm::Aes, aes) && is("5ea2c400c0ffee01", Algorithm::Aes, aes));
        for other in ["5EA2C400C0FFEE00", "5EA2C400C0FFEE", "5EA2C400C0FFEE0100", "", "zz"] {
            assert!(!is(other, Algorithm::Aes, aes), "{other}");
        }
        let tdes = "FFFF9876543210E00008";
        assert!(is("FFFF9876543210E00000", Algorithm::Tdes, tdes) && is("FFFF9876543210E00008", Algorithm::Tdes, tdes));
        // The bit above the counter is the device's.
        for other in ["FFFF9876543210C00000", "FFFF9876543200E00000", "FFFF987654321", ""] {
            assert!(!is(other, Algorithm::Tdes, tdes), "{other}");
        }
    }
}
