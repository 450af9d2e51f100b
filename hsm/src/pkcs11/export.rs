//! A device's initial key, out of the slot and into a key block: for the facility that injects it, or for the device itself,
//! under its update key.
//!
//! The initial key is in this process for the moment it takes to seal it, as are the two keys the protection key derives:
//! PKCS#11 has no mechanism that makes a key block. Base derivation keys and protection key stay in the slot. A slot that
//! enforces non-extractable derivation lets no initial key out at all.

use warifu_core::custody::{KBPK_PROOF_DATA, KeyProof};
use warifu_core::dukpt::tdes;
use warifu_core::kcv::Kcv;
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::key_block::{
    Algorithm, Exportability, Header, KeyBlock, Material, Mode, OptionalBlock, PaddingLen, Protection, Usage, Version,
    WrapError,
};
use warifu_core::ksn::{Ksn, Scheme};
use warifu_core::merchant::BdkId;
use warifu_core::secret::SecretBytes;

use super::mechanism::Mechanism;
use super::objects::{self, BdkObjects};
use super::raw::Handle;
use super::session::HsmSession;
use super::slot::Slot;
use super::{derive, tdes_ik};
use crate::{BdkSpec, HsmError};

/// A key block protection key a slot holds: AES, for blocks of version D.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KbpkSpec {
    /// Its name; the slot object's label follows from it ([`super::kbpk_label`]).
    pub id: BdkId,
    /// Its length.
    pub len: KeyLen,
    /// What it was registered with; another key under the label is refused.
    pub proof: KeyProof,
}

impl Slot {
    /// What tells a key block protection key from every other one, and its key check value.
    pub fn identify_kbpk(&self, id: &BdkId, len: KeyLen) -> Result<(KeyProof, Kcv), HsmError> {
        let session = self.plain_session()?;
        let kbpk = find(&session, id, len)?;
        let [a, b, c, d, e, ..] = cmac(&session, kbpk, &[0; 16])?;
        Ok((proof(&session, kbpk)?, Kcv::Cmac([a, b, c, d, e])))
    }

    /// The initial key of a device in a key block of version D: usage B1, for derivation only, not to be exported again,
    /// with its check value and its key serial number or id.
    ///
    /// # Errors
    /// [`HsmError::KeyReplaced`] if another key is in the protection key's place, [`HsmError::KeyBlock`] if it is weaker
    /// than the initial key, [`HsmError::Pkcs11`] where the slot lets no derived key out.
    pub fn export_initial_key(&self, bdk: &BdkSpec, ksn: &Ksn, kbpk: &KbpkSpec) -> Result<KeyBlock, HsmError> {
        self.exported(|session| {
            let protection_key = find(session, &kbpk.id, kbpk.len)?;
            let found = proof(session, protection_key)?;
            if found != kbpk.proof {
                let label = objects::kbpk_label(&kbpk.id);
                return Err(HsmError::KeyReplaced { label, found, registered: kbpk.proof, is: None });
            }
            export(session, bdk, ksn, protection_key, kbpk.len)
        })
    }

    /// The initial key a device is to change to, in a key block that only the device can open: under the update key of the
    /// initial key it has (X9.24-3:2017 6.5.3), which comes of `old` and never leaves the slot.
    ///
    /// # Errors
    /// [`HsmError::SuiteMismatch`] unless both keys are of AES DUKPT; else as [`Slot::export_initial_key`].
    pub fn export_update(
        &self,
        (old, old_ksn): (&BdkSpec, &Ksn),
        (new, new_ksn): (&BdkSpec, &Ksn),
    ) -> Result<KeyBlock, HsmError> {
        self.exported(|session| match (bdk_object(session, old)?, old_ksn) {
            (BdkObjects::Aes(bdk), Ksn::Aes(ksn)) if new.scheme == Scheme::Aes => {
                let update_key = derive::update_key(session, bdk, old.len, ksn)?;
                export(session, new, new_ksn, *update_key, old.len)
            }
            _ => Err(HsmError::SuiteMismatch(old.id.clone())),
        })
    }

    /// What was derived is destroyed, whatever came of it.
    fn exported(&self, seal: impl FnOnce(&HsmSession) -> Result<KeyBlock, HsmError>) -> Result<KeyBlock, HsmError> {
        let session = self.plain_session()?;
        let sealed = seal(&session);
        let swept = session.sweep();
        let block = sealed?;
        swept.map(|()| block)
    }
}

