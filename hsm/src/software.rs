//! The in-process backend, for property tests only: the same trait and answers as over PKCS#11, with every key in the
//! memory of this process. Nothing in production makes one.
//!
//! It reports the mode each key is configured with, so that what stands above it can be tested in all of them; the keys
//! are on the host in every one. It makes no PKCS#11 calls, so its tallies are empty.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use warifu_core::card::Pan;
use warifu_core::custody::KeyProof;
use warifu_core::dukpt::cache::TreeCache;
use warifu_core::dukpt::{aes, tdes};
use warifu_core::frame::SealedFrame;
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::ksn::Ksn;
use warifu_core::mac::hmac_sha256;
use warifu_core::merchant::{BdkId, MerchantId};
use warifu_core::opening::{self, OpeningError};
use warifu_core::secret::SecretBytes;
use warifu_core::token::Token;

use crate::vault::{FINGERPRINT_PROOF_DATA, NONCE_LEN, TAG_LEN, fingerprint_input, fingerprint_proof, pan_context};
use crate::{
    BdkSpec, CallTally, Fingerprint, Hsm, HsmError, HsmFactory, Opened, SealedPan, Signature, VaultGeneration,
    WrappedVaultKey, fit,
};

/// Says what a wrapped vault key is.
const VAULT_KEY_CONTEXT: &[u8] = b"warifu vault key v1";
/// Tree nodes kept for each base derivation key of a session.
const CACHE_NODES: usize = 256;

/// The keys of a make-believe slot; its sessions share them.
#[derive(Clone)]
pub struct SoftwareSlot(Arc<Keys>);

struct Keys {
    bdks: Vec<(BdkSpec, KeyBytes)>,
    /// Wraps the vault keys of every generation, bound to its number.
    vault_root: LessSafeKey,
    /// The fingerprint keys of all generations come of it.
    fingerprint: KeyBytes,
    audit: EcdsaKeyPair,
}

/// A session of a [`SoftwareSlot`].
pub struct SoftwareHsm {
    keys: Arc<Keys>,
    nodes: Vec<TreeCache<KeyBytes>>,
}

impl SoftwareSlot {
    /// A slot with these base derivation keys and new random keys for everything else.
    pub fn new(bdks: Vec<(BdkSpec, KeyBytes)>) -> Result<Self, HsmError> {
        let audit = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| HsmError::SelfTest("the software backend made no audit key"))?;
        let vault_root = gcm(random_key()?.expose())?;
        Ok(Self(Arc::new(Keys { bdks, vault_root, fingerprint: random_key()?, audit })))
    }

    /// A session.
    pub fn session(&self) -> SoftwareHsm {
        let nodes = self.0.bdks.iter().map(|_| TreeCache::new(CACHE_NODES)).collect();
        SoftwareHsm { keys: Arc::clone(&self.0), nodes }
    }
}

impl HsmFactory for SoftwareSlot {
    fn session(&self) -> Result<Box<dyn Hsm>, HsmError> {
        Ok(Box::new(self.session()))
    }
}

impl SoftwareHsm {
    fn vault_key(&self, wrapped: &WrappedVaultKey) -> Result<LessSafeKey, HsmError> {
        let (nonce, sealed) = wrapped.blob.split_first_chunk::<NONCE_LEN>().ok_or(HsmError::Sealed)?;
        let key = unseal(&self.keys.vault_root, *nonce, &vault_key_context(wrapped.generation), sealed)?;
        gcm(key.expose())
    }

    fn fingerprint_key(&self, generation: VaultGeneration) -> KeyBytes {
        let number = generation.number().to_be_bytes();
        KeyBytes::filled(KeyLen::K256, |key| key.copy_from_slice(&hmac_sha256(&self.keys.fingerprint, &number)))
    }
}

impl Hsm for SoftwareHsm {
    fn open(&mut self, bdk: &BdkId, frame: &SealedFrame) -> Result<Opened, HsmError> {
        let known = self.keys.bdks.iter().zip(&mut self.nodes).find(|((spec, _), _)| spec.id == *bdk);
        let ((spec, key), nodes) = known.ok_or_else(|| HsmError::UnknownBdk(bdk.clone()))?;
        fit::check(spec, frame)?;
        let ksn = frame.ksn();
        let initial_key = || match &ksn {
            Ksn::Aes(ksn) => aes::initial_key(key, ksn.ik_id()),
            Ksn::Tdes(ksn) => tdes::initial_key(key, ksn),
        };
        let node = nodes.key(&ksn, || Ok::<_, HsmError>(initial_key()))?;
        let account_data = opening::open(frame, &node).map_err(|error| match error {
            OpeningError::Suite => HsmError::SuiteMismatch(spec.id.clone()),
            OpeningError::WrongMac => HsmError::WrongMac,
            OpeningError::Card(cause) => HsmError::Card(cause),
        })?;
        Ok(Opened { account_data, mode: spec.mode })
    }

