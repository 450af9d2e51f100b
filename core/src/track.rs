//! What a magnetic stripe carries (ISO/IEC 7813; track 3: ISO/IEC 4909), over borrowed bytes.
//!
//! The types here point into card data and are therefore not printable.

/// Longest track text this domain reads, sentinels and LRC character included.
pub const MAX_TRACK_LEN: usize = 255;

/// Which track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Number {
    /// Track 1, alphanumeric.
    One,
    /// Track 2, numeric.
    Two,
    /// Track 3, numeric.
    Three,
}

/// A track cut at its sentinels.
pub struct Framed<'a> {
    /// From start to end sentinel, both included.
    pub track: &'a [u8],
    /// Between the sentinels.
    pub body: &'a [u8],
    /// The LRC character after the end sentinel, checked, if it was there.
    pub lrc: Option<u8>,
}

/// Track 1 in format B.
pub struct Track1<'a> {
    /// Primary account number, not yet checked.
    pub pan: &'a [u8],
    /// Cardholder's name without the blanks behind it.
    pub name: &'a [u8],
    /// Expiry date, `YYMM`.
    pub expiry: Option<&'a [u8; 4]>,
    /// Service code.
    pub service_code: Option<&'a [u8; 3]>,
    /// What the issuer put behind it.
    pub discretionary: &'a [u8],
}

/// Track 2, or the track 2 equivalent data of a chip.
pub struct Track2<'a> {
    /// Primary account number, not yet checked.
    pub pan: &'a [u8],
    /// Expiry date, `YYMM`.
    pub expiry: Option<&'a [u8; 4]>,
    /// Service code.
    pub service_code: Option<&'a [u8; 3]>,
    /// What the issuer put behind it.
    pub discretionary: &'a [u8],
}

/// The head of track 3; its further fields are kept together.
pub struct Track3<'a> {
    /// Format code.
    pub format_code: &'a [u8; 2],
    /// Primary account number, not yet checked.
    pub pan: &'a [u8],
    /// Everything behind the first separator.
    pub discretionary: &'a [u8],
}

/// Text that is no track. Constant texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrackError {
    /// The start or end sentinel is missing.
    #[error("the track has no start or end sentinel")]
    Sentinel,
    /// The LRC character is wrong, or there is more behind it.
    #[error("the track's LRC character is wrong")]
    Lrc,
    /// Not format B (track 1).
    #[error("the track is not in format B")]
    FormatCode,
    /// A separator is missing, or a field is not what it must be.
    #[error("the track's fields are malformed")]
    Fields,
    /// A character the track cannot hold, or too many.
    #[error("the track has characters it cannot have")]
    Characters,
}

impl Number {
    /// Whether a character starts this track. Track 3 begins with `;`, or `+` in keyboard output.
    pub fn is_start(self, character: u8) -> bool {
        match self {
            Self::One => character == b'%',
            Self::Two => character == b';',
            Self::Three => matches!(character, b';' | b'+' | b'%' | b'#' | b'!'),
        }
    }

    /// The LRC character over everything from start to end sentinel: track 1 has six data bits a character
    /// (offset 20h), tracks 2 and 3 four (offset 30h).
    pub fn lrc(self, track: &[u8]) -> u8 {
        match self {
            Self::One => track.iter().fold(0, |lrc, c| lrc ^ (c.wrapping_sub(0x20) & 0x3F)) + 0x20,
            Self::Two | Self::Three => track.iter().fold(0, |lrc, c| lrc ^ (c & 0x0F)) + 0x30,
        }
    }

