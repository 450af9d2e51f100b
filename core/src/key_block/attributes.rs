//! What a header says of the key in the block: usage, algorithm, mode of use, version, exportability, context
//! (X9.143:2021 6.3.1 to 6.3.5).
//!
//! A code nobody knows is kept as it is, so that a block can be read that a newer or a private standard made.

use std::fmt;

/// An enum of codes, each with the standard's words for it.
macro_rules! coded {
    ($(#[$about:meta])* $name:ident of $len:literal { $($variant:ident = $code:literal, $meaning:literal;)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = $meaning] $variant,)+
            /// A code this build has no word for. Made by `from_code` only, so that a known code has one form.
            Other([u8; $len]),
        }

        impl $name {
            /// Every code this build has a word for.
            pub const KNOWN: &'static [Self] = &[$(Self::$variant),+];

            /// What the characters of a header stand for.
            pub fn from_code(code: [u8; $len]) -> Self {
                match &code {
                    $($code => Self::$variant,)+
                    _ => Self::Other(code),
                }
            }

            /// The characters of a header.
            pub const fn code(self) -> [u8; $len] {
                match self {
                    $(Self::$variant => *$code,)+
                    Self::Other(code) => code,
                }
            }

            /// The standard's words.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning,)+
                    Self::Other(_) => "unknown",
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.code().into_iter().try_for_each(|byte| write!(f, "{}", char::from(byte)))
            }
        }
    };
}

coded! {
    /// What the key is for (X9.143:2021 table 2).
    Usage of 2 {
        Bdk = b"B0", "DUKPT base derivation key";
        InitialKey = b"B1", "DUKPT initial key";
        BaseVariantKey = b"B2", "base key variant key";
        DerivationKey = b"B3", "key derivation key, other than of X9.24";
        CardVerification = b"C0", "card verification key";
        Data = b"D0", "data encryption, symmetric";
        AsymmetricData = b"D1", "data encryption, asymmetric";
        DecimalizationTable = b"D2", "encryption of decimalization tables";
        SensitiveData = b"D3", "encryption of sensitive data";
        EmvCryptograms = b"E0", "EMV issuer master key: application cryptograms";
        EmvConfidentiality = b"E1", "EMV issuer master key: secure messaging, confidentiality";
        EmvIntegrity = b"E2", "EMV issuer master key: secure messaging, integrity";
        EmvDataAuthentication = b"E3", "EMV issuer master key: data authentication code";
        EmvDynamicNumbers = b"E4", "EMV issuer master key: dynamic numbers";
        EmvPersonalization = b"E5", "EMV issuer master key: card personalization";
        EmvOther = b"E6", "EMV issuer master key: other";
        EmvPinKeyPair = b"E7", "EMV asymmetric key pair for PINs";
        Iv = b"I0", "initialization vector";
        KeyEncryption = b"K0", "key encryption or wrapping";
        Kbpk = b"K1", "TR-31 key block protection key";
        Tr34KeyPair = b"K2", "TR-34 asymmetric key pair of a receiver";
        AsymmetricKeyAgreement = b"K3", "asymmetric key pair for key wrapping or agreement";
        Iso20038Kbpk = b"K4", "ISO 20038 key block protection key";
        Iso16609Mac = b"M0", "ISO 16609 MAC algorithm 1";
        Mac1 = b"M1", "ISO 9797-1 MAC algorithm 1";
        Mac2 = b"M2", "ISO 9797-1 MAC algorithm 2";
        Mac3 = b"M3", "ISO 9797-1 MAC algorithm 3";
        Mac4 = b"M4", "ISO 9797-1 MAC algorithm 4";
        Mac5Of1999 = b"M5", "ISO 9797-1:1999 MAC algorithm 5";
        Cmac = b"M6", "ISO 9797-1:2011 MAC algorithm 5, CMAC";
        Hmac = b"M7", "HMAC";
        Mac6 = b"M8", "ISO 9797-1:2011 MAC algorithm 6";
        Pin = b"P0", "PIN encryption";
        PinGeneration = b"P1", "PIN generation";
        Signature = b"S0", "asymmetric key pair for signatures";
        CertificateAuthority = b"S1", "asymmetric key pair of a certificate authority";
        AsymmetricOther = b"S2", "asymmetric key pair for other than X9.24";
        PinVerification = b"V0", "PIN verification, other";
        PinVerificationIbm = b"V1", "PIN verification, IBM 3624";
        PinVerificationVisa = b"V2", "PIN verification, Visa PVV";
        PinVerificationX9132One = b"V3", "PIN verification, X9.132 algorithm 1";
        PinVerificationX9132Two = b"V4", "PIN verification, X9.132 algorithm 2";
        PinVerificationX9132Three = b"V5", "PIN verification, X9.132 algorithm 3";
    }
}

