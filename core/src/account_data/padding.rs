//! ISO/IEC 7816-4 padding: a bit that is one, then zeros to the end of the block.

use super::AccountDataError;
use crate::secret::SecretBytes;

/// A padded copy of `body`, a whole number of `block` bytes long; the padding has one byte or more.
/// The caller still owns, and must wipe, `body`.
pub fn pad_7816(body: &[u8], block: usize) -> SecretBytes {
    let block = block.max(1);
    let padded_len = (body.len() / block + 1) * block;
    SecretBytes::filled(padded_len, |padded| {
        let (text, padding) = padded.split_at_mut(body.len());
        text.copy_from_slice(body);
        if let Some(first) = padding.first_mut() {
            *first = 0x80;
        }
    })
}

/// The body of a padded text. Anything but `80 00..00` inside the last `block` bytes is noise.
///
/// Not constant in time: a native frame is opened only after its MAC was verified, so there is no oracle here.
pub fn unpad_7816(padded: &[u8], block: usize) -> Result<&[u8], AccountDataError> {
    let end = padded.iter().rposition(|byte| *byte != 0).ok_or(AccountDataError::Noise)?;
    match padded.split_at_checked(end) {
        Some((body, [0x80, zeros @ ..])) if zeros.len() < block => Ok(body),
        _ => Err(AccountDataError::Noise),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_comes_off_as_it_went_on() {
        for len in 0..40 {
            let body = vec![0x80; len];
            let padded = pad_7816(&body, 16);
            assert_eq!(padded.len() % 16, 0);
            assert_eq!(unpad_7816(padded.expose(), 16), Ok(&body[..]));
        }
    }

    #[test]
    fn a_text_without_padding_is_noise() {
        for bad in [&[][..], &[0; 16], &[1; 16], &[1, 1, 1, 0x81, 0, 0, 0, 0]] {
            assert_eq!(unpad_7816(bad, 8), Err(AccountDataError::Noise));
        }
        // A whole block of zeros behind the mark: no padding is that long.
        let mut long = [0; 16];
        long[7] = 0x80;
        assert_eq!(unpad_7816(&long, 8), Err(AccountDataError::Noise));
    }
}
