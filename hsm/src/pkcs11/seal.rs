//! The vault: fingerprints of cards, merchants' vault keys, and card numbers sealed under them, all inside the slot.
//!
//! A vault key is no resident object (slots hold few): it is a blob, wrapped under the vault root key, unwrapped into a
//! session object when it is needed and kept while it is used. Who destroys the blob has shredded the merchant.

use std::collections::HashMap;

use cryptoki_sys::{
    CKA_DECRYPT, CKA_ENCRYPT, CKK_AES, CKR_DATA_LEN_RANGE, CKR_ENCRYPTED_DATA_INVALID, CKR_ENCRYPTED_DATA_LEN_RANGE,
    CKR_GENERAL_ERROR, CKR_WRAPPED_KEY_INVALID, CKR_WRAPPED_KEY_LEN_RANGE,
};
use warifu_core::card::Pan;
use warifu_core::custody::KeyProof;
use warifu_core::key::KeyLen;
use warifu_core::merchant::MerchantId;
use warifu_core::secret::SecretBytes;
use warifu_core::token::Token;

use super::mechanism::Mechanism;
use super::raw::Handle;
use super::session::{HsmSession, SessionObject};
use super::template::{Exposure, Life, aes_session_key, secret_key};
use crate::vault::{
    FINGERPRINT_PROOF_DATA, NONCE_LEN, TAG_LEN, fingerprint_input, fingerprint_proof as proof, pan_context,
};
use crate::{Fingerprint, HsmError, SealedPan, WrappedVaultKey};

/// Most vault keys a session keeps unwrapped.
const MAX_KEYS: usize = 64;
/// Length of a wrapped AES-256 key (SP 800-38F: one semiblock more than the key).
const WRAPPED_LEN: usize = 40;

/// The vault keys a session has unwrapped, least recently used first to go.
#[derive(Default)]
pub(super) struct VaultKeys {
    kept: HashMap<WrappedVaultKey, Kept>,
    /// Counts uses.
    clock: u64,
}

struct Kept {
    key: SessionObject,
    used: u64,
}

impl VaultKeys {
    /// A merchant's key, unwrapped if it is not yet.
    pub(super) fn key(
        &mut self,
        session: &HsmSession,
        vault_root: Handle,
        wrapped: &WrappedVaultKey,
    ) -> Result<Handle, HsmError> {
        self.clock += 1;
        if let Some(kept) = self.kept.get_mut(wrapped) {
            kept.used = self.clock;
            return Ok(*kept.key);
        }
        let key = unwrap(session, vault_root, wrapped)?;
        let handle = *key;
        if self.kept.len() >= MAX_KEYS
            && let Some(oldest) = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(wrapped, _)| wrapped.clone())
        {
            self.kept.remove(&oldest);
        }
        self.kept.insert(wrapped.clone(), Kept { key, used: self.clock });
        Ok(handle)
    }

    /// Seals a card number.
    pub(super) fn seal(
        &mut self,
        session: &HsmSession,
        vault_root: Handle,
        wrapped: &WrappedVaultKey,
        merchant: &MerchantId,
        token: &Token,
        pan: &Pan,
    ) -> Result<SealedPan, HsmError> {
        let key = self.key(session, vault_root, wrapped)?;
        let mut nonce = [0; NONCE_LEN];
        session.generate_random(&mut nonce)?;
        let mut ciphertext = vec![0; pan.expose().len() + TAG_LEN];
        let mechanism = Mechanism::AesGcm { nonce: &nonce, aad: &pan_context(merchant, token) };
        session.encrypt(mechanism, key, pan.expose(), &mut ciphertext)?;
        Ok(SealedPan { nonce, ciphertext })
    }

    /// Opens a sealed card number.
    pub(super) fn unseal(
        &mut self,
        session: &HsmSession,
        vault_root: Handle,
        wrapped: &WrappedVaultKey,
        merchant: &MerchantId,
        token: &Token,
        sealed: &SealedPan,
    ) -> Result<Pan, HsmError> {
        let key = self.key(session, vault_root, wrapped)?;
        let mechanism = Mechanism::AesGcm { nonce: &sealed.nonce, aad: &pan_context(merchant, token) };
        let mut written = Ok(0);
        // Room for the tag too: modules may ask for as much room as there is ciphertext.
        let clear = SecretBytes::filled(sealed.ciphertext.len(), |buffer| {
            written = ask_again(|| session.decrypt(mechanism, key, &sealed.ciphertext, buffer));
        });
        let len = written.map_err(|error| bad_data_or_outage(session, error))?;
        clear.expose().get(..len).and_then(|digits| Pan::parse(digits).ok()).ok_or(HsmError::Sealed)
    }
}