/// A base derivation key, which must be the registered one.
fn bdk_object(session: &HsmSession, bdk: &BdkSpec) -> Result<BdkObjects, HsmError> {
    let objects = {
        let _lookups = session.slot().module().lookups();
        objects::bdk(session, bdk)?
    };
    if let Some(registered) = bdk.proof {
        let found = super::proof::of(session, &objects)?;
        if found != registered {
            return Err(HsmError::KeyReplaced { label: objects::bdk_label(&bdk.id), found, registered, is: None });
        }
    }
    Ok(objects)
}

fn export(
    session: &HsmSession,
    bdk: &BdkSpec,
    ksn: &Ksn,
    protection_key: Handle,
    len: KeyLen,
) -> Result<KeyBlock, HsmError> {
    let objects = bdk_object(session, bdk)?;
    let (key, algorithm, which) = match (&objects, ksn) {
        (BdkObjects::Aes(bdk_object), Ksn::Aes(ksn)) => {
            let key = derive::exported_initial_key(session, *bdk_object, bdk.len, ksn)?;
            (key, Algorithm::Aes, OptionalBlock::initial_key_id(ksn.ik_id()))
        }
        (BdkObjects::Tdes { left, right }, Ksn::Tdes(ksn)) => {
            let key = tdes_ik::initial_key(session, *left, *right, ksn)?;
            (key, Algorithm::Tdes, OptionalBlock::key_serial_number(ksn))
        }
        (BdkObjects::Aes(_), Ksn::Tdes(_)) | (BdkObjects::Tdes { .. }, Ksn::Aes(_)) => {
            return Err(HsmError::SuiteMismatch(bdk.id.clone()));
        }
    };
    debug_assert!(bdk.scheme == Scheme::Aes || key.key_len() == tdes::KEY_LEN);
    seal(session, bdk.scheme, key, algorithm, which, protection_key, len)
}

fn seal(
    session: &HsmSession,
    scheme: Scheme,
    key: KeyBytes,
    algorithm: Algorithm,
    which: OptionalBlock,
    protection_key: Handle,
    len: KeyLen,
) -> Result<KeyBlock, HsmError> {
    let not_standard = |warning| HsmError::KeyBlock(WrapError::NotStandard(warning));
    let header = Header::new(Version::D, Usage::InitialKey, algorithm, Mode::Derive, Exportability::Never)
        .and_then(|header| header.with(OptionalBlock::key_check_value(Kcv::of_bdk(scheme, &key))))
        .and_then(|header| header.with(which))
        .map_err(not_standard)?;
    let cmac = |message: &[u8; 8], out: &mut [u8]| session.sign(Mechanism::AesCmac, protection_key, message, out);
    let protection = Protection::derived(Version::D, len, cmac).map_err(|error| match error {
        warifu_core::key_block::protection::DerivationError::Cmac(error) => error,
        warifu_core::key_block::protection::DerivationError::Protection(_) => {
            HsmError::SelfTest("a key block of version D is protected by an AES key")
        }
    })?;
    let material = Material::new(SecretBytes::copied(key.expose()))
        .map_err(|_| HsmError::SelfTest("an initial key is a key of whole bytes"))?;
    drop(key);
    let mut padding = vec![0; PaddingLen::Hiding.of(Version::D, algorithm, &material)];
    session.generate_random(&mut padding)?;
    KeyBlock::wrap(&header, &material, &protection, &padding).map_err(HsmError::KeyBlock)
}

fn find(session: &HsmSession, id: &BdkId, len: KeyLen) -> Result<Handle, HsmError> {
    let _lookups = session.slot().module().lookups();
    objects::kbpk(session, id, len)
}

fn proof(session: &HsmSession, kbpk: Handle) -> Result<KeyProof, HsmError> {
    cmac(session, kbpk, &KBPK_PROOF_DATA).map(KeyProof)
}

fn cmac(session: &HsmSession, kbpk: Handle, message: &[u8; 16]) -> Result<[u8; 16], HsmError> {
    let mut mac = [0; 16];
    session.sign(Mechanism::AesCmac, kbpk, message, &mut mac)?;
    Ok(mac)
}
