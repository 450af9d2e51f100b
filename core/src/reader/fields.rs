//! Fields of an output that comes in bytes or as text with two hex digits a byte.

use crate::frame::FrameError;
use crate::ksn::TdesKsn;

/// How an output writes its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As they are.
    Binary,
    /// Two hex digits each, upper or lower case.
    Text,
}

impl Form {
    /// How many bytes or characters `bytes` bytes take.
    pub(super) const fn units(self, bytes: usize) -> usize {
        match self {
            Self::Binary => bytes,
            Self::Text => bytes * 2,
        }
    }
}

/// Takes fields off the front.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    form: Form,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) const fn new(form: Form, bytes: &'a [u8]) -> Self {
        Self { form, rest: bytes }
    }

    pub(super) const fn form(&self) -> Form {
        self.form
    }

    /// How many bytes or characters are left.
    pub(super) const fn units_left(&self) -> usize {
        self.rest.len()
    }

    /// A number of bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Result<Vec<u8>, FrameError> {
        let taken = self.literal(self.form.units(count))?;
        match self.form {
            Form::Binary => Ok(taken.to_vec()),
            Form::Text => unhex(taken),
        }
    }

    /// One byte.
    pub(super) fn byte(&mut self) -> Result<u8, FrameError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A fixed number of bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        self.bytes(N)?.try_into().map_err(|_| FrameError::Truncated)
    }

    /// Passes over a number of bytes, which must be well-formed.
    pub(super) fn skip(&mut self, count: usize) -> Result<(), FrameError> {
        self.bytes(count).map(drop)
    }

    /// A 10-byte key serial number.
    pub(super) fn ksn(&mut self) -> Result<TdesKsn, FrameError> {
        self.array::<10>().map(TdesKsn::new)
    }

    /// Characters that are themselves in either form.
    pub(super) fn literal(&mut self, count: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(FrameError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), FrameError> {
        if self.rest.is_empty() { Ok(()) } else { Err(FrameError::Trailing) }
    }
}

/// Reads hex digits of either case.
pub(super) fn unhex(text: &[u8]) -> Result<Vec<u8>, FrameError> {
    let (pairs, odd) = text.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(FrameError::Header);
    }
    pairs
        .iter()
        .map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?))
        .collect::<Option<_>>()
        .ok_or(FrameError::Header)
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}
