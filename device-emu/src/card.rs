//! What is typed: a card number, an expiry, a security code, a name. Checked for shape and held only until sealed.
//!
//! Architecture invariant: no field is printed, compared or cloned; no error repeats what was typed. Whether the
//! number passes Luhn or the card has expired is not the device's business: the host decides, and must be tested.

use warifu_core::secret::SecretBytes;

/// A card as it was typed, or as it is written on the stripe and chip a test presents.
pub struct Card {
    pan: SecretBytes,
    expiry: SecretBytes,
    code: Option<SecretBytes>,
    name: SecretBytes,
    service: [u8; 3],
}

/// What was typed is no card. Constant texts: nothing typed is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// 12 to 19 digits.
    #[error("a card number has 12 to 19 digits")]
    Pan,
    /// Four digits, year first, month 01 to 12.
    #[error("an expiry has four digits, year and month (YYMM)")]
    Expiry,
    /// Three or four digits.
    #[error("a security code has 3 or 4 digits")]
    Code,
    /// 2 to 26 characters of track 1.
    #[error("a name has 2 to 26 capitals, digits, '/', '.', '-' or '_' (for a space)")]
    Name,
    /// Three digits.
    #[error("a service code has 3 digits")]
    Service,
}

/// The name on a test card that was given none.
const NO_NAME: &[u8] = b"TEST/CARD";
/// International, chip, no restrictions (ISO/IEC 7813).
const SERVICE: [u8; 3] = *b"201";

impl Card {
    /// A number and an expiry, in ASCII digits. The caller still owns, and must wipe, both.
    pub fn new(pan: &[u8], expiry: &[u8]) -> Result<Self, CardError> {
        if !(12..=19).contains(&pan.len()) || !digits(pan) {
            return Err(CardError::Pan);
        }
        if expiry.len() != 4 || !digits(expiry) || !(b"01"..=b"12").contains(&&[expiry[2], expiry[3]]) {
            return Err(CardError::Expiry);
        }
        Ok(Self {
            pan: SecretBytes::copied(pan),
            expiry: SecretBytes::copied(expiry),
            code: None,
            name: SecretBytes::copied(NO_NAME),
            service: SERVICE,
        })
    }

    /// With a security code.
    pub fn with_code(mut self, code: &[u8]) -> Result<Self, CardError> {
        if !(3..=4).contains(&code.len()) || !digits(code) {
            return Err(CardError::Code);
        }
        self.code = Some(SecretBytes::copied(code));
        Ok(self)
    }

    /// With a name; `_` stands for a space.
    pub fn with_name(mut self, name: &[u8]) -> Result<Self, CardError> {
        let allowed = |byte: &u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b' ');
        if !(2..=26).contains(&name.len()) || !name.iter().all(allowed) {
            return Err(CardError::Name);
        }
        self.name = SecretBytes::filled(name.len(), |into| {
            into.iter_mut().zip(name).for_each(|(into, byte)| *into = if *byte == b'_' { b' ' } else { *byte });
        });
        Ok(self)
    }

    /// With a service code.
    pub fn with_service(mut self, service: &[u8]) -> Result<Self, CardError> {
        self.service = <[u8; 3]>::try_from(service).ok().filter(|code| digits(code)).ok_or(CardError::Service)?;
        Ok(self)
    }

    /// The number, in ASCII digits.
    pub fn pan(&self) -> &[u8] {
        self.pan.expose()
    }

    /// The expiry, `YYMM` in ASCII.
    pub fn expiry(&self) -> &[u8] {
        self.expiry.expose()
    }

    /// The security code, in ASCII digits.
    pub fn code(&self) -> Option<&[u8]> {
        self.code.as_ref().map(SecretBytes::expose)
    }

    /// The name, in the characters of track 1.
    pub fn name(&self) -> &[u8] {
        self.name.expose()
    }

    /// The service code.
    pub fn service(&self) -> &[u8; 3] {
        &self.service
    }
}

fn digits(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_card_is_refused_with_a_constant_text() {
        let refused = |pan: &[u8], expiry: &[u8]| Card::new(pan, expiry).err();
        assert_eq!(refused(b"41111111111", b"3012"), Some(CardError::Pan));
        assert_eq!(refused(b"41111111111111111111", b"3012"), Some(CardError::Pan));
        assert_eq!(refused(b"411111111111111A", b"3012"), Some(CardError::Pan));
        assert_eq!(refused(b"4111111111111111", b"3013"), Some(CardError::Expiry));
        assert_eq!(refused(b"4111111111111111", b"3000"), Some(CardError::Expiry));
        assert_eq!(refused(b"4111111111111111", b"30120"), Some(CardError::Expiry));
        let card = || Card::new(b"4111111111111111", b"3012").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(card().with_code(b"12").err(), Some(CardError::Code));
        assert_eq!(card().with_name(b"A^B").err(), Some(CardError::Name));
        assert_eq!(card().with_service(b"20").err(), Some(CardError::Service));
    }

    #[test]
    fn an_underscore_in_a_name_is_a_space() {
        let card = Card::new(b"4111111111111111", b"3012").and_then(|card| card.with_name(b"TARO_Y/CARD"));
        assert!(card.is_ok_and(|card| card.name() == b"TARO Y/CARD"));
    }
}
