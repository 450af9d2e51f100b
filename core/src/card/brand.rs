//! Whose card it is, told from the first digits of its number.

/// The payment scheme of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Brand {
    /// Visa.
    Visa,
    /// Mastercard.
    Mastercard,
    /// JCB.
    Jcb,
    /// American Express.
    Amex,
    /// Diners Club.
    Diners,
    /// Discover.
    Discover,
    /// China UnionPay.
    UnionPay,
    /// None of these.
    Other,
}

impl Brand {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Visa,
        Self::Mastercard,
        Self::Jcb,
        Self::Amex,
        Self::Diners,
        Self::Discover,
        Self::UnionPay,
        Self::Other,
    ];

    /// Reads the first four ASCII digits. Ranges as the schemes publish them; 62 is UnionPay's also where
    /// Discover carries it abroad.
    pub(super) fn of(digits: &[u8]) -> Self {
        let Some(&[a, b, c, d]) = digits.first_chunk() else { return Self::Other };
        let first_four =
            [a, b, c, d].iter().fold(0u16, |number, digit| number * 10 + u16::from(digit.wrapping_sub(48)));
        match first_four {
            4000..=4999 => Self::Visa,
            5100..=5599 | 2221..=2720 => Self::Mastercard,
            3528..=3589 => Self::Jcb,
            3400..=3499 | 3700..=3799 => Self::Amex,
            3000..=3059 | 3095 | 3600..=3699 | 3800..=3999 => Self::Diners,
            6011 | 6440..=6599 => Self::Discover,
            6200..=6299 | 8100..=8199 => Self::UnionPay,
            _ => Self::Other,
        }
    }

    /// Its lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Visa => "visa",
            Self::Mastercard => "mastercard",
            Self::Jcb => "jcb",
            Self::Amex => "amex",
            Self::Diners => "diners",
            Self::Discover => "discover",
            Self::UnionPay => "unionpay",
            Self::Other => "other",
        }
    }

    /// The inverse of [`Brand::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|brand| brand.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_digits_name_the_scheme() {
        for (number, brand) in [
            ("4111111111111111", Brand::Visa),
            ("5413330089604111", Brand::Mastercard),
            ("2221000000000009", Brand::Mastercard),
            ("2720990000000007", Brand::Mastercard),
            ("2721000000000000", Brand::Other),
            ("3530111333300000", Brand::Jcb),
            ("374245001741007", Brand::Amex),
            ("36000000000008", Brand::Diners),
            ("3095000000000000", Brand::Diners),
            ("6011000990139424", Brand::Discover),
            ("6500000000000002", Brand::Discover),
            ("6210948000000011", Brand::UnionPay),
            ("9000000000000000", Brand::Other),
        ] {
            assert_eq!(Brand::of(number.as_bytes()), brand, "{}", &number[..4]);
            assert_eq!(Brand::from_name(brand.name()), Some(brand));
        }
    }
}
