//! Optional blocks: what else a header carries, each an id, a length, and printable characters (X9.143:2021 6.3.6).
//!
//! | characters | content |
//! |---|---|
//! | 2 | id, letters or digits |
//! | 2 | length of the whole optional block in hex digits; `00` if more than FF |
//! | 2 | if so: length of the length, in hex, counted in pairs of digits |
//! | 2n | if so: length of the whole optional block in hex digits |
//! | | the content |
//!
//! An optional block nobody knows is kept, and written again as it was.

use std::fmt;

use super::content;
use super::digits::hex_number;
use super::rules;
use super::warning::Warning;

/// Characters of the least optional block: id and length.
pub(super) const LEAST_LEN: usize = 4;
/// Longest block with a length of two digits.
const MAX_SHORT: usize = 0xFF;
/// Characters before the content where the length has four digits.
const LONG_HEAD_LEN: usize = 10;

/// The two characters an optional block begins with.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockId([u8; 2]);

/// An optional block, as it was read or is to be written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OptionalBlock {
    id: BlockId,
    /// The digits of the length, as they were read: the MAC is over them.
    length: String,
    content: String,
}

/// Characters that are no optional block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionalBlockError {
    /// The id is cut off, or of other characters than letters and digits.
    #[error("its id is not of two letters or digits")]
    Id,
    /// The length is cut off or no hex.
    #[error("its length is not of hex digits, or cut off")]
    Length,
    /// The length of the length is cut off, no hex, or zero.
    #[error("the length of its length is not of two hex digits, or zero")]
    LengthOfLength,
    /// The length is less than that of id and length.
    #[error("its length is less than that of its id and length")]
    TooShort,
    /// There are fewer characters than the length says.
    #[error("it is longer than what is there")]
    CutOff,
    /// The content has characters that cannot be printed.
    #[error("its content has other characters than printable ASCII")]
    NotPrintable,
    /// The content is longer than a key block can be.
    #[error("it is longer than a key block can be")]
    TooLong,
}

impl BlockId {
    /// Key check value of the key in the block.
    pub const KC: Self = Self(*b"KC");
    /// Key check value of the protection key.
    pub const KP: Self = Self(*b"KP");
    /// Key check value of the key the block was protected with for export.
    pub const PK: Self = Self(*b"PK");
    /// Initial key serial number of TDES DUKPT.
    pub const KS: Self = Self(*b"KS");
    /// Initial key id of AES DUKPT.
    pub const IK: Self = Self(*b"IK");
    /// Id of a base derivation key.
    pub const BI: Self = Self(*b"BI");
    /// Hash of an HMAC key.
    pub const HM: Self = Self(*b"HM");
    /// Life of an asymmetric key.
    pub const AL: Self = Self(*b"AL");
    /// Certificate of a public key, or a chain of them.
    pub const CT: Self = Self(*b"CT");
    /// What may be derived from a key derivation key.
    pub const DA: Self = Self(*b"DA");
    /// Flags.
    pub const FL: Self = Self(*b"FL");
    /// Key block values, no longer used.
    pub const KV: Self = Self(*b"KV");
    /// How well a key was protected before.
    pub const WP: Self = Self(*b"WP");
    /// Label.
    pub const LB: Self = Self(*b"LB");
    /// Time stamp.
    pub const TS: Self = Self(*b"TS");
    /// Time of creation.
    pub const TC: Self = Self(*b"TC");
    /// Padding, always the last.
    pub const PB: Self = Self(*b"PB");

    /// Those the standard has words for.
    const KNOWN: [Self; 17] = [
        Self::AL,
        Self::BI,
        Self::CT,
        Self::DA,
        Self::FL,
        Self::HM,
        Self::IK,
        Self::KC,
        Self::KP,
        Self::KS,
        Self::KV,
        Self::LB,
        Self::PB,
        Self::PK,
        Self::TC,
        Self::TS,
        Self::WP,
    ];

    /// An id of two letters or digits.
    pub fn new(id: [u8; 2]) -> Result<Self, OptionalBlockError> {
        if id.iter().all(u8::is_ascii_alphanumeric) { Ok(Self(id)) } else { Err(OptionalBlockError::Id) }
    }
}

