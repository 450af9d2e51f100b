//! Hex and decimal digits as key blocks have them.

/// The letters of a run of hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Letters {
    /// As the standard writes them, or none.
    Upper,
    /// Some makers' way.
    Lower,
}

/// The bytes of hex digits, and how they were written. One case throughout: one flipped bit must not go unseen, and
/// it would if `a` stood for `A` among capitals.
pub(super) fn bytes(text: &str) -> Option<(Vec<u8>, Letters)> {
    let upper = text.bytes().any(|digit| digit.is_ascii_uppercase());
    let lower = text.bytes().any(|digit| digit.is_ascii_lowercase());
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    if upper && lower {
        return None;
    }
    let bytes = pairs.iter().map(|&[high, low]| Some(value(high)? << 4 | value(low)?)).collect::<Option<_>>()?;
    Some((bytes, if lower { Letters::Lower } else { Letters::Upper }))
}

/// The number of hex digits of either case; `None` also if it is beyond counting.
pub(super) fn hex_number(text: &str) -> Option<usize> {
    if text.is_empty() || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    usize::from_str_radix(text, 16).ok()
}

/// The number of a few decimal digits.
pub(super) fn number(digits: &[u8]) -> Option<usize> {
    digits.iter().try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + usize::from(digit - b'0')))
}

/// Whether a text is of hex digits as the standard writes them, two for each byte.
pub(super) fn is_hex(text: &str) -> bool {
    text.len().is_multiple_of(2) && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'))
}

/// Capital hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_of_one_case() {
        assert_eq!(bytes("01aB"), None);
        assert_eq!(bytes("01AB"), Some((vec![1, 0xAB], Letters::Upper)));
        assert_eq!(bytes("01ab"), Some((vec![1, 0xAB], Letters::Lower)));
        assert_eq!((bytes("01A"), bytes("0G"), bytes("+1")), (None, None, None));
        assert_eq!(hex(&[0x0F, 0xA0]), "0FA0");
    }

    #[test]
    fn numbers_have_no_signs() {
        assert_eq!((number(b"0112"), number(b"+112"), number(b"1 ")), (Some(112), None, None));
        assert_eq!((hex_number("1a"), hex_number("1A"), hex_number("+1")), (Some(26), Some(26), None));
        assert_eq!(hex_number(&"F".repeat(40)), None);
    }
}
