//! A base derivation key that came into being inside the slot, and is not kept yet.

use cryptoki_sys::{CKA_DERIVE, CKA_TOKEN, CKA_VALUE_LEN, CKK_AES};
use warifu_core::custody::KeyProof;
use warifu_core::kcv::Kcv;
use warifu_core::ksn::Scheme;
use warifu_core::merchant::BdkId;

use super::mechanism::Mechanism;
use super::objects::{BdkObjects, bdk_label};
use super::proof;
use super::session::{HsmSession, SessionObject};
use super::slot::Slot;
use super::template::{Attribute, Exposure, Life, secret_key, ulong};
use crate::{BdkSpec, HsmError};

/// A new key. It dies with this value unless it is kept: nothing is left of what was not finished.
pub struct NewBdk {
    id: BdkId,
    /// Declared before the session, with which it dies.
    object: SessionObject,
    session: HsmSession,
}

impl Slot {
    /// Has the slot make a base derivation key for AES DUKPT.
    ///
    /// # Errors
    /// [`HsmError::KeyUnfit`] for TDES: PKCS#11 has no mechanism that makes the second form of such a key from the first
    /// inside the slot.
    pub fn generate_bdk(&self, spec: &BdkSpec) -> Result<NewBdk, HsmError> {
        if spec.scheme == Scheme::Tdes {
            let reason = "the slot cannot make the second form of a TDES key: make it of components";
            return Err(HsmError::KeyUnfit { label: bdk_label(&spec.id), reason });
        }
        let session = self.writing_session()?;
        let mut template = secret_key(CKK_AES, Life::Session, Exposure::Never, &[CKA_DERIVE]).to_vec();
        template.push(Attribute::number(CKA_VALUE_LEN, ulong(spec.len.bytes())));
        let object = session.generate_key(Mechanism::AesKeyGen, &template)?;
        Ok(NewBdk { id: spec.id.clone(), object: session.own(object), session })
    }
}

impl NewBdk {
    pub(super) const fn combined(id: BdkId, object: SessionObject, session: HsmSession) -> Self {
        Self { id, object, session }
    }

    /// As [`Slot::identify`].
    pub fn identify(&self) -> Result<(KeyProof, Vec<Kcv>), HsmError> {
        let bdk = BdkObjects::Aes(*self.object);
        let identified =
            proof::of(&self.session, &bdk).and_then(|proof| Ok((proof, proof::check_values(&self.session, &bdk)?)));
        let swept = self.session.sweep();
        let identity = identified?;
        swept.map(|()| identity)
    }

    /// Whether this is its check value, of either kind that is on paper; `None` where the slot shows none.
    pub fn has_check_value(&self, stated: &str) -> Result<Option<bool>, HsmError> {
        let shown = proof::check_values(&self.session, &BdkObjects::Aes(*self.object));
        let swept = self.session.sweep();
        let shown = shown?;
        let any = || shown.iter().any(|kcv| stated.eq_ignore_ascii_case(&kcv.to_string()));
        swept.map(|()| (!shown.is_empty()).then(any))
    }

    /// Makes it a resident object under its label.
    ///
    /// # Errors
    /// When the slot refuses: then it holds nothing of the key.
    pub fn keep(self) -> Result<(), HsmError> {
        let label = bdk_label(&self.id);
        let _lookups = self.session.slot().module().lookups();
        self.session.copy(*self.object, &[Attribute::flag(CKA_TOKEN, true), Attribute::label(&label)]).map(drop)
    }
}
