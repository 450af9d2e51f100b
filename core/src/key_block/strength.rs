//! A protection key must be at least as strong as the key it protects (X9.24-1:2017 7.2, PCI PIN annex C).

use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::attributes::Algorithm;
use super::version::ProtectionCipher;
use crate::key::{KeyBytes, KeyLen};

/// Effective bits of a two-key and a three-key triple DES key.
const TDES2: u16 = 80;
const TDES3: u16 = 112;
/// Effective bits of a DES key.
const DES: u16 = 56;
/// An HMAC key of more bits is not asked for a stronger protection key than there is.
const MOST: u16 = 256;

/// Effective bits of a protection key of this length, if no parts of it are equal.
pub(super) fn of_kbpk(cipher: ProtectionCipher, len: KeyLen) -> u16 {
    match (cipher, len) {
        (ProtectionCipher::Tdes, KeyLen::K128) => TDES2,
        (ProtectionCipher::Tdes, KeyLen::K192 | KeyLen::K256) => TDES3,
        (ProtectionCipher::Aes, len) => len.bits(),
    }
}

/// Effective bits of a protection key that is at hand. Of triple DES, equal neighbours undo each other, and a third part
/// equal to the first adds nothing; parity bits do not count.
pub(super) fn of_kbpk_at_hand(cipher: ProtectionCipher, key: &KeyBytes) -> u16 {
    let as_long = of_kbpk(cipher, key.key_len());
    let (parts, _) = key.expose().as_chunks::<8>();
    let equal = |one: &[u8; 8], other: &[u8; 8]| {
        let differ = one.iter().zip(other).fold(0, |differ, (one, other)| differ | ((one ^ other) & !1));
        differ.ct_eq(&0)
    };
    match (cipher, parts) {
        (ProtectionCipher::Tdes, [one, two]) => u16::conditional_select(&as_long, &DES, equal(one, two)),
        (ProtectionCipher::Tdes, [one, two, three]) => {
            let ends = u16::conditional_select(&as_long, &TDES2, equal(one, three));
            u16::conditional_select(&ends, &DES, equal(one, two) | equal(two, three))
        }
        (ProtectionCipher::Tdes | ProtectionCipher::Aes, _) => as_long,
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

    #[test]
    fn equal_parts_of_a_triple_des_key_add_nothing() {
        let worth =
            |cipher, parts: &[[u8; 8]]| of_kbpk_at_hand(cipher, &KeyBytes::copied(parts.as_flattened()).unwrap());
        // Like `a` but for the parity bits.
        let [a, alike, b, c]: [[u8; 8]; 4] = [[0x10; 8], [0x11; 8], [0x20; 8], [0x40; 8]];
        for (parts, bits) in [
            (&[a, b][..], TDES2),
            (&[a, alike], DES),
            (&[a, b, c], TDES3),
            (&[a, b, alike], TDES2),
            (&[a, alike, b], DES),
            (&[b, a, alike], DES),
            (&[a, a, a], DES),
        ] {
            assert_eq!(worth(ProtectionCipher::Tdes, parts), bits, "{parts:?}");
        }
        assert_eq!(worth(ProtectionCipher::Aes, &[a, a]), 128, "AES has no parts");
    }
}
