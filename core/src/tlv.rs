//! BER-TLV as EMV uses it (EMV Book 3 annex B, ISO/IEC 8825-1), over borrowed bytes.
//!
//! Strict: definite lengths only, no tag of more than four bytes, nothing left over. Bounded: never deeper
//! than [`MAX_DEPTH`] templates and never longer than [`MAX_LEN`] bytes. `00` bytes between objects are
//! skipped, as EMV Book 3 annex B1 allows; `FF` is not, because it starts vendors' private templates.

pub mod marked;

use std::fmt;

/// Deepest nesting of templates.
pub const MAX_DEPTH: usize = 8;
/// Longest coded data, in bytes.
pub const MAX_LEN: usize = 4096;

/// A tag of one to four bytes, compared as its big-endian number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(u32);

/// One object. Its value may be card data, so it is not printable.
#[derive(Clone, Copy)]
pub struct Tlv<'a> {
    /// Its tag.
    pub tag: Tag,
    /// Its value: further objects if [`Tag::is_template`].
    pub value: &'a [u8],
}

/// Walks over the objects of one level, in order. Ends after the first error.
#[derive(Clone)]
pub struct Objects<'a> {
    rest: &'a [u8],
}

/// Bytes that are no BER-TLV. Constant texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlvError {
    /// A tag that does not end, or has more than four bytes, or is not coded in the shortest form.
    #[error("a tag is malformed")]
    Tag,
    /// An indefinite length, or one of more than three bytes.
    #[error("a length is malformed")]
    Length,
    /// A length that reaches beyond the data.
    #[error("an object ends after its data")]
    Truncated,
    /// Templates in templates in templates.
    #[error("templates are nested too deeply")]
    Depth,
    /// More than [`MAX_LEN`] bytes.
    #[error("the data is too long")]
    TooLong,
    /// A tag that may be there once is there again.
    #[error("an object is there twice")]
    Twice,
}

impl Tag {
    /// A tag by its number, for example `0x5F24`.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Whether its value is made of further objects: bit 6 of its first byte.
    pub const fn is_template(self) -> bool {
        let [a, b, c, d] = self.0.to_be_bytes();
        let first = match (a, b, c) {
            (0, 0, 0) => d,
            (0, 0, _) => c,
            (0, ..) => b,
            _ => a,
        };
        first & 0x20 != 0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02X}", self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'a> Tlv<'a> {
    /// The objects inside it; none if it is not a template.
    pub fn objects(&self) -> Objects<'a> {
        Objects { rest: if self.tag.is_template() { self.value } else { &[] } }
    }
}

/// The objects of the outermost level.
pub fn objects(bytes: &[u8]) -> Result<Objects<'_>, TlvError> {
    if bytes.len() > MAX_LEN { Err(TlvError::TooLong) } else { Ok(Objects { rest: bytes }) }
}

/// Walks through all levels and gives every object to `visit`, templates before what is in them.
pub fn walk<'a>(bytes: &'a [u8], visit: &mut impl FnMut(Tlv<'a>)) -> Result<(), TlvError> {
    descend(objects(bytes)?, MAX_DEPTH, visit)
}

/// The value of the only object with this tag, at any level. The whole of the data must be well-formed.
pub fn find(bytes: &[u8], tag: Tag) -> Result<Option<&[u8]>, TlvError> {
    let (mut found, mut count) = (None, 0usize);
    walk(bytes, &mut |object| {
        if object.tag == tag {
            found = Some(object.value);
            count += 1;
        }
    })?;
    if count > 1 { Err(TlvError::Twice) } else { Ok(found) }
}

fn descend<'a>(level: Objects<'a>, depth: usize, visit: &mut impl FnMut(Tlv<'a>)) -> Result<(), TlvError> {
    for object in level {
        let object = object?;
        visit(object);
        if object.tag.is_template() {
            descend(object.objects(), depth.checked_sub(1).ok_or(TlvError::Depth)?, visit)?;
        }
    }
    Ok(())
}

impl<'a> Iterator for Objects<'a> {
    type Item = Result<Tlv<'a>, TlvError>;

    fn next(&mut self) -> Option<Self::Item> {
        while let [0x00, rest @ ..] = self.rest {
            self.rest = rest;
        }
        if self.rest.is_empty() {
            return None;
        }
        let object = read_object(self.rest);
        self.rest = match &object {
            Ok((_, rest)) => rest,
            Err(_) => &[],
        };
        Some(object.map(|(object, _)| object))
    }
}

