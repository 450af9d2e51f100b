//! The 16-digit payment token: first digit 9, never a valid card number.
//!
//! A token says nothing of the card it stands for, except the last four digits where the merchant's policy keeps
//! them. Randomness comes in as an argument; it is the HSM's.

use std::fmt;

use crate::card::luhn;

/// Digits of a token.
pub const LEN: usize = 16;

/// A payment token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token([u8; LEN]);

/// Whether a merchant's tokens end as its cards do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastFour {
    /// All digits but the first are random.
    Random,
    /// The last four are the card's.
    Keep,
}

/// A text that is no token. The text is not repeated: a caller might have sent a card number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token has 16 digits, starts with 9, and is never a valid card number")]
pub struct TokenError;

impl Token {
    /// Parses a token a caller sent.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let digits: [u8; LEN] = text.as_bytes().try_into().map_err(|_| TokenError)?;
        let well_formed = digits[0] == b'9' && digits.iter().all(u8::is_ascii_digit) && !luhn(&digits);
        if well_formed { Ok(Self(digits)) } else { Err(TokenError) }
    }

    /// Makes a token of 8 random bytes, or `None` (about one draw in five) when they must be drawn again:
    /// drawing again, instead of mending a digit, keeps every token equally likely.
    pub fn draw(random: [u8; 8], last_four: Option<[u8; 4]>) -> Option<Self> {
        let space: u64 = if last_four.is_some() { 100_000_000_000 } else { 1_000_000_000_000_000 };
        // The fewest bits that hold every value of the space: 37 or 50.
        let mut value = u64::from_be_bytes(random) & (space.next_power_of_two() - 1);
        if value >= space {
            return None;
        }
        let mut digits = [b'9'; LEN];
        let tail = match last_four {
            Some(four) => {
                digits[LEN - 4..].copy_from_slice(&four);
                LEN - 4
            }
            None => LEN,
        };
        for digit in digits[1..tail].iter_mut().rev() {
            *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
            value /= 10;
        }
        (!luhn(&digits)).then_some(Self(digits))
    }

    /// The sixteen digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("made of ASCII digits")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_is_never_a_card_number(random: [u8; 8], four in prop::option::of("[0-9]{4}")) {
            let last_four = four.map(|four| <[u8; 4]>::try_from(four.as_bytes()).unwrap());
            if let Some(token) = Token::draw(random, last_four) {
                prop_assert_eq!(token.as_str().len(), 16);
                prop_assert!(token.as_str().starts_with('9'));
                prop_assert!(!luhn(token.as_str().as_bytes()));
                prop_assert_eq!(Token::parse(token.as_str()), Ok(token));
                if let Some(four) = last_four {
                    prop_assert_eq!(&token.as_str().as_bytes()[12..], &four);
                }
            }
        }
    }

    #[test]
    fn a_card_number_is_refused_as_a_token() {
        for text in ["4111111111111111", "", "9", "90000000000000000", "900000000000000a", "9000000000000001"] {
            let luhn_valid = luhn(text.as_bytes()) && text.len() == 16;
            assert_eq!(Token::parse(text).is_err(), luhn_valid || text.len() != 16 || text.ends_with('a'), "{text}");
        }
    }
}
