//! Whether what a header says of the key and of the protection key is so.

use super::content::Content;
use super::header::Header;
use super::material::Material;
use super::protection::Protection;
use super::strength;
use super::warning::Warning;

/// What is unusual about the key under this header. A check value that cannot be computed here says nothing.
pub(super) fn warnings(header: &Header, key: &Material, protection: &Protection) -> Vec<Warning> {
    let algorithm = header.algorithm();
    let mut warnings = key.warnings(algorithm);
    warnings.extend(protection.weaker().map(Warning::KbpkParts));
    for block in header.optional() {
        let (value, computed, warning) = match block.meaning() {
            Content::KeyCheckValue(value) => (value, key.check_value(algorithm, value.method), Warning::KeyCheckValue),
            Content::KbpkCheckValue(value) => (value, protection.check_value(value.method), Warning::KbpkCheckValue),
            Content::KeySerialNumber(_)
            | Content::InitialKeyId(_)
            | Content::Label(_)
            | Content::TimeStamp(_)
            | Content::Padding
            | Content::Other(_) => continue,
        };
        if computed.is_some_and(|kcv| !value.agrees(kcv)) {
            warnings.push(warning);
        }
    }
    warnings
}

/// Whether the protection key is weaker than the key, going by its length.
pub(super) fn is_weak(header: &Header, key: &Material, protection: &Protection) -> bool {
    strength::of_key(header.algorithm(), key.bits()).is_some_and(|bits| bits > protection.strength())
}