fn read_object(bytes: &[u8]) -> Result<(Tlv<'_>, &[u8]), TlvError> {
    let (tag, rest) = read_tag(bytes)?;
    let (len, rest) = read_length(rest)?;
    let (value, rest) = rest.split_at_checked(len).ok_or(TlvError::Truncated)?;
    Ok((Tlv { tag, value }, rest))
}

/// Reads a tag and gives back what follows it.
pub(crate) fn read_tag(bytes: &[u8]) -> Result<(Tag, &[u8]), TlvError> {
    let (&first, mut rest) = bytes.split_first().ok_or(TlvError::Truncated)?;
    let mut number = u32::from(first);
    if first & 0x1F != 0x1F {
        return Ok((Tag(number), rest));
    }
    for place in 1..4 {
        let (&next, after) = rest.split_first().ok_or(TlvError::Truncated)?;
        // The first of the further bytes does not begin with seven zero bits (ISO/IEC 8825-1 8.1.2.4.2).
        if place == 1 && next & 0x7F == 0 {
            return Err(TlvError::Tag);
        }
        number = number << 8 | u32::from(next);
        rest = after;
        if next & 0x80 == 0 {
            return Ok((Tag(number), rest));
        }
    }
    Err(TlvError::Tag)
}

/// Reads a definite length of one to four bytes and gives back what follows it.
pub(crate) fn read_length(bytes: &[u8]) -> Result<(usize, &[u8]), TlvError> {
    let (&first, rest) = bytes.split_first().ok_or(TlvError::Truncated)?;
    let count = match first {
        0x00..=0x7F => return Ok((usize::from(first), rest)),
        0x81..=0x83 => usize::from(first & 0x7F),
        _ => return Err(TlvError::Length),
    };
    let (length, rest) = rest.split_at_checked(count).ok_or(TlvError::Truncated)?;
    Ok((length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(bytes: &[u8]) -> Result<Vec<String>, TlvError> {
        let mut tags = Vec::new();
        walk(bytes, &mut |object| tags.push(object.tag.to_string()))?;
        Ok(tags)
    }

    #[test]
    fn long_tags_and_long_lengths_are_read() {
        let bytes = [0xDF, 0xEE, 0x23, 0x82, 0x00, 0x01, 0x55, 0x9F, 0x1A, 0x81, 0x01, 0x66];
        assert_eq!(tags(&bytes), Ok(vec!["DFEE23".to_owned(), "9F1A".to_owned()]));
    }

    #[test]
    fn zero_filler_is_skipped_around_objects() {
        assert_eq!(tags(&[0, 0x82, 1, 7, 0, 0, 0x95, 0, 0]), Ok(vec!["82".to_owned(), "95".to_owned()]));
    }

    #[test]
    fn malformed_data_is_refused() {
        assert_eq!(tags(&[0x5A]), Err(TlvError::Truncated));
        assert_eq!(tags(&[0x5A, 0x80, 0, 0]), Err(TlvError::Length));
        assert_eq!(tags(&[0x5A, 0x84, 0, 0, 0, 0]), Err(TlvError::Length));
        assert_eq!(tags(&[0x9F, 0x80, 0x01, 0]), Err(TlvError::Tag));
        assert_eq!(tags(&[0xDF, 0x81, 0x81, 0x81, 0x01, 0]), Err(TlvError::Tag));
        assert_eq!(tags(&vec![0; MAX_LEN + 1]), Err(TlvError::TooLong));
    }

    #[test]
    fn nesting_has_a_bottom() {
        let nested = |depth: u8| (0..depth).rev().flat_map(|level| [0x70, level * 2]).collect::<Vec<_>>();
        assert_eq!(tags(&nested(8)).map(|tags| tags.len()), Ok(8));
        assert_eq!(tags(&nested(9)), Err(TlvError::Depth));
    }

    #[test]
    fn an_object_found_twice_is_refused() {
        let bytes = [0x5A, 1, 0x11, 0x70, 3, 0x5A, 1, 0x22];
        assert_eq!(find(&bytes, Tag::new(0x5A)), Err(TlvError::Twice));
        assert_eq!(find(&bytes[..3], Tag::new(0x5A)), Ok(Some(&[0x11][..])));
        assert_eq!(find(&bytes[..3], Tag::new(0x57)), Ok(None));
    }
}
