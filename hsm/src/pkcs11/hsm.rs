//! The HSM of one thread: a session, its keys, and what it keeps between requests.

use std::time::Duration;

use warifu_core::card::Pan;
use warifu_core::frame::SealedFrame;
use warifu_core::merchant::{BdkId, MerchantId};
use warifu_core::token::Token;

use super::objects::{self, ServiceKeys};
use super::open::Bdk;
use super::seal::{self, VaultKeys};
use super::session::HsmSession;
use super::sign;
use crate::{BdkSpec, CallTally, Fingerprint, Hsm, HsmError, Opened, SealedPan, Signature, WrappedVaultKey};

/// An HSM session with its keys looked up. Dropping it closes the session, and with it goes every object it derived.
pub struct Pkcs11Hsm {
    bdks: Vec<Bdk>,
    vault_keys: VaultKeys,
    keys: ServiceKeys,
    /// Last, so that nothing above outlives it.
    session: HsmSession,
}

impl Pkcs11Hsm {
    pub(super) fn open(session: HsmSession, bdks: &[BdkSpec]) -> Result<Self, HsmError> {
        let lookups = session.slot().module().lookups();
        let keys = objects::service_keys(&session)?;
        let cache_nodes = session.slot().cache_nodes() / bdks.len().max(1);
        let bdks: Vec<Bdk> =
            bdks.iter().map(|spec| Bdk::load(&session, spec, cache_nodes)).collect::<Result<_, _>>()?;
        drop(lookups);
        let hsm = Self { bdks, vault_keys: VaultKeys::default(), keys, session };
        let checked = hsm.check_proofs();
        hsm.swept(checked)?;
        Ok(hsm)
    }

    /// Whether each key that was registered with a proof is the one in the slot.
    fn check_proofs(&self) -> Result<(), HsmError> {
        for bdk in &self.bdks {
            let Some(registered) = bdk.spec.proof else { continue };
            let found = bdk.proof(&self.session)?;
            if found != registered {
                let is = self.bdks.iter().find(|other| other.spec.proof == Some(found)).map(|is| is.spec.id.clone());
                return Err(HsmError::KeyReplaced { label: objects::bdk_label(&bdk.spec.id), found, registered, is });
            }
        }
        Ok(())
    }

    /// How many DUKPT tree nodes the session keeps at the moment.
    pub fn cached_nodes(&self) -> usize {
        self.bdks.iter().map(Bdk::cached_nodes).sum()
    }

    /// Destroys what a request left behind. An object that cannot be destroyed is an outage; the request's own error,
    /// if it has one, says more.
    fn swept<T>(&self, outcome: Result<T, HsmError>) -> Result<T, HsmError> {
        let swept = self.session.sweep();
        let value = outcome?;
        swept.map(|()| value)
    }
}

impl Hsm for Pkcs11Hsm {
    fn open(&mut self, bdk: &BdkId, frame: &SealedFrame) -> Result<Opened, HsmError> {
        let bdk = self
            .bdks
            .iter_mut()
            .find(|known| known.spec.id == *bdk)
            .ok_or_else(|| HsmError::UnknownBdk(bdk.clone()))?;
        let opened = bdk.open(&self.session, frame);
        self.swept(opened)
    }

    fn fingerprint(&mut self, merchant: &MerchantId, pan: &Pan) -> Result<Fingerprint, HsmError> {
        seal::fingerprint(&self.session, self.keys.fingerprint, merchant, pan)
    }

    fn create_vault_key(&mut self) -> Result<WrappedVaultKey, HsmError> {
        let created = seal::create_vault_key(&self.session, self.keys.vault_root);
        self.swept(created)
    }

    fn seal(
        &mut self,
        vault_key: &WrappedVaultKey,
        merchant: &MerchantId,
        token: &Token,
        pan: &Pan,
    ) -> Result<SealedPan, HsmError> {
        let root = self.keys.vault_root;
        let sealed = self.vault_keys.seal(&self.session, root, vault_key, merchant, token, pan);
        self.swept(sealed)
    }

    fn unseal(
        &mut self,
        vault_key: &WrappedVaultKey,
        merchant: &MerchantId,
        token: &Token,
        sealed: &SealedPan,
    ) -> Result<Pan, HsmError> {
        let root = self.keys.vault_root;
        let unsealed = self.vault_keys.unseal(&self.session, root, vault_key, merchant, token, sealed);
        self.swept(unsealed)
    }

    fn sign(&mut self, message: &[u8]) -> Result<Signature, HsmError> {
        sign::sign(&self.session, self.keys.audit, message)
    }

    fn audit_public_key(&mut self) -> Result<[u8; 65], HsmError> {
        sign::audit_public_key(&self.session)
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), HsmError> {
        self.session.generate_random(out)
    }

    fn take_calls(&mut self) -> CallTally {
        self.session.take_calls()
    }

    fn take_time(&mut self) -> Duration {
        self.session.take_time()
    }
}