impl OptionalBlock {
    /// A block of any id with any content; [`super::content`] makes those the standard has words for.
    pub fn new(id: BlockId, content: &str) -> Result<Self, OptionalBlockError> {
        if !content.bytes().all(is_printable) {
            return Err(OptionalBlockError::NotPrintable);
        }
        Ok(Self { id, length: length_digits(content.len())?, content: content.to_owned() })
    }

    /// As [`Self::new`], where the content was made here and is short.
    pub(super) fn made(id: BlockId, content: &str) -> Self {
        Self::new(id, content).expect("short and printable")
    }

    /// A padding block of this many characters, at least [`LEAST_LEN`]. Zeros, as the examples of the standard have
    /// them: they are authenticated and tell nothing.
    pub(super) fn padding(len: usize) -> Self {
        Self::made(BlockId::PB, &"0".repeat(len.saturating_sub(LEAST_LEN)))
    }

    /// The first optional block of a text, and what is behind it.
    pub(super) fn read(text: &str) -> Result<(Self, &str), OptionalBlockError> {
        let (id, rest) = text.split_at_checked(2).ok_or(OptionalBlockError::Id)?;
        let id = BlockId::new(id.as_bytes().try_into().map_err(|_| OptionalBlockError::Id)?)?;
        let (digits, number) = read_length(rest)?;
        let head = 2 + digits.len();
        if number < head {
            return Err(OptionalBlockError::TooShort);
        }
        let (block, behind) = text.split_at_checked(number).ok_or(OptionalBlockError::CutOff)?;
        let content = &block[head..];
        if !content.bytes().all(is_printable) {
            return Err(OptionalBlockError::NotPrintable);
        }
        Ok((Self { id, length: digits.to_owned(), content: content.to_owned() }, behind))
    }

    /// Its id.
    pub fn id(&self) -> BlockId {
        self.id
    }

    /// What is behind the length: printable ASCII.
    pub fn content(&self) -> &str {
        &self.content
    }

    /// All its characters.
    pub(super) fn len(&self) -> usize {
        2 + self.length.len() + self.content.len()
    }

    /// What the standard would have otherwise.
    pub(super) fn warnings(&self) -> impl Iterator<Item = Warning> {
        let length = length_digits(self.content.len()).is_ok_and(|digits| digits == self.length);
        let content = content::is_standard(self.id, &self.content);
        let known = BlockId::KNOWN.contains(&self.id) || rules::is_private(&self.id.0);
        let warn = |right: bool, warning: Warning| (!right).then_some(warning);
        [
            warn(known, Warning::Optional(self.id)),
            warn(length, Warning::LengthForm(self.id)),
            warn(content, Warning::Content(self.id)),
        ]
        .into_iter()
        .flatten()
    }
}

impl fmt::Display for OptionalBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.id, self.length, self.content)
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.into_iter().try_for_each(|byte| write!(f, "{}", char::from(byte)))
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockId({self})")
    }
}

pub(super) fn is_printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

/// The digits of a length in either form, and the number.
fn read_length(text: &str) -> Result<(&str, usize), OptionalBlockError> {
    let short = text.get(..2).ok_or(OptionalBlockError::Length)?;
    match hex_number(short).ok_or(OptionalBlockError::Length)? {
        0 => {}
        number => return Ok((short, number)),
    }
    let pairs = text.get(2..4).and_then(hex_number).filter(|&pairs| pairs > 0);
    let end = 4 + 2 * pairs.ok_or(OptionalBlockError::LengthOfLength)?;
    let number = text.get(4..end).and_then(hex_number).ok_or(OptionalBlockError::Length)?;
    Ok((&text[..end], number))
}

