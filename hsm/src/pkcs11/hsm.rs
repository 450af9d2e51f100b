//! The HSM of one thread: a session, its keys, and what it keeps between requests.

use std::time::Duration;

use warifu_core::card::Pan;
use warifu_core::custody::KeyProof;
use warifu_core::frame::SealedFrame;
use warifu_core::merchant::{BdkId, MerchantId};
use warifu_core::token::Token;

use super::objects::{self, VaultObjects};
use super::open::Bdk;
use super::raw::Handle;
use super::seal::{self, VaultKeys};
use super::session::HsmSession;
use super::sign;
use crate::{
    BdkSpec, CallTally, Fingerprint, Hsm, HsmError, Opened, SealedPan, Signature, VaultGeneration, VaultSpec,
    WrappedVaultKey,
};

/// An HSM session with its keys looked up. Dropping it closes the session, and with it goes every object it derived.
pub struct Pkcs11Hsm {
    bdks: Vec<Bdk>,
    /// The merchants' keys.
    vault_keys: VaultKeys,
    /// What is known of the slot's own, and those that were needed until now.
    specs: Vec<VaultSpec>,
    vaults: Vec<(VaultGeneration, VaultObjects)>,
    audit: Handle,
    /// Last, so that nothing above outlives it.
    session: HsmSession,
}

impl Pkcs11Hsm {
    pub(super) fn open(session: HsmSession, bdks: &[BdkSpec], vaults: &[VaultSpec]) -> Result<Self, HsmError> {
        let lookups = session.slot().module().lookups();
        let audit = objects::audit_key(&session)?;
        let cache_nodes = session.slot().cache_nodes() / bdks.len().max(1);
        let bdks: Vec<Bdk> =
            bdks.iter().map(|spec| Bdk::load(&session, spec, cache_nodes)).collect::<Result<_, _>>()?;
        drop(lookups);
        let (vault_keys, specs) = (VaultKeys::default(), vaults.to_vec());
        let hsm = Self { bdks, vault_keys, specs, vaults: Vec::new(), audit, session };
        let checked = hsm.check_proofs();
        hsm.swept(checked)?;
        Ok(hsm)
    }

    /// Whether the slot has the vault keys of a generation, and the registered ones where any are.
    ///
    /// # Errors
    /// Says which is missing, unfit or another one.
    pub fn has_vault(&mut self, generation: VaultGeneration) -> Result<(), HsmError> {
        self.vault(generation).map(drop)
    }

    /// Whether a merchant's vault key comes out of its wrapping: it was made under this very vault root.
    ///
    /// # Errors
    /// As [`Pkcs11Hsm::has_vault`].
    pub fn unwraps(&mut self, vault_key: &WrappedVaultKey) -> Result<bool, HsmError> {
        let root = self.vault(vault_key.generation)?.root;
        let unwrapped = self.vault_keys.key(&self.session, root, vault_key).map(drop);
        match self.swept(unwrapped) {
            Ok(()) => Ok(true),
            Err(HsmError::Sealed) => Ok(false),
            Err(outage) => Err(outage),
        }
    }

    /// The vault keys of a generation, looked up when they are first needed: a rotation makes new ones while servers run,
    /// and takes old ones away. Another fingerprint key than the registered one would give known cards new tokens.
    fn vault(&mut self, generation: VaultGeneration) -> Result<VaultObjects, HsmError> {
        if let Some((_, objects)) = self.vaults.iter().find(|(known, _)| *known == generation) {
            return Ok(*objects);
        }
        let lookups = self.session.slot().module().lookups();
        let objects = objects::vault(&self.session, generation)?;
        drop(lookups);
        let spec = self.specs.iter().find(|spec| spec.generation == generation);
        if let Some(registered) = spec.and_then(|spec| spec.proof) {
            let found = seal::fingerprint_proof(&self.session, objects.fingerprint)?;
            if found != registered {
                let label = objects::fingerprint_label(generation);
                return Err(HsmError::KeyReplaced { label, found, registered, is: None });
            }
        }
        self.vaults.push((generation, objects));
        Ok(objects)
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

    fn fingerprint(
        &mut self,
        generation: VaultGeneration,
        merchant: &MerchantId,
        pan: &Pan,
    ) -> Result<Fingerprint, HsmError> {
        let key = self.vault(generation)?.fingerprint;
        seal::fingerprint(&self.session, key, merchant, pan)
    }

    fn fingerprint_proof(&mut self, generation: VaultGeneration) -> Result<KeyProof, HsmError> {
        let key = self.vault(generation)?.fingerprint;
        seal::fingerprint_proof(&self.session, key)
    }

    fn create_vault_key(&mut self, generation: VaultGeneration) -> Result<WrappedVaultKey, HsmError> {
        let root = self.vault(generation)?.root;
        let created = seal::create_vault_key(&self.session, root).map(|blob| WrappedVaultKey { generation, blob });
        self.swept(created)
    }

    fn seal(
        &mut self,
        vault_key: &WrappedVaultKey,
        merchant: &MerchantId,
        token: &Token,
        pan: &Pan,
    ) -> Result<SealedPan, HsmError> {
        let root = self.vault(vault_key.generation)?.root;
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
        let root = self.vault(vault_key.generation)?.root;
        let unsealed = self.vault_keys.unseal(&self.session, root, vault_key, merchant, token, sealed);
        self.swept(unsealed)
    }

    fn sign(&mut self, message: &[u8]) -> Result<Signature, HsmError> {
        sign::sign(&self.session, self.audit, message)
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
