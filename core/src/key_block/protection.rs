//! How a protection key becomes the two keys that seal and authenticate a block (X9.143:2021 7).
//!
//! Versions A and C add a letter to every byte of the protection key, for which it must be here in clear. Versions B, D
//! and E compute CMACs under it: [`Protection::derived`] has them computed by whoever holds it, an HSM too. What comes
//! back are keys, so they are here in clear either way.

use zeroize::Zeroizing;

use super::content::CheckMethod;
use super::strength;
use super::version::{ProtectionCipher, Version};
use crate::kcv::Kcv;
use crate::key::{KeyBytes, KeyLen};
use crate::mac::{aes_cmac, tdes_cmac};

/// What A and C add to every byte for the key that encrypts.
const ENCRYPTION_VARIANT: u8 = b'E';
/// What A and C add to every byte for the key that authenticates.
const MAC_VARIANT: u8 = b'M';

/// A key block protection key in clear, which knows its cipher.
pub struct Kbpk {
    cipher: ProtectionCipher,
    key: KeyBytes,
    /// Effective bits.
    strength: u16,
}

/// The keys of one version under one protection key.
pub struct Protection {
    version: Version,
    /// Effective bits of a protection key of this length.
    strength: u16,
    /// Those of this one, if it was here and is worth less.
    weaker: Option<u16>,
    /// Check values of the protection key, if it was here: legacy, CMAC.
    check_values: Option<[Kcv; 2]>,
    encryption: KeyBytes,
    authentication: KeyBytes,
}

/// A protection key that cannot protect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtectionError {
    /// Triple DES keys have 16 or 24 bytes.
    #[error("a triple DES protection key has 16 or 24 bytes, not {0}")]
    TdesLength(usize),
    /// Each version has its cipher.
    #[error("a key block of version {0} is not protected by a key of this cipher")]
    Cipher(Version),
    /// A and C have no derivation.
    #[error("version {0} derives no keys: the protection key must be here in clear")]
    Variants(Version),
}

