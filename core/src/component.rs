//! Components of a key: full-length parts that custodians carry separately, one xor the others being the key
//! (ANSI X9.24-1:2017 §7.5.2; PCI PIN requirement 6). Whoever knows all but one of them knows nothing of the key.

use crate::key::{KeyBytes, KeyLen};
use crate::ksn::Scheme;

/// What was typed is no component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComponentError {
    /// Something else than hex digits, spaces and hyphens.
    #[error("a component has hex digits, spaces and hyphens only")]
    Digit,
    /// As short as a half, or as long as somebody else's key.
    #[error("a component of this key has {wanted} hex digits, not {found}")]
    Length {
        /// Digits of the key.
        wanted: usize,
        /// Digits typed.
        found: usize,
    },
    /// Zeros add nothing: the others alone would know the key.
    #[error("a component of zeros protects nothing")]
    Zeros,
}

/// Components that make no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CombineError {
    /// One person would know the key.
    #[error("a key is made of two components or more")]
    TooFew,
    /// Components of different keys.
    #[error("the components have different lengths")]
    Lengths,
    /// Two equal components cancel each other.
    #[error("two components are the same")]
    Same,
    /// The key is all zeros.
    #[error("the components make a key of zeros")]
    Zeros,
    /// Triple DES with equal halves is single DES.
    #[error("the components make a key with equal halves, which is single DES")]
    Halves,
}

/// The bits of a byte that count: the lowest of a DES key is parity.
const fn mask(scheme: Scheme) -> u8 {
    match scheme {
        Scheme::Aes => 0xFF,
        Scheme::Tdes => 0xFE,
    }
}

/// Reads a component as it stands on paper: hex digits of either case, in groups or not.
///
/// # Errors
/// [`ComponentError`]; the digits are not repeated.
pub fn parse(text: &[u8], scheme: Scheme, len: KeyLen) -> Result<KeyBytes, ComponentError> {
    let (mut found, mut strange, mut any) = (0, false, 0);
    let key = KeyBytes::filled(len, |bytes| {
        for character in text.iter().filter(|character| !matches!(character, b' ' | b'-' | b'\t')) {
            let nibble = match character {
                b'0'..=b'9' => character - b'0',
                b'a'..=b'f' => character - b'a' + 10,
                b'A'..=b'F' => character - b'A' + 10,
                _ => {
                    strange = true;
                    return;
                }
            };
            if let Some(byte) = bytes.get_mut(found / 2) {
                *byte = *byte << 4 | nibble;
            }
            found += 1;
        }
        any = bytes.iter().fold(0, |any, byte| any | byte & mask(scheme));
    });
    let wanted = 2 * len.bytes();
    match () {
        () if strange => Err(ComponentError::Digit),
        () if found != wanted => Err(ComponentError::Length { wanted, found }),
        () if any == 0 => Err(ComponentError::Zeros),
        () => Ok(key),
    }
}

/// The key that components make.
///
/// # Errors
/// [`CombineError`]
pub fn combine(components: &[KeyBytes], scheme: Scheme) -> Result<KeyBytes, CombineError> {
    let [first, others @ ..] = components else { return Err(CombineError::TooFew) };
    if others.is_empty() {
        return Err(CombineError::TooFew);
    }
    let len = first.key_len();
    if others.iter().any(|other| other.key_len() != len) {
        return Err(CombineError::Lengths);
    }
    let alike = |one: &KeyBytes, other: &KeyBytes| {
        let differ = one.expose().iter().zip(other.expose()).fold(0, |differ, (one, other)| differ | one ^ other);
        differ & mask(scheme) == 0
    };
    let same =
        components.iter().enumerate().any(|(at, one)| components[at + 1..].iter().any(|other| alike(one, other)));
    if same {
        return Err(CombineError::Same);
    }
    let (mut any, mut halves) = (0, 0);
    let key = KeyBytes::filled(len, |bytes| {
        for component in components {
            bytes.iter_mut().zip(component.expose()).for_each(|(byte, part)| *byte ^= part);
        }
        any = bytes.iter().fold(0, |any, byte| any | byte & mask(scheme));
        let (left, right) = bytes.split_at(bytes.len() / 2);
        halves = left.iter().zip(right).fold(0, |differ, (left, right)| differ | (left ^ right) & mask(scheme));
    });
    if scheme == Scheme::Tdes && any != 0 && halves == 0 {
        return Err(CombineError::Halves);
    }
    if any == 0 { Err(CombineError::Zeros) } else { Ok(key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(digits: &str) -> KeyBytes {
        parse(digits.as_bytes(), Scheme::Aes, KeyLen::K128).unwrap()
    }

    const ONE: &str = "1111 1111 2222 2222-3333 3333 4444 4444";
    const TWO: &str = "aaaaaaaaBBBBBBBBccccccccDDDDDDDD";

    #[test]
    fn a_key_is_one_component_xor_the_others() {
        let key = combine(&[component(ONE), component(TWO)], Scheme::Aes).unwrap();
        assert_eq!(hex::encode_upper(key.expose()), "BBBBBBBB99999999FFFFFFFF99999999");
        let three = combine(&[component(ONE), component(TWO), key], Scheme::Aes);
        assert_eq!(three.err(), Some(CombineError::Zeros));
    }

    #[test]
    fn a_half_is_no_component() {
        let half = parse(b"0123456789ABCDEF", Scheme::Aes, KeyLen::K128);
        assert_eq!(half.err(), Some(ComponentError::Length { wanted: 32, found: 16 }));
        let long = parse(&[b'1'; 66], Scheme::Aes, KeyLen::K256);
        assert_eq!(long.err(), Some(ComponentError::Length { wanted: 64, found: 66 }));
        assert_eq!(parse(b"O1", Scheme::Aes, KeyLen::K128).err(), Some(ComponentError::Digit));
        assert_eq!(parse(&[b'0'; 32], Scheme::Aes, KeyLen::K128).err(), Some(ComponentError::Zeros));
    }

    #[test]
    fn components_that_protect_nothing_are_refused() {
        assert_eq!(combine(&[], Scheme::Aes).err(), Some(CombineError::TooFew));
        assert_eq!(combine(&[component(ONE)], Scheme::Aes).err(), Some(CombineError::TooFew));
        assert_eq!(combine(&[component(ONE), component(ONE)], Scheme::Aes).err(), Some(CombineError::Same));
        let longer = parse(&[b'1'; 64], Scheme::Aes, KeyLen::K256).unwrap();
        assert_eq!(combine(&[component(ONE), longer], Scheme::Aes).err(), Some(CombineError::Lengths));
    }

    #[test]
    fn parity_hides_nothing_in_a_triple_des_key() {
        let part = |digits: &str| parse(digits.as_bytes(), Scheme::Tdes, KeyLen::K128);
        assert_eq!(part(&"01".repeat(16)).err(), Some(ComponentError::Zeros));
        let (one, odd) = (part(ONE).unwrap(), part(&ONE.replace("1111 1111", "1010 1010")).unwrap());
        assert_eq!(combine(&[one, odd], Scheme::Tdes).err(), Some(CombineError::Same));
        let halves = [part(ONE).unwrap(), part("EEEEEEEE DDDDDDDD CCCCCCCC BBBBBBBB").unwrap()];
        assert_eq!(combine(&halves, Scheme::Tdes).err(), Some(CombineError::Halves));
        assert!(combine(&halves, Scheme::Aes).is_ok());
    }
}
