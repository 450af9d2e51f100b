//! An HSM under observation: it counts its calls as a PKCS#11 spy would, and fails when it is told to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use warifu_core::card::Pan;
use warifu_core::custody::KeyProof;
use warifu_core::frame::SealedFrame;
use warifu_core::merchant::{BdkId, MerchantId};
use warifu_core::token::Token;
use warifu_hsm::software::{SoftwareHsm, SoftwareSlot};
use warifu_hsm::{
    CallTally, Fingerprint, Hsm, HsmError, HsmFactory, Opened, SealedPan, Signature, VaultGeneration, WrappedVaultKey,
};

use super::bdks;

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It panics.
    Panic,
    /// The HSM is away.
    Outage,
    /// The HSM is back and does not take the PIN any more.
    PinRefused,
}

/// Sessions of one software slot, all under one observation.
pub(crate) struct Watched {
    slot: SoftwareSlot,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    calls: Mutex<BTreeMap<String, u32>>,
    /// Calls no session accounts for.
    unaccounted: Mutex<CallTally>,
    /// What happens at the next calls of these names.
    faults: Mutex<VecDeque<(&'static str, Fault)>>,
    /// The numbers the generator gives, as long as there are any.
    random: Mutex<VecDeque<u8>>,
}

struct Session {
    inner: SoftwareHsm,
    seen: Arc<Seen>,
    tally: CallTally,
}

impl Watched {
    pub(crate) fn new() -> Self {
        Self { slot: SoftwareSlot::new(bdks()).unwrap(), seen: Arc::default() }
    }

    /// Lets the next call of this name fail.
    pub(crate) fn fail_next(&self, call: &'static str, fault: Fault) {
        self.seen.faults.lock().unwrap().push_back((call, fault));
    }

    /// Lets the next draws of the generator come out as this byte repeated, one each.
    pub(crate) fn draw_next(&self, draws: &[u8]) {
        self.seen.random.lock().unwrap().extend(draws);
    }

    /// All calls so far, by name.
    pub(crate) fn calls(&self) -> BTreeMap<String, u32> {
        self.seen.calls.lock().unwrap().clone()
    }

    /// How often it was asked to open a frame.
    pub(crate) fn opened(&self) -> u32 {
        self.calls().get("open").copied().unwrap_or(0)
    }

    /// A session that is not seen: another process's.
    pub(crate) fn unseen(&self) -> SoftwareHsm {
        self.slot.session()
    }

    /// A vault key, made without being seen: another process registers merchants.
    pub(crate) fn vault_key(&self, generation: VaultGeneration) -> WrappedVaultKey {
        self.slot.session().create_vault_key(generation).unwrap()
    }
}

impl Seen {
    fn call(&self, name: &'static str, tally: &mut CallTally) -> Result<(), HsmError> {
        *self.calls.lock().unwrap().entry(name.to_owned()).or_default() += 1;
        tally.count(name);
        let fault = {
            let mut faults = self.faults.lock().unwrap();
            let at = faults.iter().position(|(call, _)| *call == name);
            at.and_then(|at| faults.remove(at))
        };
        match fault {
            None => Ok(()),
            Some((_, Fault::Panic)) => panic!("the HSM's library panicked"),
            Some((_, Fault::Outage)) => {
                Err(HsmError::Pkcs11 { function: "C_Test", ckr: "CKR_DEVICE_ERROR", code: 0x30 })
            }
            Some((_, Fault::PinRefused)) => Err(HsmError::PinRefused { ckr: "CKR_PIN_INCORRECT", code: 0xA0 }),
        }
    }
}

impl HsmFactory for Watched {
    fn session(&self) -> Result<Box<dyn Hsm>, HsmError> {
        let mut tally = CallTally::default();
        let opened = self.seen.call("session", &mut tally);
        if let Err(error) = opened {
            self.seen.unaccounted.lock().unwrap().add(&tally);
            return Err(error);
        }
        Ok(Box::new(Session { inner: self.slot.session(), seen: Arc::clone(&self.seen), tally }))
    }

    fn take_calls(&self) -> CallTally {
        self.seen.unaccounted.lock().unwrap().take()
    }
}

impl Session {
    fn call(&mut self, name: &'static str) -> Result<(), HsmError> {
        self.seen.call(name, &mut self.tally)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.call("close");
        self.seen.unaccounted.lock().unwrap().add(&self.tally);
    }
}

impl Hsm for Session {
    fn open(&mut self, bdk: &BdkId, frame: &SealedFrame) -> Result<Opened, HsmError> {
        self.call("open")?;
        self.inner.open(bdk, frame)
    }

    fn fingerprint(
        &mut self,
        generation: VaultGeneration,
        merchant: &MerchantId,
        pan: &Pan,
    ) -> Result<Fingerprint, HsmError> {
        self.call("fingerprint")?;
        self.inner.fingerprint(generation, merchant, pan)
    }

    fn fingerprint_proof(&mut self, generation: VaultGeneration) -> Result<KeyProof, HsmError> {
        self.call("fingerprint_proof")?;
        self.inner.fingerprint_proof(generation)
    }

    fn create_vault_key(&mut self, generation: VaultGeneration) -> Result<WrappedVaultKey, HsmError> {
        self.call("create_vault_key")?;
        self.inner.create_vault_key(generation)
    }

    fn seal(
        &mut self,
        vault_key: &WrappedVaultKey,
        merchant: &MerchantId,
        token: &Token,
        pan: &Pan,
    ) -> Result<SealedPan, HsmError> {
        self.call("seal")?;
        self.inner.seal(vault_key, merchant, token, pan)
    }

    fn unseal(
        &mut self,
        vault_key: &WrappedVaultKey,
        merchant: &MerchantId,
        token: &Token,
        sealed: &SealedPan,
    ) -> Result<Pan, HsmError> {
        self.call("unseal")?;
        self.inner.unseal(vault_key, merchant, token, sealed)
    }

    fn sign(&mut self, message: &[u8]) -> Result<Signature, HsmError> {
        self.call("sign")?;
        self.inner.sign(message)
    }

    fn audit_public_key(&mut self) -> Result<[u8; 65], HsmError> {
        self.call("audit_public_key")?;
        self.inner.audit_public_key()
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), HsmError> {
        self.call("random")?;
        match self.seen.random.lock().unwrap().pop_front() {
            Some(draw) => out.fill(draw),
            None => self.inner.random(out)?,
        }
        Ok(())
    }

    fn take_calls(&mut self) -> CallTally {
        self.tally.take()
    }
}
