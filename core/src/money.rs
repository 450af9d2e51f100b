//! Money: integer minor units with their currency (ISO 4217).

use std::fmt;

/// Largest amount an authorization message carries: 12 digits (ISO 8583 field 4).
pub const MAX_MINOR: i64 = 999_999_999_999;

/// A currency this house trades in.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency(&'static Row);

#[derive(PartialEq, Eq, Hash)]
struct Row {
    code: &'static str,
    number: u16,
    exponent: u32,
}

const fn row(code: &'static str, number: u16, exponent: u32) -> Row {
    Row { code, number, exponent }
}

/// ISO 4217 codes, numbers and exponents of the currencies acquirers commonly settle.
static CURRENCIES: [Row; 32] = [
    row("AED", 784, 2),
    row("AUD", 36, 2),
    row("BHD", 48, 3),
    row("BRL", 986, 2),
    row("CAD", 124, 2),
    row("CHF", 756, 2),
    row("CLP", 152, 0),
    row("CNY", 156, 2),
    row("CZK", 203, 2),
    row("DKK", 208, 2),
    row("EUR", 978, 2),
    row("GBP", 826, 2),
    row("HKD", 344, 2),
    row("HUF", 348, 2),
    row("IDR", 360, 2),
    row("ILS", 376, 2),
    row("INR", 356, 2),
    row("JPY", 392, 0),
    row("KRW", 410, 0),
    row("KWD", 414, 3),
    row("MXN", 484, 2),
    row("MYR", 458, 2),
    row("NOK", 578, 2),
    row("NZD", 554, 2),
    row("PHP", 608, 2),
    row("PLN", 985, 2),
    row("SEK", 752, 2),
    row("SGD", 702, 2),
    row("THB", 764, 2),
    row("TWD", 901, 2),
    row("USD", 840, 2),
    row("VND", 704, 0),
];

/// An amount or currency that cannot be charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not three letters of a known currency.
    #[error("the currency is not one this server knows; use an ISO 4217 code such as JPY")]
    Currency,
    /// Zero, negative, or more than twelve digits.
    #[error("the amount must be between 1 and {MAX_MINOR} minor units")]
    Amount,
}

impl Currency {
    /// Looks a currency up by its ISO 4217 letters.
    pub fn parse(code: &str) -> Result<Self, MoneyError> {
        CURRENCIES.iter().find(|row| row.code == code).map(Self).ok_or(MoneyError::Currency)
    }

    /// Three letters.
    pub const fn code(self) -> &'static str {
        self.0.code
    }

    /// Three digits (ISO 8583 field 49).
    pub const fn number(self) -> u16 {
        self.0.number
    }
}

/// A chargeable amount: positive, at most twelve digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    minor: i64,
    currency: Currency,
}

impl Money {
    /// Checks an amount in minor units.
    pub fn new(minor: i64, currency: Currency) -> Result<Self, MoneyError> {
        if (1..=MAX_MINOR).contains(&minor) { Ok(Self { minor, currency }) } else { Err(MoneyError::Amount) }
    }

    /// Minor units.
    pub const fn minor(self) -> i64 {
        self.minor
    }

    /// Their currency.
    pub const fn currency(self) -> Currency {
        self.currency
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.currency.0.exponent {
            0 => write!(f, "{} {}", self.minor, self.currency),
            exponent => {
                let unit = 10_i64.pow(exponent);
                let digits = usize::try_from(exponent).unwrap_or(2);
                write!(f, "{}.{:0digits$} {}", self.minor / unit, self.minor % unit, self.currency)
            }
        }
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minor_units_follow_the_currency() {
        let money = |minor, code| Money::new(minor, Currency::parse(code).unwrap()).unwrap().to_string();
        assert_eq!(money(1200, "JPY"), "1200 JPY");
        assert_eq!(money(1205, "USD"), "12.05 USD");
        assert_eq!(money(5, "KWD"), "0.005 KWD");
    }

    #[test]
    fn wrong_amounts_and_currencies_are_refused() {
        let jpy = Currency::parse("JPY").unwrap();
        for minor in [0, -1, i64::MIN, MAX_MINOR + 1] {
            assert_eq!(Money::new(minor, jpy), Err(MoneyError::Amount));
        }
        for code in ["", "jpy", "XXX", "JPYX"] {
            assert_eq!(Currency::parse(code), Err(MoneyError::Currency));
        }
    }
}