    /// Cuts a track with sentinels, and checks the LRC character if there is one. The fields of tracks 1 and 2 are
    /// read elsewhere, and their characters with them; nobody reads track 3 further, so its characters are checked here.
    pub fn frame(self, text: &[u8]) -> Result<Framed<'_>, TrackError> {
        if text.len() > MAX_TRACK_LEN {
            return Err(TrackError::Characters);
        }
        // No track can hold an end sentinel inside, and an LRC character may look like one: the first counts.
        let end = text.iter().position(|c| *c == b'?').ok_or(TrackError::Sentinel)?;
        let (track, after) = text.split_at_checked(end + 1).ok_or(TrackError::Sentinel)?;
        let body = match track {
            [start, body @ .., b'?'] if self.is_start(*start) => {
                if self == Self::Three && !body.iter().all(|c| track3_holds(*start, *c)) {
                    return Err(TrackError::Characters);
                }
                body
            }
            _ => return Err(TrackError::Sentinel),
        };
        let lrc = match after {
            [] => None,
            [lrc] if *lrc == self.lrc(track) => Some(*lrc),
            _ => return Err(TrackError::Lrc),
        };
        Ok(Framed { track, body, lrc })
    }
}

/// Whether track 3 can hold a character between its sentinels: those of the numeric set (ISO/IEC 4909), or, under the
/// start sentinels of AAMVA cards, which readers send for it too, those of track 1.
fn track3_holds(start: u8, character: u8) -> bool {
    match start {
        b'%' | b'#' | b'!' => (0x20..=0x5F).contains(&character),
        _ => (0x30..=0x3F).contains(&character),
    }
}

impl<'a> Track1<'a> {
    /// Parses track 1, with sentinels (and LRC character) or without.
    pub fn parse(text: &'a [u8]) -> Result<Self, TrackError> {
        let body = match text {
            [b'%', ..] => Number::One.frame(text)?.body,
            _ => text,
        };
        if body.len() > MAX_TRACK_LEN || !body.iter().all(|c| (0x20..=0x5F).contains(c)) {
            return Err(TrackError::Characters);
        }
        let rest = body.strip_prefix(b"B").ok_or(TrackError::FormatCode)?;
        let (pan, rest) = cut(rest, |c| c == b'^')?;
        let (name, rest) = cut(rest, |c| c == b'^')?;
        let (expiry, rest) = optional::<4>(rest, |c| c == b'^')?;
        let (service_code, discretionary) = optional::<3>(rest, |c| c == b'^')?;
        Ok(Self { pan: digits(pan)?, name: name.trim_ascii_end(), expiry, service_code, discretionary })
    }
}

impl<'a> Track2<'a> {
    /// Parses track 2, with sentinels (and LRC character) or without, and EMV tag 57 written as hex digits
    /// (`D` for the separator, `F` for the fill).
    pub fn parse(text: &'a [u8]) -> Result<Self, TrackError> {
        let (body, equivalent) = match text {
            [b';', ..] => (Number::Two.frame(text)?.body, false),
            [unfilled @ .., b'F'] => (unfilled, true),
            _ => (text, true),
        };
        let separator = |c: u8| c == b'=' || equivalent && c == b'D';
        if body.len() > MAX_TRACK_LEN || !body.iter().all(|c| (0x30..=0x3F).contains(c) || separator(*c)) {
            return Err(TrackError::Characters);
        }
        let (pan, rest) = cut(body, separator)?;
        let (expiry, rest) = optional::<4>(rest, separator)?;
        let (service_code, discretionary) = optional::<3>(rest, separator)?;
        Ok(Self { pan: digits(pan)?, expiry, service_code, discretionary })
    }
}

impl<'a> Track3<'a> {
    /// Parses the head of track 3, with sentinels (and LRC character) or without.
    pub fn parse(text: &'a [u8]) -> Result<Self, TrackError> {
        let body = match text {
            [b';' | b'+', ..] => Number::Three.frame(text)?.body,
            _ => text,
        };
        if body.len() > MAX_TRACK_LEN {
            return Err(TrackError::Characters);
        }
        let (format_code, rest) = body.split_first_chunk().ok_or(TrackError::Fields)?;
        let (pan, discretionary) = cut(rest, |c| c == b'=')?;
        digits(format_code)?;
        Ok(Self { format_code, pan: digits(pan)?, discretionary })
    }
}

