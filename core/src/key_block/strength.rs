//! A protection key must be at least as strong as the key it protects (X9.24-1:2017 7.2, PCI PIN annex C).

use super::attributes::Algorithm;
use super::version::ProtectionCipher;
use crate::key::KeyLen;

/// Effective bits of a two-key and a three-key triple DES key.
const TDES2: u16 = 80;
const TDES3: u16 = 112;
/// Effective bits of a DES key.
const DES: u16 = 56;
/// An HMAC key of more bits is not asked for a stronger protection key than there is.
const MOST: u16 = 256;

/// Effective bits of a protection key.
pub(super) fn of_kbpk(cipher: ProtectionCipher, len: KeyLen) -> u16 {
    match (cipher, len) {
        (ProtectionCipher::Tdes, KeyLen::K128) => TDES2,
        (ProtectionCipher::Tdes, KeyLen::K192 | KeyLen::K256) => TDES3,
        (ProtectionCipher::Aes, len) => len.bits(),
    }
}

/// Effective bits of a protected key of so many bits. Of an asymmetric or unknown one the block does not tell.
pub(super) fn of_key(algorithm: Algorithm, bits: u16) -> Option<u16> {
    match algorithm {
        Algorithm::Des | Algorithm::Tdes => Some(match bits {
            0..=64 => DES,
            65..=128 => TDES2,
            _ => TDES3,
        }),
        Algorithm::Aes | Algorithm::Hmac => Some(bits.min(MOST)),
        Algorithm::EllipticCurve | Algorithm::Rsa | Algorithm::Dsa | Algorithm::Other(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ciphers_are_of_one_scale() {
        let tdes2 = of_kbpk(ProtectionCipher::Tdes, KeyLen::K128);
        let tdes3 = of_kbpk(ProtectionCipher::Tdes, KeyLen::K192);
        let aes128 = of_kbpk(ProtectionCipher::Aes, KeyLen::K128);
        assert!(tdes2 < tdes3 && tdes3 < aes128);
        assert_eq!(of_key(Algorithm::Tdes, 128), Some(tdes2));
        assert_eq!(of_key(Algorithm::Tdes, 192), Some(tdes3));
        assert_eq!(of_key(Algorithm::Aes, 128), Some(aes128));
        assert_eq!(of_key(Algorithm::Hmac, 512), Some(256));
        assert_eq!(of_key(Algorithm::Rsa, 9000), None);
    }
}
