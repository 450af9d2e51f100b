//! What may be shown of a card number.

use std::fmt;

use super::{CardError, MAX_PAN_LEN, MIN_PAN_LEN, Pan};

/// Most leading digits shown: the issuer's six (PCI DSS 3.4.1).
const MAX_HEAD: usize = 6;
/// Most trailing digits shown.
const MAX_TAIL: usize = 4;
/// Digits that stay hidden even in a number shorter than sixteen: the first digits give way.
const MIN_HIDDEN: usize = 6;
/// What stands for a hidden digit.
const HIDDEN: u8 = b'*';

/// A card number with all but its first six and last four digits hidden, as `411111******1111`. A number
/// of fewer than sixteen digits shows fewer of its first ones, so that six stay hidden.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MaskedPan {
    shown: [u8; MAX_PAN_LEN],
    len: usize,
}

impl MaskedPan {
    pub(super) fn of(pan: &Pan) -> Self {
        Self::cut(pan.expose())
    }

    /// Takes a number masked by somebody else: digits are digits, any other character a hidden one. What it
    /// shows beyond the rules here is dropped. `None` if its length is no card number's.
    pub fn from_shown(masked: &[u8]) -> Option<Self> {
        (MIN_PAN_LEN..=MAX_PAN_LEN).contains(&masked.len()).then(|| Self::cut(masked))
    }

    /// Reads one back from storage: digits, stars, digits.
    pub fn parse(text: &str) -> Result<Self, CardError> {
        let masked = Self::from_shown(text.as_bytes()).ok_or(CardError::Masked)?;
        // Whatever is not exactly what this type shows (too many digits, other characters) was not made here.
        if masked.as_bytes() == text.as_bytes() { Ok(masked) } else { Err(CardError::Masked) }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        // Only ASCII digits and stars are ever written.
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// Whether `pan` can be the number behind this mask: same length, same digits where they are shown.
    pub fn agrees_with(&self, pan: &Pan) -> bool {
        let digits = pan.expose();
        digits.len() == self.len
            && self.as_bytes().iter().zip(digits).all(|(shown, digit)| *shown == HIDDEN || shown == digit)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.shown[..self.len]
    }

    /// `digits` has the length of a card number.
    fn cut(digits: &[u8]) -> Self {
        let len = digits.len().min(MAX_PAN_LEN);
        let head = MAX_HEAD.min(len.saturating_sub(MAX_TAIL + MIN_HIDDEN));
        let head = digits.iter().take(head).take_while(|digit| digit.is_ascii_digit()).count();
        let tail = digits.iter().rev().take(MAX_TAIL).take_while(|digit| digit.is_ascii_digit()).count();
        let mut shown = [HIDDEN; MAX_PAN_LEN];
        let visible = |place: usize| place < head || place + tail >= len;
        for (place, (slot, digit)) in shown.iter_mut().zip(digits).enumerate() {
            if visible(place) {
                *slot = *digit;
            }
        }
        Self { shown, len }
    }
}

impl fmt::Display for MaskedPan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for MaskedPan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(digits: &str) -> String {
        Pan::parse(digits.as_bytes()).expect("a number").masked().to_string()
    }

    #[test]
    fn short_numbers_show_fewer_first_digits() {
        assert_eq!(masked("4111112345671111"), "411111******1111");
        assert_eq!(masked("4111112345678901111"), "411111*********1111");
        assert_eq!(masked("374245001741007"), "37424******1007");
        assert_eq!(masked("36000000000008"), "3600******0008");
        assert_eq!(masked("123456789012"), "12******9012");
    }

    #[test]
    fn a_stored_mask_reads_back_and_a_full_number_does_not() {
        for text in ["411111******1111", "4111********1111", "****************"] {
            assert_eq!(MaskedPan::parse(text).map(|mask| mask.to_string()), Ok(text.to_owned()));
        }
        for bad in ["4111111111111111", "4111111*****1111", "411111XXXXXX1111", "4111", ""] {
            assert_eq!(MaskedPan::parse(bad), Err(CardError::Masked));
        }
    }

    #[test]
    fn a_foreign_mask_is_cut_to_what_may_be_shown() {
        let mask = MaskedPan::from_shown(b"41111111XXXX1111").expect("a mask");
        assert_eq!(mask.as_str(), "411111******1111");
    }

    #[test]
    fn a_mask_agrees_only_with_numbers_that_fit_it() {
        let mask = MaskedPan::from_shown(b"4111********1111").expect("a mask");
        let agrees = |digits: &str| mask.agrees_with(&Pan::parse(digits.as_bytes()).expect("a number"));
        assert!(agrees("4111222233331111"));
        assert!(!agrees("4112222233331111"));
        assert!(!agrees("4111222233331112"));
        assert!(!agrees("41112222333331111"));
    }
}