    fn fingerprint(
        &mut self,
        generation: VaultGeneration,
        merchant: &MerchantId,
        pan: &Pan,
    ) -> Result<Fingerprint, HsmError> {
        let key = self.fingerprint_key(generation);
        Ok(Fingerprint(hmac_sha256(&key, fingerprint_input(merchant, pan).expose())))
    }

    fn fingerprint_proof(&mut self, generation: VaultGeneration) -> Result<KeyProof, HsmError> {
        Ok(fingerprint_proof(&hmac_sha256(&self.fingerprint_key(generation), FINGERPRINT_PROOF_DATA)))
    }

    fn create_vault_key(&mut self, generation: VaultGeneration) -> Result<WrappedVaultKey, HsmError> {
        let nonce = random_nonce()?;
        let context = vault_key_context(generation);
        let sealed = seal(&self.keys.vault_root, nonce, &context, random_key()?.expose())?;
        Ok(WrappedVaultKey { generation, blob: [nonce.as_slice(), &sealed].concat() })
    }

    fn seal(
        &mut self,
        vault_key: &WrappedVaultKey,
        merchant: &MerchantId,
        token: &Token,
        pan: &Pan,
    ) -> Result<SealedPan, HsmError> {
        let nonce = random_nonce()?;
        let key = self.vault_key(vault_key)?;
        Ok(SealedPan { nonce, ciphertext: seal(&key, nonce, &pan_context(merchant, token), pan.expose())? })
    }

    fn unseal(
        &mut self,
        vault_key: &WrappedVaultKey,
        merchant: &MerchantId,
        token: &Token,
        sealed: &SealedPan,
    ) -> Result<Pan, HsmError> {
        let key = self.vault_key(vault_key)?;
        let digits = unseal(&key, sealed.nonce, &pan_context(merchant, token), &sealed.ciphertext)?;
        Pan::parse(digits.expose()).map_err(|_| HsmError::Sealed)
    }

    fn sign(&mut self, message: &[u8]) -> Result<Signature, HsmError> {
        let failed = || HsmError::SelfTest("the software backend did not sign");
        let signature = self.keys.audit.sign(&SystemRandom::new(), message).map_err(|_| failed())?;
        signature.as_ref().try_into().map(Signature).map_err(|_| failed())
    }

    fn audit_public_key(&mut self) -> Result<[u8; 65], HsmError> {
        let public_key = self.keys.audit.public_key().as_ref().try_into();
        public_key.map_err(|_| HsmError::SelfTest("the software backend's audit key is no P-256 key"))
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), HsmError> {
        random(out)
    }

    fn take_calls(&mut self) -> CallTally {
        CallTally::default()
    }
}

fn vault_key_context(generation: VaultGeneration) -> Vec<u8> {
    [VAULT_KEY_CONTEXT, &generation.number().to_be_bytes()].concat()
}

fn seal(key: &LessSafeKey, nonce: [u8; NONCE_LEN], context: &[u8], clear: &[u8]) -> Result<Vec<u8>, HsmError> {
    // The tag is put behind it, so the clear bytes must not move while it grows.
    let mut sealed = Vec::with_capacity(clear.len() + TAG_LEN);
    sealed.extend(clear);
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut sealed)
        .map_err(|_| HsmError::Sealed)?;
    Ok(sealed)
}

fn unseal(key: &LessSafeKey, nonce: [u8; NONCE_LEN], context: &[u8], sealed: &[u8]) -> Result<SecretBytes, HsmError> {
    let mut buffer = SecretBytes::copied(sealed);
    let clear = key
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(context), buffer.expose_mut())
        .map_err(|_| HsmError::Sealed)?;
    Ok(SecretBytes::copied(clear))
}

fn gcm(key: &[u8]) -> Result<LessSafeKey, HsmError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| HsmError::Sealed)
}

fn random_key() -> Result<KeyBytes, HsmError> {
    let mut outcome = Ok(());
    let key = KeyBytes::filled(KeyLen::K256, |bytes| outcome = random(bytes));
    outcome.map(|()| key)
}

fn random_nonce() -> Result<[u8; NONCE_LEN], HsmError> {
    let mut nonce = [0; NONCE_LEN];
    random(&mut nonce).map(|()| nonce)
}

fn random(out: &mut [u8]) -> Result<(), HsmError> {
    SystemRandom::new().fill(out).map_err(|_| HsmError::SelfTest("the operating system gave no random bytes"))
}
