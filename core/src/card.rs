//! What identifies a card: its number, its expiry date, its security code.
//!
//! A [`Pan`] and a [`SecurityCode`] are secrets. Whatever of a number may be shown, stored or logged goes
//! through [`MaskedPan`], which holds no more than that.

mod brand;
mod masked;

pub use brand::Brand;
pub use masked::MaskedPan;

use std::fmt;

use zeroize::Zeroize;

use crate::secret::SecretBytes;

/// Fewest digits of a primary account number this domain takes.
pub const MIN_PAN_LEN: usize = 12;
/// Most digits of a primary account number (ISO/IEC 7812-1).
pub const MAX_PAN_LEN: usize = 19;

/// A primary account number of 12 to 19 digits. A secret.
///
/// ```compile_fail
/// let pan = warifu_core::card::Pan::parse(b"4111111111111111").unwrap();
/// println!("{pan:?}"); // A number has no Debug.
/// ```
pub struct Pan(SecretBytes);

/// The month a card ends with, `YYMM`. Not a secret by itself, but never printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    year: u8,
    month: u8,
}

/// The three or four digits printed on a card. A secret that is never stored (PCI DSS 3.3.1.2).
pub struct SecurityCode(SecretBytes);

/// Card data that is none. Constant texts: nothing of the input is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// Fewer than 12 or more than 19 digits.
    #[error("a card number has 12 to 19 digits")]
    PanLength,
    /// Something else than digits.
    #[error("a card number has digits only")]
    PanDigits,
    /// Not `YYMM`, or no such month.
    #[error("an expiry date is four digits, YYMM, with a month from 01 to 12")]
    Expiry,
    /// Not three or four digits.
    #[error("a security code is three or four digits")]
    SecurityCode,
    /// A masked number that shows too much, or is none.
    #[error("a masked card number shows at most its first six and last four digits")]
    Masked,
}

impl Pan {
    /// Takes ASCII digits. The Luhn digit is not asked for: see [`Pan::passes_luhn`].
    pub fn parse(digits: &[u8]) -> Result<Self, CardError> {
        if !(MIN_PAN_LEN..=MAX_PAN_LEN).contains(&digits.len()) {
            return Err(CardError::PanLength);
        }
        if !digits.iter().all(u8::is_ascii_digit) {
            return Err(CardError::PanDigits);
        }
        Ok(Self(SecretBytes::copied(digits)))
    }

    /// The one door: its ASCII digits.
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }

    /// What may be shown of it (PCI DSS 3.4.1).
    pub fn masked(&self) -> MaskedPan {
        MaskedPan::of(self)
    }

    /// Its last four digits, which may be shown.
    pub fn last_four(&self) -> [u8; 4] {
        // A number has at least twelve digits, so this is its end and never the zeros.
        self.expose().last_chunk().copied().unwrap_or([b'0'; 4])
    }

    /// Who issued it, by its first digits.
    pub fn brand(&self) -> Brand {
        Brand::of(self.expose())
    }

    /// Whether its check digit is right.
    pub fn passes_luhn(&self) -> bool {
        luhn(self.expose())
    }

    /// Compares in constant time for equal lengths.
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0)
    }
}

impl Expiry {
    /// Takes `YYMM` in ASCII.
    pub fn parse_yymm(yymm: &[u8]) -> Result<Self, CardError> {
        let [y1, y0, m1, m0] = *yymm else { return Err(CardError::Expiry) };
        let two = |tens: u8, ones: u8| -> Option<u8> {
            (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| (tens - b'0') * 10 + (ones - b'0'))
        };
        match (two(y1, y0), two(m1, m0)) {
            (Some(year), Some(month)) if (1..=12).contains(&month) => Ok(Self { year, month }),
            _ => Err(CardError::Expiry),
        }
    }

    /// The last two digits of its year.
    pub fn year(self) -> u8 {
        self.year
    }

