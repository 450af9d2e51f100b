//! Reads the masked tracks a reader sends in clear, and refuses those that are not masked.

use crate::card::{Expiry, MAX_PAN_LEN, MIN_PAN_LEN, MaskedPan};
use crate::frame::{FrameError, Shown};

/// Fewest hidden digits of a number that counts as masked: the readers here show ten at most, so three are
/// hidden even in a number of thirteen.
const MIN_HIDDEN: usize = 3;

/// The number of a track, up to its separator, and what follows the separator.
struct Parts<'a> {
    number: &'a [u8],
    /// `YYMM...`
    after: &'a [u8],
}

/// A track masked with a character that is no digit (ID TECH: `*`). A number with hardly a hidden digit is
/// card data in clear.
pub(super) fn starred(track: &[u8]) -> Result<Shown, FrameError> {
    let Some(Parts { number, after }) = parts(track) else { return unlabelled(track) };
    let hidden = number.iter().filter(|c| !c.is_ascii_digit()).count();
    if number.len() >= MIN_PAN_LEN && hidden < MIN_HIDDEN {
        return Err(FrameError::Clear);
    }
    Ok(Shown { pan: MaskedPan::from_shown(number), expiry: expiry(after) })
}

/// A track masked with zeros and one digit that keeps the Luhn sum right (MagTek): the first four and last
/// four digits are real, the others say nothing.
pub(super) fn zeroed(track: &[u8]) -> Shown {
    let Some(Parts { number, after }) = parts(track) else { return Shown::default() };
    if !(MIN_PAN_LEN..=MAX_PAN_LEN).contains(&number.len()) {
        return Shown::default();
    }
    let mut masked = [b'*'; MAX_PAN_LEN];
    for (place, (slot, digit)) in masked.iter_mut().zip(number).enumerate() {
        if place < 4 || place + 4 >= number.len() {
            *slot = *digit;
        }
    }
    let pan = masked.get(..number.len()).and_then(MaskedPan::from_shown);
    Shown { pan, expiry: expiry(after) }
}

/// A track without separators: nothing to show, and nothing that could be a card number may be in it.
fn unlabelled(track: &[u8]) -> Result<Shown, FrameError> {
    let runs = track.split(|c| !c.is_ascii_digit());
    if runs.map(<[u8]>::len).max().unwrap_or(0) >= MIN_PAN_LEN { Err(FrameError::Clear) } else { Ok(Shown::default()) }
}

fn parts(track: &[u8]) -> Option<Parts<'_>> {
    match track {
        [b'%', _format, rest @ ..] => {
            let (number, rest) = split(rest, b'^')?;
            let (_name, after) = split(rest, b'^')?;
            Some(Parts { number, after })
        }
        [b';', rest @ ..] => split(rest, b'=').map(|(number, after)| Parts { number, after }),
        _ => None,
    }
}

fn split(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|c| *c == separator)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

fn expiry(after: &[u8]) -> Option<Expiry> {
    after.get(..4).and_then(|yymm| Expiry::parse_yymm(yymm).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_masked_is_kept_and_what_is_clear_is_refused() {
        let shown = starred(b"%*4761********0043^UAT USA/TEST CARD 02      ^2412***?*").expect("masked");
        assert_eq!(shown.pan.map(|pan| pan.to_string()).as_deref(), Some("4761********0043"));
        assert_eq!(shown.expiry, Expiry::parse_yymm(b"2412").ok());
        assert_eq!(starred(b";4266841088889999=080910110000046?0"), Err(FrameError::Clear));
        assert_eq!(starred(b"%B4266841088889999^X^0809?"), Err(FrameError::Clear));
        assert_eq!(starred(b"4266841088889999"), Err(FrameError::Clear));
        assert_eq!(starred(b"%**************?*"), Ok(Shown::default()));
    }

    #[test]
    fn the_luhn_digit_of_a_magtek_mask_says_nothing() {
        let shown = zeroed(b";5452000000007189=080400000000000000?");
        assert_eq!(shown.pan.map(|pan| pan.to_string()).as_deref(), Some("5452********7189"));
        assert_eq!(shown.expiry, Expiry::parse_yymm(b"0804").ok());
        assert_eq!(zeroed(b";E?"), Shown::default());
    }
}
