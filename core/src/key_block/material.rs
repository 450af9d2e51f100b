//! The key in a block: so many bits, which are secret.

use super::attributes::Algorithm;
use super::content::CheckMethod;
use super::warning::Warning;
use crate::kcv::Kcv;
use crate::key::{KeyBytes, KeyLen};
use crate::secret::SecretBytes;

/// A key of any algorithm: its bytes and how many of their bits are the key. An asymmetric key is what its owner made
/// of it, most often DER; it is not looked into here.
///
/// ```compile_fail
/// # use warifu_core::{key_block::Material, secret::SecretBytes};
/// let key = Material::new(SecretBytes::copied(&[7; 16])).unwrap();
/// println!("{key:?}"); // A secret has no Debug.
/// ```
pub struct Material {
    bits: u16,
    bytes: SecretBytes,
}

/// Bytes that are no key a block can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key of {bytes} bytes does not have {bits} bits, or is empty or too long for a key block")]
pub struct MaterialError {
    /// Bits said.
    pub bits: usize,
    /// Bytes there.
    pub bytes: usize,
}

impl Material {
    /// A key of whole bytes.
    pub fn new(bytes: SecretBytes) -> Result<Self, MaterialError> {
        let bits = 8 * bytes.len();
        Self::of_bits(bits, bytes)
    }

    /// A key of so many bits, the last byte filled on its right.
    pub fn of_bits(bits: usize, bytes: SecretBytes) -> Result<Self, MaterialError> {
        match u16::try_from(bits) {
            Ok(count) if count > 0 && bits.div_ceil(8) == bytes.len() => Ok(Self { bits: count, bytes }),
            _ => Err(MaterialError { bits, bytes: bytes.len() }),
        }
    }

    /// Its bits, which are public once the block is open.
    pub fn bits(&self) -> u16 {
        self.bits
    }

    /// Its bytes, which are not.
    pub fn bytes(&self) -> &SecretBytes {
        &self.bytes
    }

    /// The usual check value of its algorithm: legacy for DES and triple DES, CMAC for AES; none for others.
    pub fn kcv(&self, algorithm: Algorithm) -> Option<Kcv> {
        let usual = if algorithm == Algorithm::Aes { CheckMethod::Cmac } else { CheckMethod::Legacy };
        self.check_value(algorithm, usual)
    }

    /// The check value of this method, where the algorithm has one.
    pub fn check_value(&self, algorithm: Algorithm, method: CheckMethod) -> Option<Kcv> {
        match algorithm {
            Algorithm::Des | Algorithm::Tdes => self.tdes_key().map(|key| method.of_tdes(&key)),
            Algorithm::Aes => KeyBytes::copied(self.bytes.expose()).ok().map(|key| method.of_aes(&key)),
            Algorithm::EllipticCurve | Algorithm::Hmac | Algorithm::Rsa | Algorithm::Dsa | Algorithm::Other(_) => None,
        }
    }

    /// What is unusual about its length.
    pub(super) fn warnings(&self, algorithm: Algorithm) -> Vec<Warning> {
        let usual = match algorithm {
            Algorithm::Des => self.bits == 64,
            Algorithm::Tdes => matches!(self.bits, 64 | 128 | 192),
            Algorithm::Aes => matches!(self.bits, 128 | 192 | 256),
            Algorithm::Hmac => true,
            Algorithm::EllipticCurve | Algorithm::Rsa | Algorithm::Dsa | Algorithm::Other(_) => {
                self.bits.is_multiple_of(8)
            }
        };
        let single = matches!(algorithm, Algorithm::Des | Algorithm::Tdes) && self.bits == 64;
        let length = (!usual).then_some(Warning::KeyLength(algorithm, self.bits));
        length.into_iter().chain(single.then_some(Warning::SingleDes)).collect()
    }

    /// Of one DES key, the triple DES key that computes the same.
    fn tdes_key(&self) -> Option<KeyBytes> {
        let bytes = self.bytes.expose();
        match bytes.len() {
            8 => Some(KeyBytes::filled(KeyLen::K128, |key| {
                key.chunks_mut(8).for_each(|half| half.copy_from_slice(bytes));
            })),
            16 | 24 => KeyBytes::copied(bytes).ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn material(digits: &str) -> Material {
        Material::new(SecretBytes::copied(&hex::decode(digits).unwrap())).unwrap()
    }

    #[test]
    fn a_key_has_the_check_value_of_its_algorithm() {
        let kcv = |digits: &str, algorithm| material(digits).kcv(algorithm).map(|kcv| kcv.to_string());
        let single = "0123456789ABCDEF";
        assert_eq!(kcv(single, Algorithm::Des).as_deref(), Some("D5D44F"), "openssl enc -des-ecb");
        assert_eq!(kcv(single, Algorithm::Tdes), kcv(&single.repeat(3), Algorithm::Tdes));
        assert_eq!(kcv(&"00".repeat(16), Algorithm::Aes).unwrap().len(), 10);
        assert_eq!(kcv(&"00".repeat(20), Algorithm::Hmac), None);
        assert_eq!(kcv(&"00".repeat(32), Algorithm::Tdes), None);
    }

    #[test]
    fn a_key_may_end_within_a_byte() {
        let bytes = || SecretBytes::copied(&[0xFF, 0xE0]);
        assert_eq!(Material::of_bits(11, bytes()).unwrap().bits(), 11);
        for bits in [0, 8, 17, 65_536 + 16] {
            assert_eq!(Material::of_bits(bits, bytes()).err(), Some(MaterialError { bits, bytes: 2 }));
        }
        assert!(Material::new(SecretBytes::copied(&[])).is_err());
        assert!(Material::new(SecretBytes::copied(&[0; 8192])).is_err());
        assert!(Material::new(SecretBytes::copied(&[0; 8191])).is_ok());
    }

    #[test]
    fn lengths_no_algorithm_has_are_told() {
        assert_eq!(material("0011").warnings(Algorithm::Aes), [Warning::KeyLength(Algorithm::Aes, 16)]);
        assert_eq!(material(&"00".repeat(8)).warnings(Algorithm::Tdes), [Warning::SingleDes]);
        assert_eq!(material(&"00".repeat(32)).warnings(Algorithm::Tdes), [Warning::KeyLength(Algorithm::Tdes, 256)]);
        assert_eq!(material("00").warnings(Algorithm::Hmac), []);
    }
}