    /// Its month, 1 to 12.
    pub fn month(self) -> u8 {
        self.month
    }

    /// The one door: `YYMM` in ASCII.
    pub fn expose(self) -> [u8; 4] {
        let digits = |number: u8| [b'0' + number / 10, b'0' + number % 10];
        let ([y1, y0], [m1, m0]) = (digits(self.year), digits(self.month));
        [y1, y0, m1, m0]
    }

    /// Whether the card has ended, given the two-digit year and the month of today. A card is good through
    /// the last day of its month. Two-digit years are read as the nearest: within 50 years back or ahead.
    pub fn is_past(self, year: u8, month: u8) -> bool {
        let years_ago = (i16::from(year) - i16::from(self.year)).rem_euclid(100);
        match years_ago {
            0 => self.month < month,
            1..50 => true,
            _ => false,
        }
    }
}

impl fmt::Debug for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Expiry(..)")
    }
}

impl Zeroize for Expiry {
    fn zeroize(&mut self) {
        self.year.zeroize();
        self.month.zeroize();
    }
}

impl SecurityCode {
    /// Takes three or four ASCII digits.
    pub fn parse(digits: &[u8]) -> Result<Self, CardError> {
        if (3..=4).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) {
            Ok(Self(SecretBytes::copied(digits)))
        } else {
            Err(CardError::SecurityCode)
        }
    }

    /// The one door: its ASCII digits.
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }
}

/// Whether the last of these ASCII digits is the check digit of those before it (ISO/IEC 7812-1 annex B).
pub fn luhn(digits: &[u8]) -> bool {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let sum = digits.iter().rev().enumerate().fold(0u32, |sum, (place, digit)| {
        let digit = u32::from(digit - b'0');
        let weighted = if place % 2 == 1 { digit * 2 } else { digit };
        (sum + weighted / 10 + weighted % 10) % 10
    });
    sum == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_number_has_twelve_to_nineteen_digits() {
        assert!(Pan::parse(b"123456789012").is_ok());
        assert!(Pan::parse(b"1234567890123456789").is_ok());
        assert_eq!(Pan::parse(b"12345678901").err(), Some(CardError::PanLength));
        assert_eq!(Pan::parse(b"12345678901234567890").err(), Some(CardError::PanLength));
        assert_eq!(Pan::parse(b"411111111111111 ").err(), Some(CardError::PanDigits));
    }

    #[test]
    fn a_card_ends_with_the_last_day_of_its_month() {
        let expiry = Expiry::parse_yymm(b"2611").expect("a date");
        assert!(!expiry.is_past(26, 11));
        assert!(expiry.is_past(26, 12));
        assert!(expiry.is_past(27, 1));
        assert!(!expiry.is_past(25, 12));
        assert_eq!((expiry.year(), expiry.month(), expiry.expose()), (26, 11, *b"2611"));
    }

    #[test]
    fn the_turn_of_the_century_is_crossed_both_ways() {
        let next = Expiry::parse_yymm(b"0101").expect("a date");
        let last = Expiry::parse_yymm(b"9912").expect("a date");
        assert!(!next.is_past(99, 12));
        assert!(last.is_past(0, 1));
    }

    #[test]
    fn there_is_no_thirteenth_month() {
        for bad in [&b"2600"[..], b"2613", b"26-1", b"261", b"26111"] {
            assert_eq!(Expiry::parse_yymm(bad), Err(CardError::Expiry));
        }
    }

    #[test]
    fn a_security_code_has_three_or_four_digits() {
        assert_eq!(SecurityCode::parse(b"123").map(|code| code.expose().to_vec()), Ok(b"123".to_vec()));
        assert!(SecurityCode::parse(b"1234").is_ok());
        for bad in [&b""[..], b"12", b"12345", b"12a"] {
            assert_eq!(SecurityCode::parse(bad).err(), Some(CardError::SecurityCode));
        }
    }
}
