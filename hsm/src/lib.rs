//! What the server asks of an HSM, and the backends that answer.
//!
//! The trait asks for results, not steps: open this frame, seal this card number. Where the working key lived
//! while it happened is the backend's affair, and it says so ([`DecryptionMode`]).
//!
//! Architecture invariant: nothing here waits asynchronously or knows a database, a network or a merchant's rules.
//! An [`Hsm`] is used by one thread at a time.

mod calls;
pub mod doctor;
mod error;
mod fit;
pub mod pkcs11;
mod signature;
pub mod software;
mod vault;

use std::time::Duration;

use warifu_core::account_data::AccountData;
use warifu_core::card::Pan;
use warifu_core::custody::KeyProof;
use warifu_core::frame::SealedFrame;
use warifu_core::key::KeyLen;
use warifu_core::ksn::Scheme;
use warifu_core::merchant::{BdkId, MerchantId};
use warifu_core::token::Token;

pub use calls::CallTally;
pub use error::HsmError;
pub use signature::verify_signature;
pub use vault::{VaultGeneration, VaultSpec};

/// Where the keys of a transaction lived while its frame was opened. Named honestly everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecryptionMode {
    /// Every key from BDK to working key stayed in the HSM; the HSM verified and decrypted.
    Hardware,
    /// The one data key of the transaction left the HSM.
    Hybrid,
    /// The device's initial key left the HSM. Not P2PE by anyone's definition; off by default.
    HostDerived,
}

/// A base derivation key the slot holds, as the registry knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BdkSpec {
    /// Its name; the slot object's label follows from it ([`pkcs11::bdk_label`]).
    pub id: BdkId,
    /// Which DUKPT.
    pub scheme: Scheme,
    /// Its length; 16 bytes for TDES.
    pub len: KeyLen,
    /// How frames under it are opened.
    pub mode: DecryptionMode,
    /// What tells it from every other key. A session does not open over a key with another proof; `None` where nobody
    /// has registered one.
    pub proof: Option<KeyProof>,
}

/// An opened frame. A secret.
pub struct Opened {
    /// The card.
    pub account_data: AccountData,
    /// Where the keys lived.
    pub mode: DecryptionMode,
}

/// A merchant's vault key, wrapped under a vault root key: useless outside the slot, destroyed to shred a merchant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WrappedVaultKey {
    /// Whose root it is wrapped under.
    pub generation: VaultGeneration,
    /// The wrapped key.
    pub blob: Vec<u8>,
}

/// A card number sealed with AES-256-GCM under its merchant's vault key.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedPan {
    /// 12-byte nonce, never used twice under a key.
    pub nonce: [u8; 12],
    /// Ciphertext and 16-byte tag.
    pub ciphertext: Vec<u8>,
}

/// HMAC-SHA-256 over merchant and card number under the fingerprint key: the same card at the same merchant gives
/// the same fingerprint, and nobody without the HSM can compute one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// An ECDSA P-256 signature over SHA-256, `r ‖ s`, 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

/// Opens sessions: one for each thread that will use the HSM, and a new one after an outage.
pub trait HsmFactory: Send + Sync + 'static {
    /// Opens a session, on the thread that will use it.
    fn session(&self) -> Result<Box<dyn Hsm>, HsmError>;

    /// The calls made since the last time this was asked that no session accounts for: loading, login, openings that
    /// failed, and the closing of sessions. None, where sessions account for all.
    fn take_calls(&self) -> CallTally {
        CallTally::default()
    }
}

/// What the server asks of an HSM. One value serves one thread.
///
/// Every method that fails with an error for which [`HsmError::is_outage`] holds leaves the value fit to be dropped
/// and rebuilt; no other error hurts the next call.
pub trait Hsm: 'static {
    /// Verifies a frame's MAC (where the device makes one), decrypts it and reads the card, under the keys of its KSN.
    /// The counter's legality and freshness are the caller's check.
    fn open(&mut self, bdk: &BdkId, frame: &SealedFrame) -> Result<Opened, HsmError>;

    /// The fingerprint of a card at a merchant, under the fingerprint key of a generation.
    fn fingerprint(
        &mut self,
        generation: VaultGeneration,
        merchant: &MerchantId,
        pan: &Pan,
    ) -> Result<Fingerprint, HsmError>;

    /// What tells the fingerprint key of a generation from every other one.
    fn fingerprint_proof(&mut self, generation: VaultGeneration) -> Result<KeyProof, HsmError>;

    /// Makes a vault key for a merchant and wraps it under the root of a generation.
    fn create_vault_key(&mut self, generation: VaultGeneration) -> Result<WrappedVaultKey, HsmError>;

    /// Seals a card number under a merchant's vault key, bound to merchant and token.
    fn seal(
        &mut self,
        vault_key: &WrappedVaultKey,
        merchant: &MerchantId,
        token: &Token,
        pan: &Pan,
    ) -> Result<SealedPan, HsmError>;

    /// Opens a sealed card number; refused if merchant or token are not those it was sealed for.
    fn unseal(
        &mut self,
        vault_key: &WrappedVaultKey,
        merchant: &MerchantId,
        token: &Token,
        sealed: &SealedPan,
    ) -> Result<Pan, HsmError>;

    /// Seals a sealed card number anew, under another vault key of its merchant, and tells its fingerprint of that key's
    /// generation. The number does not leave the backend.
    fn reseal(
        &mut self,
        from: &WrappedVaultKey,
        to: &WrappedVaultKey,
        merchant: &MerchantId,
        token: &Token,
        sealed: &SealedPan,
    ) -> Result<(SealedPan, Fingerprint), HsmError> {
        let pan = self.unseal(from, merchant, token, sealed)?;
        let fingerprint = self.fingerprint(to.generation, merchant, &pan)?;
        Ok((self.seal(to, merchant, token, &pan)?, fingerprint))
    }

    /// Signs with the audit key.
    fn sign(&mut self, message: &[u8]) -> Result<Signature, HsmError>;

    /// The audit key's public half: an uncompressed P-256 point, 65 bytes.
    fn audit_public_key(&mut self) -> Result<[u8; 65], HsmError>;

    /// Fills a buffer from the HSM's generator.
    fn random(&mut self, out: &mut [u8]) -> Result<(), HsmError>;

    /// The calls made to the module since the last time this was asked: what an audit record accounts for.
    fn take_calls(&mut self) -> CallTally;

    /// The time these calls took in the module, since the last time this was asked; zero where there is no module.
    fn take_time(&mut self) -> Duration {
        Duration::ZERO
    }
}

impl DecryptionMode {
    /// All of them, strictest first.
    pub const ALL: [Self; 3] = [Self::Hardware, Self::Hybrid, Self::HostDerived];

    /// The name used everywhere: `hardware`, `hybrid`, `host-derived`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Hybrid => "hybrid",
            Self::HostDerived => "host-derived",
        }
    }

    /// The inverse of [`DecryptionMode::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}