coded! {
    /// What the key may be used with (X9.143:2021 table 3).
    Algorithm of 1 {
        Aes = b"A", "AES";
        Des = b"D", "DES";
        EllipticCurve = b"E", "elliptic curve";
        Hmac = b"H", "HMAC";
        Rsa = b"R", "RSA";
        Dsa = b"S", "DSA";
        Tdes = b"T", "triple DES";
    }
}

coded! {
    /// What may be done with the key (X9.143:2021 table 4).
    Mode of 1 {
        EncryptDecrypt = b"B", "encrypt and decrypt";
        MacBoth = b"C", "generate and verify";
        Decrypt = b"D", "decrypt only";
        Encrypt = b"E", "encrypt only";
        Generate = b"G", "generate only";
        Any = b"N", "no restriction but the usage's";
        Sign = b"S", "sign only";
        SignDecrypt = b"T", "sign and decrypt";
        Verify = b"V", "verify only";
        Derive = b"X", "derive keys";
        Variants = b"Y", "make key variants";
    }
}

coded! {
    /// Whether the key may leave again (X9.143:2021 table 6).
    Exportability of 1 {
        Trusted = b"E", "under a key of X9.24 in a trusted key block";
        Never = b"N", "not exportable";
        Sensitive = b"S", "also in other forms than X9.24's";
    }
}

coded! {
    /// Where the block may be used (X9.143:2021 table 1, the fifteenth character).
    Context of 1 {
        Unsaid = b"0", "as the protection key says";
        Storage = b"1", "storage only";
        Exchange = b"2", "exchange only";
    }
}

impl Mode {
    /// Whether a key of this mode may be used in the wanted one.
    pub fn allows(self, wanted: Self) -> bool {
        match self {
            Self::Any => true,
            Self::EncryptDecrypt => matches!(wanted, Self::EncryptDecrypt | Self::Encrypt | Self::Decrypt),
            Self::MacBoth => matches!(wanted, Self::MacBoth | Self::Generate | Self::Verify),
            Self::SignDecrypt => matches!(wanted, Self::SignDecrypt | Self::Sign | Self::Decrypt),
            one => one == wanted,
        }
    }
}

/// The two characters of the key's version (X9.143:2021 table 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyVersion([u8; 2]);

impl KeyVersion {
    /// `00`: not used.
    pub const UNUSED: Self = Self(*b"00");

    /// What the characters of a header stand for.
    pub const fn from_code(code: [u8; 2]) -> Self {
        Self(code)
    }

    /// The characters of a header.
    pub const fn code(self) -> [u8; 2] {
        self.0
    }

    /// The number or letter of a key component, if the block holds no whole key.
    pub fn component(self) -> Option<char> {
        match self.0 {
            [b'c', which] => Some(char::from(which)),
            _ => None,
        }
    }

    /// Whether the standard has this form: two letters or digits.
    pub fn is_standard(self) -> bool {
        self.0.iter().all(u8::is_ascii_alphanumeric)
    }
}

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.into_iter().try_for_each(|byte| write!(f, "{}", char::from(byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_code_has_one_form() {
        assert_eq!(Usage::KNOWN.len(), 43);
        for usage in Usage::KNOWN {
            assert_eq!(Usage::from_code(usage.code()), *usage);
        }
        assert_eq!(Usage::from_code(*b"17").to_string(), "17");
        assert_eq!(Mode::from_code(*b"N"), Mode::Any);
        assert_eq!(Exportability::from_code(*b"e"), Exportability::Other(*b"e"));
    }

    #[test]
    fn a_mode_allows_what_is_part_of_it() {
        for mode in Mode::KNOWN {
            assert!(mode.allows(*mode) && Mode::Any.allows(*mode));
        }
        assert!(Mode::EncryptDecrypt.allows(Mode::Decrypt) && !Mode::Decrypt.allows(Mode::EncryptDecrypt));
        assert!(Mode::MacBoth.allows(Mode::Verify) && !Mode::Derive.allows(Mode::Encrypt));
        assert!(!Mode::Derive.allows(Mode::Any), "to do anything is more than to derive");
    }

    #[test]
    fn a_component_has_a_number_or_a_letter() {
        for (code, which) in [(b"c3", Some('3')), (b"cx", Some('x')), (b"C3", None), (b"3c", None)] {
            let version = KeyVersion::from_code(*code);
            assert!(version.is_standard() && version.component() == which, "{version}");
        }
        assert!(KeyVersion::UNUSED.is_standard() && !KeyVersion::from_code(*b"c ").is_standard());
    }
}