/// Cuts at the first separator and drops it.
fn cut(text: &[u8], separator: impl Fn(u8) -> bool) -> Result<(&[u8], &[u8]), TrackError> {
    let at = text.iter().position(|c| separator(*c)).ok_or(TrackError::Fields)?;
    match text.split_at_checked(at) {
        Some((field, [_, rest @ ..])) => Ok((field, rest)),
        _ => Err(TrackError::Fields),
    }
}

/// A field of `N` digits that may be missing: then a separator stands in its place, or the track ends.
fn optional<const N: usize>(
    text: &[u8],
    separator: impl Fn(u8) -> bool,
) -> Result<(Option<&[u8; N]>, &[u8]), TrackError> {
    match text {
        [] => Ok((None, text)),
        [first, rest @ ..] if separator(*first) => Ok((None, rest)),
        _ => {
            let (field, rest) = text.split_first_chunk::<N>().ok_or(TrackError::Fields)?;
            digits(field)?;
            Ok((Some(field), rest))
        }
    }
}

fn digits(text: &[u8]) -> Result<&[u8], TrackError> {
    if !text.is_empty() && text.iter().all(u8::is_ascii_digit) { Ok(text) } else { Err(TrackError::Fields) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lrc_character_that_looks_like_an_end_sentinel_is_one_character() {
        let mut text = (0..10u8)
            .map(|digit| [b";4111111111111111=2512101000000000", &[b'0' + digit][..], b"6?"].concat())
            .find(|text| Number::Two.lrc(text) == b'?')
            .expect("one digit in ten gives it");
        text.push(b'?');
        let framed = Number::Two.frame(&text).map(|framed| framed.lrc);
        assert_eq!(framed, Ok(text.last().copied()));
    }

    #[test]
    fn a_wrong_lrc_character_or_a_second_one_is_refused() {
        assert_eq!(Number::Two.frame(b";4266841088889999=080910110000046?0").err(), None);
        for bad in [&b";4266841088889999=080910110000046?1"[..], b";4266841088889999=080910110000046?00"] {
            assert_eq!(Number::Two.frame(bad).err(), Some(TrackError::Lrc));
        }
        assert_eq!(Number::Two.frame(b";4266841088889999=08091").err(), Some(TrackError::Sentinel));
        assert_eq!(Number::Two.frame(b"%4266841088889999=0809?").err(), Some(TrackError::Sentinel));
    }

    #[test]
    fn a_track_3_holds_the_characters_of_its_alphabet_only() {
        for good in [
            &b";011234567890123445=724724000000000000300020200099010===1=1000?"[..],
            b"+5163499080020445=000000000000?",
            b"#\"  ABCDE12-X?",
        ] {
            assert_eq!(Number::Three.frame(good).err(), None);
        }
        for bad in [&b";\x01\x02\xff\x80abc?"[..], b";01123456A=1?", b"+01 =1?", b";01*=1?", b"#abc?"] {
            assert_eq!(Number::Three.frame(bad).err(), Some(TrackError::Characters));
        }
    }

    #[test]
    fn missing_fields_are_none_and_malformed_ones_are_refused() {
        let track = Track2::parse(b";4111111111111111==?").expect("a track");
        assert!(track.expiry.is_none() && track.service_code.is_none() && track.discretionary.is_empty());
        let track = Track2::parse(b";4111111111111111=2512?").expect("a track");
        assert_eq!((track.expiry, track.service_code), (Some(b"2512"), None));
        for bad in [&b";4111111111111111?"[..], b";4111111111111111=25?", b";=2512101?", b";4111=2512:01?"] {
            assert_eq!(Track2::parse(bad).err(), Some(TrackError::Fields));
        }
        assert_eq!(Track2::parse(b";4111A=2512101?").err(), Some(TrackError::Characters));
        assert_eq!(Track1::parse(b"%A4111^X^2512?").err(), Some(TrackError::FormatCode));
        assert_eq!(Track1::parse(b"%B4111^X?").err(), Some(TrackError::Fields));
    }
}
