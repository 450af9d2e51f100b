//! The mechanisms this project uses, each with its parameters as a value.

use std::ffi::c_void;
use std::ptr;

use cryptoki_sys::{
    CK_GCM_PARAMS, CK_KEY_DERIVATION_STRING_DATA, CK_MECHANISM, CK_MECHANISM_TYPE, CKM_AES_CBC, CKM_AES_CMAC,
    CKM_AES_ECB_ENCRYPT_DATA, CKM_AES_GCM, CKM_AES_KEY_GEN, CKM_AES_KEY_WRAP, CKM_DES3_ECB, CKM_EC_KEY_PAIR_GEN,
    CKM_ECDSA, CKM_GENERIC_SECRET_KEY_GEN, CKM_SHA256_HMAC, CKM_XOR_BASE_AND_DATA,
};

use super::template::ulong;

/// A mechanism and its parameters.
#[derive(Clone, Copy)]
pub(super) enum Mechanism<'a> {
    /// Derives a key: these blocks, encrypted in ECB under the base key (PKCS#11 v3.1 §6.14).
    AesEcbEncryptData(&'a [u8]),
    /// Derives a key: the base key, xor these bytes (PKCS#11 v3.1 §6.44).
    XorBaseAndData(&'a [u8]),
    /// Decrypts whole blocks from this IV.
    AesCbc(&'a [u8; 16]),
    /// SP 800-38B.
    AesCmac,
    /// SP 800-38D with a 128-bit tag.
    AesGcm {
        /// 12 bytes.
        nonce: &'a [u8; 12],
        /// What is authenticated only.
        aad: &'a [u8],
    },
    /// SP 800-38F key wrap.
    AesKeyWrap,
    /// Makes an AES key.
    AesKeyGen,
    /// Encrypts single blocks.
    Des3Ecb,
    /// FIPS 198-1.
    Sha256Hmac,
    /// Makes a generic secret.
    GenericSecretKeyGen,
    /// Signs a hash; the signature is `r ‖ s`.
    Ecdsa,
    /// Makes a key pair on the curve of its template.
    EcKeyPairGen,
}

/// Bits of a GCM tag.
const TAG_BITS: u8 = 128;

impl Mechanism<'_> {
    /// Its number.
    pub(super) const fn number(&self) -> CK_MECHANISM_TYPE {
        match self {
            Self::AesEcbEncryptData(_) => CKM_AES_ECB_ENCRYPT_DATA,
            Self::XorBaseAndData(_) => CKM_XOR_BASE_AND_DATA,
            Self::AesCbc(_) => CKM_AES_CBC,
            Self::AesCmac => CKM_AES_CMAC,
            Self::AesGcm { .. } => CKM_AES_GCM,
            Self::AesKeyWrap => CKM_AES_KEY_WRAP,
            Self::AesKeyGen => CKM_AES_KEY_GEN,
            Self::Des3Ecb => CKM_DES3_ECB,
            Self::Sha256Hmac => CKM_SHA256_HMAC,
            Self::GenericSecretKeyGen => CKM_GENERIC_SECRET_KEY_GEN,
            Self::Ecdsa => CKM_ECDSA,
            Self::EcKeyPairGen => CKM_EC_KEY_PAIR_GEN,
        }
    }

    /// Lends it in PKCS#11's own form; neither it nor its parameters outlive the call.
    pub(super) fn lend<R>(&self, ask: impl FnOnce(*mut CK_MECHANISM) -> R) -> R {
        match self {
            Self::AesEcbEncryptData(data) | Self::XorBaseAndData(data) => {
                let mut parameters =
                    CK_KEY_DERIVATION_STRING_DATA { pData: data.as_ptr().cast_mut(), ulLen: ulong(data.len()) };
                self.with(ptr::from_mut(&mut parameters).cast(), size_of::<CK_KEY_DERIVATION_STRING_DATA>(), ask)
            }
            Self::AesCbc(iv) => self.with(iv.as_ptr().cast_mut().cast(), iv.len(), ask),
            Self::AesGcm { nonce, aad } => {
                let mut parameters = CK_GCM_PARAMS {
                    pIv: nonce.as_ptr().cast_mut(),
                    ulIvLen: ulong(nonce.len()),
                    ulIvBits: ulong(nonce.len() * 8),
                    pAAD: aad.as_ptr().cast_mut(),
                    ulAADLen: ulong(aad.len()),
                    ulTagBits: TAG_BITS.into(),
                };
                self.with(ptr::from_mut(&mut parameters).cast(), size_of::<CK_GCM_PARAMS>(), ask)
            }
            Self::AesCmac
            | Self::AesKeyWrap
            | Self::AesKeyGen
            | Self::Des3Ecb
            | Self::Sha256Hmac
            | Self::GenericSecretKeyGen
            | Self::Ecdsa
            | Self::EcKeyPairGen => self.with(ptr::null_mut(), 0, ask),
        }
    }

    fn with<R>(&self, parameters: *mut c_void, len: usize, ask: impl FnOnce(*mut CK_MECHANISM) -> R) -> R {
        let mut mechanism =
            CK_MECHANISM { mechanism: self.number(), pParameter: parameters, ulParameterLen: ulong(len) };
        ask(ptr::from_mut(&mut mechanism))
    }
}
