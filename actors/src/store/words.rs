//! The names that closed lists have in rows, where the domain gives them none.

use warifu_core::frame::Entry;
use warifu_core::key::TdesKey;
use warifu_core::ksn::Scheme;
use warifu_core::token::LastFour;

pub(super) fn entry(name: &str) -> Option<Entry> {
    [Entry::Keyed, Entry::Swiped, Entry::Dipped].into_iter().find(|entry| entry.name() == name)
}

pub(super) const fn scheme_name(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Aes => "aes",
        Scheme::Tdes => "tdes",
    }
}

pub(super) fn scheme(name: &str) -> Option<Scheme> {
    [Scheme::Aes, Scheme::Tdes].into_iter().find(|scheme| scheme_name(*scheme) == name)
}

pub(super) const fn last_four_name(last_four: LastFour) -> &'static str {
    match last_four {
        LastFour::Random => "random",
        LastFour::Keep => "keep",
    }
}

pub(super) fn last_four(name: &str) -> Option<LastFour> {
    [LastFour::Random, LastFour::Keep].into_iter().find(|last_four| last_four_name(*last_four) == name)
}

pub(super) const fn key_name(key: TdesKey) -> &'static str {
    match key {
        TdesKey::Pin => "pin",
        TdesKey::MacRequest => "mac-request",
        TdesKey::MacResponse => "mac-response",
        TdesKey::DataRequest => "data-request",
        TdesKey::DataResponse => "data-response",
        TdesKey::DataRequestVariant => "data-request-variant",
        TdesKey::DataResponseVariant => "data-response-variant",
    }
}

pub(super) fn key(name: &str) -> Option<TdesKey> {
    [
        TdesKey::Pin,
        TdesKey::MacRequest,
        TdesKey::MacResponse,
        TdesKey::DataRequest,
        TdesKey::DataResponse,
        TdesKey::DataRequestVariant,
        TdesKey::DataResponseVariant,
    ]
    .into_iter()
    .find(|key| key_name(*key) == name)
}

/// Bytes as lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value & 0x0F)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// The inverse of [`hex`], for lower-case digits only.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    text.len().is_multiple_of(2).then_some(())?;
    text.as_bytes().chunks_exact(2).map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?)).collect()
}