/// HMAC-SHA-256 under the fingerprint key.
pub(super) fn fingerprint(
    session: &HsmSession,
    key: Handle,
    merchant: &MerchantId,
    pan: &Pan,
) -> Result<Fingerprint, HsmError> {
    let mut fingerprint = [0; 32];
    session.sign(Mechanism::Sha256Hmac, key, fingerprint_input(merchant, pan).expose(), &mut fingerprint)?;
    Ok(Fingerprint(fingerprint))
}

/// What tells a fingerprint key from every other one.
pub(super) fn fingerprint_proof(session: &HsmSession, key: Handle) -> Result<KeyProof, HsmError> {
    let mut mac = [0; 32];
    session.sign(Mechanism::Sha256Hmac, key, FINGERPRINT_PROOF_DATA, &mut mac)?;
    Ok(proof(&mac))
}

/// Makes a vault key, wraps it, and lets the session object go.
pub(super) fn create_vault_key(session: &HsmSession, vault_root: Handle) -> Result<Vec<u8>, HsmError> {
    let template = aes_session_key(KeyLen::K256, Exposure::Wrapped, &[CKA_ENCRYPT, CKA_DECRYPT]);
    let key = session.generate_key(Mechanism::AesKeyGen, &template).map(|handle| session.own(handle))?;
    let mut wrapped = vec![0; WRAPPED_LEN];
    session.wrap(Mechanism::AesKeyWrap, vault_root, *key, &mut wrapped)?;
    Ok(wrapped)
}

fn unwrap(session: &HsmSession, vault_root: Handle, wrapped: &WrappedVaultKey) -> Result<SessionObject, HsmError> {
    if wrapped.blob.len() != WRAPPED_LEN {
        return Err(HsmError::Sealed);
    }
    let template = secret_key(CKK_AES, Life::Session, Exposure::Never, &[CKA_ENCRYPT, CKA_DECRYPT]);
    match ask_again(|| session.unwrap(Mechanism::AesKeyWrap, vault_root, &wrapped.blob, &template)) {
        Ok(handle) => Ok(session.own(handle)),
        Err(error) => Err(bad_data_or_outage(session, error)),
    }
}

/// Asks once more where the slot may just have been sick for a moment: what it says of bad data it will say again.
fn ask_again<T>(mut ask: impl FnMut() -> Result<T, HsmError>) -> Result<T, HsmError> {
    match ask() {
        Err(HsmError::Pkcs11 { code: CKR_GENERAL_ERROR, .. }) => ask(),
        answer => answer,
    }
}

/// What a module says of data that was changed, or of a sick slot. `CKR_GENERAL_ERROR` may be either (SoftHSM says it
/// of a wrong tag), so the slot is asked something else: if it answers, the data were bad.
fn bad_data_or_outage(session: &HsmSession, error: HsmError) -> HsmError {
    match error {
        HsmError::Pkcs11 {
            code:
                CKR_ENCRYPTED_DATA_INVALID
                | CKR_ENCRYPTED_DATA_LEN_RANGE
                | CKR_DATA_LEN_RANGE
                | CKR_WRAPPED_KEY_INVALID
                | CKR_WRAPPED_KEY_LEN_RANGE,
            ..
        } => HsmError::Sealed,
        HsmError::Pkcs11 { code: CKR_GENERAL_ERROR, .. } => match session.generate_random(&mut [0; 8]) {
            Ok(()) => HsmError::Sealed,
            Err(_) => error,
        },
        other => other,
    }
}