/// Why no keys came back from where the protection key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DerivationError<E> {
    /// They cannot be derived there.
    #[error("the protection key cannot be used so")]
    Protection(#[source] ProtectionError),
    /// A CMAC was not computed.
    #[error("the protection key's CMAC")]
    Cmac(#[source] E),
}

/// What a derived key is for: the indicator in the derivation data (X9.143:2021 7.2).
#[derive(Clone, Copy)]
enum Purpose {
    Cbc,
    Mac,
    /// ISO 20038 alone.
    Ctr,
}

impl Kbpk {
    /// For a cipher, whose keys have this length.
    pub fn new(cipher: ProtectionCipher, key: KeyBytes) -> Result<Self, ProtectionError> {
        match (cipher, key.key_len()) {
            (ProtectionCipher::Tdes, KeyLen::K256) => Err(ProtectionError::TdesLength(KeyLen::K256.bytes())),
            (ProtectionCipher::Tdes | ProtectionCipher::Aes, _) => {
                Ok(Self { cipher, strength: strength::of_kbpk_at_hand(cipher, &key), key })
            }
        }
    }

    /// Its usual check value: legacy for triple DES, CMAC for AES.
    pub fn kcv(&self) -> Kcv {
        match self.cipher {
            ProtectionCipher::Tdes => self.check_value(CheckMethod::Legacy),
            ProtectionCipher::Aes => self.check_value(CheckMethod::Cmac),
        }
    }

    fn check_value(&self, method: CheckMethod) -> Kcv {
        match self.cipher {
            ProtectionCipher::Tdes => method.of_tdes(&self.key),
            ProtectionCipher::Aes => method.of_aes(&self.key),
        }
    }

    fn cmac(&self, message: &[u8], into: &mut [u8]) {
        match self.cipher {
            ProtectionCipher::Tdes => into.copy_from_slice(&*Zeroizing::new(tdes_cmac(&self.key, message))),
            ProtectionCipher::Aes => into.copy_from_slice(&*Zeroizing::new(aes_cmac(&self.key, message))),
        }
    }

    fn variant(&self, letter: u8) -> KeyBytes {
        KeyBytes::filled(self.key.key_len(), |bytes| {
            bytes.iter_mut().zip(self.key.expose()).for_each(|(byte, key)| *byte = key ^ letter);
        })
    }
}

impl Protection {
    /// The keys of a version under a protection key in clear.
    pub fn new(version: Version, kbpk: &Kbpk) -> Result<Self, ProtectionError> {
        if kbpk.cipher != version.cipher() {
            return Err(ProtectionError::Cipher(version));
        }
        let mut protection = match version {
            Version::A | Version::C => Self {
                version,
                strength: strength::of_kbpk(version.cipher(), kbpk.key.key_len()),
                weaker: None,
                check_values: None,
                encryption: kbpk.variant(ENCRYPTION_VARIANT),
                authentication: kbpk.variant(MAC_VARIANT),
            },
            Version::B | Version::D | Version::E => {
                let cmac = |message: &[u8; 8], into: &mut [u8]| -> Result<(), ProtectionError> {
                    kbpk.cmac(message, into);
                    Ok(())
                };
                Self::derived(version, kbpk.key.key_len(), cmac).map_err(|error| match error {
                    DerivationError::Protection(error) | DerivationError::Cmac(error) => error,
                })?
            }
        };
        let check_values = [CheckMethod::Legacy, CheckMethod::Cmac].map(|method| kbpk.check_value(method));
        protection.check_values = Some(check_values);
        protection.weaker = (kbpk.strength < protection.strength).then_some(kbpk.strength);
        Ok(protection)
    }

    /// The keys of version B, D or E under a protection key of this length that is somewhere else: `cmac` computes the
    /// CMAC of 8 bytes under it, of the cipher's block length, into its second argument.
    pub fn derived<E>(
        version: Version,
        len: KeyLen,
        mut cmac: impl FnMut(&[u8; 8], &mut [u8]) -> Result<(), E>,
    ) -> Result<Self, DerivationError<E>> {
        let encryption = match version {
            Version::A | Version::C => return Err(DerivationError::Protection(ProtectionError::Variants(version))),
            Version::B | Version::D => Purpose::Cbc,
            Version::E => Purpose::Ctr,
        };
        if let (ProtectionCipher::Tdes, KeyLen::K256) = (version.cipher(), len) {
            return Err(DerivationError::Protection(ProtectionError::TdesLength(len.bytes())));
        }
        let mut key = |purpose| derive(version, len, purpose, &mut cmac).map_err(DerivationError::Cmac);
        Ok(Self {
            version,
            strength: strength::of_kbpk(version.cipher(), len),
            weaker: None,
            check_values: None,
            encryption: key(encryption)?,
            authentication: key(Purpose::Mac)?,
        })
    }

    /// The version it protects blocks of.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Effective bits of a protection key of this length.
    pub(super) fn strength(&self) -> u16 {
        self.strength
    }

    /// Effective bits of the protection key, if it was here and they are fewer, since parts of it are equal.
    pub(super) fn weaker(&self) -> Option<u16> {
        self.weaker
    }

    /// Check value of the protection key, if it was here.
    pub(super) fn check_value(&self, method: CheckMethod) -> Option<Kcv> {
        self.check_values.map(|[legacy, cmac]| match method {
            CheckMethod::Legacy => legacy,
            CheckMethod::Cmac => cmac,
        })
    }

    /// The key that encrypts.
    pub(super) fn encryption(&self) -> &KeyBytes {
        &self.encryption
    }

    /// The key that authenticates.
    pub(super) fn authentication(&self) -> &KeyBytes {
        &self.authentication
    }
}

/// As many CMACs as make the key, the last one cut (X9.143:2021 7.2.1, 7.2.2).
fn derive<E>(
    version: Version,
    len: KeyLen,
    purpose: Purpose,
    cmac: &mut impl FnMut(&[u8; 8], &mut [u8]) -> Result<(), E>,
) -> Result<KeyBytes, E> {
    let mut outcome = Ok(());
    let key = KeyBytes::filled(len, |bytes| {
        let mut block = Zeroizing::new([0; 16]);
        for (part, counter) in bytes.chunks_mut(version.block_len()).zip(1..) {
            let made = cmac(&derivation_data(version, len, purpose, counter), &mut block[..version.block_len()]);
            part.copy_from_slice(&block[..part.len()]);
            if made.is_err() {
                outcome = made;
                return;
            }
        }
    });
    outcome.map(|()| key)
}

/// Counter, purpose, separator, algorithm, bits.
fn derivation_data(version: Version, len: KeyLen, purpose: Purpose, counter: u8) -> [u8; 8] {
    let purpose = match purpose {
        Purpose::Cbc => 0,
        Purpose::Mac => 1,
        Purpose::Ctr => 2,
    };
    let algorithm = match (version.cipher(), len) {
        (ProtectionCipher::Tdes, KeyLen::K128) => 0,
        (ProtectionCipher::Tdes, KeyLen::K192 | KeyLen::K256) => 1,
        (ProtectionCipher::Aes, KeyLen::K128) => 2,
        (ProtectionCipher::Aes, KeyLen::K192) => 3,
        (ProtectionCipher::Aes, KeyLen::K256) => 4,
    };
    let [high, low] = len.bits().to_be_bytes();
    [counter, 0, purpose, 0, 0, algorithm, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kbpk(cipher: ProtectionCipher, digits: &str) -> Kbpk {
        Kbpk::new(cipher, KeyBytes::copied(&hex::decode(digits).unwrap()).unwrap()).unwrap()
    }

    /// The derived keys are proven by the published blocks they open.
    #[test]
    fn the_variants_add_a_letter_to_every_byte() {
        let kbpk = kbpk(ProtectionCipher::Tdes, "DD7515F2BFC17F85CE48F3CA25CB21F6");
        let variant = Protection::new(Version::A, &kbpk).unwrap();
        assert_eq!(hex::encode_upper(variant.encryption().expose()), "983050B7FA843AC08B0DB68F608E64B3");
        assert_eq!(hex::encode_upper(variant.authentication().expose()), "903858BFF28C32C88305BE8768866CBB");
    }

    #[test]
    fn each_version_has_its_cipher_and_its_keys() {
        let tdes = || kbpk(ProtectionCipher::Tdes, "DD7515F2BFC17F85CE48F3CA25CB21F6");
        let aes = || kbpk(ProtectionCipher::Aes, "DD7515F2BFC17F85CE48F3CA25CB21F6");
        for version in Version::ALL {
            let (right, wrong) = match version.cipher() {
                ProtectionCipher::Tdes => (tdes(), aes()),
                ProtectionCipher::Aes => (aes(), tdes()),
            };
            let keys = Protection::new(version, &right).unwrap();
            assert!(!keys.encryption().ct_eq(keys.authentication()));
            assert_eq!(Protection::new(version, &wrong).err(), Some(ProtectionError::Cipher(version)));
        }
        let long = KeyBytes::copied(&[7; 32]).unwrap();
        assert_eq!(Kbpk::new(ProtectionCipher::Tdes, long).err(), Some(ProtectionError::TdesLength(32)));
    }

    #[test]
    fn a_protection_key_may_be_somewhere_else() {
        for (version, digits) in [(Version::B, "00".repeat(24)), (Version::D, "5A".repeat(24))] {
            let kbpk = kbpk(version.cipher(), &digits);
            let here = Protection::new(version, &kbpk).unwrap();
            let there = Protection::derived(version, KeyLen::K192, |message, into| {
                kbpk.cmac(message, into);
                Ok::<(), ()>(())
            });
            let there = there.ok().unwrap();
            assert!(here.encryption().ct_eq(there.encryption()) && here.authentication().ct_eq(there.authentication()));
        }
        let failed = Protection::derived(Version::D, KeyLen::K128, |_, _| Err("gone"));
        assert_eq!(failed.err(), Some(DerivationError::Cmac("gone")));
        let variants = Protection::derived(Version::C, KeyLen::K128, |_, _| Ok::<(), ()>(()));
        assert_eq!(variants.err(), Some(DerivationError::Protection(ProtectionError::Variants(Version::C))));
    }
}
