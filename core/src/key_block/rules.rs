//! Which algorithms and modes belong to which usage (X9.143:2021 table 2), and which optional blocks to which key.

use super::attributes::{Algorithm, Mode, Usage};
use super::optional::BlockId;

const DES: &[Algorithm] = &[Algorithm::Tdes, Algorithm::Des];
const SYMMETRIC: &[Algorithm] = &[Algorithm::Aes, Algorithm::Tdes, Algorithm::Des];
const DERIVING: &[Algorithm] = &[Algorithm::Aes, Algorithm::Tdes, Algorithm::Des, Algorithm::Hmac];
const HMAC: &[Algorithm] = &[Algorithm::Hmac];
const ASYMMETRIC: &[Algorithm] = &[Algorithm::Rsa, Algorithm::EllipticCurve];
const SIGNING: &[Algorithm] = &[Algorithm::Rsa, Algorithm::EllipticCurve, Algorithm::Dsa];

const DERIVE: &[Mode] = &[Mode::Derive, Mode::Any];
const CIPHER: &[Mode] = &[Mode::EncryptDecrypt, Mode::Decrypt, Mode::Encrypt, Mode::Any];
const AGREE: &[Mode] = &[Mode::EncryptDecrypt, Mode::Decrypt, Mode::Encrypt, Mode::Derive, Mode::Any];
const VALUE: &[Mode] = &[Mode::MacBoth, Mode::Generate, Mode::Verify, Mode::Any];
const SIGN: &[Mode] = &[Mode::Sign, Mode::Verify, Mode::Any];
const NONE: &[Mode] = &[Mode::Any];
const ASYMMETRIC_ANY: &[Mode] =
    &[Mode::Sign, Mode::Verify, Mode::SignDecrypt, Mode::EncryptDecrypt, Mode::Decrypt, Mode::Encrypt, Mode::Any];

/// Whether a key of this usage may be of this algorithm. A private usage may be of any.
pub(super) fn has_algorithm(usage: Usage, algorithm: Algorithm) -> bool {
    allowed(usage).is_none_or(|(algorithms, _)| algorithms.contains(&algorithm) || is_private(&algorithm.code()))
}

/// Whether a key of this usage may have this mode. A private usage may have any.
pub(super) fn has_mode(usage: Usage, mode: Mode) -> bool {
    allowed(usage).is_none_or(|(_, modes)| modes.contains(&mode) || is_private(&mode.code()))
}

/// Whether a key of this usage and algorithm may have this optional block (X9.143:2021 6.3.6.1, 6.3.6.4, 6.3.6.5).
pub(super) fn has_block(usage: Usage, algorithm: Algorithm, id: BlockId) -> bool {
    match id {
        BlockId::HM => matches!(algorithm, Algorithm::Hmac | Algorithm::Other(_)),
        BlockId::DA => matches!(usage, Usage::DerivationKey | Usage::Other(_)),
        BlockId::AL => !matches!(algorithm, Algorithm::Aes | Algorithm::Tdes | Algorithm::Des | Algorithm::Hmac),
        _ => true,
    }
}

/// Codes of digits are left to those who exchange blocks (X9.143:2021 6.3).
pub(super) fn is_private(code: &[u8]) -> bool {
    code.iter().all(u8::is_ascii_digit)
}

fn allowed(usage: Usage) -> Option<(&'static [Algorithm], &'static [Mode])> {
    Some(match usage {
        Usage::Bdk | Usage::InitialKey => (SYMMETRIC, DERIVE),
        Usage::BaseVariantKey => (DES, DERIVE),
        Usage::DerivationKey => (DERIVING, DERIVE),
        Usage::Data
        | Usage::DecimalizationTable
        | Usage::SensitiveData
        | Usage::KeyEncryption
        | Usage::Kbpk
        | Usage::Iso20038Kbpk
        | Usage::Pin => (SYMMETRIC, CIPHER),
        Usage::AsymmetricData | Usage::EmvPinKeyPair | Usage::Tr34KeyPair => (ASYMMETRIC, CIPHER),
        Usage::AsymmetricKeyAgreement => (ASYMMETRIC, AGREE),
        Usage::EmvCryptograms
        | Usage::EmvConfidentiality
        | Usage::EmvIntegrity
        | Usage::EmvDataAuthentication
        | Usage::EmvDynamicNumbers
        | Usage::EmvPersonalization
        | Usage::EmvOther => (SYMMETRIC, DERIVE),
        Usage::Iv => (SYMMETRIC, NONE),
        Usage::Iso16609Mac | Usage::Mac1 | Usage::Mac2 | Usage::Mac3 | Usage::Mac4 => (DES, VALUE),
        Usage::CardVerification
        | Usage::Mac5Of1999
        | Usage::Cmac
        | Usage::Mac6
        | Usage::PinGeneration
        | Usage::PinVerification
        | Usage::PinVerificationIbm
        | Usage::PinVerificationVisa
        | Usage::PinVerificationX9132One
        | Usage::PinVerificationX9132Two
        | Usage::PinVerificationX9132Three => (SYMMETRIC, VALUE),
        Usage::Hmac => (HMAC, VALUE),
        Usage::Signature | Usage::CertificateAuthority => (SIGNING, SIGN),
        Usage::AsymmetricOther => (SIGNING, ASYMMETRIC_ANY),
        Usage::Other(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_for_one_thing_is_not_for_another() {
        assert!(has_algorithm(Usage::Bdk, Algorithm::Aes) && has_mode(Usage::Bdk, Mode::Derive));
        assert!(!has_mode(Usage::Bdk, Mode::Encrypt) && !has_mode(Usage::Pin, Mode::MacBoth));
        assert!(!has_algorithm(Usage::Hmac, Algorithm::Aes) && !has_algorithm(Usage::Data, Algorithm::Rsa));
        assert!(has_mode(Usage::BaseVariantKey, Mode::Derive) && !has_mode(Usage::BaseVariantKey, Mode::Variants));
        for usage in [Usage::Signature, Usage::CertificateAuthority] {
            assert!(has_mode(usage, Mode::Sign) && !has_mode(usage, Mode::SignDecrypt));
        }
        assert!(has_mode(Usage::AsymmetricOther, Mode::SignDecrypt) && !has_mode(Usage::AsymmetricOther, Mode::Derive));
        assert!(!has_algorithm(Usage::Mac3, Algorithm::Aes), "the retail MAC is of DES");
    }

    #[test]
    fn every_known_usage_has_an_algorithm_and_a_mode() {
        for usage in Usage::KNOWN {
            assert!(allowed(*usage).is_some_and(|(algorithms, modes)| !algorithms.is_empty() && !modes.is_empty()));
        }
        assert!(has_algorithm(Usage::from_code(*b"42"), Algorithm::Rsa), "private usages are free");
        assert!(has_mode(Usage::Pin, Mode::from_code(*b"7")), "and so are private modes");
    }
}