/// As the standard writes the length of a block with so much content.
fn length_digits(content: usize) -> Result<String, OptionalBlockError> {
    match content + LEAST_LEN {
        short if short <= MAX_SHORT => Ok(format!("{short:02X}")),
        _ if content + LONG_HEAD_LEN <= super::MAX_LEN => Ok(format!("0002{:04X}", content + LONG_HEAD_LEN)),
        _ => Err(OptionalBlockError::TooLong),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<(String, String, String), OptionalBlockError> {
        let (block, behind) = OptionalBlock::read(text)?;
        assert_eq!(format!("{block}{behind}"), text);
        Ok((block.id.to_string(), block.content, behind.to_owned()))
    }

    #[test]
    fn a_length_has_two_forms() {
        let is = |text: &str, content: &str, behind: &str| {
            assert_eq!(read(text), Ok(("KS".into(), content.into(), behind.into())), "{text}");
        };
        is("KS04", "", "");
        is("KS06ABrest", "AB", "rest");
        is("KS00010AABrest", "AB", "rest");
        is("KS0002000Crestless", "re", "stless");
        is("KS1800604B120F9292800000", "00604B120F9292800000", "");
        is(&format!("KS0002010A{}", "P".repeat(256)), &"P".repeat(256), "");
    }

    #[test]
    fn what_is_no_block_is_named() {
        for (text, error) in [
            ("", OptionalBlockError::Id),
            ("K", OptionalBlockError::Id),
            ("**04", OptionalBlockError::Id),
            ("KS1", OptionalBlockError::Length),
            ("KS1Y", OptionalBlockError::Length),
            ("KS+4", OptionalBlockError::Length),
            ("KS03", OptionalBlockError::TooShort),
            ("KS071", OptionalBlockError::CutOff),
            ("KS00", OptionalBlockError::LengthOfLength),
            ("KS001S", OptionalBlockError::LengthOfLength),
            ("KS0000", OptionalBlockError::LengthOfLength),
            ("KS00010", OptionalBlockError::Length),
            ("KS000107", OptionalBlockError::TooShort),
            ("KS00FF", OptionalBlockError::Length),
            ("KS0010FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF", OptionalBlockError::Length),
            ("KS05\u{3}", OptionalBlockError::NotPrintable),
            ("KS06é", OptionalBlockError::NotPrintable),
        ] {
            assert_eq!(OptionalBlock::read(text).unwrap_err(), error, "{text:?}");
        }
    }

    #[test]
    fn a_long_block_is_written_with_a_long_length() {
        let long = OptionalBlock::new(BlockId::LB, &"x".repeat(252)).unwrap();
        assert!(long.to_string().starts_with("LB00020106x"));
        let short = OptionalBlock::new(BlockId::LB, &"x".repeat(251)).unwrap();
        assert!(short.to_string().starts_with("LBFFx"));
        assert_eq!(OptionalBlock::new(BlockId::LB, &"x".repeat(10_000)), Err(OptionalBlockError::TooLong));
        assert_eq!(OptionalBlock::new(BlockId::LB, "\n"), Err(OptionalBlockError::NotPrintable));
    }

    #[test]
    fn a_length_written_otherwise_is_told() {
        let warnings = |text: &str| OptionalBlock::read(text).unwrap().0.warnings().collect::<Vec<_>>();
        assert_eq!(warnings("LB06AB"), []);
        assert_eq!(warnings("LB00010AAB"), [Warning::LengthForm(BlockId::LB)]);
        assert_eq!(warnings("LB0a123456"), [Warning::LengthForm(BlockId::LB)]);
    }

    proptest! {
        #[test]
        fn every_block_is_read_as_it_was_written(
            id in "[A-Za-z0-9]{2}", content in "[ -~]{0,600}", behind in "[ -~]{0,40}",
        ) {
            let id = BlockId::new(id.as_bytes().try_into().unwrap()).unwrap();
            let block = OptionalBlock::new(id, &content).unwrap();
            let text = format!("{block}{behind}");
            prop_assert_eq!(block.len() + behind.len(), text.len());
            prop_assert_eq!(OptionalBlock::read(&text), Ok((block, behind.as_str())));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            if let Ok((block, behind)) = OptionalBlock::read(&text) {
                prop_assert_eq!(format!("{block}{behind}"), text);
            }
        }

        #[test]
        fn any_head_is_read_or_refused(text in "[A-Z]{2}0{0,4}[0-9A-Fa-fG]{0,12}[ -~]{0,40}") {
            if let Ok((block, behind)) = OptionalBlock::read(&text) {
                prop_assert_eq!(format!("{block}{behind}"), text);
            }
        }
    }
}
