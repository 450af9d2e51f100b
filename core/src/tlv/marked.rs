//! BER-TLV with ID TECH's marks: before its length an object may say that its value is masked (`A1 nn`) or
//! encrypted (`C1 nn`). A plain BER reader takes these for lengths of 33 and 65 bytes, and fails.

use super::{MAX_LEN, Tag, TlvError, read_length, read_tag};

const MASKED: u8 = 0xA1;
const ENCRYPTED: u8 = 0xC1;

/// What is known of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// Nothing: it is what it is.
    Plain,
    /// Some of its characters are hidden.
    Masked,
    /// It is ciphertext.
    Encrypted,
}

/// One object.
#[derive(Clone, Copy)]
pub struct MarkedTlv<'a> {
    /// Its tag.
    pub tag: Tag,
    /// What its value is.
    pub mark: Mark,
    /// Its value: for a plain template further objects, to be read by [`objects`].
    pub value: &'a [u8],
}

/// The objects of one level, in order.
pub fn objects(mut bytes: &[u8]) -> Result<Vec<MarkedTlv<'_>>, TlvError> {
    if bytes.len() > MAX_LEN {
        return Err(TlvError::TooLong);
    }
    let mut objects = Vec::new();
    while !bytes.is_empty() {
        let (tag, rest) = read_tag(bytes)?;
        let (mark, rest) = match rest {
            [MASKED, rest @ ..] => (Mark::Masked, rest),
            [ENCRYPTED, rest @ ..] => (Mark::Encrypted, rest),
            _ => (Mark::Plain, rest),
        };
        let (len, rest) = read_length(rest)?;
        let (value, rest) = rest.split_at_checked(len).ok_or(TlvError::Truncated)?;
        objects.push(MarkedTlv { tag, mark, value });
        bytes = rest;
    }
    Ok(objects)
}
