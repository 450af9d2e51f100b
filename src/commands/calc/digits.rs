//! Hex as people type and paste it: either case, white space anywhere between the digits, one `0x` before them.

use std::num::IntErrorKind;

use anyhow::{Result, anyhow, bail};
use zeroize::Zeroizing;

/// Decodes bytes, and names the argument that is wrong.
pub(super) fn bytes(name: &str, text: &str) -> Result<Vec<u8>> {
    hex::decode(digits(text)).map_err(|error| anyhow!("{name}: not hex: {error}"))
}

/// Decodes a number of 32 bits.
pub(super) fn number(name: &str, text: &str) -> Result<u32> {
    let digits = digits(text);
    // The standard's parser takes a sign.
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        bail!("{name}: not hex: {text:?} is no number in hex digits");
    }
    u32::from_str_radix(&digits, 16).map_err(|error| match error.kind() {
        IntErrorKind::PosOverflow => anyhow!("{name}: too large: {} is wider than 32 bits", digits.as_str()),
        _ => anyhow!("{name}: not hex: {error}"),
    })
}

/// The digits alone; whether they are digits is not looked at. They may be a key's.
fn digits(text: &str) -> Zeroizing<String> {
    let text = text.trim_ascii();
    let text = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let mut digits = Zeroizing::new(String::with_capacity(text.len()));
    digits.extend(text.chars().filter(|c| !c.is_ascii_whitespace()));
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_people_write_them() {
        for text in ["0123abCD", " 01 23\tab CD\r\n", "0x0123ABCD", "0X 0123 abcd ", "\n0x01\n23\nAB\nCD\n"] {
            assert_eq!(bytes("--ksn", text).unwrap(), [0x01, 0x23, 0xAB, 0xCD], "{text:?}");
        }
        for text in ["0123abC", "0x0x01", "01:23", "+01", "0 x01", "x01", "01-23", "１２"] {
            let said = bytes("--ksn", text).unwrap_err().to_string();
            assert!(said.starts_with("--ksn: not hex"), "{text:?}: {said}");
        }
    }

    #[test]
    fn numbers_are_read_as_people_write_them_and_no_further() {
        for text in ["1FF", "0x1ff", "0X1Ff", " 1 FF ", "00 01 FF", "0x 01FF", "0000000000000001FF"] {
            assert_eq!(number("--counter", text).unwrap(), 0x1FF, "{text:?}");
        }
        for text in ["", " ", "0x", "+1", "-1", "0x+1", "0x0x1", "1_000", "12h", "0b1 z"] {
            let said = number("--counter", text).unwrap_err().to_string();
            assert!(said.contains("not hex"), "{text:?}: {said}");
        }
        assert_eq!(number("--counter", "FFFF FFFF").unwrap(), u32::MAX);
        for text in ["1 0000 0000", "0xFFFFFFFFFFFFFFFFFFFFFFFF"] {
            let said = number("--counter", text).unwrap_err().to_string();
            assert!(said.contains("too large") && said.contains("32 bits"), "{text:?}: {said}");
        }
    }
}
